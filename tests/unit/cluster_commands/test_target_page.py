"""Rows and pages of targets, from statuses that the operator's own plan makes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sidegate.api.access_policy import AccessPolicy, FindingSeverity
from sidegate.api.meta import ConditionStatus
from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.finding import Finding
from sidegate_cluster.pages.target_page import TargetView, heads, page, row
from sidegate_operator.plan.status import GateState, PolicyReport, Probe, TargetFacts, policy_status, target_status
from tests.unit.operator.snapshots import NOW, Wire, policy, target

REVISION = "0123456789abcdef0123"
GOOD = TargetFacts(
    policies=("readers",),
    revision=REVISION,
    gates=(GateState("shop-db-0", True, REVISION), GateState("shop-db-1", True, REVISION)),
    probe=Probe(),
)
FINDING = Finding(FindingSeverity.WARNING, "AccessPolicy/shop/readers", "spec.rules[0]", "it never applies", "take it out")


def observed(facts: TargetFacts, **spec: Any) -> Wire:
    wire = target(**spec)
    return {**wire, "status": target_status(ProtectedTarget.from_wire(wire), facts, NOW).to_wire()}


def bound(*findings: Finding) -> Wire:
    wire = policy()
    reports = [PolicyReport("shop-db", True, False, ConditionStatus.TRUE, ConditionStatus.TRUE, findings)]
    return {**wire, "status": policy_status(AccessPolicy.from_wire(wire), reports, NOW).to_wire()}


def request(name: str = "ar-1", of: str = "shop-db", phase: str | None = "Pending") -> Wire:
    spec = {"target": of, "principal": {"username": "ann"}, "statement": "DROP TABLE ledger", "summary": "DROP TABLE ledger"}
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": spec} | ({"status": {"phase": phase}} if phase else {})


def view(wire: Wire, policies: list[Wire] | None = None, requests: list[Wire] | None = None) -> TargetView:
    return TargetView(wire, policies or [], requests or [])


def cell(shown: TargetView, head: str) -> str:
    return dict(zip(heads(True), row(shown, True), strict=True))[head]


def test_a_row_counts_and_names_what_isn_t_true() -> None:
    facts = dataclasses.replace(GOOD, gates=(*GOOD.gates, GateState("shop-db-2", False, "old")), probe=None)
    shown = view(observed(facts), [bound(FINDING)], [request(), request("ar-2", phase=None), request("ar-3", phase="Denied")])
    assert row(shown, True) == (
        "shop",
        "shop-db",
        "False",
        "2/2/3",
        "0123456789ab",
        "2",
        "1 warning",
        "Synced: Progressing, Enforced: NotProbed",
    )
    assert row(shown, False) == row(shown, True)[1:]


def test_requests_and_findings_of_other_targets_aren_t_counted() -> None:
    elsewhere = bound(FINDING)
    elsewhere["status"]["findings"][0]["target"] = "billing-db"
    shown = view(observed(GOOD), [elsewhere], [request(of="billing-db")])
    assert (cell(shown, "PENDING"), cell(shown, "FINDINGS")) == ("0", "-")


def test_what_may_not_be_read_is_unknown_and_not_none() -> None:
    shown = TargetView(observed(GOOD), None, None)
    assert (cell(shown, "PENDING"), cell(shown, "FINDINGS")) == ("?", "?")
    text = "\n".join(page(shown, {}))
    assert "you may not read AccessPolicies" in text
    assert "you may not read ApprovalRequests" in text


@pytest.mark.parametrize("generation", [2, None])
def test_conditions_of_an_older_version_say_nothing_of_this_one(generation: int | None) -> None:
    wire = observed(GOOD)
    wire["metadata"]["generation"] = generation
    shown = view(wire)
    assert cell(shown, "READY") == "Unknown"
    assert cell(shown, "NOT TRUE") == "not observed yet"
    assert not shown.holds("Ready")
    assert "the operator hasn't seen the newest version" in "\n".join(page(shown, {}))


def test_a_target_that_nobody_looked_at_is_unknown() -> None:
    shown = view(target())
    assert (cell(shown, "READY"), cell(shown, "GATES"), cell(shown, "REVISION")) == ("Unknown", "-", "-")
    assert "Ready      Unknown (NotObserved): nobody observed it yet" in "\n".join(page(shown, {}))


def test_a_page_has_each_condition_in_the_operators_words_with_its_fix() -> None:
    facts = dataclasses.replace(GOOD, probe=Probe(("5433 answers from outside",)), pods_without_gate=("shop-db-9",))
    lines = list(page(view(observed(facts), [bound(FINDING)], [request()]), {"Ready": "5 min"}))
    assert lines[0] == "shop/shop-db  ready: False (NotEnforced)"
    assert "  Accepted   True (Accepted): the target can be protected as it is written" in lines
    enforced = next(number for number, line in enumerate(lines) if line.startswith("  Enforced "))
    assert lines[enforced] == "  Enforced   False (PodsWithoutGate): pods of the target run without a gate: `shop-db-9`"
    assert lines[enforced + 1].startswith("             fix: have them made again")
    assert "  Ready      False (NotEnforced), for 5 min: see condition Enforced" in lines
    assert "  no gate in shop-db-9" in lines
    assert "             fix: `sidegate why POD -n shop` says why, for each" in lines
    assert "  warning    policy readers: spec.rules[0]: it never applies" in lines
    assert "             fix: take it out" in lines
    assert "  pending    ar-1 by ann: DROP TABLE ledger" in lines


def test_no_text_of_others_steers_the_terminal() -> None:
    evil = request("ar-1")
    evil["spec"]["summary"] = "x\x1b[2J\n  Ready      True (Ready)"
    lines = list(page(view(observed(GOOD), [], [evil]), {}))
    assert not any("\x1b" in line or "\n" in line for line in lines)
    assert not any(line.startswith("  Ready      True (Ready)") for line in lines if "every gate" not in line)
