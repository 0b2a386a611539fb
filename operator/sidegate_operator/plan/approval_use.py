"""What gates do with an approval request: take its approval, withdraw it, tell what became of it. Each is a status patch, or why not.

Rules it keeps:
- An approval is taken from the phase Approved alone, once, in time, and while its decisions still say so: seals, approvers and all.
- Where the decisions say Approved and the phase doesn't yet, the phase comes first, in a write of its own: phases move one by one.
- What has ended stays as it is.

Left out: whether the gate may use the approval, which the gate judges itself; and writing at the version that was looked at.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sidegate.api.approval_request import ApprovalRequest, ApprovalRequestStatus, Outcome, Phase, Verdict
from sidegate.api.meta import Condition
from sidegate.api.text import Timestamp
from sidegate_operator.plan.approval_lifecycle import ENDED, IsGenuine, plan_lifecycle, tally
from sidegate_operator.plan.conditions import Observed, RequestReason, merge_patch


class Obstacle(enum.Enum):
    NOTHING_TO_TAKE = "there is no approval to take"
    ENDED = "it has ended"
    NOT_EXECUTED = "it wasn't executed, or has an outcome"


@dataclass(frozen=True, slots=True)
class Hindered:
    obstacle: Obstacle
    detail: str


@dataclass(frozen=True, slots=True)
class Write:
    """A merge patch for `/status`, and what people are told of it. Not `is_last`: look again at what the API server answers, for there is
    another.
    """

    patch: dict[str, object]
    is_last: bool = True
    news: tuple[Condition, ...] = ()


def plan_claim(request: ApprovalRequest, now: float, is_genuine: IsGenuine) -> Write | Hindered:
    phase = _phase(request)
    if phase not in {Phase.PENDING, Phase.APPROVED}:
        return Hindered(Obstacle.NOTHING_TO_TAKE, f"it is {phase.value}")
    if now >= request.spec.expires_at.epoch_s:
        return Hindered(Obstacle.NOTHING_TO_TAKE, f"it expired at {request.spec.expires_at}")
    votes = tally(request, now, is_genuine)
    if votes.verdict is not Verdict.APPROVED:
        said = "an approver said no" if votes.verdict else f"{votes.approvals} of {request.spec.required} approved it"
        return Hindered(Obstacle.NOTHING_TO_TAKE, said)
    if phase is Phase.PENDING:
        planned = plan_lifecycle(request, now, is_genuine)
        assert planned.patch is not None
        return Write(planned.patch, is_last=False, news=planned.news)
    return Write(_ended(request, Phase.EXECUTED, now, is_genuine))


def plan_withdrawal(request: ApprovalRequest, why: str, now: float, is_genuine: IsGenuine) -> Write | Hindered:
    phase = _phase(request)
    if phase in ENDED:
        return Hindered(Obstacle.ENDED, f"it is {phase.value}")
    return Write(_ended(request, Phase.WITHDRAWN, now, is_genuine, Observed(RequestReason.WITHDRAWN, why)))


def plan_outcome(request: ApprovalRequest, outcome: Outcome) -> Write | Hindered:
    phase = _phase(request)
    if phase is not Phase.EXECUTED or request.status is None:
        return Hindered(Obstacle.NOT_EXECUTED, f"it is {phase.value}")
    if request.status.outcome is not None:
        return Hindered(Obstacle.NOT_EXECUTED, "its outcome was told already")
    return Write({"status": {"outcome": outcome.to_wire()}})


def outcome_at(result: str, rows: int | None, sqlstate: str | None, message: str | None, now: float) -> Outcome:
    """Raises pydantic.ValidationError: one of them can't be."""
    told = {"result": result, "at": str(Timestamp.from_epoch(now)), "rows": rows, "sqlstate": sqlstate, "message": message}
    return Outcome.from_wire({name: value for name, value in told.items() if value is not None and value != ""})


def _phase(request: ApprovalRequest) -> Phase:
    return request.status.phase if request.status is not None else Phase.PENDING


def _ended(
    request: ApprovalRequest, phase: Phase, now: float, is_genuine: IsGenuine, observed: Observed | None = None
) -> dict[str, object]:
    """The conditions are those that the lifecycle finds once the phase is there: whoever plans it next has nothing to add."""
    seen = request.status or ApprovalRequestStatus.from_wire({})
    after = request.model_copy(update={"status": seen.model_copy(update={"phase": phase})})
    status = plan_lifecycle(after, now, is_genuine).status
    if observed is not None:
        conditions = [
            each.model_copy(update={"message": observed.message}) if each.type == observed.row.type.value else each
            for each in status.conditions
        ]
        status = status.model_copy(update={"conditions": tuple(conditions)})
    patch = merge_patch({"status": seen.to_wire() if request.status is not None else {}}, {"status": status.to_wire()})
    assert patch is not None  # the phase differs
    return patch
