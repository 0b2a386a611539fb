"""The status of a ProtectedTarget and of an AccessPolicy: conditions, gate counts, bounded lists, from what was observed.

Rules it keeps:
- `Enforced` is what a probe found. Nothing but a probe makes it True; a pod that runs without a gate, or without the
  redirection that its target asks for, makes it False whatever a probe said.
- `Ready` sums up, and is never True while a condition is False. That nobody probed leaves it True and is said in its reason.
- When nothing can be compiled, the conditions say whose fault it is, which rules stay in force meanwhile, and what to do.
- The same facts give the same status: transition times move only when a condition's status does, and no other time stands in it.
- Lists are bounded; the true count stands beside them.

Left out: which pods are the target's and what gates report (`reconcile`), and writing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sidegate.api.access_policy import AccessPolicy, AccessPolicyStatus, FindingSeverity, PolicyMode
from sidegate.api.access_policy import Finding as ShownFinding
from sidegate.api.meta import MAX_BOUND, Condition, ConditionStatus
from sidegate.api.protected_target import GatesStatus, ProtectedTarget, ProtectedTargetStatus
from sidegate.api.text import ObjectName
from sidegate.policy.finding import Finding, name_of
from sidegate_operator.plan.conditions import (
    ConditionReason,
    ConditionType,
    Observed,
    PolicyReason,
    TargetReason,
    conditions_after,
    merge_patch,
)

MAX_FINDINGS: Final = 32
_MAX_NAMED: Final = 8  # names in one message
_MAX_PROBLEMS: Final = 3  # of gates, in one message
_MAX_PROBLEM: Final = 240
_SEVERITIES: Final = {FindingSeverity.ERROR: 0, FindingSeverity.WARNING: 1, FindingSeverity.NOTE: 2}
_TRUE, _FALSE, _UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


@dataclass(frozen=True, slots=True)
class GateState:
    """One gate. `revision` is what it says it enforces; `is_late`: it was told of the newest, and had its time; `problem` is why, as it
    says.
    """

    pod: str
    is_ready: bool
    revision: str | None
    is_late: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a probe of the other ways in found, each as a phrase for a person. `unclear`: what gave no answer that says either. `pods`: the
    uids of those that were tried; None: the target isn't in pods.
    """

    open_doors: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()
    pods: frozenset[str] | None = None

    def covers(self, uids: Iterable[str]) -> bool:
        """Whether it says anything of these pods. An open door is one, whoever else there is by now."""
        return bool(self.open_doors) or self.pods is None or self.pods.issuperset(uids)


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What is observed about a target. `errors` is why nothing could be compiled, empty when it could; `object_errors` is why an object
    beside the gate config can't be made, which keeps no rules back. `revision` is what is published, compiled now or before.
    `pods_not_redirected` have a gate, and their packets aren't led to it though the target asks for that.
    `silent_pods` are selected and don't ask for a gate: they never come before admission. `unselected_pods` have the target's gate, and its
    selector doesn't pick them (any more). `shared_pods` names another target of each.
    `unguarded` is why decisions aren't guarded, empty when they are, None where nobody looks.
    """

    policies: tuple[str, ...] = ()
    errors: tuple[Finding, ...] = ()
    is_too_large: bool = False
    object_errors: tuple[Finding, ...] = ()
    revision: str | None = None
    gates: tuple[GateState, ...] = ()
    pods_without_gate: tuple[str, ...] = ()
    pods_not_redirected: tuple[str, ...] = ()
    silent_pods: tuple[str, ...] = ()
    unselected_pods: tuple[str, ...] = ()
    shared_pods: Mapping[str, str] = field(default_factory=dict)
    probe: Probe | None = None
    unguarded: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """What one target has to say about a policy that is bound to it, as it was at `generation`. `is_blamed`: nothing was compiled, and the
    policy is why.
    """

    target: str
    is_compiled: bool
    is_blamed: bool
    synced: ConditionStatus
    enforced: ConditionStatus
    findings: tuple[Finding, ...] = ()
    generation: int | None = None


def target_status(target: ProtectedTarget, facts: TargetFacts, now: float) -> ProtectedTargetStatus:
    """The status wanted."""
    before = target.status.conditions if target.status is not None else ()
    observed = [_accepted(target, facts), _compiled(target, facts), _synced(facts), _enforced(facts), *_guarded(facts)]
    observed.append(_ready(observed))
    synced = sum(each.revision == facts.revision is not None for each in facts.gates)
    total = len(facts.gates) + len(facts.pods_without_gate)
    return ProtectedTargetStatus(
        conditions=conditions_after(before, observed, target.metadata.generation, now),
        revision=facts.revision,
        gates=GatesStatus(
            ready=sum(each.is_ready for each in facts.gates), synced=synced, total=total, summary=f"{synced}/{total}"
        ),
        policies=_bounded(facts.policies),
        policies_count=len(set(facts.policies)),
        pods_without_gate=_bounded(facts.pods_without_gate),
        pods_without_gate_count=len(set(facts.pods_without_gate)),
        observed_generation=target.metadata.generation,
    )


def policy_status(policy: AccessPolicy, reports: Sequence[PolicyReport], now: float) -> AccessPolicyStatus:
    """The status wanted, from what each target that the policy is bound to reports."""
    reports = sorted(reports, key=lambda each: each.target)
    before = policy.status.conditions if policy.status is not None else ()
    observed = [
        _policy_accepted(policy, reports),
        _policy_compiled(reports),
        _policy_synced(reports),
        _policy_enforced(policy, reports),
    ]
    observed.append(_policy_ready(policy, observed))
    findings = _shown_findings(reports)
    return AccessPolicyStatus(
        conditions=conditions_after(before, observed, policy.metadata.generation, now),
        targets=_bounded(each.target for each in reports),
        targets_count=len(reports),
        findings=findings[:MAX_FINDINGS],
        findings_count=len(findings),
        observed_generation=policy.metadata.generation,
    )


def status_patch(
    resource: ProtectedTarget | AccessPolicy, status: ProtectedTargetStatus | AccessPolicyStatus
) -> dict[str, object] | None:
    """The merge patch for `/status`; None: it is there already."""
    before = resource.status.to_wire() if resource.status is not None else {}
    return merge_patch({"status": before}, {"status": status.to_wire()})


def condition_status(conditions: Sequence[Condition], of: ConditionType) -> ConditionStatus:
    """Unknown when it isn't there."""
    return next((each.status for each in conditions if each.type == of.value), _UNKNOWN)


# A target's conditions


def _accepted(target: ProtectedTarget, facts: TargetFacts) -> Observed:
    own = [each for each in facts.errors if each.resource == name_of(target)] if not facts.is_too_large else []
    own += facts.object_errors
    if own:
        return Observed(TargetReason.INVALID, _told(own))
    if facts.shared_pods:
        pairs = [f"`{pod}` is of `{other}` too" for pod, other in sorted(facts.shared_pods.items())]
        return Observed(TargetReason.SELECTORS_OVERLAP, f"{_listed(pairs)}; fix: make spec.selector of the two targets disjoint")
    if facts.silent_pods:
        asking = f"`sidegate.dev/target: {target.metadata.name}`"
        way_forward = f"annotate their template {asking}, which makes them again, or narrow spec.selector"
        return Observed(TargetReason.PODS_DONT_ASK, f"{_quoted(facts.silent_pods)}; fix: {way_forward}")
    return Observed(TargetReason.ACCEPTED)


def _compiled(target: ProtectedTarget, facts: TargetFacts) -> Observed:
    if not facts.errors:
        return Observed(TargetReason.COMPILED)
    own = [each for each in facts.errors if each.resource == name_of(target)]
    in_force = (
        f"the rules of revision {facts.revision} stay in force, and no change since"
        if facts.revision
        else "gates refuse everything"
    )
    reason = (
        TargetReason.CONFIG_TOO_LARGE
        if facts.is_too_large
        else TargetReason.TARGET_INVALID
        if own
        else TargetReason.POLICY_INVALID
    )
    return Observed(reason, f"{in_force}; {_told(own or facts.errors)}")


def _synced(facts: TargetFacts) -> Observed:
    if facts.revision is None:
        return Observed(TargetReason.NOT_PUBLISHED)
    if not facts.gates:
        return Observed(TargetReason.NO_GATES)
    behind = [each for each in facts.gates if each.revision != facts.revision]
    if not behind:
        return Observed(TargetReason.SYNCED)
    late = [each for each in behind if each.is_late]
    if late:
        return Observed(TargetReason.GATES_LATE, f"{_late(late)}; fix: see what the gate in these pods logs")
    return Observed(TargetReason.PROGRESSING, f"{len(facts.gates) - len(behind)} of {len(facts.gates)} enforce it")


def _late(gates: Sequence[GateState]) -> str:
    """Who says the same is named together. A gate's words are no operator's: marks by which messages are read don't come from it."""
    by_problem: dict[str, list[str]] = {}
    for each in gates:
        said = _cut(each.problem.replace("; fix: ", ", "), _MAX_PROBLEM)
        by_problem.setdefault(said, []).append(each.pod)
    shown = sorted(by_problem.items(), key=lambda each: (not each[0], each[0]))
    parts = [f"{_quoted(pods)}{f' ({said})' if said else ''}" for said, pods in shown[:_MAX_PROBLEMS]]
    rest = [pod for _, pods in shown[_MAX_PROBLEMS:] for pod in pods]
    return "; ".join([*parts, _quoted(rest)] if rest else parts)


def _enforced(facts: TargetFacts) -> Observed:
    if facts.pods_without_gate:
        way_forward = "have them made again, as by kubectl rollout restart; `sidegate why POD` says why one has none"
        return Observed(TargetReason.PODS_WITHOUT_GATE, f"{_quoted(facts.pods_without_gate)}; fix: {way_forward}")
    if facts.pods_not_redirected:
        way_forward = "have them made again, as by kubectl rollout restart"
        return Observed(TargetReason.PODS_NOT_REDIRECTED, f"{_quoted(facts.pods_not_redirected)}; fix: {way_forward}")
    if facts.unselected_pods:
        way_forward = "put the labels of spec.selector back, in the template too, or correct spec.selector"
        return Observed(TargetReason.PODS_NOT_SELECTED, f"{_quoted(facts.unselected_pods)}; fix: {way_forward}")
    if facts.probe is not None and facts.probe.open_doors:
        return Observed(
            TargetReason.DOORS_OPEN, f"{_listed(facts.probe.open_doors)}; fix: close them, as `sidegate doctor` tells"
        )
    if not facts.gates:
        return Observed(TargetReason.NO_PODS)
    if facts.probe is None:
        return Observed(TargetReason.NOT_PROBED, "run `sidegate doctor`")
    if facts.probe.unclear:
        return Observed(TargetReason.PROBE_UNCLEAR, f"{_listed(facts.probe.unclear)}; fix: see what the target logs")
    return Observed(TargetReason.DOORS_CLOSED)


def _guarded(facts: TargetFacts) -> list[Observed]:
    if facts.unguarded is None:
        return []
    return [Observed(TargetReason.UNGUARDED, facts.unguarded) if facts.unguarded else Observed(TargetReason.GUARDED)]


def _ready(observed: Sequence[Observed]) -> Observed:
    accepted, compiled, synced, enforced, *guarded = (each.row.status for each in observed)
    if accepted is not _TRUE:
        return Observed(TargetReason.NOT_ACCEPTED)
    if compiled is not _TRUE:
        return Observed(TargetReason.NOT_COMPILED)
    if synced is _FALSE:
        return Observed(TargetReason.NOT_SYNCED)
    if enforced is _FALSE:
        return Observed(TargetReason.NOT_ENFORCED)
    if _FALSE in guarded:
        return Observed(TargetReason.NOT_GUARDED)
    if synced is _UNKNOWN:
        return Observed(TargetReason.WAITING)
    return Observed(TargetReason.READY if enforced is _TRUE else TargetReason.READY_UNPROBED)


# A policy's conditions


def _policy_accepted(policy: AccessPolicy, reports: Sequence[PolicyReport]) -> Observed:
    errors = [each for report in reports for each in report.findings if each.severity is FindingSeverity.ERROR]
    if errors:
        return Observed(PolicyReason.INVALID, _told(dict.fromkeys(errors)))
    missing = sorted({str(each) for each in policy.spec.targets.names} - {each.target for each in reports})
    if not reports:
        named = f"{_quoted(missing)} can't be bound; " if missing else ""
        return Observed(PolicyReason.TARGET_NOT_FOUND, f"{named}fix: compare spec.targets with kubectl get protectedtargets")
    return Observed(PolicyReason.ACCEPTED, f"but not to {_quoted(missing)}" if missing else "")


def _policy_compiled(reports: Sequence[PolicyReport]) -> Observed:
    if not reports:
        return Observed(PolicyReason.NOTHING_TO_COMPILE)
    blamed = [each.target for each in reports if each.is_blamed]
    if blamed:
        return Observed(
            PolicyReason.POLICY_INVALID, f"{_quoted(blamed)} keep the rules that they had; fix: see condition Accepted"
        )
    held = [each.target for each in reports if not each.is_compiled]
    if held:
        return Observed(PolicyReason.TARGET_HELD_BACK, f"{_quoted(held)}; fix: see condition Compiled of the target")
    return Observed(PolicyReason.COMPILED)


def _policy_synced(reports: Sequence[PolicyReport]) -> Observed:
    behind = [each.target for each in reports if not each.is_compiled or each.synced is _FALSE]
    if behind:
        return Observed(PolicyReason.PROGRESSING, _quoted(behind))
    return Observed(PolicyReason.SYNCED if any(each.synced is _TRUE for each in reports) else PolicyReason.NO_GATES)


def _policy_enforced(policy: AccessPolicy, reports: Sequence[PolicyReport]) -> Observed:
    if policy.spec.mode is PolicyMode.OBSERVE:
        return Observed(PolicyReason.OBSERVE_ONLY)
    open_ones = [each.target for each in reports if each.enforced is _FALSE]
    if open_ones:
        return Observed(PolicyReason.TARGET_NOT_ENFORCED, f"{_quoted(open_ones)}; fix: see condition Enforced of the target")
    if reports and all(each.enforced is _TRUE for each in reports):
        return Observed(PolicyReason.ENFORCED)
    return Observed(PolicyReason.NOT_PROBED)


def _policy_ready(policy: AccessPolicy, observed: Sequence[Observed]) -> Observed:
    accepted, compiled, synced, enforced = (each.row.status for each in observed)
    if accepted is not _TRUE:
        return Observed(PolicyReason.NOT_ACCEPTED)
    if compiled is not _TRUE:
        return Observed(PolicyReason.NOT_COMPILED)
    if synced is not _TRUE:
        return Observed(PolicyReason.NOT_SYNCED if synced is _FALSE else PolicyReason.WAITING)
    by_enforced: dict[ConditionStatus, ConditionReason] = {
        _TRUE: PolicyReason.READY,
        _UNKNOWN: PolicyReason.READY_UNPROBED,
        _FALSE: PolicyReason.READY_OBSERVING if policy.spec.mode is PolicyMode.OBSERVE else PolicyReason.NOT_ENFORCED,
    }
    return Observed(by_enforced[enforced])


def _shown_findings(reports: Sequence[PolicyReport]) -> tuple[ShownFinding, ...]:
    """Once for all targets when all have it, else once for each."""
    targets: dict[Finding, list[str]] = {}
    for report in reports:
        for each in dict.fromkeys(report.findings):
            targets.setdefault(each, []).append(report.target)
    shown = []
    for each, where in targets.items():
        for target in [None] if len(where) == len(reports) else where:
            text = _cut(f"{each.problem}; fix: {each.way_forward}", 1024)
            name = None if target is None else ObjectName(target)
            shown.append(ShownFinding(severity=each.severity, path=_cut(each.field_path, 256), message=text, target=name))
    return tuple(sorted(shown, key=lambda each: (_SEVERITIES[each.severity], each.path, each.message, str(each.target or ""))))


# Words


def _told(findings: Iterable[Finding]) -> str:
    first, *others = findings
    text = f"{first.resource}: {first.field_path}: {first.problem}; fix: {first.way_forward}"
    return f"{text} (and {len(others)} more)" if others else text


def _quoted(names: Iterable[str]) -> str:
    return _listed([f"`{each}`" for each in sorted(names)])


def _listed(phrases: Sequence[str]) -> str:
    more = f" and {len(phrases) - _MAX_NAMED} more" if len(phrases) > _MAX_NAMED else ""
    return ", ".join(phrases[:_MAX_NAMED]) + more


def _bounded(names: Iterable[str]) -> tuple[ObjectName, ...]:
    return tuple(ObjectName(each) for each in sorted(set(names))[:MAX_BOUND])


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 4]} ..."
