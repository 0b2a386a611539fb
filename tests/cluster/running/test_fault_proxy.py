"""The proxy that the fault tests stand on passes the truth on, and fails only as it was asked to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.api_server import ApiServer
from tests.support.cluster_client import ApiError, ClusterClient
from tests.support.fault_proxy import FaultProxy
from tests.support.processes import wait_until


@pytest.fixture
def proxy(api_server: ApiServer) -> Iterator[FaultProxy]:
    with FaultProxy(api_server) as running:
        yield running


@pytest.fixture
def client(api_server: ApiServer, proxy: FaultProxy, namespace: str) -> ClusterClient:
    """Through the proxy, as a service account that may all in one namespace."""
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"all-{namespace}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
    }
    api_server.admin.create(binding)
    token = api_server.admin.service_account_token("default", namespace=namespace, audience="https://kubernetes.default.svc")
    through = ClusterClient.from_kubeconfig(proxy.kubeconfig_for_token(token))

    def may() -> bool:
        try:
            return bool(through.list("v1", "ConfigMap", namespace=namespace)["items"] == [])
        except ApiError:
            return False

    wait_until(may, "the API server's authorizer to have seen the new binding")
    return through


def config_map(namespace: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": {"a": "1"}}


def test_passes_requests_and_watches_on(client: ClusterClient, namespace: str, proxy: FaultProxy) -> None:
    since = client.list("v1", "ConfigMap", namespace=namespace)["metadata"]["resourceVersion"]
    with client.watch("v1", "ConfigMap", namespace=namespace, resource_version=since) as events:
        client.create(config_map(namespace, "one"))
        event = next(events)
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "one")
    assert proxy.requests("POST", "configmaps") == [f"/api/v1/namespaces/{namespace}/configmaps"]
    with pytest.raises(ApiError) as caught:
        client.get("v1", "ConfigMap", "none", namespace=namespace)
    assert caught.value.code == 404


def test_breaks_an_open_watch_with_an_error_of_its_own(client: ClusterClient, namespace: str, proxy: FaultProxy) -> None:
    since = client.list("v1", "ConfigMap", namespace=namespace)["metadata"]["resourceVersion"]
    with client.watch("v1", "ConfigMap", namespace=namespace, resource_version=since) as events:
        assert proxy.break_watches("secrets", code=500) == 0
        wait_until(lambda: proxy.open_watches("configmaps") == 1, "the watch to be open")
        assert proxy.break_watches("configmaps", code=500) == 1
        told = list(events)
    assert [(event["type"], event["object"]["code"]) for event in told] == [("ERROR", 500)]


def test_fails_as_often_as_it_was_asked_to(client: ClusterClient, namespace: str, proxy: FaultProxy) -> None:
    proxy.fail("GET", "configmaps", code=503, times=2)
    for _ in range(2):
        with pytest.raises(ApiError) as caught:
            client.list("v1", "ConfigMap", namespace=namespace)
        assert caught.value.code == 503
    assert client.list("v1", "ConfigMap", namespace=namespace)["items"] == []


def test_a_silenced_watch_stays_open_and_never_tells(client: ClusterClient, namespace: str, proxy: FaultProxy) -> None:
    since = client.list("v1", "ConfigMap", namespace=namespace)["metadata"]["resourceVersion"]
    with client.watch("v1", "ConfigMap", namespace=namespace, resource_version=since) as events:
        wait_until(lambda: proxy.open_watches("configmaps") == 1, "the watch to be open")
        with proxy.silenced("configmaps"):
            client.create(config_map(namespace, "unheard"))
            wait_until(lambda: proxy.swallowed() == 1, "the event to be swallowed")
        client.create(config_map(namespace, "heard"))
        assert next(events)["object"]["metadata"]["name"] == "heard"
