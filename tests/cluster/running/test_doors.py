"""`Enforced` of a running operator is what it found when it tried the doors of a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.running.resources import pod, policy, target, wait_for_reason
from tests.support.api_server import ApiServer
from tests.support.host_rules import host_rules
from tests.support.postgres_server import PostgresServer
from tests.support.running_operator import OperatorAccount, RunningOperator


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """The pod's address is loopback here, so the rules of these tests have the gate nowhere, and everybody outside."""
    with PostgresServer() as running:
        yield running


@pytest.fixture(scope="module")
def operator(api_server: ApiServer) -> Iterator[RunningOperator]:
    with RunningOperator(OperatorAccount(api_server)) as running:
        running.wait_until_leading()
        yield running


def set_status(api: ApiServer, namespace: str, name: str, *, is_ready: bool = True, address: str = "127.0.0.1") -> None:
    started = {"image": "x", "imageID": "x", "restartCount": 0, "state": {}, "lastState": {}}
    states = [{**started, "name": "postgres", "ready": is_ready}]
    gates = [{**started, "name": "sidegate-gate", "ready": is_ready}]
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "containerStatuses": states}
    patch = {"status": {**status, "initContainerStatuses": gates}}
    api.admin.merge_patch("v1", "Pod", name, patch, namespace=namespace, subresource="status")


def test_enforced_follows_what_the_host_rules_let_in(
    api_server: ApiServer, operator: RunningOperator, namespace: str, server: PostgresServer
) -> None:
    api_server.admin.create(target(namespace, port=server.port))
    api_server.admin.create(policy(namespace))
    api_server.admin.create(pod(namespace))
    wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Enforced", "NotProbed")
    with host_rules(server, ["host shop readonly all md5", "host all all all reject"]):
        set_status(api_server, namespace, "shop-0")
        said = wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Enforced", "DoorsOpen")
        assert "as role `readonly` in database `shop`" in said["message"]
        wait_for_reason(api_server, "AccessPolicy", namespace, "read", "Enforced", "TargetNotEnforced")
    with host_rules(server, ["host all all all reject"]):
        set_status(api_server, namespace, "shop-0", is_ready=False)  # as while it restarts
        set_status(api_server, namespace, "shop-0")
        wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Enforced", "DoorsClosed")
        wait_for_reason(api_server, "AccessPolicy", namespace, "read", "Enforced", "Enforced")
        api_server.admin.create(pod(namespace, "shop-1"))
        wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Enforced", "NotProbed")
    with host_rules(server, ["host all readonly all reject", "host all all all trust"]):
        set_status(api_server, namespace, "shop-1", address="127.0.0.1")
        said = wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Enforced", "DoorsOpen")
        assert "as a role of any other name" in said["message"]
        assert "without any password" in said["message"]
