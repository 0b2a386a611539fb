"""Where a request stands by its decisions and the time, which ended ones go, and how many may be open."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sidegate.api.approval_request import NEXT_PHASES, ApprovalRequest, Decision, Phase, Requester, Verdict
from sidegate.api.text import Timestamp
from sidegate.gateway.pace import Pace
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
    made = {"creationTimestamp": str(Timestamp.from_epoch(changes.pop("made", NOW - 7200)))}
    changes["metadata"] = {**made, **changes.get("metadata", {})}
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


def principal(subject: str, username: str = "ann@example.com") -> dict[str, Any]:
    return {"issuer": "https://id.example", "subject": subject, "username": username}


def test_who_has_most_loses_first_and_nobody_pushes_out_anothers() -> None:
    """Whatever name they go by, and however new theirs are."""
    flood = [ended(f"ar-{n}", "Withdrawn", NOW - n, principal=principal("u-1", f"ann-{n}")) for n in range(10)]
    others = [ended(f"br-{n}", "Denied", NOW - 3000 - n, principal=principal("u-2")) for n in range(3)]
    gone = names(plan_cleanup([*flood, *others], NOW, Keeping(max_finished_per_target=8)))
    assert gone == ["ar-9", "ar-8", "ar-7", "ar-6", "ar-5"]
    assert names(plan_cleanup([*flood, *others], NOW, Keeping(max_finished_per_target=4)))[0] == "br-2"  # now they have as many


def test_of_many_who_have_as_many_the_oldest_goes() -> None:
    many = [ended(f"ar-{n}", "Denied", NOW - n, principal=principal(f"u-{n}")) for n in range(5)]
    assert names(plan_cleanup(many, NOW, Keeping(max_finished_per_target=3))) == ["ar-4", "ar-3"]


def test_what_still_counts_for_the_rate_stays_and_nobody_elses_goes_for_it() -> None:
    flood = [ended(f"ar-{n}", "Withdrawn", NOW - 10 - n, made=NOW - 20 - n) for n in range(10)]
    others = [ended(f"br-{n}", "Denied", NOW - 3000 - n, principal=principal("u-2")) for n in range(2)]
    keeping = Keeping(ttl_after_finished_s=1, max_finished_per_target=4)
    assert names(plan_cleanup([*flood, *others], NOW, Keeping(max_finished_per_target=4))) == []
    assert names(plan_cleanup(flood, NOW, keeping)) == []
    assert len(plan_cleanup(flood, NOW + keeping.counted_s, keeping)) == 10
    assert keeping.counted_s >= Quota().new_per_principal.within_s
    assert keeping.counted_s >= Quota().new_per_target.within_s


def test_it_is_looked_at_again_when_it_no_longer_counts() -> None:
    one = ended("ar-1", "Denied", NOW, made=NOW - 60)
    assert plan_lifecycle(one, NOW, is_genuine).look_again_at == NOW - 60 + Keeping().counted_s


def test_what_is_being_deleted_is_not_deleted_again() -> None:
    going = ended("ar-1", "Denied", 0.0, metadata={"deletionTimestamp": "2026-11-25T09:46:00Z"})
    assert plan_cleanup([going], NOW) == ()


# How many


QUOTA = Quota()
ANN = request().spec.principal
BOB = Requester.from_wire({"issuer": "https://id.example", "subject": "u-2", "username": "bob@example.com"})


def asked(count: int, made: float = MADE_AT, **changes: Any) -> list[ApprovalRequest]:
    """That many, each withdrawn at once."""
    times = {"creationTimestamp": str(Timestamp.from_epoch(made))}
    return [request(name=f"ar-{n}", status={"phase": "Withdrawn"}, metadata=times, **changes) for n in range(count)]


def rate(requests: list[ApprovalRequest], who: Requester = ANN, quota: Quota = QUOTA, now: float = NOW) -> OverQuota | None:
    return over_quota(requests, "shop", "shop-db", who, now, quota)


def test_asking_and_withdrawing_counts_as_asking() -> None:
    assert rate(asked(29)) is None
    refused = rate(asked(30))
    assert refused is not None
    assert refused.is_rate
    assert refused.problem == "`ann@example.com` asked for 30 approvals on `shop-db` in the last 600 s, of 30 allowed"
    assert refused.way_forward.startswith("wait 540 s;")
    assert rate(asked(30), now=MADE_AT + 599.5) is not None
    assert rate(asked(30), now=MADE_AT + 600) is None


@pytest.mark.parametrize("phase", [None, *Phase])
def test_whatever_became_of_them_they_count(phase: Phase | None) -> None:
    status = None if phase is None else {"phase": phase.value}
    seen = [request(name=f"ar-{n}", status=status) for n in range(3)]
    assert rate(seen, quota=Quota(new_per_principal=Pace(3, 600.0))) is not None


def test_no_other_name_agent_or_statement_makes_one_person_two() -> None:
    shown = {"username": "ANN@example.com", "groups": [], "sourceAddress": "10.0.0.9"}
    seen = [*asked(15), *asked(15, principal={**principal("u-1"), **shown}, agent="another", fingerprint="another-fingerprint")]
    assert rate(seen) is not None


def test_a_name_alone_uses_up_nobody_elses_rate() -> None:
    assert rate(asked(30, principal=principal("u-2", "ann@example.com"))) is None
    assert rate(asked(30, principal={**principal("u-1"), "issuer": "https://other.example"})) is None


def test_other_targets_and_namespaces_count_for_themselves() -> None:
    there = [*asked(30, target="other-db"), *(request(name=f"ar-{n}", metadata={"namespace": "other"}) for n in range(30))]
    assert rate(there) is None


def test_a_clock_that_is_behind_lets_nothing_more_through() -> None:
    assert rate(asked(30, made=NOW + 50)) is not None
    being_made = [request(name=f"ar-{n}", metadata={"creationTimestamp": None}, status=None) for n in range(3)]
    assert rate(being_made, quota=Quota(new_per_principal=Pace(3, 600.0))) is not None


def test_all_together_have_a_rate_too() -> None:
    seen = [each for n in range(8) for each in asked(25, principal=principal(f"u-{n}"))]
    refused = rate(seen, BOB)
    assert refused is not None
    assert refused.problem == "all together asked for 200 approvals on `shop-db` in the last 600 s, of 200 allowed"
    assert rate(seen[1:], Requester.from_wire(principal("u-9"))) is None


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
