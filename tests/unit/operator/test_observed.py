"""What is counted of targets, policies and requests for metrics."""

from __future__ import annotations

from typing import Any

from sidegate_operator.observed import by_condition, by_phase


def observed(**conditions: str) -> dict[str, Any]:
    return {"status": {"conditions": [{"type": name, "status": status} for name, status in conditions.items()]}}


def test_counts_each_condition_by_status() -> None:
    found = by_condition([observed(Synced="True", Ready="True"), observed(Synced="False"), observed(Synced="False"), {}])
    assert found == {("Synced", "True"): 1, ("Ready", "True"): 1, ("Synced", "False"): 2}


def test_a_request_without_a_status_is_pending() -> None:
    assert by_phase([{}, {"status": {"phase": "Approved"}}, {"status": {}}]) == {"Pending": 2, "Approved": 1}
