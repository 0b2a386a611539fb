"""What stands beside an object under review: the targets and policies of its namespace, as the API server has them now."""

from __future__ import annotations

import asyncio

from sidegate.api.meta import API_VERSION
from sidegate_operator.webhook.api_access import ApiAccessError, ApiServer, Json
from sidegate_operator.webhook.validate import Neighbours


async def read_neighbours(api: ApiServer, namespace: str) -> Neighbours:
    """Both lists, whole.

    Raises:
        ApiAccessError: one can't be read.
    """
    targets, policies = await asyncio.gather(
        *(
            _items(api, f"/apis/{API_VERSION}/namespaces/{namespace}/{plural}")
            for plural in ("protectedtargets", "accesspolicies")
        )
    )
    return Neighbours.of(targets, policies)


async def _items(api: ApiServer, path: str) -> list[Json]:
    """A list leaves out of its items what is the same for all: their kind."""
    found = await api.read(path)
    if found is None:
        raise ApiAccessError(f"the API server has no `{path}`", "apply the custom resource definitions")
    kind = {"apiVersion": found["apiVersion"], "kind": str(found["kind"]).removesuffix("List")}
    return [{**kind, **item} for item in found.get("items") or []]
