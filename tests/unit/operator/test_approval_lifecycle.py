"""Where a request stands by its decisions and the time, which ended ones go, and how many may be open."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sidegate.api.approval_request import NEXT_PHASES, ApprovalRequest, Decision, Phase, Requester, Verdict
from sidegate.api.text import Timestamp
from sidegate.gateway.tally import Discount
from sidegate_operator.plan.approval_lifecycle import (
    ENDED,
    Keeping,
    OverQuota,
    Quota,
    over_quota,
    plan_cleanup,
    plan_lifecycle,
    tally,
)
from sidegate_operator.plan.conditions import ConditionType, RequestReason
from tests.unit.api.crd_rules import merged
from tests.unit.operator.approval_objects import EXPIRES_AT, MADE_AT, NOW, entry, stored_request

DANA, DORA = "dana@example.com", "dora@example.com"


def is_genuine(request: ApprovalRequest, decision: Decision) -> bool:
    return decision.signature == "c2VhbGVk"


def request(**changes: Any) -> ApprovalRequest:
    return ApprovalRequest.from_wire(stored_request(**changes))


def reasons(plan: Any) -> dict[str, str]:
    return {each.type: each.reason for each in plan.status.conditions}


R = RequestReason
SEEN: list[tuple[str, ApprovalRequest, float, Phase, RequestReason, RequestReason]] = [
    ("new", request(status=None), NOW, Phase.PENDING, R.WAITING, R.OPEN),
    ("nobody decided", request(), NOW, Phase.PENDING, R.WAITING, R.OPEN),
    ("one of two", request(required=2, decisions=[entry(DANA)]), NOW, Phase.PENDING, R.WAITING, R.OPEN),
    ("approved", request(decisions=[entry(DANA)]), NOW, Phase.APPROVED, R.APPROVED, R.USABLE),
    ("by two", request(required=2, decisions=[entry(DANA), entry(DORA)]), NOW, Phase.APPROVED, R.APPROVED, R.USABLE),
    ("denied", request(decisions=[entry(DANA, "Denied")]), NOW, Phase.DENIED, R.DENIED, R.WAS_DENIED),
    ("denied by the second", request(required=2, decisions=[entry(DANA), entry(DORA, "Denied")]), NOW, Phase.DENIED, R.DENIED, R.WAS_DENIED),
    ("nobody in time", request(), EXPIRES_AT, Phase.EXPIRED, R.UNDECIDED, R.EXPIRED),
    ("approved, too late to use", request(decisions=[entry(DANA)]), EXPIRES_AT, Phase.EXPIRED, R.APPROVED, R.EXPIRED),
    ("denied in time, seen late", request(decisions=[entry(DANA, "Denied")]), EXPIRES_AT, Phase.DENIED, R.DENIED, R.WAS_DENIED),
    ("approval not used", request(status={"phase": "Approved"}, decisions=[entry(DANA)]), EXPIRES_AT, Phase.EXPIRED, R.APPROVED, R.EXPIRED),
    ("withdrawn by the gate", request(status={"phase": "Withdrawn"}), NOW, Phase.WITHDRAWN, R.UNDECIDED, R.WITHDRAWN),
    ("used", request(status={"phase": "Executed"}, decisions=[entry(DANA)]), NOW, Phase.EXECUTED, R.APPROVED, R.EXECUTED),
    ("marked without a decision", request(status={"phase": "Approved"}), NOW, Phase.WITHDRAWN, R.UNDECIDED, R.DISBELIEVED),
    ("marked, and denied", request(status={"phase": "Approved"}, decisions=[entry(DANA, "Denied")]), NOW, Phase.WITHDRAWN, R.DENIED, R.DISBELIEVED),
]  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "now", "phase", "decided", "finished"), [each[1:] for each in SEEN], ids=[each[0] for each in SEEN]
)
def test_the_phase_follows_from_decisions_and_time(
    seen: ApprovalRequest, now: float, phase: Phase, decided: RequestReason, finished: RequestReason
) -> None:
    plan = plan_lifecycle(seen, now, is_genuine)
    assert plan.status.phase is phase
    assert reasons(plan) == {"Decided": decided.value.reason, "Finished": finished.value.reason}
    before = seen.status.phase if seen.status is not None else Phase.PENDING
    assert phase is before or phase in NEXT_PHASES[before]
    assert plan.patch is not None
    written = merged(seen.to_wire(), plan.patch)
    assert ApprovalRequest.from_wire(written).status == plan.status
    again = plan_lifecycle(ApprovalRequest.from_wire(written), now, is_genuine)
    assert (again.patch, again.news, again.status) == (None, (), plan.status)


def test_every_reason_is_reached() -> None:
    assert {each[4] for each in SEEN} | {each[5] for each in SEEN} == set(RequestReason)


COUNTED = [
    (Discount.OUT_OF_TIME, entry(DANA, at=MADE_AT - 1)),
    (Discount.OUT_OF_TIME, entry(DANA, at=EXPIRES_AT)),
    (Discount.OUT_OF_TIME, entry(DANA, at=NOW + 60)),
    (Discount.REQUESTER, entry("ann@example.com")),
    (Discount.REQUESTER, entry("oidc:ann@example.com")),
    (Discount.NOT_A_PERSON, entry("system:serviceaccount:sidegate-system:sidegate-operator")),
    (Discount.NOT_AN_APPROVER, entry(DANA, groups=["ops"])),
    (Discount.NOT_AN_APPROVER, entry(DANA, groups=[])),
    (Discount.SEAL_BROKEN, entry(DANA, signature="Zm9yZ2Vk")),
]


@pytest.mark.parametrize(("why", "made"), COUNTED, ids=[f"{n}-{each[0].value}" for n, each in enumerate(COUNTED)])
def test_a_decision_that_breaks_a_rule_does_not_count(why: Discount, made: dict[str, Any]) -> None:
    seen = request(decisions=[made])
    votes = tally(seen, NOW, is_genuine)
    assert votes.verdict is None
    assert [each[1] for each in votes.discounted] == [why]
    plan = plan_lifecycle(seen, NOW, is_genuine)
    assert plan.status.phase is Phase.PENDING
    assert plan.status.decisions == ()
    assert plan.status.approvals == "0/1"
    assert f"doesn't count ({why.value})" in plan.status.conditions[0].message


def test_one_person_under_two_names_counts_once() -> None:
    votes = tally(request(required=2, decisions=[entry(DANA), entry(f"oidc:{DANA}")]), NOW, is_genuine)
    assert votes.verdict is None
    assert [each[1] for each in votes.discounted] == [Discount.SAME_PERSON]


def test_what_comes_after_the_end_does_not_count() -> None:
    votes = tally(request(decisions=[entry(DANA), entry(DORA, "Denied")]), NOW, is_genuine)
    assert votes.verdict is Verdict.APPROVED
    assert [each[1] for each in votes.discounted] == [Discount.AFTER_THE_END]
    assert {each[0] for each in COUNTED} | {Discount.SAME_PERSON, Discount.AFTER_THE_END} == set(Discount)


def test_it_says_when_time_alone_changes_something() -> None:
    assert plan_lifecycle(request(), NOW, is_genuine).look_again_at == EXPIRES_AT
    ahead = plan_lifecycle(request(decisions=[entry(DANA, at=NOW + 60)]), NOW, is_genuine)
    assert ahead.look_again_at == NOW + 55
    assert plan_lifecycle(request(decisions=[entry(DANA, at=NOW + 60)]), NOW + 55, is_genuine).status.phase is Phase.APPROVED
    ended = plan_lifecycle(request(decisions=[entry(DANA, "Denied")]), NOW, is_genuine, Keeping(ttl_after_finished_s=60))
    assert ended.look_again_at == NOW + 60


def test_news_are_what_changed() -> None:
    first = plan_lifecycle(request(status=None), NOW, is_genuine)
    assert {each.type for each in first.news} == {"Decided", "Finished"}
    seen = ApprovalRequest.from_wire(merged(stored_request(decisions=[entry(DANA)]), {"status": first.status.to_wire()}))
    approved = plan_lifecycle(seen, NOW + 5, is_genuine)
    assert [(each.type, each.reason) for each in approved.news] == [("Decided", "Approved")]
    times = {each.type: each.last_transition_time.epoch_s for each in approved.status.conditions}
    assert times == {"Decided": NOW + 5, "Finished": NOW}


def test_an_ended_request_stays_as_it_is_when_keys_are_gone() -> None:
    ended = plan_lifecycle(request(decisions=[entry(DANA, "Denied")]), NOW, is_genuine)
    seen = ApprovalRequest.from_wire(
        merged(stored_request(decisions=[entry(DANA, "Denied")]), {"status": ended.status.to_wire()})
    )
    assert plan_lifecycle(seen, NOW + 1, lambda request, decision: False).patch is None


# What goes


def ended(name: str, phase: str, at: float | None, **changes: Any) -> ApprovalRequest:
    condition = {
        "type": ConditionType.FINISHED.value, "status": "True", "reason": "Expired", "message": "",
        "lastTransitionTime": str(Timestamp.from_epoch(at or 0)),
    }  # fmt: skip
    return request(name=name, status={"phase": phase, "conditions": [] if at is None else [condition]}, **changes)


def names(requests: tuple[ApprovalRequest, ...]) -> list[str]:
    return [str(each.metadata.name) for each in requests]


@pytest.mark.parametrize("phase", sorted(ENDED))
def test_ended_requests_go_after_their_time(phase: Phase) -> None:
    one = ended("ar-1", phase.value, NOW - 3600)
    assert names(plan_cleanup([one], NOW)) == ["ar-1"]
    assert plan_cleanup([one], NOW - 1) == ()
    assert plan_cleanup([ended("ar-1", phase.value, None)], NOW) == ()


@pytest.mark.parametrize("phase", ["Pending", "Approved"])
def test_what_is_open_never_goes(phase: str) -> None:
    assert plan_cleanup([ended("ar-1", phase, 0.0)] * 3, NOW * 2, Keeping(0, 0)) == ()
    assert plan_cleanup([request(status=None)], NOW * 2, Keeping(0, 0)) == ()


def test_the_oldest_go_when_a_target_has_too_many() -> None:
    many = [ended(f"ar-{n}", "Denied", NOW - n) for n in range(4)]
    other = ended("ar-9", "Denied", NOW - 9, target="other-db")
    assert names(plan_cleanup([*many, other], NOW, Keeping(max_finished_per_target=2))) == ["ar-3", "ar-2"]


def test_what_is_being_deleted_is_not_deleted_again() -> None:
    going = ended("ar-1", "Denied", 0.0, metadata={"deletionTimestamp": "2026-11-25T09:46:00Z"})
    assert plan_cleanup([going], NOW) == ()


# How many


ANN = request().spec.principal
BOB = Requester.from_wire({"issuer": "https://id.example", "subject": "u-2", "username": "bob@example.com"})


@pytest.mark.parametrize(
    ("who", "quota", "problem"),
    [
        (ANN, Quota(3, 9), None),
        (ANN, Quota(2, 9), "`ann@example.com` has 2 approval requests pending on `shop-db`, of 2 allowed"),
        (BOB, Quota(2, 9), None),
        (BOB, Quota(2, 2), "`shop-db` has 2 approval requests pending, of 2 allowed"),
    ],
)
def test_no_one_has_too_many_pending(who: Requester, quota: Quota, problem: str | None) -> None:
    seen = [
        request(name="ar-1"),
        request(name="ar-2", status=None),
        request(name="ar-3", status={"phase": "Denied"}),
        request(name="ar-4", target="other-db"),
        request(name="ar-5", metadata={"namespace": "other"}),
        request(name="ar-6", expiresAt=str(Timestamp.from_epoch(NOW))),
    ]
    refused = over_quota(seen, "shop", "shop-db", who, NOW, quota)
    assert (refused.problem if refused is not None else None) == problem
    if refused is not None:
        assert isinstance(refused, OverQuota)
        assert re.match("[a-z]", refused.way_forward)
        assert not refused.way_forward.endswith(".")
