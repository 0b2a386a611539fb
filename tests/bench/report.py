"""Samples become medians, ratios, a table and one flat JSON object. Keys: figure, contender, unit; ratios end in `_ratio`."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from typing import Final

BASES: Final = ("pgbouncer", "direct", "parser")
RATIO_UNITS: Final = frozenset({"tps", "rows_per_s", "us", "ms"})


class Report:
    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._notes: dict[str, str | int] = {}

    def sample(self, figure: str, contender: str, unit: str, value: float) -> None:
        """One round's value. Contenders of one figure are sampled in the same rounds."""
        self._samples[figure, unit][contender].append(value)

    def note(self, name: str, value: str | int) -> None:
        self._notes[name] = value

    def ratio(self, figure: str, unit: str, contender: str, base: str) -> float | None:
        """The median of the rounds' ratios; None where there is nothing to compare."""
        by_contender = self._samples[figure, unit]
        if unit not in RATIO_UNITS or contender == base or base not in by_contender:
            return None
        return statistics.median(a / b for a, b in zip(by_contender[contender], by_contender[base], strict=True))

    def figures(self) -> dict[str, float | str | int]:
        found: dict[str, float | str | int] = dict(self._notes)
        for (figure, unit), by_contender in self._samples.items():
            for contender, values in by_contender.items():
                found[f"{figure}_{contender}_{unit}"] = round(statistics.median(values), 4)
                for base in BASES:
                    ratio = self.ratio(figure, unit, contender, base)
                    if ratio is not None:
                        found[f"{figure}_{contender}_to_{base}_ratio"] = round(ratio, 4)
        return found

    def json(self) -> str:
        return json.dumps(self.figures(), indent=1, sort_keys=True) + "\n"

    def table(self) -> str:
        """For a person: a line for each figure and contender, with the spread over the rounds."""
        lines = [", ".join(f"{name} {value}" for name, value in self._notes.items()), ""]
        header = f"{'figure':<24} {'contender':<36} {'median':>14} {'lowest':>14} {'highest':>14}  {'unit':<11}"
        lines += [header + "".join(f" {'/ ' + base:>12}" for base in BASES), "-" * (len(header) + 26)]
        for (figure, unit), by_contender in self._samples.items():
            for contender, values in by_contender.items():
                ratios = [self.ratio(figure, unit, contender, base) for base in BASES]
                numbers = "".join(f" {number:>14,.2f}" for number in (statistics.median(values), min(values), max(values)))
                shown = "".join(f" {'' if ratio is None else f'{ratio:.3f}':>12}" for ratio in ratios)
                lines.append(f"{figure:<24} {contender:<36}{numbers}  {unit:<11}{shown}")
            lines.append("")
        return "\n".join(lines)
