"""The steps of one walk through the policies, kept for a person. The engine fills it when asked, and answers the same without it."""

from __future__ import annotations

from dataclasses import dataclass, field

from sidegate.policy.source import Source


@dataclass(frozen=True, slots=True)
class Step:
    """`what` was looked at, the `outcome` in a few words, and the policy part it came from."""

    what: str
    outcome: str
    source: Source | None = None


@dataclass(slots=True)
class Trace:
    steps: list[Step] = field(default_factory=list)

    def add(self, what: str, outcome: str, source: Source | None = None) -> None:
        self.steps.append(Step(what, outcome, source))
