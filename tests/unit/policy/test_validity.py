"""Windows follow the wall clock of their zone, through daylight saving time and across midnight."""

from __future__ import annotations

import datetime as dt
import math

import pytest

from sidegate.policy.config import ValidityConfig, WindowConfig
from sidegate.policy.validity import Standing, valid_for

BERLIN = "Europe/Berlin"
EVERY_DAY = (0, 1, 2, 3, 4, 5, 6)


def at(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


def window(start: str, end: str, days: tuple[int, ...] = EVERY_DAY, zone: str = BERLIN) -> ValidityConfig:
    def minute(text: str) -> int:
        hours, minutes = text.split(":")
        return int(hours) * 60 + int(minutes)

    return ValidityConfig(windows=(WindowConfig(days, minute(start), minute(end), zone),))


@pytest.mark.parametrize(
    ("moment", "is_valid"),
    [
        ("2026-11-25T06:59:59+00:00", False),
        ("2026-11-25T07:00:00+00:00", True),  # 08:00 in winter
        ("2026-11-25T16:59:59+00:00", True),
        ("2026-11-25T17:00:00+00:00", False),  # `to` is exclusive
        ("2026-07-22T05:59:00+00:00", False),
        ("2026-07-22T06:00:00+00:00", True),  # 08:00 in summer
        ("2026-07-22T16:00:00+00:00", False),
        ("2026-11-28T10:00:00+00:00", False),  # a Saturday
    ],
)
def test_office_hours_follow_the_wall_clock_in_winter_and_summer(moment: str, is_valid: bool) -> None:
    assert valid_for(window("08:00", "18:00", (0, 1, 2, 3, 4)), at(moment)).is_valid is is_valid


@pytest.mark.parametrize(
    ("moment", "is_valid"),
    [
        ("2026-11-27T20:59:00+00:00", False),  # Friday 21:59 in Berlin
        ("2026-11-27T21:00:00+00:00", True),  # Friday 22:00
        ("2026-11-28T04:59:00+00:00", True),  # Saturday 05:59, begun on Friday
        ("2026-11-28T05:00:00+00:00", False),
        ("2026-11-28T21:30:00+00:00", False),  # Saturday night isn't listed
        ("2026-11-27T04:30:00+00:00", False),  # Friday morning would have begun on Thursday
    ],
)
def test_a_window_across_midnight_belongs_to_the_day_it_starts_on(moment: str, is_valid: bool) -> None:
    assert valid_for(window("22:00", "06:00", (4,)), at(moment)).is_valid is is_valid


def test_the_hour_that_spring_skips_never_comes() -> None:
    """29 March 2026: 01:59:59 is followed by 03:00:00 in Berlin, so 02:00 to 03:00 doesn't exist."""
    validity = window("02:00", "03:00")
    start = at("2026-03-29T00:00:00+00:00")
    assert not any(valid_for(validity, start + 60 * minute).is_valid for minute in range(180))
    assert valid_for(validity, at("2026-03-30T00:30:00+00:00")).is_valid


def test_the_hour_that_autumn_repeats_counts_twice() -> None:
    """25 October 2026: 02:00 to 03:00 comes twice in Berlin, at 00:00 and at 01:00 UTC."""
    validity = window("02:00", "03:00")
    start = at("2026-10-24T23:00:00+00:00")
    valid = [minute for minute in range(240) if valid_for(validity, start + 60 * minute).is_valid]
    assert valid == list(range(60, 180))


def test_a_window_across_midnight_spans_the_gap() -> None:
    validity = window("22:00", "04:00", (5,))  # from Saturday 28 March 2026
    assert valid_for(validity, at("2026-03-29T00:30:00+00:00")).is_valid  # 01:30
    assert valid_for(validity, at("2026-03-29T01:30:00+00:00")).is_valid  # 03:30, an hour later on the wall
    assert not valid_for(validity, at("2026-03-29T02:00:00+00:00")).is_valid  # 04:00


def test_a_window_to_the_end_of_the_day_leaves_no_gap_at_midnight() -> None:
    validity = ValidityConfig(windows=(WindowConfig(EVERY_DAY, 0, 1440, BERLIN),))
    start = at("2026-11-25T22:58:00+00:00")
    assert all(valid_for(validity, start + 30 * step).is_valid for step in range(10))


@pytest.mark.parametrize("name", ["Europe/Atlantis", "", "Europe", "/etc/passwd", "../../etc/passwd", "UTC\x00"])
def test_an_unknown_zone_is_an_error_even_beside_a_window_that_holds(name: str) -> None:
    good = WindowConfig(EVERY_DAY, 0, 1440, "UTC")
    for windows in ((good, WindowConfig(EVERY_DAY, 0, 1440, name)), (WindowConfig(EVERY_DAY, 0, 1440, name), good)):
        answer = valid_for(ValidityConfig(windows=windows), at("2026-11-25T10:00:00+00:00"))
        assert (answer.standing, answer.is_valid) == (Standing.ERROR, False)


def test_a_window_with_equal_ends_is_empty() -> None:
    validity = window("08:00", "08:00")
    start = at("2026-11-25T00:00:00+00:00")
    assert not any(valid_for(validity, start + 60 * minute).is_valid for minute in range(1440))


def test_not_before_is_inclusive_and_not_after_exclusive() -> None:
    validity = ValidityConfig(not_before=100.0, not_after=200.0)
    assert [valid_for(validity, now).standing for now in (99.9, 100.0, 199.9, 200.0)] == [
        Standing.NOT_YET,
        Standing.VALID,
        Standing.VALID,
        Standing.LAPSED,
    ]


@pytest.mark.parametrize("now", [-1.0, 1e18, math.inf, math.nan])
def test_a_moment_that_no_calendar_has_is_never_inside_a_window(now: float) -> None:
    assert not valid_for(window("00:00", "24:00"), now).is_valid


def test_an_answer_says_how_long_it_stands() -> None:
    validity = window("08:00", "18:00")
    start = at("2026-11-25T06:57:13+00:00")
    now = start
    while now < start + 600:
        answer = valid_for(validity, now)
        assert answer.since <= now < answer.until
        for probe in (answer.since, (answer.since + answer.until) / 2, answer.until - 0.001):
            assert valid_for(validity, probe).is_valid is answer.is_valid
        now = answer.until


def test_without_windows_the_answer_stands_to_the_next_edge() -> None:
    validity = ValidityConfig(not_before=100.0, not_after=200.0)
    assert [(valid_for(validity, now).since, valid_for(validity, now).until) for now in (0.0, 150.0, 300.0)] == [
        (-math.inf, 100.0),
        (100.0, 200.0),
        (200.0, math.inf),
    ]


def test_a_moment_that_is_no_number_is_an_error_without_windows_too() -> None:
    assert valid_for(ValidityConfig(), math.nan).standing is Standing.ERROR
