"""One target: what is seen -> what is done. Nothing is done twice, the last good rules stay, and no pod is overlooked."""

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
from sidegate_operator.plan.pods import SeenPod, Told
from sidegate_operator.plan.policies import reconcile_policy
from sidegate_operator.plan.reconcile import (
    MAX_NOTE,
    WITHOUT_GATE,
    ObjectKey,
    Pace,
    Plan,
    PolicyReport,
    UnreadablePolicy,
    reconcile,
)
from sidegate_operator.plan.status import Probe
from tests.unit.operator.snapshots import NOW, Change, World, pod, policy, target

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


def reasons_of(plan: Plan, kind: str) -> list[str]:
    return [each.reason for each in plan.events if each.key.kind == kind]


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


# Pods without a gate


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


# Objects, and other targets


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
