"""Connections on which nobody is known yet: how many there may be, in all and from one address, and which of them gives way.

Rules it keeps:
- Who arrives is never turned away for strangers: the oldest one goes, of the same address when that has its fill, else of all. So an
  address that opens connections pushes out its own, and a gate needs its place for no longer than it takes to say who it is.
- A connection that was closed keeps its place until it is the oldest: nobody has to notice that it is gone.

Pure. Left out: the connections themselves (`arriving`), and who is known (`server`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeAlias

Drop: TypeAlias = Callable[[], None]


class Strangers:
    """`most` in all, `most_of_one` from one address."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._all: dict[Hashable, tuple[str, Drop]] = {}  # in the order in which they came
        self._of: dict[str, dict[Hashable, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def arrive(self, who: Hashable, address: str, drop: Drop) -> Drop | None:
        """Give it a place. What drops the one that gives way comes back, to be called."""
        mine = self._of.get(address, {})
        gone = None
        if len(mine) >= self._most_of_one:
            gone = self.leave(next(iter(mine)))
        elif len(self._all) >= self._most:
            gone = self.oldest()
        self._all[who] = address, drop
        self._of.setdefault(address, {})[who] = None
        return gone

    def oldest(self) -> Drop | None:
        """Take the place of the one that came first; None: there is none."""
        return self.leave(next(iter(self._all))) if self._all else None

    def leave(self, who: Hashable) -> Drop | None:
        """It is known now, or gone. None: it had no place (any more)."""
        found = self._all.pop(who, None)
        if found is None:
            return None
        address, drop = found
        mine = self._of[address]
        del mine[who]
        if not mine:
            del self._of[address]
        return drop
