"""How many cells were masked, by the rule that asked for it: what an audit event about a result says. And how many values in all: a
cell may hold many, which is what budgets count.
"""

from __future__ import annotations

from collections.abc import Iterable

from sidegate.policy.source import PolicyRule


class Tally:
    """Counts until it is taken."""

    __slots__ = ("_counts", "values")

    def __init__(self) -> None:
        self._counts: dict[PolicyRule, int] = {}
        self.values = 0

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

    def take_values(self) -> int:
        """The values since the last call, whichever rules they were masked by."""
        values, self.values = self.values, 0
        return values
