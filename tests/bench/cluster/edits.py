"""One edit of one policy, until every gate config that it is part of is published anew and every pod with such a gate is told.

Rules: time counts from before the edit is sent until a watch has brought the last of what it leads to; one edit is over before the next
begins. What a gate does with it is measured with real pods (tests/e2e).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from sidegate_operator.api_client import ApiClient
from sidegate_operator.plan.owned import REVISION_ANNOTATION, TARGET_LABEL
from sidegate_operator.resources import ACCESS_POLICIES, CONFIG_MAPS, PODS, Resource
from sidegate_operator.store import Key
from tests.bench.cluster.population import WIDE, Object, Population, policy_name, target_name

TIMEOUT_S: Final = 60.0


@dataclass(slots=True)
class Revisions:
    """The revision that each ConfigMap has, and that each pod was told, and when a watch brought it."""

    of: dict[tuple[str, Key], tuple[str, float]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def saw(self, resource: Resource, found: Object) -> None:
        metadata = found["metadata"]
        revision = (metadata.get("annotations") or {}).get(REVISION_ANNOTATION, "")
        key = resource.kind, Key(metadata["namespace"], metadata["name"])
        if self.of.get(key, ("", 0.0))[0] != revision:
            self.of[key] = revision, time.perf_counter()
            self.changed.set()

    def revision(self, kind: str, namespace: str, name: str) -> str:
        return self.of.get((kind, Key(namespace, name)), ("", 0.0))[0]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def watched(client: ApiClient) -> AsyncIterator[Revisions]:
    revisions = Revisions()

    async def follow(resource: Resource, **selectors: str) -> None:
        listed = await client.list(resource, keep=None, **selectors)
        for each in listed.items:
            revisions.saw(resource, each)
        since = listed.resource_version
        while True:
            async with client.watch(resource, since, lifetime_s=600, silence_s=300, **selectors) as events:
                async for event in events:
                    since = event.object["metadata"]["resourceVersion"]
                    if event.type in {"ADDED", "MODIFIED"}:
                        revisions.saw(resource, event.object)

    tasks = [
        asyncio.create_task(follow(CONFIG_MAPS, labelSelector=TARGET_LABEL)),
        asyncio.create_task(follow(PODS)),
    ]
    try:
        yield revisions
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Edited:
    """Seconds until the last ConfigMap was published, and until the last pod was told as well."""

    published_s: float
    told_s: float


async def edit_one(client: ApiClient, population: Population, revisions: Revisions, number: int, turn: int) -> Edited:
    """A policy of one target. `turn` makes each edit another."""
    target = number % population.size.targets
    return await _edit(client, population, revisions, population.namespace_of(target), policy_name(number), [target], turn)


async def edit_wide(client: ApiClient, population: Population, revisions: Revisions, namespace: str, turn: int) -> Edited:
    """The policy that is bound to every target of its namespace."""
    return await _edit(client, population, revisions, namespace, WIDE, population.targets_within(namespace), turn)


async def _edit(
    client: ApiClient, population: Population, revisions: Revisions, namespace: str, policy: str, targets: list[int], turn: int
) -> Edited:
    names = [config_map_name_of(each) for each in targets]
    pods = {pod: config_map_name_of(each) for each in targets for pod in population.pods_of(each)}
    before = {name: revisions.revision("ConfigMap", namespace, name) for name in names}

    def is_published() -> bool:
        return all(revisions.revision("ConfigMap", namespace, name) not in {"", old} for name, old in before.items())

    def is_told() -> bool:
        wanted = {name: revisions.revision("ConfigMap", namespace, name) for name in names}
        return is_published() and all(revisions.revision("Pod", namespace, pod) == wanted[name] for pod, name in pods.items())

    grant = {"postgres": {"databases": ["shop", f"shop_{turn}"], "role": "readonly", "allow": ["Read", "Explain"]}}
    began = time.perf_counter()
    await client.merge_patch(ACCESS_POLICIES, namespace, policy, {"spec": {"grants": [grant]}})
    await revisions.until(is_told)
    published = max(revisions.of["ConfigMap", Key(namespace, name)][1] for name in names)
    told = max((revisions.of["Pod", Key(namespace, pod)][1] for pod in pods), default=published)
    return Edited(published - began, told - began)


def config_map_name_of(target: int) -> str:
    return f"sidegate-{target_name(target)}"
