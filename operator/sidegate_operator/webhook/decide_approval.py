"""An ApprovalRequest's update at admission: `plan/approval.py` judges it, this module brings the review to it and its answer back. Pure.

Rules it keeps:
- Who decides is `userInfo` of the review, which the API server filled in, and nothing that stands in the object.
- A dry run is judged like the real thing and sealed with no signature: what was only tried counts nowhere.
- Whatever isn't an update of a request itself is refused: the configuration sends nothing else.

Left out: the guard inside the API server (objects/admission-decisions.yaml), which checks the stored result again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias, assert_never

from sidegate.api.meta import GROUP, VERSION
from sidegate_operator.plan.approval import Decider, Refused, Stamped, Undecided, judge_update
from sidegate_operator.webhook.review import Answer, Operation, Reason, Review, allow, refuse

Seal: TypeAlias = "Callable[[bytes], str]"
UNSEALED: Final = "dry-run"  # in the place of a signature, and none


def operator_account(namespace: str) -> str:
    """The operator's username when Sidegate lives in this namespace."""
    return f"system:serviceaccount:{namespace}:sidegate-operator"


def decide(review: Review, now: float, operators: frozenset[str], seal: Seal) -> Answer:
    """The answer to an update of an ApprovalRequest."""
    resource = review.resource
    is_ours = (resource.group, resource.version, resource.resource) == (GROUP, VERSION, "approvalrequests")
    if not is_ours or review.subresource or review.operation is not Operation.UPDATE or review.old is None or review.new is None:
        return refuse(
            Reason.NOT_OURS,
            f"`{resource.resource}.{resource.group}` is not decided here; fix: let the webhook configuration send updates of "
            f"approvalrequests of {GROUP}/{VERSION} only",
        )
    who = Decider(review.user.username, frozenset(review.user.groups))
    judged = judge_update(review.old, review.new, who, now, operators, _unsealed if review.is_dry_run else seal)
    match judged:
        case Refused():
            return refuse(judged.reason, judged.message)
        case Undecided():
            return allow()
        case Stamped():
            return allow(judged.patch, audit={"decision": judged.decision.decision.value, "by": str(judged.decision.by)})
    assert_never(judged)


def _unsealed(_: bytes) -> str:
    return UNSEALED
