"""How many may do something at a time, in all and of one address: who comes slowly waits for itself, and holds up nobody else."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Places:
    def __init__(self, most: int, most_of_one: int) -> None:
        self._all = asyncio.Semaphore(most)
        self._most_of_one = most_of_one
        self._of: dict[str, asyncio.Semaphore] = {}
        self._wanted: Counter[str] = Counter()  # how many have a place of the address's, or wait for one

    @asynccontextmanager
    async def of(self, address: str) -> AsyncIterator[None]:
        """Wait for a place, first among those of the address."""
        own = self._of.setdefault(address, asyncio.Semaphore(self._most_of_one))
        self._wanted[address] += 1
        try:
            async with own, self._all:
                yield
        finally:
            self._wanted[address] -= 1
            if not self._wanted[address]:
                del self._wanted[address], self._of[address]
