"""`sidegate-operator run`: options to settings."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from sidegate import __version__
from sidegate_operator.credentials import ACCOUNT_DIR, Credentials, CredentialsError
from sidegate_operator.gateway.settings import GatewaySettings
from sidegate_operator.lease import Terms
from sidegate_operator.logs import LogForm, set_up_logs
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.settings import Settings

_HELP: Final = """Keep every gate's rules, and the objects around each target, as the resources of the cluster say.

Several run beside each other; the one that holds the Lease leads, the others stand by. All of them serve gates.
Ends on SIGTERM, and gives the Lease back.

Options can be given by the environment too: SIDEGATE_OPERATOR_ and the option's name, as in SIDEGATE_OPERATOR_GATE_IMAGE.

\b
EXAMPLES
  In a pod, as the chart does it:
    sidegate-operator run --gate-image registry.example/gate@sha256:... \\
        --gateway-url https://sidegate-gateway.sidegate-system.svc:8444
  Beside a cluster:
    sidegate-operator run --kubeconfig admin.kubeconfig --namespace sidegate-system \\
        --health 127.0.0.1:8080 --log-format text --gate-image ...

\b
ON THE HEALTH PORT
  /healthz   503: a watch gave no sign of life for too long; a restart mends that
  /readyz    503: a line for each thing that is wrong, with the way forward
  /metrics   for Prometheus

\b
EXIT STATUS
  0  ended as told
  1  the Lease was lost, or a watch went blind: start it again, it stands by
  2  it can't start
"""


class StartFailure(click.ClickException):
    exit_code = 2

    def __init__(self, problem: object, way_forward: str) -> None:
        super().__init__(f"{problem}; fix: {way_forward}")

    def show(self, file: object = None) -> None:
        click.echo(f"sidegate-operator: {self.message}", err=True)


@click.command(
    "run",
    context_settings={"auto_envvar_prefix": "SIDEGATE_OPERATOR"},
    help=_HELP,
    short_help="lead, or stand by: keep gates and targets as the cluster's resources say",
)
@click.option(
    "--gate-image",
    required=True,
    metavar="IMAGE@DIGEST",
    help="Image of the gates that aren't given another one, pinned by digest.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Kubeconfig with a token or a client certificate. Default: the pod's service account.",
)
@click.option("--namespace", metavar="NAME", help="The operator's own namespace. Default: the pod's.")
@click.option(
    "--lease", default="sidegate-operator", show_default=True, metavar="NAME", help="Name of the Lease that the leader holds."
)
@click.option(
    "--lease-seconds",
    type=click.IntRange(3, 3600),
    default=15,
    show_default=True,
    metavar="N",
    help="How long the Lease lasts; a leader that can't renew it ends after two thirds of that.",
)
@click.option(
    "--health", default="0.0.0.0:8080", show_default=True, metavar="HOST:PORT", help="Where health and metrics are served."
)
@click.option(
    "--gateway-url",
    "gateway_url",
    default="",
    envvar=["SIDEGATE_OPERATOR_GATEWAY_URL", "SIDEGATE_GATEWAY"],
    metavar="URL",
    help="Where gates reach the gateway, as in https://sidegate-gateway.sidegate-system.svc:8444; all replicas and the webhook get "
    "the same. Default: there is no gateway; gates report nothing, and hold nothing.",
)
@click.option("--gateway", default="0.0.0.0:8444", show_default=True, metavar="HOST:PORT", help="Where the gateway listens.")
@click.option(
    "--webhook-url",
    default="",
    metavar="URL",
    help="Where the API server calls admission, if not by its Service: guards are compared with that.",
)
@click.option(
    "--guards-every",
    type=click.FloatRange(0.1, 3600),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How often it is looked whether decisions are guarded.",
)
@click.option(
    "--certificates-every",
    type=click.FloatRange(0.1, 3600),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="How often the gateway's certificates are looked after.",
)
@click.option(
    "--scrapers", multiple=True, metavar="NAMESPACE", help="A namespace that may read the metrics of gates; repeatable."
)
@click.option(
    "--replicas",
    type=click.IntRange(1, 100),
    default=2,
    show_default=True,
    metavar="N",
    help="Gates of each target outside the cluster.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    metavar="N",
    help="How many targets are worked on together.",
)
@click.option(
    "--log-format",
    type=click.Choice([each.value for each in LogForm]),
    default=LogForm.JSON.value,
    show_default=True,
    help="JSON lines, or text for people.",
)
def run(
    gate_image: str,
    kubeconfig: Path | None,
    namespace: str | None,
    lease: str,
    lease_seconds: int,
    health: str,
    gateway_url: str,
    gateway: str,
    webhook_url: str,
    guards_every: float,
    certificates_every: float,
    scrapers: tuple[str, ...],
    replicas: int,
    workers: int,
    log_format: str,
) -> None:
    set_up_logs(LogForm(log_format))
    host, port = _address(health, "0.0.0.0:8080")
    listen_host, listen_port = _address(gateway, "0.0.0.0:8444")
    served = None
    if gateway_url:
        names = (_host_of(gateway_url),)
        served = GatewaySettings(
            listen_host,
            listen_port,
            names,
            every_s=certificates_every,
            guards_every_s=guards_every,
            webhook_url=webhook_url.rstrip("/"),
        )
    try:
        gate = GateSettings(
            image=gate_image,
            version=__version__,
            gateway=gateway_url,
            replicas=replicas,
            scrapers=tuple(sorted(set(scrapers))),
        )
    except ValueError as problem:
        raise StartFailure(problem, "give --gate-image by digest") from problem
    try:
        credentials = Credentials.from_kubeconfig(kubeconfig) if kubeconfig else Credentials.in_cluster(os.environ)
        own = namespace or _own_namespace()
    except CredentialsError as problem:
        raise StartFailure(problem, problem.way_forward) from problem
    settings = Settings(
        namespace=own,
        identity=f"{socket.gethostname()}_{uuid.uuid4()}",
        gate=gate,
        gateway=served,
        lease=lease,
        terms=Terms(float(lease_seconds), lease_seconds * 2 / 3, lease_seconds * 2 / 15),
        health_host=host,
        health_port=port,
        workers=workers,
    )
    from sidegate_operator.process import run as run_process  # kopf and all that it brings: only this command needs it

    try:
        raise SystemExit(asyncio.run(run_process(settings, credentials)))
    except OSError as problem:
        raise StartFailure(f"an address can't be listened on: {problem}", "give another --health or --gateway") from problem


def _address(text: str, example: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise StartFailure(f"`{text}` isn't an address", f"write HOST:PORT, as in {example}")
    return host.strip("[]"), int(port)


def _host_of(url: str) -> str:
    """What gates verify the gateway's certificate against."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise StartFailure(f"`{url}` isn't where gates could reach the gateway", "give --gateway-url as https://HOST:PORT")
    return parts.hostname


def _own_namespace() -> str:
    try:
        return (ACCOUNT_DIR / "namespace").read_text("ascii").strip()
    except OSError:
        raise CredentialsError("this process runs in no pod, so it has no namespace of its own", "give --namespace") from None
