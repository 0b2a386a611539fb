"""The operator's client against a real API server: what is done, and what each refusal is called."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidegate_operator.api_client import (
    FIELD_MANAGER,
    ApiClient,
    ApiError,
    Busy,
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    Refused,
    Unreachable,
    WatchEvent,
)
from sidegate_operator.credentials import Credentials
from sidegate_operator.resources import ACCESS_POLICIES, CONFIG_MAPS, Resource
from tests.support.api_server import ApiServer
from tests.support.fault_proxy import FaultProxy


@pytest.fixture
async def client(api_server: ApiServer) -> AsyncIterator[ApiClient]:
    async with ApiClient(Credentials.from_kubeconfig(api_server.kubeconfig)) as opened:
        yield opened


def config_map(namespace: str, name: str = "settings", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


async def first(client: ApiClient, resource: Resource, since: str, namespace: str, silence_s: float = 10.0) -> WatchEvent:
    async with client.watch(resource, since, lifetime_s=20, silence_s=silence_s, namespace=namespace) as events:
        async for event in events:
            return event
    raise AssertionError("the watch ended")


async def test_applies_twice_and_changes_nothing_the_second_time(client: ApiClient, namespace: str) -> None:
    once = await client.apply(config_map(namespace, a="1"))
    again = await client.apply(config_map(namespace, a="1"))
    assert again["metadata"]["resourceVersion"] == once["metadata"]["resourceVersion"]
    assert [each["manager"] for each in again["metadata"]["managedFields"]] == [FIELD_MANAGER]


async def test_takes_its_fields_back_from_whoever_changed_them_and_leaves_the_rest(
    api_server: ApiServer, client: ApiClient, namespace: str
) -> None:
    await client.apply(config_map(namespace, a="1"))
    api_server.admin.merge_patch("v1", "ConfigMap", "settings", {"data": {"a": "2", "theirs": "3"}}, namespace=namespace)
    assert (await client.apply(config_map(namespace, a="1")))["data"] == {"a": "1", "theirs": "3"}


async def test_lists_every_page_with_kinds(client: ApiClient, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidegate_operator.api_client.PAGE", 3)
    for number in range(8):
        await client.create(config_map(namespace, f"settings-{number}"))
    listing = await client.list(CONFIG_MAPS, namespace)
    assert [each["metadata"]["name"] for each in listing.items] == [f"settings-{number}" for number in range(8)]
    assert {each["kind"] for each in listing.items} == {"ConfigMap"}
    assert listing.resource_version.isdigit()


async def test_watches_on_from_a_list(client: ApiClient, namespace: str) -> None:
    since = (await client.list(CONFIG_MAPS, namespace)).resource_version
    await client.create(config_map(namespace, a="x" * 300_000))  # comes in many chunks
    event = await first(client, CONFIG_MAPS, since, namespace)
    assert (event.type, len(event.object["data"]["a"])) == ("ADDED", 300_000)


async def test_a_patch_of_the_status_leaves_the_spec(api_server: ApiServer, client: ApiClient, namespace: str) -> None:
    spec = {"targets": {"names": ["shop-db"]}, "subjects": [{"groups": ["dba"]}]}
    spec["grants"] = [{"postgres": {"databases": ["shop"], "role": "readonly", "allow": ["Read"]}}]  # type: ignore[assignment]
    metadata = {"name": "p", "namespace": namespace}
    api_server.admin.create({"apiVersion": "sidegate.dev/v1alpha1", "kind": "AccessPolicy", "metadata": metadata, "spec": spec})
    patch = {"status": {"targetsCount": 1}, "spec": {"mode": "Observe"}}
    patched = await client.merge_patch(ACCESS_POLICIES, namespace, "p", patch, "status")
    assert patched["status"]["targetsCount"] == 1
    assert patched["spec"].get("mode") == "Enforce"


async def test_deletes_only_the_very_object(client: ApiClient, namespace: str) -> None:
    await client.create(config_map(namespace))
    with pytest.raises(Conflict):
        await client.delete(CONFIG_MAPS, namespace, "settings", uid="another")
    await client.delete(CONFIG_MAPS, namespace, "settings")
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAPS, namespace, "settings")


async def test_a_name_never_reaches_another_object(client: ApiClient, namespace: str) -> None:
    with pytest.raises(ApiError):
        await client.get(CONFIG_MAPS, namespace, "../../default")
    assert CONFIG_MAPS.path("a/b", "../x", "status") == "/api/v1/namespaces/a%2Fb/configmaps/..%2Fx/status"


# What each refusal is called


async def test_a_version_that_somebody_else_replaced_is_a_conflict(client: ApiClient, namespace: str) -> None:
    made = await client.create(config_map(namespace, a="1"))
    await client.replace({**made, "data": {"a": "2"}})
    with pytest.raises(Conflict):
        await client.replace({**made, "data": {"a": "3"}})
    with pytest.raises(Conflict):
        await client.create(config_map(namespace))


async def test_what_is_malformed_is_refused_in_the_api_servers_words(client: ApiClient, namespace: str) -> None:
    with pytest.raises(Refused) as caught:
        await client.create(config_map(namespace, "No Name"))
    assert "No Name" in str(caught.value)
    assert caught.value.code == 422


async def test_what_a_role_doesnt_grant_is_forbidden(api_server: ApiServer, namespace: str) -> None:
    async with ApiClient(Credentials.from_kubeconfig(api_server.kubeconfig_for("ada"))) as client:
        with pytest.raises(Forbidden) as caught:
            await client.list(CONFIG_MAPS, namespace)
    assert "ada" in str(caught.value)
    assert caught.value.way_forward


async def test_a_token_that_isnt_one_is_forbidden(api_server: ApiServer, namespace: str) -> None:
    async with ApiClient(Credentials.from_kubeconfig(api_server.kubeconfig_for_token("nonsense"))) as client:
        with pytest.raises(Forbidden) as caught:
            await client.list(CONFIG_MAPS, namespace)
    assert caught.value.code == 401


async def test_a_kind_that_isnt_served_is_not_found(client: ApiClient) -> None:
    with pytest.raises(NotFound):
        await client.list(Resource("sidegate.dev", "v1alpha1", "nothings", "Nothing"))


async def test_a_watch_from_before_a_compaction_is_gone(api_server: ApiServer, client: ApiClient, namespace: str) -> None:
    old = (await client.list(CONFIG_MAPS, namespace)).resource_version
    await client.create(config_map(namespace))
    api_server.compact()
    try:
        event = await first(client, CONFIG_MAPS, old, namespace)
    except Gone as gone:
        assert gone.code == 410
    else:
        assert (event.type, event.object["code"]) == ("ERROR", 410)


async def test_a_server_that_answers_nothing_is_unreachable_in_time(api_server: ApiServer, namespace: str) -> None:
    async with ApiClient(Credentials.from_kubeconfig(api_server.kubeconfig), timeout_s=0.3) as client:
        with api_server.paused(), pytest.raises(Unreachable):
            await client.list(CONFIG_MAPS, namespace)
        assert (await client.list(CONFIG_MAPS, namespace)).items == []


async def test_a_watch_in_which_nothing_comes_is_unreachable_in_time(client: ApiClient, namespace: str) -> None:
    since = (await client.list(CONFIG_MAPS, namespace)).resource_version
    with pytest.raises(Unreachable):
        await first(client, CONFIG_MAPS, since, namespace, silence_s=0.3)


async def test_a_server_of_another_authority_is_not_talked_to(api_server: ApiServer, tmp_path: Path) -> None:
    own = Credentials.from_kubeconfig(api_server.kubeconfig)
    async with ApiClient(Credentials(own.url, fixed_token="secret")) as client:
        with pytest.raises(Unreachable) as caught:
            await client.list(CONFIG_MAPS)
    assert "certificate" in str(caught.value)


async def test_a_server_with_an_error_of_its_own_is_busy(api_server: ApiServer, namespace: str) -> None:
    with FaultProxy(api_server) as proxy:
        async with ApiClient(Credentials.from_kubeconfig(proxy.kubeconfig_for_token("any"))) as client:
            for code in (429, 500, 503):
                proxy.fail("GET", "configmaps", code=code, times=1)
                with pytest.raises(Busy) as caught:
                    await client.list(CONFIG_MAPS, namespace)
                assert caught.value.code == code


async def test_a_renewed_token_file_is_used_at_once(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(api_server.authority.pem)
    (tmp_path / "token").write_text("outdated")
    pod = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api_server.port)}
    async with ApiClient(Credentials.in_cluster(pod, tmp_path)) as client:
        with pytest.raises(Forbidden) as caught:
            await client.list(CONFIG_MAPS, namespace)
        assert caught.value.code == 401
        fresh = api_server.admin.service_account_token("default", namespace=namespace, audience="https://kubernetes.default.svc")
        (tmp_path / "token").write_text(fresh)
        with pytest.raises(Forbidden) as caught:  # known now, and without a role
            await client.list(CONFIG_MAPS, namespace)
        assert caught.value.code == 403
