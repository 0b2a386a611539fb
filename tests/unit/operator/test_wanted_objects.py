"""Service, Deployment, PodDisruptionBudget and NetworkPolicy of a target: whole in the files of `wanted/`, their promises one by one here."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidegate.api.meta import LabelSelector
from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.plan.deployment import plan_deployment, plan_disruption_budget
from sidegate_operator.plan.injection import NotOurs, PodPatch, Untouched
from sidegate_operator.plan.network_policy import plan_network_policy
from sidegate_operator.plan.owned import Planned
from sidegate_operator.plan.service import labels_of, plan_service
from sidegate_operator.plan.sidecar import plan_sidecar
from tests.support.operator_samples import SETTINGS, injected, outside_target, sample, sample_target
from tests.support.pod_security import restricted_problems

WANTED = Path(__file__).parent / "wanted"
SCRAPED = replace(SETTINGS, scrapers=("monitoring",))
INSIDE, OUTSIDE = sample_target(), outside_target()
CLAIM = {"spec": {"recording": {"store": {"volume": {"claimName": "recordings"}}}}}


def plans(target: ProtectedTarget) -> list[Planned]:
    return [
        plan_service(target, SCRAPED),
        plan_network_policy(target, SCRAPED),
        plan_deployment(target, SCRAPED),
        plan_disruption_budget(target),
    ]


def wanted(planned: Planned) -> dict[str, Any]:
    assert planned.wanted is not None, planned.findings
    assert planned.findings == ()
    return planned.wanted


@pytest.mark.parametrize(("name", "target"), [("inside", INSIDE), ("outside", OUTSIDE)])
def test_a_targets_objects_are_as_their_file_says(name: str, target: ProtectedTarget) -> None:
    """After a wanted change: UPDATE_GOLDEN=1 pytest writes the files anew, and `git diff` shows what it means."""
    objects = [planned.wanted for planned in plans(target) if planned.wanted is not None]
    file = WANTED / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(yaml.safe_dump_all(objects, sort_keys=False, width=140))
        pytest.fail("written anew: read the difference")
    assert objects == list(yaml.safe_load_all(file.read_text()))


@pytest.mark.parametrize("target", [INSIDE, OUTSIDE])
def test_every_object_belongs_to_its_target_and_to_its_namespace(target: ProtectedTarget) -> None:
    for planned in plans(target):
        if planned.wanted is not None:
            metadata = planned.wanted["metadata"]
            assert metadata["namespace"] == "shop"
            assert metadata["labels"]["sidegate.dev/target"] == "shop-db"
            assert metadata["ownerReferences"][0]["uid"] == target.metadata.uid


def test_a_target_that_no_api_server_gave_a_uid_has_objects_without_an_owner() -> None:
    target = sample_target({"metadata": {"uid": None}})
    assert "ownerReferences" not in wanted(plan_service(target, SETTINGS))["metadata"]


# Service


def test_clients_dial_the_targets_port_and_reach_the_gates() -> None:
    (port,) = wanted(plan_service(sample_target({"spec": {"port": 5433}}), SETTINGS))["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (5433, 6432)


@pytest.mark.parametrize(
    ("selector", "labels"),
    [
        ({"matchLabels": {"app": "shop", "role": "primary"}}, {"app": "shop", "role": "primary"}),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["shop"]}]}, {"app": "shop"}),
        (
            {"matchLabels": {"app": "shop"}, "matchExpressions": [{"key": "app", "operator": "In", "values": ["shop"]}]},
            {"app": "shop"},
        ),
        ({"matchLabels": {"app": "shop"}, "matchExpressions": [{"key": "app", "operator": "In", "values": ["x"]}]}, None),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["shop", "store"]}]}, None),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, None),
        (
            {"matchLabels": {"app": "shop"}, "matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["replica"]}]},
            None,
        ),
    ],
)
def test_a_selector_becomes_labels_only_where_they_say_the_same(selector: dict[str, Any], labels: dict[str, str] | None) -> None:
    assert labels_of(LabelSelector.from_wire(selector)) == labels


def test_a_selector_that_no_service_can_have_is_a_finding() -> None:
    planned = plan_service(
        sample_target({"spec": {"selector": {"matchExpressions": [{"key": "db", "operator": "Exists"}]}}}), SETTINGS
    )
    assert planned.wanted is None
    assert [finding.field_path for finding in planned.findings] == ["spec.selector.matchExpressions"]


@pytest.mark.parametrize(
    ("name", "is_taken"),
    [("a", True), ("a" * 58, True), ("a" * 59, False), ("1shop", False), ("shop.db", False), ("shop-1", True)],
)
def test_a_name_that_no_service_can_have_is_a_finding(name: str, is_taken: bool) -> None:
    planned = plan_service(sample_target({"metadata": {"name": name}}), SETTINGS)
    assert (planned.wanted is not None) is is_taken
    assert [finding.field_path for finding in planned.findings] == ([] if is_taken else ["metadata.name"])


# Deployment


def test_a_gate_outside_is_the_gate_that_joins_pods_but_for_where_it_stands() -> None:
    inside = injected(sample("plain.in"), sample_target({"spec": {"credentials": None}}))["spec"]["initContainers"][0]
    (outside,) = wanted(plan_deployment(OUTSIDE, SETTINGS))["spec"]["template"]["spec"]["containers"]
    assert {key for key in inside.keys() | outside.keys() if inside.get(key) != outside.get(key)} == {
        "restartPolicy",
        "readinessProbe",
        "lifecycle",
    }


def test_a_pod_of_a_gate_outside_passes_restricted_pod_security() -> None:
    assert restricted_problems(wanted(plan_deployment(OUTSIDE, SETTINGS))["spec"]["template"]["spec"]) == []


def test_admission_leaves_the_pods_of_a_gate_outside_alone() -> None:
    template = wanted(plan_deployment(OUTSIDE, SETTINGS))["spec"]["template"]
    assert plan_sidecar(template, OUTSIDE, SETTINGS) == NotOurs(Untouched.NO_TARGET)
    assert isinstance(plan_sidecar(sample("plain.in"), INSIDE, SETTINGS), PodPatch)


def test_service_budget_and_policy_select_the_deployments_pods() -> None:
    deployment = wanted(plan_deployment(OUTSIDE, SETTINGS))["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    selectors = [
        deployment["selector"]["matchLabels"],
        wanted(plan_service(OUTSIDE, SETTINGS))["spec"]["selector"],
        wanted(plan_disruption_budget(OUTSIDE))["spec"]["selector"]["matchLabels"],
        wanted(plan_network_policy(OUTSIDE, SETTINGS))["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels.items() for selector in selectors)


def test_a_gate_outside_has_time_to_end_its_sessions() -> None:
    """The gate's own limits: 20 s for sessions to end, and once more for what they leave."""
    from sidegate.runtime.main import DRAIN_TIMEOUT_S

    spec = wanted(plan_deployment(OUTSIDE, SETTINGS))["spec"]["template"]["spec"]
    before_the_signal = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] > before_the_signal + 2 * DRAIN_TIMEOUT_S


def test_a_claim_for_recordings_is_used_by_one_gate_at_a_time() -> None:
    for change, replicas, strategy in (({}, 2, "RollingUpdate"), (CLAIM, 1, "Recreate")):
        spec = wanted(plan_deployment(outside_target(change), SETTINGS))["spec"]
        assert (spec["replicas"], spec["strategy"]["type"]) == (replicas, strategy)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "/run/postgresql"])
def test_a_host_that_is_the_gates_own_pod_is_a_finding(host: str) -> None:
    target = outside_target({"spec": {"endpoint": {"host": host}}})
    planned = plan_deployment(target, SETTINGS)
    assert planned.wanted is None
    assert [finding.field_path for finding in planned.findings] == ["spec.endpoint.host"]
    assert plan_disruption_budget(target) == Planned(None)


def test_a_target_with_a_gate_inside_has_no_deployment() -> None:
    assert plan_deployment(INSIDE, SETTINGS) == plan_disruption_budget(INSIDE) == Planned(None)


# NetworkPolicy


def may_connect(
    policy: dict[str, Any], port: int, protocol: str = "TCP", *, pod: dict[str, str], namespace: str = "shop"
) -> bool:
    """Whether an ingress rule lets a pod with these labels in this namespace through; as the reference of NetworkPolicy has it."""
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    return any(_is_port(rule, port, protocol) and _is_peer(rule, pod, namespace) for rule in policy["spec"]["ingress"])


def _is_port(rule: dict[str, Any], port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return ports is None or any(
        each["protocol"] == protocol and each["port"] <= port <= each.get("endPort", each["port"]) for each in ports
    )


def _is_peer(rule: dict[str, Any], pod: dict[str, str], namespace: str) -> bool:
    for peer in rule.get("from", [None]):
        if peer is None:
            return True
        if "podSelector" in peer and namespace == "shop" and LabelSelector.from_wire(peer["podSelector"]).matches(pod):
            return True
        names = {"kubernetes.io/metadata.name": namespace}
        if "namespaceSelector" in peer and LabelSelector.from_wire(peer["namespaceSelector"]).matches(names):
            return True
    return False


@pytest.mark.parametrize(
    ("port", "protocol", "pod", "namespace", "passes"),
    [
        (6432, "TCP", {}, "agents", True),
        (5432, "TCP", {}, "agents", False),
        (5432, "TCP", {"app": "web"}, "shop", False),
        (5432, "TCP", {"app": "shop-db"}, "shop", True),  # replication
        (5432, "TCP", {"app": "shop-db"}, "agents", False),
        (5431, "TCP", {}, "agents", True),
        (5433, "TCP", {}, "agents", True),
        (8000, "TCP", {}, "cnpg-system", True),
        (65535, "TCP", {}, "agents", True),
        (1, "TCP", {}, "agents", True),
        (6480, "TCP", {}, "agents", False),
        (6480, "TCP", {}, "monitoring", True),
        (6481, "TCP", {}, "agents", True),
        (53, "UDP", {}, "agents", True),
    ],
)
def test_the_gates_port_is_open_and_the_targets_is_not(
    port: int, protocol: str, pod: dict[str, str], namespace: str, passes: bool
) -> None:
    policy = wanted(plan_network_policy(INSIDE, SCRAPED))
    assert may_connect(policy, port, protocol, pod=pod, namespace=namespace) is passes


@pytest.mark.parametrize("port", [1, 2, 6431, 6433, 6479, 6481, 65534, 65535])
def test_the_targets_port_is_closed_wherever_it_is(port: int) -> None:
    policy = wanted(plan_network_policy(sample_target({"spec": {"port": port}}), SETTINGS))
    closed = {each for each in range(1, 65536) if not may_connect(policy, each, pod={}, namespace="agents")}
    assert closed == {port, 6480}


def test_nobody_scrapes_a_gate_unless_the_operator_says_who() -> None:
    policy = wanted(plan_network_policy(INSIDE, SETTINGS))
    assert not may_connect(policy, 6480, pod={}, namespace="monitoring")


def test_of_a_gate_outside_only_its_own_ports_are_open() -> None:
    policy = wanted(plan_network_policy(OUTSIDE, SCRAPED))
    assert [port for port in range(1, 65536) if may_connect(policy, port, pod={}, namespace="agents")] == [6432]
    assert [port for port in range(1, 65536) if may_connect(policy, port, pod={}, namespace="monitoring")] == [6432, 6480]


def test_there_is_no_policy_where_the_author_keeps_their_own() -> None:
    target = sample_target({"spec": {"enforcement": {"networkPolicy": "None"}}})
    assert plan_network_policy(target, SETTINGS) == Planned(None)
