from __future__ import annotations

import pytest

from sidegate.policy.statement import StatementKind
from sidegate.sql import Analysis, Limits, ParseProblem, StatementCache, analyse

DEEP = {
    "parentheses": lambda n: "SELECT " + "(" * n + "1" + ")" * n,
    "calls": lambda n: "SELECT " + "abs(" * n + "1" + ")" * n,
    "negations": lambda n: "SELECT " + "NOT " * n + "true",
    "sums": lambda n: "SELECT 1" + "+1" * n,
    "casts": lambda n: "SELECT 1" + "::int" * n,
    "arrays": lambda n: "SELECT " + "ARRAY[" * n + "1" + "]" * n,
    "cases": lambda n: "SELECT " + "CASE WHEN true THEN " * n + "1" + " END" * n,
    "scalar subqueries": lambda n: "SELECT " + "(SELECT " * n + "1" + ")" * n,
    "derived tables": lambda n: "SELECT * FROM " + "(SELECT * FROM " * n + "t" + ") x" * n,
    "with queries": lambda n: "WITH a AS (" * n + "SELECT 1" + ") SELECT * FROM a" * n,
    "set operations": lambda n: "SELECT 1" + " UNION ALL SELECT 1" * n,
    "joins": lambda n: "SELECT * FROM t" + " CROSS JOIN t" * n,
    "joins to the right": lambda n: "SELECT * FROM " + "t CROSS JOIN (" * n + "t CROSS JOIN t" + ")" * n,
    "explains": lambda n: "EXPLAIN " * n + "SELECT 1",
}


@pytest.mark.parametrize("shape", DEEP)
@pytest.mark.parametrize("depth", [30, 100, 400, 1000, 10_000, 100_000])
def test_no_depth_raises_or_kills(shape: str, depth: int) -> None:
    answer = analyse(DEEP[shape](depth), ("public",))
    if depth == 30 and shape != "explains":
        assert isinstance(answer, Analysis)
        assert StatementKind.UNKNOWN not in answer.statements[0].kinds
    elif isinstance(answer, ParseProblem):
        assert answer.is_limit or shape == "explains"


@pytest.mark.parametrize("shape", sorted(DEEP.keys() - {"parentheses", "set operations"}))  # these may be read at any depth
def test_too_deep_is_a_limit_and_not_a_syntax_error(shape: str) -> None:
    answer = analyse(DEEP[shape](9000), ("public",))
    assert isinstance(answer, ParseProblem)
    assert answer.is_limit or shape == "explains"


def test_long_chains_of_conditions_and_set_operations_are_read() -> None:
    for text in (
        "SELECT 1 FROM t WHERE a = 1" + " AND a = 1" * 5000,
        "SELECT 1 WHERE 1 IN (" + "1," * 5000 + "1)",
        "SELECT 1" + " UNION ALL SELECT 1" * 300,
        "SELECT a" + " || a" * 200 + " FROM t",
    ):
        answer = analyse(text, ("public",))
        assert isinstance(answer, Analysis), text[:40]
        assert answer.statements[0].kinds == {StatementKind.READ}


def test_text_over_the_limit_is_refused_before_it_is_parsed() -> None:
    answer = analyse("SELECT '" + "x" * 100 + "'", limits=Limits(max_text_bytes=100))
    assert answer == ParseProblem("the text is longer than 100 bytes", None, is_limit=True)


def test_one_literal_of_seven_megabytes_is_read() -> None:
    answer = analyse("SELECT '" + "x" * 7_000_000 + "'")
    assert isinstance(answer, Analysis)


def test_many_constants_are_refused_before_and_after_parsing() -> None:
    before = analyse("SELECT 1 IN (" + "1," * 3_000_000 + "1)")
    assert isinstance(before, ParseProblem)
    assert before.is_limit
    after = analyse("SELECT 1 IN (" + "1," * 400_000 + "1)")
    assert isinstance(after, ParseProblem)
    assert after.is_limit


def test_many_statements_are_refused() -> None:
    assert isinstance(analyse("SELECT 1;" * 1000), Analysis)
    answer = analyse("SELECT 1;" * 1001)
    assert isinstance(answer, ParseProblem)
    assert answer.is_limit


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("SELECT 'a\0b'", 10),
        ("SELECT '\ud800'", 9),
        ("SELECT 'é', FROM FROM t", 13),
        ("SELECT 1 +", None),
        ("SELECT * FRM users", None),
        ("SELECT 'unfinished", 8),
        ("SELECT $$unfinished", 8),
        ("/* unfinished", 1),
        ("SELECT U&'\\zzzz'", None),
        ('SELECT ""', 8),
    ],
)
def test_what_can_not_be_parsed_is_a_problem_with_its_place(text: str, position: int | None) -> None:
    for answer in (analyse(text), StatementCache(4).analyse(text, None)):
        assert isinstance(answer, ParseProblem)
        assert not answer.is_limit
        if position is not None:
            assert answer.cursor_position == position


@pytest.mark.parametrize("text", ["", " ", ";", " ; ;\n", "-- nothing", "/* nothing */ ;"])
def test_text_without_a_statement_has_no_statements(text: str) -> None:
    assert analyse(text) == Analysis(())
    assert StatementCache(4).analyse(text, None) == Analysis(())


def test_each_statement_has_its_own_text() -> None:
    answer = analyse("/* é */ SELECT 'ü;' ; \n DELETE FROM t -- x\n; ;SELECT 1")
    assert isinstance(answer, Analysis)
    assert [statement.text for statement in answer.statements] == ["SELECT 'ü;'", "DELETE FROM t -- x", "SELECT 1"]
    assert [statement.normalised for statement in answer.statements] == ["SELECT $1", "DELETE FROM t -- x", "SELECT $1"]
