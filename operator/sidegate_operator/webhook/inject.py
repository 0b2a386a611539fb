"""A pod's creation at admission: `plan/sidecar.py` decides, this module brings the review to it and its answer back. Pure.

Rules it keeps:
- The target is looked up in the pod's own namespace, which the review says and the pod can't.
- A target that is stored and can't be read is no target: the pod is refused, not let in without a gate.
- What the answer names in the audit log is the target's name, or the reason.

Left out: which pods come here (the webhook configuration), and reading the target.
"""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError

from sidegate.api.protected_target import ProtectedTarget
from sidegate.api.text import ObjectName
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.plan.injection import InjectionRefused, NotOurs, PodPatch
from sidegate_operator.plan.redirect import NEEDS_PRIVILEGED, NEEDS_PRIVILEGED_WAY, is_redirected
from sidegate_operator.plan.sidecar import named_target, plan_sidecar
from sidegate_operator.webhook.review import Answer, Json, Operation, Reason, Review, allow, refuse

UNTOUCHED: Final = "untouched"


def target_name(review: Review) -> str | None:
    """The target that the pod asks for, in the review's namespace. None: there can't be one of that name, or none is asked for."""
    name = named_target(review.new) if _is_pods_creation(review) and review.new is not None else None
    if name is None:
        return None
    try:
        return ObjectName(name)
    except ValueError:
        return None


def inject(review: Review, stored: Json | None, settings: GateSettings) -> Answer:
    """The answer to a pod's creation; `stored` is what there is under `target_name`."""
    if not _is_pods_creation(review) or review.new is None:
        return refuse(
            Reason.NOT_OURS,
            f"`{review.resource.resource}` gets no gate; fix: let the webhook configuration send the creation of pods only",
        )
    try:
        target = ProtectedTarget.from_wire(stored) if stored is not None else None
    except (ValidationError, ValueError):
        return refuse(
            Reason.TARGET_UNREADABLE,
            f"the ProtectedTarget `{named_target(review.new)}` can't be read by this version; "
            "fix: apply the custom resource definitions and the target again",
        )
    planned = plan_sidecar(review.new, target, settings)
    match planned:
        case PodPatch():
            assert target is not None  # a pod gets the gate of one that is there
            warnings = (f"{NEEDS_PRIVILEGED}; fix: {NEEDS_PRIVILEGED_WAY}",) if is_redirected(target) else ()
            return allow(planned.operations, warnings, audit={"target": planned.target})
        case NotOurs():
            return allow(audit={UNTOUCHED: planned.why.value})
        case InjectionRefused():
            return refuse(planned.reason, str(planned))


def _is_pods_creation(review: Review) -> bool:
    resource = review.resource
    return (
        (resource.group, resource.version, resource.resource) == ("", "v1", "pods")
        and not review.subresource
        and review.operation is Operation.CREATE
    )
