"""Times become percentiles, a table and one flat JSON object beside the machine's facts. Keys: figure, percentile, unit.

Rules: a percentile is a value that was measured (nearest rank), never one in between; what was measured once stands as it is; the load of
the machine is noted at every phase, since others' work on it shows in each figure.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

PERCENTILES: Final = {"median": 0.5, "p95": 0.95, "p99": 0.99}
Fact: TypeAlias = "float | str | int"


@dataclass(frozen=True, slots=True)
class Aim:
    """`key` of the figure that has to stay below `limit`."""

    key: str
    limit: float


AIMS: Final = (
    Aim("first_install_settled_s", 10),
    Aim("restart_settled_s", 10),
    Aim("edit_p95_s", 2),
    Aim("edit_wide_p95_s", 2),
    Aim("operator_peak_mib", 250),
    Aim("injection_added_p99_ms", 50),
    Aim("release_p95_ms", 300),
    Aim("real_release_p95_ms", 300),
    Aim("enforced_p95_s", 2),
)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all doesn't exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


class ClusterReport:
    def __init__(self) -> None:
        self._facts: dict[str, Fact] = {}
        self._samples: dict[tuple[str, str], list[float]] = {}
        self._figures: dict[str, float] = {}

    def fact(self, name: str, value: Fact) -> None:
        self._facts[name] = value

    def machine(self, phase: str) -> None:
        """The load as a phase begins."""
        self._facts[f"load_at_{phase}"] = round(os.getloadavg()[0], 2)

    def samples(self, figure: str, unit: str, values: Sequence[float]) -> None:
        self._samples[figure, unit] = list(values)

    def figure(self, key: str, value: float) -> None:
        """One value, whose key ends in its unit."""
        self._figures[key] = round(value, 4)

    def figures(self) -> dict[str, Fact]:
        found: dict[str, Fact] = {**self._facts, **self._figures}
        for (figure, unit), values in self._samples.items():
            found |= {f"{figure}_{name}_{unit}": round(percentile(values, share), 4) for name, share in PERCENTILES.items()}
            found[f"{figure}_count"] = len(values)
        return found

    def table(self) -> str:
        lines = [", ".join(f"{name} {value}" for name, value in self._facts.items()), ""]
        if self._samples:
            lines.append(f"{'figure':<36} {'median':>12} {'p95':>12} {'p99':>12} {'most':>12}  {'unit':<5} {'of':>6}")
        for (figure, unit), values in self._samples.items():
            shown = [percentile(values, share) for share in PERCENTILES.values()]
            numbers = "".join(f" {number:>12,.3f}" for number in (*shown, max(values)))
            lines.append(f"{figure:<36}{numbers}  {unit:<5} {len(values):>6}")
        lines += ["", *(f"{key:<62} {value:>14,.3f}" for key, value in self._figures.items()), ""]
        figures = self.figures()
        for aim in AIMS:
            value = figures.get(aim.key)
            if value is None:
                lines.append(f"aim: {aim.key} below {aim.limit:g}: not measured in this run")
            else:
                verdict = "reached" if float(value) < aim.limit else "MISSED"
                lines.append(f"aim: {aim.key} below {aim.limit:g}: {verdict}, {value:g}")
        return "\n".join(lines)


def machine_facts() -> dict[str, Fact]:
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    return {
        "cpus": os.cpu_count() or 0,
        "memory_mib": int(memory.split()[1]) // 1024,
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
