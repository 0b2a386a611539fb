"""The gateway as it runs beside watching, in every replica: certificates, guards, silence of gates, and the listener.

Rules it keeps: it listens once the stores hold every kind and there is a certificate; it ends when it is told to, or is cancelled; what
looks after certificates never ends because of an error.

Left out: what each part does.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sidegate_operator.api_client import ApiError
from sidegate_operator.apply import Writer
from sidegate_operator.cluster import Cluster
from sidegate_operator.gateway.authentication import Authentication
from sidegate_operator.gateway.certificates import GateBundles
from sidegate_operator.gateway.guarding import Guarding
from sidegate_operator.gateway.reports import Reports
from sidegate_operator.gateway.server import Gateway
from sidegate_operator.gateway.service import Service
from sidegate_operator.gateway.settings import GatewaySettings
from sidegate_operator.gateway.waiting import Waiting
from sidegate_operator.resources import APPROVAL_REQUESTS, CONFIG_MAPS
from sidegate_operator.serving.authority import Held
from sidegate_operator.serving.keeper import SecretKeeper
from sidegate_operator.serving.tls import listening_context, load_chain
from sidegate_operator.store import Change, Key

LOG: Final = logging.getLogger(__name__)
_FIRST_RETRY_S: Final = 1.0
_SWEEP_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the process gives it. `synced`: set when the stores hold every kind. `wake` has a target planned again, `wake_all` every one.
    `count`: an answer by action and status.
    """

    cluster: Cluster
    writer: Writer
    namespace: str
    now: Callable[[], float]
    elapsed: Callable[[], float]
    synced: Sequence[asyncio.Event]
    wake: Callable[[Key], None]
    wake_all: Callable[[], None]
    count: Callable[[str, int], None]


class RunningGateway:
    def __init__(self, settings: GatewaySettings, around: Surroundings) -> None:
        self._settings = settings
        self._around = around
        client = around.writer.client
        self._keeper: Final = SecretKeeper(
            client, around.namespace, settings.secret, settings.names, GateBundles(around.cluster), settings.lifetimes
        )
        self._held: Held | None = None
        self._tls: Final = listening_context(minimum=ssl.TLSVersion.TLSv1_3)
        self.guarding: Final = Guarding(client, around.namespace, settings.webhook_url, settings.guards_every_s, around.wake_all)
        self.reports: Final = Reports(around.elapsed())
        self.waiting: Final = Waiting()
        self.authentication: Final = Authentication(client.create, around.now, around.elapsed)
        self._gateway: Final = Gateway(
            Service(
                around.cluster,
                around.writer,
                around.namespace,
                around.now,
                around.elapsed,
                self.reports,
                self.waiting,
                lambda: self.guarding.unguarded,
                around.wake,
                settings.quota,
            ),
            self.authentication,
            settings.limits,
            around.count,
        )
        self.problem: str | None = "the gateway doesn't listen yet"

    # What the process asks

    def authority(self) -> str:
        """The PEM certificates that gates are to trust; empty while there are none."""
        return self._held.bundle.decode("ascii") if self._held is not None else ""

    def enforced(self, target: Key) -> dict[str, str]:
        return self.reports.enforced(target)

    def problems(self, target: Key) -> dict[str, str]:
        return self.reports.problems(target)

    def is_young(self) -> bool:
        return self.reports.is_young(self._around.elapsed())

    def unguarded(self) -> str | None:
        """As it goes into statuses; None before the first look."""
        return (self.guarding.unguarded or "") if self.guarding.looked.is_set() else None

    def heard(self, change: Change, decision_keys: Key) -> None:
        """A store changed."""
        if change.resource is APPROVAL_REQUESTS:
            self.waiting.wake(change.key)
        elif change.resource is CONFIG_MAPS and change.key == decision_keys:
            self.waiting.wake_all()

    # Running

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set.

        Raises:
            OSError: the address can't be had.
        """
        tasks = [
            asyncio.create_task(each, name=f"gateway {name}")
            for name, each in {"guards": self.guarding.run(), "certificates": self._keep(), "silence": self._sweep()}.items()
        ]
        try:
            await self._until_ready()
            async with self._gateway.listening(self._tls, self._settings.host, self._settings.port) as port:
                self.problem = None
                LOG.info("gateway on port %s as %s", port, ", ".join(f"`{each}`" for each in self._settings.names))
                await stop.wait()
                self.problem = "the gateway is ending"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_ready(self) -> None:
        await asyncio.gather(*(each.wait() for each in self._around.synced))
        while self._held is None:  # noqa: ASYNC110 - it takes as long as the Secret can't be read
            await asyncio.sleep(0.05)

    async def _keep(self) -> None:
        # Before the stores are filled it would seem that no gate trusts anything.
        await asyncio.gather(*(each.wait() for each in self._around.synced))
        while True:
            try:
                await self._refresh()
            except ApiError as problem:
                LOG.warning("gateway: certificates: %s; fix: %s", problem, problem.way_forward)
            except Exception:
                # INVARIANT: nothing ends the looking after, for nobody would notice until a certificate is over.
                LOG.exception("gateway: certificates: unexpected; trying again")
            await asyncio.sleep(self._settings.every_s if self._held is not None else _FIRST_RETRY_S)

    async def _refresh(self) -> None:
        before, held = self._held, await self._keeper.keep(self._around.now())
        if before is None or held.serving != before.serving:
            load_chain(self._tls, held.serving.certificate, held.serving.key)
        self._held = held
        if before is None or held.bundle != before.bundle:
            self._around.wake_all()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            now = self._around.elapsed()
            for target in self.reports.fallen_silent(now):
                self._around.wake(target)
            if self.reports.has_grown_up(now):
                self._around.wake_all()
