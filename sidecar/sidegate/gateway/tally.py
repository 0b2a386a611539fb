"""What the decisions on one request come to. The operator counts so for the status, the gate for itself before it runs the statement.

Rules it keeps, in the order in which they are checked: a decision is made in its time; not by the one who asks, nor by their agent; each
person once; by a person; by an approver; under a seal that holds. One denial ends it, and so do enough approvals: what comes later doesn't
count.

Left out: what a seal is (`seals`), and what follows from the count.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sidegate.gateway.people import Approvers, approver_groups, is_one_of, is_person, is_same_person

CLOCK_TOLERANCE_S: Final = 5.0  # a decision may be this much ahead of the reader's clock


class Discount(enum.StrEnum):
    """Why a decision doesn't count."""

    OUT_OF_TIME = "OutOfTime"
    REQUESTER = "Requester"
    SAME_PERSON = "SamePerson"
    NOT_A_PERSON = "NotAPerson"
    NOT_AN_APPROVER = "NotAnApprover"
    SEAL_BROKEN = "SealBroken"
    AFTER_THE_END = "AfterTheEnd"


class Outcome(enum.StrEnum):
    """What the counted decisions come to, in the words of the ApprovalRequest resource."""

    APPROVED = "Approved"
    DENIED = "Denied"


@dataclass(frozen=True, slots=True)
class Question:
    """What is decided on. `asks` are all names of the one who asks and of their agent. `made_at` None: it can't be told."""

    asks: tuple[str, ...]
    approvers: Approvers
    required: int
    made_at: float | None
    expires_at: float


@dataclass(frozen=True, slots=True)
class Vote:
    """One decision. `groups`: those of theirs that made them an approver, as it says."""

    by: str
    groups: frozenset[str]
    is_approval: bool
    at: float


@dataclass(frozen=True, slots=True)
class Count:
    """By place in the sequence that was counted."""

    outcome: Outcome | None
    counted: tuple[int, ...]
    discounted: tuple[tuple[int, Discount], ...]


def count(question: Question, votes: Sequence[Vote], now: float, is_genuine: Callable[[int], bool]) -> Count:
    """Count them, in the order in which they were made. `is_genuine`: whether the seal of that one holds."""
    counted: list[int] = []
    discounted: list[tuple[int, Discount]] = []
    outcome: Outcome | None = None
    for place, vote in enumerate(votes):
        if outcome is not None:
            why: Discount | None = Discount.AFTER_THE_END
        else:
            why = _discount(question, vote, [votes[each].by for each in counted], now)
            if why is None and not is_genuine(place):
                why = Discount.SEAL_BROKEN
        if why is not None:
            discounted.append((place, why))
            continue
        counted.append(place)
        if not vote.is_approval:
            outcome = Outcome.DENIED
        elif sum(votes[each].is_approval for each in counted) >= max(1, question.required):
            outcome = Outcome.APPROVED
    return Count(outcome, tuple(counted), tuple(discounted))


def _discount(question: Question, vote: Vote, deciders: Sequence[str], now: float) -> Discount | None:
    made, at = question.made_at, vote.at
    # Each comparison is one that must hold, so that a time that is no number keeps a decision from counting.
    if not ((made is None or made <= at) and at < question.expires_at and at <= now + CLOCK_TOLERANCE_S):
        return Discount.OUT_OF_TIME
    if is_one_of(question.asks, vote.by):
        return Discount.REQUESTER
    if any(is_same_person(vote.by, each) for each in deciders):
        return Discount.SAME_PERSON
    if not is_person(vote.by, question.approvers):
        return Discount.NOT_A_PERSON
    if approver_groups(question.approvers, vote.by, vote.groups) is None:
        return Discount.NOT_AN_APPROVER
    return None
