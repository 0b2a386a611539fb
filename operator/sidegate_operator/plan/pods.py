"""Pods as the plan sees them: whose they are, whether a gate runs in them, and what their gate was last told.

Rules it keeps:
- Whose a pod is, its labels and annotations say, and the gate in it, which nobody changes as long as the pod lives: so a pod that lost its
  labels is still seen. That a gate runs in it, only its containers say.
- A pod that is over needs no gate, nor does one of a Job that the target's selector doesn't pick. One that opted out needs none where its
  target allows that.
- What a gate was told stands in annotations, which others can write: a time that can't be is no time.

Left out: making gates (`sidecar`), and what gates report.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sidegate.api.protected_target import ProtectedTarget
from sidegate.api.text import Timestamp
from sidegate_operator.plan.gate_container import GATE_CONTAINER, REDIRECT_CONTAINER, TARGET_VARIABLE
from sidegate_operator.plan.owned import INJECT_LABEL, OUTSIDE_GATE_LABEL, REVISION_ANNOTATION, TARGET_LABEL
from sidegate_operator.plan.sidecar import is_of_a_job

BUMP_ANNOTATION: Final = (
    "sidegate.dev/told"  # how often the gate was told of the revision, and when last; a change wakes the kubelet
)
CLOCK_TOLERANCE_S: Final = 5.0
KUBE_SYSTEM: Final = "kube-system"
_TOLD: Final = re.compile(r"([1-9][0-9]{0,5}) times, last at (\S{20})")


@dataclass(frozen=True, slots=True)
class SeenPod:
    """One pod of the target's namespace. `gate_image`: of a gate beside the database, None without one; `gate_container_id`: of the one
    that runs, empty before; `gate_target`: what that gate was made for, None where it doesn't say.
    """

    name: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    has_gate: bool
    is_gate_ready: bool
    is_over: bool
    is_of_a_job: bool
    gate_image: str | None = None
    gate_container_id: str = ""
    gate_target: str | None = None
    addresses: tuple[str, ...] = ()  # its IP addresses, once it has some: one of each family where the cluster has both
    is_up: bool = False  # all its containers are ready, so that the target can be expected to listen
    is_redirected: bool = False  # its packets are led to the gate
    is_admitted: bool = True  # whether it came before Sidegate's webhook, as all do but those of a few namespaces

    @classmethod
    def from_wire(cls, pod: Mapping[str, Any], left_out: Collection[str] = (KUBE_SYSTEM,)) -> SeenPod:
        """Read a pod as the API server gives it. `left_out`: as `left_out_by_admission` says."""
        metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
        labels = metadata.get("labels") or {}
        sidecars = spec.get("initContainers") or []
        inside = [each for each in sidecars if each.get("name") == GATE_CONTAINER and each.get("restartPolicy") == "Always"]
        outside = OUTSIDE_GATE_LABEL in labels and any(
            each.get("name") == GATE_CONTAINER for each in spec.get("containers") or []
        )
        own = status.get("containerStatuses") or []
        states = [*(status.get("initContainerStatuses") or []), *own]
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            labels=labels,
            annotations=metadata.get("annotations") or {},
            has_gate=bool(inside) or outside,
            is_gate_ready=any(each.get("name") == GATE_CONTAINER and each.get("ready") is True for each in states),
            is_over="deletionTimestamp" in metadata or status.get("phase") in {"Succeeded", "Failed"},
            is_of_a_job=is_of_a_job(pod),
            gate_image=str(inside[0].get("image", "")) if inside else None,
            gate_container_id=next(
                (str(each.get("containerID") or "") for each in states if each.get("name") == GATE_CONTAINER), ""
            ),
            gate_target=_target_of(inside[0], metadata.get("namespace")) if inside else None,
            addresses=_addresses(status),
            is_up=bool(own) and all(each.get("ready") is True for each in own),
            is_redirected=any(each.get("name") == REDIRECT_CONTAINER for each in sidecars),
            is_admitted=metadata.get("namespace") not in left_out,
        )

    @property
    def asks_for(self) -> str | None:
        """The target that it asks for a gate of."""
        return self.annotations.get(TARGET_LABEL, self.labels.get(TARGET_LABEL))

    def is_of(self, target: ProtectedTarget) -> bool:
        """Whether a gate of the target belongs into it. A Job's pod gets none, but the Service may send clients to it: by labels."""
        name, selector = str(target.metadata.name), target.spec.selector
        if self.is_over:
            return False
        if self.is_of_a_job:
            return selector is not None and selector.matches(self.labels)
        if selector is None:
            return self.labels.get(OUTSIDE_GATE_LABEL) == name
        if self.gate_target == name:
            return True
        if target.spec.enforcement.allow_opt_out and self.labels.get(INJECT_LABEL) == "false":
            return False
        return self.asks_for == name or selector.matches(self.labels)

    def has_gate_of(self, target: ProtectedTarget) -> bool:
        """Whether admission put this target's gate in. Who didn't ask, or is where it doesn't look, may call anything a gate."""
        is_asked_for = target.spec.selector is None or (self.is_admitted and self.asks_for == target.metadata.name)
        return self.has_gate and is_asked_for and not self.is_of_a_job


def left_out_by_admission(own_namespace: str) -> frozenset[str]:
    """The namespaces whose pods never come before the webhook, which couldn't start there else: its configuration has the same."""
    return frozenset({KUBE_SYSTEM, own_namespace})


def _addresses(status: Mapping[str, Any]) -> tuple[str, ...]:
    every = [status.get("podIP"), *(each.get("ip") for each in status.get("podIPs") or [])]
    return tuple(dict.fromkeys(str(each) for each in every if each))


def _target_of(gate: Mapping[str, Any], namespace: object) -> str | None:
    """Of a gate beside the database, and of its own namespace alone."""
    values = (str(each.get("value", "")) for each in gate.get("env") or [] if each.get("name") == TARGET_VARIABLE)
    place, _, name = next(values, "").partition("/")
    return name if name and place == namespace else None


@dataclass(frozen=True, slots=True)
class Told:
    """What a gate was told by its pod's annotations: the revision, how often, and when last."""

    revision: str
    times: int
    at: float

    @classmethod
    def of(cls, pod: SeenPod, now: float) -> Told | None:
        """None: nothing that can be relied on."""
        revision, told = pod.annotations.get(REVISION_ANNOTATION), _TOLD.fullmatch(pod.annotations.get(BUMP_ANNOTATION, ""))
        if revision is None or told is None:
            return None
        try:
            at = Timestamp(told[2]).epoch_s
        except ValueError:
            return None
        return cls(revision, int(told[1]), at) if at <= now + CLOCK_TOLERANCE_S else None

    def annotations(self) -> dict[str, str]:
        return {
            REVISION_ANNOTATION: self.revision,
            BUMP_ANNOTATION: f"{self.times} times, last at {Timestamp.from_epoch(self.at)}",
        }
