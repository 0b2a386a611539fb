"""What is asked of the gateway and who asks, as values."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.gateway.asking import (
    Action,
    Caller,
    Route,
    bearer,
    caller_of,
    expiry,
    not_its_gate,
    review_of,
    route_of,
)
from sidegate_operator.gateway.problem import Kind, Refusal
from sidegate_operator.plan.pods import left_out_by_admission
from tests.unit.operator.snapshots import target

PLACE = "/v1/targets/shop/shop-db"
SEARCH = {"fingerprint": "f", "issuer": "i", "subject": "s"}


@pytest.mark.parametrize(
    ("method", "path", "query", "action", "name"),
    [
        ("POST", f"{PLACE}/report", {}, Action.REPORT, ""),
        ("POST", f"{PLACE}/holds", {}, Action.NEW_HOLD, ""),
        ("GET", f"{PLACE}/holds", SEARCH, Action.FIND_HOLDS, ""),
        ("GET", f"{PLACE}/holds/ar-1.x", {}, Action.LOOK, "ar-1.x"),
        ("GET", f"{PLACE}/holds/ar-1", {"wait": "12.5", "version": "7"}, Action.LOOK, "ar-1"),
        ("POST", f"{PLACE}/holds/ar-1/claim", {}, Action.CLAIM, "ar-1"),
        ("POST", f"{PLACE}/holds/ar-1/withdrawal", {}, Action.WITHDRAW, "ar-1"),
        ("POST", f"{PLACE}/holds/ar-1/outcome", {}, Action.OUTCOME, "ar-1"),
    ],
)
def test_each_request_of_the_protocol_has_its_route(
    method: str, path: str, query: Mapping[str, str], action: Action, name: str
) -> None:
    route = route_of(method, path, query)
    assert isinstance(route, Route)
    assert (route.namespace, route.target, route.action, route.name) == ("shop", "shop-db", action, name)


def test_nobody_waits_longer_than_the_protocol_says() -> None:
    route = route_of("GET", f"{PLACE}/holds/ar-1", {"wait": "999", "version": "7"})
    assert isinstance(route, Route)
    assert (route.wait_s, route.version) == (30.0, 7)


@pytest.mark.parametrize(
    ("method", "path", "query", "kind"),
    [
        ("GET", "/", {}, Kind.NOT_FOUND),
        ("POST", f"{PLACE}/report/", {}, Kind.NOT_FOUND),
        ("POST", f"{PLACE}/holds/../report", {}, Kind.NOT_FOUND),
        ("POST", f"{PLACE}/holds/%2e%2e/claim", {}, Kind.NOT_FOUND),
        ("POST", f"{PLACE}/holds/AR-1/claim", {}, Kind.NOT_FOUND),
        ("POST", f"/v1/targets/shop/{'x' * 63}.{'y' * 63}.{'z' * 63}.{'a' * 63}/report", {}, Kind.NOT_FOUND),
        ("POST", f"{PLACE}/holds/ar-1/approve", {}, Kind.NOT_FOUND),
        ("GET", f"{PLACE}/report", {}, Kind.WRONG_METHOD),
        ("DELETE", f"{PLACE}/holds/ar-1", {}, Kind.WRONG_METHOD),
        ("GET", f"{PLACE}/holds", {}, Kind.MALFORMED),
        ("GET", f"{PLACE}/holds", {**SEARCH, "more": "x"}, Kind.MALFORMED),
        ("POST", f"{PLACE}/report", {"x": "y"}, Kind.MALFORMED),
        ("GET", f"{PLACE}/holds/ar-1", {"wait": "inf"}, Kind.MALFORMED),
        ("GET", f"{PLACE}/holds/ar-1", {"version": "-1"}, Kind.MALFORMED),
        ("GET", f"{PLACE}/holds/ar-1", {"version": "٣"}, Kind.MALFORMED),
    ],
)
def test_anything_else_has_none(method: str, path: str, query: Mapping[str, str], kind: Kind) -> None:
    refusal = route_of(method, path, query)
    assert isinstance(refusal, Refusal)
    assert refusal.kind is kind
    assert refusal.way_forward


def token(**claims: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{payload}.c2lnbmF0dXJl"


def test_a_token_says_when_it_ends() -> None:
    assert expiry(token(exp=123)) == 123.0
    assert bearer(f"Bearer {token(exp=1)}") == token(exp=1)


@pytest.mark.parametrize("claims", [{}, {"exp": "soon"}, {"exp": None}, {"exp": [1]}])
def test_a_token_that_doesnt_say_when_it_ends_has_ended(claims: dict[str, Any]) -> None:
    assert expiry(token(**claims)) == 0.0


@given(st.text(max_size=200))
def test_whatever_comes_as_a_header_is_a_token_or_refused(text: str) -> None:
    found = bearer(text)
    if isinstance(found, str):
        expiry(found)
    else:
        assert found.kind is Kind.UNAUTHENTICATED


def review(**changes: Any) -> dict[str, Any]:
    user = {
        "username": "system:serviceaccount:shop:default",
        "extra": {
            "authentication.kubernetes.io/pod-name": ["shop-db-0"],
            "authentication.kubernetes.io/pod-uid": ["uid-0"],
        },
    }
    status = {"authenticated": True, "audiences": ["sidegate-operator"], "user": {**user, **changes.pop("user", {})}}
    return {**review_of("secret"), "status": {**status, **changes}}


def test_a_good_review_names_the_pod() -> None:
    assert caller_of(review()) == Caller("shop", "shop-db-0", "uid-0")


@pytest.mark.parametrize(
    "answered",
    [
        {},
        {"status": {}},
        review(authenticated=False, error="expired"),
        review(authenticated="true"),
        review(audiences=[]),
        review(audiences=["https://kubernetes.default.svc"]),
        review(user={"username": "ann"}),
        review(user={"username": "system:serviceaccount:shop:default:more"}),
        review(user={"extra": {}}),
        review(user={"extra": {"authentication.kubernetes.io/pod-name": ["shop-db-0"]}}),
        review(
            user={
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["a", "b"],
                    "authentication.kubernetes.io/pod-uid": ["uid-0"],
                }
            }
        ),
    ],
)
def test_a_review_that_doesnt_say_so_names_nobody(answered: dict[str, Any]) -> None:
    refusal = caller_of(answered)
    assert isinstance(refusal, Refusal)
    assert refusal.kind is Kind.UNAUTHENTICATED
    assert "secret" not in refusal.detail


def pod(**changes: Any) -> dict[str, Any]:
    gate = {"name": "sidegate-gate", "restartPolicy": "Always"}
    metadata = {
        "name": "shop-db-0",
        "namespace": "shop",
        "uid": "uid-0",
        "labels": {"app": "shop-db", "sidegate.dev/target": "shop-db"},
    }
    return {
        "metadata": {**metadata, **changes.pop("metadata", {})},
        "spec": {"initContainers": [gate], **changes.pop("spec", {})},
        "status": {"phase": "Running", **changes},
    }


CALLER = Caller("shop", "shop-db-0", "uid-0")
ROUTE = Route("shop", "shop-db", Action.REPORT)
TARGET = ProtectedTarget.from_wire(target())


@pytest.mark.parametrize("seen", [pod(), pod(metadata={"deletionTimestamp": "2026-11-25T09:00:00Z"})], ids=["runs", "drains"])
def test_the_targets_own_gate_may_ask(seen: dict[str, Any]) -> None:
    assert not_its_gate(CALLER, ROUTE, seen, TARGET) is None


@pytest.mark.parametrize(
    ("caller", "seen", "of"),
    [
        (Caller("elsewhere", "shop-db-0", "uid-0"), pod(), TARGET),
        (CALLER, None, TARGET),
        (Caller("shop", "shop-db-0", "uid-of-another"), pod(), TARGET),
        (CALLER, pod(phase="Failed"), TARGET),
        (CALLER, pod(phase="Succeeded"), TARGET),
        (CALLER, pod(spec={"initContainers": []}), TARGET),
        (CALLER, pod(spec={"initContainers": [{"name": "sidegate-gate"}]}), TARGET),
        (CALLER, pod(metadata={"labels": {"app": "other-db"}}), TARGET),
        (CALLER, pod(metadata={"labels": {"app": "shop-db"}}), TARGET),
        (
            CALLER,
            pod(metadata={"ownerReferences": [{"kind": "Job", "apiVersion": "batch/v1", "name": "j", "controller": True}]}),
            TARGET,
        ),
        (CALLER, pod(), None),
        (CALLER, pod(), ProtectedTarget.from_wire(target("other-db"))),
    ],
    ids=[
        "namespace",
        "gone",
        "namesake",
        "failed",
        "succeeded",
        "gateless",
        "no-sidecar",
        "of-another",
        "never-asked-for-its-gate",
        "job",
        "no-target",
        "other",
    ],
)
def test_nobody_elses_pod_may(caller: Caller, seen: dict[str, Any] | None, of: ProtectedTarget | None) -> None:
    refusal = not_its_gate(caller, ROUTE, seen, of)
    assert refusal is not None
    assert refusal.kind is Kind.ANOTHERS


@pytest.mark.parametrize("namespace", ["kube-system", "sidegate-system"])
def test_no_gate_counts_where_admission_does_not_look(namespace: str) -> None:
    """Whoever may make pods there may call any container a gate, and have it ask in the target's name."""
    seen, of = pod(metadata={"namespace": namespace}), target()
    of["metadata"]["namespace"] = namespace
    caller, route = Caller(namespace, "shop-db-0", "uid-0"), Route(namespace, "shop-db", Action.REPORT)
    asked = (caller, route, seen, ProtectedTarget.from_wire(of))
    refusal = not_its_gate(*asked, left_out_by_admission("sidegate-system"))
    assert refusal is not None
    assert refusal.kind is Kind.ANOTHERS
    assert f"namespace `{namespace}` is left out by admission" in refusal.detail
    assert not_its_gate(*asked, left_out_by_admission("elsewhere")) is None or namespace == "kube-system"
