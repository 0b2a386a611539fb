"""Tell the operator's gateway what this gate enforces: every replica, at once when it changes, and again as each answer says.

Rules it keeps: nothing that happens here ends the gate, or changes what it enforces; a gate that can't report goes on, warns on `/ready`
and in the metrics, and its holds fail by themselves. All replicas are told at the same time, each on a connection of its own.

Left out: holds (`approval.gateway`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from sidegate.approval.gateway_client import Address, GatewayClient, GatewayError
from sidegate.gateway.http import Answer, PlaceError, path_of
from sidegate.gateway.messages import REPORT_EVERY_S, Problem, Report, ReportAnswer
from sidegate.mask.plain import plain
from sidegate.runtime import clock
from sidegate.runtime.health import Health
from sidegate.runtime.metrics import Metrics

log = logging.getLogger("sidegate.gateway")

SOONEST_S: Final = 1.0
LATEST_S: Final = 60.0
LAST_REPORT_S: Final = 2.0
MAX_PROBLEM: Final = 1024
_NEED: Final = "approvals"


class GatewayReports:
    """`target()` is `NAMESPACE/NAME`, None while the gate doesn't know whose gate it is. `report()` is what it enforces now."""

    def __init__(
        self,
        client: GatewayClient,
        target: Callable[[], str | None],
        report: Callable[[], Report],
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._client = client
        self._target = target
        self._report = report
        self._health = health
        self._metrics = metrics
        self._poked = asyncio.Event()
        self._said = ""
        metrics.reports_to_gateway(clock.now())

    def poke(self) -> None:
        """Something changed: report now."""
        self._poked.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._poked.clear()
            next_s = float(REPORT_EVERY_S)
            try:
                next_s = await self._report_to_all()
            except Exception:  # whatever it is: the gate enforces on
                log.exception("reporting to the gateway failed")
                self._failed("it can't report, see its log")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poked.wait(), next_s)

    async def report_last(self) -> None:
        """That it drains; for as long as a stop can wait for it."""
        with contextlib.suppress(Exception):  # it is on its way out, and the gateway will miss it by itself
            async with asyncio.timeout(LAST_REPORT_S):
                await self._report_to_all()

    async def _report_to_all(self) -> float:
        """Seconds until the next."""
        target = self._target()
        if target is None:
            self._failed("it doesn't know whose gate it is before it has a config")
            return SOONEST_S
        try:
            path = path_of("v1", "targets", *target.split("/", 1), "report")
            addresses = await self._client.addresses()
        except (GatewayError, PlaceError) as error:
            self._failed(f"{error}; {error.way_forward}")
            return float(REPORT_EVERY_S)
        body = msgspec.json.encode(self._report())
        answers = await asyncio.gather(*(self._report_to(each, path, body) for each in addresses))
        reached = [each for each in answers if isinstance(each, ReportAnswer)]
        problems = [each for each in answers if isinstance(each, str)]
        if not reached:
            self._failed(problems[0])
            return float(REPORT_EVERY_S)
        refusals = [each.problem or "no reason given" for each in reached if not each.can_hold]
        self._metrics.gateway_reported(clock.now(), can_hold=not refusals)
        if refusals:
            self._warn(f"the operator takes no new holds: {plain(refusals[0])[:MAX_PROBLEM]}")
        else:
            self._settle()
        return min(LATEST_S, max(SOONEST_S, min(each.next_s for each in reached)))

    async def _report_to(self, address: Address, path: str, body: bytes) -> ReportAnswer | str:
        try:
            answer = await self._client.exchange(address, "POST", path, body)
        except GatewayError as error:
            self._metrics.gateway_failures.add()
            return f"{error}; {error.way_forward}"
        if answer.status == 200:
            with contextlib.suppress(msgspec.DecodeError):
                return msgspec.json.decode(answer.body, type=ReportAnswer)
        self._metrics.gateway_failures.add()
        return _refusal(self._client, answer)

    def _failed(self, problem: str) -> None:
        self._warn(f"statements that need approval are refused: {problem}")

    def _warn(self, words: str) -> None:
        self._health.warn(_NEED, words)
        if words != self._said:
            self._said = words
            log.warning("%s", words)

    def _settle(self) -> None:
        self._health.settled(_NEED)
        if self._said:
            self._said = ""
            log.info("the gateway takes reports and holds")


def _refusal(client: GatewayClient, answer: Answer) -> str:
    try:
        problem = msgspec.json.decode(answer.body, type=Problem)
    except msgspec.DecodeError:
        return f"{client.place} answers a report with {answer.status}; see what the operator logs"
    said, way = plain(problem.detail or problem.title)[:300], plain(problem.way_forward)[:300]
    return f"{client.place} refuses reports: {said} ({answer.status}){f'; {way}' if way else ''}"
