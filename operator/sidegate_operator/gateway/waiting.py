"""Who waits for a request to change: woken by the stores, without asking anybody. One loop; nothing here is shared between threads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from sidegate_operator.store import Key


class Waiting:
    def __init__(self) -> None:
        self._by_key: dict[Key, set[asyncio.Event]] = {}
        self.is_over = False

    @contextmanager
    def on(self, key: Key) -> Iterator[asyncio.Event]:
        """Set whenever the request may have changed; whoever waits clears it, and looks."""
        event = asyncio.Event()
        self._by_key.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            events = self._by_key[key]
            events.discard(event)
            if not events:
                del self._by_key[key]

    def wake(self, key: Key) -> None:
        for each in self._by_key.get(key, ()):
            each.set()

    def wake_all(self) -> None:
        for key in self._by_key:
            self.wake(key)

    def end(self) -> None:
        """Nobody waits any longer, and nobody begins to."""
        self.is_over = True
        self.wake_all()

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))
