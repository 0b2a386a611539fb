"""Expressions answer true, false or error, within bounds, and never raise while a statement is decided."""

from __future__ import annotations

import pytest

from sidegate.policy.expression import (
    MAX_CLAIM_DEPTH,
    MAX_EXPRESSION_CHARACTERS,
    ExpressionError,
    Outcome,
    check_expression,
    evaluate,
)
from sidegate.policy.principal import Json, Principal

CLAIMS: dict[str, Json] = {
    "department": "data",
    "level": 3,
    "verified": True,
    "teams": ["a", "b"],
    "org": {"unit": "x"},
    "none": None,
}


def principal(claims: dict[str, Json] | None = None, **fields: str | None) -> Principal:
    return Principal(
        issuer="https://issuer.example",
        subject="1",
        username="ada@example.com",
        groups=frozenset({"ai-assistants", "data"}),
        agent=fields.get("agent"),
        environment=fields.get("environment"),
        claims=CLAIMS if claims is None else claims,
    )


@pytest.mark.parametrize(
    ("expression", "outcome"),
    [
        ("claims.department == 'data'", Outcome.TRUE),
        ("claims.department == 'hr'", Outcome.FALSE),
        ("claims.level >= 3 && claims.verified", Outcome.TRUE),
        ("claims.org.unit == 'x'", Outcome.TRUE),
        ("claims.teams.exists(team, team == 'b')", Outcome.TRUE),
        ("'data' in groups && username.endsWith('@example.com')", Outcome.TRUE),
        ("agent == ''", Outcome.TRUE),
        ("environment == 'production'", Outcome.FALSE),
        ("has(claims.missing) && claims.missing == 'x'", Outcome.FALSE),
        ("claims.missing == 'x'", Outcome.ERROR),
        ("claims.org.missing.deeper == 'x'", Outcome.ERROR),
        ("claims.department > 3", Outcome.ERROR),
        ("claims.department", Outcome.ERROR),
        ("1 / (claims.level - 3) == 1", Outcome.ERROR),
        ("claims.missing == 'x' || true", Outcome.TRUE),  # CEL's own: an operand that decides hides the other's error
        ("claims.none == null", Outcome.TRUE),
    ],
)
def test_an_expression_has_one_of_three_outcomes(expression: str, outcome: Outcome) -> None:
    assert evaluate(expression, principal())[0] is outcome


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "claims.department ==",
        "nothing == 1",
        "username",
        "claims.department",
        "1 + 1",
        "username == 1",
        "true;",
        "\x00",
        "(" * 40,
    ],
)
def test_a_broken_expression_is_refused_when_compiled_and_an_error_when_evaluated(expression: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        check_expression(expression)
    assert caught.value.way_forward
    outcome, cause = evaluate(expression, principal())
    assert outcome is Outcome.ERROR
    assert cause


def test_a_long_expression_is_refused() -> None:
    expression = "true" + " " * MAX_EXPRESSION_CHARACTERS
    with pytest.raises(ExpressionError, match="characters"):
        check_expression(expression)
    assert evaluate(expression, principal())[0] is Outcome.ERROR


def test_claims_that_are_too_many_or_too_deep_are_an_error() -> None:
    deep: Json = "x"
    for _ in range(MAX_CLAIM_DEPTH + 1):
        deep = {"x": deep}
    many: Json = [0] * 5000
    for claims in ({"deep": deep}, {"many": many}):
        assert evaluate("true", principal(claims))[0] is Outcome.ERROR


def test_nested_macros_end_by_the_budget_of_the_runtime() -> None:
    claims: dict[str, Json] = {"n": list(range(200))}
    expression = "claims.n.all(a, claims.n.all(b, claims.n.all(c, claims.n.all(d, a + b + c + d >= 0))))"
    assert evaluate(expression, principal(claims))[0] is Outcome.ERROR


def test_a_number_out_of_range_is_an_error() -> None:
    assert evaluate("claims.big == 1", principal({"big": 2**70}))[0] is Outcome.ERROR


def test_a_pattern_made_to_backtrack_is_answered() -> None:
    assert evaluate("claims.text.matches('^(a+)+$')", principal({"text": "a" * 4000 + "!"}))[0] is Outcome.FALSE
