"""What gates say they enforce: the last report of each pod, and which of them count.

Rules it keeps:
- A report is of a pod by its proven identity and uid; a pod made anew begins with none.
- Who is silent for three times the interval enforces nothing, as far as anybody knows.
- While this process is so young that gates couldn't all report, those of which nothing was heard are as the target's status says: a new
  leader doesn't call everyone late. That counts for what is shown, and for nothing else.

Left out: receiving them, and what follows from them (`plan/reconcile.py`). Pure: `now` is an argument, of a clock that only goes forward.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from sidegate.gateway.messages import REPORT_EVERY_S, Report
from sidegate.mask.plain import plain
from sidegate_operator.store import Key

SILENT_AFTER_S: Final = 3.0 * REPORT_EVERY_S
MAX_PODS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Heard:
    """One gate's last report."""

    target: Key
    pod: str
    report: Report
    at: float


class Reports:
    def __init__(self, began_at: float) -> None:
        self._began_at = began_at
        self._by_uid: dict[str, Heard] = {}
        self._was_young = True

    def problem_of(self, uid: str) -> str | None:
        """Why a gate says that it isn't at the newest revision."""
        found = self._by_uid.get(uid)
        return found.report.problem if found is not None else None

    def hear(self, uid: str, heard: Heard) -> bool:
        """Whether what the gate enforces is news, or why it enforces nothing newer."""
        before = self._by_uid.pop(uid, None)
        if before is None and len(self._by_uid) >= MAX_PODS:
            self._by_uid.pop(next(iter(self._by_uid)))  # the one that was heard longest ago
        self._by_uid[uid] = heard
        if before is None or before.target != heard.target:
            return True
        return (before.report.revision, before.report.problem) != (heard.report.revision, heard.report.problem)

    def enforced(self, target: Key) -> dict[str, str]:
        """Pod uid -> revision, of the gates of one target that are heard of."""
        return {uid: each.report.revision for uid, each in self._by_uid.items() if each.target == target and each.report.revision}

    def problems(self, target: Key) -> dict[str, str]:
        """Pod uid -> why it enforces nothing newer, in words that can be shown; of the gates that say so."""
        return {
            uid: plain(each.report.problem)
            for uid, each in self._by_uid.items()
            if each.target == target and each.report.problem is not None
        }

    def is_young(self, now: float) -> bool:
        return now - self._began_at < SILENT_AFTER_S

    def fallen_silent(self, now: float) -> set[Key]:
        """The targets of gates that count no more, once each. Call it now and then."""
        gone = [uid for uid, each in self._by_uid.items() if now - each.at >= SILENT_AFTER_S]
        return {self._by_uid.pop(uid).target for uid in gone}

    def has_grown_up(self, now: float) -> bool:
        """Once: nothing is taken from statuses any more."""
        ended = self._was_young and not self.is_young(now)
        self._was_young = self._was_young and not ended
        return ended

    def versions(self) -> Counter[str]:
        """How many gates run which version."""
        return Counter(each.report.version for each in self._by_uid.values())
