"""Whether decisions are guarded: the admission objects that Sidegate stands on, looked at when starting and every minute.

Rules it keeps: until they were seen as they must be, and whenever one can't be read, decisions count as unguarded, and new holds are
refused. What is wrong is said once when it comes, and once when it is over.

Left out: what the objects must be (`webhook/guards.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sidegate_operator.api_client import ApiClient, ApiError, read_or_none
from sidegate_operator.webhook.guards import guard_keys, guards_in_place

LOG: Final = logging.getLogger(__name__)
_SHOWN: Final = 3


@dataclass(slots=True)
class Guarding:
    """`url`: the webhook's, where it is called by no Service. `unguarded` is None when all is as it must be; `changed` is called when it is
    another.
    """

    client: ApiClient
    namespace: str
    url: str = ""
    every_s: float = 60.0
    changed: Callable[[], None] = lambda: None
    unguarded: str | None = "it isn't known yet whether decisions are guarded"
    looked: asyncio.Event = field(default_factory=asyncio.Event)  # once at least

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self.every_s)

    async def look(self) -> None:
        try:
            live = [await read_or_none(self.client, resource, None, name) for resource, name in guard_keys(self.namespace)]
        except ApiError as problem:
            self._found(f"it can't be told whether decisions are guarded: {problem}; fix: {problem.way_forward}")
            return
        problems = guards_in_place(live, self.namespace, self.url)
        shown = "; ".join(map(str, problems[:_SHOWN]))
        more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
        self._found(f"decisions aren't guarded: {shown}{more}" if problems else None)

    def _found(self, problem: str | None) -> None:
        before, was_known, self.unguarded = self.unguarded, self.looked.is_set(), problem
        self.looked.set()
        if was_known and problem == before:
            return
        if problem is not None:
            LOG.error("%s; new holds are refused meanwhile", problem)
        else:
            LOG.info("decisions are guarded")
        self.changed()
