"""One request from its beginning to its end: who may decide, how many must, what comes after what. Pure.

The rules, in the order in which they are checked: a request that has ended takes no vote; the one who asks has none; an approver is named
by the terms, by username or by group; nobody votes twice; one denial ends it; `required` different people approve it. People are the
same when issuer and subject are, and also when their usernames are: two accounts of one name don't make two people.

`replay` derives where a request stands from its votes, checking each again: what a file says of its own phase is never believed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from sidegate.approval.backend import HoldRequest, Phase, Verdict
from sidegate.policy.decision import ApprovalTerms

TRANSITIONS: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.PENDING: frozenset({Phase.APPROVED, Phase.DENIED, Phase.EXPIRED, Phase.WITHDRAWN}),
    Phase.APPROVED: frozenset({Phase.EXECUTED, Phase.EXPIRED, Phase.WITHDRAWN}),
    Phase.DENIED: frozenset(),
    Phase.EXPIRED: frozenset(),
    Phase.WITHDRAWN: frozenset(),
    Phase.EXECUTED: frozenset(),
}
CLOCK_TOLERANCE_S: Final = 5.0  # a vote may be this much ahead of the reader's clock


class Choice(enum.StrEnum):
    APPROVED = "Approved"
    DENIED = "Denied"


@dataclass(frozen=True, slots=True)
class Approver:
    """Who wants to decide: the principal of a verified token. `key` is `Principal.key`."""

    username: str
    key: str
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Vote:
    """What one person decided. `groups`: those of theirs that made them an approver."""

    by: str
    key: str
    choice: Choice
    at: float
    groups: tuple[str, ...] = ()
    comment: str = ""


@dataclass(frozen=True, slots=True)
class VoteProblem:
    """Why a vote doesn't count."""

    problem: str
    way_forward: str


@dataclass(frozen=True, slots=True)
class Hold:
    """A request and where it stands; `changed_at` is when it came there."""

    name: str
    request: HoldRequest
    phase: Phase
    changed_at: float
    votes: tuple[Vote, ...] = ()

    @property
    def approvals(self) -> int:
        return sum(vote.choice is Choice.APPROVED for vote in self.votes)

    @property
    def required(self) -> int:
        return max(1, self.request.terms.required)


def opened(name: str, request: HoldRequest) -> Hold:
    return Hold(name, request, Phase.PENDING, request.requested_at)


def settle(hold: Hold, now: float) -> Hold:
    """The hold at `now`: time alone ends what is pending, and takes away what was approved and not used."""
    if Phase.EXPIRED in TRANSITIONS[hold.phase] and now >= hold.request.expires_at:
        return replace(hold, phase=Phase.EXPIRED, changed_at=hold.request.expires_at)
    return hold


def approver_groups(terms: ApprovalTerms, approver: Approver) -> tuple[str, ...] | None:
    """The groups that make them an approver, sorted, none needed when named themselves; None: they aren't one."""
    groups = tuple(sorted(terms.approver_groups & approver.groups))
    return groups if groups or approver.username in terms.approver_users else None


def vote(hold: Hold, approver: Approver, choice: Choice, comment: str, now: float) -> Hold | VoteProblem:
    """The hold after someone decided, or why they can't."""
    hold = settle(hold, now)
    if hold.phase is not Phase.PENDING:
        return VoteProblem(
            f"`{hold.name}` is {hold.phase.value} already", "a decision is final: have the statement sent again for a new request"
        )
    if _is_same(approver.key, approver.username, hold.request.requester_key, hold.request.requester):
        return VoteProblem(f"`{approver.username}` asked for it and can't decide on it", "have another approver decide")
    groups = approver_groups(hold.request.terms, approver)
    if groups is None:
        return VoteProblem(f"`{approver.username}` is not an approver of `{hold.name}`", f"ask {_who(hold.request.terms)}")
    if any(_is_same(approver.key, approver.username, each.key, each.by) for each in hold.votes):
        return VoteProblem(f"`{approver.username}` has decided on `{hold.name}` already", "have another approver decide")
    votes = (*hold.votes, Vote(approver.username, approver.key, choice, now, groups, comment))
    after = replace(hold, votes=votes)
    if choice is Choice.DENIED:
        return replace(after, phase=Phase.DENIED, changed_at=now)
    if after.approvals >= after.required:
        return replace(after, phase=Phase.APPROVED, changed_at=now)
    return after


def withdraw(hold: Hold, now: float) -> Hold:
    """Withdrawn, unless it has ended."""
    return _moved(settle(hold, now), Phase.WITHDRAWN, now)


def execute(hold: Hold, now: float) -> Hold | None:
    """Its approval used up; None when there is none to use."""
    hold = settle(hold, now)
    return _moved(hold, Phase.EXECUTED, now) if hold.phase is Phase.APPROVED else None


def replay(name: str, request: HoldRequest, votes: Iterable[Vote], ended: Phase | None, now: float) -> Hold:
    """Where a request stands by its votes alone. Votes that break a rule, or are out of their time, don't count.

    `ended` is Withdrawn or Executed when the gate itself ended it; it can only take away.
    """
    hold = opened(name, request)
    for each in votes:
        if request.requested_at <= each.at <= now + CLOCK_TOLERANCE_S:
            after = vote(hold, Approver(each.by, each.key, frozenset(each.groups)), each.choice, each.comment, each.at)
            hold = hold if isinstance(after, VoteProblem) else after
    if ended is Phase.WITHDRAWN or ended is Phase.EXECUTED:
        return replace(hold, phase=ended)
    return settle(hold, now)


def verdict(hold: Hold) -> Verdict:
    """As a gate wants to know it. The comment is that of the last vote that has one."""
    approvers = tuple(each.by for each in hold.votes if each.choice is Choice.APPROVED)
    if hold.phase is Phase.DENIED:
        approvers = tuple(each.by for each in hold.votes if each.choice is Choice.DENIED)
    comment = next((each.comment for each in reversed(hold.votes) if each.comment), "")
    rows = hold.request.impact.rows_affected if hold.request.impact is not None else None
    return Verdict(hold.phase, hold.name, approvers, comment, hold.changed_at, hold.request.expires_at, rows)


def _moved(hold: Hold, phase: Phase, now: float) -> Hold:
    return replace(hold, phase=phase, changed_at=now) if phase in TRANSITIONS[hold.phase] else hold


def _is_same(key: str, username: str, other_key: str, other_username: str) -> bool:
    return key == other_key or username.casefold() == other_username.casefold()


def _who(terms: ApprovalTerms) -> str:
    people = [f"`{user}`" for user in sorted(terms.approver_users)]
    groups = [f"a member of `{group}`" for group in sorted(terms.approver_groups)]
    return " or ".join([*people, *groups]) or "the policy's owner to name approvers"
