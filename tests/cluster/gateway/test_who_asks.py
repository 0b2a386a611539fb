"""Who may ask the gateway: the pod that a token is bound to, for its own target, and nobody else."""

from __future__ import annotations

import dataclasses
import socket
import ssl
from typing import Any

import pytest

from tests.cluster.gateway.conftest import VERSION, Gateways, gate_pod, new_hold
from tests.support.admission import plain_pod, target
from tests.support.processes import wait_until

REPORT = {"revision": "", "version": "1.0", "sessions": 0}


def revision(gateways: Gateways, namespace: str) -> str:
    found = gateways.api.admin.get("v1", "ConfigMap", "sidegate-shop-db", namespace=namespace)
    return str(found["metadata"]["annotations"]["sidegate.dev/revision"])


def synced(gateways: Gateways, namespace: str) -> tuple[str, str]:
    status = gateways.api.admin.get(VERSION, "ProtectedTarget", "shop-db", namespace=namespace).get("status", {})
    found = [each for each in status.get("conditions", []) if each["type"] == "Synced"]
    return (found[0]["status"] if found else "", status.get("gates", {}).get("summary", ""))


def test_a_gates_report_makes_its_target_synced(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    assert synced(gateways, shop)[0] != "True"
    for replica in (0, 1):  # as gates do, whoever leads
        said = gateways.client(pod, replica=replica).post("report", {**REPORT, "revision": revision(gateways, shop)})
        assert (said.status, said.body) == (200, {"nextS": 10.0, "canHold": True})
    wait_until(lambda: synced(gateways, shop) == ("True", "1/1"), "the target to be synced", 15)


def test_a_report_of_an_older_revision_leaves_it_unsynced(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    for replica in (0, 1):
        assert gateways.client(pod, replica=replica).post("report", {**REPORT, "revision": "older"}).status == 200
    wait_until(lambda: synced(gateways, shop) == ("False", "0/1"), "the gate to be counted", 15)


def test_the_targets_config_map_carries_the_authority_that_gates_verify(gateways: Gateways, shop: str) -> None:
    found = gateways.api.admin.get("v1", "ConfigMap", "sidegate-shop-db", namespace=shop)["data"]
    assert found["operator-ca.crt"].strip() == gateways.authority().strip()


def test_it_speaks_tls_1_3_alone(gateways: Gateways) -> None:
    address = ("127.0.0.1", gateways.replicas[0].port)
    context = ssl.create_default_context(cadata=gateways.authority())
    with socket.create_connection(address, 5) as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as speaking:
        assert speaking.version() == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(address, 5) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize("audience", ["https://kubernetes.default.svc", "somebody-else"])
def test_a_token_for_another_audience_is_refused(gateways: Gateways, shop: str, pod: dict[str, Any], audience: str) -> None:
    said = gateways.client(pod, audience=audience).post("report", REPORT)
    assert (said.status, said.body["type"]) == (401, "Unauthenticated")
    assert said.headers["Content-Type"] == "application/problem+json"
    assert said.body["wayForward"]


def test_a_token_that_is_bound_to_no_pod_is_refused(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    unbound = gateways.api.admin.service_account_token("default", namespace=shop, audience="sidegate-operator")
    said = dataclasses.replace(gateways.client(pod), token=unbound).post("report", REPORT)
    assert said.status == 401
    assert "bound to a pod" in said.body["detail"]


@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c", "x" * 8000])
def test_what_is_no_token_is_refused(gateways: Gateways, shop: str, pod: dict[str, Any], token: str) -> None:
    said = dataclasses.replace(gateways.client(pod), token=token).post("report", REPORT)
    assert said.status == 401


def test_the_token_of_a_pod_without_a_gate_is_refused(gateways: Gateways, shop: str) -> None:
    bare = gateways.api.admin.create(plain_pod(shop, "bare"))
    said = gateways.client(bare).post("report", REPORT)
    assert (said.status, said.body["type"]) == (403, "Anothers")


def test_the_token_of_another_targets_pod_is_refused(gateways: Gateways, shop: str) -> None:
    other = {**target(shop, selector={"matchLabels": {"app": "other-db"}}, port=5433)}
    other["metadata"] = {"name": "other-db", "namespace": shop}
    gateways.api.admin.create(other)
    theirs = gateways.api.admin.create(gate_pod(shop, "other-db-0", "other-db"))
    wait_until(lambda: gateways.client(theirs, "other-db").post("report", REPORT).status == 200, "its own target to know it")
    for path, body in (("report", REPORT), ("holds", new_hold(shop))):
        said = gateways.client(theirs, "shop-db").post(path, body)
        assert (said.status, said.body["type"]) == (403, "Anothers")


def test_the_token_of_a_pod_of_another_namespace_is_refused(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    elsewhere = gateways.api.create_namespace()
    gateways.api.admin.create(target(elsewhere))
    client = dataclasses.replace(gateways.client(pod), namespace=elsewhere)
    assert client.post("report", REPORT).status == 403


def test_a_pod_made_anew_isnt_taken_for_the_one_before(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    before = gateways.client(pod)
    assert before.post("report", REPORT).status == 200  # the review is remembered
    gateways.api.admin.delete("v1", "Pod", "shop-db-0", namespace=shop, grace_s=0)
    gateways.api.admin.create(gate_pod(shop))
    wait_until(lambda: before.post("report", REPORT).status in {401, 403}, "the old token to count for nothing", 10)


def test_what_isnt_of_the_protocol_is_refused_and_no_token_is_logged(gateways: Gateways, shop: str, pod: dict[str, Any]) -> None:
    client = gateways.client(pod)
    assert client.request("GET", "/").status == 404
    assert client.request("DELETE", f"/v1/targets/{shop}/shop-db/report").status == 405
    assert client.post("report", {**REPORT, "unknown": 1}).status == 400
    assert client.post("holds", {**new_hold(shop), "more": "x" * 600_000}).status == 413
    assert client.get("holds/ar-1", wait="-1").status == 400
    log = "\n".join(gateways.replicas[0].operator.lines())
    assert client.token not in log
    assert client.token.split(".")[2] not in log
