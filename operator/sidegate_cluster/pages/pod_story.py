"""Why a pod has its gate, or has none: one reason, what it means, and what to do. Pure; injection itself is `plan.sidecar`'s.

Rules it keeps:
- What injection says of a pod is asked of the same code that admission runs; the gate's image, which that needs, is of no matter to it.
- What was true when the pod was made can't be seen any more: times tell it, and a trial (the same pod, made without being kept).
- A reason of `plan.injection` keeps its name; those beside it are here.

Left out: reading the cluster, and what can't be known without it: what isn't given is not guessed at.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from pydantic import ValidationError

from sidegate.api.protected_target import ProtectedTarget
from sidegate.api.text import Timestamp
from sidegate_cluster.pages.refusals import Told
from sidegate_cluster.pages.workloads import WorkloadKind
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.plan.injection import INJECTED_ANNOTATION, InjectionRefused, NotOurs, PodPatch, Untouched
from sidegate_operator.plan.owned import INJECT_LABEL, TARGET_LABEL
from sidegate_operator.plan.pods import SeenPod
from sidegate_operator.plan.sidecar import named_target, plan_sidecar

Wire: TypeAlias = "Mapping[str, Any]"

# Injection asks for settings to make a gate with. None of what is asked here depends on them: a pod with a gate isn't planned again.
_SETTINGS: Final = GateSettings(image=f"sidegate.invalid/gate@sha256:{'0' * 64}", version="0")


class WhyReason(enum.StrEnum):
    """Beside those of injection."""

    INJECTED = "Injected"
    NO_TARGET = "NoTarget"
    ANNOTATION_MISPLACED = "AnnotationMisplaced"
    SELECTED_BUT_SILENT = "SelectedButSilent"
    OLDER_THAN_TEMPLATE = "OlderThanTemplate"
    ANNOTATED_LATER = "AnnotatedLater"
    OLDER_THAN_TARGET = "OlderThanTarget"
    OLDER_THAN_WEBHOOK = "OlderThanWebhook"
    NAMESPACE_EXCLUDED = "NamespaceExcluded"
    WEBHOOK_MISSING = "WebhookMissing"
    WEBHOOK_DOWN = "WebhookDown"
    WEBHOOK_NOT_ASKED = "WebhookNotAsked"
    REFUSED = "Refused"
    TARGET_UNREADABLE = "TargetUnreadable"
    JOB = "Job"
    OPTED_OUT = "OptedOut"
    OVER = "Over"
    NOT_MADE = "NotMade"
    WOULD_BE_INJECTED = "WouldBeInjected"


@dataclass(frozen=True, slots=True)
class Trial:
    """The same pod made once more, and not kept. `refused` None: it would be made."""

    has_gate: bool = False
    refused: Told | None = None
    is_webhook_down: bool = False


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod (or, `is_template`, one as its workload would make it) and what is around it. None: there is none, or it couldn't be read."""

    pod: Wire
    targets: Sequence[Wire] = ()
    owner: tuple[WorkloadKind, Wire] | None = None
    webhook: Wire | None = None  # the MutatingWebhookConfiguration `sidegate`
    is_webhook_known: bool = True  # whether it could be read at all
    is_namespace_excluded: bool = False
    trial: Trial | None = None
    is_template: bool = False


@dataclass(frozen=True, slots=True)
class PodStory:
    """`is_fine`: it has its gate, or needs none."""

    reason: str
    has_gate: bool
    is_fine: bool
    problem: str
    way_forward: str = ""


def pod_story(facts: PodFacts) -> PodStory:
    pod = facts.pod
    seen = SeenPod.from_wire({**pod, "metadata": {"uid": "", **pod["metadata"]}})
    name = named_target(pod)
    # Who didn't ask may call any container a gate, and so may who is where admission doesn't look.
    if seen.has_gate and name is not None and not seen.is_of_a_job and not facts.is_namespace_excluded:
        return _injected(pod, seen, name)
    if seen.is_over:
        return PodStory(WhyReason.OVER, False, True, "it has ended, or is about to: nothing of it can be reached")
    if name is None:
        return _silent(facts, seen)
    if facts.is_namespace_excluded:
        return PodStory(
            WhyReason.NAMESPACE_EXCLUDED,
            False,
            False,
            "pods of this namespace never get a gate: kube-system and Sidegate's own are left out",
            "run the database in a namespace of its own",
        )
    target = next((each for each in facts.targets if each["metadata"]["name"] == name), None)
    try:
        parsed = None if target is None else ProtectedTarget.from_wire(target)
    except (ValidationError, ValueError):
        return PodStory(
            WhyReason.TARGET_UNREADABLE,
            False,
            False,
            f"the ProtectedTarget `{name}` can't be read by this version",
            "apply the custom resource definitions and the target again",
        )
    planned = plan_sidecar(pod, parsed, _SETTINGS)
    match planned:
        case NotOurs(why=Untouched.JOB):
            return PodStory(WhyReason.JOB, False, True, "it is of a Job, which would never end while a gate runs in it")
        case NotOurs(why=Untouched.OPTED_OUT) if facts.trial is not None and facts.trial.refused is not None:
            return _refused(facts.trial, facts.trial.refused)  # a protected namespace wants more than the target's leave
        case NotOurs(why=Untouched.OPTED_OUT):
            return PodStory(
                WhyReason.OPTED_OUT,
                False,
                True,
                f'its label `{INJECT_LABEL}` is "false", and the target allows that',
                "take the label out of its template; or set spec.enforcement.allowOptOut of the target to false",
            )
        case InjectionRefused():
            return PodStory(str(planned.reason), False, False, planned.problem, planned.way_forward)
        case _:
            assert isinstance(planned, PodPatch)  # the fourth is that it asks for no target, which was seen to
            return _should_have_one(facts, target)


def _injected(pod: Wire, seen: SeenPod, name: str | None) -> PodStory:
    try:
        note = json.loads(seen.annotations.get(INJECTED_ANNOTATION, "{}"))
        version, target = note.get("gate", "?"), note.get("target", name)
    except (ValueError, AttributeError):
        version, target = "?", name
    state = "it serves clients" if seen.is_gate_ready else "it doesn't serve clients yet"
    way_forward = "" if seen.is_gate_ready else "see what it logs: kubectl logs POD -c sidegate-gate"
    return PodStory(
        WhyReason.INJECTED, True, True, f"it has a gate of target `{target}` (version {version}), and {state}", way_forward
    )


def _silent(facts: PodFacts, seen: SeenPod) -> PodStory:
    """It names no target."""
    selecting = [str(each["metadata"]["name"]) for each in facts.targets if _selects(each, seen.labels)]
    where = _named(facts.owner)
    if facts.owner is not None:
        kind, owner = facts.owner
        wanted = kind.target(owner)
        if wanted is not None and not facts.is_template:
            return PodStory(
                WhyReason.OLDER_THAN_TEMPLATE,
                False,
                False,
                f"{where} asks for target `{wanted}` by now, and this pod was made before it did",
                kind.how_rolled_out(owner)
                or f"let its rollout go on, or begin it: kubectl rollout restart {kind.words[0]}/{owner['metadata']['name']}",
            )
        misplaced = (owner["metadata"].get("annotations") or {}).get(TARGET_LABEL)
        if misplaced is not None:
            return PodStory(
                WhyReason.ANNOTATION_MISPLACED,
                False,
                False,
                f"{where} itself has the annotation `{TARGET_LABEL}: {misplaced}`, and its pods don't get it from there",
                f"put it into {'.'.join(kind.path)}: sidegate protect {kind.words[0]}/{owner['metadata']['name']} --target {misplaced}",
            )
    if selecting:
        is_refused = facts.trial is not None and facts.trial.refused is not None
        refused = "; made now it would be refused" if is_refused else ""
        return PodStory(
            WhyReason.SELECTED_BUT_SILENT,
            False,
            False,
            f"target `{selecting[0]}` selects it by its labels, and it has no annotation `{TARGET_LABEL}` that asks for the gate{refused}",
            f"sidegate protect {_word(facts.owner)} --target {selecting[0]}",
        )
    return PodStory(
        WhyReason.NO_TARGET,
        False,
        True,
        f"it asks for none: no annotation or label `{TARGET_LABEL}`, and no target of its namespace selects it",
        f"where it should have one: sidegate protect {_word(facts.owner)} --target TARGET",
    )


def _should_have_one(facts: PodFacts, target: Wire | None) -> PodStory:
    """Made now it would get its gate, by all that injection looks at."""
    found = next(_causes(facts, target), None)
    if found is not None:
        return found
    if facts.is_template:
        return PodStory(WhyReason.WOULD_BE_INJECTED, False, True, "pods that it makes get their gate")
    return PodStory(
        WhyReason.WEBHOOK_NOT_ASKED,
        False,
        False,
        "nothing stands in the way of a gate, so Sidegate's webhook wasn't asked when the pod was made",
        f"have it made again: {_again(facts)}; `sidegate doctor` says whether the webhook is asked now",
    )


def _causes(facts: PodFacts, target: Wire | None) -> Iterator[PodStory]:
    """What keeps it from one now first, since making it again wouldn't help; then what kept it from one when it was made."""
    apply_chart = "apply the chart again: helm upgrade sidegate"
    if facts.is_webhook_known and facts.webhook is None:
        yield PodStory(
            WhyReason.WEBHOOK_MISSING,
            False,
            False,
            "there is no MutatingWebhookConfiguration `sidegate`, so nobody adds gates",
            apply_chart,
        )
    if facts.trial is not None and facts.trial.refused is not None:
        yield _refused(facts.trial, facts.trial.refused)
    if facts.trial is not None and facts.trial.refused is None and not facts.trial.has_gate:
        problem = "made now it would get no gate either: the webhook configuration doesn't send it to Sidegate"
        yield PodStory(
            WhyReason.WEBHOOK_NOT_ASKED, False, False, problem, f"{apply_chart}; `sidegate doctor` says what is changed"
        )
    if facts.is_template:
        return
    made = _moment(facts.pod)
    later = _annotated_later(facts.pod, made)
    if later:
        problem = "it was given its annotation after it was made, and gates are added when a pod is made"
        yield PodStory(
            WhyReason.ANNOTATED_LATER,
            False,
            False,
            problem,
            f"annotate its template: sidegate protect {_word(facts.owner)} --target {named_target(facts.pod)}",
        )
    if target is not None and made is not None and (_moment(target) or 0) > made:
        problem = f"it was made before the target `{target['metadata']['name']}` was"
        yield PodStory(WhyReason.OLDER_THAN_TARGET, False, False, problem, f"have it made again: {_again(facts)}")
    if facts.webhook is not None and made is not None and (_moment(facts.webhook) or 0) > made:
        problem = "it was made before Sidegate's webhook was installed"
        yield PodStory(WhyReason.OLDER_THAN_WEBHOOK, False, False, problem, f"have it made again: {_again(facts)}")


def _refused(trial: Trial, refused: Told) -> PodStory:
    reason = WhyReason.WEBHOOK_DOWN if trial.is_webhook_down else WhyReason.REFUSED
    return PodStory(reason, False, False, f"made now it would be refused: {refused.problem}", refused.way_forward)


def not_made(name: str, workload: tuple[WorkloadKind, Wire] | None, event: str | None, refused: PodStory | None) -> PodStory:
    """There is no such pod; what would make it, and what it says about that."""
    if workload is None:
        return PodStory(
            WhyReason.NOT_MADE,
            False,
            False,
            f"there is no pod `{name}`, and nothing that would make it",
            "compare with kubectl get pods",
        )
    said = f": {event}" if event else ""
    if refused is not None and not refused.is_fine:
        return PodStory(refused.reason, False, False, f"{_named(workload)} can't make it: {refused.problem}", refused.way_forward)
    return PodStory(
        WhyReason.NOT_MADE,
        False,
        False,
        f"there is no pod `{name}`; {_named(workload)} would make it{said}",
        f"see what it says: kubectl describe {workload[0].words[0]} {workload[1]['metadata']['name']}",
    )


def is_selected(pod: Wire, targets: Sequence[Wire]) -> bool:
    return any(_selects(each, pod["metadata"].get("labels") or {}) for each in targets)


def _selects(target: Wire, labels: Mapping[str, str]) -> bool:
    try:
        selector = ProtectedTarget.from_wire(target).spec.selector
    except (ValidationError, ValueError):
        return False
    return selector is not None and selector.matches(labels)


def _annotated_later(pod: Wire, made: float | None) -> bool:
    """Whether a later write than its creation gave it the annotation (metadata.managedFields)."""
    for each in pod["metadata"].get("managedFields") or ():
        fields = ((each.get("fieldsV1") or {}).get("f:metadata") or {}).get("f:annotations") or {}
        if f"f:{TARGET_LABEL}" in fields and made is not None:
            at = _epoch(each.get("time"))
            return at is not None and at > made + 1  # both are whole seconds
    return False


def _moment(wire: Wire) -> float | None:
    return _epoch(wire["metadata"].get("creationTimestamp"))


def _epoch(text: object) -> float | None:
    try:
        return Timestamp(str(text)).epoch_s
    except ValueError:
        return None


def _named(owner: tuple[WorkloadKind, Wire] | None) -> str:
    return "what makes it" if owner is None else f"{owner[0].kind} `{owner[1]['metadata']['name']}`"


def _word(owner: tuple[WorkloadKind, Wire] | None) -> str:
    return "KIND/NAME" if owner is None else f"{owner[0].words[0]}/{owner[1]['metadata']['name']}"


def _again(facts: PodFacts) -> str:
    if facts.owner is None:
        return f"kubectl delete pod {facts.pod['metadata']['name']}, and create it again"
    kind, owner = facts.owner
    return (
        kind.note.replace("NAME", owner["metadata"]["name"])
        or f"kubectl rollout restart {kind.words[0]}/{owner['metadata']['name']}"
    )
