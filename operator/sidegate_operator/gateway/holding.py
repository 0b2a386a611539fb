"""New holds: what a gate sends becomes an ApprovalRequest, or the reason why not. And which requests a gate gets to see.

Rules it keeps:
- The spec is read as strictly as the API server reads it, and must be of the target in the path, undecided, and in time.
- A gate doesn't choose who approves: approvers, their number and the time they have are those of the rule in the config that is published
  for its target. What names no such rule is refused, so a gate that was taken over can't widen them.
- The same hold sent twice is made once; a name that is in use for anything else is another's.
- A gate sees requests of its own target alone; others of the namespace don't exist for it.

Left out: who asks (`asking`), what is done with a request afterwards (`plan/approval_use.py`), and writing. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from sidegate.api.approval_request import ApprovalRequest, ApprovalRequestSpec, Phase
from sidegate.api.protected_target import ProtectedTarget
from sidegate.api.text import ObjectName, Timestamp
from sidegate.gateway.messages import NewHold
from sidegate.mask.plain import plain
from sidegate.policy.config import ApprovalConfig, GateConfig
from sidegate_operator.gateway.asking import Caller, Route
from sidegate_operator.gateway.problem import Kind, Refusal
from sidegate_operator.plan.approval_lifecycle import Quota, over_quota
from sidegate_operator.plan.owned import metadata

HOLD_UNTIL: Final = "sidegate.dev/hold-until"
GATE_POD: Final = "sidegate.dev/gate-pod"
GATE_POD_UID: Final = "sidegate.dev/gate-pod-uid"
CLOCK_TOLERANCE_S: Final = 60.0  # how far gates' clocks may be ahead
_DECIDED: Final = ("decision", "comment", "decisions")
_READ_AGAIN: Final = "send the statement again; if it lasts, see whether gate and operator are of one release"


@dataclass(frozen=True, slots=True)
class Beside:
    """What a new hold is judged by. `config` is what is published for the target; `requests` are those of the namespace, those that are
    being made right now too.
    """

    target: ProtectedTarget
    config: GateConfig | None
    requests: Sequence[ApprovalRequest]
    quota: Quota = field(default_factory=Quota)


def new_request(asked: NewHold, caller: Caller, beside: Beside, now: float) -> ApprovalRequest | Refusal:
    """The object to make, its quota not looked at."""
    if any(name in asked.spec for name in _DECIDED):
        return _unusable("a new request can't have a decision", "leave decision, comment and decisions away")
    target = beside.target
    try:
        name, until = ObjectName(asked.name), Timestamp(asked.hold_until)
        annotations = {HOLD_UNTIL: str(until), GATE_POD: caller.pod, GATE_POD_UID: caller.uid}
        request = ApprovalRequest.from_wire({"metadata": metadata(target, str(name), annotations), "spec": asked.spec})
    except ValidationError as error:
        return _unusable(f"the spec can't be: {_first(error)}", _READ_AGAIN)
    except ValueError as error:
        return _unusable(f"the hold can't be: {plain(str(error))[:512]}", _READ_AGAIN)
    return _misfit(request.spec, target, beside.config, now) or request


def _misfit(spec: ApprovalRequestSpec, target: ProtectedTarget, config: GateConfig | None, now: float) -> Refusal | None:
    """What of it isn't as the target and its rules have it."""
    namespace, name = str(target.metadata.namespace), str(target.metadata.name)
    if spec.target != name:
        return _unusable(f"it is for the target `{spec.target}`, and asked for at `{name}`", "ask at the target's own path")
    if spec.rule.namespace != namespace:
        return _unusable("the rule is of another namespace than the target", "name a rule of the target's own policies")
    terms = _terms(config, spec)
    if terms is None:
        return _unusable(
            f"the rules published for `{name}` have no approvals by `{spec.rule.policy}` rule `{spec.rule.name}`",
            "send the statement again once the gate has the newest rules",
        )
    approvers = set(map(str, spec.approvers.groups)), set(map(str, spec.approvers.users)), spec.required
    if approvers != (set(terms.approver_groups), set(terms.approver_users), max(1, terms.required)):
        return _unusable(
            f"its approvers aren't those of `{spec.rule.policy}` rule `{spec.rule.name}` as it is published",
            "send the statement again once the gate has the newest rules",
        )
    if not now < spec.expires_at.epoch_s <= now + terms.expires_after_s + CLOCK_TOLERANCE_S:
        return _unusable(
            f"it would expire at {spec.expires_at}, and its rule gives {terms.expires_after_s:g} s from now",
            "see that the clocks of the nodes agree, and send the statement again",
        )
    return None


def _terms(config: GateConfig | None, spec: ApprovalRequestSpec) -> ApprovalConfig | None:
    for policy in config.policies if config is not None else ():
        if (policy.namespace, policy.name) == (spec.rule.namespace, spec.rule.policy):
            for rule in policy.rules:
                if rule.name == spec.rule.name:
                    return rule.approval
    return None


def quota_refusal(wanted: ApprovalRequest, beside: Beside, now: float) -> Refusal | None:
    """Why there is no room for it now."""
    spec, namespace = wanted.spec, str(wanted.metadata.namespace)
    over = over_quota(beside.requests, namespace, str(spec.target), spec.principal, now, beside.quota)
    if over is None:
        return None
    return Refusal(Kind.TOO_OFTEN if over.is_rate else Kind.OVER_QUOTA, over.problem, over.way_forward)


def is_same_hold(stored: ApprovalRequest, wanted: ApprovalRequest) -> bool:
    """Whether it is what the gate sent before, whatever has become of it since."""
    asked = stored.spec.model_copy(update={"decision": None, "comment": None, "decisions": ()})
    names = (HOLD_UNTIL, GATE_POD_UID)
    return asked == wanted.spec and all(stored.metadata.annotations.get(n) == wanted.metadata.annotations.get(n) for n in names)


def name_taken(name: str) -> Refusal:
    return Refusal(Kind.NAME_TAKEN, f"`{name}` is another request's name", "choose another name")


# Those that are there


def is_of(found: dict[str, Any] | None, route: Route) -> bool:
    """Whether a stored request is of the target in the path."""
    return found is not None and (found.get("spec") or {}).get("target") == route.target


def not_found(route: Route) -> Refusal:
    return Refusal(Kind.NOT_FOUND, f"there is no request `{route.name}` of `{route.target}`", "ask for a new hold")


def usable(requests: Iterable[ApprovalRequest], route: Route, now: float) -> list[ApprovalRequest]:
    """Those of the query's fingerprint and requester that are pending or approved, and in time; the newest first."""
    wanted = (route.target, route.query["fingerprint"], route.query["issuer"], route.query["subject"])
    found = [each for each in requests if _asked(each.spec) == wanted and _is_usable(each, now)]
    return sorted(found, key=_made_at, reverse=True)


def _asked(spec: ApprovalRequestSpec) -> tuple[str, str, str, str]:
    return str(spec.target), spec.fingerprint, spec.principal.issuer, spec.principal.subject


def _is_usable(request: ApprovalRequest, now: float) -> bool:
    phase = request.status.phase if request.status is not None else Phase.PENDING
    is_open = phase in {Phase.PENDING, Phase.APPROVED} and request.metadata.deletion_timestamp is None
    return is_open and now < request.spec.expires_at.epoch_s


def _made_at(request: ApprovalRequest) -> tuple[float, str]:
    made = request.metadata.creation_timestamp
    return (made.epoch_s if made is not None else 0.0, str(request.metadata.name))


def _unusable(detail: str, way_forward: str) -> Refusal:
    return Refusal(Kind.UNUSABLE, detail, way_forward)


def _first(error: ValidationError) -> str:
    """The first problem, without the input: it may be a statement's secret."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    return plain(f"{place or 'the spec'}: {first['msg']}")[:512]
