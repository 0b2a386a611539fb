from __future__ import annotations

import time

from sidegate.runtime import clock


def test_now_is_the_time_of_day_in_seconds_since_the_epoch() -> None:
    before = time.time_ns() / 1e9
    assert before - 0.001 <= clock.now() <= time.time_ns() / 1e9 + 0.001


def test_elapsed_never_goes_back() -> None:
    readings = [clock.elapsed() for _ in range(1000)]
    assert sorted(readings) == readings


def test_timestamps_are_rfc_3339_in_utc_with_milliseconds() -> None:
    assert clock.timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert clock.timestamp(1767225599.9996) == "2025-12-31T23:59:59.999Z"
