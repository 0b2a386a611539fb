"""How often detectors are right: on ordinary data without secrets, and on planted values. `python -m tools.detector_precision` prints it.

The data come from tools.ordinary_data and tools.planted_data by a fixed seed, so the same code always gives the same numbers. Each ordinary
value is one cell; a find in it is a false positive. A planted value is found when nothing of it is left to see. Precision is that of a
mixture: all ordinary values and, per detector, one planted value to fifty of them. Tests hold the numbers; docs/coverage/detectors.md
shows them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from functools import cache
from random import Random
from typing import Final, NamedTuple

from sidegate.mask.detectors import DETECTORS
from sidegate.mask.reading import fold, unescape
from sidegate.mask.scanner import Scanner
from sidegate.policy.decision import MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule
from tools.ordinary_data import KINDS
from tools.planted_data import LABELS, PLANTED, SURROUNDINGS

SEED: Final = 20240229
PER_KIND: Final = 4_000
PLANTED_EACH: Final = 2_240  # one to fifty of 28 kinds of ordinary values
PER: Final = 100_000
_LEFT_OVER: Final = 8

_RULE: Final = PolicyRule("tools", "precision", "all")


class Measured(NamedTuple):
    """Counts of cells. `by_kind`: false positives by kind of ordinary data, for detectors that have any."""

    values: int
    false_positives: int
    planted: int
    found: int
    by_kind: Counter[str]

    @property
    def precision(self) -> float:
        return self.found / max(1, self.found + self.false_positives)

    @property
    def recall(self) -> float:
        return self.found / self.planted

    @property
    def per_100_000(self) -> float:
        return self.false_positives * PER / self.values


def _scanner(names: Iterable[str]) -> Scanner:
    return Scanner.of((ValueMask(frozenset(names), MaskStrategy.REDACT, _RULE),))


def ordinary(kind: str) -> list[str]:
    chance = Random(f"{SEED} {kind}")
    return [KINDS[kind](chance) for _ in range(PER_KIND)]


def planted(name: str) -> list[tuple[str, str]]:
    """Values, and the cells that they stand in."""
    chance = Random(f"{SEED} {name}")
    values = [PLANTED[name](chance) for _ in range(PLANTED_EACH)]
    return [(value, chance.choice(SURROUNDINGS)(value)) for value in values]


def _core(text: bytes) -> str:
    """Its letters and digits, however they are written."""
    return "".join(character for character in fold(unescape(text).data).data.decode("utf-8", "replace") if character.isalnum())


def is_hidden(value: str, cell: str, scanner: Scanner) -> bool:
    """Of the value no eight letters and digits in a row are left in the masked cell."""
    masked = scanner.mask(cell.encode())
    if masked is None:
        return False
    for label in LABELS:
        value = value.removeprefix(label)
    core, shown = _core(value.encode()), _core(masked)
    size = min(len(core), _LEFT_OVER)
    return not any(core[at : at + size] in shown for at in range(len(core) - size + 1))


@cache
def measure() -> dict[str, Measured]:
    wrong: dict[str, Counter[str]] = {name: Counter() for name in DETECTORS}
    # One scanner a detector: where finds of two overlap, one names both.
    alone = {name: _scanner([name]) for name in DETECTORS}
    everything = _scanner(DETECTORS)
    for kind in KINDS:
        for cell in ordinary(kind):
            if everything.find(cell.encode()):
                for name, scanner in alone.items():
                    wrong[name][kind] += bool(scanner.find(cell.encode()))
    return {
        name: Measured(
            values=PER_KIND * len(KINDS),
            false_positives=wrong[name].total(),
            planted=PLANTED_EACH,
            found=sum(is_hidden(value, cell, scanner) for value, cell in planted(name)),
            by_kind=+wrong[name],
        )
        for name, scanner in alone.items()
    }


def tables(measured: dict[str, Measured]) -> list[str]:
    """Two tables in Markdown: by detector, and where its false positives come from."""
    lines = ["| detector | precision | recall | false positives in 100,000 values |", "| --- | --- | --- | --- |"]
    for name, each in measured.items():
        lines.append(f"| `{name}` | {each.precision:.2%} | {each.recall:.2%} | {each.per_100_000:.0f} |")
    lines += ["", "| detector | ordinary data | false positives in 100,000 of them |", "| --- | --- | --- |"]
    for name, each in measured.items():
        lines += [f"| `{name}` | {kind} | {count * PER // PER_KIND:,} |" for kind, count in each.by_kind.most_common()]
    return lines


def main() -> int:
    print("\n".join(tables(measure())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
