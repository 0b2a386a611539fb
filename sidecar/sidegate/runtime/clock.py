"""The one clock. Everything else takes its time as an argument `now`, so that it can be tested at any moment.

Two times, never mixed: `now` is what other machines can compare (token expiry, validity windows, records, audit events) and may be set
back by an administrator or NTP; `elapsed` only ever goes forward and measures how long something took or may still take in this process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]


def now() -> float:
    """Seconds since the epoch, UTC."""
    return time.time()  # noqa: TID251 - this is the clock that the rule points to


def elapsed() -> float:
    """Seconds since some moment before this process began: only differences mean anything."""
    return time.monotonic()


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds, as records, audit events and logs write it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
