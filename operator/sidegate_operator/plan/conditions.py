"""Conditions as Kubernetes has them (metav1.Condition): the closed list of reasons, and what a new observation makes of the old ones.

Rules it keeps:
- A reason belongs to one type and has one status: whoever names the reason has said whether the condition holds.
- The transition time moves when the status does, and with nothing else: writing what is there already changes nothing, byte for byte.
- Every condition that is ever written has its row here; docs/conditions.md is made from these tables.

Left out: which reason applies (`status`, `approval_lifecycle`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from sidegate.api.meta import Condition, ConditionStatus
from sidegate.api.text import Timestamp

MAX_MESSAGE: Final = 4096


class ConditionType(enum.StrEnum):
    """What is observed. All are good news when True; `Ready` sums the others up."""

    ACCEPTED = "Accepted"
    COMPILED = "Compiled"
    SYNCED = "Synced"
    ENFORCED = "Enforced"
    GUARDED = "Guarded"
    READY = "Ready"
    DECIDED = "Decided"
    FINISHED = "Finished"


@dataclass(frozen=True, slots=True)
class Row:
    """One reason: of which condition, with which status, and the sentence that goes with it."""

    type: ConditionType
    status: ConditionStatus
    reason: str
    meaning: str


_T, _F, _U = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
_ACCEPTED, _COMPILED, _SYNCED = ConditionType.ACCEPTED, ConditionType.COMPILED, ConditionType.SYNCED
_ENFORCED, _GUARDED, _READY = ConditionType.ENFORCED, ConditionType.GUARDED, ConditionType.READY


class TargetReason(enum.Enum):
    """Of a ProtectedTarget's conditions."""

    ACCEPTED = Row(_ACCEPTED, _T, "Accepted", "the target can be protected as it is written")
    INVALID = Row(_ACCEPTED, _F, "Invalid", "the target has errors")
    PODS_DONT_ASK = Row(
        _ACCEPTED, _F, "PodsDontAsk", "its selector picks pods that don't ask for a gate, so that they never get one"
    )
    SELECTORS_OVERLAP = Row(_ACCEPTED, _F, "SelectorsOverlap", "a pod of it belongs to another target too, and a gate serves one")

    COMPILED = Row(_COMPILED, _T, "Compiled", "the newest policies are compiled")
    TARGET_INVALID = Row(_COMPILED, _F, "TargetInvalid", "nothing can be compiled for a target with errors")
    POLICY_INVALID = Row(_COMPILED, _F, "PolicyInvalid", "a policy that is bound to it can't be compiled")
    CONFIG_TOO_LARGE = Row(_COMPILED, _F, "ConfigTooLarge", "the gate config doesn't fit into a ConfigMap")

    SYNCED = Row(_SYNCED, _T, "Synced", "every gate enforces the revision that was published last")
    PROGRESSING = Row(_SYNCED, _F, "Progressing", "gates are being told of the newest revision")
    GATES_LATE = Row(_SYNCED, _F, "GatesLate", "gates were told of the newest revision and don't enforce it yet")
    NO_GATES = Row(_SYNCED, _U, "NoGates", "there is no gate that could enforce anything")
    NOT_PUBLISHED = Row(_SYNCED, _U, "NotPublished", "no gate config was ever published, so gates refuse everything")

    DOORS_CLOSED = Row(_ENFORCED, _T, "DoorsClosed", "a probe found no way into the target but the gate")
    DOORS_OPEN = Row(_ENFORCED, _F, "DoorsOpen", "there are ways into the target that avoid the gate")
    PODS_WITHOUT_GATE = Row(_ENFORCED, _F, "PodsWithoutGate", "pods of the target run without a gate")
    PODS_NOT_REDIRECTED = Row(
        _ENFORCED, _F, "PodsNotRedirected", "pods of the target were made before it asked for redirection, and aren't redirected"
    )
    PODS_NOT_SELECTED = Row(
        _ENFORCED,
        _F,
        "PodsNotSelected",
        "its selector misses pods that run its gate, so no Service and no NetworkPolicy is for them",
    )
    NOT_PROBED = Row(_ENFORCED, _U, "NotProbed", "nobody has tried the ways into the target that avoid the gate")
    PROBE_UNCLEAR = Row(_ENFORCED, _U, "ProbeUnclear", "a probe of other ways into the target got answers that tell nothing")
    NO_PODS = Row(_ENFORCED, _U, "NoPods", "there is no pod that could be protected")

    GUARDED = Row(_GUARDED, _T, "Guarded", "admission guards who decides, so statements can be held for approval")
    UNGUARDED = Row(_GUARDED, _F, "Unguarded", "admission doesn't guard who decides, so no statement is held for approval")

    READY = Row(_READY, _T, "Ready", "every gate enforces the newest policies, and no other way in is open")
    READY_UNPROBED = Row(_READY, _T, "ReadyUnprobed", "every gate enforces the newest policies; other ways in were not probed")
    NOT_ACCEPTED = Row(_READY, _F, "NotAccepted", "see condition Accepted")
    NOT_COMPILED = Row(_READY, _F, "NotCompiled", "see condition Compiled")
    NOT_SYNCED = Row(_READY, _F, "NotSynced", "see condition Synced")
    NOT_ENFORCED = Row(_READY, _F, "NotEnforced", "see condition Enforced")
    NOT_GUARDED = Row(_READY, _F, "NotGuarded", "see condition Guarded")
    WAITING = Row(_READY, _U, "Waiting", "there is nothing yet to tell it by")


class PolicyReason(enum.Enum):
    """Of an AccessPolicy's conditions."""

    ACCEPTED = Row(_ACCEPTED, _T, "Accepted", "the policy is bound to a target and well written")
    INVALID = Row(_ACCEPTED, _F, "Invalid", "the policy has errors")
    TARGET_NOT_FOUND = Row(_ACCEPTED, _F, "TargetNotFound", "no target of its namespace is picked by spec.targets")

    COMPILED = Row(_COMPILED, _T, "Compiled", "it is part of the gate config of each of its targets")
    POLICY_INVALID = Row(_COMPILED, _F, "PolicyInvalid", "it can't be compiled")
    TARGET_HELD_BACK = Row(_COMPILED, _F, "TargetHeldBack", "a target of it can't be compiled for another reason")
    NOTHING_TO_COMPILE = Row(_COMPILED, _U, "NothingToCompile", "it is bound to no target")

    SYNCED = Row(_SYNCED, _T, "Synced", "every gate of its targets enforces it")
    PROGRESSING = Row(_SYNCED, _F, "Progressing", "not every gate of its targets enforces it yet")
    NO_GATES = Row(_SYNCED, _U, "NoGates", "its targets have no gate that could enforce it")

    ENFORCED = Row(_ENFORCED, _T, "Enforced", "a probe found no way into its targets but the gates")
    OBSERVE_ONLY = Row(_ENFORCED, _F, "ObserveOnly", "it only observes, as spec.mode says")
    TARGET_NOT_ENFORCED = Row(_ENFORCED, _F, "TargetNotEnforced", "a target of it can be reached without a gate")
    NOT_PROBED = Row(_ENFORCED, _U, "NotProbed", "nobody has tried the ways into its targets that avoid the gates")

    READY = Row(_READY, _T, "Ready", "every gate of its targets enforces it, and no other way in is open")
    READY_OBSERVING = Row(_READY, _T, "ReadyObserving", "every gate of its targets observes it")
    READY_UNPROBED = Row(_READY, _T, "ReadyUnprobed", "every gate of its targets enforces it; other ways in were not probed")
    NOT_ACCEPTED = Row(_READY, _F, "NotAccepted", "see condition Accepted")
    NOT_COMPILED = Row(_READY, _F, "NotCompiled", "see condition Compiled")
    NOT_SYNCED = Row(_READY, _F, "NotSynced", "see condition Synced")
    NOT_ENFORCED = Row(_READY, _F, "NotEnforced", "see condition Enforced")
    WAITING = Row(_READY, _U, "Waiting", "there is nothing yet to tell it by")


class RequestReason(enum.Enum):
    """Of an ApprovalRequest's conditions."""

    WAITING = Row(ConditionType.DECIDED, _F, "Waiting", "approvers haven't decided")
    APPROVED = Row(ConditionType.DECIDED, _T, "Approved", "as many approvers as needed said yes")
    DENIED = Row(ConditionType.DECIDED, _T, "Denied", "an approver said no")
    UNDECIDED = Row(ConditionType.DECIDED, _F, "Undecided", "it ended before approvers decided")

    OPEN = Row(ConditionType.FINISHED, _F, "Open", "it can still be decided")
    USABLE = Row(ConditionType.FINISHED, _F, "Usable", "the approval can be used, once, until it expires")
    WAS_DENIED = Row(ConditionType.FINISHED, _T, "WasDenied", "the statement doesn't run")
    EXPIRED = Row(ConditionType.FINISHED, _T, "Expired", "nobody decided, or used the approval, in time")
    WITHDRAWN = Row(ConditionType.FINISHED, _T, "Withdrawn", "nobody wants it any more")
    DISBELIEVED = Row(ConditionType.FINISHED, _T, "Disbelieved", "it was marked as approved, and its decisions don't say so")
    EXECUTED = Row(ConditionType.FINISHED, _T, "Executed", "the approval was used")


ConditionReason: TypeAlias = TargetReason | PolicyReason | RequestReason


@dataclass(frozen=True, slots=True)
class Observed:
    """What is observed now. `detail` goes behind the reason's own sentence."""

    reason: ConditionReason
    detail: str = ""

    @property
    def row(self) -> Row:
        row: Row = self.reason.value
        return row

    @property
    def message(self) -> str:
        text = f"{self.row.meaning}: {self.detail}" if self.detail else self.row.meaning
        return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 4]} ..."


def conditions_after(
    before: Sequence[Condition], observed: Sequence[Observed], generation: int | None, now: float
) -> tuple[Condition, ...]:
    """The conditions after an observation at `now`, in the order given. What isn't observed any more is left out."""
    had = {each.type: each for each in before}
    made = []
    for each in observed:
        row, old = each.row, had.get(each.row.type.value)
        since = old.last_transition_time if old is not None and old.status is row.status else Timestamp.from_epoch(now)
        made.append(
            Condition(
                type=row.type.value,
                status=row.status,
                observed_generation=generation,
                last_transition_time=since,
                reason=row.reason,
                message=each.message,
            )
        )
    return tuple(made)


def transitions(before: Sequence[Condition], after: Sequence[Condition]) -> tuple[Condition, ...]:
    """The conditions whose status isn't what it was. At first sight `Unknown` is no news."""
    had = {each.type: each.status for each in before}
    return tuple(each for each in after if each.status is not had.get(each.type, ConditionStatus.UNKNOWN))


def merge_patch(before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object] | None:
    """The JSON Merge Patch (RFC 7396) from one document to another; None: they are the same."""
    patch: dict[str, object] = {name: None for name in before if name not in after}
    for name, value in after.items():
        was = before.get(name)
        if isinstance(was, dict) and isinstance(value, dict):
            inner = merge_patch(was, value)
            if inner is not None:
                patch[name] = inner
        elif was != value:
            patch[name] = value
    return patch or None
