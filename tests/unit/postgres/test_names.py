"""Names with several candidates, and the queue of expectations."""

from __future__ import annotations

from sidegate.postgres.pipeline import Expectations, Expected, Kind
from sidegate.postgres.statements import Names


def test_both_candidates_stand_until_the_target_answers() -> None:
    names: Names[str] = Names()
    names.offer("x", "old").confirm()
    names.offer("x", "new")
    names.fence()
    assert names.find("x") == ("old", "new")


def test_up_to_the_sync_what_was_offered_last_is_sure() -> None:
    """Should it fail, the target skips whatever would have used it."""
    names: Names[str] = Names()
    names.offer("x", "old").confirm()
    names.offer("x", "new")
    assert names.find("x") == ("new",)


def test_a_confirmed_candidate_keeps_those_that_follow_it() -> None:
    names: Names[str] = Names()
    first = names.offer("x", "first")
    names.offer("x", "second")
    first.confirm()
    names.fence()
    assert names.find("x") == ("first", "second")


def test_a_cleared_name_keeps_what_is_still_to_be_answered() -> None:
    names: Names[str] = Names()
    names.offer("x", "old").confirm()
    binding = names.offer("y", "new")
    names.clear()
    assert (names.find("x"), names.find("y")) == ((), ("new",))
    binding.confirm()
    names.clear()
    assert names.find("y") == ()


def test_a_confirmed_candidate_is_the_only_one() -> None:
    names: Names[str] = Names()
    names.offer("x", "old").confirm()
    names.offer("x", "new").confirm()
    assert names.find("x") == ("new",)


def test_a_failed_candidate_leaves_the_older_one() -> None:
    names: Names[str] = Names()
    names.offer("x", "old").confirm()
    names.offer("x", "new").take_back()
    assert names.find("x") == ("old",)


def test_a_removal_counts_only_once_confirmed() -> None:
    names: Names[str] = Names()
    names.offer("x", "old").confirm()
    removal = names.removal("x")
    assert names.find("x") == ("old",)
    names.offer("x", "new")
    removal.confirm()
    assert names.find("x") == ("new",)


def test_a_removal_of_everything_spares_what_came_after_it() -> None:
    names: Names[str] = Names()
    names.offer("x", "a").confirm()
    names.offer("y", "b").confirm()
    removal = names.removal_of_all()
    names.offer("z", "c")
    removal.confirm()
    assert (names.find("x"), names.find("y"), names.find("z")) == ((), (), ("c",))


def test_an_error_skips_to_the_next_sync() -> None:
    queue = Expectations()
    for kind in (Kind.PARSE, Kind.BIND, Kind.EXECUTE, Kind.SYNC, Kind.PARSE):
        queue.push(Expected(kind))
    queue.pop()
    assert [entry.kind for entry in queue.skip_to_sync()] == [Kind.BIND, Kind.EXECUTE]
    assert queue.head is not None
    assert Kind.SYNC is queue.head.kind
    assert queue.awaits_ready
    assert queue.has_unsynced
