"""`sidegate protect`: what stands in its way, what it changes, and how the rollout stands that follows. Pure.

Rules it keeps: a workload that another one writes is never changed; a template whose pods would be refused isn't either, since a rollout
would leave its database with one pod less. Left out: reading and writing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sidegate_cluster.pages.pod_story import PodFacts, pod_story
from sidegate_cluster.pages.refusals import Told
from sidegate_cluster.pages.workloads import WorkloadKind, controller, of_owner
from sidegate_operator.plan.owned import PROTECTED_LABEL, TARGET_LABEL
from sidegate_operator.plan.pods import SeenPod

Wire: TypeAlias = "Mapping[str, Any]"

# Who applies the object from elsewhere, and would take the annotation out again: annotation or label -> what it is called.
_APPLIED_BY: Final = {
    "meta.helm.sh/release-name": "the Helm release",
    "argocd.argoproj.io/tracking-id": "Argo CD as",
    "kustomize.toolkit.fluxcd.io/name": "the Flux kustomization",
    "helm.toolkit.fluxcd.io/name": "the Flux release",
}


@dataclass(frozen=True, slots=True)
class Change:
    """`patch` None: it is so already. `lines` show what it changes; `notes` are for who must do something besides."""

    patch: Mapping[str, Any] | None
    lines: tuple[str, ...]
    notes: tuple[str, ...]


def change_wanted(
    kind: WorkloadKind, workload: Wire, target: Wire | None, name: str | None, selecting: Collection[str] = ()
) -> Change | Told:
    """What has to change so that the workload's pods ask for target `name`; None: for none. `target` is what there is of that name;
    `selecting` are the targets whose pods admission lets in with a gate only: those of a protected namespace.
    """
    word = f"{kind.words[0]}/{workload['metadata']['name']}"
    owner = controller(workload)
    if owner is not None:
        above = of_owner(owner)
        instead = f"{above.words[0]}/{owner['name']}" if above is not None else f"{owner.get('kind')} `{owner.get('name')}`"
        return Told(
            f"{word} is made by {owner.get('kind')} `{owner.get('name')}`, which would write over it", f"change {instead} instead"
        )
    problem = _label_problem(kind, workload, word, name)
    if problem is not None:
        return problem
    has = kind.target(workload)
    if name is not None:
        problem = _target_problem(kind, workload, target, name)
        if problem is not None:
            return problem
        if has not in {None, name}:
            return Told(
                f"the pods of {word} ask for target `{has}`", f"sidegate protect {word} --undo first, or leave it as it is"
            )
    elif has is not None and has in selecting:
        namespace = workload["metadata"]["namespace"]
        return Told(
            f"namespace {namespace} is protected and ProtectedTarget `{has}` is there: pods of {word} without a gate would be refused, "
            "and its database be left without a pod",
            f"kubectl label namespace {namespace} {PROTECTED_LABEL}- first, which takes the verb bypass; or delete the target",
        )
    if has == name:
        return Change(None, (), ())
    path = ".".join(kind.path)
    removed = () if has is None else (f"-   {TARGET_LABEL}: {has}",)
    added = () if name is None else (f"+   {TARGET_LABEL}: {name}",)
    return Change(kind.patch(name), (f"    {path}:", *removed, *added), tuple(_notes(kind, workload, path)))


def _label_problem(kind: WorkloadKind, workload: Wire, word: str, name: str | None) -> Told | None:
    label = kind.pod_labels(workload).get(TARGET_LABEL)
    if label in {None, name}:
        return None
    return Told(
        f"the template of {word} has the label `{TARGET_LABEL}: {label}`",
        "take the label out of the template; the annotation is enough",
    )


def _target_problem(kind: WorkloadKind, workload: Wire, target: Wire | None, name: str) -> Told | None:
    if target is None:
        return Told(
            f"there is no ProtectedTarget `{name}` in namespace `{workload['metadata']['namespace']}`",
            "create it first: pods that ask for a target that isn't there are refused",
        )
    pod = kind.template_pod(workload)
    if pod is None:
        if (target.get("spec") or {}).get("selector") is None:
            return Told(
                f"ProtectedTarget `{name}` is gated from outside its pods", "give it spec.selector instead of spec.endpoint"
            )
        return None
    pod["metadata"]["annotations"] = {**(pod["metadata"].get("annotations") or {}), TARGET_LABEL: name}
    story = pod_story(PodFacts(pod, [target], owner=(kind, workload), is_webhook_known=False, is_template=True))
    return None if story.is_fine else Told(f"its pods would be refused: {story.problem}", story.way_forward)


def _notes(kind: WorkloadKind, workload: Wire, path: str) -> list[str]:
    notes = []
    metadata = workload["metadata"]
    known = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    for key, what in _APPLIED_BY.items():
        if key in known:
            notes.append(f"{what} `{known[key]}` applies it: write it there too ({path}), or the next time takes it out")
    by_hand = kind.how_rolled_out(workload)
    if by_hand:
        notes.append(by_hand)
    return notes


@dataclass(frozen=True, slots=True)
class Rollout:
    """`pods`: what is to be said of each. `summary`: of all of them."""

    pods: Mapping[str, str]
    summary: str
    is_done: bool


def rollout(kind: WorkloadKind, workload: Wire, target: Wire | None, pods: Sequence[Wire], is_undone: bool) -> Rollout:
    """How far the workload's pods have come; `pods` are those that it made."""
    seen = sorted((SeenPod.from_wire(each) for each in pods), key=lambda each: each.name)
    said = {each.name: _state(each, is_undone) for each in seen}
    alive = [each for each in seen if not each.is_over]
    is_rolled_out = _is_rolled_out(kind, workload, len(alive)) and len(alive) == len(seen)
    if is_undone:
        left = sum(each.has_gate for each in seen)
        return Rollout(said, f"{left} of {len(seen)} pods have a gate still", is_rolled_out and left == 0)
    gated = sum(each.has_gate for each in alive)
    status = (target or {}).get("status") or {}
    gates = status.get("gates") or {}
    synced, total = gates.get("synced", 0), gates.get("total", 0)
    is_synced = synced >= total >= gated == len(alive) and status.get("revision") is not None
    summary = f"{gated} of {len(alive)} pods have their gate; {synced} of {total} gates enforce the newest revision"
    return Rollout(said, summary, is_rolled_out and is_synced)


def _state(pod: SeenPod, is_undone: bool) -> str:
    if pod.is_over:
        return "ends"
    if not pod.has_gate:
        return "has no gate any more" if is_undone else "has no gate yet"
    return "has a gate still" if is_undone else "its gate serves clients" if pod.is_gate_ready else "its gate starts"


def _is_rolled_out(kind: WorkloadKind, workload: Wire, pods: int) -> bool:
    """As far as the workload says so itself."""
    if kind.pod_label is not None:
        return pods > 0
    status, spec = workload.get("status") or {}, workload.get("spec") or {}
    if status.get("observedGeneration", 0) < workload["metadata"].get("generation", 0):
        return False
    if "desiredNumberScheduled" in status:
        return bool(status.get("updatedNumberScheduled", 0) == status["desiredNumberScheduled"] == pods)
    wanted = spec.get("replicas", 1)
    if wanted == 0:
        return pods == 0
    is_new = status.get("updatedReplicas", 0) == wanted or (
        status.get("currentRevision") == status.get("updateRevision") is not None and status.get("currentReplicas", 0) == wanted
    )
    return bool(is_new and pods == wanted)
