"""Where an ApprovalRequest stands by its decisions and the time, which ended ones go, how many may be open, and how often one may ask.

Rules it keeps:
- The phase follows from `spec.decisions`, counted again each time: each by an approver who isn't the one who asks, each person once, in its
  time, with a seal that holds. What the status says is believed only where it takes away: `Approved` without the decisions for it ends
  as Withdrawn.
- One denial ends it. Time ends what is pending, and takes away what was approved and not used.
- Deleted are ended ones only: some time after their end, and when a target has too many, the oldest of whoever has most. Never one that is
  pending, never an approval that can still be used, and never one that still counts for how often its principal may ask.
- People are told apart by issuer and subject: by what they can't choose, so that nobody uses up another's share, or loses another's
  requests, by a name.

Left out: who asks for a hold, waking who waits for one, and verifying signatures (`is_genuine` is an argument).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from sidegate.api.approval_request import ApprovalRequest, ApprovalRequestStatus, Decision, Phase, Requester, Verdict
from sidegate.api.meta import Condition, ConditionStatus
from sidegate.gateway.pace import COUNTED_S, NEW_PER_PRINCIPAL, NEW_PER_TARGET, Pace, surplus, too_often
from sidegate.gateway.tally import CLOCK_TOLERANCE_S, Discount, Question, Vote, count
from sidegate_operator.plan.approval import asks
from sidegate_operator.plan.conditions import ConditionType, Observed, RequestReason, conditions_after, merge_patch, transitions
from sidegate_operator.plan.reconcile import Event, ObjectKey

# False: the seal is another's or for something else, and an approval that hangs on it is over for good. Raise when it can't be told now.
IsGenuine: TypeAlias = "Callable[[ApprovalRequest, Decision], bool]"

ENDED: Final = frozenset({Phase.DENIED, Phase.EXPIRED, Phase.WITHDRAWN, Phase.EXECUTED})


@dataclass(frozen=True, slots=True)
class Tally:
    """The decisions that count, what they come to, and those that don't count, with the reason."""

    verdict: Verdict | None
    counted: tuple[Decision, ...]
    discounted: tuple[tuple[Decision, Discount], ...]

    @property
    def approvals(self) -> int:
        return sum(each.decision is Verdict.APPROVED for each in self.counted)


@dataclass(frozen=True, slots=True)
class LifecyclePlan:
    """`patch` is a merge patch of the whole object for `/status`, None when there is nothing to write. `news` are the conditions whose
    status changed, for events. `look_again_at`: when time alone changes something.
    """

    status: ApprovalRequestStatus
    patch: dict[str, object] | None
    tally: Tally
    news: tuple[Condition, ...]
    look_again_at: float | None


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long ended requests stay, and how many of a target's; each for `counted_s` after it was made, whatever the rest says, since
    until then it counts for the rate.
    """

    ttl_after_finished_s: float = 3600.0
    max_finished_per_target: int = 200
    counted_s: float = COUNTED_S


@dataclass(frozen=True, slots=True)
class Quota:
    """How many requests may be pending at once, and how many new ones there may be, those that ended since counted too."""

    max_pending_per_principal: int = 20
    max_pending_per_target: int = 200
    new_per_principal: Pace = NEW_PER_PRINCIPAL
    new_per_target: Pace = NEW_PER_TARGET


@dataclass(frozen=True, slots=True)
class OverQuota:
    """No further request is made; the statement is refused. `is_rate`: too many were asked for of late, however few are pending."""

    problem: str
    way_forward: str
    is_rate: bool = False


def tally(request: ApprovalRequest, now: float, is_genuine: IsGenuine) -> Tally:
    """Count the decisions, in the order in which they were made."""
    spec, made, decisions = request.spec, request.metadata.creation_timestamp, request.spec.decisions
    question = Question(asks(spec), spec.approvers, spec.required, made.epoch_s if made else None, spec.expires_at.epoch_s)
    votes = [
        Vote(str(each.by), frozenset(map(str, each.groups)), each.decision is Verdict.APPROVED, each.at.epoch_s)
        for each in decisions
    ]
    found = count(question, votes, now, lambda place: is_genuine(request, decisions[place]))
    return Tally(
        Verdict(found.outcome.value) if found.outcome is not None else None,
        tuple(decisions[place] for place in found.counted),
        tuple((decisions[place], why) for place, why in found.discounted),
    )


def plan_lifecycle(request: ApprovalRequest, now: float, is_genuine: IsGenuine, keeping: Keeping = Keeping()) -> LifecyclePlan:
    """The status wanted for the request as it is seen at `now`."""
    seen = request.status or ApprovalRequestStatus.from_wire({})
    votes = tally(request, now, is_genuine)
    if seen.phase in ENDED and _finished_at(seen.conditions) is not None:
        return LifecyclePlan(seen, None, votes, (), _wake(request, seen, votes, now, keeping))
    phase = _phase(seen.phase, votes.verdict, is_late=now >= request.spec.expires_at.epoch_s)
    observed = _observed(seen, phase, votes)
    conditions = conditions_after(seen.conditions, observed, request.metadata.generation, now)
    status = seen.model_copy(
        update={
            "phase": phase,
            "decisions": votes.counted,
            "approvals": f"{votes.approvals}/{request.spec.required}",
            "conditions": conditions,
            "observed_generation": request.metadata.generation,
        }
    )
    patch = merge_patch({"status": request.status.to_wire() if request.status is not None else {}}, {"status": status.to_wire()})
    news = transitions(seen.conditions, conditions)
    return LifecyclePlan(status, patch, votes, news, _wake(request, status, votes, now, keeping))


def events_of(request: ApprovalRequest, news: Iterable[Condition]) -> tuple[Event, ...]:
    """What is told of it once its status is written."""
    named = ObjectKey(request.kind, str(request.metadata.name))
    return tuple(
        Event(named, request.metadata.uid, each.status is ConditionStatus.FALSE, each.reason, each.message) for each in news
    )


def plan_cleanup(requests: Iterable[ApprovalRequest], now: float, keeping: Keeping = Keeping()) -> tuple[ApprovalRequest, ...]:
    """Which ended requests go now, the oldest end first. More than `max_finished_per_target` stay while too many still count."""
    finished: dict[tuple[str, str], list[tuple[float, ApprovalRequest]]] = defaultdict(list)
    for each in requests:
        if each.status is not None and each.status.phase in ENDED and each.metadata.deletion_timestamp is None:
            target = (str(each.metadata.namespace), str(each.spec.target))
            ended_at = _finished_at(each.status.conditions)
            finished[target].append((now if ended_at is None else ended_at, each))
    going: list[tuple[float, ApprovalRequest]] = []
    for ended in finished.values():
        ended.sort(key=lambda pair: (pair[0], str(pair[1].metadata.name)))
        staying: dict[_Who, list[tuple[float, ApprovalRequest]]] = defaultdict(list)
        for pair in ended:
            is_over = pair[0] + keeping.ttl_after_finished_s <= now and not _counts(pair[1], now, keeping)
            (going if is_over else staying[_who(pair[1].spec.principal)]).append(pair)
        over = surplus({who: len(theirs) for who, theirs in staying.items()}, keeping.max_finished_per_target)
        # INVARIANT: what someone may not lose yet isn't taken from anybody else in its place.
        for who, number in over.items():
            going += [pair for pair in staying[who] if not _counts(pair[1], now, keeping)][:number]
    going.sort(key=lambda pair: (pair[0], str(pair[1].metadata.namespace), str(pair[1].metadata.name)))
    return tuple(request for _, request in going)


def over_quota(
    requests: Sequence[ApprovalRequest],
    namespace: str,
    target: str,
    principal: Requester,
    now: float,
    quota: Quota = Quota(),
) -> OverQuota | None:
    """Why `principal` gets no further request for the target, None: they may have one. `requests`: those that ended too."""
    here = [each for each in requests if (str(each.metadata.namespace), str(each.spec.target)) == (namespace, target)]
    pending = [each for each in here if _is_pending(each, now)]
    who = _who(principal)
    theirs = sum(_who(each.spec.principal) == who for each in pending)
    if theirs >= quota.max_pending_per_principal:
        return OverQuota(
            f"`{principal.username}` has {theirs} approval requests pending on `{target}`, of {quota.max_pending_per_principal} allowed",
            "have some decided, or cancel the statements",
        )
    if len(pending) >= quota.max_pending_per_target:
        return OverQuota(
            f"`{target}` has {len(pending)} approval requests pending, of {quota.max_pending_per_target} allowed",
            "have some decided",
        )
    made = [(_who(each.spec.principal), _made_at(each, now)) for each in here]
    mine = [at for whose, at in made if whose == who]
    fast = too_often(f"`{principal.username}`", target, mine, now, quota.new_per_principal) or too_often(
        "all together", target, [at for _, at in made], now, quota.new_per_target
    )
    return OverQuota(fast.problem, fast.way_forward, is_rate=True) if fast is not None else None


_Who: TypeAlias = "tuple[str, str]"


def _who(principal: Requester) -> _Who:
    return principal.issuer, principal.subject


def _made_at(request: ApprovalRequest, now: float) -> float:
    """By the API server's clock; what is being made is made now."""
    made = request.metadata.creation_timestamp
    return made.epoch_s if made is not None else now


def _counts(request: ApprovalRequest, now: float, keeping: Keeping) -> bool:
    return _made_at(request, now) + keeping.counted_s > now


def _phase(seen: Phase, verdict: Verdict | None, *, is_late: bool) -> Phase:
    if seen in ENDED:
        return seen
    if seen is Phase.APPROVED and verdict is not Verdict.APPROVED:
        return Phase.WITHDRAWN
    if verdict is Verdict.DENIED:
        return Phase.DENIED
    if is_late:
        return Phase.EXPIRED
    return Phase.APPROVED if verdict is Verdict.APPROVED else Phase.PENDING


_DECIDED_BY_VERDICT: Final = {Verdict.APPROVED: RequestReason.APPROVED, Verdict.DENIED: RequestReason.DENIED}
_FINISHED_BY_PHASE: Final = {
    Phase.PENDING: RequestReason.OPEN,
    Phase.APPROVED: RequestReason.USABLE,
    Phase.DENIED: RequestReason.WAS_DENIED,
    Phase.EXPIRED: RequestReason.EXPIRED,
    Phase.WITHDRAWN: RequestReason.WITHDRAWN,
    Phase.EXECUTED: RequestReason.EXECUTED,
}


def _observed(seen: ApprovalRequestStatus, phase: Phase, votes: Tally) -> tuple[Observed, ...]:
    said = _DECIDED_BY_VERDICT.get(votes.verdict) if votes.verdict is not None else None
    decided = said or (RequestReason.WAITING if phase is Phase.PENDING else RequestReason.UNDECIDED)
    finished = _FINISHED_BY_PHASE[phase]
    was = next((each.reason for each in seen.conditions if each.type == ConditionType.FINISHED.value), None)
    is_disbelieved = seen.phase is Phase.APPROVED or was == RequestReason.DISBELIEVED.value.reason
    if phase is Phase.WITHDRAWN and votes.verdict is not Verdict.APPROVED and is_disbelieved:
        finished = RequestReason.DISBELIEVED
    return Observed(decided, _said(votes)), Observed(finished)


def _said(votes: Tally) -> str:
    parts = [f"`{each.by}` {'approved' if each.decision is Verdict.APPROVED else 'denied'}" for each in votes.counted]
    parts += [f"`{each.by}` doesn't count ({why.value})" for each, why in votes.discounted]
    return ", ".join(parts)


def _finished_at(conditions: Sequence[Condition]) -> float | None:
    """When it ended, as far as was written down. Who needs a time takes now instead, so that nothing goes too early."""
    for each in conditions:
        if each.type == ConditionType.FINISHED.value and each.status is ConditionStatus.TRUE:
            return each.last_transition_time.epoch_s
    return None


def _wake(request: ApprovalRequest, status: ApprovalRequestStatus, votes: Tally, now: float, keeping: Keeping) -> float | None:
    if status.phase in ENDED:
        # When it no longer counts, it may be one too many.
        times = [
            (_finished_at(status.conditions) or now) + keeping.ttl_after_finished_s,
            _made_at(request, now) + keeping.counted_s,
        ]
    else:
        # A decision from a clock that is ahead counts later.
        ahead = [each.at.epoch_s - CLOCK_TOLERANCE_S for each, why in votes.discounted if why is Discount.OUT_OF_TIME]
        times = [request.spec.expires_at.epoch_s, *ahead]
    return min((each for each in times if each > now), default=None)


def _is_pending(request: ApprovalRequest, now: float) -> bool:
    phase = request.status.phase if request.status is not None else Phase.PENDING
    return phase is Phase.PENDING and now < request.spec.expires_at.epoch_s
