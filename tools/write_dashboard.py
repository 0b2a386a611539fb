"""Write the chart's Grafana dashboard: `python -m tools.write_dashboard`, or `--check` to only say whether it is current.

The panels are a table here: a row of Grafana's JSON is forty lines, of which two say something.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tools.made_files import ROOT, write_or_check

FILE: Final = ROOT / "charts" / "sidegate" / "dashboards" / "sidegate.json"
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
_WIDTH, _HEIGHT = 8, 7
_COLUMNS: Final = 3


@dataclass(frozen=True, slots=True)
class Panel:
    """`queries`: legend and PromQL. `kind` is Grafana's."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


_LAG: Final = "histogram_quantile(0.99, sum by (le) (rate({}_bucket[$__rate_interval])))"
_CONDITIONS: Final = 'max by (condition, status) (sidegate_operator_conditions{{kind="{}"}})'

ROWS: Final = (
    Row(
        "At a glance",
        (
            Panel("Operator leads", (("", "max(sidegate_operator_leader)"),), kind="stat"),
            Panel("Webhook replicas ready", (("", "sum(sidegate_admission_ready)"),), kind="stat"),
            Panel("Decisions are guarded", (("", "min(sidegate_operator_guarded)"),), kind="stat"),
            Panel("Approval requests", (("{{phase}}", "max by (phase) (sidegate_operator_requests)"),), kind="stat"),
            Panel("Targets by condition", (("{{condition}} {{status}}", _CONDITIONS.format("ProtectedTarget")),)),
            Panel("Policies by condition", (("{{condition}} {{status}}", _CONDITIONS.format("AccessPolicy")),)),
            Panel(
                "Objects that can't be reconciled",
                (
                    ("failing", "max(sidegate_operator_queue_failing)"),
                    ("due", "max(sidegate_operator_queue_busy)"),
                    ("later", "max(sidegate_operator_queue_waiting)"),
                ),
            ),
        ),
    ),
    Row(
        "Gates",
        (
            Panel(
                "Sessions",
                (
                    ("open", "sum(sidegate_sessions_open)"),
                    ("ended: {{outcome}}", "sum by (outcome) (rate(sidegate_sessions_total[$__rate_interval]))"),
                ),
            ),
            Panel(
                "Statements",
                (("{{decision}} {{kind}}", "sum by (decision, kind) (rate(sidegate_statements_total[$__rate_interval]))"),),
                "ops",
            ),
            Panel(
                "Refusals",
                (("{{reason}}", "sum by (reason) (rate(sidegate_refusals_total[$__rate_interval])) > 0"),),
                "ops",
            ),
            Panel(
                "Held for approval",
                (
                    ("now", "sum(sidegate_holds_open)"),
                    ("ended: {{outcome}}", "sum by (outcome) (increase(sidegate_hold_seconds_count[$__rate_interval]))"),
                ),
            ),
            Panel(
                "Values masked",
                (("{{source}}", "sum by (source) (rate(sidegate_masked_values_total[$__rate_interval]))"),),
                "ops",
            ),
            Panel(
                "Recordings",
                (
                    ("written", "sum(rate(sidegate_recording_bytes_total[$__rate_interval]))"),
                    ("errors", "sum(rate(sidegate_recording_errors_total[$__rate_interval]))"),
                ),
                "Bps",
            ),
            Panel("Relayed", (("{{side}}", "sum by (side) (rate(sidegate_relayed_bytes_total[$__rate_interval]))"),), "Bps"),
            Panel("Event loop lag, p99", (("", _LAG.format("sidegate_event_loop_lag_seconds")),), "s"),
            Panel("Versions", (("{{version}}", "count by (version) (sidegate_build_info)"),)),
        ),
    ),
    Row(
        "Admission",
        (
            Panel(
                "Reviews",
                (
                    (
                        "{{path}} {{operation}}",
                        "sum by (path, operation) (rate(sidegate_admission_duration_seconds_count[$__rate_interval]))",
                    ),
                ),
                "ops",
            ),
            Panel("Duration, p99", (("", _LAG.format("sidegate_admission_duration_seconds")),), "s"),
            Panel(
                "Refused",
                (("{{path}} {{reason}}", "sum by (path, reason) (rate(sidegate_admission_refusals_total[$__rate_interval]))"),),
                "ops",
            ),
        ),
    ),
    Row(
        "Operator",
        (
            Panel(
                "Reconciles",
                (("{{kind}}", "sum by (kind) (rate(sidegate_operator_reconcile_seconds_count[$__rate_interval]))"),),
                "ops",
            ),
            Panel(
                "Writes",
                (("{{how}} {{kind}}", "sum by (how, kind) (rate(sidegate_operator_writes_total[$__rate_interval]))"),),
                "ops",
            ),
            Panel(
                "Answers to gates",
                (("{{action}} {{status}}", "sum by (action, status) (rate(sidegate_gateway_answers_total[$__rate_interval]))"),),
                "ops",
            ),
            Panel("Gates that report", (("{{version}}", "max by (version) (sidegate_operator_gates)"),)),
            Panel("Silence of watches", (("{{kind}}", "max by (kind) (sidegate_operator_watch_silence_seconds)"),), "s"),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "title": "Sidegate",
        "uid": "sidegate",
        "tags": ["sidegate"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source]},
        "panels": list(_panels()),
    }


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for row in ROWS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": _place(0, top, 24, 1),
        }
        top += 1
        for at, panel in enumerate(row.panels):
            number += 1
            place = _place(at % _COLUMNS * _WIDTH, top + at // _COLUMNS * _HEIGHT, _WIDTH, _HEIGHT)
            yield {"id": number, "gridPos": place, **_panel(panel)}
        top += -(-len(row.panels) // _COLUMNS) * _HEIGHT


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + at), "datasource": _SOURCE, "expr": query, "legendFormat": legend or "__auto"}
        for at, (legend, query) in enumerate(panel.queries)
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "datasource": _SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
    }


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


def main(arguments: list[str]) -> int:
    return write_or_check({FILE: text()}, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
