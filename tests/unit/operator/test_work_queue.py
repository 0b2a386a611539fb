"""Each key once, never twice at a time, and nothing that was asked for is forgotten."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate_operator.work_queue import Pace, Workers, WorkQueue

AT_ONCE = Pace(limit=2, settle_s=0.0, first_backoff_s=1.0, longest_backoff_s=8.0)


def test_what_is_asked_for_many_times_is_done_once() -> None:
    queue: WorkQueue[str] = WorkQueue(Pace(settle_s=0.1))
    for moment in (0.0, 0.01, 0.02):
        queue.add("shop", moment)
    assert queue.take(0.05) is None
    assert queue.next_due_s(0.05) == 0.05
    assert queue.take(0.1) == "shop"
    assert queue.take(9.0) is None


def test_what_is_asked_for_while_it_runs_runs_again_and_never_beside_itself() -> None:
    queue: WorkQueue[str] = WorkQueue(AT_ONCE)
    queue.add("shop", 0.0)
    assert queue.take(0.0) == "shop"
    queue.add("shop", 1.0)
    assert queue.take(1.0) is None
    assert queue.next_due_s(1.0) is None
    queue.done("shop", 2.0)
    assert queue.take(2.0) == "shop"


def test_what_can_wait_goes_after_the_others_and_still_gets_its_turn() -> None:
    queue: WorkQueue[str] = WorkQueue(Pace(limit=100, settle_s=0.0), lambda key: key.startswith("status"))
    for number in range(3):
        queue.add(f"status {number}", 0.0)
    for number in range(10):
        queue.add(f"target {number}", 1.0)
    taken = [queue.take(2.0) for _ in range(13)]
    assert taken[:7] == [f"target {number}" for number in range(7)]
    assert taken[7:] == ["status 0", "target 7", "target 8", "target 9", "status 1", "status 2"]
    assert queue.take(2.0) is None


def test_what_can_wait_wakes_the_queue_when_it_is_due_first() -> None:
    queue: WorkQueue[str] = WorkQueue(AT_ONCE, lambda key: key == "status")
    queue.add("target", 5.0)
    queue.add("status", 3.0)
    assert queue.next_due_s(1.0) == 2.0
    assert queue.take(4.0) == "status"
    assert queue.next_due_s(4.0) == 1.0


def test_a_failing_key_waits_twice_as_long_each_time_and_starts_over_when_it_succeeds() -> None:
    queue: WorkQueue[str] = WorkQueue(AT_ONCE)
    now, waits = 0.0, []
    queue.add("shop", now)
    for _ in range(5):
        assert queue.take(now) == "shop"
        waits.append(queue.failed("shop", now))
        assert queue.take(now + waits[-1] - 0.01) is None
        now += waits[-1]
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert queue.take(now) == "shop"
    queue.done("shop", now)
    assert queue.failing == 0
    queue.add("shop", now)
    assert queue.take(now) == "shop"
    assert queue.failed("shop", now) == 1.0


def test_a_new_event_makes_a_failing_key_due_at_once() -> None:
    queue: WorkQueue[str] = WorkQueue(AT_ONCE)
    queue.add("shop", 0.0)
    queue.take(0.0)
    queue.failed("shop", 0.0)
    queue.add("shop", 0.1)
    assert queue.take(0.1) == "shop"


def test_no_more_run_together_than_the_limit() -> None:
    queue: WorkQueue[int] = WorkQueue(AT_ONCE)
    for key in range(3):
        queue.add(key, 0.0)
    assert [queue.take(0.0) for _ in range(3)] == [0, 1, None]
    queue.done(0, 0.0)
    assert queue.take(0.0) == 2


def test_a_later_time_never_delays_what_is_due_sooner() -> None:
    queue: WorkQueue[str] = WorkQueue(AT_ONCE)
    queue.add("shop", 0.0)
    queue.add_after("shop", 60.0, 0.0)
    assert queue.take(0.0) == "shop"
    queue.done("shop", 0.0)
    queue.add_after("shop", 60.0, 0.0)
    queue.add("shop", 1.0)
    assert queue.take(1.0) == "shop"
    assert queue.take(61.0) is None


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "add", "take", "take", "done", "failed", "later"]), st.integers(0, 3), st.floats(0, 3)),
        max_size=60,
    )
)
def test_nothing_is_forgotten_and_nothing_runs_twice_at_a_time(steps: list[tuple[str, int, float]]) -> None:
    queue: WorkQueue[int] = WorkQueue(AT_ONCE)
    now = 0.0
    running: set[int] = set()
    owed: set[int] = set()  # asked for since it was last taken
    for what, key, span in steps:
        now += span
        if what == "add":
            queue.add(key, now)
            owed.add(key)
        elif what == "later":
            queue.add_after(key, span, now)
            owed.add(key)
        elif what == "take":
            taken = queue.take(now)
            if taken is not None:
                assert taken not in running
                assert taken in owed
                running.add(taken)
                owed.discard(taken)
            assert len(running) <= AT_ONCE.limit
        elif key in running:
            running.discard(key)
            if what == "done":
                queue.done(key, now)
            else:
                queue.failed(key, now)
                owed.add(key)
    for key in running:
        queue.done(key, now)
    seen = set()
    now += 1000.0
    while (found := queue.take(now)) is not None:
        assert found not in seen
        seen.add(found)
        queue.done(found, now)
    assert seen == owed


# The shell


async def test_workers_go_on_when_one_key_fails_and_try_it_again() -> None:
    tries: dict[str, int] = {}
    said: list[tuple[str, str, float]] = []
    finished = asyncio.Event()

    async def reconcile(key: str) -> None:
        tries[key] = tries.get(key, 0) + 1
        if key == "broken" and tries[key] < 3:
            raise ValueError("no such thing")
        if tries == {"broken": 3, "fine": 1}:
            finished.set()

    loop = asyncio.get_running_loop()
    workers = Workers(
        reconcile,
        Pace(settle_s=0.0, first_backoff_s=0.001),
        loop.time,
        lambda key, problem, wait_s: said.append((key, str(problem), wait_s)),
    )
    running = asyncio.create_task(workers.run())
    workers.add("broken")
    workers.add("fine")
    async with asyncio.timeout(10):
        await finished.wait()
    assert said == [("broken", "no such thing", 0.001), ("broken", "no such thing", 0.002)]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_ended_workers_leave_nothing_running() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def reconcile(_: str) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    workers = Workers(reconcile, AT_ONCE, asyncio.get_running_loop().time, lambda *_: None)
    running = asyncio.create_task(workers.run())
    workers.add("shop")
    async with asyncio.timeout(10):
        await began.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert ended.is_set()


async def test_a_key_that_asks_to_be_looked_at_again_is() -> None:
    done = asyncio.Event()
    count = 0

    async def reconcile(_: str) -> float | None:
        nonlocal count
        count += 1
        if count == 2:
            done.set()
            return None
        return 0.001

    workers = Workers(reconcile, AT_ONCE, asyncio.get_running_loop().time, lambda *_: None)
    running = asyncio.create_task(workers.run())
    workers.add("shop")
    async with asyncio.timeout(10):
        await done.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
