"""The pure check of AccessPolicies and ProtectedTargets. What the compiler finds has tests of its own; here: what becomes of it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sidegate_operator.webhook.review import Answer, Operation, Reason, ResourceName, Review, User
from sidegate_operator.webhook.validate import Neighbours, judge, needs_neighbours
from tests.support.admission import policy, target

NOW = 1_800_000_000.0


def review(document: dict[str, Any], old: dict[str, Any] | None = None, **changes: Any) -> Review:
    plural = {"AccessPolicy": "accesspolicies", "ProtectedTarget": "protectedtargets"}[document["kind"]]
    facts: dict[str, Any] = {
        "uid": "u",
        "resource": ResourceName(plural, "v1alpha1", "sidegate.dev"),
        "subresource": "",
        "operation": Operation.CREATE if old is None else Operation.UPDATE,
        "namespace": "shop",
        "name": document["metadata"]["name"],
        "user": User("ada"),
        "new": document,
        "old": old,
        "is_dry_run": False,
    }
    return Review(**{**facts, **changes})


def judged(document: dict[str, Any], *beside: dict[str, Any], old: dict[str, Any] | None = None) -> Answer:
    targets = [each for each in beside if each["kind"] == "ProtectedTarget"]
    policies = [each for each in beside if each["kind"] == "AccessPolicy"]
    return judge(review(document, old), Neighbours(targets, policies), NOW)


BROKEN = [{"expression": "claims.department =="}]


def test_a_sound_pair_passes_without_a_word() -> None:
    assert judged(policy("shop"), target("shop")) == Answer()
    assert judged(target("shop"), policy("shop")) == Answer()


def test_every_error_has_its_field_and_fix() -> None:
    answer = judged(policy("shop", role="owner", subjects=BROKEN), target("shop"))
    assert answer.refusal is not None
    assert answer.refusal.reason is Reason.INVALID
    assert {path for path, _ in answer.refusal.causes} == {"spec.subjects[0].expression", "spec.grants[0].postgres.role"}
    assert all("; fix: " in text for _, text in answer.refusal.causes)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"unknown": 1}, "spec.unknown"),
        ({"subjects": []}, "spec.subjects"),
        ({"targets": None}, "spec.targets"),
        ({"grants": "all"}, "spec.grants"),
    ],
)
def test_what_the_schema_would_refuse_is_refused_here_too(spec: dict[str, Any], path: str) -> None:
    """The webhook doesn't count on a CRD that somebody may have loosened."""
    answer = judged(policy("shop", **spec), target("shop"))
    assert answer.refusal is not None
    assert [cause[0] for cause in answer.refusal.causes] == [path]


def test_a_target_that_redirects_is_told_what_that_takes() -> None:
    wanted = target("shop")
    wanted["spec"]["enforcement"] = {"mode": "Redirect"}

    def warnings() -> list[str]:
        answer = judged(wanted, policy("shop"))
        assert answer.refusal is None
        return sorted(answer.warnings, reverse=True)

    needs, replicas = warnings()
    assert needs.startswith("spec.enforcement.mode: `sidegate-redirect` has the capability NET_ADMIN")
    assert replicas.startswith("note: spec.enforcement.mode: replicas come through the gate too")
    passing = {"name": "replicas", "roles": ["standby"], "from": ["10.0.0.0/8"], "mayReplicate": True}
    wanted["spec"]["passthrough"] = [passing]
    passed = warnings()
    assert needs in passed
    assert replicas not in passed


def test_an_own_error_that_was_there_before_still_refuses_a_change() -> None:
    old = policy("shop", subjects=BROKEN)
    answer = judged(policy("shop", subjects=BROKEN, mode="Observe"), old=old)
    assert answer.refusal is not None


def test_an_update_of_metadata_passes_unseen_and_one_of_labels_does_not() -> None:
    old = policy("shop", subjects=BROKEN)
    annotated = {**old, "metadata": {**old["metadata"], "annotations": {"a": "b"}, "finalizers": []}}
    labelled = {**old, "metadata": {**old["metadata"], "labels": {"a": "b"}}}
    assert judged(annotated, old=old) == Answer()
    assert not needs_neighbours(review(annotated, old))
    assert judged(labelled, old=old).refusal is not None


def test_the_policy_under_review_takes_the_place_of_its_stored_self() -> None:
    """Else an update would be refused for what it mends, or for having a name twice."""
    stored = policy("shop", role="owner")
    assert judged(policy("shop"), target("shop"), stored, old=stored).refusal is None


def test_errors_of_others_are_warnings_of_theirs() -> None:
    answer = judged(target("shop"), policy("shop", "other", role="owner"))
    assert answer.refusal is None
    assert answer.warnings[0].startswith("error: AccessPolicy/shop/other: spec.grants[0].postgres.role: ")


def test_neighbours_that_cannot_be_read_are_left_out() -> None:
    assert judged(policy("shop"), target("shop"), {"kind": "ProtectedTarget", "spec": {}}) == Answer()


def test_the_namespace_is_that_of_the_request() -> None:
    elsewhere = policy("kube-system")
    answer = judge(review(elsewhere), Neighbours([target("shop")], []), NOW)
    assert answer == Answer()


@pytest.mark.parametrize(
    "change",
    [
        {"resource": ResourceName("pods", "v1")},
        {"resource": ResourceName("accesspolicies", "v1alpha1", "example.dev")},
        {"resource": ResourceName("accesspolicies", "v2", "sidegate.dev")},
        {"resource": ResourceName("approvalrequests", "v1alpha1", "sidegate.dev")},
        {"subresource": "status"},
        {"operation": Operation.DELETE},
        {"operation": Operation.CONNECT},
    ],
)
def test_what_it_was_not_asked_for_is_refused(change: dict[str, Any]) -> None:
    answer = judge(review(policy("shop"), **change), Neighbours(), NOW)
    assert answer.refusal is not None
    assert answer.refusal.reason is Reason.NOT_OURS


def test_policies_of_other_targets_are_not_even_read() -> None:
    """A namespace may have thousands, and a review has seconds."""
    others = [policy("shop", f"other-{number}", targets={"names": [f"db-{number}"]}) for number in range(3000)]
    began = time.perf_counter()
    answer = judge(review(policy("shop")), Neighbours([target("shop")], others), NOW)
    assert answer == Answer()
    assert time.perf_counter() - began < 0.5  # reading all of them takes two seconds and more


@pytest.mark.parametrize("targets", [{"environments": ["production"]}, {"selector": {"matchLabels": {"team": "shop"}}}])
def test_policies_that_pick_their_targets_otherwise_are_read(targets: dict[str, Any]) -> None:
    answer = judged(target("shop"), policy("shop", "other", role="owner", targets=targets))
    assert answer.warnings[0].startswith("error: AccessPolicy/shop/other: ")
