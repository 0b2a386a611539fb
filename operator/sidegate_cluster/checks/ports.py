"""The database's own port, tried: from where this command runs, and on request from a pod of a namespace that is named.

Rules it keeps:
- What answers to a stranger without a password is all that is asked for (`sidegate.probe`); as the operator does it, to the same places.
- That nothing answers here says nothing of other places, so it is unknown; from a pod of a client's namespace it is what that client finds.
- The pod that tries is of the operator's own image, passes Pod Security `restricted`, has no token, ends by itself, and is deleted.

Left out: what the operator found, which condition Enforced says (`targets`).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from typing import Any, Final

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.protected_target import ProtectedTarget
from sidegate.mask.plain import plain
from sidegate_cluster.checks.check import (
    Check,
    Patient,
    Result,
    fine,
    harmless_container,
    name_of,
    pods_of_target,
    unknown,
    wrong,
)
from sidegate_cluster.pages.refusals import CallError, told
from sidegate_operator.probe.command import Found, arguments, try_doors
from sidegate_operator.probe.schedule import Aim, aim_at
from sidegate_operator.resources import ACCESS_POLICIES, DEPLOYMENTS, PODS, Object

OPERATOR: Final = "sidegate-operator"  # its Deployment
_TIMEOUT_S: Final = 2.0
_POD_ENDS_S: Final = 120
_LOOK_S: Final = 0.5
_CLOSE: Final = "docs/enforcement.md says what closes it; `sidegate setup postgres --check` names the rule"
_ELSEWHERE: Final = "try it from where clients are: sidegate doctor {target} -n {namespace} --from-namespace NAME"


def _from_here(patient: Patient) -> Iterator[Result]:
    for target in patient.targets or ():
        aim = _aim(patient, target)
        if isinstance(aim, Aim):
            yield from _said(target, asyncio.run(try_doors(aim, _TIMEOUT_S)), "from here")
        elif aim is not None:
            yield aim


def _from_a_pod(patient: Patient) -> Iterator[Result]:
    if not patient.from_namespace:
        return
    for target in patient.targets or ():
        aim = _aim(patient, target)
        if isinstance(aim, Aim):
            found = _tried_in_a_pod(patient, target, aim)
            yield from [found] if isinstance(found, Result) else _said(target, found, f"from namespace {patient.from_namespace}")


def _said(target: Object, found: Found, whence: str) -> Iterator[Result]:
    name = name_of(target)
    for each in found.open_doors:
        yield wrong(f"{name}: open door {whence}: {plain(each)}", _CLOSE)
    for each in found.unclear:
        yield unknown(f"{name}: {whence} it can't be told: {plain(each)}", "see what the target logs")
    if found.more:
        yield unknown(
            f"{name}: {whence} there is more to tell, of {found.more} ways", "close those that are named, and look again"
        )
    if found.open_doors or found.unclear or found.more:
        return
    if found.unanswered and whence == "from here":
        metadata = target["metadata"]
        way_forward = _ELSEWHERE.format(target=metadata["name"], namespace=metadata["namespace"])
        yield unknown(f"{name}: {whence} {plain(', '.join(found.unanswered))}", way_forward)
    else:
        silent = f"; {plain(', '.join(found.unanswered))}" if found.unanswered else ""
        yield fine(f"{name}: {whence} each of {found.tried} ways past the gate is closed{silent}")


def _aim(patient: Patient, target: Object) -> Aim | Result | None:
    """What the operator would try. None: there is nothing that could be tried from outside."""
    try:
        parsed = ProtectedTarget.from_wire(target)
    except ValueError:
        return unknown(f"{name_of(target)}: its port: this command can't read the target", "use the command of the same version")
    pods = pods_of_target(patient, target)
    if pods is None:
        return unknown(
            f"{name_of(target)}: its port: you may not list pods, so their addresses aren't known", "see condition Enforced"
        )
    try:
        found = patient.cluster.list(ACCESS_POLICIES, target["metadata"]["namespace"])
    except CallError as error:
        if error.code != 403:
            raise
        found = []
    policies = []
    for each in found:
        try:
            policies.append(AccessPolicy.from_wire(each))
        except ValueError:
            continue  # its databases aren't tried; that it can't be read is told by conditions
    return aim_at(parsed, policies, pods)


# From a pod


def _tried_in_a_pod(patient: Patient, target: Object, aim: Aim) -> Found | Result:
    namespace = patient.from_namespace
    asked = f"{name_of(target)}: its port from namespace {namespace}"
    deployment = patient.cluster.find(DEPLOYMENTS, OPERATOR, patient.home)
    if deployment is None:
        return unknown(f"{asked}: there is no Deployment {patient.home}/{OPERATOR} whose image could try it", "give --home")
    image = str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])
    try:
        made = patient.cluster.create(PODS, _pod(aim, image), namespace)
    except CallError as error:
        words = told(error)
        return unknown(f"{asked}: the pod that tries it can't be made: {words.problem}", words.way_forward)
    try:
        return _outcome(patient, made["metadata"]["name"], asked)
    finally:
        path = PODS.path(namespace, made["metadata"]["name"])
        patient.cluster.call("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": made["metadata"]["uid"]}})


def _outcome(patient: Patient, pod: str, asked: str) -> Found | Result:
    until, why = time.monotonic() + patient.pod_timeout_s, "it isn't started"
    while time.monotonic() < until:
        status = patient.cluster.get(PODS, pod, patient.from_namespace).get("status") or {}
        states = [each.get("state") or {} for each in status.get("containerStatuses") or ()]
        ended = next((each["terminated"] for each in states if each.get("terminated")), None)
        if ended is not None:
            try:
                return Found.from_json(str(ended.get("message") or ""))
            except ValueError:
                said = plain(str(ended.get("message") or ended.get("reason") or "nothing"))[:300]
                return unknown(f"{asked}: the pod that tried it says: {said}", "the operator's image has to be of this version")
        waiting: dict[str, Any] = next((each["waiting"] for each in states if each.get("waiting")), {})
        why = plain(": ".join(str(waiting[key]) for key in ("reason", "message") if waiting.get(key)))[:300] or why
        time.sleep(_LOOK_S)
    return unknown(
        f"{asked}: the pod that tries it doesn't end within {patient.pod_timeout_s:g} s: {why}",
        "the operator's image must be there for that namespace's pods too: see its imagePullSecrets, quotas and nodes",
    )


def _pod(aim: Aim, image: str) -> Object:
    """No label of its own: what a NetworkPolicy lets through to it, it lets through to any pod of the namespace."""
    limits = {"cpu": "200m", "memory": "128Mi"}
    container: dict[str, Any] = {
        **harmless_container(),
        "name": "probe",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["probe", *arguments(aim), f"--timeout={_TIMEOUT_S:g}", "--output=/dev/termination-log"],
        "resources": {"requests": limits, "limits": limits},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    container["securityContext"] = {**container["securityContext"], "runAsUser": 64802, "readOnlyRootFilesystem": True}
    spec = {
        "containers": [container],
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "activeDeadlineSeconds": _POD_ENDS_S,
        "terminationGracePeriodSeconds": 0,
    }
    metadata = {"name": f"sidegate-doctor-{uuid.uuid4().hex[:8]}", "labels": {"app.kubernetes.io/part-of": "sidegate"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


CHECKS: Final = (Check("ports", _from_here), Check("ports", _from_a_pod))
