"""`sidegate-operator webhook`: the process that answers the API server's admission reviews. Several run beside each other.

It holds nothing that another replica needs: certificates are in a Secret, decisions follow from the review and the API server.
Left out: everything that watches; the operator does that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

from sidegate import __version__
from sidegate_operator import clock
from sidegate_operator.api_client import ApiClient, ApiError
from sidegate_operator.credentials import ACCOUNT_DIR, Credentials, CredentialsError
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.serving.authority import Held, Lifetimes
from sidegate_operator.serving.tls import listening_context, load_chain
from sidegate_operator.webhook.certificates import CertificateKeeper, Places
from sidegate_operator.webhook.decide_approval import Seal
from sidegate_operator.webhook.deciders import deciders
from sidegate_operator.webhook.decision_key import DecisionKey, fetch_decision_key
from sidegate_operator.webhook.server import Admission, Limits, Metrics, serve

LOG: Final = logging.getLogger(__name__)
_API_TIMEOUT_S: Final = 3.0  # within the budget of one review
_FIRST_RETRY_S: Final = 1.0
_READINESS_KEPT_S: Final = 1.0

_HELP: Final = """Answer the API server's admission reviews: inject gates, check policies, stamp decisions.

Makes its own certificates, keeps them in a Secret that all replicas share, and writes the authority into the webhook configurations.
Ready as soon as these trust it. Ends on SIGTERM, when the reviews in flight are answered.

\b
EXAMPLES
  In a pod, as the chart does it:
    sidegate-operator webhook --gate-image registry.example/gate@sha256:...
  Beside a cluster, called by URL:
    sidegate-operator webhook --kubeconfig admin.kubeconfig \\
        --gate-image registry.example/gate@sha256:... \\
        --namespace sidegate-system --listen 127.0.0.1:9443 --name 127.0.0.1

\b
EXIT STATUS
  0  ended as told
  2  it can't start
"""


@dataclass(frozen=True, slots=True)
class Settings:
    places: Places
    gate: GateSettings
    host: str
    port: int
    client_authority: str | None = None
    interval_s: float = 15.0
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    limits: Limits = field(default_factory=Limits)


@dataclass(slots=True)
class Serving:
    """The certificate that handshakes get, and whether the API server trusts it."""

    keeper: CertificateKeeper
    tls_of: Held | None = None
    key: DecisionKey | None = None
    is_trusted: bool = False
    _asked_at: float = float("-inf")

    async def readiness(self) -> str | None:
        """Asks the API server, at most once a second. When it can't be asked, what it said last counts: it can't call us either."""
        at = asyncio.get_running_loop().time()
        if at - self._asked_at >= _READINESS_KEPT_S:
            self._asked_at = at
            try:
                self.is_trusted = await self.keeper.is_mine(self.tls_of)
            except ApiError as error:
                LOG.warning("readiness: %s", error)
        return None if self.is_trusted else "not every webhook configuration trusts my authority yet"

    def seal(self) -> Seal | None:
        """Signs with the newest key; None while there is none."""
        return self.key.seal if self.key is not None else None


async def run(api: ApiClient, settings: Settings, stop: asyncio.Event) -> None:
    """Until `stop` is set."""
    serving = Serving(CertificateKeeper(api, settings.places, settings.lifetimes))
    tls = listening_context(settings.client_authority)
    metrics = Metrics()

    async def refresh() -> None:
        held = await serving.keeper.keep(clock.now())
        if held.serving != (serving.tls_of.serving if serving.tls_of else None):
            load_chain(tls, held.serving.certificate, held.serving.key)
        serving.tls_of = held
        metrics.certificate_ends.set(held.serving.not_after)
        try:
            serving.key = await fetch_decision_key(api, settings.places.namespace)
        except ApiError as error:  # pods get their gates all the same; without any key, decisions are refused
            LOG.warning("the key for decisions: %s; fix: %s", error, error.way_forward)

    async def refresh_again_and_again() -> None:
        while True:
            await asyncio.sleep(settings.interval_s)
            try:
                await refresh()
            except ApiError as error:
                LOG.warning("certificates: %s; fix: %s", error, error.way_forward)
            except Exception:
                # INVARIANT: nothing ends the looking after, for nobody would notice until a certificate is over.
                LOG.exception("certificates: unexpected; trying again")

    while serving.tls_of is None:
        try:
            await refresh()
        except ApiError as error:
            LOG.warning("no certificate yet: %s; fix: %s", error, error.way_forward)
            if await _is_set_within(stop, _FIRST_RETRY_S):
                return
    admission = Admission(
        deciders(api, settings.places.namespace, clock.now, serving.seal, settings.gate),
        serving.readiness,
        settings.limits,
        metrics,
        needs_client_certificate=settings.client_authority is not None,
    )
    refreshing = asyncio.create_task(refresh_again_and_again())
    try:
        await serve(
            admission, tls, settings.host, settings.port, stop, on_listening=lambda port: LOG.info("listening on %s", port)
        )
    finally:
        refreshing.cancel()
        await asyncio.gather(refreshing, return_exceptions=True)


async def _is_set_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True


@click.command("webhook", help=_HELP, short_help="answer the API server's admission reviews")
@click.option("--listen", default=":8443", show_default=True, metavar="[HOST]:PORT", help="where to listen")
@click.option("--namespace", metavar="NAME", help="the namespace that Sidegate lives in; default: the pod's own")
@click.option("--service", default="sidegate-webhook", show_default=True, metavar="NAME", help="the Service that leads here")
@click.option("--name", "names", multiple=True, metavar="NAME", help="another DNS name or address that leads here; repeatable")
@click.option(
    "--gate-image",
    required=True,
    envvar="SIDEGATE_GATE_IMAGE",
    metavar="IMAGE",
    help="what gates run, with its digest; also SIDEGATE_GATE_IMAGE",
)
@click.option(
    "--redirect-image",
    default="",
    envvar="SIDEGATE_REDIRECT_IMAGE",
    metavar="IMAGE",
    help="what sets redirection up in pods of targets that ask for it, with its digest; default: none may; also SIDEGATE_REDIRECT_IMAGE",
)
@click.option(
    "--gateway-url",
    "--gateway",
    "gateway",
    default="",
    envvar="SIDEGATE_GATEWAY",
    metavar="URL",
    help="where gates reach the operator; also SIDEGATE_GATEWAY",
)
@click.option(
    "--secret", default="sidegate-webhook-certificates", show_default=True, metavar="NAME", help="where certificates are kept"
)
@click.option(
    "--client-authority",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="decide reviews only for clients with a certificate of this authority; default: for everyone",
)
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE", help="default: as a pod"
)
@click.option("--interval", default=15.0, show_default=True, metavar="SECONDS", help="how often certificates are looked after")
@click.option(
    "--settle", default=60.0, show_default=True, metavar="SECONDS", help="how long a new authority is trusted before it is used"
)
@click.option("--overlap", default=600.0, show_default=True, metavar="SECONDS", help="how long an old authority stays trusted")
@click.option("--leave", default=5.0, show_default=True, metavar="SECONDS", help="how long to go on listening when told to end")
def webhook(
    *,
    listen: str,
    namespace: str | None,
    service: str,
    names: tuple[str, ...],
    gate_image: str,
    redirect_image: str,
    gateway: str,
    secret: str,
    client_authority: Path | None,
    kubeconfig: Path | None,
    interval: float,
    settle: float,
    overlap: float,
    leave: float,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    host, _, port = listen.rpartition(":")
    if not port.isdigit():
        raise click.BadParameter(f"`{listen}` is not [HOST]:PORT", param_hint="--listen")
    own = namespace or _own_namespace()
    if own is None:
        raise click.UsageError("give --namespace: this is no pod that has one")
    try:
        gate = GateSettings(gate_image, __version__, gateway, redirect_image=redirect_image)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--gate-image or --redirect-image") from error
    settings = Settings(
        Places(own, secret, (f"{service}.{own}.svc", *names)),
        gate,
        host.strip("[]") or "0.0.0.0",  # noqa: S104 - a pod's listener is for the pod's network
        int(port),
        client_authority.read_text("ascii") if client_authority else None,
        interval,
        Lifetimes(settle_s=settle, overlap_s=overlap),
        Limits(leaving_s=leave),
    )
    try:
        credentials = Credentials.from_kubeconfig(kubeconfig) if kubeconfig else Credentials.in_cluster(os.environ)
    except CredentialsError as error:
        raise click.UsageError(f"{error}; fix: {error.way_forward}") from error
    asyncio.run(_main(ApiClient(credentials, _API_TIMEOUT_S), settings))


async def _main(api: ApiClient, settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with api:
        await run(api, settings, stop)


def _own_namespace() -> str | None:
    file = ACCOUNT_DIR / "namespace"
    return file.read_text("utf-8").strip() if file.exists() else None


if __name__ == "__main__":
    webhook()
