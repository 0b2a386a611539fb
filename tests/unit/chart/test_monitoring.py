"""Alerts and dashboard ask for metrics that exist, with labels that they have, and say what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from sidegate.api.protected_target import ProtectedTarget
from sidegate.runtime.metrics import Metrics as GateMetrics
from sidegate_operator.health import Metrics as OperatorMetrics
from sidegate_operator.plan.gate_container import GateSettings, gate_parts
from sidegate_operator.webhook.server import Metrics as WebhookMetrics
from tests.support.admission import target
from tests.support.chart import EVERYTHING, GATE_IMAGE, container, named, of_kind, render, rendered
from tools.write_dashboard import ROWS, main

KUBERNETES = {"apiserver_admission_webhook_rejection_count"}
_NAME = re.compile(r"\b(?:sidegate|apiserver)_[a-z_]+")


def known_metrics() -> set[str]:
    """Every sample's name that the three processes serve."""
    gate = GateMetrics("1")
    gate.config_loaded("r", 0.0)
    gate.reports_to_gateway(0.0)
    found = {sample for family in gate.collect() for sample in _samples(family.name, family.type)}
    registries: list[CollectorRegistry] = [OperatorMetrics().registry, WebhookMetrics().registry]
    return found | {each for one in registries for family in one.collect() for each in _samples(family.name, family.type)}


def _samples(name: str, kind: str) -> list[str]:
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(kind, [""])
    return [f"{name}{ending}" for ending in endings]


def alerts() -> list[dict[str, Any]]:
    (rule,) = of_kind(rendered(EVERYTHING), "PrometheusRule")
    return [each for group in rule["spec"]["groups"] for each in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    for each in alerts():
        yield each["alert"], each["expr"]
    (found,) = (each for each in rendered(EVERYTHING) if each["metadata"]["name"] == "sidegate-dashboard")
    for panel in json.loads(found["data"]["sidegate.json"])["panels"]:
        for query in panel.get("targets", ()):
            yield panel["title"], query["expr"]


QUERIES = list(queries())


@pytest.mark.parametrize(("name", "query"), QUERIES, ids=[f"{name} {at}" for at, (name, _) in enumerate(QUERIES)])
def test_asks_for_metrics_that_exist(name: str, query: str) -> None:
    asked = set(_NAME.findall(query))
    assert asked
    assert asked - known_metrics() - KUBERNETES == set()
    assert query.count("(") == query.count(")")
    assert query.count("{") == query.count("}")


def test_every_alert_says_what_it_means_and_has_a_severity() -> None:
    for each in alerts():
        assert each["labels"]["severity"] in {"critical", "warning"}
        assert len(each["annotations"]["description"].split()) > 8, each["alert"]
        assert each["alert"].startswith("Sidegate")
    assert len({each["alert"] for each in alerts()}) == len(alerts())


def test_alerts_reach_prometheus_with_their_own_templates() -> None:
    """Helm's templates and Prometheus' look the same; these are for Prometheus."""
    assert "{{ $labels.kind }}" in render(EVERYTHING)["sidegate/templates/alerts.yaml"]


def test_the_dashboard_is_current() -> None:
    assert main(["--check"]) == 0


def test_the_dashboard_has_every_panel_at_a_place_of_its_own() -> None:
    (found,) = (each for each in rendered(EVERYTHING) if each["metadata"]["name"] == "sidegate-dashboard")
    panels = json.loads(found["data"]["sidegate.json"])["panels"]
    assert len(panels) == len(ROWS) + sum(len(row.panels) for row in ROWS)
    taken = [
        (x, y)
        for each in panels
        for x in range(each["gridPos"]["x"], each["gridPos"]["x"] + each["gridPos"]["w"])
        for y in range(each["gridPos"]["y"], each["gridPos"]["y"] + each["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_monitors_name_ports_that_are_there() -> None:
    objects = rendered(EVERYTHING)
    for monitor in of_kind(objects, "ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        selector = monitor["spec"]["selector"]["matchLabels"].items()
        services = [each for each in of_kind(objects, "Service") if selector <= each["metadata"]["labels"].items()]
        assert [port["name"] for each in services for port in each["spec"]["ports"]] == [endpoint["port"]]
        opened = {port["name"] for port in container(objects, monitor["metadata"]["name"].removeprefix("sidegate-"))["ports"]}
        assert endpoint["port"] in opened
        assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_gates_monitor_picks_the_port_that_gates_have() -> None:
    parts = gate_parts(ProtectedTarget.from_wire(target("shop")), GateSettings(GATE_IMAGE, "1"), {})
    ports = {each["name"] for each in parts.container["ports"]}  # type: ignore[index,union-attr]
    monitor = named(rendered(EVERYTHING), "PodMonitor", "sidegate-gates")
    assert {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]} <= ports
