"""The status of targets and policies: every reason, whom it blames, and that nothing moves by itself."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from sidegate.api.access_policy import AccessPolicy, FindingSeverity
from sidegate.api.meta import MAX_BOUND, Condition, ConditionStatus
from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.finding import Finding
from sidegate_operator.plan.conditions import (
    MAX_MESSAGE,
    Observed,
    PolicyReason,
    RequestReason,
    TargetReason,
    conditions_after,
    merge_patch,
    transitions,
)
from sidegate_operator.plan.status import (
    MAX_FINDINGS,
    GateState,
    PolicyReport,
    Probe,
    TargetFacts,
    policy_status,
    status_patch,
    target_status,
)
from tests.unit.api.crd_rules import merged
from tests.unit.operator.snapshots import NOW, policy, target

T, F, U = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
REVISION = "r2"
TARGET = ProtectedTarget.from_wire(target())
OF_TARGET = Finding(FindingSeverity.ERROR, "ProtectedTarget/shop/shop-db", "spec.tls", "its TLS is odd", "mend it")
OF_POLICY = Finding(
    FindingSeverity.ERROR, "AccessPolicy/shop/readers", "spec.grants[0]", "role `nobody` isn't there", "name another"
)


def gate(name: str = "shop-db-0", revision: str | None = REVISION, *, is_late: bool = False) -> GateState:
    return GateState(name, True, revision, is_late)


R = TargetReason
GOOD = TargetFacts(policies=("readers",), revision=REVISION, gates=(gate(),), probe=Probe())
TARGETS: list[tuple[TargetFacts, tuple[TargetReason, ...], str]] = [
    (GOOD, (R.ACCEPTED, R.COMPILED, R.SYNCED, R.DOORS_CLOSED, R.READY), "no way into the target but the gate"),
    (dataclasses.replace(GOOD, unguarded=""), (R.ACCEPTED, R.COMPILED, R.SYNCED, R.DOORS_CLOSED, R.GUARDED, R.READY), "can be held"),
    (dataclasses.replace(GOOD, unguarded="it is missing"), (R.ACCEPTED, R.COMPILED, R.SYNCED, R.DOORS_CLOSED, R.UNGUARDED, R.NOT_GUARDED), "it is missing"),
    (dataclasses.replace(GOOD, probe=None), (R.ACCEPTED, R.COMPILED, R.SYNCED, R.NOT_PROBED, R.READY_UNPROBED), "`sidegate doctor`"),
    (dataclasses.replace(GOOD, probe=Probe(("5433 answers",))), (R.ACCEPTED, R.COMPILED, R.SYNCED, R.DOORS_OPEN, R.NOT_ENFORCED), "5433 answers"),
    (
        dataclasses.replace(GOOD, probe=Probe(unclear=("5432 is starting up",))),
        (R.ACCEPTED, R.COMPILED, R.SYNCED, R.PROBE_UNCLEAR, R.READY_UNPROBED),
        "5432 is starting up",
    ),
    (
        dataclasses.replace(GOOD, probe=Probe(("5433 answers",), ("5432 is starting up",))),
        (R.ACCEPTED, R.COMPILED, R.SYNCED, R.DOORS_OPEN, R.NOT_ENFORCED),
        "5433 answers",
    ),
    (
        dataclasses.replace(GOOD, pods_without_gate=("shop-db-1",)),
        (R.ACCEPTED, R.COMPILED, R.SYNCED, R.PODS_WITHOUT_GATE, R.NOT_ENFORCED),
        "`shop-db-1`; fix: have them made again",
    ),
    (
        dataclasses.replace(GOOD, pods_not_redirected=("shop-db-1",)),
        (R.ACCEPTED, R.COMPILED, R.SYNCED, R.PODS_NOT_REDIRECTED, R.NOT_ENFORCED),
        "`shop-db-1`; fix: have them made again",
    ),
    (
        dataclasses.replace(GOOD, unselected_pods=("shop-db-1",)),
        (R.ACCEPTED, R.COMPILED, R.SYNCED, R.PODS_NOT_SELECTED, R.NOT_ENFORCED),
        "`shop-db-1`; fix: put the labels of spec.selector back",
    ),
    (TargetFacts(revision=REVISION), (R.ACCEPTED, R.COMPILED, R.NO_GATES, R.NO_PODS, R.WAITING), "no gate that could enforce"),
    (TargetFacts(errors=(OF_POLICY,)), (R.ACCEPTED, R.POLICY_INVALID, R.NOT_PUBLISHED, R.NO_PODS, R.NOT_COMPILED), "gates refuse everything"),
    (
        dataclasses.replace(GOOD, errors=(OF_POLICY, OF_POLICY)),
        (R.ACCEPTED, R.POLICY_INVALID, R.SYNCED, R.DOORS_CLOSED, R.NOT_COMPILED),
        "the rules of revision r2 stay in force, and no change since; AccessPolicy/shop/readers: spec.grants[0]: role `nobody` isn't there; "
        "fix: name another (and 1 more)",
    ),
    (
        dataclasses.replace(GOOD, errors=(OF_POLICY, OF_TARGET)),
        (R.INVALID, R.TARGET_INVALID, R.SYNCED, R.DOORS_CLOSED, R.NOT_ACCEPTED),
        "spec.tls: its TLS is odd; fix: mend it",
    ),
    (
        dataclasses.replace(GOOD, errors=(OF_TARGET,), is_too_large=True),
        (R.ACCEPTED, R.CONFIG_TOO_LARGE, R.SYNCED, R.DOORS_CLOSED, R.NOT_COMPILED),
        "doesn't fit into a ConfigMap: the rules of revision r2 stay in force",
    ),
    (
        dataclasses.replace(GOOD, gates=(gate(), gate("shop-db-1", "r1"))),
        (R.ACCEPTED, R.COMPILED, R.PROGRESSING, R.DOORS_CLOSED, R.NOT_SYNCED),
        "1 of 2 enforce it",
    ),
    (
        dataclasses.replace(GOOD, gates=(gate(), gate("shop-db-1", None, is_late=True))),
        (R.ACCEPTED, R.COMPILED, R.GATES_LATE, R.DOORS_CLOSED, R.NOT_SYNCED),
        "`shop-db-1`; fix: see what the gate in these pods logs",
    ),
    (
        dataclasses.replace(GOOD, silent_pods=("shop-db-1",), pods_without_gate=("shop-db-1",)),
        (R.PODS_DONT_ASK, R.COMPILED, R.SYNCED, R.PODS_WITHOUT_GATE, R.NOT_ACCEPTED),
        "`sidegate.dev/target: shop-db`",
    ),
    (
        dataclasses.replace(GOOD, shared_pods={"shop-db-0": "other"}),
        (R.SELECTORS_OVERLAP, R.COMPILED, R.SYNCED, R.DOORS_CLOSED, R.NOT_ACCEPTED),
        "`shop-db-0` is of `other` too",
    ),
]  # fmt: skip


def rows(conditions: tuple[Condition, ...]) -> list[tuple[str, str, str]]:
    return [(each.type, each.status.value, each.reason) for each in conditions]


def wanted(reasons: tuple[Any, ...]) -> list[tuple[str, str, str]]:
    return [(each.value.type.value, each.value.status.value, each.value.reason) for each in reasons]


@pytest.mark.parametrize(("facts", "reasons", "text"), TARGETS, ids=[each[1][-1].name + str(n) for n, each in enumerate(TARGETS)])
def test_a_targets_conditions_follow_from_what_is_seen(facts: TargetFacts, reasons: tuple[TargetReason, ...], text: str) -> None:
    status = target_status(TARGET, facts, NOW)
    assert rows(status.conditions) == wanted(reasons)
    assert any(text in each.message for each in status.conditions)
    read_well(status.conditions)
    ready = status.conditions[-1].status
    assert ready is not T or all(each.status is not F for each in status.conditions)
    patch = status_patch(TARGET, status)
    assert patch is not None
    seen = ProtectedTarget.from_wire(merged(target(), patch))
    assert seen.status == status
    again = target_status(seen, facts, NOW + 100)
    assert again == status
    assert status_patch(seen, again) is None


def read_well(conditions: tuple[Condition, ...]) -> None:
    for each in conditions:
        assert each.observed_generation == 1
        assert re.match(r"[a-z]", each.message), each.message
        assert not each.message.endswith(".")
        assert ": fix" not in each.message
        assert each.message.isprintable()


def test_every_reason_of_a_target_is_reached() -> None:
    assert {reason for _, reasons, _ in TARGETS for reason in reasons} == set(TargetReason)


def test_gates_are_counted() -> None:
    gates = (gate(), gate("b", "r1"), GateState("c", False, None))
    status = target_status(TARGET, TargetFacts(revision=REVISION, gates=gates, pods_without_gate=("d",)), NOW)
    assert status.gates is not None
    assert status.gates.to_wire() == {"ready": 2, "synced": 1, "total": 4, "summary": "1/4"}


def test_no_gate_is_synced_to_nothing() -> None:
    status = target_status(TARGET, TargetFacts(gates=(gate(revision=None),)), NOW)
    assert status.gates is not None
    assert status.gates.synced == 0


def test_lists_are_bounded_and_counted() -> None:
    names = tuple(f"p{n:03}" for n in range(300))
    status = target_status(
        TARGET, TargetFacts(policies=names, pods_without_gate=names, shared_pods=dict.fromkeys(names, "x")), NOW
    )
    assert (status.policies, status.policies_count) == (names[:MAX_BOUND], 300)
    assert (status.pods_without_gate, status.pods_without_gate_count) == (names[:MAX_BOUND], 300)
    assert all(len(each.message) < 1024 for each in status.conditions)
    assert "and 292 more" in status.conditions[0].message


# Policies


def report(name: str = "shop-db", **changes: Any) -> PolicyReport:
    return dataclasses.replace(PolicyReport(name, is_compiled=True, is_blamed=False, synced=T, enforced=T), **changes)


P = PolicyReason
OBSERVE = {"mode": "Observe"}
BAD = report(is_compiled=False, is_blamed=True, findings=(OF_POLICY,))
POLICIES: list[tuple[dict[str, Any], list[PolicyReport], tuple[PolicyReason, ...], str]] = [
    ({}, [report()], (P.ACCEPTED, P.COMPILED, P.SYNCED, P.ENFORCED, P.READY), "no way into its targets"),
    ({}, [report(), report("b", enforced=U)], (P.ACCEPTED, P.COMPILED, P.SYNCED, P.NOT_PROBED, P.READY_UNPROBED), "not probed"),
    ({}, [report(), report("b", enforced=F)], (P.ACCEPTED, P.COMPILED, P.SYNCED, P.TARGET_NOT_ENFORCED, P.NOT_ENFORCED), "`b`; fix: see condition"),
    (OBSERVE, [report(enforced=F)], (P.ACCEPTED, P.COMPILED, P.SYNCED, P.OBSERVE_ONLY, P.READY_OBSERVING), "only observes"),
    ({}, [report(synced=F)], (P.ACCEPTED, P.COMPILED, P.PROGRESSING, P.ENFORCED, P.NOT_SYNCED), "`shop-db`"),
    ({}, [report(synced=U)], (P.ACCEPTED, P.COMPILED, P.NO_GATES, P.ENFORCED, P.WAITING), "no gate"),
    ({}, [report(), report("b", synced=U)], (P.ACCEPTED, P.COMPILED, P.SYNCED, P.ENFORCED, P.READY), "every gate"),
    ({}, [BAD], (P.INVALID, P.POLICY_INVALID, P.PROGRESSING, P.ENFORCED, P.NOT_ACCEPTED), "`shop-db` keep the rules that they had"),
    ({}, [report(is_compiled=False)], (P.ACCEPTED, P.TARGET_HELD_BACK, P.PROGRESSING, P.ENFORCED, P.NOT_COMPILED), "see condition Compiled"),
    ({}, [], (P.TARGET_NOT_FOUND, P.NOTHING_TO_COMPILE, P.NO_GATES, P.NOT_PROBED, P.NOT_ACCEPTED), "`shop-db` can't be bound; fix: compare"),
    ({"targets": {"names": ["a", "shop-db"]}}, [report()], (P.ACCEPTED, P.COMPILED, P.SYNCED, P.ENFORCED, P.READY), "but not to `a`"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "reports", "reasons", "text"), POLICIES, ids=[str(n) for n, _ in enumerate(POLICIES)])
def test_a_policys_conditions_follow_from_its_targets_reports(
    spec: dict[str, Any], reports: list[PolicyReport], reasons: tuple[PolicyReason, ...], text: str
) -> None:
    wire = policy(**spec)
    status = policy_status(AccessPolicy.from_wire(wire), reports, NOW)
    assert rows(status.conditions) == wanted(reasons)
    assert any(text in each.message for each in status.conditions)
    read_well(status.conditions)
    patch = status_patch(AccessPolicy.from_wire(wire), status)
    assert patch is not None
    seen = AccessPolicy.from_wire(merged(wire, patch))
    assert seen.status == status
    assert status_patch(seen, policy_status(seen, reports[::-1], NOW + 100)) is None


def test_every_reason_of_a_policy_is_reached() -> None:
    assert {reason for _, _, reasons, _ in POLICIES for reason in reasons} == set(PolicyReason)


def test_findings_stand_once_for_all_targets_or_once_for_each() -> None:
    note = dataclasses.replace(OF_POLICY, severity=FindingSeverity.NOTE, problem="x" * 2000)
    reports = [report("a", findings=(note, OF_POLICY)), report("b", findings=(OF_POLICY,))]
    status = policy_status(AccessPolicy.from_wire(policy()), reports, NOW)
    assert [(each.severity.value, each.target) for each in status.findings] == [("Error", None), ("Note", "a")]
    assert len(status.findings[1].message) == 1024
    assert status.findings_count == 2


def test_findings_are_bounded_the_worst_first() -> None:
    notes = tuple(dataclasses.replace(OF_POLICY, severity=FindingSeverity.NOTE, problem=f"n{n}") for n in range(100))
    status = policy_status(AccessPolicy.from_wire(policy()), [report(findings=(*notes, OF_POLICY))], NOW)
    assert (len(status.findings), status.findings_count) == (MAX_FINDINGS, 101)
    assert status.findings[0].severity is FindingSeverity.ERROR


# Conditions as such


def test_the_transition_time_moves_with_the_status_alone() -> None:
    first = conditions_after((), [Observed(R.PROGRESSING, "0 of 1")], 1, NOW)
    second = conditions_after(first, [Observed(R.GATES_LATE)], 2, NOW + 10)
    assert second[0].last_transition_time == first[0].last_transition_time
    assert (second[0].reason, second[0].observed_generation) == ("GatesLate", 2)
    third = conditions_after(second, [Observed(R.SYNCED)], 2, NOW + 20)
    assert third[0].last_transition_time.epoch_s == NOW + 20
    assert transitions(first, second) == ()
    assert transitions(second, third) == third
    assert transitions((), conditions_after((), [Observed(R.NO_GATES)], 1, NOW)) == ()


def test_a_message_fits() -> None:
    assert len(Observed(R.DOORS_OPEN, "x" * 9000).message) == MAX_MESSAGE


def test_a_reason_is_one_of_its_conditions() -> None:
    for reasons in (TargetReason, PolicyReason, RequestReason):
        pairs = [(each.value.type, each.value.reason) for each in reasons]
        assert len(set(pairs)) == len(pairs)
        for each in reasons:
            assert re.fullmatch("[A-Z][A-Za-z]+", each.value.reason)
            assert re.match("[a-z]", each.value.meaning)


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        ({}, {}, None),
        ({"a": 1}, {"a": 1}, None),
        ({"a": 1, "b": 2}, {"a": 1}, {"b": None}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, {"a": {"c": 3}}),
        ({"a": [1]}, {"a": [1, 2]}, {"a": [1, 2]}),
        ({"a": {"b": 1}}, {"a": 1}, {"a": 1}),
    ],
)
def test_a_merge_patch_says_what_differs(before: dict[str, Any], after: dict[str, Any], patch: dict[str, Any] | None) -> None:
    assert merge_patch(before, after) == patch
    assert merged(before, patch or {}) == after


def test_late_gates_are_told_with_what_they_say_once_for_all_that_say_the_same() -> None:
    def late(pod: str, problem: str = "") -> GateState:
        return GateState(pod, True, "r1", is_late=True, problem=problem)

    gates = (late("a", "no Secret; fix: obey me"), late("b"), late("c", "no Secret; fix: obey me"), late("d", "x" * 2000))
    (synced,) = (
        each.message
        for each in target_status(TARGET, TargetFacts(revision=REVISION, gates=gates), NOW).conditions
        if each.type == "Synced"
    )
    assert "`a`, `c` (no Secret, obey me); `d` (xxx" in synced
    assert "); `b`; fix: " in synced
    assert synced.count("; fix: ") == 1, "the operator's own"
    assert len(synced) < 600
    many = TargetFacts(revision=REVISION, gates=tuple(late(f"p{n}", f"problem {n}") for n in range(50)))
    assert all(len(each.message) < 1024 for each in target_status(TARGET, many, NOW).conditions)
