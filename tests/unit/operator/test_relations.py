"""What belongs to what: as it would be if everything were looked at anew each time."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidegate.api.meta import ConditionStatus
from sidegate.policy.compile import binds
from sidegate_operator.cluster import Cluster, Reports
from sidegate_operator.plan.reconcile import ObjectKey
from sidegate_operator.plan.status import PolicyReport
from sidegate_operator.resources import ACCESS_POLICIES, CONFIG_MAPS, PODS, PROTECTED_TARGETS
from sidegate_operator.store import Key
from tests.unit.operator.snapshots import pod, policy, target

NAMES = ("a", "b", "c")
VERSIONS = itertools.count(1)


def seen(cluster: Cluster, resource: Any, wire: dict[str, Any]) -> None:
    wire["metadata"]["resourceVersion"] = str(next(VERSIONS))
    cluster.stores[resource].seen(wire)


def gone(cluster: Cluster, resource: Any, name: str) -> None:
    metadata = {"name": name, "namespace": "shop", "resourceVersion": str(next(VERSIONS))}
    cluster.stores[resource].deleted({"metadata": metadata})


def config_map(name: str, of: str | None) -> dict[str, Any]:
    labels = {"sidegate.dev/target": of} if of else {}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "shop", "labels": labels}}


names = st.sampled_from(NAMES)
STEPS = st.one_of(
    st.tuples(st.just("target"), names, st.sampled_from(("production", "staging")), names),
    st.tuples(
        st.just("policy"), names, st.sampled_from((["production"], ["staging"], [])), st.lists(names, max_size=2, unique=True)
    ),
    st.tuples(st.just("pod"), names, names, st.sampled_from((None, *NAMES))),
    st.tuples(st.just("unreadable policy"), names),
    st.tuples(st.just("config map"), names, st.sampled_from((None, *NAMES))),
    st.tuples(st.just("gone"), st.sampled_from((PROTECTED_TARGETS, ACCESS_POLICIES, PODS, CONFIG_MAPS)), names),
    st.tuples(st.just("ask")),
)


def take(cluster: Cluster, step: tuple[Any, ...]) -> None:
    match step:
        case ("target", name, environment, app):
            seen(cluster, PROTECTED_TARGETS, target(name, environment=environment, selector={"matchLabels": {"app": app}}))
        case ("policy", name, environments, targets):
            seen(cluster, ACCESS_POLICIES, policy(name, targets={"environments": environments, "names": targets or ["a"]}))
        case ("unreadable policy", name):
            seen(cluster, ACCESS_POLICIES, policy(name, mode="Off"))
        case ("pod", name, app, asks_for):
            seen(cluster, PODS, pod(name, app=app, asks_for=asks_for))
        case ("config map", name, of):
            seen(cluster, CONFIG_MAPS, config_map(name, of))
        case ("gone", resource, name):
            gone(cluster, resource, name)
        case ("ask",):
            cluster.bound_targets(Key("shop", "a"))
            cluster.targets_of(Key("shop", "a"))


@given(st.lists(STEPS, max_size=30))
def test_every_answer_is_as_if_all_were_looked_at_anew(steps: list[tuple[Any, ...]]) -> None:
    cluster = Cluster("sidegate-system")
    for step in steps:
        take(cluster, step)
    policies = dict(cluster.policies.readable_within("shop"))
    targets = dict(cluster.targets.readable_within("shop"))
    pods = dict(cluster.pods.readable_within("shop"))
    for key in (Key("shop", name) for name in NAMES):
        found = targets.get(key)
        bound = [each for each in policies.values() if found is not None and binds(each, found)]
        assert list(cluster.bound_policies(key)) == bound
        assert list(cluster.pods_of(key).values()) == [each for each in pods.values() if found is not None and each.is_of(found)]
        assert cluster.bound_targets(key) == [
            other for other, each in targets.items() if key in policies and binds(policies[key], each)
        ]
        assert cluster.targets_of(key) == [other for other, each in targets.items() if key in pods and pods[key].is_of(each)]
        live = [
            each
            for each in cluster.stores[CONFIG_MAPS].all()
            if each["metadata"]["labels"].get("sidegate.dev/target") == key.name
        ]
        assert cluster.live(key) == {ObjectKey("ConfigMap", each["metadata"]["name"]): each for each in live}
    unreadable = {key.name for key in cluster.policies.store.keys_within("shop")} - {key.name for key in policies}
    assert [each.name for each in cluster.unreadable_policies("shop")] == sorted(unreadable)


def test_a_policy_whose_status_was_just_written_is_bound_to_a_target_that_comes() -> None:
    cluster = Cluster("sidegate-system")
    seen(cluster, ACCESS_POLICIES, policy(targets={"names": ["a"]}))
    assert cluster.bound_targets(Key("shop", "readers")) == []
    seen(cluster, ACCESS_POLICIES, policy(targets={"names": ["a"]}) | {"status": {"targetsCount": 0}})
    seen(cluster, PROTECTED_TARGETS, target("a"))
    assert cluster.bound_targets(Key("shop", "readers")) == [Key("shop", "a")]


def test_reports_are_kept_by_policy_and_what_is_new_is_told_once() -> None:
    reports = Reports()
    said = PolicyReport("a", True, False, ConditionStatus.FALSE, ConditionStatus.TRUE)
    reports.keep(Key("shop", "a"), {"readers": said}, 5.0)
    reports.keep(Key("shop", "b"), {"readers": said}, 5.0)
    assert reports.take_changed() == [Key("shop", "readers")]
    reports.keep(Key("shop", "a"), {"readers": said}, 5.0)
    assert reports.take_changed() == []
    assert reports.about(Key("shop", "readers")) == {"a": said, "b": said}
    assert reports.news_since(Key("shop", "readers")) == 5.0
    reports.told(Key("shop", "readers"))
    assert reports.news_since(Key("shop", "readers")) is None
    reports.forget(Key("shop", "a"), 9.0)
    assert reports.take_changed() == [Key("shop", "readers")]
    assert reports.about(Key("shop", "readers")) == {"b": said}
    reports.forget(Key("shop", "b"), 9.0)
    assert reports.about(Key("shop", "readers")) == {}
    reports.forget(Key("shop", "never-planned"), 9.0)
