"""Compares a suite's two runs test by test: what passes directly must pass through the gate.

A test that differs runs again, directly and through the gate alike, and counts as passed where it passed once: some of these tests measure
time or lose a race now and then, and neither way is given more tries than the other. One that failed directly too is unsteady by itself, and
gets more tries before it counts against the gate. The short table of known differences has a reason for
each; one that no longer differs is an error too, so that the table stays true. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from tests.client_suites.running import End

# Suite and test -> why it can't pass through a gate.
KNOWN: Final[Mapping[tuple[str, str], str]] = {}
ABSENT: Final = End("skipped", "it wasn't run")


@dataclass(frozen=True, slots=True)
class Difference:
    test: str
    through: End
    known: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """`not_passing`: tests that don't pass directly, so nothing can be asked of the gate; with the direct run's reason."""

    passed: int
    differences: tuple[Difference, ...]
    not_passing: Mapping[str, End]
    untrue: tuple[str, ...]
    unsteady: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        return self.passed > 0 and not self.untrue and all(difference.known for difference in self.differences)


def in_doubt(direct: Mapping[str, End], through: Mapping[str, End]) -> list[str]:
    """What is worth another try: it ended differently one way and the other."""
    tests = [*direct, *(test for test in through if test not in direct)]
    ends = [(test, direct.get(test, ABSENT).outcome, through.get(test, ABSENT).outcome) for test in tests]
    return [test for test, one, other in ends if one != other]


def failing(ends: Mapping[str, End]) -> set[str]:
    return {test for test, end in ends.items() if end.outcome == "failed"}


def still_asked(direct: Mapping[str, End], through: Mapping[str, End], unsteady: Set[str]) -> list[str]:
    """Of what is in doubt, what would count against the gate though it has failed directly too."""
    return [test for test in in_doubt(direct, through) if test in unsteady and direct.get(test, ABSENT).outcome == "passed"]


def best_of(first: Mapping[str, End], again: Mapping[str, End]) -> dict[str, End]:
    """Passed where it passed once."""
    return {**first, **{test: end for test, end in again.items() if end.outcome == "passed"}}


def compare(
    suite: str,
    direct: Mapping[str, End],
    through: Mapping[str, End],
    unsteady: Set[str] = frozenset(),
    known: Mapping[tuple[str, str], str] = KNOWN,
) -> Comparison:
    passing = [test for test, end in direct.items() if end.outcome == "passed"]
    found = [(test, through.get(test, ABSENT)) for test in passing]
    differences = tuple(Difference(test, end, known.get((suite, test))) for test, end in found if end.outcome != "passed")
    differing = {difference.test for difference in differences}
    return Comparison(
        passed=len(passing) - len(differences),
        differences=differences,
        not_passing={test: end for test, end in direct.items() if end.outcome != "passed"},
        unsteady=tuple(test for test in passing if test in unsteady),
        untrue=tuple(test for name, test in known if name == suite and test not in differing),
    )


def summary(results: Sequence[Comparison]) -> str:
    return f"{sum(result.passed for result in results)} passed both ways, {sum(len(result.differences) for result in results)} differ"
