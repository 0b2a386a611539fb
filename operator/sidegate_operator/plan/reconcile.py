"""One target, everything seen about it -> everything to do about it. The whole of what the operator decides for a target is here.

Rules it keeps:
- Pure and level-triggered: the same snapshot gives the same plan, and once the plan is carried out there is nothing left to do.
- In this order: objects are applied, then gates are told, then the status says so, then events tell of it.
- A policy that can't be compiled or read changes nothing: the last good rules stay, are put back where somebody took them away, and the
  status says so, of the target and of the policy that is to blame. So does a target with errors.
- A gate is told again, at growing intervals, until it reports the revision itself. What pods and ConfigMaps claim counts for nothing.
- What bears the name of an object wanted and is somebody else's is left alone, and the status says so: whoever may make targets may not
  by that overwrite Services and ConfigMaps.
- A pod of the target that runs without a gate is never overlooked: it counts, and it makes `Enforced` False.
- A probe counts for the pods that it tried: one that came since makes `Enforced` Unknown again, an open door stays one.
- Events tell of conditions whose status changed, and once of a pod without a gate. At first sight only what isn't as it should be is news:
  an operator that is installed beside thousands of resources must not write as many events that all is well.

Left out: gathering the snapshot, writing, what other objects a target has (`beside` is an argument), and policies' statuses, which are
about all their targets (`policies`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sidegate.api.access_policy import AccessPolicy, AccessPolicyStatus, FindingSeverity
from sidegate.api.meta import API_VERSION, Condition, ConditionStatus
from sidegate.api.protected_target import ProtectedTarget, ProtectedTargetStatus
from sidegate.policy.compile import binds
from sidegate.policy.config import ConfigError, decode_config
from sidegate.policy.finding import Finding, error, name_of
from sidegate_operator.plan.beside import Beside, Builder, nothing_beside
from sidegate_operator.plan.conditions import ConditionType, transitions
from sidegate_operator.plan.config_map import plan_config_map
from sidegate_operator.plan.gate_config import PlannedConfig, plan_gate_config
from sidegate_operator.plan.gate_container import CONFIG_KEY
from sidegate_operator.plan.owned import Object, config_map_name, metadata
from sidegate_operator.plan.pods import SeenPod, Told
from sidegate_operator.plan.redirect import is_redirected
from sidegate_operator.plan.status import (
    GateState,
    PolicyReport,
    Probe,
    TargetFacts,
    condition_status,
    status_patch,
    target_status,
)

MAX_NOTE: Final = 1024  # of an event, in bytes (events.k8s.io/v1, note)
WITHOUT_GATE: Final = "PodWithoutGate"


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """One object of the target's namespace."""

    kind: str
    name: str

    @classmethod
    def of(cls, wanted: Object) -> ObjectKey:
        metadata = wanted["metadata"]
        assert isinstance(metadata, dict)
        return cls(str(wanted["kind"]), str(metadata["name"]))


@dataclass(frozen=True, slots=True)
class LastGood:
    """The ConfigMap that was compiled last, and its revision."""

    revision: str
    config_map: Object


@dataclass(frozen=True, slots=True)
class UnreadablePolicy:
    """A policy that the API server has and this version can't read. Whether it is bound to the target, nobody can tell."""

    name: str
    problem: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything about one target. `policies`, `neighbours` (other targets) and `pods` are of its namespace, all that have to do with it at
    least. `enforced`: pod uid -> the revision that its gate says it enforces, by its own proven identity; `problems`: why it enforces none
    that is newer, in its words. `live` are objects as the API server has them; `last_good` is what the plan before gave back, None after a
    restart. `authority`: the PEM certificates by which gates know the operator's gateway. `unguarded` as in `TargetFacts`.
    """

    target: ProtectedTarget
    policies: tuple[AccessPolicy, ...] = ()
    unreadable: tuple[UnreadablePolicy, ...] = ()
    neighbours: tuple[ProtectedTarget, ...] = ()
    pods: tuple[SeenPod, ...] = ()
    enforced: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    live: Mapping[ObjectKey, Object] = field(default_factory=dict)
    last_good: LastGood | None = None
    probe: Probe | None = None
    authority: str = ""
    unguarded: str | None = None


@dataclass(frozen=True, slots=True)
class PodAnnotation:
    """What is written to a pod. Its uid goes along, so that a new pod of the same name isn't taken for it."""

    pod: str
    uid: str
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StatusPatch:
    """A merge patch for `/status`, of an object as it was seen."""

    key: ObjectKey
    resource_version: str | None
    patch: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Event:
    """What people are told about one object. `reason` is a condition's, or `PodWithoutGate`."""

    key: ObjectKey
    uid: str | None
    is_warning: bool
    reason: str
    note: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in the order of the fields; and what to keep: `reports` by policy, which its status is made of, `last_good` for the next
    plan of this target. `look_again_at`: when time alone changes something.
    """

    apply: tuple[Object, ...] = ()
    remove: tuple[ObjectKey, ...] = ()
    annotate: tuple[PodAnnotation, ...] = ()
    statuses: tuple[StatusPatch, ...] = ()
    events: tuple[Event, ...] = ()
    reports: Mapping[str, PolicyReport] = field(default_factory=dict)
    last_good: LastGood | None = None
    look_again_at: float | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.apply or self.remove or self.annotate or self.statuses or self.events)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a gate gets before it is told again: doubled each time, up to the longest. After the first it is late."""

    first_s: float = 5.0
    longest_s: float = 300.0

    def wait_s(self, times: int) -> float:
        return min(self.longest_s, self.first_s * 2.0 ** min(times - 1, 30))


def reconcile(snapshot: Snapshot, now: float, beside: Builder = nothing_beside, pace: Pace = Pace()) -> Plan:
    """What to do about the target."""
    target = snapshot.target
    if target.metadata.deletion_timestamp is not None:
        return Plan(last_good=snapshot.last_good)  # what belongs to it goes with it, by its ownerReferences
    bound = tuple(each for each in snapshot.policies if binds(each, target))
    planned = plan_gate_config(target, snapshot.policies, snapshot.authority)
    others = beside(target)
    findings = (*(_unreadable(target, each) for each in snapshot.unreadable), *planned.findings)
    errors = _errors(findings)
    foreign = _foreign(snapshot, others)
    good = _good(snapshot, planned, errors) if _config_map_key(target) not in foreign else None
    apply, remove = _objects(snapshot, good, others, foreign)
    mine = tuple(sorted((each for each in snapshot.pods if each.is_of(target)), key=lambda each: each.name))
    gated = tuple(each for each in mine if each.has_gate_of(target))
    gates, annotate, wake = _gates(gated, snapshot, good, now, pace)
    without = tuple(each for each in mine if not each.has_gate_of(target))
    facts = TargetFacts(
        policies=tuple(str(each.metadata.name) for each in bound),
        errors=errors,
        is_too_large=planned.is_too_large and len(errors) == 1,
        object_errors=(*(_taken(target, key) for key in foreign), *_errors(others.findings)),
        revision=good.revision if good is not None else None,
        gates=gates,
        pods_without_gate=tuple(each.name for each in without),
        pods_not_redirected=tuple(each.name for each in mine if each.has_gate and not each.is_redirected)
        if is_redirected(target)
        else (),
        silent_pods=tuple(each.name for each in without if each.asks_for != target.metadata.name),
        unselected_pods=tuple(each.name for each in mine if each.has_gate and not _is_selected(each, target)),
        shared_pods=_shared(snapshot, mine),
        probe=snapshot.probe if snapshot.probe is not None and snapshot.probe.covers(each.uid for each in mine) else None,
        unguarded=snapshot.unguarded,
    )
    status = target_status(target, facts, now)
    reports = {str(each.metadata.name): _report(target, each, status, findings, errors) for each in bound}
    return Plan(
        apply=apply,
        remove=remove,
        annotate=annotate,
        statuses=patch_of(target, status),
        events=(*condition_events(target, status), *_pod_events(target, status, without)),
        reports=reports,
        last_good=good or snapshot.last_good,
        look_again_at=wake,
    )


def _is_selected(pod: SeenPod, target: ProtectedTarget) -> bool:
    return target.spec.selector is None or target.spec.selector.matches(pod.labels)


def _errors(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(each for each in findings if each.severity is FindingSeverity.ERROR)


def _unreadable(target: ProtectedTarget, policy: UnreadablePolicy) -> Finding:
    return error(
        f"AccessPolicy/{target.metadata.namespace}/{policy.name}",
        "spec",
        f"it can't be read: {policy.problem}",
        "mend or delete it; whether it limits this target can't be told",
    )


def _config_map_key(target: ProtectedTarget) -> ObjectKey:
    return ObjectKey("ConfigMap", config_map_name(target))


def _foreign(snapshot: Snapshot, beside: Beside) -> tuple[ObjectKey, ...]:
    """The names of objects wanted that are somebody else's."""
    wanted = sorted({_config_map_key(snapshot.target), *map(ObjectKey.of, beside.objects)})
    return tuple(key for key in wanted if key in snapshot.live and not _may_write(snapshot.live[key], snapshot.target))


def _taken(target: ProtectedTarget, key: ObjectKey) -> Finding:
    return error(
        name_of(target),
        "metadata.name",
        f"{key.kind} `{key.name}` is somebody else's, and the target needs one of that name",
        "call the target otherwise, or delete or rename what is there",
    )


def _good(snapshot: Snapshot, planned: PlannedConfig, errors: Sequence[Finding]) -> LastGood | None:
    """What gates are to enforce: what was compiled now, else what was compiled last, else what is published and holds together."""
    if planned.config_map is not None and planned.revision is not None and not errors:
        return LastGood(planned.revision, planned.config_map)
    if snapshot.last_good is not None:
        return _made_again(snapshot, str(snapshot.last_good.config_map["data"][CONFIG_KEY])) or snapshot.last_good
    live = snapshot.live.get(_config_map_key(snapshot.target))
    text = (live.get("data") or {}).get(CONFIG_KEY) if live is not None else None
    return _made_again(snapshot, text) if isinstance(text, str) else None


def _made_again(snapshot: Snapshot, text: str) -> LastGood | None:
    """The ConfigMap as it would be made now for an encoded config; None: it isn't whole, isn't this target's, or doesn't fit."""
    try:
        config = decode_config(text.encode())
    except ConfigError:
        return None
    me = snapshot.target.metadata
    if (config.target.namespace, config.target.name) != (me.namespace, me.name):
        return None
    planned = plan_config_map(snapshot.target, config, snapshot.authority)
    return LastGood(config.revision, planned.wanted) if planned.wanted is not None else None


def _objects(
    snapshot: Snapshot, good: LastGood | None, beside: Beside, foreign: Sequence[ObjectKey]
) -> tuple[tuple[Object, ...], tuple[ObjectKey, ...]]:
    """What differs from what is there, and what is ours and no longer wanted."""
    wanted = [*([good.config_map] if good is not None else []), *beside.objects]
    wanted = [each for each in wanted if ObjectKey.of(each) not in foreign]
    apply = tuple(each for each in wanted if not _covers(snapshot.live.get(ObjectKey.of(each)), each))
    if _errors(beside.findings):
        return apply, ()
    kept = {_config_map_key(snapshot.target), *map(ObjectKey.of, wanted)}
    return apply, tuple(sorted(key for key, live in snapshot.live.items() if key not in kept and _is_ours(live, snapshot.target)))


def _is_ours(live: Object, target: ProtectedTarget) -> bool:
    uid = target.metadata.uid
    return uid is not None and any(each.get("uid") == uid for each in _owners(live))


def _may_write(live: Object, target: ProtectedTarget) -> bool:
    """Ours, left over from a target of the same name, or made for it without the operator (`sidegate-operator render`): then it has our
    labels and no other controller."""
    if _is_ours(live, target):
        return True
    controllers = [each for each in _owners(live) if each.get("controller") is True]
    if controllers:
        me = (API_VERSION, target.kind, str(target.metadata.name))
        return all((each.get("apiVersion"), each.get("kind"), each.get("name")) == me for each in controllers)
    labels = live["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in metadata(target, "")["labels"].items())


def _owners(live: Object) -> Sequence[Mapping[str, object]]:
    return live["metadata"].get("ownerReferences") or ()


def _covers(live: object, wanted: object) -> bool:
    """Whether everything wanted is there. What else is there is the API server's, or others'."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(name in live and _covers(live[name], value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(_covers, live, wanted))
    return live == wanted


def _gates(
    pods: Sequence[SeenPod], snapshot: Snapshot, good: LastGood | None, now: float, pace: Pace
) -> tuple[tuple[GateState, ...], tuple[PodAnnotation, ...], float | None]:
    """The gates, those that are told now, and when the next would be."""
    gates, annotate, wakes = [], [], []
    for pod in pods:
        revision, is_late = snapshot.enforced.get(pod.uid), False
        if good is not None and revision != good.revision:
            told = Told.of(pod, now)
            times = told.times if told is not None and told.revision == good.revision else 0
            due = told.at + pace.wait_s(times) if told is not None and times else now
            is_late = times > 1 or (times == 1 and due <= now)
            if due <= now:
                annotate.append(PodAnnotation(pod.name, pod.uid, Told(good.revision, times + 1, now).annotations()))
                due = now + pace.wait_s(times + 1)
            wakes.append(due)
        gates.append(GateState(pod.name, pod.is_gate_ready, revision, is_late, snapshot.problems.get(pod.uid, "")))
    return tuple(gates), tuple(annotate), min(wakes, default=None)


def _shared(snapshot: Snapshot, mine: Sequence[SeenPod]) -> Mapping[str, str]:
    """Pods that another target has as well, with its name: the first by name, so that it is always the same."""
    name = snapshot.target.metadata.name
    others = sorted(
        (each for each in snapshot.neighbours if each.metadata.name != name), key=lambda each: str(each.metadata.name)
    )
    shared = {}
    for pod in mine:
        other = next((str(each.metadata.name) for each in others if pod.is_of(each)), None)
        if other is not None:
            shared[pod.name] = other
    return shared


def _report(
    target: ProtectedTarget,
    policy: AccessPolicy,
    status: ProtectedTargetStatus,
    findings: Sequence[Finding],
    errors: Sequence[Finding],
) -> PolicyReport:
    """Once every gate enforced this very policy, it stays synced: later revisions contain it too. So a change of one policy writes no
    status of the others.
    """
    own = tuple(each for each in findings if each.resource == name_of(policy))
    synced = condition_status(status.conditions, ConditionType.SYNCED)
    if synced is ConditionStatus.FALSE and _was_synced(policy, target):
        synced = ConditionStatus.TRUE
    return PolicyReport(
        target=str(target.metadata.name),
        is_compiled=not errors,
        is_blamed=any(each.severity is FindingSeverity.ERROR for each in own),
        synced=synced,
        enforced=condition_status(status.conditions, ConditionType.ENFORCED),
        findings=own,
        generation=policy.metadata.generation,
    )


def _was_synced(policy: AccessPolicy, target: ProtectedTarget) -> bool:
    if policy.status is None or target.metadata.name not in policy.status.targets:
        return False
    return any(
        each.type == ConditionType.SYNCED.value
        and each.status is ConditionStatus.TRUE
        and each.observed_generation == policy.metadata.generation
        for each in policy.status.conditions
    )


def patch_of(
    resource: ProtectedTarget | AccessPolicy, status: ProtectedTargetStatus | AccessPolicyStatus
) -> tuple[StatusPatch, ...]:
    """One, or none when the status is what it should be."""
    patch = status_patch(resource, status)
    if patch is None:
        return ()
    return (StatusPatch(ObjectKey(resource.kind, str(resource.metadata.name)), resource.metadata.resource_version, patch),)


def condition_events(
    resource: ProtectedTarget | AccessPolicy, status: ProtectedTargetStatus | AccessPolicyStatus
) -> tuple[Event, ...]:
    """Of conditions whose status changed. `Ready` sums up what the others have told already."""
    before = resource.status.conditions if resource.status is not None else ()
    changed = [each for each in transitions(before, status.conditions) if each.type != ConditionType.READY.value]
    key = ObjectKey(resource.kind, str(resource.metadata.name))
    events = (Event(key, resource.metadata.uid, _is_bad(each), each.reason, _note(each.message)) for each in changed)
    return tuple(each for each in events if before or each.is_warning)


def _is_bad(condition: Condition) -> bool:
    return condition.status is ConditionStatus.FALSE and condition.reason not in {"Progressing", "ObserveOnly"}


def _pod_events(target: ProtectedTarget, status: ProtectedTargetStatus, without: Sequence[SeenPod]) -> list[Event]:
    """Of pods that the status names now and didn't before."""
    known = set(target.status.pods_without_gate if target.status is not None else ())
    named = set(status.pods_without_gate) - known
    return [
        Event(ObjectKey("Pod", each.name), each.uid, True, WITHOUT_GATE, _note(_without_gate(target, each)))
        for each in without
        if each.name in named
    ]


def _without_gate(target: ProtectedTarget, pod: SeenPod) -> str:
    """Why, as far as it can be told now. A pod that runs gets no gate any more, whatever is written to it."""
    name = target.metadata.name
    if not pod.is_admitted:
        why, way_forward = (
            "admission leaves its namespace out, so no gate counts there",
            "run the database in a namespace of its own",
        )
    elif pod.asks_for == name:
        why, way_forward = "when it was made, admission didn't ask Sidegate", "have it made again, as by kubectl rollout restart"
    else:
        why, way_forward = "it doesn't ask for one", f"annotate its workload's pod template `sidegate.dev/target: {name}`"
    return f"it belongs to ProtectedTarget `{name}` and runs without a gate: {why}; fix: {way_forward}"


def _note(text: str) -> str:
    data = text.encode()
    return text if len(data) <= MAX_NOTE else data[: MAX_NOTE - 4].decode(errors="ignore") + " ..."
