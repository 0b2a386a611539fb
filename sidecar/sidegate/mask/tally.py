"""How many values were masked, by the rule that asked for it: what an audit event about a result says."""

from __future__ import annotations

from collections.abc import Iterable

from sidegate.policy.source import PolicyRule


class Tally:
    """Counts until it is taken."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[PolicyRule, int] = {}

    def add(self, source: PolicyRule, count: int = 1) -> None:
        if count:
            self._counts[source] = self._counts.get(source, 0) + count

    def add_all(self, sources: Iterable[PolicyRule]) -> None:
        for source in sources:
            self.add(source)

    def take(self) -> dict[PolicyRule, int]:
        """The counts since the last call."""
        counts, self._counts = self._counts, {}
        return counts
