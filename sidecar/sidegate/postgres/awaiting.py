"""What of a transaction waits for its COMMIT: the statements that rules hold there, and what may end it meanwhile. Pure.

Rules it keeps:
- Once a statement waits, the transaction is committed by a lone COMMIT, which is held, or not at all. A lone ROLLBACK is always free.
- What was noted stays until the target says that the transaction is over, also when a savepoint took the statement back.
- Nothing is noted of a transaction that wasn't seen from its beginning: its rows couldn't be told.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from sidegate.policy.decision import ApprovalTerms, Deny, RequireApproval
from sidegate.policy.reason import Reason
from sidegate.policy.statement import SqlStatement, StatementKind, TransactionEnd
from sidegate.policy.walk import approval_order
from sidegate.postgres.pipeline import Answer
from sidegate.postgres.statements import BoundText, Work

MOST_SHOWN: Final = 16  # different statements; approvers are shown no more beside one
MOST_VALUES: Final = 256
LONGEST: Final = 16_384  # characters of one
LONGEST_VALUE: Final = 4_096
_QUIET: Final = frozenset({StatementKind.TRANSACTION, StatementKind.SESSION})


class Awaiting:
    """`baseline`: the target's counters when the transaction had changed nothing. `held`: the strictest of what waits."""

    __slots__ = ("_is_denied", "_is_first", "_shapes", "_statements", "_texts", "baseline", "began_alone", "held", "revision")

    def __init__(self) -> None:
        self._is_first = True  # of its transaction is the next statement
        self.began_alone = False
        self._forget()

    def _forget(self) -> None:
        self.baseline: Answer | None = None
        self.held: RequireApproval | None = None
        self._statements = 0
        self._texts: dict[BoundText, None] | None = {}  # None: more than can be shown
        self._shapes: dict[str, tuple[SqlStatement, ...]] = {}
        self._is_denied = False
        self.revision = ""  # of the rules that were asked about what waits

    def ended(self) -> None:
        """No transaction is open."""
        self._is_first, self.began_alone = True, False
        if self.baseline is not None or self.held is not None:
            self._forget()

    def sent(self, own: Sequence[SqlStatement]) -> None:
        """A statement went out. One BEGIN, and nothing with it or before the counters were read, is a beginning that was seen."""
        if self.baseline is None:
            begins = self._is_first and len(own) == 1 and own[0].controls_transaction
            self.began_alone = begins or (self.began_alone and changes_nothing(own))
            self._is_first = False

    def began(self, counters: Answer) -> None:
        self.baseline = counters

    def note(self, work: Work, decision: RequireApproval) -> bool:
        """It runs now, and waits. False: more, or longer, than approvers can be shown."""
        beside = (*work.referred, *work.alternatives)
        shapes = {**dict.fromkeys((each.text for each in beside), ()), **self._shapes, work.normalised(): work.statements}
        if len(shapes) > MOST_SHOWN or any(len(shape) > LONGEST for shape in shapes):
            return False
        self._shapes = shapes
        self._statements += 1
        if self._texts is not None:
            texts = dict.fromkeys([*self._texts, work.bound(), *beside])
            self._texts = texts if _can_be_shown(texts) else None
        self.revision = decision.revision
        self.held = decision if self.held is None else _strictest(self.held, decision)
        return True

    def waiting(self) -> tuple[tuple[SqlStatement, ...], ...]:
        """What waits, each different statement once."""
        return tuple(filter(None, self._shapes.values()))

    def asked_again(self, revision: str, *, is_denied: bool) -> None:
        """Other rules are in force by now. What they deny isn't committed, whoever approves it."""
        self.revision, self._is_denied = revision, self._is_denied or is_denied

    def texts(self) -> tuple[BoundText, ...]:
        """What waits, for its approvers: with all values where they can be shown, else each different statement once, without constants."""
        return tuple(self._texts) if self._texts is not None else tuple(map(BoundText, self._shapes))

    def at_end(self, own: Sequence[SqlStatement], revision: str) -> RequireApproval | Deny | None:
        """What is said of these while something waits. None: they don't end the transaction, or only by taking it back."""
        held = self.held
        if held is None or all(statement.ends_transaction is None for statement in own):
            return None
        if len(own) > 1:
            detail = "what ends the transaction stands in one string with other statements"
            return Deny(Reason.AWAITS_COMMIT, held.source, revision, detail, "send COMMIT or ROLLBACK alone")
        if own[0].ends_transaction is TransactionEnd.ROLLBACK:
            return None
        if own[0].ends_transaction is TransactionEnd.OTHER:
            detail = "it would end otherwise than by a plain COMMIT"
            return Deny(
                Reason.AWAITS_COMMIT, held.source, revision, detail, "send COMMIT or ROLLBACK, and what follows behind it"
            )
        if self._is_denied:
            detail = "the rules changed, and deny what waits for it"
            return Deny(Reason.AWAITS_COMMIT, held.source, revision, detail, "send ROLLBACK")
        count = f"{self._statements} statements wait" if self._statements > 1 else "a statement waits"
        return replace(held, detail=f"{count} for this COMMIT; {held.detail}")


def changes_nothing(own: Sequence[SqlStatement]) -> bool:
    """Settings of the transaction, which PostgreSQL wants before its first query."""
    return all(statement.kinds <= _QUIET for statement in own)


def _can_be_shown(texts: Collection[BoundText]) -> bool:
    values = [value for each in texts for value in each.parameters]
    return (
        len(texts) <= MOST_SHOWN
        and len(values) <= MOST_VALUES
        and all(len(each.text) <= LONGEST for each in texts)
        and all(value is None or len(value) <= LONGEST_VALUE for value in values)
    )


def _strictest(held: RequireApproval, other: RequireApproval) -> RequireApproval:
    strictest = min(held, other, key=lambda each: approval_order(each.terms, each.source))
    terms: ApprovalTerms = strictest.terms
    return replace(strictest, terms=replace(terms, expires_after_s=min(held.terms.expires_after_s, other.terms.expires_after_s)))
