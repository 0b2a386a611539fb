"""Reviews of pods. What becomes of a pod has tests of its own; here: that the right target is asked for, and nothing passes by mistake."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.plan.injection import InjectionReason
from sidegate_operator.webhook.inject import inject, target_name
from sidegate_operator.webhook.review import Operation, Reason, ResourceName, Review, User
from tests.support.admission import GATE_IMAGE, plain_pod, target

SETTINGS = GateSettings(GATE_IMAGE, "1")


def review(pod: dict[str, Any], **changes: Any) -> Review:
    facts: dict[str, Any] = {
        "uid": "u",
        "resource": ResourceName("pods", "v1"),
        "subresource": "",
        "operation": Operation.CREATE,
        "namespace": "shop",
        "name": "",
        "user": User("system:serviceaccount:kube-system:statefulset-controller"),
        "new": pod,
        "old": None,
        "is_dry_run": False,
    }
    return Review(**{**facts, **changes})


def asking(name: str = "shop-db") -> dict[str, Any]:
    pod = plain_pod("elsewhere", target=name)
    pod["metadata"]["labels"] = {"app": "shop-db"}
    return pod


def test_the_target_is_the_one_that_the_pod_names() -> None:
    assert target_name(review(asking())) == "shop-db"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "A", "a?b", "a#b", "a%2fb", "a b", "a" * 254, "\n"])
def test_a_name_that_no_target_can_have_leads_nowhere(name: str) -> None:
    assert target_name(review(asking(name))) is None
    answer = inject(review(asking(name)), None, SETTINGS)
    assert answer.refusal is not None
    assert answer.refusal.reason is InjectionReason.TARGET_NOT_FOUND


def test_a_pod_that_asks_is_patched_and_one_that_does_not_is_not() -> None:
    answer = inject(review(asking()), target("shop"), SETTINGS)
    assert answer.refusal is None
    assert answer.patch
    assert answer.audit == {"target": "shop-db"}
    untouched = inject(review(plain_pod("shop")), None, SETTINGS)
    assert (untouched.patch, untouched.audit) == ((), {"untouched": "NoTarget"})


def test_a_pod_that_gets_redirection_says_what_its_namespace_must_allow() -> None:
    stored = target("shop")
    stored["spec"]["enforcement"] = {"mode": "Redirect"}
    answer = inject(review(asking()), stored, replace(SETTINGS, redirect_image=GATE_IMAGE))
    assert answer.refusal is None
    (warning,) = answer.warnings
    assert "NET_ADMIN" in warning
    assert "pod-security.kubernetes.io/enforce: privileged" in warning
    assert inject(review(asking()), target("shop"), SETTINGS).warnings == ()


@pytest.mark.parametrize("stored", [{}, {"kind": "ProtectedTarget"}, {**target("shop"), "spec": {"protocol": "Gopher"}}])
def test_a_target_that_cannot_be_read_refuses_the_pod(stored: dict[str, Any]) -> None:
    answer = inject(review(asking()), stored, SETTINGS)
    assert answer.refusal is not None
    assert answer.refusal.reason is Reason.TARGET_UNREADABLE


@pytest.mark.parametrize(
    "changes",
    [
        {"resource": ResourceName("deployments", "v1", "apps")},
        {"resource": ResourceName("pods", "v1", "example.dev")},
        {"subresource": "ephemeralcontainers"},
        {"operation": Operation.UPDATE},
        {"operation": Operation.CONNECT},
        {"new": None},
    ],
)
def test_whatever_else_comes_is_refused(changes: dict[str, Any]) -> None:
    answer = inject(review(asking(), **changes), target("shop"), SETTINGS)
    assert answer.refusal is not None
    assert answer.refusal.reason is Reason.NOT_OURS
    assert target_name(review(asking(), **changes)) is None
