"""One target and its pods: none is overlooked, and a stranger's gate is none."""

from __future__ import annotations

from typing import Any

import pytest

from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.plan.pods import SeenPod, left_out_by_admission
from sidegate_operator.plan.reconcile import (
    MAX_NOTE,
    WITHOUT_GATE,
)
from sidegate_operator.plan.status import Probe
from sidegate_operator.webhook.guards import admission_objects
from tests.unit.operator.snapshots import NOW, World, pod, reasons_of, target


@pytest.mark.parametrize("asks_by", ["label", "annotation", "selector"])
def test_a_pod_that_runs_without_a_gate_is_counted_and_told_once(asks_by: str) -> None:
    bare = pod("shop-db-1", asks_for="shop-db" if asks_by == "label" else None, has_gate=False)
    if asks_by == "annotation":
        bare["metadata"]["annotations"]["sidegate.dev/target"] = "shop-db"
        bare["metadata"]["labels"] = {}
    world = World(probe=Probe())
    world.settle()
    world.pods.append(bare)
    plan = world.run(NOW + 1)
    (told,) = [each for each in plan.events if each.key.kind == "Pod"]
    assert (told.key.name, told.uid, told.reason, told.is_warning) == ("shop-db-1", "uid-shop-db-1", WITHOUT_GATE, True)
    assert "runs without a gate" in told.note
    assert len(told.note) < MAX_NOTE
    assert world.conditions()["Enforced"] == ("False", "PodsWithoutGate")
    assert world.target["status"]["podsWithoutGate"] == ["shop-db-1"]
    assert world.target["status"]["gates"] == {"ready": 1, "synced": 1, "total": 2, "summary": "1/2"}
    assert world.conditions(world.policies[0])["Enforced"] == ("False", "TargetNotEnforced")
    assert (world.conditions()["Accepted"][1] == "PodsDontAsk") == (asks_by == "selector")
    assert ("annotate its workload's pod template" in told.note) == (asks_by == "selector")
    assert world.run(NOW + 2).is_empty
    del world.pods[1]
    assert "Enforced" not in {each.reason for each in world.run(NOW + 3).events if each.is_warning}
    assert world.conditions()["Enforced"] == ("True", "DoorsClosed")
    assert "podsWithoutGate" not in world.target["status"]


def test_a_pod_from_before_redirection_isn_t_enforced_until_it_is_made_anew() -> None:
    world = World(probe=Probe())
    world.settle()
    assert world.conditions()["Enforced"] == ("True", "DoorsClosed")
    world.target["spec"]["enforcement"] = {"mode": "Redirect"}
    world.settle(NOW + 1)
    assert world.conditions()["Enforced"] == ("False", "PodsNotRedirected")
    assert world.conditions(world.policies[0])["Enforced"] == ("False", "TargetNotEnforced")
    world.pods[0]["spec"]["initContainers"].insert(0, {"name": "sidegate-redirect"})
    world.run(NOW + 2)
    assert world.conditions()["Enforced"] == ("True", "DoorsClosed")


@pytest.mark.parametrize("asks_for", [None, "laxer-db"], ids=["none", "another"])
def test_a_gate_that_the_pod_did_not_ask_of_this_target_is_none(asks_for: str | None) -> None:
    """Whoever may make pods names a container as they like; admission sees those that ask, and compares with the target they ask for."""
    world = World(pods=[pod(), pod("fake", asks_for=asks_for)], probe=Probe(pods=frozenset({"uid-shop-db-0", "uid-fake"})))
    world.settle()
    assert world.conditions()["Enforced"] == ("False", "PodsWithoutGate")
    assert world.target["status"]["podsWithoutGate"] == ["fake"]
    assert world.target["status"]["gates"]["synced"] == 1


def test_a_jobs_pod_that_the_service_sends_clients_to_is_counted_as_without_a_gate() -> None:
    owner = [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "1", "controller": True}]
    picked, other = pod("picked", ownerReferences=owner), pod("other", app="backup", ownerReferences=owner)
    world = World(pods=[pod(), picked, other], probe=Probe(pods=frozenset({"uid-shop-db-0", "uid-picked"})))
    world.settle()
    assert world.conditions()["Enforced"] == ("False", "PodsWithoutGate")
    assert world.target["status"]["podsWithoutGate"] == ["picked"]


def test_a_crowd_of_pods_without_gates_is_told_of_up_to_a_bound() -> None:
    world = World(pods=[pod(f"p{n:03}", has_gate=False) for n in range(100)])
    assert reasons_of(world.run(), "Pod") == [WITHOUT_GATE] * 16
    assert world.target["status"]["podsWithoutGateCount"] == 100
    assert world.run(NOW + 1).is_empty


NOT_MINE: list[tuple[dict[str, Any], bool]] = [
    (pod(has_gate=False, deletionTimestamp="2026-11-25T09:46:40Z"), False),
    (pod(has_gate=False) | {"status": {"phase": "Succeeded"}}, False),
    (pod(has_gate=False) | {"status": {"phase": "Failed"}}, False),
    (pod(has_gate=False, app="load", ownerReferences=[{"apiVersion": "batch/v1", "kind": "Job", "controller": True}]), False),
    (pod(has_gate=False, ownerReferences=[{"apiVersion": "batch/v1", "kind": "Job", "controller": True}]), True),
    (pod(has_gate=False, ownerReferences=[{"apiVersion": "x.example/v1", "kind": "Job", "controller": True}]), True),
    (pod(has_gate=False, ownerReferences=[{"kind": "StatefulSet", "controller": True}]), True),
    (pod(has_gate=False, app="web", asks_for="other-db"), False),
    (pod(has_gate=False, labels={"sidegate.dev/inject": "false"}), True),
    (pod(has_gate=False) | {"status": {"phase": "Pending"}}, True),
]


@pytest.mark.parametrize(("seen", "is_mine"), NOT_MINE, ids=[str(n) for n, _ in enumerate(NOT_MINE)])
def test_only_pods_that_need_a_gate_count(seen: dict[str, Any], is_mine: bool) -> None:
    world = World(pods=[seen])
    world.run()
    assert world.target["status"]["gates"]["total"] == is_mine


def test_an_opt_out_counts_where_the_target_allows_it() -> None:
    world = World(
        target=target(enforcement={"allowOptOut": True}), pods=[pod(has_gate=False, labels={"sidegate.dev/inject": "false"})]
    )
    world.run()
    assert world.target["status"]["gates"]["total"] == 0


@pytest.mark.parametrize(
    "fake",
    [
        {"initContainers": [{"name": "sidegate-gate"}]},  # ends before the database starts
        {"containers": [{"name": "sidegate-gate"}]},
        {"initContainers": [{"name": "sidegate-gate2", "restartPolicy": "Always"}]},
    ],
)
def test_only_a_container_that_stays_is_a_gate(fake: dict[str, Any]) -> None:
    seen = pod(has_gate=False)
    seen["spec"].update(fake)
    assert not SeenPod.from_wire(seen).has_gate


def test_where_admission_does_not_look_nothing_counts_as_a_gate() -> None:
    seen, of = pod(), ProtectedTarget.from_wire(target())
    assert SeenPod.from_wire(seen, {"kube-system"}).has_gate_of(of)
    assert not SeenPod.from_wire(seen, {"kube-system", "shop"}).has_gate_of(of)


def test_admission_leaves_out_what_the_operator_thinks_it_does() -> None:
    webhook = next(each for each in admission_objects("sidegate-system") if each["kind"] == "MutatingWebhookConfiguration")
    (inject,) = (each for each in webhook["webhooks"] if each["name"] == "inject.sidegate.dev")
    (wanted,) = inject["namespaceSelector"]["matchExpressions"]
    assert (wanted["key"], wanted["operator"]) == ("kubernetes.io/metadata.name", "NotIn")
    assert {*wanted["values"]} == left_out_by_admission("sidegate-system")


def test_a_pod_of_two_targets_is_said_to_be() -> None:
    other = ProtectedTarget.from_wire(target("other-db", selector={"matchLabels": {"app": "shop-db"}}))
    world = World(neighbours=(other, ProtectedTarget.from_wire(target())))
    world.run()
    assert world.conditions()["Accepted"] == ("False", "SelectorsOverlap")
    assert "`shop-db-0` is of `other-db` too" in world.message("Accepted")


def test_gates_before_an_endpoint_are_told_apart_by_their_label() -> None:
    spec = target(endpoint={"host": "127.0.0.1", "port": 5432})
    del spec["spec"]["selector"]
    gate = pod("shop-db-gate-x", app="gate", asks_for=None, has_gate=False, labels={"sidegate.dev/gate-for": "shop-db"})
    gate["spec"]["containers"] = [{"name": "sidegate-gate"}]
    gate["status"]["containerStatuses"] = [{"name": "sidegate-gate", "ready": True}]
    world = World(target=spec, pods=[gate, pod()])
    world.settle()
    assert world.target["status"]["gates"] == {"ready": 1, "synced": 1, "total": 1, "summary": "1/1"}
    assert world.conditions()["Accepted"] == ("True", "Accepted")
