"""No sequence of updates by anyone but listed approvers ends Approved, and no decision is lost: admission and lifecycle, played together."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.api.approval_request import NEXT_PHASES, ApprovalRequest, Decision, Phase
from sidegate_operator.plan.approval import Decider, Refused, Stamped, Undecided, judge_update, sealed
from sidegate_operator.plan.approval_lifecycle import Keeping, plan_cleanup, plan_lifecycle
from tests.unit.api.crd_rules import merged
from tests.unit.operator.approval_objects import EXPIRES_AT, NOW, OPERATOR, OPERATORS, entry, stored_request

APPROVERS = [
    Decider("dana@example.com", frozenset({"dba"})),
    Decider("dora@example.com"),
    Decider("dan", frozenset({"dba", "x"})),
]
OTHERS = [
    Decider("eve", frozenset({"system:masters", "DBA"})),
    Decider("ann@example.com", frozenset({"dba", "system:masters"})),
    Decider("oidc:Ann@example.com", frozenset({"dba"})),
    Decider("cursor", frozenset({"dba"})),
    Decider("system:admin", frozenset({"dba"})),
    Decider(OPERATOR, frozenset({"dba"})),
    Decider(" dana@example.com", frozenset({"dba"})),
]


def seal(data: bytes) -> str:
    return f"{hash(data):x}".replace("-", "m")


def is_genuine(request: ApprovalRequest, decision: Decision) -> bool:
    return decision.signature == seal(sealed(request, decision))


VERDICTS = st.sampled_from(["Approved", "Denied", "approved", "", None, 1])
FORGED = st.sampled_from(["dana@example.com", "dora@example.com", "dan"]).map(lambda by: entry(by))
CHANGES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({"spec": st.fixed_dictionaries({"decision": VERDICTS})}),
    st.fixed_dictionaries({"spec": st.fixed_dictionaries({"decision": st.just("Approved"), "comment": st.text(max_size=3)})}),
    st.fixed_dictionaries({"spec": st.fixed_dictionaries({"decisions": st.lists(FORGED, max_size=2)})}),
    st.fixed_dictionaries(
        {"spec": st.fixed_dictionaries({"decision": st.just("Approved"), "decisions": st.lists(FORGED, max_size=2)})}
    ),
    st.just({"spec": {"decision": "Approved", "required": 1}}),
    st.just({"spec": {"approvers": {"users": ["eve", "ann@example.com"]}}}),
    st.just({"spec": {"principal": {"username": "nobody"}, "decision": "Approved"}}),
    st.just({"status": {"phase": "Approved"}}),
    st.just({"metadata": {"labels": {"a": "b"}}}),
)
STEPS = st.lists(st.tuples(st.sampled_from([*APPROVERS, *OTHERS]), CHANGES, st.integers(0, 900)), max_size=8)


@given(st.integers(1, 3), STEPS)
@settings(max_examples=150)
def test_only_enough_listed_approvers_approve(required: int, steps: list[tuple[Decider, dict[str, Any], int]]) -> None:
    stored, now = stored_request(required=required), NOW
    said: dict[str, str] = {}
    for who, change, wait in steps:
        now += wait
        new = merged(stored, change)
        judged = judge_update(stored, new, who, now, OPERATORS, seal)
        if isinstance(judged, Stamped):
            assert who in APPROVERS
            assert who.username not in said
            said[who.username] = judged.decision.decision.value
            stored = judged.stamped
        elif isinstance(judged, Undecided):
            assert new["spec"] == stored["spec"]
            stored = {**new, "status": stored.get("status")}
        else:
            assert isinstance(judged, Refused)
        request = ApprovalRequest.from_wire(stored)
        plan = plan_lifecycle(request, now, is_genuine)
        before = request.status.phase if request.status is not None else Phase.PENDING
        assert plan.status.phase is before or plan.status.phase in NEXT_PHASES[before]
        if plan.status.phase is Phase.APPROVED:
            assert list(said.values()).count("Approved") >= required
            assert "Denied" not in said.values()
            assert now < EXPIRES_AT
        stored = merged(stored, plan.patch or {})
        again = plan_lifecycle(ApprovalRequest.from_wire(stored), now, is_genuine)
        assert again.patch is None
        assert again.status == plan.status


FORGERIES = st.one_of(
    st.builds(lambda by, at: entry(by, at=NOW + at), st.sampled_from([*(each.username for each in [*APPROVERS, *OTHERS[:6]])]), st.integers(-900, 9000)),
)  # fmt: skip


@given(st.lists(FORGERIES, max_size=5, unique_by=lambda each: each["by"]), st.sampled_from(list(Phase)), st.integers(0, 9000))
def test_what_is_written_past_admission_never_becomes_an_approval(forged: list[dict[str, Any]], phase: Phase, wait: int) -> None:
    """Someone with write access to the store writes decisions and phases as they like, and can't make a seal."""
    stored = stored_request(decisions=forged, status={"phase": phase.value})
    plan = plan_lifecycle(ApprovalRequest.from_wire(stored), NOW + wait, is_genuine)
    assert plan.status.phase is not Phase.APPROVED
    assert plan.status.decisions == ()


@given(
    st.lists(st.tuples(st.sampled_from([None, *Phase]), st.integers(0, 3)), max_size=12), st.integers(0, 10**6), st.integers(0, 3)
)
def test_nothing_open_is_ever_deleted(seen: list[tuple[Phase | None, int]], wait: int, most: int) -> None:
    requests = []
    for number, (phase, target) in enumerate(seen):
        wire = stored_request(f"ar-{number}", target=f"db-{target}", status=None if phase is None else {"phase": phase.value})
        request = ApprovalRequest.from_wire(copy.deepcopy(wire))
        plan = plan_lifecycle(request, NOW, is_genuine) if phase is not Phase.APPROVED else None
        requests.append(request if plan is None else ApprovalRequest.from_wire(merged(wire, plan.patch or {})))
    keeping = Keeping(ttl_after_finished_s=1000, max_finished_per_target=most)
    gone = plan_cleanup(requests, NOW + wait, keeping)
    assert all(each.status is not None and each.status.phase not in {Phase.PENDING, Phase.APPROVED} for each in gone)
    kept = [each for each in requests if each not in gone and each.status is not None]
    for target in range(4):
        ended = [
            e
            for e in kept
            if e.spec.target == f"db-{target}" and e.status and e.status.phase in NEXT_PHASES and not NEXT_PHASES[e.status.phase]
        ]
        counting = [
            e for e in ended if (e.metadata.creation_timestamp or e.spec.expires_at).epoch_s + keeping.counted_s > NOW + wait
        ]
        assert len(ended) <= max(most, len(counting))
