"""The bench's arithmetic: ratios of the same round, medians over rounds, one flat object."""

from __future__ import annotations

import json

import pytest

from tests.bench.report import Report


@pytest.fixture
def report() -> Report:
    report = Report()
    report.note("cpus", 2)
    for direct, bouncer, gate in ((100.0, 80.0, 60.0), (50.0, 40.0, 36.0), (100.0, 50.0, 50.0)):
        report.sample("pgbench", "direct", "tps", direct)
        report.sample("pgbench", "pgbouncer", "tps", bouncer)
        report.sample("pgbench", "gate", "tps", gate)
    report.sample("memory_idle", "gate", "mib", 50.0)
    return report


def test_a_ratio_is_the_median_of_the_rounds_ratios(report: Report) -> None:
    assert report.ratio("pgbench", "tps", "gate", "pgbouncer") == pytest.approx(0.9)
    assert report.ratio("pgbench", "tps", "pgbouncer", "pgbouncer") is None
    assert report.ratio("memory_idle", "mib", "gate", "direct") is None


def test_the_figures_are_one_flat_object_with_units(report: Report) -> None:
    figures = json.loads(report.json())
    assert figures["pgbench_gate_tps"] == 50.0
    assert figures["pgbench_gate_to_direct_ratio"] == 0.6
    assert figures["memory_idle_gate_mib"] == 50.0
    assert all(isinstance(value, (int, float, str)) for value in figures.values())
    assert "pgbench" in report.table()


def test_rounds_that_were_not_shared_can_not_be_compared(report: Report) -> None:
    report.sample("pgbench", "gate", "tps", 1.0)
    with pytest.raises(ValueError, match="zip"):
        report.ratio("pgbench", "tps", "gate", "direct")
