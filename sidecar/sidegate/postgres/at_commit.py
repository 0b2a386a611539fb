"""Transactions that are held at their COMMIT: counted from their beginning, shown with their rows, and committed or taken back. Pure.

Rules it keeps:
- The target's counters are read before the transaction changes anything and after everything that it changed, deferred triggers included.
  The transaction stays open in between, so that what is approved is what is committed.
- Locks are kept while people think: what isn't decided in `holds.inTransactionTimeout` is rolled back, and so is what is denied, withdrawn
  or lost with its session. An approval is for this transaction of this session, and no other can use it.
- A statement outside of a transaction runs in one of the gate's, its answer is kept back, and it ends in the same way.

Left out: strings and pipelines that begin or end a transaction beside other statements, which are refused with what to send instead.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sidegate.approval.backend import HoldRequest, Phase, Verdict
from sidegate.policy.decision import Allow, Deny, RequireApproval
from sidegate.policy.reason import Reason
from sidegate.policy.statement import Impact, StatementKind
from sidegate.postgres.answers import over_budget
from sidegate.postgres.awaiting import MOST_SHOWN, changes_nothing
from sidegate.postgres.frames import HEADER_BYTES
from sidegate.postgres.holds import hold_request
from sidegate.postgres.messages import decode_parse, decode_query
from sidegate.postgres.pipeline import Answer
from sidegate.postgres.shown import shown_statement
from sidegate.sql import fingerprint

if TYPE_CHECKING:
    from sidegate.postgres.session import Session
    from sidegate.postgres.statements import BoundText, Work
    from sidegate.postgres.stories import Captured, Runner, Step, Story

SETTLE: Final = "SET CONSTRAINTS ALL IMMEDIATE"  # deferred triggers may change rows too, and run here instead of at the COMMIT
QUERY: Final = ord("Q")
PARSE: Final = ord("P")
ALONE: Final = "send BEGIN alone, then the statements, then COMMIT alone"


def before(session: Session, code: int, frame: bytes) -> Story | None:
    """What has to be done before the client's next message: read the counters of a transaction that has just begun."""
    awaiting = session.judge.awaiting
    if session.status != "T" or awaiting.baseline is not None or not awaiting.began_alone or session.owns_transaction:
        return None
    if len(session.expected) or session.expected.has_unsynced:
        return None
    if code in (QUERY, PARSE):
        body = frame[HEADER_BYTES:]
        statements, problem = session.judge.read(decode_query(body) if code == QUERY else decode_parse(body).text)
        if problem is not None or changes_nothing(statements):
            return None
    return _begin(session)


def _begin(session: Session) -> Story:
    from sidegate.postgres.stories import COUNTERS, Ask

    answer: Answer = yield Ask(COUNTERS, session.grant.permit)
    if answer.error is None:
        session.judge.awaiting.began(answer)
    else:
        session.judge.awaiting.began_alone = False


def tell(session: Session, runner: Runner, decision: RequireApproval) -> Generator[Step, Any, bool]:
    """A statement that waits for its COMMIT, or that COMMIT. True: it was told to its end. False: it is noted, and is decided again."""
    work = runner.work
    awaiting = session.judge.awaiting
    is_end = awaiting.held is not None and any(statement.ends_transaction is not None for statement in work.own)
    may_leave = session.expected.has_transaction_control or any(statement.controls_transaction for statement in work.own)
    if session.status == "E" and (not may_leave or (is_end and not session.expected.has_transaction_control)):
        session.allow(
            runner, _allowed(decision)
        )  # the target refuses everything in a failed transaction, and makes COMMIT a ROLLBACK
        return True
    if is_end:
        yield from _commit(session, runner, decision)  # alone: of strings `Awaiting.at_end` says no
        return True
    if session.status == "T" and awaiting.baseline is None and awaiting.began_alone and not session.expected.has_unsynced:
        yield from _begin(session)
    refused = _unsupported(session, runner, decision)
    if refused is None and session.status == "I":
        yield from _run_alone(session, runner, decision)
        return True
    if refused is None and not awaiting.note(work, decision):
        detail = f"more than {MOST_SHOWN} different statements would wait for it, or a longer one than approvers can be shown"
        refused = Deny(decision.reason, decision.source, decision.revision, detail, "split the transaction")
    if refused is not None:
        session.refuse(runner, refused)
        return True
    session.journal.decided(work, decision)
    work.waits_for_commit = True
    return False


def _unsupported(session: Session, runner: Runner, decision: RequireApproval) -> Deny | None:
    """Why its COMMIT couldn't be held."""
    why = ""
    if session.expected.has_transaction_control:
        why = "a transaction begins or ends in the same pipeline"
    elif any(statement.controls_transaction for statement in runner.work.own):
        why = "a transaction begins or ends in the same string"
    elif session.owns_transaction or (session.status == "I" and runner.has_earlier_work):
        why = "it stands in a pipeline that is committed by its Sync"
    elif session.status == "I" and len(runner.work.own) != 1:
        why = "the string would commit by itself"
    elif session.status == "I" and any(StatementKind.COPY_IN in each.kinds for each in runner.work.statements):
        why = "a COPY would commit by itself"
    elif session.status == "T" and session.judge.awaiting.baseline is None:
        why = "its transaction didn't begin with a BEGIN that was sent alone"
    return Deny(decision.reason, decision.source, decision.revision, why, ALONE) if why else None


def _allowed(decision: RequireApproval) -> Allow:
    return Allow(decision.permit, decision.masks, decision.source, decision.revision)


# ---- the COMMIT of a client's transaction ---------------------------------------------------------------------------------------------


def _commit(session: Session, runner: Runner, decision: RequireApproval) -> Story:
    from sidegate.postgres.stories import Ask, Captured

    work, permit = runner.work, decision.permit
    baseline = session.judge.awaiting.baseline
    assert baseline is not None
    settled: Answer = yield Ask(SETTLE, permit)
    if settled.was_skipped:  # an earlier message of its pipeline failed: the client has that error
        session.skip_to_sync()
        return
    if session.status == "I":  # an earlier message of its pipeline ended the transaction: there is none to commit
        session.allow(runner, _allowed(decision))
        return
    error, after = settled.error, settled
    if error is None:
        after = yield from _counters(decision)
        error = after.error
    if error is not None:  # what the COMMIT would have said
        yield from _roll_back(session, decision)
        work.sqlstate = error.get("C", "")
        runner.fail(Captured([session.masker.error(error)]))
        return
    work.impact = _impact(baseline, after)
    denied = yield from _ask_people(session, work, decision, session.judge.awaiting.texts())
    if denied is None:
        session.allow(runner, _allowed(decision))
        return
    yield from _roll_back(session, decision)
    session.refuse(runner, denied)


def _roll_back(session: Session, decision: RequireApproval) -> Generator[Step, Any, None]:
    from sidegate.postgres.stories import Ask

    yield Ask("ROLLBACK", decision.permit)
    session.judge.rolled_back()


def _counters(decision: RequireApproval) -> Generator[Step, Any, Answer]:
    from sidegate.postgres.stories import COUNTERS, Ask

    answer: Answer = yield Ask(COUNTERS, decision.permit)
    return answer


def _impact(before_: Answer, after: Answer) -> Impact:
    from sidegate.postgres.stories import impact_between

    impact = impact_between(before_, after, 0)
    return replace(impact, rows=sum(table.inserted + table.updated + table.deleted for table in impact.tables))


def _ask_people(
    session: Session, work: Work, decision: RequireApproval, texts: tuple[BoundText, ...]
) -> Generator[Step, Any, Deny | None]:
    """None: approved. The transaction is open meanwhile, so nothing but what they see can be committed."""
    from sidegate.postgres.stories import WaitForVerdict, denial

    work.holds_transaction = True
    verdict: Verdict = yield WaitForVerdict(_request(session, work, decision, texts))
    work.holds_transaction = False
    work.approval = verdict.name if verdict.phase is Phase.APPROVED else None
    denied = denial(verdict, decision)
    if denied is None:
        return None
    detail = f"{denied.detail}: the transaction was rolled back" if denied.detail else "the transaction was rolled back"
    return replace(denied, detail=detail, way_forward="" if denied.reason is not Reason.APPROVAL_EXPIRED else ANEW)


ANEW: Final = (
    "run the transaction again when an approver is at hand: its locks were kept while it waited, so it may not wait long"
)


def _request(session: Session, work: Work, decision: RequireApproval, texts: tuple[BoundText, ...]) -> HoldRequest:
    request = hold_request(session, work, decision)
    work.fingerprint = fingerprint(request.fingerprint, session.facts.session_id, work.id)  # no other transaction's
    return replace(
        request,
        fingerprint=work.fingerprint,
        hold_until=session.now + session.config.target.holds.in_transaction_timeout_s,
        runs=tuple(shown_statement(each, session.masker.text) for each in texts),
    )


# ---- a statement outside of a transaction ---------------------------------------------------------------------------------------------


def _run_alone(session: Session, runner: Runner, decision: RequireApproval) -> Story:
    from sidegate.postgres.stories import Ask, Run

    work, permit = runner.work, decision.permit
    beside = _beside(session, work, decision)
    if beside is not None:
        session.refuse(runner, beside)
        return
    begun: Answer = yield Ask("BEGIN", permit)
    if begun.was_skipped:
        session.skip_to_sync()
        return
    if begun.error is not None:
        session.refuse(runner, _unmeasured(decision, f"the target refused to begin: {begun.error.get('M', '')}"))
        return
    before_ = yield from _counters(decision)
    work.masks = decision.masks
    session.judge.meter(work, session.now)
    session.judge.statement_sent(work)
    session.journal.decided(work, decision)
    captured: Captured = yield Run(permit)
    settled: Answer | None = None
    if not captured.has_failed:
        settled = yield Ask(SETTLE, permit)
    if settled is None or settled.error is not None:
        if settled is not None and settled.error is not None:
            captured.frames, work.sqlstate = [session.masker.error(settled.error)], settled.error.get("C", "")
        yield from _roll_back(session, decision)
        runner.fail(captured)
        return
    after = yield from _counters(decision)
    refused: Deny | None = over_budget(session, work, captured.frames)
    if captured.is_over_limit:
        refused = _unmeasured(decision, "its answer is larger than the gate keeps back")
    elif before_.error is not None or after.error is not None:
        refused = _unmeasured(decision, "the target's counters can't be read")
    if refused is None:
        work.impact = _impact(before_, after)
        refused = yield from _ask_people(session, work, decision, ())
    if refused is None:
        session.journal.decided(work, _allowed(decision))
        work.decision = _allowed(decision)
        yield from runner.finish(captured, owns_transaction=True)
        return
    yield from _roll_back(session, decision)
    work.was_rolled_back()
    runner.has_been_rolled_back()
    session.refuse(runner, refused)


def _beside(session: Session, work: Work, decision: RequireApproval) -> Deny | None:
    """What else is said of it, which this story leaves out."""
    work.waits_for_commit = True
    other = session.decide(work, approved=work.approval is not None)
    work.waits_for_commit = False
    if isinstance(other, Allow):
        return None
    return other if isinstance(other, Deny) else _unmeasured(decision, "a limit on rows applies as well")


def _unmeasured(decision: RequireApproval, why: str) -> Deny:
    return Deny(Reason.IMPACT_NOT_MEASURABLE, decision.source, decision.revision, why, ALONE)
