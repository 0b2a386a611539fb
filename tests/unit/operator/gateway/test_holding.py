"""New holds and what gates do with requests, as values: no approval is taken twice, or without its decisions."""

from __future__ import annotations

from typing import Any

import pytest

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.approval_request import ApprovalRequest, Decision, Phase
from sidegate.api.protected_target import ProtectedTarget
from sidegate.api.text import Timestamp
from sidegate.gateway.messages import NewHold
from sidegate.gateway.pace import Pace
from sidegate.policy.config import GateConfig, decode_config
from sidegate_operator.gateway.asking import Action, Caller, Route
from sidegate_operator.gateway.holding import Beside, is_of, is_same_hold, new_request, quota_refusal, usable
from sidegate_operator.gateway.problem import Kind, Refusal
from sidegate_operator.plan.approval_lifecycle import Quota, plan_lifecycle
from sidegate_operator.plan.approval_use import (
    Hindered,
    Obstacle,
    Write,
    outcome_at,
    plan_claim,
    plan_outcome,
    plan_withdrawal,
)
from sidegate_operator.plan.gate_config import plan_gate_config
from tests.unit.api.crd_rules import merged
from tests.unit.operator.approval_objects import EXPIRES_AT, NOW, entry, stored_request
from tests.unit.operator.snapshots import policy, target

CALLER = Caller("shop", "shop-db-0", "uid-0")
TARGET = ProtectedTarget.from_wire(target())
RULE = {
    "name": "ddl",
    "match": {"statements": {"kinds": ["DDL"]}},
    "action": "RequireApproval",
    "approval": {"approvers": {"groups": ["dba"], "users": ["dora@example.com"]}, "expiresAfter": "1h"},
}


def published() -> GateConfig:
    planned = plan_gate_config(TARGET, [AccessPolicy.from_wire(policy(rules=[RULE]))], "")
    assert planned.config_map is not None
    return decode_config(planned.config_map["data"]["gate.json"].encode())


CONFIG = published()
BESIDE = Beside(TARGET, CONFIG, ())


def hold(**changes: Any) -> NewHold:
    spec = {
        "target": "shop-db",
        "principal": {"issuer": "https://id.example", "subject": "u-1", "username": "ann@example.com"},
        "statement": "DROP TABLE prod.ledger",
        "fingerprint": "0123456789abcdef0123456789abcdef",
        "rule": {"namespace": "shop", "policy": "readers", "name": "ddl"},
        "approvers": {"groups": ["dba"], "users": ["dora@example.com"]},
        "expiresAt": str(Timestamp.from_epoch(NOW + 3000)),
        **changes.pop("spec", {}),
    }
    given = {"name": "ar-1", "hold_until": str(Timestamp.from_epoch(NOW + 60)), **changes}
    return NewHold(spec={name: value for name, value in spec.items() if value is not None}, **given)


def made(asked: NewHold | None = None) -> ApprovalRequest:
    request = new_request(asked or hold(), CALLER, BESIDE, NOW)
    assert isinstance(request, ApprovalRequest), request
    return request


def test_a_hold_becomes_a_request_of_its_target() -> None:
    wire: dict[str, Any] = made().to_wire()
    assert wire["metadata"]["namespace"] == "shop"
    assert wire["metadata"]["ownerReferences"][0]["uid"] == "uid-shop-db"
    assert wire["metadata"]["labels"]["sidegate.dev/target"] == "shop-db"
    assert wire["metadata"]["annotations"]["sidegate.dev/gate-pod-uid"] == "uid-0"
    assert "status" not in wire


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spec": {"decision": "Approved"}}, "decision"),
        ({"spec": {"decisions": []}}, "decision"),
        ({"spec": {"comment": "please"}}, "decision"),
        ({"spec": {"target": "other-db"}}, "other-db"),
        ({"spec": {"rule": {"namespace": "elsewhere", "policy": "readers", "name": "ddl"}}}, "namespace"),
        ({"spec": {"rule": {"namespace": "shop", "policy": "others", "name": "ddl"}}}, "no approvals"),
        ({"spec": {"rule": {"namespace": "shop", "policy": "readers", "name": "other"}}}, "no approvals"),
        ({"spec": {"approvers": {"groups": ["dba", "everybody"], "users": ["dora@example.com"]}}}, "approvers"),
        ({"spec": {"approvers": {"groups": ["dba"]}}}, "approvers"),
        ({"spec": {"required": 2}}, "approvers"),
        ({"spec": {"expiresAt": str(Timestamp.from_epoch(NOW - 1))}}, "expire"),
        ({"spec": {"expiresAt": str(Timestamp.from_epoch(NOW + 4000))}}, "expire"),
        ({"spec": {"statement": None}}, "statement"),
        ({"spec": {"unknown": 1}}, "unknown"),
        ({"name": "AR_1"}, "name"),
        ({"hold_until": "tomorrow"}, "moment"),
    ],
)
def test_what_cant_be_is_refused_with_the_reason(changes: dict[str, Any], words: str) -> None:
    refusal = new_request(hold(**changes), CALLER, BESIDE, NOW)
    assert isinstance(refusal, Refusal)
    assert (refusal.kind, words in refusal.detail, bool(refusal.way_forward)) == (Kind.UNUSABLE, True, True), refusal


def test_without_published_rules_nothing_is_held() -> None:
    assert isinstance(new_request(hold(), CALLER, Beside(TARGET, None, ()), NOW), Refusal)


def test_a_refusal_quotes_nothing_of_the_statement() -> None:
    refusal = new_request(hold(spec={"statement": ["SECRET"]}), CALLER, BESIDE, NOW)
    assert isinstance(refusal, Refusal)
    assert "SECRET" not in refusal.detail


def test_those_that_are_being_made_count_towards_the_quota() -> None:
    beside = Beside(TARGET, CONFIG, [made(), made(hold(name="ar-2"))], Quota(max_pending_per_principal=2))
    refusal = quota_refusal(made(hold(name="ar-3")), beside, NOW)
    assert refusal is not None
    assert refusal.kind is Kind.OVER_QUOTA
    assert quota_refusal(made(), Beside(TARGET, CONFIG, [made()], Quota(max_pending_per_principal=2)), NOW) is None


def test_asking_too_often_is_told_apart_from_having_too_many_pending() -> None:
    quota = Quota(new_per_principal=Pace(2, 600.0))
    refusal = quota_refusal(made(hold(name="ar-3")), Beside(TARGET, CONFIG, [made(), made(hold(name="ar-2"))], quota), NOW)
    assert refusal is not None
    assert (refusal.kind, refusal.kind.status, "wait 600 s" in refusal.way_forward) == (Kind.TOO_OFTEN, 429, True)
    assert not refusal.kind.may_be_asked_again  # by the gate: it would hold the statement up for nothing


def test_a_hold_is_the_same_whatever_became_of_it_and_no_other_is() -> None:
    wanted = made()
    stored: dict[str, Any] = {**wanted.to_wire(), "status": {"phase": "Denied"}}
    stored["spec"] = {**stored["spec"], "decisions": [entry("dora@example.com", "Denied")]}
    assert is_same_hold(ApprovalRequest.from_wire(stored), wanted)
    assert not is_same_hold(wanted, made(hold(spec={"statement": "DROP TABLE prod.other"})))
    other = new_request(hold(), Caller("shop", "shop-db-1", "uid-1"), BESIDE, NOW)
    assert isinstance(other, ApprovalRequest)
    assert not is_same_hold(wanted, other)


def test_a_gate_sees_requests_of_its_own_target_alone() -> None:
    route = Route("shop", "shop-db", Action.LOOK, "ar-1")
    assert is_of(stored_request(), route)
    assert not is_of(stored_request(target="other-db"), route)
    assert not is_of(None, route)


def request(**changes: Any) -> ApprovalRequest:
    return ApprovalRequest.from_wire(stored_request(**changes))


def test_usable_are_the_open_ones_of_this_very_request_the_newest_first() -> None:
    query = {"fingerprint": "0123456789abcdef0123456789abcdef", "issuer": "https://id.example", "subject": "u-1"}
    route = Route("shop", "shop-db", Action.FIND_HOLDS, query=query)
    older = ApprovalRequest.from_wire(stored_request("ar-2", metadata={"creationTimestamp": "2026-11-25T09:00:00Z"}))
    everyone = [
        older,
        request(),
        request(status={"phase": "Denied"}),
        request(target="other-db"),
        request(fingerprint="another-fingerprint"),
        request(principal={"issuer": "https://id.example", "subject": "u-2", "username": "ann@example.com"}),
        request(expiresAt=str(Timestamp.from_epoch(NOW))),
        request(metadata={"deletionTimestamp": "2026-11-25T09:00:00Z"}),
    ]
    assert [str(each.metadata.name) for each in usable(everyone, route, NOW)] == ["ar-1", "ar-2"]


# What becomes of them


def is_genuine(_: ApprovalRequest, decision: Decision) -> bool:
    return decision.signature == "c2VhbGVk"


APPROVED = [entry("dora@example.com", at=NOW - 1)]


def test_an_approval_is_taken_once() -> None:
    seen = request(decisions=APPROVED, status={"phase": "Approved"})
    write = plan_claim(seen, NOW, is_genuine)
    assert isinstance(write, Write)
    after = ApprovalRequest.from_wire(merged(seen.to_wire(), write.patch))
    assert after.status is not None
    assert after.status.phase is Phase.EXECUTED
    assert {each.reason for each in after.status.conditions} == {"Approved", "Executed"}
    assert plan_lifecycle(after, NOW, is_genuine).patch is None  # the leader has nothing to add
    again = plan_claim(after, NOW, is_genuine)
    assert isinstance(again, Hindered)
    assert again.obstacle is Obstacle.NOTHING_TO_TAKE


def test_where_nobody_leads_the_phase_is_moved_on_first() -> None:
    """Phases move one by one: the API server refuses Pending to Executed."""
    seen = request(decisions=APPROVED)
    first = plan_claim(seen, NOW, is_genuine)
    assert isinstance(first, Write)
    assert not first.is_last
    approved = ApprovalRequest.from_wire(merged(seen.to_wire(), first.patch))
    assert approved.status is not None
    assert approved.status.phase is Phase.APPROVED
    assert isinstance(plan_claim(approved, NOW, is_genuine), Write)


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({}, NOW),
        ({"status": {"phase": "Approved"}}, NOW),
        ({"decisions": APPROVED}, EXPIRES_AT),
        ({"decisions": APPROVED, "required": 2}, NOW),
        ({"decisions": [entry("dora@example.com", "Denied", NOW - 1)]}, NOW),
        ({"decisions": [entry("dora@example.com", at=NOW - 1, signature="Zm9yZ2Vk")], "status": {"phase": "Approved"}}, NOW),
        ({"decisions": [entry("ann@example.com", at=NOW - 1)], "status": {"phase": "Approved"}}, NOW),
        ({"decisions": APPROVED, "status": {"phase": "Denied"}}, NOW),
        ({"decisions": APPROVED, "status": {"phase": "Withdrawn"}}, NOW),
        ({"decisions": APPROVED, "status": {"phase": "Expired"}}, NOW),
        ({"decisions": APPROVED, "status": {"phase": "Executed"}}, NOW),
    ],
    ids=["pending", "forged-phase", "late", "one-of-two", "denied", "seal", "self", "ended", "withdrawn", "expired", "executed"],
)
def test_nothing_else_is_taken(changes: dict[str, Any], at: float) -> None:
    assert isinstance(plan_claim(request(**changes), at, is_genuine), Hindered)


@pytest.mark.parametrize("phase", ["Pending", "Approved"])
def test_what_is_open_can_be_withdrawn_and_says_why(phase: str) -> None:
    seen = request(decisions=APPROVED if phase == "Approved" else [], status={"phase": phase})
    write = plan_withdrawal(seen, "the client left", NOW, is_genuine)
    assert isinstance(write, Write)
    after = ApprovalRequest.from_wire(merged(seen.to_wire(), write.patch))
    assert after.status is not None
    assert after.status.phase is Phase.WITHDRAWN
    (finished,) = (each for each in after.status.conditions if each.type == "Finished")
    assert (finished.reason, finished.message) == ("Withdrawn", "nobody wants it any more: the client left")
    assert plan_lifecycle(after, NOW, is_genuine).patch is None
    assert isinstance(plan_withdrawal(after, "again", NOW, is_genuine), Hindered)


def test_an_outcome_is_told_once_of_what_was_executed() -> None:
    outcome = outcome_at("Succeeded", 3, None, None, NOW)
    assert isinstance(plan_outcome(request(status={"phase": "Approved"}), outcome), Hindered)
    seen = request(status={"phase": "Executed"})
    write = plan_outcome(seen, outcome)
    assert isinstance(write, Write)
    after = ApprovalRequest.from_wire(merged(seen.to_wire(), write.patch))
    assert isinstance(plan_outcome(after, outcome), Hindered)


@pytest.mark.parametrize("told", [("Done", 1, None), ("Failed", None, "123"), ("Failed", -1, None)])
def test_an_outcome_that_cant_be_is_none(told: tuple[str, int | None, str | None]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        outcome_at(*told, None, NOW)
