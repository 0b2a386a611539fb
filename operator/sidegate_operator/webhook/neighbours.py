"""What stands beside an object under review: the targets and policies of its namespace, as the API server has them now."""

from __future__ import annotations

import asyncio

from sidegate_operator.api_client import ApiClient
from sidegate_operator.resources import ACCESS_POLICIES, PROTECTED_TARGETS
from sidegate_operator.webhook.validate import Neighbours


async def read_neighbours(api: ApiClient, namespace: str) -> Neighbours:
    """Both lists, whole.

    Raises:
        ApiError: one can't be read.
    """
    targets, policies = await asyncio.gather(api.list(PROTECTED_TARGETS, namespace), api.list(ACCESS_POLICIES, namespace))
    return Neighbours(targets.items, policies.items)
