"""Gates exchanged in place through the real API server: within what the guards leave the operator, one pod at a time."""

from __future__ import annotations

import pytest

from tests.cluster.gateway.conftest import Gateways, gate_pod
from tests.support.admission import OPERATOR
from tests.support.cluster_client import ApiError
from tests.support.processes import wait_until
from tests.support.running_operator import GATE_IMAGE


def gate_image(gateways: Gateways, namespace: str, name: str) -> str:
    spec = gateways.api.admin.get("v1", "Pod", name, namespace=namespace)["spec"]
    return next(str(each["image"]) for each in spec["initContainers"] if each["name"] == "sidegate-gate")


def test_one_gate_is_exchanged_and_the_next_waits_for_it(gateways: Gateways, shop: str) -> None:
    """The webhook gives gates another image than the operator wants: as right after an upgrade."""
    pods = [gateways.api.admin.create(gate_pod(shop, f"shop-db-{n}")) for n in range(2)]
    assert all(gate_image(gateways, shop, each["metadata"]["name"]) != GATE_IMAGE for each in pods)
    wait_until(lambda: gate_image(gateways, shop, "shop-db-0") == GATE_IMAGE, "the first to be exchanged", 60)
    found = gateways.api.admin.get("v1", "Pod", "shop-db-0", namespace=shop)
    assert found["metadata"]["uid"] == pods[0]["metadata"]["uid"]  # the very pod: its database goes on
    assert "left at" in found["metadata"]["annotations"]["sidegate.dev/exchanged"]

    def events() -> list[dict[str, str]]:
        found = gateways.api.admin.list("events.k8s.io/v1", "Event", namespace=shop)["items"]
        return [each for each in found if each["reason"] == "GateExchanged"]

    wait_until(lambda: len(events()) == 1, "people to be told of it", 30)
    assert GATE_IMAGE in events()[0]["note"]
    report = {"revision": "r1", "version": "1", "sessions": 0}
    for each in pods:
        for replica in (0, 1):
            assert gateways.client(each, replica=replica).post("report", report).status == 200
    assert gate_image(gateways, shop, "shop-db-1") != GATE_IMAGE  # reports alone don't make it the next one's turn


def test_the_operator_may_exchange_the_gates_image_alone(gateways: Gateways, shop: str) -> None:
    gateways.api.admin.create(gate_pod(shop))
    patch = {"spec": {"containers": [{"name": "database", "image": "registry.example/evil"}]}}
    path = f"/api/v1/namespaces/{shop}/pods/shop-db-0"
    operator = gateways.api.admin.acting_as(OPERATOR)
    with pytest.raises(ApiError, match="changes the image of the gate alone"):
        operator.request("PATCH", path, patch, content_type="application/strategic-merge-patch+json")
