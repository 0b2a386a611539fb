"""Findings: each mistake that an author can make is named with its field, and only true errors stop the compilation."""

from __future__ import annotations

from typing import Any

import pytest

from sidegate.api.access_policy import AccessPolicy
from sidegate.policy.compile import Placement, compile_target
from sidegate.policy.finding import Finding
from sidegate.policy.review import review_time, review_unbound
from tests.unit.policy.resources import policy, target

PLACEMENT = Placement("/secrets")
DENY_DELETE: dict[str, Any] = {"name": "no-delete", "action": "Deny", "match": {"statements": {"kinds": ["Delete", "DDL"]}}}
APPROVAL: dict[str, Any] = {"approvers": {"groups": ["dba"]}}


def hold(name: str = "hold", approval: dict[str, Any] | None = None, **match: Any) -> dict[str, Any]:
    return {"name": name, "action": "RequireApproval", "match": match, "approval": approval or APPROVAL}


def grant(*kinds: str, role: str = "readonly") -> list[dict[str, Any]]:
    return [{"postgres": {"databases": ["shop"], "role": role, "allow": list(kinds)}}]


def mask(name: str, strategy: str, *columns: str) -> dict[str, Any]:
    return {"name": name, "action": "Mask", "match": {"columns": list(columns)}, "mask": {"strategy": strategy}}


def findings(*policies: AccessPolicy, **spec: Any) -> tuple[Finding, ...]:
    return compile_target(target(**spec), policies, PLACEMENT).findings


CASES: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("an expression that doesn't parse", {"subjects": [{"expression": "claims.x =="}]}, "Error", "spec.subjects[0].expression", "can't be compiled"),
    ("an expression that isn't a bool", {"subjects": [{"expression": "username"}]}, "Error", "spec.subjects[0].expression", "bool"),
    ("a role without credential", {"grants": grant("Read", role="owner")}, "Error", "spec.grants[0].postgres.role", "no credential for role `owner`"),
    (
        "validity without grants",
        {"grants": None, "rules": [DENY_DELETE], "validity": {"notAfter": "2030-01-01T00:00:00Z"}},
        "Warning", "spec.validity", "at all times",
    ),
    ("observe mode", {"mode": "Observe"}, "Warning", "spec.mode", "only observes"),
    (
        "row limits in observe mode",
        {"mode": "Observe", "rules": [hold(statements={"kinds": ["Delete"], "rowsAffected": {"moreThan": 5}})]},
        "Note", "spec.rules[0].match.statements.rowsAffected", "aren't measured",
    ),
    (
        "approvers that are the requesters",
        {"rules": [hold(approval={"approvers": {"groups": ["ai-assistants"]}}, statements={"kinds": ["Delete"]})]},
        "Warning", "spec.rules[0].approval.approvers", "approve for each other",
    ),
    (
        "too few approvers without the requester",
        {"subjects": [{"users": ["ada", "eve"]}], "rules": [hold(approval={"approvers": {"users": ["ada"]}}, statements={"kinds": ["Delete"]})]},
        "Warning", "spec.rules[0].approval.approvers", "too few",
    ),
    (
        "a hold that a denial shadows",
        {"rules": [DENY_DELETE, hold(statements={"kinds": ["Delete"], "schemas": ["prod"]})]},
        "Warning", "spec.rules[1]", "never reached: rule `no-delete`",
    ),
    (
        "a hold before the denial that shadows it",
        {"rules": [hold(statements={"kinds": ["Delete"]}), DENY_DELETE]},
        "Warning", "spec.rules[0]", "never reached",
    ),
    (
        "a second denial of the same",
        {"rules": [DENY_DELETE, {**DENY_DELETE, "name": "again"}]},
        "Warning", "spec.rules[1]", "never reached",
    ),
    (
        "a rule about what nobody is granted",
        {"rules": [hold(statements={"kinds": ["Truncate"]})]},
        "Note", "spec.rules[0].match.statements.kinds", "nobody is granted `Truncate`",
    ),
    (
        "code for people whose columns are masked",
        {"grants": grant("Read", "Do", "Server"), "rules": [mask("pii", "Redact", "ssn")]},
        "Warning", "spec.grants[0].postgres.allow", "`Do`, `Server` is refused",
    ),
    ("a mask by table", {"rules": [mask("pii", "Redact", "users.ssn")]}, "Note", "spec.rules[0].match.columns[0]", "in that table alone"),
    (
        "one column masked in two ways",
        {"rules": [mask("a", "Partial", "ssn"), mask("b", "Null", "ssn")]},
        "Warning", "spec.rules[1]", "sees Null",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "severity", "path", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_mistake_is_found(spec: dict[str, Any], severity: str, path: str, words: str) -> None:
    result = compile_target(target(), [policy(**spec)], PLACEMENT)
    found = [
        each for each in result.findings if (each.severity.value, each.field_path) == (severity, path) and words in each.problem
    ]
    assert len(found) == 1, result.findings
    assert found[0].way_forward
    assert found[0].resource == "AccessPolicy/shop/readers"
    assert (result.config is None) is any(each.severity.value == "Error" for each in result.findings)


def test_a_plain_policy_has_no_findings() -> None:
    assert findings(policy()) == ()


def test_rules_that_only_overlap_are_not_called_unreachable() -> None:
    narrow = {"name": "narrow", "action": "Deny", "match": {"statements": {"kinds": ["Delete"], "schemas": ["prod"]}}}
    elsewhere = {"name": "elsewhere", "action": "Deny", "match": {"caller": {"notEnvironments": ["office"]}}}
    limited = {
        "name": "limited",
        "action": "Deny",
        "match": {"statements": {"kinds": ["Delete"], "rowsAffected": {"moreThan": 50}}},
    }
    broad = hold("broad", statements={"kinds": ["Delete"]})
    assert findings(policy(rules=[narrow, elsewhere, limited, broad])) == ()


def test_a_denial_with_a_lower_limit_shadows_one_with_a_higher() -> None:
    rules = [
        {
            "name": f"over-{limit}",
            "action": "Deny",
            "match": {"statements": {"kinds": ["Delete"], "rowsAffected": {"moreThan": limit}}},
        }
        for limit in (10, 100)
    ]
    assert [each.field_path for each in findings(policy(rules=rules))] == ["spec.rules[1]"]


def test_a_denial_of_every_caller_outside_shadows_one_of_fewer() -> None:
    rules = [
        {"name": "outside", "action": "Deny", "match": {"caller": {"notEnvironments": ["office"]}}},
        {"name": "lab", "action": "Deny", "match": {"caller": {"environments": ["lab"]}}},
        {"name": "office", "action": "Deny", "match": {"caller": {"environments": ["office"]}}},
    ]
    assert [each.field_path for each in findings(policy(rules=rules))] == ["spec.rules[1]"]


def test_a_rule_may_matter_where_code_is_granted_that_nobody_can_see_into() -> None:
    assert findings(policy(grants=grant("Read", "Call"), rules=[hold(statements={"kinds": ["Truncate"]})])) == ()


def test_a_target_without_grants_is_warned_about() -> None:
    assert [(each.resource, each.severity.value) for each in findings()] == [("ProtectedTarget/shop/shop-db", "Warning")]


def test_policies_with_one_name_are_an_error() -> None:
    result = compile_target(target(), [policy(), policy()], PLACEMENT)
    assert result.config is None
    assert "2 policies have this name" in result.findings[0].problem


def test_an_unknown_detector_is_an_error_only_where_the_known_ones_are_told() -> None:
    rule = {"name": "jwts", "action": "Mask", "match": {"values": {"detectors": ["jwt"]}}}
    assert compile_target(target(), [policy(rules=[rule])], PLACEMENT).config is not None
    result = compile_target(target(), [policy(rules=[rule])], PLACEMENT, frozenset({"email"}))
    assert result.config is None
    assert "no detector `jwt`" in result.findings[0].problem


def test_other_protocols_are_an_error_and_never_half_gated() -> None:
    result = compile_target(target(protocol="SSH", tls=None), [policy()], PLACEMENT)
    assert result.config is None
    assert result.findings[0].field_path == "spec.protocol"


@pytest.mark.parametrize(
    ("caller", "words"),
    [
        ({"environments": ["office"]}, "the rule never matches"),
        ({"notEnvironments": ["office"]}, "the rule matches every caller"),
    ],
)
def test_an_environment_that_no_caller_can_be_in_is_warned_about(caller: dict[str, Any], words: str) -> None:
    identity = {"issuers": [{"url": "https://issuer.example", "audiences": ["x"]}]}
    rule = {"name": "outside", "action": "Deny", "match": {"caller": caller}}
    found = findings(policy(rules=[rule]), identity=identity)
    assert [each.field_path for each in found] == ["spec.rules[0].match.caller"]
    assert words in found[0].problem
    with_network = {**identity, "callerNetworks": [{"environment": "office", "networks": ["10.0.0.0/8"]}]}
    assert findings(policy(rules=[rule]), identity=with_network) == ()


def test_agents_that_no_issuer_names_are_warned_about() -> None:
    identity = {"issuers": [{"url": "https://issuer.example", "audiences": ["x"]}]}
    found = findings(policy(subjects=[{"groups": ["a"], "agents": ["cursor"]}]), identity=identity)
    assert [each.field_path for each in found] == ["spec.subjects[0].agents"]


def test_a_policy_about_no_target_is_warned_about_and_reviewed() -> None:
    lost = policy(targets={"names": ["shop-bd"]}, subjects=[{"expression": "nope"}])
    found = list(review_unbound([target()], [lost]))
    assert [(each.severity.value, each.field_path) for each in found] == [
        ("Warning", "spec.targets"),
        ("Error", "spec.subjects[0].expression"),
    ]
    assert "`shop/shop-db`" in found[0].way_forward


def test_a_policy_whose_time_is_over_is_warned_about() -> None:
    over = policy(validity={"notAfter": "2026-01-01T00:00:00Z"}, rules=[DENY_DELETE])
    assert list(review_time(over, 1767225599.0)) == []
    assert "its rules still hold" in next(review_time(over, 1767225600.0)).problem


def test_findings_come_worst_first_whatever_the_order_of_policies() -> None:
    broken = policy("a", subjects=[{"expression": "nope"}], mode="Observe")
    other = policy("b", mode="Observe")
    assert findings(broken, other) == findings(other, broken)
    assert [each.severity.value for each in findings(broken, other)] == ["Error", "Warning", "Warning"]


def budget(name: str, **of: int) -> dict[str, Any]:
    return {"name": name, "action": "Deny", "match": {"budget": of}}


def test_a_budget_that_is_always_used_up_sooner_shadows_a_larger_one_and_no_other() -> None:
    rules = [
        budget("ten", rows=10),
        budget("hundred", rows=100),
        budget("statements", statements=5),
        hold("reads", statements={"kinds": ["Read"]}),
    ]
    assert [each.field_path for each in findings(policy(rules=rules))] == ["spec.rules[1]"]


def test_a_budget_of_masked_values_where_nothing_is_masked_is_warned_about() -> None:
    rules = [budget("few", maskedValues=10)]
    assert [each.field_path for each in findings(policy(rules=rules))] == ["spec.rules[0].match.budget.maskedValues"]
    mask = {"name": "cards", "action": "Mask", "match": {"values": {"detectors": ["payment-card"]}}}
    assert findings(policy(rules=[*rules, mask])) == ()
