"""What can become of a pod that is about to be made: it gets a gate, it is refused, or it is none of ours.

Rules it keeps:
- A closed list of reasons, each with the sentence that says what to do; they go into events and conditions, so they are never renamed.
- Refused is never the same as not ours: only what names no target, or may go without a gate, passes untouched.

It leaves out how that is found out (`sidecar`).
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.plan.gate_container import GateParts, GateSettings

INJECTED_ANNOTATION: Final = "sidegate.dev/injected"  # written with the gate: which one it is
DEFAULT_CONTAINER_ANNOTATION: Final = "kubectl.kubernetes.io/default-container"

Operation: TypeAlias = "dict[str, Any]"


class Untouched(enum.StrEnum):
    """Why a pod passes as it is."""

    NO_TARGET = "NoTarget"  # neither annotation nor label names one
    JOB = "Job"  # a gate would keep it from ending, and it is no database
    OPTED_OUT = "OptedOut"  # by label, where the target allows it


class InjectionReason(enum.StrEnum):
    """Why a pod is refused. The member's text for people is in `WAYS_FORWARD`."""

    TARGETS_DIFFER = "TargetsDiffer"
    TARGET_NOT_FOUND = "TargetNotFound"
    TARGET_GATED_OUTSIDE = "TargetGatedOutside"
    NOT_SELECTED = "NotSelected"
    PROTOCOL_NOT_GATED = "ProtocolNotGated"
    INJECT_LABEL_INVALID = "InjectLabelInvalid"
    NOT_LINUX = "NotLinux"
    HOST_NETWORK = "HostNetwork"
    SHARED_PROCESSES = "SharedProcesses"
    SAME_USER = "SameUser"
    CONTAINER_NAME_TAKEN = "ContainerNameTaken"
    FOREIGN_GATE = "ForeignGate"
    VOLUME_NAME_TAKEN = "VolumeNameTaken"
    VOLUME_MOUNTED = "VolumeMounted"
    PORT_TAKEN = "PortTaken"
    REDIRECT_IMPOSSIBLE = "RedirectImpossible"


WAYS_FORWARD: Final[dict[InjectionReason, str]] = {
    InjectionReason.TARGETS_DIFFER: "let annotation and label name the same target, or leave one out",
    InjectionReason.TARGET_NOT_FOUND: "create the ProtectedTarget first, in the pod's namespace, or correct the name",
    InjectionReason.TARGET_GATED_OUTSIDE: "leave the annotation out: its gate has pods of its own; or give the target a selector",
    InjectionReason.NOT_SELECTED: "give the pod the labels that the target's spec.selector wants, or change the selector",
    InjectionReason.PROTOCOL_NOT_GATED: "protect PostgreSQL targets, or wait for the release that brings this gate",
    InjectionReason.INJECT_LABEL_INVALID: 'write "false" on a target that allows it, or leave the label out',
    InjectionReason.NOT_LINUX: "run the target on Linux, or give the ProtectedTarget an endpoint instead of a selector",
    InjectionReason.HOST_NETWORK: "leave hostNetwork out, or give the ProtectedTarget an endpoint instead of a selector",
    InjectionReason.SHARED_PROCESSES: "leave shareProcessNamespace and hostPID out, or give the ProtectedTarget an endpoint",
    InjectionReason.SAME_USER: "run it as another user",
    InjectionReason.CONTAINER_NAME_TAKEN: "rename the container",
    InjectionReason.FOREIGN_GATE: "leave the gate out of the pod template, it is added when the pod is made; or find out which other "
    "webhook changes it",
    InjectionReason.VOLUME_NAME_TAKEN: "rename the volume; those of the gate are added when the pod is made",
    InjectionReason.VOLUME_MOUNTED: "mount a volume of your own: what the gate has is for the gate alone",
    InjectionReason.PORT_TAKEN: "let the container listen at another port",
    InjectionReason.REDIRECT_IMPOSSIBLE: "remove what stands in the way, or write enforcement.mode: DatabaseRules in the ProtectedTarget",
}


@dataclass(frozen=True, slots=True)
class PodPatch:
    """A JSON Patch (RFC 6902) that only adds, or moves the gate to the front. Empty: the pod has its gate already, in its place."""

    target: str
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class InjectionRefused:
    reason: InjectionReason
    problem: str

    @property
    def way_forward(self) -> str:
        return WAYS_FORWARD[self.reason]

    def __str__(self) -> str:
        return f"{self.problem}; fix: {self.way_forward}"


@dataclass(frozen=True, slots=True)
class NotOurs:
    why: Untouched


Injection: TypeAlias = "PodPatch | InjectionRefused | NotOurs"


def injected_note(target: ProtectedTarget, settings: GateSettings, parts: GateParts) -> str:
    """The value of `sidegate.dev/injected`: which gate was put in, and by what template."""
    note = {"gate": settings.version, "target": str(target.metadata.name), "template": parts.template}
    return json.dumps(note, separators=(",", ":"))
