"""What the operator has observed, counted for metrics: conditions of targets and policies, phases of approval requests.

Rules it keeps: counts alone and no names of objects, so that a cluster with many has as many series as one with few. Pure.
Left out: serving them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from sidegate_operator.resources import Object


def by_condition(objects: Iterable[Object]) -> Mapping[tuple[str, str], int]:
    """How many have each condition in each status."""
    found: Counter[tuple[str, str]] = Counter()
    for each in objects:
        for condition in _status(each).get("conditions") or ():
            found[condition["type"], condition["status"]] += 1
    return found


def by_phase(requests: Iterable[Object]) -> Mapping[str, int]:
    """How many are in each phase; one that has no status yet waits as the others do."""
    return Counter(_status(each).get("phase") or "Pending" for each in requests)


def _status(found: Object) -> Mapping[str, Any]:
    return found.get("status") or {}
