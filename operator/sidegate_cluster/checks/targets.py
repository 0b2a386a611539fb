"""Is each target protected: what the operator observes, the gate config, pods without a gate, and what closes other ways in.

What the operator found when it tried the database's own port is in condition Enforced, and told here; `side_doors` and `ports` try for
themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from sidegate_cluster.checks.check import Check, Patient, Result, advice, enforcement, fine, name_of, wrong
from sidegate_cluster.pages.refusals import CallError
from sidegate_cluster.pages.target_page import TargetView
from sidegate_operator.plan.owned import PROTECTED_LABEL, REVISION_ANNOTATION
from sidegate_operator.resources import CONFIG_MAPS, NAMESPACES, NETWORK_POLICIES, SERVICES, Object

_SECURITY_LABEL: Final = "pod-security.kubernetes.io/enforce"
_KEPT_BY_POD_SECURITY: Final = ("baseline", "restricted")  # both refuse hostNetwork, hostPID and privileged containers
_FIX: Final = "; fix: "


def _targets(patient: Patient) -> Iterator[Result]:
    if patient.targets is None:
        raise CallError(403, "Forbidden", "you may not list ProtectedTargets")
    if not patient.targets:
        yield advice("there are no targets", "make one: docs/reference/protectedtarget.md")
    for target in patient.targets:
        for check in (_conditions, _config, _service, _network_policy):
            yield from check(patient, target)


def _conditions(patient: Patient, target: Object) -> Iterator[Result]:
    view, name = TargetView(target, (), ()), name_of(target)
    if not view.is_current:
        yield wrong(f"{name}: the operator hasn't seen its newest version", "see whether it leads, above")
        return
    for kind in ("Accepted", "Compiled", "Synced", "Enforced"):
        condition = view.condition(kind)
        message, _, way_forward = str(condition.get("message") or "").partition(_FIX)
        said = f"{name}: {kind} is {condition['status']} ({condition['reason']}): {message}"
        to_do = way_forward or f"sidegate status {target['metadata']['name']} -n {target['metadata']['namespace']}"
        if condition["status"] == "False" and condition["reason"] != "Progressing":
            yield wrong(said, to_do)
        elif condition["status"] != "True":
            yield advice(said, to_do)
    gates = view.status.get("gates") or {}
    if view.holds("Ready"):
        yield fine(f"{name}: {gates.get('synced', 0)} of {gates.get('total', 0)} gates enforce the newest policies")
    for pod in view.status.get("podsWithoutGate") or ():
        yield wrong(f"{name}: pod {pod} runs without a gate", f"sidegate why {pod} -n {target['metadata']['namespace']}")


def _config(patient: Patient, target: Object) -> Iterator[Result]:
    revision = (target.get("status") or {}).get("revision")
    if revision is None:
        return  # condition Compiled or Synced says why
    metadata = target["metadata"]
    found = patient.cluster.find(CONFIG_MAPS, f"sidegate-{metadata['name']}", metadata["namespace"])
    if found is None:
        yield wrong(
            f"{name_of(target)}: its ConfigMap is gone, and pods that start refuse everybody",
            "the operator makes it again when it leads",
        )
    elif (found["metadata"].get("annotations") or {}).get(REVISION_ANNOTATION) != revision:
        yield wrong(f"{name_of(target)}: its ConfigMap isn't of revision {revision}", "the operator publishes it when it leads")


def _service(patient: Patient, target: Object) -> Iterator[Result]:
    metadata = target["metadata"]
    name = f"{metadata['name']}-gate"
    if patient.cluster.find(SERVICES, name, metadata["namespace"]) is None:
        yield wrong(
            f"{name_of(target)}: there is no Service `{name}` that leads clients to its gates",
            "the operator makes it when it leads; condition Accepted says what keeps it from that",
        )


def _network_policy(patient: Patient, target: Object) -> Iterator[Result]:
    metadata = target["metadata"]
    name = f"sidegate-{metadata['name']}"
    if enforcement(target, "networkPolicy", "Managed") != "Managed":
        yield advice(f"{name_of(target)}: its NetworkPolicy is somebody else's", "see that it admits the gate's port 6432 alone")
    elif patient.cluster.find(NETWORK_POLICIES, name, metadata["namespace"]) is None:
        yield wrong(
            f"{name_of(target)}: there is no NetworkPolicy `{name}`, and its port is open to other pods",
            "the operator makes it when it leads",
        )


def _namespaces(patient: Patient) -> Iterator[Result]:
    for name in sorted(
        {each["metadata"]["namespace"] for each in patient.targets or () if (each.get("spec") or {}).get("selector")}
    ):
        refuses = [
            each["metadata"]["name"]
            for each in patient.targets or ()
            if each["metadata"]["namespace"] == name and enforcement(each, "sideDoors", "Refuse") == "Refuse"
        ]
        labels: Mapping[str, str] = patient.cluster.get(NAMESPACES, name)["metadata"].get("labels") or {}
        if labels.get(PROTECTED_LABEL) == "true":
            yield fine(f"namespace {name}: exec, port-forward and the like are closed")
        elif refuses:
            yield wrong(
                f"namespace {name} isn't protected: exec, port-forward and the like lead past the gates of {', '.join(refuses)}",
                f"kubectl label namespace {name} {PROTECTED_LABEL}=true; or write spec.enforcement.sideDoors: Report",
            )
        if labels.get(_SECURITY_LABEL) not in _KEPT_BY_POD_SECURITY:
            yield advice(
                f"namespace {name} admits privileged pods, which can reach into others",
                f"kubectl label namespace {name} {_SECURITY_LABEL}=baseline, once its pods pass that",
            )


CHECKS: Final = (Check("targets", _targets), Check("namespaces", _namespaces))
