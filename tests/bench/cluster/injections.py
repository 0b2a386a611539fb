"""What injection adds to the creation of a pod: pods that ask for a gate and pods that don't, made in turn, one after the other.

The API server calls the webhook for the first kind alone. Both are really stored, since a dry run would leave half of the work out, and
removed afterwards. `webhook_alone` is the same review sent to the webhook by itself, over a connection that stays open.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Final

from sidegate_operator.api_client import ApiClient
from sidegate_operator.resources import PODS
from tests.bench.cluster.full_cluster import together
from tests.bench.cluster.population import Object, Population, gated_pod, target_name, ungated_pod
from tests.support.admission import Admission

WARM_UP: Final = 5


@dataclass(slots=True)
class Injections:
    """Milliseconds. `added` is the difference within each pair."""

    gated: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    webhook: list[float] = field(default_factory=list)

    @property
    def added(self) -> list[float]:
        return [gated - plain for gated, plain in zip(self.gated, self.plain, strict=True)]


async def measure(client: ApiClient, population: Population, admission: Admission) -> Injections:
    found, made = Injections(), []
    for number in range(-WARM_UP, population.size.injections):
        target = max(0, number) % population.size.targets
        namespace, node = population.namespace_of(target), number % population.size.nodes
        pair = (
            (found.gated, gated_pod(namespace, f"extra-{number + WARM_UP}", target_name(target), node)),
            (found.plain, ungated_pod(namespace, f"plain-{number + WARM_UP}", node)),
        )
        for times, pod in pair if number % 2 else reversed(pair):
            began = time.perf_counter()
            stored = await client.create(pod)
            spent_ms = (time.perf_counter() - began) * 1000
            made.append(stored)
            assert bool(stored["spec"].get("initContainers")) is (times is found.gated), "only pods that ask get a gate"
            if number >= 0:
                times.append(spent_ms)
    await together(made, lambda pod: client.delete(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"]))
    found.webhook = webhook_alone(admission, population)
    return found


def webhook_alone(admission: Admission, population: Population) -> list[float]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # as Admission.ask: it is ours, on loopback
    connection = http.client.HTTPSConnection("127.0.0.1", admission.port, timeout=30, context=context)
    times = []
    try:
        for number in range(-WARM_UP, population.size.injections):
            target = max(0, number) % population.size.targets
            pod = gated_pod(population.namespace_of(target), f"alone-{number}", target_name(target), 0)
            body = json.dumps(review_of(pod))
            began = time.perf_counter()
            connection.request("POST", "/inject?timeout=5s", body, {"Content-Type": "application/json"})
            answer: Any = json.loads(connection.getresponse().read())
            spent_ms = (time.perf_counter() - began) * 1000
            assert answer["response"]["allowed"] is True, answer
            assert answer["response"].get("patch"), "it gets a gate"
            if number >= 0:
                times.append(spent_ms)
    finally:
        connection.close()
    return times


def review_of(pod: Object) -> Object:
    """As the API server asks about a pod's creation."""
    resource = {"group": "", "version": "v1", "resource": "pods"}
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    request = {
        "uid": str(uuid.uuid4()),
        "kind": kind,
        "requestKind": kind,
        "resource": resource,
        "requestResource": resource,
        "name": pod["metadata"]["name"],
        "namespace": pod["metadata"]["namespace"],
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:statefulset-controller", "groups": ["system:authenticated"]},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
