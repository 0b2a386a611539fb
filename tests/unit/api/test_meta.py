"""The strict model: names on the wire, types, round trips, selectors, updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from sidegate.api.access_policy import AccessPolicy, Approval, Approvers, Window
from sidegate.api.approval_request import ApprovalRequest, Phase, Verdict
from sidegate.api.issuer import Issuer
from sidegate.api.meta import LabelSelector, ObjectMeta, change_problems
from sidegate.api.protected_target import Recording
from sidegate.api.text import Days, Label, ObjectName, TimeOfDay, TimeZoneName

REQUEST: dict[str, Any] = {
    "apiVersion": "sidegate.dev/v1alpha1",
    "kind": "ApprovalRequest",
    "metadata": {"name": "shop-db-7f3a", "namespace": "shop"},
    "spec": {
        "target": "shop-db",
        "principal": {"issuer": "https://id.example.com", "subject": "u-1", "username": "ann@example.com"},
        "statement": "DELETE FROM orders WHERE id < 5000",
        "fingerprint": "0123456789abcdef0123456789abcdef",
        "rule": {"namespace": "shop", "policy": "ai-assistants", "name": "big-deletes"},
        "approvers": {"groups": ["dba"]},
        "required": 1,
        "expiresAt": "2026-11-24T09:00:00Z",
        "impact": {
            "rows": 4999,
            "tables": [{"relation": "public.orders", "inserted": 0, "updated": 0, "deleted": 4999}],
            "isTruncation": False,
        },
        "decision": "Approved",
        "comment": "as agreed",
    },
    "status": {
        "phase": "Executed",
        "decisions": [
            {
                "by": "bob@example.com",
                "groups": ["dba"],
                "decision": "Approved",
                "at": "2026-11-24T08:10:00Z",
                "comment": "as agreed",
            }
        ],
        "outcome": {"result": "Succeeded", "at": "2026-11-24T08:10:01Z", "rows": 4999},
    },
}


def test_a_request_comes_back_from_the_wire_as_it_went() -> None:
    request = ApprovalRequest.from_wire(REQUEST)
    assert request.to_wire() == REQUEST
    assert ApprovalRequest.from_wire(request.to_wire()) == request
    assert request.status is not None
    assert request.status.phase is Phase.EXECUTED
    assert request.spec.decision is Verdict.APPROVED


def test_a_decision_is_an_update_of_a_frozen_request() -> None:
    pending = ApprovalRequest.from_wire(
        {**REQUEST, "status": {"phase": "Pending"}, "spec": {**REQUEST["spec"], "decision": "Denied"}}
    )
    with pytest.raises(ValidationError):
        pending.spec.decision = Verdict.APPROVED  # type: ignore[misc]
    changed = pending.model_copy(update={"spec": pending.spec.model_copy(update={"decision": Verdict.APPROVED})})
    assert [each.field_path for each in change_problems(pending, changed)] == ["spec.decision"]
    with pytest.raises(TypeError):
        change_problems(pending, pending.spec)


def test_python_code_builds_by_field_names_and_writes_wire_names() -> None:
    window = Window(days=(Days("Mon"),), from_=TimeOfDay("08:00"), to=TimeOfDay("18:00"), time_zone=TimeZoneName("UTC"))
    assert window.to_wire() == {"days": ["Mon"], "from": "08:00", "to": "18:00", "timeZone": "UTC"}
    assert Approval(approvers=Approvers(users=(Label("ann"),))).to_wire() == {
        "approvers": {"users": ["ann"]}, "required": 1, "expiresAfter": "1h", "holdAt": "Statement",
    }  # fmt: skip


@pytest.mark.parametrize(
    "patch",
    [{"generate_name": "x"}, {"resource_version": "1"}, {"unknown": 1}, {"generation": "1"}, {"generation": 1.0}, {"generation": True}, {"labels": {"a": 1}}],
)  # fmt: skip
def test_the_wire_is_read_by_its_own_names_and_types_alone(patch: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ObjectMeta.from_wire({"name": "x", **patch})


def test_fields_of_the_api_server_are_taken() -> None:
    ObjectMeta.from_wire(
        {
            "name": "x",
            "uid": "1",
            "resourceVersion": "1",
            "generation": 3,
            "creationTimestamp": "2026-11-24T08:00:00Z",
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "1"}],
            "finalizers": ["sidegate.dev/enforcement"],
        }
    )


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        ({"matchLabels": {"app": "shop"}}, {"app": "shop", "x": "y"}, True),
        ({"matchLabels": {"app": "shop", "tier": "db"}}, {"app": "shop"}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]}, {"app": "b"}, True),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]}, {}, False),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]}, {}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]}, {"app": "a"}, False),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, {"app": ""}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, {"app": ""}, False),
        ({"matchLabels": {"app": "shop"}, "matchExpressions": [{"key": "old", "operator": "DoesNotExist"}]}, {"app": "shop"}, True),
        ({"matchLabels": {"app": "shop"}, "matchExpressions": [{"key": "old", "operator": "DoesNotExist"}]}, {"app": "shop", "old": "1"}, False),
    ],
)  # fmt: skip
def test_a_selector_matches_as_kubernetes_own_does(selector: dict[str, Any], labels: dict[str, str], matches: bool) -> None:
    assert LabelSelector.from_wire(selector).matches(labels) is matches


@pytest.mark.parametrize(
    ("jwks", "problem"),
    [
        ("{", "neither `Discovery` nor JSON"),
        ("[]", "not a JWK Set"),
        ('{"keys": []}', "not a JWK Set"),
        ('{"keys": ["a"]}', "not a JWK Set"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "a private or a shared key"),
        ('{"keys": [{"kty": "RSA", "n": "AQ", "e": "AQAB", "d": "AQ"}]}', "a private or a shared key"),
    ],
)
def test_keys_given_in_the_manifest_are_public_ones(jwks: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Issuer.from_wire({"url": "https://id.example.com", "audiences": ["a"], "jwks": jwks})


def test_keys_are_discovered_unless_they_are_given() -> None:
    base = {"url": "https://id.example.com", "audiences": ["a"]}
    assert Issuer.from_wire(base).inline_jwks is None
    given = '{"keys": [{"kty": "RSA", "n": "AQ", "e": "AQAB"}]}'
    assert Issuer.from_wire({**base, "jwks": given}).inline_jwks == given


@pytest.mark.parametrize("algorithm", ["none", "HS256", "HS512", "rs256"])
def test_no_issuer_can_be_given_an_algorithm_that_signs_with_a_shared_secret(algorithm: str) -> None:
    with pytest.raises(ValidationError):
        Issuer.from_wire({"url": "https://id.example.com", "audiences": ["a"], "algorithms": [algorithm]})


def test_retention_is_counted_in_days() -> None:
    assert Recording.from_wire({"retention": "30d"}).retention_days == 30


def test_defaults_protect() -> None:
    target = Recording.from_wire({})
    assert target.mode.value == "Required"
    policy = AccessPolicy.from_wire(
        {
            "apiVersion": "sidegate.dev/v1alpha1",
            "kind": "AccessPolicy",
            "metadata": {"name": "p"},
            "spec": {
                "targets": {"names": ["x"]},
                "subjects": [{"users": ["ann"]}],
                "rules": [{"name": "m", "action": "Mask", "match": {"columns": ["ssn"]}, "mask": {}}],
            },
        }
    )
    assert policy.spec.mode.value == "Enforce"
    assert policy.spec.rules[0].mask is not None
    assert policy.spec.rules[0].mask.use.value == "Refused"
    assert policy.spec.targets.names == (ObjectName("x"),)
