"""Which keys are due for reconciling: each once, however often it was asked for, and never twice at a time.

Level-triggered: a key says that something about it may have changed, never what. Rules it keeps: one that is asked for while it runs runs
again afterwards; one that fails waits for a span that doubles, and one that succeeds starts over; a new event makes a failing one due at
once, since it may be the cure; at most `limit` run together. Keys that can wait go after the others, but for every eighth turn, so that
they do get their turn. What waits is bounded by the number of keys.

`WorkQueue` is pure, over `now`; `Workers` is the asyncio shell around it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

LOG: Final = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)
_TURN_OF_THE_OTHERS: Final = 8


@dataclass(frozen=True, slots=True)
class Pace:
    limit: int = 8
    settle_s: float = 0.02  # what comes as a burst is done once
    first_backoff_s: float = 0.25
    longest_backoff_s: float = 60.0

    def backoff_s(self, failures: int) -> float:
        """After so many failures in a row, at least one."""
        return min(self.longest_backoff_s, self.first_backoff_s * 2.0 ** min(failures - 1, 30))


class WorkQueue(Generic[K]):
    """INVARIANT: a key is due at most once, and never taken while it runs."""

    def __init__(self, pace: Pace, can_wait: Callable[[K], bool] = lambda _key: False) -> None:
        self.pace: Final = pace
        self._can_wait = can_wait
        self._due: dict[K, float] = {}
        # The second is of those that can wait. Both may hold what is no longer due; `_due` decides.
        self._heaps: tuple[list[tuple[float, int, K]], list[tuple[float, int, K]]] = ([], [])
        self._turns = 0
        self._order = itertools.count()
        self._running: set[K] = set()
        self._failures: dict[K, int] = {}

    def busy(self, now: float) -> int:
        """How many are due or run; the others wait for their time."""
        return sum(due <= now + self.pace.settle_s for due in self._due.values()) + len(self._running)

    @property
    def waiting(self) -> int:
        """How many will be taken, now or at some time."""
        return len(self._due)

    @property
    def failing(self) -> int:
        return len(self._failures)

    def add(self, key: K, now: float) -> None:
        """Something about it may have changed."""
        self._set_due(key, now + self.pace.settle_s)

    def add_after(self, key: K, span_s: float, now: float) -> None:
        """It is to be looked at then at the latest, whatever happens."""
        self._set_due(key, now + span_s)

    def take(self, now: float) -> K | None:
        """The key that has been due longest, of those that can't wait first; it runs until `done` or `failed`. None: none is due, or
        enough run.
        """
        if len(self._running) >= self.pace.limit:
            return None
        is_turn_of_the_others = self._turns % _TURN_OF_THE_OTHERS == _TURN_OF_THE_OTHERS - 1
        for heap in reversed(self._heaps) if is_turn_of_the_others else self._heaps:
            while heap and heap[0][0] <= now:
                due, _, key = heapq.heappop(heap)
                if self._due.get(key) != due or key in self._running:
                    continue
                del self._due[key]
                self._running.add(key)
                self._turns += 1
                return key
        return None

    def done(self, key: K, now: float) -> None:
        self._failures.pop(key, None)
        self._ended(key, now)

    def failed(self, key: K, now: float) -> float:
        """When it is due again, unless something changes before: seconds from now."""
        self._failures[key] = failures = self._failures.get(key, 0) + 1
        span_s = self.pace.backoff_s(failures)
        self._set_due(key, now + span_s)
        self._ended(key, now)
        return span_s

    def next_due_s(self, now: float) -> float | None:
        """How long until `take` may have something. None: not before the next call of another method."""
        if len(self._running) >= self.pace.limit:
            return None
        spans = []
        for heap in self._heaps:
            while heap and (self._due.get(heap[0][2]) != heap[0][0] or heap[0][2] in self._running):
                heapq.heappop(heap)
            if heap:
                spans.append(max(0.0, heap[0][0] - now))
        return min(spans, default=None)

    def _set_due(self, key: K, due: float) -> None:
        known = self._due.get(key)
        if known is None or due < known:
            self._due[key] = due
            self._push(key, due)

    def _ended(self, key: K, now: float) -> None:
        self._running.discard(key)
        due = self._due.get(key)
        if due is not None:  # asked for while it ran: its place in the heap may have been passed over
            self._push(key, due)

    def _push(self, key: K, due: float) -> None:
        heapq.heappush(self._heaps[self._can_wait(key)], (due, next(self._order), key))


class Workers(Generic[K]):
    """Runs `reconcile` for what is due. It returns the seconds after which to look again, or None; it raises when it failed."""

    def __init__(
        self,
        reconcile: Callable[[K], Awaitable[float | None]],
        pace: Pace,
        elapsed: Callable[[], float],
        say: Callable[[K, Exception, float], None],
        can_wait: Callable[[K], bool] = lambda _key: False,
    ) -> None:
        """`say` is told of each failure, and after how many seconds it is tried again. `can_wait`: of what goes after the others."""
        self.queue: WorkQueue[K] = WorkQueue(pace, can_wait)
        self._reconcile = reconcile
        self._elapsed = elapsed
        self._say = say
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, key: K) -> None:
        """Call it on the event loop's own thread."""
        self.queue.add(key, self._elapsed())
        self._wake.set()

    def add_after(self, key: K, span_s: float) -> None:
        self.queue.add_after(key, span_s, self._elapsed())
        self._wake.set()

    async def run(self) -> None:
        """Until it is cancelled; what runs then is cancelled too, and waited for."""
        try:
            while True:
                self._wake.clear()
                now = self._elapsed()
                while (key := self.queue.take(now)) is not None:
                    task = asyncio.create_task(self._run_one(key), name=f"reconcile {key}")
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                try:
                    async with asyncio.timeout(self.queue.next_due_s(now)):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run_one(self, key: K) -> None:
        try:
            again_after_s = await self._reconcile(key)
        except Exception as problem:  # whatever it is, the key stays due: nothing is forgotten
            self._say(key, problem, self.queue.failed(key, self._elapsed()))
        else:
            self.queue.done(key, self._elapsed())
            if again_after_s is not None:
                self.queue.add_after(key, again_after_s, self._elapsed())
        finally:
            self._wake.set()
