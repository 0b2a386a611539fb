"""Answers that the client gets otherwise than they came: kept back until their statement is decided, or cut. Pure.

Rules it keeps:
- What is kept back goes out whole or not at all: only then it is recorded, counted and seen.
- A result that is cut failed, for the client: so does its transaction at the target, however late the cancel comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidegate.policy.decision import Deny
from sidegate.postgres.frames import count_run
from sidegate.postgres.pipeline import Expected
from sidegate.postgres.refusal import refusal_message, sqlstate_of
from sidegate.postgres.statements import Work

if TYPE_CHECKING:
    from sidegate.postgres.session import Session

_ROWS: Final = (b"D", b"d")


def deliver_kept(session: Session, work: Work, frames: list[bytes]) -> None:
    """The answer of a measured statement goes out: only now it is what the client saw."""
    if work.meter is not None:
        rows = _rows_of(frames)
        if work.meter.refusal(session.config.revision, rows, work.masked_values) is not None:
            rows, frames = 0, [kept for kept in frames if kept[:1] not in _ROWS]  # it failed after them: its error follows
        work.meter.take(rows, work.masked_values)
    for kept in frames:
        session.journal.result(work, kept)
        session.deliver(kept)
    session.journal.outcome(work)
    session.statement_ended(work)


def over_budget(session: Session, work: Work, frames: list[bytes]) -> Deny | None:
    """Of a measured statement that may still be taken back: why what it returned may not go out."""
    if work.meter is None:
        return None
    return work.meter.refusal(session.config.revision, _rows_of(frames), work.masked_values)


def cut(session: Session, entry: Expected, work: Work, deny: Deny) -> None:
    """The client gets `deny` in place of the rest of a result."""
    work.decision = deny
    session.journal.decided(work, deny)
    cut_short(session, entry, work, refusal_message(deny, request=work.approval), sqlstate_of(deny.reason))


def cut_short(session: Session, entry: Expected, work: Work, error: bytes, sqlstate: str) -> None:
    """The client gets `error` in place of the rest of a result. INVARIANT: in the extended protocol the target's transaction fails as
    the client's did: by the cancel, or where that comes too late by what is sent before the Sync.
    """
    work.sqlstate, work.was_cut = sqlstate, True
    work.rows = work.meter.rows if work.meter is not None else 0
    session.journal.result(work, error)
    session.deliver(error)
    session.cancel_result()
    if not session.expected.cut():
        session.skip_to_sync()
        session.poisons_sync = True
    session.expect_no_copy(work)


def _rows_of(frames: list[bytes]) -> int:
    return sum(count_run(kept, 0, len(kept)) for kept in frames if kept[:1] in _ROWS)
