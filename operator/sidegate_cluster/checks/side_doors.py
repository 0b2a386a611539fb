"""Side doors of the API server, tried as whoever asks: exec, attach, port-forward, proxy, and containers added to a pod that runs.

Rules it keeps:
- Nothing is entered. exec, attach and port-forward are asked for without the upgrade that begins them: admission decides first, and the
  request ends there in any case. A proxy is asked for to a pod of a name that nobody has, since the guard looks at the namespace alone.
  A container is added as a dry run.
- What is told is true of the caller: whom RBAC keeps out, or a guard, and who may bypass it. What refused is named.
- An answer that tells nothing is unknown, never closed.

Left out: other people's rights, and the database's own port (`ports`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sidegate.api.meta import GROUP
from sidegate_cluster.checks.check import (
    Check,
    Outcome,
    Patient,
    Result,
    advice,
    enforcement,
    fine,
    harmless_container,
    name_of,
    pods_of_target,
    unknown,
)
from sidegate_cluster.connection import STRATEGIC_MERGE_PATCH
from sidegate_cluster.pages.refusals import CallError, guard_that_denied, told
from sidegate_operator.plan.owned import PROTECTED_LABEL
from sidegate_operator.plan.pods import SeenPod
from sidegate_operator.resources import PODS, SERVICES, Object, Resource

SELF_REVIEWS: Final = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", is_namespaced=False
)
_PASSED_ADMISSION: Final = frozenset({400, 404, 409, 422})  # what is wrong with the request is looked at after it was let through


@dataclass(frozen=True, slots=True)
class _Door:
    """`verbs`: those by which RBAC lets in, each with the method that has it."""

    words: str
    resource: str
    subresource: str
    verbs: Mapping[str, str]


_CONNECTS: Final = {"create": "POST", "get": "GET"}
_PROXIES: Final = {"get": "GET", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE"}
DOORS: Final = (
    _Door("exec", "pods", "exec", _CONNECTS),
    _Door("attach", "pods", "attach", _CONNECTS),
    _Door("port-forward", "pods", "portforward", _CONNECTS),
    _Door("proxy to pods", "pods", "proxy", _PROXIES),
    _Door("proxy to services", "services", "proxy", _PROXIES),
    _Door("ephemeral containers", "pods", "ephemeralcontainers", {"patch": "PATCH", "update": "PATCH"}),
)


def _doors(patient: Patient) -> Iterator[Result]:
    for target in patient.targets or ():
        if (target.get("spec") or {}).get("selector"):
            yield from _of_target(patient, target)


def _of_target(patient: Patient, target: Object) -> Iterator[Result]:
    namespace = target["metadata"]["namespace"]
    pods = pods_of_target(patient, target)
    pod = next((each for each in pods or () if each.has_gate), next(iter(pods or ()), None))
    by_rbac, by_guard, opened = [], dict[str, list[str]](), []
    for door in DOORS:
        verb = next((each for each in door.verbs if _may(patient, namespace, door, each, pod)), None)
        if verb is None:
            by_rbac.append(door.words)
            continue
        if door.subresource == "ephemeralcontainers" and pod is None:
            why = "there is no pod to try it on" if pods is not None else "you may not list pods"
            yield unknown(f"{name_of(target)}: whether {door.words} are closed to you: {why}", "run this again when there is one")
            continue
        answer = _attempt(patient, namespace, door, door.verbs[verb], pod)
        if answer is None or answer.code in _PASSED_ADMISSION:
            opened.append(door.words)
        elif answer.code == 403:
            by_guard.setdefault(guard_that_denied(answer) or told(answer).problem, []).append(door.words)
        else:
            words = told(answer)
            yield unknown(f"{name_of(target)}: whether {door.words} is closed to you: {words.problem}", words.way_forward)
    for who, some in by_guard.items():
        yield fine(f"{name_of(target)}: refused to you by {who}: {', '.join(some)}")
    if by_rbac:
        yield fine(f"{name_of(target)}: RBAC doesn't let you: {', '.join(by_rbac)}")
    if opened:
        yield _open(patient, target, opened)


def _open(patient: Patient, target: Object, opened: list[str]) -> Result:
    namespace = target["metadata"]["namespace"]
    what = f"{name_of(target)}: open to you: {', '.join(opened)}"
    if _allowed(patient, {"group": GROUP, "resource": "protectedtargets", "verb": "bypass", "namespace": namespace}):
        return advice(
            f"{what}: you have the verb bypass in namespace {namespace}",
            "to learn what others find, run this as somebody who hasn't; bindings of ClusterRole sidegate-bypass, and of `*`, say who has",
        )
    close = f"kubectl label namespace {namespace} {PROTECTED_LABEL}=true; where it has that, see what `guards` says, above"
    is_meant = enforcement(target, "sideDoors", "Refuse") != "Refuse"
    return Result(Outcome.ADVICE if is_meant else Outcome.WRONG, f"{what}; each leads past the gate", close)


def _may(patient: Patient, namespace: str, door: _Door, verb: str, pod: SeenPod | None) -> bool:
    asked = {"group": "", "resource": door.resource, "subresource": door.subresource, "verb": verb, "namespace": namespace}
    name = pod.name if pod is not None and door.resource == "pods" else ""
    return _allowed(patient, {**asked, "name": name})


def _allowed(patient: Patient, attributes: Mapping[str, str]) -> bool:
    review = {
        "apiVersion": SELF_REVIEWS.api_version,
        "kind": SELF_REVIEWS.kind,
        "spec": {"resourceAttributes": dict(attributes)},
    }
    return bool((patient.cluster.create(SELF_REVIEWS, review).get("status") or {}).get("allowed"))


def _attempt(patient: Patient, namespace: str, door: _Door, method: str, pod: SeenPod | None) -> CallError | None:
    """What the API server says; None: it let it through."""
    nobody = f"sidegate-doctor-{uuid.uuid4().hex[:8]}"
    kind = SERVICES if door.resource == "services" else PODS
    name = nobody if pod is None or door.subresource == "proxy" else pod.name
    path = f"{kind.path(namespace, name)}/{door.subresource}"
    try:
        if door.subresource == "ephemeralcontainers":
            added: dict[str, Any] = {"spec": {"ephemeralContainers": [{**harmless_container(), "name": nobody}]}}
            patient.cluster.call(method, path, added, query={"dryRun": "All"}, content_type=STRATEGIC_MERGE_PATCH)
        else:
            query = {"exec": {"command": "true"}, "portforward": {"ports": "1"}}.get(door.subresource, {})
            patient.cluster.call(method, path, query=query)
    except CallError as error:
        return error
    return None


CHECKS: Final = (Check("side doors", _doors),)
