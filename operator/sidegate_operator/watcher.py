"""Our own list and watch of one kind, while the operator leads: fills a store and tells what changed. Never blind; says when it can't see.

Rules it keeps:
- 410 is answered with a list, whose difference from the store tells what was deleted meanwhile. So is every other error in a watch, after a
  span that doubles: kopf's watcher ends for good there. A list is made now and then anyway, should all else have missed something.
- Every outcome is a sign of life, refusals too: whoever tries again isn't blind. Silence isn't: a watch in which nothing comes is ended,
  and `silent_for` lets a watchdog end the process when even that didn't help.
- A problem is said once when it comes, with the way forward, and once when it is over.

Left out: what a change leads to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sidegate_operator.api_client import ApiClient, ApiError, Gone, NotFound, Unreachable, WatchEvent, error_of
from sidegate_operator.resources import Resource
from sidegate_operator.store import Change, Store, VersionError

LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchLimits:
    watch_s: float = 300.0
    silence_s: float = 90.0  # bookmarks come about once a minute (watch cache, bookmarkFrequency)
    relist_s: float = 600.0
    first_backoff_s: float = 0.25
    longest_backoff_s: float = 15.0


class Watcher:
    def __init__(
        self,
        client: ApiClient,
        store: Store,
        changed: Callable[[Change], None],
        elapsed: Callable[[], float],
        limits: WatchLimits | None = None,
        **selectors: str,
    ) -> None:
        self.store: Final = store
        self.synced: Final = asyncio.Event()  # the first list is in the store
        self.problem: ApiError | None = None
        self.lists = 0
        self.errors = 0
        self._client = client
        self._changed = changed
        self._elapsed = elapsed
        self._limits = limits or WatchLimits()
        self._selectors = selectors
        self._seen_at: float | None = None
        self._failures = 0
        self._version = ""

    @property
    def resource(self) -> Resource:
        return self.store.resource

    def silent_for(self) -> float:
        """Seconds since the last sign of life; none before `run`."""
        return self._elapsed() - self._seen_at if self._seen_at is not None else 0.0

    async def run(self) -> None:
        """Until it is cancelled."""
        self._alive()
        while True:
            try:
                await self._list()
                await self._watch()
            except Gone as gone:
                LOG.info("%s: listed again: %s", self.resource, gone)
                self._alive()
            except ApiError as problem:
                await self._failed(problem)
            except VersionError as problem:
                await self._failed(ApiError(str(problem), problem.way_forward))

    async def _list(self) -> None:
        listing = await self._client.list(self.resource, keep=self.store.keep, **self._selectors)
        self._alive()
        self.lists += 1
        self._tell(self.store.relisted(listing.items, listing.resource_version))
        self._version = listing.resource_version
        self._well()
        self.synced.set()

    async def _watch(self) -> None:
        """Until it is time for another list."""
        until = self._elapsed() + self._limits.relist_s
        while (left := until - self._elapsed()) > 0:
            lifetime_s = min(self._limits.watch_s, left + 1)
            watch = self._client.watch(
                self.resource, self._version, lifetime_s=lifetime_s, silence_s=self._limits.silence_s, **self._selectors
            )
            async with watch as events:
                self._alive()
                async for event in events:
                    self._alive()
                    self._take(event)
            await asyncio.sleep(self._limits.first_backoff_s)  # a watch that ends at once must not make a storm of requests

    def _take(self, event: WatchEvent) -> None:
        found = event.object
        match event.type:
            case "ADDED" | "MODIFIED":
                change = self.store.seen(found)
            case "DELETED":
                change = self.store.deleted(found)
            case "BOOKMARK":
                change = None
            case "ERROR":
                raise error_of(
                    int(found.get("code") or 500), str(found.get("reason", "")), f"watch: {found.get('message', found)}"
                )
            case unknown:
                raise Unreachable(f"watch: an event of the unknown type `{unknown}`", "run against a supported Kubernetes")
        self._version = found["metadata"]["resourceVersion"]
        self.store.reached(self._version)
        self._tell([change] if change is not None else [])

    def _tell(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._changed(change)

    def _alive(self) -> None:
        self._seen_at = self._elapsed()

    def _well(self) -> None:
        if self.problem is not None:
            LOG.info("%s: in order again", self.resource)
        self.problem = None
        self._failures = 0

    async def _failed(self, problem: ApiError) -> None:
        self._alive()
        self.errors += 1
        self._failures += 1
        if isinstance(problem, NotFound):
            problem = NotFound(
                f"the API server doesn't serve {self.resource}",
                "apply the CRDs of this release; this goes on by itself then",
                404,
            )
        if self.problem is None or str(problem) != str(self.problem):
            LOG.warning("%s: %s; fix: %s", self.resource, problem, problem.way_forward)
        self.problem = problem
        backoff_s = self._limits.first_backoff_s * 2.0 ** min(self._failures - 1, 30)
        await asyncio.sleep(min(self._limits.longest_backoff_s, backoff_s))
