"""Every constraint has a fixture that must be refused and a near twin that must pass, here and by the CRD's own CEL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.approval_request import ApprovalRequest
from sidegate.api.manifests import ManifestError, parse_manifests
from sidegate.api.meta import ApiModel, ChangeConstraint, Constraint, change_problems
from sidegate.api.protected_target import ProtectedTarget
from sidegate.api.schema import structural_schema
from tests.unit.api.crd_rules import broken_rules, merged

FIXTURES = Path(__file__).parent / "fixtures"
MODELS: tuple[tuple[type[ApiModel], str], ...] = (
    (AccessPolicy, "access_policy.yaml"),
    (ProtectedTarget, "protected_target.yaml"),
    (ApprovalRequest, "approval_request.yaml"),
)
SHARED = {"selector-values", "selector-not-empty", "approvers-not-empty"}  # of types that several resources use


def constraints_of(schema: Any) -> set[str]:
    """Messages of all CEL rules in a schema."""
    if isinstance(schema, dict):
        own = {rule["message"] for rule in schema.get("x-kubernetes-validations", ())}
        return own.union(*(constraints_of(value) for key, value in schema.items() if key != "x-kubernetes-validations"), set())
    return set().union(*(constraints_of(item) for item in schema)) if isinstance(schema, list) else set()


def all_constraints() -> dict[str, Constraint | ChangeConstraint]:
    found: dict[str, Constraint | ChangeConstraint] = {}
    waiting: list[type[ApiModel]] = [ApiModel]
    while waiting:
        model = waiting.pop()
        waiting += model.__subclasses__()
        for each in (*model.__dict__.get("constraints", ()), *model.__dict__.get("change_constraints", ())):
            assert each.name not in found, f"two constraints are called {each.name}"
            found[each.name] = each
    return found


CONSTRAINTS = all_constraints()
CASES = [
    pytest.param(model, fixture["base"], CONSTRAINTS[name], case, id=name)
    for model, file in MODELS
    for fixture in [yaml.safe_load((FIXTURES / file).read_text("utf-8"))]
    for name, case in fixture["cases"].items()
]


def problems(document: dict[str, Any]) -> set[str]:
    try:
        parse_manifests([("fixture.yaml", yaml.safe_dump(document))])
    except ManifestError as error:
        return {f"{each.problem}; fix: {each.way_forward}" for each in error.problems}
    return set()


@pytest.mark.parametrize(("model", "base", "constraint", "case"), CASES)
def test_refuses_what_breaks_a_constraint_and_takes_its_near_twin(
    model: type[ApiModel], base: dict[str, Any], constraint: Constraint | ChangeConstraint, case: dict[str, Any]
) -> None:
    old = merged(base, case["old"]) if "old" in case else None
    refused, passes = merged(old or base, case["refused"]), merged(old or base, case["passes"])
    assert (old is not None) == isinstance(constraint, ChangeConstraint)
    if old is None:
        assert problems(refused) == {constraint.message}
        assert problems(passes) == set()
        return
    before = model.from_wire(old)
    assert {f"{each.problem}; fix: {each.way_forward}" for each in change_problems(before, model.from_wire(refused))} == {
        constraint.message
    }
    assert change_problems(before, model.from_wire(passes)) == ()


@pytest.mark.parametrize(("model", "base", "constraint", "case"), CASES)
def test_the_crd_refuses_and_takes_the_same(
    model: type[ApiModel], base: dict[str, Any], constraint: Constraint | ChangeConstraint, case: dict[str, Any]
) -> None:
    schema = structural_schema(model)
    old = merged(base, case["old"]) if "old" in case else None
    assert broken_rules(schema, merged(old or base, case["refused"]), old) == {constraint.message}
    assert broken_rules(schema, merged(old or base, case["passes"]), old) == set()


@pytest.mark.parametrize(("model", "file"), MODELS)
def test_every_constraint_has_its_pair_of_fixtures(model: type[ApiModel], file: str) -> None:
    cases = yaml.safe_load((FIXTURES / file).read_text("utf-8"))["cases"]
    messages = constraints_of(structural_schema(model))
    wanted = {each.name for each in CONSTRAINTS.values() if each.message in messages}
    assert wanted - set(cases) <= SHARED
    assert set(cases) <= wanted


def test_no_constraint_is_without_fixtures() -> None:
    tested = {name for _, file in MODELS for name in yaml.safe_load((FIXTURES / file).read_text("utf-8"))["cases"]}
    assert tested == set(CONSTRAINTS)


@pytest.mark.parametrize("constraint", CONSTRAINTS.values(), ids=CONSTRAINTS)
def test_every_constraint_says_the_problem_and_the_fix_in_the_house_form(constraint: Constraint | ChangeConstraint) -> None:
    assert constraint.way_forward
    for text in (constraint.problem, constraint.way_forward):
        assert not text.endswith(".")
        assert re.match(r"[a-z`]", text) or text.startswith("RequireApproval"), text
    assert "\n" not in constraint.message
    assert len(constraint.message) <= 2048  # the API server's limit for a message


def test_every_phase_but_the_forward_ones_is_refused_by_both() -> None:
    from sidegate.api.approval_request import NEXT_PHASES, Phase

    base = yaml.safe_load((FIXTURES / "approval_request.yaml").read_text("utf-8"))["base"]
    schema = structural_schema(ApprovalRequest)
    for before in Phase:
        for after in Phase:
            old, new = (merged(base, {"status": {"phase": phase.value}}) for phase in (before, after))
            allowed = before is after or after in NEXT_PHASES[before]
            assert (not change_problems(ApprovalRequest.from_wire(old), ApprovalRequest.from_wire(new))) == allowed, (
                before,
                after,
            )
            assert (not broken_rules(schema, new, old)) == allowed, (before, after)


@pytest.mark.parametrize(
    "name", ["target", "principal", "agent", "reason", "statement", "fingerprint", "impact", "rule", "approvers", "required", "expiresAt",
             "database", "role", "sessionId", "revision", "summary"],
)  # fmt: skip
def test_nothing_of_a_request_but_the_decision_can_be_changed(name: str) -> None:
    base = yaml.safe_load((FIXTURES / "approval_request.yaml").read_text("utf-8"))["base"]
    changed: Any = {
        "principal": {"username": "eve@example.com"},
        "rule": {"name": "other"},
        "approvers": {"groups": ["ai-assistants"]},
        "required": 2,
        "impact": {"rows": 1},
        "expiresAt": "2036-11-24T09:00:00Z",
        "target": "other-db",
    }.get(name, "f" * 32)
    new = merged(base, {"spec": {name: changed, "decision": "Approved"}})
    assert change_problems(ApprovalRequest.from_wire(base), ApprovalRequest.from_wire(new))
    assert broken_rules(structural_schema(ApprovalRequest), new, base)
    if name in {"agent", "reason"}:
        gone = merged(base, {"spec": {name: None}})
        assert change_problems(ApprovalRequest.from_wire(base), ApprovalRequest.from_wire(gone))
        assert broken_rules(structural_schema(ApprovalRequest), gone, base)


def test_every_field_of_a_request_is_either_frozen_or_a_persons_own() -> None:
    from sidegate.api.approval_request import ApprovalRequestSpec

    rule = next(each.cel for each in ApprovalRequestSpec.change_constraints if each.name == "request-immutable")
    for name, info in ApprovalRequestSpec.model_fields.items():
        wire = info.alias or name
        assert (f"self.{wire} == oldSelf.{wire}" in rule) == (wire not in {"decision", "comment", "decisions"}), wire
