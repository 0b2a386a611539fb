"""One target, the objects that are made for it, and the other targets of its namespace."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.meta import ConditionStatus
from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.config import decode_config
from sidegate.policy.finding import error, warning
from sidegate_operator.plan.beside import Beside, objects_beside
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.plan.policies import reconcile_policy
from sidegate_operator.plan.reconcile import (
    MAX_NOTE,
    ObjectKey,
    Pace,
    PolicyReport,
)
from sidegate_operator.plan.status import Probe
from tests.unit.operator.snapshots import NOW, World, policy, target

CONFIG_MAP = ObjectKey("ConfigMap", "sidegate-shop-db")


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "shop-db-gate", "namespace": "shop", "ownerReferences": [{"uid": "uid-shop-db"}]},
    "spec": {"ports": [{"port": 5432}]},
}


def with_service(target: ProtectedTarget) -> Beside:
    return Beside((copy.deepcopy(SERVICE),))


def policies_in_force(world: World) -> list[str]:
    return [each.name for each in decode_config(world.live[CONFIG_MAP]["data"]["gate.json"].encode()).policies]


def test_what_is_ours_and_no_longer_wanted_goes_and_nothing_else() -> None:
    world = World(beside=with_service)
    world.settle()
    world.live[ObjectKey("Service", "shop-db")] = {"kind": "Service", "metadata": {"name": "shop-db"}}
    world.live[ObjectKey("Service", "b")] = {
        "kind": "Service",
        "metadata": {"name": "b", "ownerReferences": [{"uid": "uid-other"}]},
    }
    world.beside = lambda target: Beside((), (warning("ProtectedTarget/shop/shop-db", "spec", "a", "b"),))
    assert world.run(NOW + 1).remove == (ObjectKey("Service", "shop-db-gate"),)
    assert CONFIG_MAP in world.live


SETTINGS = GateSettings(image=f"registry.example/gate@sha256:{'0' * 64}", version="0.1.0")


@pytest.mark.parametrize(
    ("spec", "kinds"),
    [
        ({}, ["ConfigMap", "Service", "NetworkPolicy"]),
        ({"enforcement": {"networkPolicy": "None"}}, ["ConfigMap", "Service"]),
        ({"endpoint": {"host": "db.example", "port": 5432}, "tls": {"client": {"secretRef": {"name": "t"}}, "target": {"mode": "VerifyFull"}}},
         ["ConfigMap", "Service", "Deployment", "PodDisruptionBudget", "NetworkPolicy"]),
    ],
)  # fmt: skip
def test_a_target_gets_all_its_objects_once(spec: dict[str, Any], kinds: list[str]) -> None:
    wire = target(**spec)
    if "endpoint" in spec:
        del wire["spec"]["selector"]
    world = World(target=wire, pods=[], beside=objects_beside(SETTINGS))
    assert [ObjectKey.of(each).kind for each in world.run().apply] == kinds
    assert world.run(NOW + 1).is_empty


def test_a_network_policy_that_is_no_longer_wanted_goes() -> None:
    world = World(beside=objects_beside(SETTINGS))
    world.run()
    world.target["spec"]["enforcement"] = {"networkPolicy": "None"}
    assert world.run(NOW + 1).remove == (ObjectKey("NetworkPolicy", "sidegate-shop-db"),)


def test_an_object_that_cant_be_made_keeps_no_rules_back() -> None:
    world = World(beside=with_service)
    world.settle()
    problem = error("ProtectedTarget/shop/shop-db", "spec.selector", "no Service can select so", "select otherwise")
    world.beside = lambda target: Beside((), (problem,))
    world.policies.append(policy("b"))
    plan = world.run(NOW + 1)
    assert policies_in_force(world) == ["b", "readers"]
    assert plan.remove == ()
    assert world.conditions()["Accepted"] == ("False", "Invalid")
    assert world.message("Accepted").endswith("spec.selector: no Service can select so; fix: select otherwise")
    assert world.conditions()["Compiled"] == ("True", "Compiled")


def test_what_the_api_server_adds_to_an_object_is_no_difference() -> None:
    world = World(beside=with_service)
    world.settle()
    service = world.live[ObjectKey("Service", "shop-db-gate")]
    service["spec"] = {"clusterIP": "10.0.0.1", "ports": [{"port": 5432, "protocol": "TCP"}]}
    assert world.run(NOW + 1).is_empty
    service["spec"]["ports"].append({"port": 1})
    assert [ObjectKey.of(each).name for each in world.run(NOW + 1).apply] == ["shop-db-gate"]


def test_a_policy_says_how_far_it_is_on_all_its_targets() -> None:
    elsewhere = PolicyReport("other-db", True, False, ConditionStatus.FALSE, ConditionStatus.TRUE, generation=1)
    world = World(elsewhere={"readers": (elsewhere,)})
    world.settle()
    assert world.policies[0]["status"]["targets"] == ["other-db", "shop-db"]
    assert world.conditions(world.policies[0])["Synced"] == ("False", "Progressing")
    assert "`other-db`" in world.message("Synced", world.policies[0])


def test_a_policy_that_is_no_longer_bound_says_so_and_is_no_longer_in_force() -> None:
    world = World()
    world.settle()
    world.policies[0]["spec"]["targets"] = {"names": ["other-db"]}
    world.policies[0]["metadata"]["generation"] = 2
    world.run(NOW + 1)
    assert policies_in_force(world) == []
    assert world.conditions(world.policies[0])["Accepted"] == ("False", "TargetNotFound")
    assert "targets" not in world.policies[0]["status"]


def test_nothing_is_done_for_a_target_that_goes() -> None:
    world = World()
    world.settle()
    world.target["metadata"]["deletionTimestamp"] = "2026-11-25T09:46:40Z"
    world.policies.append(policy("b"))
    assert world.run(NOW + 1).is_empty


def test_at_first_sight_only_what_isnt_in_order_is_told() -> None:
    world = World(policies=[policy(), policy("bad", role="nobody")])
    told = [(each.key.name, each.reason) for each in world.run().events]
    assert told == [("shop-db", "PolicyInvalid"), ("readers", "TargetHeldBack"), ("bad", "Invalid"), ("bad", "PolicyInvalid")]
    assert [each.reason for each in World().run().events] == []


def test_every_condition_that_changes_is_told_once() -> None:
    world = World(probe=Probe())
    told = [each for now in range(5) for each in world.run(NOW + now).events]
    world.report()
    told += [each for now in range(5, 10) for each in world.run(NOW + now).events]
    world.policies.append(policy("b"))
    told += [each for now in range(10, 15) for each in world.run(NOW + now).events]
    assert [each.reason for each in told if each.key.kind == "ProtectedTarget"] == ["Synced", "Progressing"]
    assert all(each.uid == "uid-shop-db" for each in told if each.key.kind == "ProtectedTarget")
    assert "Ready" not in {each.reason for each in told}


def test_a_probe_counts_for_the_pods_that_it_tried() -> None:
    world = World()
    world.settle()
    uids = frozenset(each["metadata"]["uid"] for each in world.pods)
    for probe, reason in [
        (Probe(pods=uids), "DoorsClosed"),
        (Probe(pods=uids - {min(uids)}), "NotProbed"),  # one came since
        (Probe(pods=uids | {"gone"}), "DoorsClosed"),
        (Probe(("5432 asks",), pods=frozenset()), "DoorsOpen"),  # closed by nothing but another probe
    ]:
        world.probe = probe
        world.run(NOW + 1)
        assert world.conditions()["Enforced"][1] == reason


def test_a_policy_says_nothing_before_each_of_its_targets_was_planned_with_it_as_it_is() -> None:
    """Else a new rule would be claimed to be enforced where only the old one is."""
    seen = AccessPolicy.from_wire(policy())
    older = PolicyReport("a", True, False, ConditionStatus.TRUE, ConditionStatus.TRUE, generation=0)
    newer = PolicyReport("b", True, False, ConditionStatus.TRUE, ConditionStatus.TRUE, generation=1)
    assert reconcile_policy(seen, {"a": older, "b": newer}, ["a", "b"], NOW) is None
    assert reconcile_policy(seen, {"b": newer}, ["a", "b"], NOW) is None
    assert reconcile_policy(seen, {"a": older, "b": newer}, ["b"], NOW) is not None


def test_a_note_fits_into_an_event() -> None:
    world = World(probe=Probe(tuple("é" * 300 for _ in range(9))))
    notes = [each.note.encode() for each in world.run().events]
    assert max(map(len, notes)) <= MAX_NOTE


def test_the_pace_is_bounded() -> None:
    assert [Pace().wait_s(times) for times in (1, 2, 10, 999_999)] == [5.0, 10.0, 300.0, 300.0]


def test_patches_go_to_the_object_that_was_seen() -> None:
    plan = World().run()
    assert [(each.key.kind, each.resource_version) for each in plan.statuses] == [("ProtectedTarget", "1"), ("AccessPolicy", "1")]
    assert all(set(each.patch) == {"status"} for each in plan.statuses)
    assert AccessPolicy.from_wire(policy()).metadata.resource_version == "1"
