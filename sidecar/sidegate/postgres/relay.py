"""The asyncio shell of one session: two connections, the recorder, the approval back end, timers. It carries out what the
core says, in order.

INVARIANT: records, then audit events, then bytes for the target; at the first that fails the session ends and nothing after
it is sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, assert_never

from sidegate.approval.backend import ApprovalBackend, ApprovalUnavailable, HoldRequest, Phase, TooManyApprovals, Verdict
from sidegate.audit.events import Masked
from sidegate.audit.sinks import AuditError, AuditSink
from sidegate.policy.config import RecordingMode
from sidegate.policy.reason import Reason
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.duplex import Duplex
from sidegate.postgres.effects import (
    Action,
    CancelTarget,
    CatalogChanged,
    CloseSession,
    Effects,
    Hold,
    RefreshCatalog,
    ReportExecuted,
    WithdrawHold,
)
from sidegate.postgres.journal_writer import LATE_S, JournalWriter
from sidegate.postgres.session import Session
from sidegate.record.budget import RecordError
from sidegate.record.writer import SessionRecorder

log = logging.getLogger("sidegate.postgres")

T = TypeVar("T")

CUT_SHORT: Final = frozenset(
    reason.value for reason in Reason
)  # ends that the gate decided on; others are the client's or target's


class Meter(Protocol):
    """What the shell counts; the runtime's metrics implement it."""

    def relayed_bytes(self, side: str, count: int) -> None: ...
    def recorded_bytes(self, count: int) -> None: ...
    def recording_failed(self) -> None: ...
    def statement_decided(self, decision: str, kind: str, reason: str) -> None: ...
    def values_masked(self, source: str, count: int) -> None: ...
    def hold_began(self) -> None: ...
    def hold_ended(self, outcome: str, seconds: float) -> None: ...
    def session_began(self) -> None: ...
    def session_ended(self, outcome: str) -> None: ...


@dataclass(frozen=True, slots=True)
class RelayServices:
    """What a relay needs of the world. `read_catalog` brings a fresh catalog of the session's database, or None when it
    can't.
    """

    now: Callable[[], float]
    approvals: ApprovalBackend
    audit: AuditSink
    meter: Meter
    read_catalog: Callable[[bool], asyncio.Task[Catalog | None]]
    forget_catalog: Callable[[], None]
    cancel_target: Callable[[], asyncio.Task[None]]


class Relay:
    """Runs one session until either side is gone or the core closes it. `done` is set when everything is released."""

    def __init__(
        self,
        session: Session,
        client: Duplex,
        target: Duplex,
        recorder: SessionRecorder | None,
        mode: RecordingMode,
        services: RelayServices,
    ) -> None:
        self.session = session
        self.done = asyncio.Event()
        self._client = client
        self._target = target
        self._writer = JournalWriter(recorder, services.audit, mode, services.meter)
        self._late: asyncio.TimerHandle | None = None
        self._services = services
        self._meter = services.meter
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cancelling: set[asyncio.Task[None]] = set()
        self._hold: asyncio.Task[None] | None = None
        self._is_over = False
        self._reads_client = self._reads_target = True
        self._why = ""

    def start(self) -> None:
        self._services.meter.session_began()
        self._target.start(self._from_target, self._target_lost, self._pace)
        self._client.start(self._from_client, self._client_lost, self._pace)

    # ---- events -------------------------------------------------------------------------------------------------------------------

    def _from_client(self, data: bytes) -> None:
        if not self._is_over:
            self._meter.relayed_bytes("client", len(data))
            self.run(self.session.from_client(data, self._services.now()))

    def _from_target(self, data: bytes) -> None:
        if not self._is_over:
            self._meter.relayed_bytes("target", len(data))
            self.run(self.session.from_target(data, self._services.now()))

    def _client_lost(self) -> None:
        if not self._is_over:
            self.run(self.session.client_left(self._services.now()))

    def _target_lost(self) -> None:
        if not self._is_over:
            self.run(self.session.target_left(self._services.now()))

    def end(self, reason: Reason, detail: str) -> None:
        if not self._is_over:
            self.run(self.session.end(reason, detail, self._services.now()))

    def finish(self, reason: Reason, detail: str) -> None:
        """End it once what runs has its answer."""
        if not self._is_over:
            self.run(self.session.finish(reason, detail, self._services.now()))

    def cancel(self, source_address: str) -> set[asyncio.Task[None]]:
        """What goes to the target because of it."""
        if not self._is_over:
            self.run(self.session.cancel(source_address, self._services.now()))
        return set(self._cancelling)

    def _pace(self) -> None:
        """Read from a side only while the other takes what is written, and while the core has room."""
        session = self.session
        reads_client = not self._target.is_full and session.wants_client_bytes
        if reads_client is not self._reads_client:
            self._reads_client = reads_client
            if reads_client:
                self._client.resume()
            else:
                self._client.pause()
        reads_target = not self._client.is_full and session.wants_target_bytes
        if reads_target is not self._reads_target:
            self._reads_target = reads_target
            if reads_target:
                self._target.resume()
            else:
                self._target.pause()

    # ---- effects ------------------------------------------------------------------------------------------------------------------

    def run(self, effects: Effects) -> None:
        if self._is_over:
            return
        if not self._journal(effects):
            return
        if effects.to_target:
            self._target.write(
                effects.to_target[0][1] if len(effects.to_target) == 1 else b"".join(d for _, d in effects.to_target)
            )
        if effects.to_client:
            self._client.write(effects.to_client[0] if len(effects.to_client) == 1 else b"".join(effects.to_client))
        for action in effects.actions:
            self._act(action)
        self._pace()

    def _journal(self, effects: Effects) -> bool:
        """False: something couldn't be written, and the session is over."""
        if not effects.records and not effects.audits:
            return True
        problem = self._writer.write(effects, self.session.now)
        if problem:
            self._fail(Reason.RECORDING_UNAVAILABLE, problem)
            return False
        if effects.audits:
            self._count(effects)
            if self._late is None and self._writer.is_late:
                self._late = asyncio.get_running_loop().call_later(LATE_S, self._write_late)
        return True

    def _write_late(self) -> None:
        self._late = None
        problem = self._writer.flush(self._services.now())
        if problem and not self._is_over:
            self._fail(Reason.RECORDING_UNAVAILABLE, problem)

    def _count(self, effects: Effects) -> None:
        meter = self._meter
        for decision, kind, reason in effects.decided:
            meter.statement_decided(decision, kind, reason)
        for event in effects.audits:
            if isinstance(event, Masked):
                for source, count in event.cells.items():
                    meter.values_masked(source, count)

    def _fail(self, reason: Reason, detail: str) -> None:
        """End without what can't be written: the client learns why, the target sees nothing more."""
        ending = self.session.end(reason, detail, self._services.now())
        if ending.to_client:
            self._client.write(b"".join(ending.to_client))
        self._close(f"{reason}: {detail}")

    def _act(self, action: Action) -> None:
        match action:
            case Hold(request=request):
                self._hold = self._spawn(self._wait_for_verdict(request))
            case WithdrawHold(name=name, why=why):
                if self._hold is not None:
                    self._hold.cancel()
                if name:
                    self._withdraw(name, why)
            case ReportExecuted(name=name, outcome=outcome):
                self._spawn(self._report(self._services.approvals.executed(name, outcome, self._services.now())))
            case RefreshCatalog(is_forced=is_forced):
                self._spawn(self._refresh_catalog(is_forced))
            case CatalogChanged():
                self._services.forget_catalog()
            case CancelTarget(is_told=True):
                self._keep_cancelling(self._spawn(self._cancel_and_tell()))
            case CancelTarget():
                self._keep_cancelling(self._keep(self._services.cancel_target()))
            case CloseSession(why=why):
                self._close(why)
            case _ as unreachable:
                assert_never(unreachable)

    def _spawn(self, coroutine: Coroutine[object, object, T]) -> asyncio.Task[T]:
        return self._keep(asyncio.get_running_loop().create_task(coroutine))

    def _keep(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        """The loop itself holds tasks weakly."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _keep_cancelling(self, task: asyncio.Task[None]) -> None:
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _report(self, call: Coroutine[object, object, None]) -> None:
        try:
            await call
        except ApprovalUnavailable as error:
            log.warning("approval back end: %s", error)

    async def _cancel_and_tell(self) -> None:
        await self._services.cancel_target()
        if not self._is_over:
            self.run(self.session.target_cancelled(self._services.now()))

    async def _refresh_catalog(self, is_forced: bool) -> None:
        catalog = await self._services.read_catalog(is_forced)
        self.run(self.session.catalog_refreshed(catalog, self._services.now()))

    # ---- holds --------------------------------------------------------------------------------------------------------------------

    async def _wait_for_verdict(self, request: HoldRequest) -> None:
        services = self._services
        began = services.now()
        services.meter.hold_began()
        verdict = Verdict(Phase.PENDING, "", (), "the gate stopped waiting", began, began)
        try:
            verdict = await self._verdict(request)
        except ApprovalUnavailable as error:
            is_over = isinstance(error, TooManyApprovals)
            comment, now = f"{error}; {error.way_forward}", services.now()
            verdict = Verdict(Phase.PENDING, "", (), comment, now, now, is_over_quota=is_over)
        except Exception:  # whatever it was: who waits for a verdict must get one, and it isn't Approved
            log.exception("approval back end failed")
            verdict = Verdict(Phase.PENDING, "", (), "the approval back end failed", services.now(), services.now())
        finally:
            services.meter.hold_ended(verdict.phase.value, services.now() - began)
        self.run(self.session.hold_decided(verdict, services.now()))

    async def _verdict(self, request: HoldRequest) -> Verdict:
        services, approvals = self._services, self._services.approvals
        grant = await approvals.take_grant(request, services.now())
        if grant is not None:
            return grant
        name = await approvals.find_pending(request, services.now())
        joined = name is not None
        if name is None:
            name = await approvals.submit(request, services.now())
        self.run(self.session.hold_submitted(name, services.now(), joined=joined))
        waiting: asyncio.Task[Verdict] = self._spawn(approvals.wait(name))
        try:
            while not waiting.done():
                left = request.hold_until - services.now()
                if left <= 0:
                    if request.ends_with_session:
                        self._withdraw(name, "its transaction was rolled back: nobody decided in time")
                        return Verdict(Phase.EXPIRED, name, (), "", services.now(), services.now())
                    comment = f"approval request {name} is still pending: approved later, the same statement runs at once"
                    return Verdict(Phase.EXPIRED, name, (), comment, services.now(), services.now())
                interval = self.session.config.target.holds.notice_interval_s
                await asyncio.wait({waiting}, timeout=min(left, interval))
                # Not as the last thing before the end: "still held", and in the same moment that nobody decided
                if not waiting.done() and request.hold_until - services.now() > interval / 2:
                    self.run(self.session.remind(services.now()))
            verdict = waiting.result()
        except asyncio.CancelledError:
            if request.ends_with_session:
                self._withdraw(name, "its transaction ended with its session, or was rolled back")
            raise
        finally:
            waiting.cancel()
        if verdict.phase is Phase.EXECUTED:  # one approval, one execution
            return Verdict(Phase.EXPIRED, name, (), "the approval was used by another session", services.now(), services.now())
        return verdict

    def _withdraw(self, name: str, why: str) -> None:
        self._spawn(self._report(self._services.approvals.withdraw(name, why, self._services.now())))

    # ---- the end ------------------------------------------------------------------------------------------------------------------

    def _close(self, why: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._why = why
        if self._hold is not None:
            self._hold.cancel()
        if why.partition(":")[0] in CUT_SHORT and len(self.session.expected) and not self._target.is_lost:
            self._keep(self._services.cancel_target())  # its right to run is gone: what still runs must not go on unseen
        self._client.close()
        self._target.close()
        self._spawn(self._release())

    async def _release(self) -> None:
        """Close the recording (it goes to the disk, so off the loop), say so in the audit log."""
        name, link = self._writer.recording_name, ""
        services = self._services
        if self._late is not None:
            self._late.cancel()
        self._writer.flush(services.now())  # here, not beside the loop: the audit log is every session's
        try:
            closed = await asyncio.to_thread(self._writer.close, self._why, services.now())
            link = closed.link if closed is not None else ""
        except RecordError as error:
            services.meter.recording_failed()
            log.error("recording couldn't be closed: %s", error)
        self.session.journal.now = services.now()
        try:
            services.audit.write(self.session.journal.closed_event(self._why, name, link))
        except AuditError as unwritten:
            log.error("audit failed: %s", unwritten)
        services.meter.session_ended(self._why.partition(":")[0])
        self.done.set()
