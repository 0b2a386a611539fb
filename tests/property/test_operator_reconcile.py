"""Any sequence of changes in a cluster: plans come to rest, say the truth about what is in force, and move no time without a change."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.config import decode_config
from sidegate_operator.plan.reconcile import ObjectKey, UnreadablePolicy
from sidegate_operator.plan.status import Probe
from tests.unit.operator.snapshots import NOW, World, pod, policy

CONFIG_MAP = ObjectKey("ConfigMap", "sidegate-shop-db")
NAMES = ("a", "b", "c")


def set_policy(world: World, name: str, role: str) -> None:
    old = next((each for each in world.policies if each["metadata"]["name"] == name), None)
    new = policy(name, role=role)
    if old is not None:
        new["status"] = old.get("status")
        new["metadata"]["generation"] = old["metadata"]["generation"] + 1
        world.policies.remove(old)
        if new["status"] is None:
            del new["status"]
    world.policies.append(new)


def drop_policy(world: World, name: str) -> None:
    world.policies = [each for each in world.policies if each["metadata"]["name"] != name]


def set_pod(world: World, name: str, has_gate: bool) -> None:
    drop_pod(world, name)
    world.pods.append(pod(name, has_gate=has_gate))


def drop_pod(world: World, name: str) -> None:
    world.pods = [each for each in world.pods if each["metadata"]["name"] != name]
    world.enforced.pop(f"uid-{name}", None)


def report(world: World, name: str) -> None:
    if CONFIG_MAP in world.live:
        world.report(name)


def lose_config(world: World) -> None:
    world.live.pop(CONFIG_MAP, None)


def restart(world: World) -> None:
    world.last_good = None


def set_unreadable(world: World, names: list[str]) -> None:
    world.unreadable = tuple(UnreadablePolicy(f"odd-{name}", "odd") for name in names)


def set_probe(world: World, doors: list[str] | None) -> None:
    world.probe = None if doors is None else Probe(tuple(doors))


NAME = st.sampled_from(NAMES)
STEPS = st.one_of(
    st.tuples(st.just(set_policy), NAME, st.sampled_from(["readonly", "readonly", "nobody"])),
    st.tuples(st.just(drop_policy), NAME),
    st.tuples(st.just(set_pod), NAME, st.booleans()),
    st.tuples(st.just(drop_pod), NAME),
    st.tuples(st.just(report), NAME),
    st.tuples(st.just(lose_config)),
    st.tuples(st.just(restart)),
    st.tuples(st.just(set_unreadable), st.lists(NAME, max_size=1)),
    st.tuples(st.just(set_probe), st.sampled_from([None, [], ["port 5433 answers"]])),
)


def times(world: World) -> list[Any]:
    return [
        (each["metadata"]["name"], one["type"], one["status"], one["lastTransitionTime"])
        for each in [world.target, *world.policies]
        for one in each.get("status", {}).get("conditions", [])
    ]


@given(st.lists(st.tuples(STEPS, st.integers(0, 20)), max_size=10))
@settings(max_examples=50, deadline=None)
def test_any_sequence_of_changes_comes_to_rest_and_is_told_truly(steps: list[tuple[tuple[Any, ...], int]]) -> None:
    world, now = World(policies=[], pods=[]), NOW
    for (change, *arguments), wait in steps:
        now += wait
        change(world, *arguments)
        before = {(name, kind): (status, at) for name, kind, status, at in times(world)}
        world.run(now)
        for name, kind, status, at in times(world):
            had = before.get((name, kind))
            assert had is None or had[0] != status or had[1] == at, "a time moved without its status"

        same = copy.deepcopy(world)
        assert world.run(now).is_empty, "the same snapshot gave something to do again"
        assert (world.target, world.policies) == (same.target, same.policies)

        conditions, status = world.conditions(), world.target["status"]
        is_broken = bool(world.unreadable) or any(
            each["spec"]["grants"][0]["postgres"]["role"] == "nobody" for each in world.policies
        )
        assert conditions["Compiled"][0] == ("False" if is_broken else "True")
        bare = [each for each in world.pods if not each["spec"]["initContainers"]]
        gated = [each for each in world.pods if each["spec"]["initContainers"]]
        if conditions["Enforced"][0] == "True":
            assert gated
            assert not bare
            assert world.probe == Probe()
        if conditions["Ready"][0] == "True":
            assert all(state != "False" for state, _ in conditions.values())
            assert gated
            assert all(world.enforced.get(each["metadata"]["uid"]) == status["revision"] for each in gated)
        if not is_broken:
            config = decode_config(world.live[CONFIG_MAP]["data"]["gate.json"].encode())
            assert config.revision == status["revision"]
            assert {each.name for each in config.policies} == {each["metadata"]["name"] for each in world.policies}
        assert status.get("podsWithoutGateCount") == len(bare)
        ProtectedTarget.from_wire(world.target)
        for each in world.policies:
            AccessPolicy.from_wire(each)
            assert world.conditions(each)["Accepted"][0] == (
                "False" if each["spec"]["grants"][0]["postgres"]["role"] == "nobody" else "True"
            )


@given(st.lists(STEPS, max_size=6), st.lists(st.sampled_from(["policy", "unreadable"]), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_while_something_is_broken_the_published_rules_are_the_last_good_ones(
    steps: list[tuple[Any, ...]], breaks: list[str]
) -> None:
    world = World(policies=[policy("a")], pods=[pod("a")])
    world.settle()
    good = copy.deepcopy(world.live[CONFIG_MAP])
    if "policy" in breaks:
        world.policies.append(policy("bad", role="nobody"))
    if "unreadable" in breaks:
        world.unreadable = (UnreadablePolicy("odd", "odd"),)
    for number, (change, *arguments) in enumerate(steps):
        if change in {set_unreadable, restart}:
            continue
        change(world, *arguments)
        world.run(NOW + number)
        assert world.live[CONFIG_MAP] == good
        assert world.conditions()["Compiled"][0] == "False"
