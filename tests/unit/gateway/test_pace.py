"""How often one may ask, and whose go first where too many are kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidegate.gateway.pace import COUNTED_S, NEW_PER_PRINCIPAL, NEW_PER_TARGET, Pace, surplus, too_often

THREE = Pace(3, 100.0)


def test_one_more_may_be_made_once_the_oldest_that_matters_is_out_of_the_span() -> None:
    made = [10.0, 50.0, 20.0, 30.0]
    refused = too_often("`ann`", "db", made, 60.0, THREE)
    assert refused is not None
    assert refused.problem == "`ann` asked for 4 approvals on `db` in the last 100 s, of 3 allowed"
    assert refused.wait_s == 60
    assert too_often("`ann`", "db", made, 119.9, THREE) is not None
    assert too_often("`ann`", "db", made, 120.0, THREE) is None


def test_where_none_is_allowed_none_is() -> None:
    assert too_often("`ann`", "db", [], 0.0, Pace(0, 100.0)) is not None


def test_what_counts_anywhere_is_kept_as_long() -> None:
    assert max(NEW_PER_PRINCIPAL.within_s, NEW_PER_TARGET.within_s) < COUNTED_S


@given(st.lists(st.integers(0, 500), max_size=80), st.integers(0, 5))
def test_in_no_span_are_there_more_than_the_most(steps: list[int], most: int) -> None:
    """However it is tried, and whoever waits as long as they are told gets in."""
    made: list[float] = []
    now, pace = 0.0, Pace(most, 1000.0)
    for step in steps:
        now += step
        refused = too_often("`ann`", "db", made, now, pace)
        if refused is None:
            made.append(now)
        elif most:
            assert too_often("`ann`", "db", made, now + refused.wait_s, pace) is None
            assert too_often("`ann`", "db", made, now + refused.wait_s - 1, pace) is not None
    assert all(sum(start <= at < start + 1000 for at in made) <= most for start in made)


@given(st.dictionaries(st.integers(0, 9), st.integers(0, 30)), st.integers(0, 60))
def test_whoever_has_most_loses_first(kept: dict[int, int], most: int) -> None:
    going = surplus(kept, most)
    left = {owner: count - going.get(owner, 0) for owner, count in kept.items()}
    assert sum(left.values()) == min(sum(kept.values()), most)
    assert all(each >= 0 for each in left.values())
    assert all(left[loser] + 1 >= left[owner] for loser in going for owner in left)


def test_of_equals_the_first_loses() -> None:
    assert surplus({"a": 2, "b": 2, "c": 1}, 4) == {"a": 1}
    assert surplus({"a": 2, "b": 2, "c": 1}, 2) == {"a": 2, "b": 1}
