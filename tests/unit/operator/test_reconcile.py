"""One target: what is seen -> what is done. Nothing is done twice, the last good rules stay, and no pod is overlooked."""

from __future__ import annotations

import copy

import pytest

from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.config import decode_config
from sidegate_operator.plan.beside import Beside
from sidegate_operator.plan.pods import SeenPod, Told
from sidegate_operator.plan.reconcile import (
    ObjectKey,
    Plan,
    UnreadablePolicy,
    reconcile,
)
from sidegate_operator.plan.status import Probe
from tests.unit.operator.snapshots import NOW, Change, World, pod, policy, reasons_of, target

CONFIG_MAP = ObjectKey("ConfigMap", "sidegate-shop-db")
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "shop-db-gate", "namespace": "shop", "ownerReferences": [{"uid": "uid-shop-db"}]},
    "spec": {"ports": [{"port": 5432}]},
}


def with_service(target: ProtectedTarget) -> Beside:
    return Beside((copy.deepcopy(SERVICE),))


def published(world: World) -> str:
    return str(world.live[CONFIG_MAP]["metadata"]["annotations"]["sidegate.dev/revision"])


def policies_in_force(world: World) -> list[str]:
    return [each.name for each in decode_config(world.live[CONFIG_MAP]["data"]["gate.json"].encode()).policies]


# From the first sight to settled


def test_the_config_is_applied_before_gates_are_told_and_the_status_says_how_far_it_is() -> None:
    world = World(beside=with_service)
    plan = world.run()
    assert [ObjectKey.of(each).kind for each in plan.apply] == ["ConfigMap", "Service"]
    assert [(each.pod, each.annotations["sidegate.dev/revision"]) for each in plan.annotate] == [("shop-db-0", published(world))]
    assert world.conditions()["Synced"] == ("False", "Progressing")
    assert world.conditions()["Ready"] == ("False", "NotSynced")
    assert world.target["status"]["gates"] == {"ready": 1, "synced": 0, "total": 1, "summary": "0/1"}
    assert plan.look_again_at == NOW + 5
    world.report()
    after = world.run(NOW + 1)
    assert (after.apply, after.annotate) == ((), ())
    assert world.conditions()["Ready"] == ("True", "ReadyUnprobed")
    assert world.conditions(world.policies[0])["Ready"] == ("True", "ReadyUnprobed")
    assert world.target["status"]["policies"] == ["readers"]
    assert world.policies[0]["status"]["targets"] == ["shop-db"]
    assert world.run(NOW + 1000).is_empty


def test_a_settled_world_gives_an_empty_plan() -> None:
    world = World(beside=with_service, probe=Probe())
    world.settle()
    assert world.conditions()["Ready"] == ("True", "Ready")
    assert world.run(NOW + 10_000) == Plan(
        reports=reconcile(world.snapshot(), NOW, with_service).reports, last_good=world.last_good
    )


def test_a_change_of_one_policy_writes_no_status_of_the_others() -> None:
    world = World(policies=[policy("a"), policy("b")])
    world.settle()
    world.policies[0]["spec"]["grants"][0]["postgres"]["allow"] = ["Explain"]
    world.policies[0]["metadata"]["generation"] = 2
    plan = world.run(NOW + 1)
    assert {each.key.name for each in plan.statuses} == {"shop-db", "a"}
    assert world.conditions(world.policies[0])["Synced"] == ("False", "Progressing")
    assert world.conditions(world.policies[1])["Synced"] == ("True", "Synced")
    assert reasons_of(plan, "AccessPolicy") == ["Progressing"]
    assert not any(each.is_warning for each in plan.events)


# The last good rules


def break_policy(world: World) -> None:
    world.policies.append(policy("bad", role="nobody"))


def break_target(world: World) -> None:
    world.target["spec"]["protocol"] = "Kubernetes"


def make_unreadable(world: World) -> None:
    world.unreadable = (UnreadablePolicy("odd", "spec.mode is `Off`"),)
    world.policies.append(policy("good"))


def make_too_large(world: World) -> None:
    columns = [f"column_{number}_{'x' * 40}" for number in range(256)]
    rules = [{"name": f"r{rule}", "action": "Mask", "match": {"columns": columns}} for rule in range(64)]
    world.policies += [policy(name, rules=rules) for name in ("large-a", "large-b")]


BREAKS: list[tuple[Change, str, str]] = [
    (break_policy, "PolicyInvalid", "AccessPolicy/shop/bad: spec.grants"),
    (break_target, "TargetInvalid", "protocol `Kubernetes` can't be gated"),
    (
        make_unreadable,
        "PolicyInvalid",
        "AccessPolicy/shop/odd: spec: it can't be read: spec.mode is `Off`; fix: mend or delete it",
    ),
    (make_too_large, "ConfigTooLarge", "a ConfigMap holds"),
]


@pytest.mark.parametrize(("change", "reason", "text"), BREAKS, ids=[each[0].__name__ for each in BREAKS])  # type: ignore[attr-defined]
@pytest.mark.parametrize("is_restarted", [False, True])
def test_what_cant_be_compiled_leaves_the_last_good_rules_in_force_and_says_so(
    change: Change, reason: str, text: str, is_restarted: bool
) -> None:
    world = World(beside=with_service)
    world.settle()
    revision, config_map = published(world), copy.deepcopy(world.live[CONFIG_MAP])
    change(world)
    if is_restarted:
        world.last_good = None
    plan = world.run(NOW + 1)
    assert (plan.apply, plan.remove, plan.annotate) == ((), (), ())
    assert world.live[CONFIG_MAP] == config_map
    assert world.conditions()["Compiled"] == ("False", reason)
    assert world.conditions()["Synced"] == ("True", "Synced")
    assert world.conditions()["Ready"][0] == "False"
    assert f"the rules of revision {revision} stay in force, and no change since" in world.message("Compiled")
    assert text in world.message("Compiled")
    (told,) = [each for each in plan.events if each.reason == reason and each.key.kind == "ProtectedTarget"]
    assert told.is_warning
    assert world.conditions(world.policies[0])["Compiled"] == ("False", "TargetHeldBack")
    assert world.run(NOW + 2).is_empty


def test_the_policy_that_is_to_blame_is_told() -> None:
    world = World()
    world.settle()
    break_policy(world)
    plan = world.run(NOW + 1)
    bad = world.policies[1]
    assert world.conditions(bad)["Accepted"] == ("False", "Invalid")
    assert world.conditions(bad)["Compiled"] == ("False", "PolicyInvalid")
    assert bad["status"]["findings"][0]["severity"] == "Error"
    assert {each.reason for each in plan.events if each.key == ObjectKey("AccessPolicy", "bad") and each.is_warning} == {
        "Invalid",
        "PolicyInvalid",
    }
    world.policies[1] = policy("bad", role="readonly")
    world.run(NOW + 2)
    assert policies_in_force(world) == ["bad", "readers"]
    assert world.conditions()["Compiled"] == ("True", "Compiled")


@pytest.mark.parametrize("change", [break_policy, break_target, make_unreadable])
def test_the_last_good_config_is_put_back_where_somebody_took_it_away(change: Change) -> None:
    world = World()
    world.settle()
    config_map = copy.deepcopy(world.live[CONFIG_MAP])
    change(world)
    world.run(NOW + 1)
    del world.live[CONFIG_MAP]
    world.run(NOW + 2)
    assert world.live[CONFIG_MAP] == config_map


def test_a_new_authority_reaches_gates_even_while_nothing_can_be_compiled() -> None:
    world = World(authority="old")
    world.settle()
    revision = published(world)
    break_policy(world)
    world.authority = "new"
    world.run(NOW + 1)
    assert world.live[CONFIG_MAP]["data"]["operator-ca.crt"] == "new"
    assert published(world) == revision
    assert world.conditions()["Synced"] == ("True", "Synced")


def test_the_last_good_config_outlives_a_config_map_of_somebody_elses() -> None:
    world = World()
    world.settle()
    ours = world.live[CONFIG_MAP]
    world.live[CONFIG_MAP] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sidegate-shop-db"}, "data": {}}
    break_policy(world)
    assert world.run(NOW + 1).apply == ()
    assert world.conditions()["Accepted"] == ("False", "Invalid")
    del world.live[CONFIG_MAP]
    world.run(NOW + 2)
    assert world.live[CONFIG_MAP] == ours


def test_a_tampered_config_is_written_over() -> None:
    world = World()
    world.settle()
    config_map = copy.deepcopy(world.live[CONFIG_MAP])
    world.live[CONFIG_MAP]["data"]["gate.json"] = world.live[CONFIG_MAP]["data"]["gate.json"].replace("Read", "DDL")
    world.live[CONFIG_MAP]["metadata"]["resourceVersion"] = "7"
    assert [ObjectKey.of(each) for each in world.run(NOW + 1).apply] == [CONFIG_MAP]
    assert world.live[CONFIG_MAP]["data"] == config_map["data"]


@pytest.mark.parametrize("tamper", ["Read", "shop-db", None])
def test_after_a_restart_only_a_config_that_holds_together_counts_as_good(tamper: str | None) -> None:
    """It is sealed by its own hash, and names its target: another target's config, whole, isn't this one's."""
    world = World()
    world.settle()
    if tamper is None:
        other = World(target=target("other-db"), policies=[policy(targets={"names": ["other-db"]})], pods=[])
        other.run()
        world.live[CONFIG_MAP]["data"] = other.live[ObjectKey("ConfigMap", "sidegate-other-db")]["data"]
    else:
        text = world.live[CONFIG_MAP]["data"]["gate.json"]
        world.live[CONFIG_MAP]["data"]["gate.json"] = text.replace(tamper, "Explain")
    break_policy(world)
    world.last_good = None
    plan = world.run(NOW + 1)
    assert (plan.apply, plan.remove) == ((), ())
    assert plan.last_good is None
    assert world.conditions()["Synced"] == ("Unknown", "NotPublished")
    assert "gates refuse everything" in world.message("Compiled")


# Telling gates


def test_a_late_gate_is_told_again_at_growing_intervals() -> None:
    world, now, told = World(pods=[pod(), pod("shop-db-1")]), NOW, []
    world.run(now)
    world.report("shop-db-0")
    for _ in range(9):
        plan = world.run(now)
        assert plan.look_again_at is not None
        assert world.run(plan.look_again_at - 1).annotate == ()
        told.append(plan.look_again_at - now)
        now = plan.look_again_at
        again = world.run(now)
        assert [each.pod for each in again.annotate] == ["shop-db-1"]
        assert world.conditions()["Synced"] == ("False", "GatesLate")
        assert "`shop-db-1`" in world.message("Synced")
    assert told == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    world.report()
    assert world.run(now).annotate == ()
    assert world.conditions()["Synced"] == ("True", "Synced")


def test_a_new_revision_starts_the_intervals_over() -> None:
    world = World()
    world.run()
    for wait in (5, 15, 35):
        world.run(NOW + wait)
    world.policies.append(policy("b"))
    plan = world.run(NOW + 36)
    assert [each.annotations["sidegate.dev/told"] for each in plan.annotate] == ["1 times, last at 2026-11-25T09:47:16Z"]
    assert world.conditions()["Synced"] == ("False", "Progressing")


@pytest.mark.parametrize(
    "told",
    [
        "",
        "1 times, last at 2036-11-25T09:47:16Z",
        "0 times, last at 2026-11-25T09:46:40Z",
        "x",
        "1 times, last at 2026-13-25T09:46:40Z",
    ],
)
def test_what_others_write_into_the_annotation_keeps_no_gate_from_being_told(told: str) -> None:
    world = World()
    world.run()
    world.pods[0]["metadata"]["annotations"]["sidegate.dev/told"] = told
    assert Told.of(SeenPod.from_wire(world.pods[0]), NOW + 1) is None
    assert len(world.run(NOW + 1).annotate) == 1


def test_a_pod_that_claims_a_revision_is_not_believed() -> None:
    world = World()
    world.run()
    assert world.pods[0]["metadata"]["annotations"]["sidegate.dev/revision"] == published(world)
    assert world.target["status"]["gates"]["synced"] == 0
    world.enforced["uid-of-another-pod"] = published(world)
    world.run()
    assert world.target["status"]["gates"]["synced"] == 0


def test_a_gate_that_enforces_it_already_is_not_told() -> None:
    world = World()
    world.settle()
    world.pods.append(pod("shop-db-1"))
    world.report()
    assert world.run(NOW + 1).annotate == ()
    assert world.target["status"]["gates"]["summary"] == "2/2"
