"""Catalogs of the target's databases, read over connections of the gate's own and shared by sessions for a short while.
The asyncio shell.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from sidegate.policy.config import CredentialConfig
from sidegate.postgres.catalog import DEFINITIONS, NO_DEFINITIONS, QUERIES, UNLOCKED_DEFINITIONS, Catalog, Rows
from sidegate.postgres.duplex import ConnectionLostError
from sidegate.postgres.login import TargetAddress, TargetLogin, TargetLoginError, ask, log_in
from sidegate.postgres.messages import TERMINATE, TargetProtocolError
from sidegate.postgres.scram import ScramKeyCache

log = logging.getLogger("sidegate.postgres")

FRESH_S: Final = 30.0  # definitions changed past the gate are seen after this long; changed through it, at once
PARTLY_FRESH_S: Final = 3.0
READ_TIMEOUT_S: Final = 30.0
MOST_READINGS: Final = 10
LOCK_NOT_AVAILABLE: Final = "55P03"


def _lasts_s(catalog: Catalog) -> float:
    return PARTLY_FRESH_S if catalog.is_partial else FRESH_S


class CatalogReader:
    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._kept: dict[str, tuple[float, Catalog]] = {}
        self._reading: dict[str, asyncio.Task[Catalog | None]] = {}
        self._generation: dict[str, int] = {}
        self._version = 0

    def read(
        self, target: TargetAddress, credential: CredentialConfig, database: str, keys: ScramKeyCache, *, is_forced: bool
    ) -> asyncio.Task[Catalog | None]:
        """A catalog that is fresh, or just read (`is_forced`). None: it couldn't be read."""
        generation = self._generation.get(database, 0)
        kept = self._kept.get(database)
        key = f"{database}#{generation}"
        running = self._reading.get(key)
        if running is None or running.done():
            fresh = kept[1] if kept is not None and not is_forced and self._now() - kept[0] < _lasts_s(kept[1]) else None
            running = asyncio.get_running_loop().create_task(self._read(target, credential, database, keys, fresh))
            self._reading[key] = running
            running.add_done_callback(lambda _: self._reading.pop(key, None))
        return running

    def forget(self, database: str) -> None:
        """Definitions changed: what is kept, and what is being read now, may be older."""
        self._kept.pop(database, None)
        self._generation[database] = self._generation.get(database, 0) + 1

    async def _read(
        self, target: TargetAddress, credential: CredentialConfig, database: str, keys: ScramKeyCache, fresh: Catalog | None
    ) -> Catalog | None:
        if fresh is not None:
            return fresh
        kept = self._kept.get(database)
        patience = "100ms" if kept is not None and kept[1].is_partial else "1s"
        for _ in range(MOST_READINGS):  # whoever waits for it knows of changes that came while it was read
            generation = self._generation.get(database, 0)
            began = self._now()
            try:
                async with asyncio.timeout(READ_TIMEOUT_S):
                    login = await log_in(target, credential, database, {"application_name": "sidegate catalog"}, keys)
                    try:
                        results = [await _ask(login, query, patience) for query in QUERIES]
                        login.side.write(TERMINATE)
                    finally:
                        login.side.close()
            except (TargetLoginError, ConnectionLostError, TargetProtocolError, TimeoutError, ValueError, OSError) as error:
                log.error("catalog of database %s can't be read: %s", database, str(error) or type(error).__name__)
                return None
            self._version += 1
            _, columns, views, generated, composites, tells, events, enums = results
            catalog = Catalog.decode(columns, views, generated, self._version, composites, tells, events, enums)
            if generation == self._generation.get(database, 0):
                self._kept[database] = (began, catalog)
                return catalog
        log.error("catalog of database %s can't be read: it changed %d times meanwhile", database, MOST_READINGS)
        return None


async def _ask(login: TargetLogin, query: str, patience: str) -> Rows:
    """A view's definition can't be read while somebody alters it or what it reads from: it is left out, and the view is masked whole."""
    if query is not DEFINITIONS:
        return (await ask(login, (query,)))[0]
    for attempt in (DEFINITIONS, UNLOCKED_DEFINITIONS, NO_DEFINITIONS):
        try:
            rows = (await ask(login, (f"SET lock_timeout = '{patience}'", attempt)))[1]
        except TargetLoginError as error:
            if error.fields.get("C") != LOCK_NOT_AVAILABLE or attempt is NO_DEFINITIONS:
                raise
        else:
            await ask(login, ("SET lock_timeout = 0",))
            return rows
    raise AssertionError("the last of them waits for no lock")
