"""The key that decisions are signed with, on a real API server."""

from __future__ import annotations

import asyncio
import base64

import pytest

from sidegate_operator.api_client import ApiClient, ApiError
from sidegate_operator.credentials import Credentials
from sidegate_operator.webhook.decision_key import CONFIG_MAP, SECRET, DecisionKey, fetch_decision_key
from tests.support.api_server import ApiServer


def test_replicas_that_start_together_share_one_key(api_server: ApiServer, namespace: str) -> None:
    async def race() -> set[bytes]:
        async with ApiClient(Credentials.from_kubeconfig(api_server.kubeconfig)) as api:
            return {each.public for each in await asyncio.gather(*(fetch_decision_key(api, namespace) for _ in range(8)))}

    (public,) = asyncio.run(race())
    published = api_server.admin.get("v1", "ConfigMap", CONFIG_MAP, namespace=namespace)["data"]
    assert [base64.b64decode(each) for each in published.values()] == [public]


def test_another_key_leaves_the_older_ones_public_half(api_server: ApiServer, namespace: str) -> None:
    async def fetch() -> DecisionKey:
        async with ApiClient(Credentials.from_kubeconfig(api_server.kubeconfig)) as api:
            return await fetch_decision_key(api, namespace)

    first = asyncio.run(fetch())
    assert asyncio.run(fetch()).public == first.public
    api_server.admin.delete("v1", "Secret", SECRET, namespace=namespace)
    second = asyncio.run(fetch())
    published = api_server.admin.get("v1", "ConfigMap", CONFIG_MAP, namespace=namespace)["data"]
    assert {name: base64.b64decode(each) for name, each in published.items()} == {
        first.id: first.public,
        second.id: second.public,
    }


@pytest.mark.parametrize("data", [{}, {"ed25519": "bm9uc2Vuc2U="}, {"other": "eA=="}])
def test_a_key_that_cannot_be_read_is_not_replaced(api_server: ApiServer, namespace: str, data: dict[str, str]) -> None:
    """Another key would make decisions that were signed before look forged, and nobody would know why."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": namespace}, "data": data}
    api_server.admin.create(secret)

    async def fetch() -> None:
        async with ApiClient(Credentials.from_kubeconfig(api_server.kubeconfig)) as api:
            await fetch_decision_key(api, namespace)

    with pytest.raises(ApiError, match="holds no key"):
        asyncio.run(fetch())
