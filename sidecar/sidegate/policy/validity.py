"""When a policy is valid: not before, not after, and weekly windows in the policy's own time zone.

Rules it keeps:
- A window is judged by the wall clock of its zone, so it follows daylight saving time. In the hour that a zone skips there is no such wall
  clock time, and in the hour that it repeats both passes count: `from` and `to` are compared with what a clock on the wall shows.
- A window whose `to` is before its `from` crosses midnight and belongs to the day it starts on. Equal ends are an empty window.
- A zone that can't be loaded is an error, and an error never widens: the answer says so and the engine decides what it means.
- `valid_for` also answers how long the answer holds, so that it can be remembered. It may be shorter than the truth, never longer.
"""

from __future__ import annotations

import datetime as dt
import enum
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sidegate.policy.config import ValidityConfig, WindowConfig

_MINUTE_S: Final = 60
# An answer that depends on a window is sure to the end of the running minute, and no longer: windows start and end on whole minutes, and
# offsets of today's zones are whole minutes too.
_LATEST: Final = dt.datetime(9999, 12, 30, tzinfo=dt.UTC).timestamp()


class Standing(enum.Enum):
    VALID = "valid"
    NOT_YET = "not yet valid"
    LAPSED = "no longer valid"
    OUTSIDE_WINDOWS = "outside its windows"
    ERROR = "unknown time zone"


@dataclass(frozen=True, slots=True)
class Validity:
    """The answer for one moment: it holds from `since` (inclusive) until `until` (exclusive)."""

    standing: Standing
    since: float
    until: float

    @property
    def is_valid(self) -> bool:
        return self.standing is Standing.VALID


@lru_cache(maxsize=64)
def zone(name: str) -> ZoneInfo | None:
    """The zone, or None when this machine doesn't know it."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # ValueError: a name that isn't one (absolute, or with `..`); OSError: a directory of the database, as `Europe`
        return None


def valid_for(validity: ValidityConfig, now: float) -> Validity:
    """Whether the validity holds at `now`, and between which moments that answer is sure."""
    if math.isnan(now):
        return Validity(Standing.ERROR, now, now)
    if validity.not_before is not None and now < validity.not_before:
        return Validity(Standing.NOT_YET, -math.inf, validity.not_before)
    if validity.not_after is not None and now >= validity.not_after:
        return Validity(Standing.LAPSED, validity.not_after, math.inf)
    since = validity.not_before if validity.not_before is not None else -math.inf
    until = validity.not_after if validity.not_after is not None else math.inf
    if not validity.windows:
        return Validity(Standing.VALID, since, until)
    minute = math.floor(now / _MINUTE_S) * _MINUTE_S if 0 <= now < _LATEST else None
    if minute is None:
        return Validity(Standing.ERROR, now, now)
    since, until = max(since, float(minute)), min(until, float(minute + _MINUTE_S))
    standings = {_window_standing(window, now) for window in validity.windows}
    for standing in (Standing.ERROR, Standing.VALID):
        # One window that holds is enough, but one that can't be judged voids the policy: nobody knows what its author meant.
        if standing in standings:
            return Validity(standing, since, until)
    return Validity(Standing.OUTSIDE_WINDOWS, since, until)


def _window_standing(window: WindowConfig, now: float) -> Standing:
    time_zone = zone(window.time_zone)
    if time_zone is None:
        return Standing.ERROR
    wall = dt.datetime.fromtimestamp(now, tz=time_zone)
    minute = wall.hour * 60 + wall.minute
    today, yesterday = wall.weekday(), (wall.weekday() - 1) % 7
    if window.from_minute == window.to_minute:
        is_inside = False
    elif window.from_minute < window.to_minute:
        is_inside = today in window.days and window.from_minute <= minute < window.to_minute
    else:
        starts_today = today in window.days and minute >= window.from_minute
        started_yesterday = yesterday in window.days and minute < window.to_minute
        is_inside = starts_today or started_yesterday
    return Standing.VALID if is_inside else Standing.OUTSIDE_WINDOWS
