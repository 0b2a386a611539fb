"""Holds through the gateway, with the real admission: made, decided by a person's patch, taken once."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cluster.gateway.conftest import VERSION, Gateways, gate_pod, new_hold, start_replica, wait_until_serving
from tests.support.admission import DEVELOPERS, REGISTRATION, refused_with
from tests.support.gate_client import GateClient, Reply
from tests.support.processes import wait_until


def decide(gateways: Gateways, namespace: str, name: str, decision: str = "Approved", by: str = "chief") -> None:
    """As `kubectl patch` does it."""
    person = gateways.api.admin.acting_as(by, [DEVELOPERS])
    person.merge_patch(VERSION, "ApprovalRequest", name, {"spec": {"decision": decision}}, namespace=namespace)


def waiting(ask: Callable[[], Reply]) -> tuple[threading.Thread, list[tuple[Reply, float]]]:
    """Ask in the background; the answer, and when it came."""
    answers: list[tuple[Reply, float]] = []
    asking = threading.Thread(target=lambda: answers.append((ask(), time.monotonic())))
    asking.start()
    return asking, answers


def is_waited_for(gateways: Gateways, replica: int = 0) -> None:
    wait_until(lambda: gateways.replicas[replica].operator.metric("sidegate_gateway_waiting") >= 1, "somebody to wait", 15)


def until_decided(client: GateClient, name: str, version: str) -> Reply:
    """Ask again and again as a gate does, until its decisions are there."""
    while True:
        said = client.get(f"holds/{name}", wait="20", version=version)
        if said.status != 200 or said.body["request"]["spec"].get("decisions"):
            return said
        version = said.body["request"]["metadata"]["resourceVersion"]


def taken(held: dict[str, Any]) -> dict[str, str]:
    return {"uid": held["metadata"]["uid"], "fingerprint": held["spec"]["fingerprint"]}


def made(client: GateClient, namespace: str, **spec: Any) -> dict[str, Any]:
    said = client.post("holds", new_hold(namespace, **spec))
    assert said.status == 201, said
    held: dict[str, Any] = said.body["request"]
    return held


def test_a_hold_is_made_decided_taken_once_and_told_of(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    client = gateways.client(pod)
    held = made(client, shop)
    name = held["metadata"]["name"]
    (owner,) = held["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("ProtectedTarget", "shop-db")
    asking, answers = waiting(lambda: until_decided(client, name, held["metadata"]["resourceVersion"]))
    is_waited_for(gateways)
    decide(gateways, shop, name)
    asking.join()
    decided = answers[0][0]
    (decision,) = decided.body["request"]["spec"]["decisions"]
    assert (decided.status, decision["by"], decision["decision"]) == (200, "chief", "Approved")
    assert decided.body["keys"]
    first = client.post(f"holds/{name}/claim", taken(held))
    assert (first.status, first.body["request"]["status"]["phase"]) == (200, "Executed")
    second = client.post(f"holds/{name}/claim", taken(held))
    assert (second.status, second.body["type"]) == (409, "NothingToTake")
    done = client.post(f"holds/{name}/outcome", {"result": "Succeeded", "rows": 3})
    assert done.body["request"]["status"]["outcome"]["rows"] == 3
    assert client.post(f"holds/{name}/outcome", {"result": "Failed"}).status == 409


def test_of_many_claims_at_both_replicas_one_is_granted(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    clients = [gateways.client(pod, replica=each) for each in (0, 1)]
    held = made(clients[0], shop)
    decide(gateways, shop, held["metadata"]["name"])
    with ThreadPoolExecutor(8) as pool:
        path = f"holds/{held['metadata']['name']}/claim"
        said = list(pool.map(lambda n: clients[n % 2].post(path, taken(held)).status, range(8)))
    assert sorted(said) == [200] + [409] * 7


def test_who_waits_is_answered_in_the_moment_of_the_decision(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    """Not by asking the API server now and then: a poll of a second would fail this."""
    client = gateways.client(pod, replica=1)
    spans = []
    for _ in range(3):
        held = made(client, shop)
        name = held["metadata"]["name"]
        asking, answers = waiting(functools.partial(until_decided, client, name, held["metadata"]["resourceVersion"]))
        is_waited_for(gateways, 1)
        decide(gateways, shop, name)
        at = time.monotonic()
        asking.join()
        spans.append(answers[0][1] - at)
    assert min(spans) < 0.25, spans


def test_nothing_is_taken_without_an_approval(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    client = gateways.client(pod)
    held = made(client, shop)
    path = f"holds/{held['metadata']['name']}"
    assert client.post(f"{path}/claim", taken(held)).status == 409
    decide(gateways, shop, held["metadata"]["name"], "Denied")
    assert client.post(f"{path}/claim", taken(held)).status == 409


@pytest.mark.parametrize("change", [{"uid": "another"}, {"fingerprint": "another-fingerprint"}])
def test_an_approval_of_something_else_isnt_taken(
    gateways: Gateways, shop: str, pod: dict[str, Any], change: dict[str, str]
) -> None:
    client = gateways.client(pod)
    held = made(client, shop)
    decide(gateways, shop, held["metadata"]["name"])
    assert client.post(f"holds/{held['metadata']['name']}/claim", {**taken(held), **change}).status == 409


def test_the_same_hold_sent_twice_is_made_once(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    asked = new_hold(shop)
    said = [gateways.client(pod, replica=each).post("holds", asked) for each in (0, 1)]
    assert [each.status for each in said] == [201, 200]
    assert said[0].body["request"]["metadata"]["uid"] == said[1].body["request"]["metadata"]["uid"]
    other = gateways.client(pod).post("holds", {**asked, "spec": {**asked["spec"], "statement": "DROP TABLE prod.ledger"}})
    assert (other.status, other.body["type"]) == (409, "NameTaken")


@pytest.mark.parametrize(
    "change",
    [
        {"approvers": {"users": ["eve"]}},
        {"approvers": {"groups": ["dba", "everybody"], "users": ["chief"]}},
        {"rule": {"namespace": "NAMESPACE", "policy": "assistants", "name": "another"}},
        {"rule": {"namespace": "elsewhere", "policy": "assistants", "name": "ddl"}},
        {"target": "other-db"},
        {"expiresAt": "2099-01-01T00:00:00Z"},
        {"decision": "Approved"},
        {"decisions": []},
        {"statement": ""},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_gate_doesnt_choose_who_approves_and_nothing_else_of_the_terms(
    gateways: Gateways, shop: str, pod: dict[str, Any], change: dict[str, Any]
) -> None:
    if change.get("rule", {}).get("namespace") == "NAMESPACE":
        change = {"rule": {**change["rule"], "namespace": shop}}
    said = gateways.client(pod).post("holds", new_hold(shop, **change))
    assert (said.status, said.body["type"]) == (422, "Unusable"), said


def test_a_gate_finds_what_it_asked_for_and_nothing_of_others(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    client = gateways.client(pod)
    held = made(client, shop, fingerprint="a-fingerprint-of-its-own")
    query = {"fingerprint": "a-fingerprint-of-its-own", "issuer": "https://id.example", "subject": "u-1"}
    found = client.get("holds", **query)
    assert [each["metadata"]["uid"] for each in found.body["requests"]] == [held["metadata"]["uid"]]
    assert client.get("holds", **{**query, "subject": "u-2"}).body["requests"] == []
    gone = client.post(f"holds/{held['metadata']['name']}/withdrawal", {"why": "the client left"})
    assert gone.body["request"]["status"]["phase"] == "Withdrawn"
    assert "the client left" in gone.body["request"]["status"]["conditions"][1]["message"]
    assert client.get("holds", **query).body["requests"] == []
    assert client.post(f"holds/{held['metadata']['name']}/withdrawal", {"why": "again"}).status == 409
    assert client.get("holds/there-is-none").status == 404


def test_over_the_quota_no_further_hold_is_made(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    client = gateways.client(pod)
    with ThreadPoolExecutor(8) as pool:  # together, since each counts from the moment it is asked for
        said = list(pool.map(lambda _: client.post("holds", new_hold(shop)), range(24)))
    assert sorted(each.status for each in said) == [201] * 20 + [429] * 4
    assert "ann@example.com" in next(each for each in said if each.status == 429).body["detail"]
    other = {"issuer": "https://id.example", "subject": "u-2", "username": "bob@example.com"}
    assert client.post("holds", new_hold(shop, principal=other)).status == 201


def test_asking_and_withdrawing_without_end_is_refused_by_every_replica(
    gateways: Gateways, shop: str, pod: dict[str, Any]
) -> None:
    """Whatever else changes from one to the next: the agent, the statement, what the person is called, the gate's pod, the replica."""
    other = gateways.api.admin.create(gate_pod(shop, "shop-db-1"))
    clients = [gateways.client(each, replica=replica) for each in (pod, other) for replica in (0, 1)]
    who = {"issuer": "https://id.example", "subject": "u-1"}
    for number in range(30):
        client = clients[number % len(clients)]
        changes = {"agent": f"agent-{number}", "fingerprint": f"{number:032x}", "principal": {**who, "username": f"ANN-{number}"}}
        name = made(client, shop, **changes)["metadata"]["name"]
        assert client.post(f"holds/{name}/withdrawal", {"why": "cancelled by the client"}).status == 200
    requests = functools.partial(gateways.api.admin.list, VERSION, "ApprovalRequest", namespace=shop)

    def refuses(client: GateClient) -> bool:
        return client.post("holds", new_hold(shop, fingerprint="f" * 32)).status == 429

    for client in clients:  # a replica counts what the other made once it has seen it
        wait_until(functools.partial(refuses, client), "the rate to be kept", 10)
    count = len(requests()["items"])
    assert 30 <= count <= 32
    said = clients[0].post("holds", new_hold(shop))
    assert (said.status, said.body["type"]) == (429, "TooOften")
    assert "asked for" in said.body["detail"]
    assert said.body["wayForward"].startswith("wait ")
    assert "Retry-After" not in said.headers  # a gate would ask again, and its client wait for nothing
    assert len(requests()["items"]) == count
    bob = {"issuer": "https://id.example", "subject": "u-2", "username": "bob@example.com"}
    assert clients[0].post("holds", new_hold(shop, principal=bob)).status == 201


def test_a_missing_guard_refuses_new_holds_until_it_is_back(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    client = gateways.client(pod)
    gateways.api.admin.delete(REGISTRATION, "ValidatingAdmissionPolicy", "sidegate-decisions")
    try:
        wait_until(lambda: client.post("holds", new_hold(shop)).status == 503, "new holds to be refused", 15)
        said = client.post("holds", new_hold(shop))
        assert said.body["type"] == "Unguarded"
        assert "sidegate-decisions" in said.body["detail"]
        report = client.post("report", {"revision": "", "version": "1", "sessions": 0})
        assert report.body["canHold"] is False
        assert gateways.replicas[0].operator.metric("sidegate_operator_guarded") == 0
        wait_until(lambda: guarded(gateways, shop) == "False", "the target's status to say so", 15)
    finally:
        gateways.admission.apply_objects()
    wait_until(lambda: client.post("holds", new_hold(shop)).status == 201, "holds to be taken again", 15)
    wait_until(lambda: guarded(gateways, shop) == "True", "the target's status to say so", 15)


def guarded(gateways: Gateways, namespace: str) -> str:
    status = gateways.api.admin.get(VERSION, "ProtectedTarget", "shop-db", namespace=namespace)["status"]
    (found,) = (each for each in status["conditions"] if each["type"] == "Guarded")
    return str(found["status"])


def test_an_operator_is_killed_while_a_hold_waits_and_another_serves_it_on(
    gateways: Gateways, shop: str, pod: dict[str, Any]
) -> None:
    leads = next(n for n, each in enumerate(gateways.replicas) if each.operator.metric("sidegate_operator_leader") == 1)
    killed = gateways.replicas[leads]
    held = made(gateways.client(pod, replica=leads), shop)
    name = held["metadata"]["name"]
    asking, _ = waiting(
        lambda: _or_none(lambda: gateways.client(pod, replica=leads).get(f"holds/{name}", wait="30", version="9" * 19))
    )
    is_waited_for(gateways, leads)
    killed.operator.kill()
    asking.join()
    survivor = gateways.client(pod, replica=1 - leads)
    asking, answers = waiting(lambda: until_decided(survivor, name, held["metadata"]["resourceVersion"]))
    is_waited_for(gateways, 1 - leads)
    decide(gateways, shop, name)  # nobody leads yet, and nobody has to
    asking.join()
    assert answers[0][0].status == 200
    assert survivor.post(f"holds/{name}/claim", taken(held)).status == 200
    wait_until(lambda: "Approved" in events_about(gateways, shop, name), "the event that tells of the approval", 10)
    gateways.replicas[leads] = start_replica(gateways.admission, killed.operator.account)
    wait_until_serving(gateways.replicas[leads])


def events_about(gateways: Gateways, namespace: str, name: str) -> list[str]:
    found = gateways.api.admin.list("events.k8s.io/v1", "Event", namespace=namespace)["items"]
    return [str(each["reason"]) for each in found if each["regarding"]["name"] == name]


def _or_none(ask: Callable[[], Reply]) -> Reply:
    try:
        return ask()
    except OSError:
        return Reply(0, {}, {})


def test_who_waits_at_a_replica_that_ends_is_told_to_ask_another(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    replica = start_replica(gateways.admission, gateways.replicas[0].operator.account)
    gateways.replicas.append(replica)
    try:
        wait_until_serving(replica)
        client = gateways.client(pod, replica=2)
        held = made(client, shop)
        version = held["metadata"]["resourceVersion"]

        def ask() -> Reply:
            nonlocal version
            while (said := client.get(f"holds/{held['metadata']['name']}", wait="30", version=version)).status == 200:
                version = said.body["request"]["metadata"]["resourceVersion"]
            return said

        asking, answers = waiting(ask)
        is_waited_for(gateways, 2)
        assert replica.operator.terminate() == 0
        asking.join()
        assert (answers[0][0].status, answers[0][0].body["type"]) == (503, "Unavailable")
        assert answers[0][0].headers["Retry-After"] == "1"
    finally:
        gateways.replicas.remove(replica)
        replica.operator.__exit__()


def test_requests_are_made_by_the_operator_alone(gateways: Gateways, shop: str) -> None:
    spec = new_hold(shop)["spec"]
    wanted = {"apiVersion": VERSION, "kind": "ApprovalRequest", "metadata": {"name": "mine", "namespace": shop}, "spec": spec}
    assert refused_with(lambda: gateways.api.admin.create(wanted), "made by the operator alone")


def test_a_second_gate_of_the_target_takes_over_an_approval(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    held = made(gateways.client(pod), shop)
    decide(gateways, shop, held["metadata"]["name"])
    other = gateways.api.admin.create(gate_pod(shop, "shop-db-1"))
    assert gateways.client(other).post(f"holds/{held['metadata']['name']}/claim", taken(held)).status == 200
