"""A hold from the person's patch to the statement's release: what a gate waits for, asked as a gate asks (docs/gateway.md).

Rules: time counts from before the patch is sent, through admission that seals the decision, to the moment the gate has it in hand, and to
the answer that lets it run the statement, once. One hold at a time, over a connection for each request, which costs a handshake more than
a gate that keeps its own.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from sidegate_operator.plan.gate_container import AUDIENCE
from tests.bench.cluster.population import VERSION, WIDE
from tests.support.admission import DEVELOPERS, REQUESTER, in_an_hour
from tests.support.api_server import ApiServer
from tests.support.gate_client import GateClient, Reply
from tests.support.processes import wait_until
from tests.support.running_operator import RunningOperator

APPROVER: Final = "chief"
APPROVERS: Final = ["dba"]


@dataclass(frozen=True, slots=True)
class Released:
    """Milliseconds until the gate had the decision, and until it had claimed it."""

    decided_ms: float
    released_ms: float


def client_of(api: ApiServer, port: int, authority: str, namespace: str, target: str, pod: str) -> GateClient:
    bound = api.admin.get("v1", "Pod", pod, namespace=namespace)
    token = api.admin.service_account_token("default", namespace=namespace, audience=AUDIENCE, pod=bound)
    return GateClient(port, namespace, target, token, authority)


def release_one(api: ApiServer, operator: RunningOperator, gate: GateClient, number: int) -> Released:
    said = gate.post("holds", new_hold(gate, number))
    assert said.status == 201, said
    held: dict[str, Any] = said.body["request"]
    name, moments = held["metadata"]["name"], {}

    def wait_and_claim() -> None:
        version = held["metadata"]["resourceVersion"]
        while True:
            answer = gate.get(f"holds/{name}", wait="20", version=version)
            assert answer.status == 200, answer
            if answer.body["request"]["spec"].get("decisions"):
                break
            version = answer.body["request"]["metadata"]["resourceVersion"]
        moments["decided"] = time.perf_counter()
        uid, fingerprint = held["metadata"]["uid"], held["spec"]["fingerprint"]
        claimed: Reply = gate.post(f"holds/{name}/claim", {"uid": uid, "fingerprint": fingerprint})
        assert (claimed.status, claimed.body["request"]["status"]["phase"]) == (200, "Executed"), claimed
        moments["released"] = time.perf_counter()

    gate_waits = threading.Thread(target=wait_and_claim)
    gate_waits.start()
    wait_until(lambda: operator.metric("sidegate_gateway_waiting") >= 1, "the gate to wait", 15)
    person = api.admin.acting_as(APPROVER, [*APPROVERS, DEVELOPERS])
    began = time.perf_counter()
    person.merge_patch(VERSION, "ApprovalRequest", name, {"spec": {"decision": "Approved"}}, namespace=gate.namespace)
    gate_waits.join()
    return Released((moments["decided"] - began) * 1000, (moments["released"] - began) * 1000)


def new_hold(gate: GateClient, number: int) -> dict[str, Any]:
    requester = {name: value for name, value in REQUESTER.items() if name != "kubernetesUsernames"}
    spec = {
        "target": gate.target,
        "principal": requester,
        "statement": f"ALTER TABLE prod.ledger ADD COLUMN note_{number} text",
        "fingerprint": f"{number:032x}",
        "rule": {"namespace": gate.namespace, "policy": WIDE, "name": "ledger"},
        "approvers": {"groups": APPROVERS},
        "required": 1,
        "expiresAt": in_an_hour(),
    }
    return {"name": f"bench-{number}", "holdUntil": in_an_hour(), "spec": spec}
