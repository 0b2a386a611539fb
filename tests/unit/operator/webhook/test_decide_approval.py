"""Reviews of decisions. Who may decide has tests of its own; here: that the review's own facts are what is judged."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sidegate_operator.plan.approval import RefusalReason
from sidegate_operator.webhook.decide_approval import UNSEALED, decide, operator_account
from sidegate_operator.webhook.review import Operation, Reason, ResourceName, Review, User
from tests.support.admission import request_of

OPERATOR = operator_account("sidegate-system")
SEALED: list[bytes] = []


def seal(content: bytes) -> str:
    SEALED.append(content)
    return "c2ln"


def review(**changes: Any) -> Review:
    stored = request_of("shop")
    old = {**stored, "metadata": {**stored["metadata"], "uid": "0b9c"}, "status": {"phase": "Pending"}}
    facts: dict[str, Any] = {
        "uid": "u",
        "resource": ResourceName("approvalrequests", "v1alpha1", "sidegate.dev"),
        "subresource": "",
        "operation": Operation.UPDATE,
        "namespace": "shop",
        "name": old["metadata"]["name"],
        "user": User("dana", groups=("dba", "staff")),
        "new": {**old, "spec": {**old["spec"], "decision": "Approved", "comment": "fine"}},
        "old": old,
        "is_dry_run": False,
    }
    return Review(**{**facts, **changes})


def decided(**changes: Any) -> Any:
    return decide(review(**changes), time.time(), frozenset({OPERATOR}), seal)  # noqa: TID251 - the request is of this hour


def test_an_approval_is_stamped_sealed_and_told_to_the_audit_log() -> None:
    answer = decided()
    assert answer.refusal is None
    assert [each["op"] for each in answer.patch] == ["remove", "remove", "add"]
    entry = answer.patch[2]["value"][0]
    assert (entry["by"], entry["groups"], entry["signature"]) == ("dana", ["dba"], "c2ln")
    assert answer.audit == {"decision": "Approved", "by": "dana"}


def test_the_object_cannot_say_who_decides() -> None:
    old = review().old
    assert old is not None
    new = {**old, "spec": {**old["spec"], "decision": "Approved"}, "userInfo": {"username": "dana"}, "by": "dana"}
    answer = decided(user=User("eve"), new=new)
    assert answer.refusal is not None


def test_a_dry_run_is_not_sealed() -> None:
    SEALED.clear()
    answer = decided(is_dry_run=True)
    assert answer.patch[2]["value"][0]["signature"] == UNSEALED
    assert SEALED == []


def test_a_refusal_has_the_reason_of_the_one_who_judged() -> None:
    answer = decided(user=User("eve"))
    assert answer.refusal is not None
    assert answer.refusal.reason is RefusalReason.NOT_AN_APPROVER
    assert answer.audit == {"refused": "NotAnApprover"}


def test_an_update_that_decides_nothing_passes() -> None:
    assert decided(new=review().old).patch == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"resource": ResourceName("accesspolicies", "v1alpha1", "sidegate.dev")},
        {"resource": ResourceName("approvalrequests", "v2", "sidegate.dev")},
        {"resource": ResourceName("approvalrequests", "v1alpha1", "example.dev")},
        {"subresource": "status"},
        {"operation": Operation.CREATE},
        {"operation": Operation.DELETE},
        {"old": None},
    ],
)
def test_whatever_else_comes_is_refused(changes: dict[str, Any]) -> None:
    answer = decided(**changes)
    assert answer.refusal is not None
    assert answer.refusal.reason is Reason.NOT_OURS
