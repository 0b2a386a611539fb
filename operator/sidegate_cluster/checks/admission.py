"""Does admission stand: the objects in the API server as they must be, a webhook behind them that is trusted and answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidegate_cluster.checks.check import APPLY_CHART, Check, Patient, Result, fine, harmless_container, pods_of, unknown, wrong
from sidegate_cluster.pages.refusals import CallError, guard_that_denied, told
from sidegate_operator.plan.gate_container import GATE_CONTAINER
from sidegate_operator.plan.owned import TARGET_LABEL
from sidegate_operator.resources import MUTATING_WEBHOOKS, PODS, VALIDATING_WEBHOOKS, Object, Resource
from sidegate_operator.webhook.guards import guard_keys, guards_in_place

SLICES: Final = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
_PROBE: Final = "sidegate-doctor"  # a target that nobody has: asking for it is refused by the webhook, in its own words
_OTHERWISE: Final = "default"
_NETS: Final = {"guard sidegate-gate-required", "guard sidegate-selected-pods"}  # what is under the webhook
_NOT_ASKED: Final = "the API server doesn't ask the webhook about pods that want a gate"


def _guards(patient: Patient) -> Iterator[Result]:
    live = []
    for kind, name in guard_keys(patient.home):
        found = patient.cluster.find(kind, name)
        live.append(None if found is None else {"apiVersion": kind.api_version, "kind": kind.kind, **found})
    problems = guards_in_place(live, patient.home)
    for problem in problems:
        where = f"{problem.name}: {problem.field_path}" if problem.field_path else problem.name
        yield wrong(f"{where}: {problem.problem}", problem.way_forward)
    standing = len(live) - len(problems)
    if standing:
        yield fine(f"{standing} of {len(live)} admission objects are as they must be")


def _authority(patient: Patient) -> Iterator[Result]:
    for kind in (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS):
        found = patient.cluster.find(kind, "sidegate")
        if found is None:
            continue  # said above
        untrusted = [each["name"] for each in found.get("webhooks") or () if not each["clientConfig"].get("caBundle")]
        if untrusted:
            yield wrong(
                f"{', '.join(untrusted)}: no caBundle, so the API server trusts no webhook",
                "the webhook writes it within seconds: see whether it runs, and whether a deployment tool takes it out",
            )
        else:
            yield fine(f"{kind.kind} sidegate trusts the webhook's authority")


def _endpoints(patient: Patient) -> Iterator[Result]:
    found = patient.cluster.find(MUTATING_WEBHOOKS, "sidegate")
    services = {
        (each["clientConfig"]["service"]["namespace"], each["clientConfig"]["service"]["name"])
        for each in (found or {}).get("webhooks") or ()
        if each["clientConfig"].get("service")
    }
    for namespace, name in sorted(services):
        slices = patient.cluster.list(SLICES, namespace, labelSelector=f"kubernetes.io/service-name={name}")
        ready = sum(
            (each.get("conditions") or {}).get("ready") is not False for one in slices for each in one.get("endpoints") or ()
        )
        if ready:
            yield fine(f"{ready} webhook{'s' if ready > 1 else ''} ready behind Service {namespace}/{name}")
        else:
            yield wrong(f"no webhook is ready behind Service {namespace}/{name}", f"see why: {pods_of(namespace, 'webhook')}")


def _answer(patient: Patient) -> Iterator[Result]:
    """Asks as a pod would that wants a gate, where there are some; a dry run, whatever comes of it."""
    namespaces = [each["metadata"]["namespace"] for each in patient.targets or ()]
    try:
        made = patient.cluster.create(PODS, _probe(), namespaces[0] if namespaces else _OTHERWISE, dryRun="All")
    except CallError as error:
        words = told(error)
        if f"`{_PROBE}`" in error.message and "ProtectedTarget" in error.message:
            yield fine("the webhook answers for pods that ask for a gate")
        elif error.code == 403 and "cannot create resource" in error.message:
            yield unknown("whether the webhook answers: you may not make pods, not even as a dry run", words.way_forward)
        elif "failed calling webhook" in error.message:
            yield wrong(words.problem, words.way_forward)
        elif guard_that_denied(error) in _NETS:
            yield wrong(_NOT_ASKED, APPLY_CHART)
        else:
            yield unknown(
                f"whether the webhook answers: a pod that was tried is refused by others: {words.problem}", words.way_forward
            )
        return
    if all(each["name"] != GATE_CONTAINER for each in made["spec"].get("initContainers") or ()):
        yield wrong(f"{_NOT_ASKED}: they start without one", APPLY_CHART)


def _probe() -> Object:
    resources = {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}}
    container = {**harmless_container(), "resources": resources}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": f"{_PROBE}-", "annotations": {TARGET_LABEL: _PROBE}},
        "spec": {"containers": [container], "automountServiceAccountToken": False},
    }


CHECKS: Final = (
    Check("guards", _guards),
    Check("webhook", _authority),
    Check("webhook", _endpoints),
    Check("webhook", _answer),
)
