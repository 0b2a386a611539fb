"""A target's objects together: which there are, that they are put right, and that nothing of somebody else's is touched."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sidegate.policy.config import decode_config
from sidegate_operator.plan.beside import objects_beside
from sidegate_operator.plan.owned import metadata
from sidegate_operator.plan.pods import SeenPod
from sidegate_operator.plan.reconcile import ObjectKey
from tests.support.operator_samples import SETTINGS, outside_target, sample_target
from tests.unit.operator.snapshots import NOW, World, pod, policy, target

CONFIG_MAP = ObjectKey("ConfigMap", "sidegate-shop-db")
SERVICE = ObjectKey("Service", "shop-db-gate")
INSIDE = {CONFIG_MAP, ObjectKey("NetworkPolicy", "sidegate-shop-db"), SERVICE}
LABELS = {"app.kubernetes.io/managed-by": "sidegate", "sidegate.dev/target": "shop-db"}


def owner(name: str = "shop-db", uid: str = "uid-shop-db", kind: str = "ProtectedTarget") -> dict[str, Any]:
    return {"apiVersion": "sidegate.dev/v1alpha1", "kind": kind, "name": name, "uid": uid, "controller": True}


def there(key: ObjectKey, **described: Any) -> dict[str, Any]:
    """What somebody has put where the target's object belongs."""
    return {
        "apiVersion": "v1",
        "kind": key.kind,
        "metadata": {"name": key.name, "namespace": "shop", **described},
        "data": {"theirs": "1"},
    }


def test_a_target_inside_has_what_clients_dial_and_what_the_network_lets_through() -> None:
    world = World(beside=objects_beside(SETTINGS))
    world.settle()
    assert world.live.keys() == INSIDE
    assert world.run(NOW + 1).is_empty
    assert {each.kind for each in map(ObjectKey.of, objects_beside(SETTINGS)(sample_target()).objects)} == {
        "NetworkPolicy",
        "Service",
    }


def test_a_target_outside_has_its_gate_too() -> None:
    kinds = [each.kind for each in map(ObjectKey.of, objects_beside(SETTINGS)(outside_target()).objects)]
    assert kinds == ["Service", "Deployment", "PodDisruptionBudget", "NetworkPolicy"]


def test_a_network_policy_that_is_no_longer_managed_goes() -> None:
    world = World(beside=objects_beside(SETTINGS))
    world.settle()
    world.target["spec"]["enforcement"] = {"networkPolicy": "None"}
    assert world.run(NOW + 1).remove == (ObjectKey("NetworkPolicy", "sidegate-shop-db"),)


def test_what_can_not_be_made_is_said_once_and_the_one_there_is_stays() -> None:
    world = World(beside=objects_beside(SETTINGS))
    world.settle()
    before = copy.deepcopy(world.live[SERVICE])
    world.target["spec"]["selector"] = {"matchExpressions": [{"key": "app", "operator": "In", "values": ["shop-db", "shop"]}]}
    plan = world.run(NOW + 1)
    assert plan.remove == ()
    assert world.live[SERVICE] == before
    assert world.conditions()["Accepted"] == ("False", "Invalid")
    assert world.message("Accepted").count("a Service can't select pods by these") == 1


# Names that are taken

FOREIGN = [
    pytest.param({}, id="no owner and no labels"),
    pytest.param({"labels": {"app.kubernetes.io/managed-by": "sidegate"}}, id="labels of no target"),
    pytest.param({"labels": {**LABELS, "sidegate.dev/target": "other"}}, id="labels of another target"),
    pytest.param({"ownerReferences": [owner("other", "uid-other")]}, id="another target's"),
    pytest.param({"labels": LABELS, "ownerReferences": [owner(uid="u", kind="Shop")]}, id="our labels and another owner"),
    pytest.param(
        {"labels": LABELS, "ownerReferences": [{**owner(uid="u"), "apiVersion": "apps/v1"}]}, id="an owner of another group"
    ),
]
OURS = [
    pytest.param({"labels": LABELS}, id="made for the target without the operator"),
    pytest.param({"ownerReferences": [owner(uid="uid-before")]}, id="left over from a target of the same name"),
    pytest.param({"ownerReferences": [owner()]}, id="the target's"),
]


@pytest.mark.parametrize("key", sorted(INSIDE), ids=str)
@pytest.mark.parametrize("described", FOREIGN)
def test_an_object_of_somebody_else_is_left_alone_and_the_status_says_so(key: ObjectKey, described: dict[str, Any]) -> None:
    world = World(beside=objects_beside(SETTINGS), live={key: there(key, **described)})
    plan = world.run()
    assert key not in set(map(ObjectKey.of, plan.apply))
    assert plan.remove == ()
    assert world.live[key] == there(key, **described)
    assert world.conditions()["Accepted"] == ("False", "Invalid")
    assert f"{key.kind} `{key.name}` is somebody else's" in world.message("Accepted")
    del world.live[key]
    world.settle(NOW + 1)
    assert world.live.keys() == INSIDE
    assert world.conditions()["Accepted"] == ("True", "Accepted")


@pytest.mark.parametrize("described", OURS)
def test_an_object_of_the_target_is_put_right(described: dict[str, Any]) -> None:
    world = World(beside=objects_beside(SETTINGS), live={CONFIG_MAP: there(CONFIG_MAP, **described)})
    world.settle()
    assert world.live[CONFIG_MAP]["metadata"]["ownerReferences"][0]["uid"] == "uid-shop-db"
    assert world.conditions()["Accepted"] == ("True", "Accepted")


def test_a_config_map_of_somebody_else_is_never_the_last_good_one() -> None:
    other = World()
    other.settle()
    forged = {**there(CONFIG_MAP), "data": other.live[CONFIG_MAP]["data"]}
    assert decode_config(forged["data"]["gate.json"].encode()).target.name == "shop-db"
    world = World(live={CONFIG_MAP: forged}, policies=[policy(role="nobody")])
    plan = world.run()
    assert plan.last_good is None
    assert world.conditions()["Synced"] == ("Unknown", "NotPublished")


# What goes with the rules, and whose pods count


def test_the_gateways_authority_stays_in_the_last_good_config_map() -> None:
    """Also after a restart, when it is read back from the cluster."""
    world = World(authority="-----BEGIN CERTIFICATE-----\n")
    world.settle()
    world.policies.append(policy("bad", role="nobody"))
    world.last_good = None
    plan = world.run(NOW + 1)
    assert plan.apply == ()
    assert plan.last_good is not None
    assert plan.last_good.config_map["data"]["operator-ca.crt"] == "-----BEGIN CERTIFICATE-----\n"


@pytest.mark.parametrize(("group", "is_missed"), [("batch/v1", False), ("batch.volcano.sh/v1", True), ("v1", True)])
def test_only_a_job_of_kubernetes_own_needs_no_gate(group: str, is_missed: bool) -> None:
    """As admission decides it: else a pod would be neither given a gate nor missed."""
    made_by = [{"apiVersion": group, "kind": "Job", "name": "load", "uid": "u", "controller": True}]
    seen = SeenPod.from_wire(
        pod(app="load", has_gate=False, ownerReferences=made_by)
    )  # asks for a gate, and isn't picked by labels
    assert seen.is_of(World(target=target()).snapshot().target) is is_missed


def test_the_labels_by_which_objects_are_known_are_those_they_are_made_with() -> None:
    assert metadata(sample_target(), "x")["labels"] == LABELS
