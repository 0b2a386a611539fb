"""The operator's one clock. Everything else takes its time as an argument, so that it can be tested at any moment.

Two times, never mixed: `now` is what other machines can compare and may be set back; `elapsed` only ever goes forward and measures spans.
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
    """As Kubernetes' metav1.Time has it: RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(seconds: float) -> str:
    """As Kubernetes' metav1.MicroTime has it, which leases and events use."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
