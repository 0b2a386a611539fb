"""How many new requests may be asked for within a span, and whose go first where too many are kept. Pure: the operator counts objects so,
and a gate without a cluster its files.

Rules it keeps: what is counted is what was made, whatever became of it since; a moment that is ahead of the reader's clock counts, for
clocks differ, and none of that may let more through; where too many are kept, those who have most lose first, so that nobody pushes out
another's by having many.

Left out: who is who, and keeping what is counted at least as long as it counts.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

Owner = TypeVar("Owner", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Pace:
    """At most `most` new ones in any span of `within_s`."""

    most: int
    within_s: float


NEW_PER_PRINCIPAL: Final = Pace(30, 600.0)  # of one target; people decide on a handful in ten minutes
NEW_PER_TARGET: Final = Pace(200, 600.0)
COUNTED_S: Final = 60.0 + max(
    NEW_PER_PRINCIPAL.within_s, NEW_PER_TARGET.within_s
)  # clocks of those who count may differ by a minute


@dataclass(frozen=True, slots=True)
class TooOften:
    """No further request is made before `wait_s` are over."""

    problem: str
    wait_s: int

    @property
    def way_forward(self) -> str:
        return f"wait {self.wait_s} s; a statement that is pending already can be sent again at any time, and decided"


def too_often(who: str, target: str, made: Iterable[float], now: float, pace: Pace) -> TooOften | None:
    """Why `who` gets no new request, by the moments in which earlier ones were made; None: they may have one."""
    counting = sorted(at for at in made if at > now - pace.within_s)
    if len(counting) < pace.most:
        return None
    wait_s = counting[-pace.most] + pace.within_s - now if pace.most > 0 else pace.within_s
    problem = f"{who} asked for {len(counting)} approvals on `{target}` in the last {pace.within_s:g} s, of {pace.most} allowed"
    return TooOften(problem, math.ceil(wait_s))


def surplus(kept: Mapping[Owner, int], most: int) -> dict[Owner, int]:
    """How many of whose go so that `most` stay: one by one from who has most; of several who have, from the first in the mapping."""
    owners = list(kept)
    having = [(-kept[owner], place) for place, owner in enumerate(owners) if kept[owner] > 0]
    heapq.heapify(having)
    going: dict[Owner, int] = {}
    for _ in range(sum(kept.values()) - max(0, most)):
        count, place = having[0]
        going[owners[place]] = going.get(owners[place], 0) + 1
        if count == -1:
            heapq.heappop(having)
        else:
            heapq.heapreplace(having, (count + 1, place))
    return going
