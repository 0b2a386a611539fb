"""What is told of a pod from objects alone; with a cluster around it: tests/cluster/commands/test_why.py."""

from __future__ import annotations

from typing import Any

import pytest

from sidegate_cluster.pages.pod_story import PodFacts, Trial, WhyReason, not_made, pod_story
from sidegate_cluster.pages.refusals import Told
from sidegate_cluster.pages.workloads import CLUSTER, DEPLOYMENT, KINDS, POSTGRESQL, STATEFUL_SET, named, of_owner
from sidegate_operator.plan.injection import InjectionReason
from tests.unit.operator.snapshots import Wire, pod, target

WEBHOOK = {"metadata": {"name": "sidegate", "creationTimestamp": "2026-11-25T08:00:00Z"}}


def asking(**metadata: Any) -> Wire:
    return pod(has_gate=False, creationTimestamp="2026-11-25T09:00:00Z", **metadata)


def story(wire: Wire, **facts: Any) -> tuple[str, bool]:
    found = pod_story(PodFacts(wire, **{"targets": [target()], "webhook": WEBHOOK, **facts}))
    assert found.problem
    assert found.is_fine or found.way_forward
    return str(found.reason), found.is_fine


def test_a_gate_is_a_gate_whatever_else_there_is() -> None:
    assert story(pod(), targets=[], webhook=None) == (WhyReason.INJECTED, True)


def test_what_a_pod_that_never_asked_calls_a_gate_is_none() -> None:
    assert story(pod(asks_for=None)) == (WhyReason.SELECTED_BUT_SILENT, False)


def test_a_pod_that_is_over_needs_none() -> None:
    wire = asking()
    wire["status"]["phase"] = "Succeeded"
    assert story(wire) == (WhyReason.OVER, True)
    assert story(asking(deletionTimestamp="2026-11-25T09:01:00Z")) == (WhyReason.OVER, True)


def test_what_would_refuse_it_now_goes_before_what_kept_it_from_one_then() -> None:
    late = target()
    late["metadata"]["creationTimestamp"] = "2026-11-25T10:00:00Z"
    assert story(asking(), targets=[late]) == (WhyReason.OLDER_THAN_TARGET, False)
    down = Trial(refused=Told("nobody answers", "see to it"), is_webhook_down=True)
    assert story(asking(), targets=[late], trial=down) == (WhyReason.WEBHOOK_DOWN, False)
    refused = Trial(refused=Told("over quota", "ask for more"))
    assert story(asking(), targets=[late], trial=refused) == (WhyReason.REFUSED, False)
    assert story(asking(), targets=[late], trial=Trial()) == (WhyReason.WEBHOOK_NOT_ASKED, False)
    assert story(asking(), targets=[late], webhook=None) == (WhyReason.WEBHOOK_MISSING, False)
    assert story(asking(), targets=[late], webhook=None, is_webhook_known=False) == (WhyReason.OLDER_THAN_TARGET, False)


def test_a_trial_that_got_its_gate_leaves_the_past_to_explain_it() -> None:
    assert story(asking(), trial=Trial(has_gate=True)) == (WhyReason.WEBHOOK_NOT_ASKED, False)
    newer = {"metadata": {"creationTimestamp": "2026-11-25T09:30:00Z"}}
    assert story(asking(), trial=Trial(has_gate=True), webhook=newer) == (WhyReason.OLDER_THAN_WEBHOOK, False)


def test_a_target_that_can_t_be_read_refuses_its_pods() -> None:
    broken = target(port="many")
    assert story(asking(), targets=[broken]) == (WhyReason.TARGET_UNREADABLE, False)
    silent = asking()
    del silent["metadata"]["labels"]["sidegate.dev/target"]
    assert story(silent, targets=[broken]) == (WhyReason.NO_TARGET, True)


def test_a_selector_that_doesn_t_match_is_injections_own_reason() -> None:
    assert story(pod(app="other", has_gate=False)) == (InjectionReason.NOT_SELECTED, False)


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        (
            STATEFUL_SET,
            {"template": {"metadata": {"annotations": {"sidegate.dev/target": "shop-db"}}}},
            "kubectl rollout restart",
        ),
        (
            CLUSTER,
            {"inheritedMetadata": {"annotations": {"sidegate.dev/target": "shop-db"}}},
            "kubectl cnpg promote shop-db REPLICA",
        ),
        (POSTGRESQL, {"podAnnotations": {"sidegate.dev/target": "shop-db"}}, "-l cluster-name=shop-db"),
    ],
    ids=["StatefulSet", "CloudNativePG", "Zalando"],
)
def test_an_owner_that_asks_by_now_has_a_rollout_to_come(kind: Any, spec: Wire, words: str) -> None:
    silent = asking()
    del silent["metadata"]["labels"]["sidegate.dev/target"]
    owner = {"metadata": {"name": "shop-db", "namespace": "shop"}, "spec": spec}
    found = pod_story(PodFacts(silent, [target()], owner=(kind, owner), webhook=WEBHOOK))
    assert found.reason == WhyReason.OLDER_THAN_TEMPLATE
    assert words in found.way_forward


def test_a_pod_that_nothing_makes_isn_t_there() -> None:
    assert not_made("x", None, None, None).reason == WhyReason.NOT_MADE
    workload = (DEPLOYMENT, {"metadata": {"name": "shop"}})
    told = not_made("shop-1", workload, "exceeded quota", None)
    assert "Deployment `shop` would make it: exceeded quota" in told.problem


def test_kinds_are_named_as_kubectl_names_them_and_found_by_their_group() -> None:
    assert (named("sts"), named("deploy"), named("Cluster"), named("job")) == (STATEFUL_SET, DEPLOYMENT, CLUSTER, None)
    words = [word for each in KINDS for word in each.words]
    assert len(words) == len(set(words))
    assert of_owner({"apiVersion": "apps/v1", "kind": "StatefulSet"}) is STATEFUL_SET
    assert of_owner({"apiVersion": "example.com/v1", "kind": "StatefulSet"}) is None
