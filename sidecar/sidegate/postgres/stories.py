"""What happens to a statement that isn't simply allowed, told in order: held, measured, described, taken back, refused. Pure
generators.

A story yields what it waits for (`Ask`, `Run`, `Verdict` of a hold, a fresh catalog) and is resumed with the answer; the
session carries it. While a story runs, the client's further messages wait. A statement that is measured runs where it can be
taken back: in a transaction that the gate opened, or behind a savepoint in the client's own. INVARIANT: a story ends with
the statement either answered by the target or refused.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from sidegate.approval.backend import HoldRequest, Phase, Verdict
from sidegate.policy.decision import Allow, Decision, Deny, Measure, Permit, RequireApproval
from sidegate.policy.reason import Reason
from sidegate.policy.source import Builtin
from sidegate.policy.statement import UNCOUNTED_ROWS, Impact, SqlStatement, StatementKind, TableImpact
from sidegate.postgres import at_commit, cascades, drops, truncation
from sidegate.postgres.answers import over_budget
from sidegate.postgres.holds import hold_request, unseen_code
from sidegate.postgres.pipeline import Answer

if TYPE_CHECKING:
    from sidegate.postgres.session import Session
    from sidegate.postgres.statements import Work

SAVEPOINT: Final = "sidegate_measure"

# Rows that this transaction changed so far, by table: cascades, triggers and rules are in it (PostgreSQL's cumulative statistics).
COUNTERS: Final = (
    "SELECT schemaname || '.' || relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_catalog.pg_stat_xact_user_tables"
    " WHERE n_tup_ins + n_tup_upd + n_tup_del > 0"
)


@dataclass(frozen=True, slots=True)
class Ask:
    """Run one statement of the gate's own and wait for its answer; `describe_only` asks for its RowDescription instead."""

    sql: str
    permit: Permit
    describe_only: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Send the client's statement, keep its answers back, wait until the target is ready again."""

    permit: Permit


@dataclass(frozen=True, slots=True)
class WaitForVerdict:
    request: HoldRequest


@dataclass(frozen=True, slots=True)
class WaitForCatalog:
    pass


@dataclass(frozen=True, slots=True)
class WaitForReady:
    """Until every Query and Sync before has been answered: only then the transaction status is known."""


Step: TypeAlias = Ask | Run | WaitForVerdict | WaitForCatalog | WaitForReady
Story: TypeAlias = Generator[Step, Any, None]


@dataclass(slots=True)
class Captured:
    """What a `Run` brought. `frames` lack the final ReadyForQuery."""

    frames: list[bytes]
    status: str = "I"
    has_failed: bool = False
    is_over_limit: bool = False


class Runner(Protocol):
    """How a statement is sent, refused and finished: by Query, or by Execute in the extended protocol."""

    work: Work

    @property
    def has_earlier_work(self) -> bool: ...
    def send(self, permit: Permit) -> None: ...
    def run(self, permit: Permit, frames: list[bytes]) -> None: ...
    def refuse(self, deny: Deny) -> None: ...
    def has_been_rolled_back(self) -> Deny | None: ...
    def settle(self) -> Deny | None: ...
    def finish(self, captured: Captured, *, owns_transaction: bool) -> Generator[Step, Any, None]: ...
    def fail(self, captured: Captured) -> None: ...
    def copy_out_story(self, decision: Allow) -> Story: ...


def tell(session: Session, runner: Runner, decision: Decision) -> Story:
    """From the first decision to the statement's end."""
    work = runner.work
    if session.expected.awaits_ready:
        yield WaitForReady()
        decision = runner.settle() or session.decide(work)  # what ran before may count, and names are settled
    while True:
        work.decision = decision
        if isinstance(decision, Deny):
            session.refuse(runner, decision)
            return
        if isinstance(decision, Measure) and decision.asks_reach and session.status != "E":
            work.reach = yield from cascades.ask_reach(session, runner, decision.permit)
            decision = session.decide(work, approved=work.approval is not None)
            continue
        if isinstance(decision, Allow) and work.reach is not None and work.reach.schemas is not None:
            permit, masks, source = decision.permit, decision.masks, decision.source
            decision = Measure(0, permit, masks, source, decision.revision, asks_reach=True)  # it runs where it can be taken back
        if isinstance(decision, Allow):
            if decision.masks and session.judge.copies_out(work):
                yield from runner.copy_out_story(decision)
            else:
                session.allow(runner, decision)
            return
        if isinstance(decision, RequireApproval) and decision.at_commit:
            if (yield from at_commit.tell(session, runner, decision)):
                return
            decision = session.decide(work, approved=work.approval is not None)
            continue
        if isinstance(decision, RequireApproval):
            unseen = unseen_code(session, work, decision)
            if unseen is not None:
                session.refuse(runner, unseen)
                return
            verdict = yield from _hold(session, work, decision)
            if (
                session.is_skipping
            ):  # an earlier message of its pipeline failed: the client has that error, and waits for no other
                session.journal.outcome(work)
                return
            deny = denial(verdict, decision)
            if deny is not None:
                session.refuse(runner, deny)
                return
            work.approval, work.approved_rows = verdict.name, verdict.approved_rows
            work.impact = None  # measured again: what was approved may no longer be what it would do
            work.renews_budgets = decision.reason is Reason.BUDGET_EXHAUSTED
            decision = session.decide(work, approved=True)
            if (
                isinstance(decision, RequireApproval) and not decision.at_commit
            ):  # the rules changed while it was held: what was approved is not what is asked now
                decision = Deny(Reason.APPROVAL_DENIED, decision.source, decision.revision, "the rules changed while it was held")
            continue
        next_decision = yield from _measure(session, runner, decision)
        if next_decision is None:
            return
        decision = next_decision


def _hold(session: Session, work: Work, decision: RequireApproval) -> Generator[Step, Any, Verdict]:
    verdict: Verdict = yield WaitForVerdict(hold_request(session, work, decision))
    return verdict


def denial(verdict: Verdict, decision: RequireApproval) -> Deny | None:
    if verdict.phase is Phase.APPROVED:
        return None
    reason = {
        Phase.DENIED: Reason.APPROVAL_DENIED,
        Phase.EXPIRED: Reason.APPROVAL_EXPIRED,
        Phase.WITHDRAWN: Reason.APPROVAL_WITHDRAWN,
    }.get(verdict.phase, Reason.TOO_MANY_APPROVALS if verdict.is_over_quota else Reason.APPROVAL_UNAVAILABLE)
    by = f"by {', '.join(verdict.approvers)}" if verdict.approvers and reason is Reason.APPROVAL_DENIED else ""
    name = f"approval request {verdict.name}" if verdict.name and verdict.name not in verdict.comment else ""
    words = ": ".join(part for part in (name, by, verdict.comment) if part)
    return Deny(reason, decision.source, decision.revision, words)


def _measure(session: Session, runner: Runner, measure: Measure) -> Generator[Step, Any, Decision | None]:
    """Run it, count, decide again. None: the statement has been answered. A decision: it was taken back and this is to
    follow.
    """
    work = runner.work
    permit = measure.permit
    work.masks = measure.masks
    if session.status == "E" and not session.expected.has_transaction_control:
        # the target refuses everything in a failed transaction, and says so itself
        session.allow(runner, measure)
        return None
    counts = not measure.asks_reach
    truncates = counts and any(truncation.is_truncation(statement) for statement in work.statements)
    dropping = counts and drops.is_drop(work.statements)
    if truncates and not _may_count_truncated(session, work):
        return _uncounted(session, work)
    if dropping and not (drops.may_be_counted(work.statements) and not _is_approved_uncounted(work)):
        return _uncounted(session, work)
    unmeasurable = not_measurable(work, measure)
    if unmeasurable is not None:
        return unmeasurable
    if session.expected.has_transaction_control:
        return Deny(
            Reason.IMPACT_NOT_MEASURABLE, measure.source, measure.revision, "a transaction begins or ends in the same pipeline"
        )

    owns = session.status == "I"
    has_savepoint = not owns or runner.has_earlier_work
    if owns:
        begun: Answer = yield Ask("BEGIN", permit)
        if begun.error is not None or begun.was_skipped:
            return _not_measured(session, runner, begun, measure)
    if has_savepoint:
        saved: Answer = yield Ask(f"SAVEPOINT {SAVEPOINT}", permit)
        if saved.error is not None or saved.was_skipped:
            return _not_measured(session, runner, saved, measure)
    counted: truncation.Counted | None = None
    if truncates:
        counted = yield from truncation.count_rows(_emptied(work), measure.more_than, permit)
        if counted is None:
            yield from _take_back(session, permit, has_savepoint=has_savepoint, owns=owns)
            return _uncounted(session, work)
    going: drops.Going | None = None
    if dropping:
        going = yield from drops.count_rows(work.statements, measure.more_than, permit)
        if going is None:
            yield from _take_back(session, permit, has_savepoint=has_savepoint, owns=owns)
            return _uncounted(session, work)
    reach = work.reach if work.reach is not None and work.reach.schemas is not None else None
    locked = (yield from cascades.locks(permit)) if reach is not None else None
    before: Answer = yield Ask(COUNTERS, permit)
    session.journal.decided(work, measure)
    work.masked_values = 0
    session.judge.meter(work, session.now)
    session.judge.statement_sent(work)
    captured: Captured = yield Run(permit)
    if captured.has_failed:
        if owns:
            yield Ask("ROLLBACK", permit)
        runner.fail(captured)
        return None
    after: Answer = yield Ask(COUNTERS, permit)
    is_all = counted is None or (yield from truncation.was_all(counted, permit))
    is_all = is_all and (going is None or not (yield from drops.took_others(going, permit)))
    is_found = reach is None or cascades.kept_within(reach, work, locked, (yield from cascades.locks(permit)))
    decision: Decision
    if not is_found:
        decision = _reaches_further(session, work, measure)
    elif before.error is not None or after.error is not None or captured.is_over_limit:
        why = "its answer is larger than the gate keeps back" if captured.is_over_limit else "the target's counters can't be read"
        decision = Deny(Reason.IMPACT_NOT_MEASURABLE, measure.source, measure.revision, why)
    elif not is_all:
        decision = _uncounted(session, work)
    elif not counts:
        decision = over_budget(session, work, captured.frames) or session.decide(work, approved=work.approval is not None)
    else:
        emptied = (*(counted.tables if counted is not None else ()), *(going.counted if going is not None else ()))
        work.impact = impact_between(before, after, work.rows, emptied)
        decision = over_budget(session, work, captured.frames) or session.decide(work, approved=work.approval is not None)
    if isinstance(decision, Allow):
        work.decision = decision
        session.journal.decided(work, decision)
        session.count_rows(work.impact)
        if has_savepoint:
            released: Answer = yield Ask(f"RELEASE SAVEPOINT {SAVEPOINT}", permit)
            if released.error is not None:  # a cancel hit it: the transaction failed, and with it the statement
                if owns:
                    yield Ask("ROLLBACK", permit)
                captured.frames = [session.masker.error(released.error)]
                work.sqlstate = released.error.get("C", "")
                runner.fail(captured)
                return None
        yield from runner.finish(captured, owns_transaction=owns)
        return None
    yield from _take_back(session, permit, has_savepoint=has_savepoint, owns=owns)
    work.was_rolled_back()
    gone = runner.has_been_rolled_back()
    if gone is not None:
        return gone
    if isinstance(decision, Measure):  # the engine had its measurement; asking again would not end
        decision = Deny(Reason.IMPACT_NOT_MEASURABLE, decision.source, decision.revision)
    return decision


def _may_count_truncated(session: Session, work: Work) -> bool:
    """Alone in its string, in a transaction that can be taken back."""
    is_alone = len(work.own) == 1 and len(work.statements) == 1 and not session.expected.has_transaction_control
    return is_alone and not _is_approved_uncounted(work) and truncation.may_be_counted(_emptied(work))


def _emptied(work: Work) -> SqlStatement:
    """A TRUNCATE, with the tables that its CASCADE empties if those are known. Rows of a table that inherits are its parent's too."""
    statement, reach = work.statements[0], work.reach
    if reach is None or reach.schemas is None:
        return statement
    return replace(cascades.reaching(work.statements, reach)[0], writes=reach.counted)


def _reaches_further(session: Session, work: Work, measure: Measure) -> Decision:
    """Something went with it that wasn't found before: it could be anything."""
    work.reach = cascades.ANYWHERE
    if work.approval is None:
        return session.decide(work)
    detail = "more would go with it now than was approved"
    return Deny(Reason.IMPACT_EXCEEDS_APPROVAL, measure.source, measure.revision, detail)


def _is_approved_uncounted(work: Work) -> bool:
    """Every row, so there is nothing to count. One that was approved with its rows is counted again: there may be more by now."""
    return work.approved_rows is not None and work.approved_rows >= UNCOUNTED_ROWS


def _uncounted(session: Session, work: Work) -> Decision:
    """The target doesn't count what TRUNCATE takes. Where the gate can't either, it is every row, which only an approval can cover."""
    work.impact = Impact(UNCOUNTED_ROWS, is_truncation=True)
    return session.decide(work, approved=work.approval is not None)


def _take_back(session: Session, permit: Permit, *, has_savepoint: bool, owns: bool) -> Generator[Step, Any, None]:
    """No lock is kept while a person thinks."""
    if has_savepoint:
        yield Ask(f"ROLLBACK TO SAVEPOINT {SAVEPOINT}", permit)
        yield Ask(f"RELEASE SAVEPOINT {SAVEPOINT}", permit)
        session.owns_transaction = session.owns_transaction or owns
    else:
        yield Ask("ROLLBACK", permit)


def not_measurable(work: Work, measure: Measure) -> Deny | None:
    """Why a statement can't be measured, whatever stands around it."""
    kinds = frozenset().union(*(statement.kinds for statement in work.statements))
    why = ""
    if StatementKind.COPY_IN in kinds or (StatementKind.COPY_OUT in kinds and measure.masks):
        why = "a COPY can't be kept back"
    # a string of definitions is counted as a whole
    elif any(statement.controls_transaction for statement in work.statements) or (
        len(work.own) != 1 and not drops.is_drop(work.statements)
    ):
        why = "more than one statement in one string"
    return Deny(Reason.IMPACT_NOT_MEASURABLE, measure.source, measure.revision, why) if why else None


def _not_measured(session: Session, runner: Runner, answer: Answer, measure: Measure) -> Decision | None:
    if answer.was_skipped:  # an earlier message of the pipeline failed: the client already has that error
        session.skip_to_sync()
        return None
    cause = (answer.error or {}).get("M", "")
    return Deny(Reason.IMPACT_NOT_MEASURABLE, measure.source, measure.revision, f"the target refused to begin: {cause}")


def impact_between(before: Answer, after: Answer, rows: int, truncated: tuple[TableImpact, ...] = ()) -> Impact:
    """Tables whose counters moved, those that were emptied, and the rows of the command tag."""
    seen = {row[0]: row[1:] for row in before.rows}
    tables = list(truncated)
    for row in after.rows:
        old = seen.get(row[0], (b"0", b"0", b"0"))
        moved = [int(new or b"0") - int(was or b"0") for new, was in zip(row[1:], old, strict=True)]
        if any(moved):
            tables.append(TableImpact((row[0] or b"").decode("utf-8", "replace"), *moved))
    return Impact(rows, tuple(tables), is_truncation=bool(truncated))


def deny_builtin(reason: Reason, revision: str, detail: str = "", name: str = "gate") -> Deny:
    return Deny(reason, Builtin(name), revision, detail)
