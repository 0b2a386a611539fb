"""The pod patch: a pod that asks for a target gets the target's gate as a native sidecar, or is refused and told why.

Rules it keeps:
- A pod asks with the annotation or the label `sidegate.dev/target`. Which ProtectedTarget that is, the caller has looked up.
- The patch only adds: no field of the pod is dropped or changed, and nothing but the gate is moved. The gate comes first among the init
  containers, so that it is there before anything else runs, or takes its ports, and goes after everything else has ended (KEP-753): also
  one that the template names itself, or that another webhook put something before. Only redirection is set up before it.
- Idempotent: a pod that has the gate, as this operator would make it now, gets an empty patch.
- Where the gate couldn't guard itself from the pod's other containers (`pod_checks`), there is no gate but a refusal.

The pod is what an AdmissionReview has: the API server has decoded it, so its shape is known. It leaves out who asked, and pods that run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from sidegate.api.protected_target import ProtectedTarget, Protocol
from sidegate.api.text import shown
from sidegate_operator.plan.gate_container import (
    GateParts,
    GateSettings,
    gate_parts,
)
from sidegate_operator.plan.injection import (
    DEFAULT_CONTAINER_ANNOTATION,
    INJECTED_ANNOTATION,
    Injection,
    InjectionReason,
    InjectionRefused,
    NotOurs,
    Operation,
    PodPatch,
    Untouched,
    injected_note,
)
from sidegate_operator.plan.owned import INJECT_LABEL, TARGET_LABEL
from sidegate_operator.plan.pod_checks import OUR_NAMES, Arrival, Pod, entries, pod_problem
from sidegate_operator.plan.redirect import is_redirected, redirect_container
from sidegate_operator.plan.redirect_checks import redirect_problem


def named_target(pod: Pod) -> str | None:
    """The name of the target that the pod asks for, in its own namespace; the annotation's when the label has another."""
    return _annotations(pod).get(TARGET_LABEL, _labels(pod).get(TARGET_LABEL))


def plan_sidecar(pod: Pod, target: ProtectedTarget | None, settings: GateSettings) -> Injection:
    """What becomes of the pod. `target` is the one that `named_target` names, None when there is none of that name."""
    name = named_target(pod)
    if name is None:
        return NotOurs(Untouched.NO_TARGET)
    if is_of_a_job(pod):
        return _ungated(pod, Untouched.JOB)
    refused = _target_problem(pod, name, target)
    if refused is not None:
        return refused
    assert target is not None  # that was a problem
    if target.spec.enforcement.allow_opt_out and _labels(pod).get(INJECT_LABEL) == "false":
        return _ungated(pod, Untouched.OPTED_OUT)
    if is_redirected(target) and not settings.redirect_image:
        problem = f"ProtectedTarget `{name}` asks for redirection, and admission runs without --redirect-image"
        return InjectionRefused(InjectionReason.REDIRECT_IMPOSSIBLE, problem)
    parts = gate_parts(target, settings, {"restartPolicy": "Always"})
    parts = replace(parts, redirect=redirect_container(target, settings))
    arrival = Arrival(pod, target.spec.port, settings, parts)
    refused = pod_problem(arrival) or redirect_problem(arrival)
    if refused is not None:
        return refused
    return PodPatch(name, tuple(_operations(pod, parts, injected_note(target, settings, parts))))


def _ungated(pod: Pod, why: Untouched) -> NotOurs | InjectionRefused:
    """Owners and labels can be taken off a pod once it runs; what is called a gate in it would count as one then."""
    found = next((each["name"] for each in entries(pod, "initContainers") if each["name"] in OUR_NAMES), None)
    if found is None:
        return NotOurs(why)
    problem = f"the pod gets no gate ({why.value}), and has a container `{found}`"
    return InjectionRefused(InjectionReason.FOREIGN_GATE, problem)


def _operations(pod: Pod, parts: GateParts, note: str) -> Iterator[Operation]:
    annotations = _annotations(pod)
    wanted = {INJECTED_ANNOTATION: note}
    if DEFAULT_CONTAINER_ANNOTATION not in annotations:
        wanted[DEFAULT_CONTAINER_ANNOTATION] = pod["spec"]["containers"][0]["name"]
    missing = {key: value for key, value in wanted.items() if annotations.get(key) != value}
    if missing and not annotations:
        yield _add("/metadata/annotations", missing)
    else:
        for key, value in missing.items():
            yield _add(f"/metadata/annotations/{key.replace('~', '~0').replace('/', '~1')}", value)
    init_containers = entries(pod, "initContainers")
    ours = [parts.container] if parts.redirect is None else [parts.redirect, parts.container]
    if not init_containers:
        yield _add("/spec/initContainers", ours)
    else:
        yield from _to_the_front(ours, [each["name"] for each in init_containers])
    volumes = entries(pod, "volumes")
    names = {each["name"] for each in volumes}
    added = [each for each in parts.volumes if each["name"] not in names]
    if not volumes:
        yield _add("/spec/volumes", added)
    else:
        for volume in added:
            yield _add("/spec/volumes/-", volume)


def _to_the_front(ours: Sequence[Operation], present: list[str]) -> Iterator[Operation]:
    """Adds or moves ours, so that they come first, in their order."""
    if present[: len(ours)] == [each["name"] for each in ours]:
        return
    for container in reversed(ours):
        name = container["name"]
        if name not in present:
            yield _add("/spec/initContainers/0", container)
        else:
            index = present.index(name)
            del present[index]
            if index:
                yield {"op": "move", "from": f"/spec/initContainers/{index}", "path": "/spec/initContainers/0"}
        present.insert(0, name)


def _add(path: str, value: object) -> Operation:
    return {"op": "add", "path": path, "value": value}


# ---- what the pod asks for ------------------------------------------------------------------------------------------------------------


def is_of_a_job(pod: Pod) -> bool:
    """Whether a Job made it, which would never end while a gate runs in it. Other kinds that are called Job are no Jobs."""
    return any(
        owner.get("kind") == "Job" and owner.get("apiVersion", "").startswith("batch/") and owner.get("controller") is True
        for owner in pod["metadata"].get("ownerReferences") or []
    )


def _target_problem(pod: Pod, name: str, target: ProtectedTarget | None) -> InjectionRefused | None:
    label, inject = _labels(pod).get(TARGET_LABEL, name), _labels(pod).get(INJECT_LABEL, "true")
    if label != name:
        problem = f"the pod's annotation names target {shown(name)}, its label {shown(label)}"
        return InjectionRefused(InjectionReason.TARGETS_DIFFER, problem)
    if target is None or target.metadata.name != name:
        return InjectionRefused(
            InjectionReason.TARGET_NOT_FOUND, f"there is no ProtectedTarget {shown(name)} in the pod's namespace"
        )
    if target.spec.selector is None:
        return InjectionRefused(InjectionReason.TARGET_GATED_OUTSIDE, f"ProtectedTarget `{name}` is gated from outside its pods")
    if not target.spec.selector.matches(_labels(pod)):
        return InjectionRefused(InjectionReason.NOT_SELECTED, f"ProtectedTarget `{name}` doesn't select the pod")
    if target.spec.protocol is not Protocol.POSTGRES:
        problem = f"protocol `{target.spec.protocol.value}` can't be gated by this version"
        return InjectionRefused(InjectionReason.PROTOCOL_NOT_GATED, problem)
    if inject not in {"true", "false"}:
        return InjectionRefused(InjectionReason.INJECT_LABEL_INVALID, f"label `{INJECT_LABEL}` is {shown(inject)}")
    return None


def _labels(pod: Pod) -> Mapping[str, str]:
    return pod["metadata"].get("labels") or {}


def _annotations(pod: Pod) -> Mapping[str, str]:
    return pod["metadata"].get("annotations") or {}
