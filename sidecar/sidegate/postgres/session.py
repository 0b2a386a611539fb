"""One client's session after login: bytes and events in, effects out. Sans-IO: no socket, no clock, no randomness, no task.

`ClientSide` reads what the client sends, `TargetSide` what the target answers; both act through this object, which owns the
state. A statement that is allowed goes straight through. Everything else becomes a story (stories.py), and the client's
further messages wait until it is told. INVARIANT: bytes reach the target only by `send`, with a permit; bytes reach the
client only by `deliver`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, assert_never

from sidegate.approval.backend import HoldRequest, Phase, Verdict
from sidegate.policy.config import GateConfig
from sidegate.policy.decision import Allow, Decision, Deny, Measure, Permit, RequireApproval
from sidegate.policy.engine import Engine, SessionGrant
from sidegate.policy.reason import Reason
from sidegate.policy.statement import Impact, SqlStatement
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.edge import ClientEdge
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
from sidegate.postgres.encoding_changes import refuse_unfit
from sidegate.postgres.from_client import ClientSide
from sidegate.postgres.from_target import TargetSide
from sidegate.postgres.holds import hold_notice
from sidegate.postgres.journal import Journal
from sidegate.postgres.judge import Judge
from sidegate.postgres.masker import Masker
from sidegate.postgres.messages import (
    ClientProtocolError,
    TargetProtocolError,
    frame,
)
from sidegate.postgres.own_statements import ask
from sidegate.postgres.pipeline import Answer, Expectations, Expected
from sidegate.postgres.refusal import refusal_message
from sidegate.postgres.session_facts import DEFAULT_LIMITS, READING_SETTINGS, SessionFacts, SessionLimits
from sidegate.postgres.statements import Cursor, Names, Portal, Prepared, Room, Work
from sidegate.postgres.stories import (
    Ask,
    Captured,
    Run,
    Runner,
    Step,
    Story,
    WaitForCatalog,
    WaitForReady,
    WaitForVerdict,
    deny_builtin,
    tell,
)

COPY_FAIL: Final = frame(b"f", b"refused by sidegate\0")


class Session:
    """See the module. Methods named after events return the `Effects` to carry out; all take `now`, seconds since the epoch."""

    def __init__(
        self, facts: SessionFacts, config: GateConfig, grant: SessionGrant, judge: Judge, masker: Masker, journal: Journal,
        limits: SessionLimits = DEFAULT_LIMITS,
    ) -> None:  # fmt: skip
        self.facts = facts
        self.config = config
        self.grant = grant
        self.judge = judge
        self.masker = masker
        self.journal = journal
        self.limits = limits
        self.status = "I"
        self.edge = ClientEdge()
        self.now = 0.0
        self.room = Room(limits.max_name_bytes)
        self.prepared: Names[Prepared] = Names(self.room)
        self.portals: Names[Portal] = Names(self.room)
        self.cursors: Names[Cursor] = Names(self.room)
        self.expected = Expectations()
        self.owns_transaction = False  # the gate opened it for a measured statement; it ends at the client's Sync
        self.is_skipping = False  # client messages up to its Sync are void, as after an error
        self.is_closed = False
        self.target_has_ended = False  # it said so itself, and the client was told
        self.waits_for_catalog = False
        self._ask_failed = False  # the last statement of the gate's own: its names weren't closed then
        self.poisons_sync = (
            False  # a result was cut: whatever came of it at the target, its transaction must fail as the client's did
        )
        self._cancels = 0  # that the target has yet to take: what is sent before that they could hit
        self._story: Story | None = None
        self._step: Step | None = None
        self._runner: Runner | None = None
        self._captured: Captured | None = None
        self._hold: HoldRequest | None = None
        self._hold_name: str | None = None
        self._ends_with: tuple[Reason, str] | None = None  # as soon as nothing is being answered
        self._next_work = 1
        self._to_target: list[tuple[Permit, bytes]] = []
        self._to_client: list[bytes] = []
        self._actions: list[Action] = []
        self._client = ClientSide(self)
        self._target = TargetSide(self)
        self.gate_name = f"sidegate:{facts.nonce}"

    # ---- events -------------------------------------------------------------------------------------------------------------------

    def from_client(self, data: bytes, now: float) -> Effects:
        """Bytes from the client. Bad ones end the session with a clear error."""
        self.now = self.journal.now = now
        try:
            self._client.receive(data)
        except ClientProtocolError as error:
            self._end(Reason.PROTOCOL_REFUSED, str(error), sqlstate_from=error)
        return self._flush()

    def from_target(self, data: bytes, now: float) -> Effects:
        """Bytes from the target. What can't be read ends the session: nothing unread is passed on."""
        self.now = self.journal.now = now
        try:
            self._target.receive(data)
            self._client.pump()
        except TargetProtocolError as unread:  # a name of its own: compiled, a name has one type in a function
            self._end(Reason.TARGET_UNAVAILABLE, f"the target's answer can't be read: {unread}")
        except ClientProtocolError as error:
            self._end(Reason.PROTOCOL_REFUSED, str(error), sqlstate_from=error)
        self._end_if_finished()
        return self._flush()

    def hold_submitted(self, name: str, now: float, *, joined: bool = False) -> Effects:
        """The back end made the ApprovalRequest `name`, or found the pending one of the same statement (`joined`)."""
        self.now = self.journal.now = now
        runner = self._runner
        is_held = self._hold is not None and not self.is_closed
        if is_held and runner is not None and isinstance(runner.work.decision, RequireApproval):
            assert self._hold is not None
            self._hold_name = name
            self.journal.held(runner.work, runner.work.decision, self._hold, name, joined=joined)
            self._tell_hold()
        return self._flush()

    def hold_decided(self, verdict: Verdict, now: float) -> Effects:
        """The verdict of the back end; also what it failed with (phase Withdrawn, with a comment that says so). One for
        another request than the one that is waited for changes nothing.
        """
        self.now = self.journal.now = now
        is_ours = not (self._hold_name and verdict.name) or verdict.name == self._hold_name
        if self._hold is not None and is_ours and not self.is_closed:
            self._guard(lambda: self._end_hold(verdict))
        return self._flush()

    def _end_hold(self, verdict: Verdict) -> None:
        runner = self._runner
        assert runner is not None
        self._hold, self._hold_name = None, None
        self.journal.hold_ended(runner.work, verdict, verdict.phase.value)
        self._resume(verdict)
        self._client.pump()

    def _withdraw_hold(self, why: str) -> None:
        name = self._hold_name or ""
        self._actions.append(WithdrawHold(name, why))
        self._end_hold(Verdict(Phase.WITHDRAWN, name, (), why, self.now, self.now))

    def _guard(self, event: Callable[[], None]) -> None:
        """What the client had sent behind a wait is read now: bad bytes end the session here as they do in `from_client`."""
        try:
            event()
        except TargetProtocolError as unread:  # a name of its own: compiled, a name has one type in a function
            self._end(Reason.TARGET_UNAVAILABLE, f"the target's answer can't be read: {unread}")
        except ClientProtocolError as error:
            self._end(Reason.PROTOCOL_REFUSED, str(error), sqlstate_from=error)

    def remind(self, now: float) -> Effects:
        """Tell the client of a held statement that it is still held; called every notice interval."""
        self.now = self.journal.now = now
        if self._hold is not None and self._hold_name is not None and not self.is_closed:
            self._tell_hold(is_first=False)
        return self._flush()

    def catalog_refreshed(self, catalog: Catalog | None, now: float) -> Effects:
        """A fresh catalog; None: it can't be read, and the session's masks and limits can't be kept any longer."""
        if catalog is None:
            reason = Reason.MASK_NOT_PROVABLE if self.grant.masks.columns else Reason.IMPACT_NOT_MEASURABLE
            return self.end(reason, "the target's catalog can't be read", now)
        self.judge.learn_catalog(catalog, now)
        self.waits_for_catalog = False
        if isinstance(self._step, WaitForCatalog) and not self.is_closed:
            self.now = self.journal.now = now
            self._guard(lambda: self._resume(None))
        return self.from_target(b"", now)

    def cancel(self, source_address: str, now: float) -> Effects:
        """A CancelRequest with this session's key: withdraws a hold, or goes on to the target."""
        self.now = self.journal.now = now
        if self.is_closed:
            return self._flush()
        if self._hold is None:
            self.journal.cancel_received(source_address, "")
            if len(self.expected):
                self._actions.append(CancelTarget())
            return self._flush()
        self.journal.cancel_received(source_address, self._hold_name or "")
        self._guard(lambda: self._withdraw_hold("the client cancelled the statement"))
        return self._flush()

    def target_cancelled(self, now: float) -> Effects:
        """The target has taken the cancel of a result that was cut."""
        self._cancels -= 1
        return self.from_target(b"", now)

    def config_changed(self, config: GateConfig, engine: Engine, grant: SessionGrant | Deny, now: float) -> Effects:
        """A new revision is in force: a lost grant ends the session, a hold whose rule vanished is decided again."""
        self.now = self.journal.now = now
        if self.is_closed:
            return self._flush()
        if isinstance(grant, Deny):
            self._end(Reason.SESSION_ENDED, f"revision {config.revision} grants it no longer: {grant.reason.meaning}")
            return self._flush()
        if grant.role != self.grant.role or grant.credential != self.grant.credential:
            self._end(Reason.SESSION_ENDED, f"revision {config.revision} grants another role")
            return self._flush()
        self.journal.config_changed(config.revision, self.config.revision, grant.masks)
        self.config, self.grant = config, grant
        self.judge.adopt(engine)
        self.masker.adopt(grant.masks)
        if self._hold is not None and self._runner is not None:
            self._guard(self._reconsider_held)
        return self._flush()

    def end(self, reason: Reason, detail: str, now: float) -> Effects:
        """End it from outside: the token's life is over, the gate shuts down, a record can't be written."""
        self.now = self.journal.now = now
        self._end(reason, detail)
        return self._flush()

    def finish(self, reason: Reason, detail: str, now: float) -> Effects:
        """End it once what runs has its answer; at once when nothing does, or when people have to be waited for."""
        self.now = self.journal.now = now
        self._ends_with = (reason, detail)
        self._end_if_finished()
        return self._flush()

    def client_left(self, now: float) -> Effects:
        """The client is gone. A pending ApprovalRequest stays: what is approved later is a grant for the same
        statement, once.
        """
        self.now = self.journal.now = now
        if not self.is_closed:
            self.is_closed = True
            self._actions.append(CloseSession("the client left"))
        return self._flush()

    def target_left(self, now: float) -> Effects:
        self.now = self.journal.now = now
        if not self.is_closed and self.target_has_ended:
            self.is_closed = True
            self._actions.append(CloseSession("the target ended the session"))
        elif not self.is_closed:
            self._end(Reason.TARGET_UNAVAILABLE, "the target closed the connection")
        return self._flush()

    @property
    def wants_client_bytes(self) -> bool:
        """A message that isn't whole yet has limits of its own; what queues behind a wait has this one."""
        is_waiting = self.is_blocked or self._client.waits_for_copy
        if self.room.in_flight > self.room.crowd and not self._client.withheld:
            return False  # the target has much to answer before the client may set more names
        return not is_waiting or self._client.waiting_bytes <= self.limits.max_waiting_bytes

    @property
    def wants_target_bytes(self) -> bool:
        return not self.waits_for_catalog

    @property
    def is_blocked(self) -> bool:
        """The client's further messages wait."""
        waits = self._story is not None or self.waits_for_catalog or self.is_closed
        return waits or self.expected.awaited is not None or self._cancels > 0

    @property
    def is_holding(self) -> bool:
        return self._hold is not None

    # ---- what both sides use ------------------------------------------------------------------------------------------------------

    def send(self, permit: Permit, data: bytes, expected: Expected | None = None) -> None:
        self._to_target.append((permit, data))
        if expected is not None:
            self.expected.push(expected)

    def deliver(self, data: bytes, entry: Expected | None = None) -> None:
        if entry is not None and entry.capture is not None:
            captured = self._captured
            if captured is not None and captured.is_over_limit and not data.startswith(b"E"):
                return
            entry.capture.append(data)
            if captured is not None and not captured.is_over_limit:
                captured.is_over_limit = sum(map(len, entry.capture)) > self.limits.max_captured_bytes
                if captured.is_over_limit:
                    entry.capture.clear()
            return
        self._to_client.append(data if self.edge.encoding is None else self.edge.to_client(data))

    def fence_names(self) -> None:
        self.prepared.fence()
        self.portals.fence()
        self.cursors.fence()

    def new_work(self, text: str, statements: tuple[SqlStatement, ...], *, is_simple: bool) -> Work:
        work = Work(self._next_work, text, statements, is_simple=is_simple)
        self._next_work += 1
        return work

    def decide(self, work: Work, *, approved: bool = False) -> Decision:
        unfit = None if self.edge.is_plain and work.encoding_change is None else refuse_unfit(self, work)
        return unfit or self.judge.decide(work, self.now, approved=approved)

    def count_rows(self, impact: Impact | None) -> None:
        if impact is not None:
            self.judge.rows_so_far += impact.rows_affected

    def allow(self, runner: Runner, decision: Allow | Measure) -> None:
        runner.work.masks = decision.masks
        self.judge.statement_sent(runner.work)
        self.judge.meter(runner.work, self.now)
        if self.owns_transaction and any(statement.controls_transaction for statement in runner.work.own):
            self.owns_transaction = False  # the client ends it, or goes on with it as its own
        self.journal.decided(runner.work, decision)
        runner.send(decision.permit)

    def refuse(self, runner: Runner, deny: Deny) -> None:
        runner.work.decision = deny
        self.journal.decided(runner.work, deny)
        runner.refuse(deny)

    def start(self, runner: Runner, decision: Decision) -> None:
        """Anything but a plain Allow."""
        self._runner = runner
        self._story = tell(self, runner, decision)
        self._advance(None)

    def start_story(self, story: Story) -> None:
        """A story without a statement of the client's: settle the search path, end the gate's own transaction."""
        self._runner = None
        self._story = story
        self._advance(None)

    def resume_answer(self, answer: Answer) -> None:
        """The target answered an `Ask`."""
        self._ask_failed = answer.error is not None
        self._resume(answer)

    def ready(self) -> None:
        """A ReadyForQuery was taken in."""
        if isinstance(self._step, WaitForReady) and not self.expected.awaits_ready:
            self._resume(None)

    def cancel_result(self) -> None:
        """Nothing more of what is being answered is wanted. Until the target has taken the cancel, nothing is sent that it could hit."""
        self._cancels += 1
        self._actions.append(CancelTarget(is_told=True))

    def expect_no_copy(self, work: Work) -> None:
        """`work` has failed, for the client: it asks for no COPY data any more."""
        if self._client.copy_work is work:
            self._client.copies_to_come = 0

    def resume_run(self, status: str, *, has_failed: bool) -> None:
        """The target is ready again after a `Run`."""
        captured = self._captured
        if captured is None:
            raise TargetProtocolError("an answer was kept back for no statement")
        self._captured = None
        captured.status, captured.has_failed = status, has_failed
        self._resume(captured)

    def refresh_catalog(self, *, is_forced: bool = True) -> None:
        if not self.waits_for_catalog:
            self.waits_for_catalog = True
            self._actions.append(RefreshCatalog(is_forced))

    def skip_to_sync(self) -> None:
        self.is_skipping = True
        self._client.withheld.drop()
        if self._hold is not None:
            self._withdraw_hold("an earlier statement of its pipeline failed")

    def copy_in_started(self) -> None:
        """The target takes a COPY: each Sync sent before it was swallowed with it (PostgreSQL, "COPY Operations")."""
        if not self._client.waits_for_copy:
            raise TargetProtocolError("a COPY that was not announced")
        self._client.copies_to_come -= 1
        self._client.is_copying = True
        self.expected.drop_syncs()

    def copy_refused(self) -> None:
        self.send(self.grant.permit, COPY_FAIL)

    def copy_ended(self, work: Work | None) -> None:
        """`work` has its answer. Other statements' answers, before it, say nothing of the COPY that was sent behind them."""
        if work is None or work is not self._client.copy_work:
            return
        self._client.copy_work = None
        self._client.copies_to_come = 0
        self._client.is_copying = False

    def set_status(self, status: str) -> None:
        """Outside of a transaction no portal lives, and no cursor but those WITH HOLD."""
        self.status = status
        if status == "I":
            self.judge.transaction_over()
            self.judge.awaiting.ended()
            if self.judge.transaction_ended():
                self._actions.append(CatalogChanged())
            self.portals.clear()
            if self.cursors.has_new:
                self.cursors.clear(lambda cursor: cursor.outlives_transaction)

    def statement_ended(self, work: Work) -> None:
        if work.approval:
            self._actions.append(ReportExecuted(work.approval, work.sqlstate or work.tag))
        if self.judge.changed_definitions(work):
            self._actions.append(CatalogChanged())

    def parameter_changed(self, name: str, value: str) -> None:
        """Settings that change how text is read end the session if they ever leave the only values the gate reads."""
        expected = READING_SETTINGS.get(name.lower())
        if expected is not None and value.lower() != expected:
            raise TargetProtocolError(f"the target reports {name} `{value}`: statements are read with `{expected}` only")
        if name.lower() == "search_path":
            self.judge.search_path_is_stale = True

    # ---- stories ------------------------------------------------------------------------------------------------------------------

    def _resume(self, value: object) -> None:
        if self._story is None:
            raise TargetProtocolError("an answer came for which nothing waits")
        self._advance(value)

    def _advance(self, value: object) -> None:
        story = self._story
        assert story is not None
        try:
            step = story.send(value)
        except StopIteration:
            self._step = None
            if self._story is story:
                self._story = None
                self._runner = None
            return
        self._step = step
        match step:
            case Ask():
                ask(self, step, is_behind_error=self._ask_failed)
            case Run(permit=permit):
                self._captured = Captured([])
                assert self._runner is not None
                self._runner.run(permit, self._captured.frames)
            case WaitForVerdict(request=request):
                assert self._runner is not None
                assert self._runner.work.decision is not None
                self._hold = request
                self.journal.decided(self._runner.work, self._runner.work.decision)
                self._actions.append(Hold(request))
            case WaitForCatalog():
                self.refresh_catalog()
            case WaitForReady():
                pass  # `ready` goes on with it
            case _ as unreachable:
                assert_never(unreachable)

    def _tell_hold(self, *, is_first: bool = True) -> None:
        runner = self._runner
        if runner is not None and self._hold_name is not None and not self._target.is_mid_message:
            notice = hold_notice(runner.work, self._hold_name, is_first=is_first)
            if notice is not None:
                self.deliver(notice)

    def _reconsider_held(self) -> None:
        assert self._runner is not None
        self._reconsider_hold(self._runner)
        self._client.pump()

    def _reconsider_hold(self, runner: Runner) -> None:
        decision = self.decide(runner.work)
        if isinstance(decision, RequireApproval) and decision.terms == _terms(runner.work.decision):
            return
        if runner.work.holds_transaction:
            self._withdraw_hold(f"the rules changed to revision {self.config.revision}")
            return
        if runner.work.impact is not None:  # what it would change was measured before people thought about it
            runner.work.impact = None
            decision = self.decide(runner.work)
        name, self._hold_name, self._hold = self._hold_name, None, None
        self._actions.append(WithdrawHold(name or "", f"the rules changed to revision {self.config.revision}"))
        story, self._story = self._story, None
        if story is not None:
            story.close()
        self.start(runner, decision)

    # ---- ends ---------------------------------------------------------------------------------------------------------------------

    def _end(self, reason: Reason, detail: str, sqlstate_from: ClientProtocolError | None = None) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        deny = deny_builtin(reason, self.config.revision, detail, "session")
        sqlstate = ""
        if sqlstate_from is not None:
            sqlstate = sqlstate_from.sqlstate
            deny = Deny(deny.reason, deny.source, deny.revision, detail, sqlstate_from.way_forward)
        if not self._target.is_mid_message:  # in the middle of a row it would be taken for the row's bytes
            self._to_client.append(self.edge.to_client(refusal_message(deny, "FATAL", sqlstate=sqlstate)))
        self._actions.append(CloseSession(f"{reason}: {detail}"))

    def _end_if_finished(self) -> None:
        if self._ends_with is None:
            return
        runs = len(self.expected) > 0 or self._story is not None or self.waits_for_catalog
        if self._hold is not None or not runs:
            self._end(*self._ends_with)

    def close_quietly(self, permit: Permit, data: bytes) -> None:
        """The client said Terminate."""
        self.is_closed = True
        self._to_target.append((permit, data))
        self._actions.append(CloseSession("the client ended the session"))

    def _flush(self) -> Effects:
        records, audits, decided = self.journal.take()
        effects = Effects(records, audits, decided, self._to_target, self._to_client, self._actions)
        self._to_target, self._to_client, self._actions = [], [], []
        return effects


def _terms(decision: Decision | None) -> object:
    return decision.terms if isinstance(decision, RequireApproval) else None
