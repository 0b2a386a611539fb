"""What every object that the operator makes for a target has in common: its names, its labels, its owner, and the form of a plan.

Rules it keeps:
- It belongs to its target (ownerReference), so that deleting the target removes it and no finalizer is needed.
- `sidegate.dev/target` on a pod asks for injection, so the pods of a gate outside carry `sidegate.dev/gate-for` instead.

It leaves out the objects themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sidegate.api.meta import API_VERSION
from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.finding import Finding, error, name_of

# Annotation or label on a pod: it asks for the gate of this target. Label on what the operator makes: the target it was made for.
TARGET_LABEL: Final = "sidegate.dev/target"
# Label on the pods of a gate that stands outside its target's pods.
OUTSIDE_GATE_LABEL: Final = "sidegate.dev/gate-for"
# Label on a pod: "false" where it is to stay without a gate, which counts where its target allows that.
INJECT_LABEL: Final = "sidegate.dev/inject"
# Label on a namespace, "true": its side doors are closed, and pods that targets select start with a gate only.
PROTECTED_LABEL: Final = "sidegate.dev/protected"
REVISION_ANNOTATION: Final = "sidegate.dev/revision"
# Service names are DNS labels that begin with a letter (RFC 1035), where a target's name may have dots and begin with a digit.
_SERVICE_NAME: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")

Object: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True)
class Planned:
    """`wanted` None: no such object, whether because none is asked for or because a finding says why it can't be."""

    wanted: Object | None
    findings: tuple[Finding, ...] = ()


def config_map_name(target: ProtectedTarget) -> str:
    """Of the target's ConfigMap; its NetworkPolicy is called the same."""
    return f"sidegate-{target.metadata.name}"


def gate_name(target: ProtectedTarget) -> str:
    """Of the Service that clients dial, and of the Deployment and PodDisruptionBudget of a gate outside."""
    return f"{target.metadata.name}-gate"


def gate_name_problem(target: ProtectedTarget) -> Finding | None:
    """What stands in the way of a Service of that name."""
    if _SERVICE_NAME.fullmatch(gate_name(target)):
        return None
    return error(
        name_of(target),
        "metadata.name",
        f"`{gate_name(target)}` can't be the name of a Service",
        "name the target with up to 58 lower case letters, digits and `-`, beginning with a letter",
    )


def metadata(target: ProtectedTarget, name: str, annotations: dict[str, str] | None = None) -> Object:
    """The metadata of an object made for the target, in its namespace. Without a uid (not read from an API server) it has no owner."""
    made: Object = {
        "name": name,
        "namespace": str(target.metadata.namespace),
        "labels": {"app.kubernetes.io/managed-by": "sidegate", TARGET_LABEL: str(target.metadata.name)},
    }
    if annotations:
        made["annotations"] = annotations
    if target.metadata.uid is not None:
        made["ownerReferences"] = [
            {
                "apiVersion": API_VERSION,
                "kind": target.kind,
                "name": str(target.metadata.name),
                "uid": target.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ]
    return made


def outside_gate_labels(target: ProtectedTarget) -> dict[str, str]:
    """What the pods of a gate outside are selected by; a Deployment's selector can't be changed, so nothing else goes in."""
    return {OUTSIDE_GATE_LABEL: str(target.metadata.name)}
