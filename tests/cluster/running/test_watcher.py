"""Our own watch sees what there is, whatever befalls it and the API server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from sidegate_operator.api_client import ApiClient, Forbidden, NotFound, Unreachable
from sidegate_operator.credentials import Credentials
from sidegate_operator.resources import CONFIG_MAPS, Resource
from sidegate_operator.store import Change, Key, Store
from sidegate_operator.watcher import Watcher, WatchLimits
from tests.support.api_server import ApiServer
from tests.support.fault_proxy import FaultProxy

QUICK = WatchLimits(first_backoff_s=0.05, longest_backoff_s=0.2, silence_s=30.0)
LABEL = "sidegate.dev/test"


@dataclass
class Seen:
    watcher: Watcher
    changes: list[Change] = field(default_factory=list)

    def names(self) -> set[str]:
        return {each["metadata"]["name"] for each in self.watcher.store.all()}

    def deletions(self) -> list[str]:
        return [change.key.name for change in self.changes if change.after is None]


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not condition():
        if loop.time() > deadline:
            raise TimeoutError(f"waited {timeout_s} s in vain for {what}")
        await asyncio.sleep(0.01)


@asynccontextmanager
async def watching(
    credentials: Credentials, label: str, resource: Resource = CONFIG_MAPS, limits: WatchLimits = QUICK
) -> AsyncIterator[Seen]:
    changes: list[Change] = []
    async with ApiClient(credentials, timeout_s=5) as client:
        loop = asyncio.get_running_loop()
        watcher = Watcher(client, Store(resource), changes.append, loop.time, limits, labelSelector=f"{LABEL}={label}")
        running = asyncio.create_task(watcher.run())
        try:
            yield Seen(watcher, changes)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def config_map(namespace: str, name: str, **data: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": {LABEL: namespace}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


async def test_knows_what_there_was_and_what_comes_and_goes(api_server: ApiServer, namespace: str) -> None:
    api_server.admin.create(config_map(namespace, "before"))
    async with watching(Credentials.from_kubeconfig(api_server.kubeconfig), namespace) as seen:
        await seen.watcher.synced.wait()
        assert seen.names() == {"before"}
        api_server.admin.create(config_map(namespace, "after"))
        await until(lambda: seen.names() == {"before", "after"}, "the new one")
        api_server.admin.merge_patch("v1", "ConfigMap", "after", {"data": {"a": "2"}}, namespace=namespace)
        await until(lambda: (seen.watcher.store.get(Key(namespace, "after")) or {}).get("data") == {"a": "2"}, "the change")
        api_server.admin.delete("v1", "ConfigMap", "before", namespace=namespace)
        await until(lambda: seen.deletions() == ["before"], "the deletion")
        assert seen.watcher.lists == 1


async def test_notices_what_was_deleted_while_its_history_was_compacted(api_server: ApiServer, namespace: str) -> None:
    for name in ("kept", "deleted"):
        api_server.admin.create(config_map(namespace, name))
    with FaultProxy(api_server) as proxy:
        async with watching(proxied(api_server, proxy, namespace), namespace) as seen:
            await until(lambda: seen.names() == {"kept", "deleted"}, "the first list")
            await until(lambda: proxy.open_watches("configmaps") == 1, "the watch")
            with proxy.silenced("configmaps"):
                api_server.admin.delete("v1", "ConfigMap", "deleted", namespace=namespace)
                api_server.compact()  # the watch ends with the API server, and its version is forgotten
            await until(lambda: seen.deletions() == ["deleted"], "the deletion in the gap")
            assert seen.names() == {"kept"}
            assert seen.watcher.lists >= 2


@pytest.mark.parametrize("code", [500, 504, 410, 403])
async def test_an_error_in_the_watch_doesnt_make_it_blind(api_server: ApiServer, namespace: str, code: int) -> None:
    with FaultProxy(api_server) as proxy:
        async with watching(proxied(api_server, proxy, namespace), namespace) as seen:
            await until(lambda: proxy.open_watches("configmaps") == 1, "the watch")
            assert proxy.break_watches("configmaps", code=code) == 1
            api_server.admin.create(config_map(namespace, "after"))
            await until(lambda: seen.names() == {"after"}, "what came after the error")
            assert seen.watcher.errors == (0 if code == 410 else 1)
            assert seen.watcher.problem is None


async def test_events_that_a_silent_watch_swallowed_come_with_the_next_list(api_server: ApiServer, namespace: str) -> None:
    limits = WatchLimits(first_backoff_s=0.05, longest_backoff_s=0.2, silence_s=0.5)
    with FaultProxy(api_server) as proxy:
        async with watching(proxied(api_server, proxy, namespace), namespace, limits=limits) as seen:
            await until(lambda: proxy.open_watches("configmaps") == 1, "the watch")
            with proxy.silenced("configmaps"):
                api_server.admin.create(config_map(namespace, "unheard"))
                await until(lambda: seen.names() == {"unheard"}, "the list after the silence")


async def test_goes_on_when_the_api_server_was_restarted(api_server: ApiServer, namespace: str) -> None:
    async with watching(Credentials.from_kubeconfig(api_server.kubeconfig), namespace) as seen:
        await seen.watcher.synced.wait()
        api_server.restart()
        api_server.admin.create(config_map(namespace, "after"))
        await until(lambda: seen.names() == {"after"}, "what came after the restart")


async def test_an_api_server_that_hangs_is_noticed_and_isnt_the_end(api_server: ApiServer, namespace: str) -> None:
    limits = WatchLimits(first_backoff_s=0.05, longest_backoff_s=0.2, silence_s=0.5)
    async with watching(Credentials.from_kubeconfig(api_server.kubeconfig), namespace, limits=limits) as seen:
        await seen.watcher.synced.wait()
        with api_server.paused():
            await until(lambda: isinstance(seen.watcher.problem, Unreachable), "the silence to be noticed")
        api_server.admin.create(config_map(namespace, "after"))
        await until(lambda: seen.names() == {"after"}, "what came after the pause")


async def test_says_once_what_is_missing_and_goes_on_when_it_is_there(
    api_server: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kind = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "laters.tests.sidegate.dev"},
        "spec": {
            "group": "tests.sidegate.dev",
            "scope": "Namespaced",
            "names": {"plural": "laters", "singular": "later", "kind": "Later"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    }
    resource = Resource("tests.sidegate.dev", "v1", "laters", "Later")
    async with watching(Credentials.from_kubeconfig(api_server.kubeconfig), "x", resource) as seen:
        await until(lambda: seen.watcher.errors >= 3, "three tries")
        assert isinstance(seen.watcher.problem, NotFound)
        assert not seen.watcher.synced.is_set()
        api_server.admin.create(kind)
        async with asyncio.timeout(30):
            await seen.watcher.synced.wait()
    api_server.admin.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", "laters.tests.sidegate.dev")
    said = [record.getMessage() for record in caplog.records if "laters" in record.getMessage()]
    assert "apply the CRDs" in said[0]
    assert said[-1] == "laters.tests.sidegate.dev: in order again"
    assert sum("doesn't serve" in line for line in said) == 1


async def test_says_what_it_may_no_longer_and_goes_on_when_it_may(api_server: ApiServer, namespace: str) -> None:
    with FaultProxy(api_server) as proxy:
        async with watching(proxied(api_server, proxy, namespace), namespace) as seen:
            await until(lambda: proxy.open_watches("configmaps") == 1, "the watch")
            api_server.admin.delete("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", f"reader-{namespace}")
            await until(lambda: not may_watch(api_server, namespace), "the API server to know it")
            proxy.break_watches("configmaps", code=500)  # open watches aren't authorised again
            await until(lambda: isinstance(seen.watcher.problem, Forbidden), "the refusal")
            assert "configmaps" in str(seen.watcher.problem)
            bind(api_server, namespace)
            api_server.admin.create(config_map(namespace, "after"))
            await until(lambda: seen.names() == {"after"}, "what came after")
            assert seen.watcher.problem is None


def may_watch(api_server: ApiServer, namespace: str) -> bool:
    """By the API server's own authorizer, which learns of a binding's end a moment after it is deleted."""
    attributes = {"namespace": namespace, "verb": "watch", "group": "", "version": "v1", "resource": "configmaps"}
    asked = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "metadata": {},
        "spec": {"user": f"system:serviceaccount:{namespace}:default", "resourceAttributes": attributes},
    }
    return bool(api_server.admin.create(asked)["status"]["allowed"])


def bind(api_server: ApiServer, namespace: str) -> None:
    """Let the namespace's service account read all ConfigMaps."""
    group = "rbac.authorization.k8s.io"
    api_server.admin.apply(
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "config-map-reader"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}],
        }
    )
    api_server.admin.create(
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"reader-{namespace}"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "config-map-reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
        }
    )


def proxied(api_server: ApiServer, proxy: FaultProxy, namespace: str) -> Credentials:
    bind(api_server, namespace)
    token = api_server.admin.service_account_token("default", namespace=namespace, audience="https://kubernetes.default.svc")
    return Credentials.from_kubeconfig(proxy.kubeconfig_for_token(token))
