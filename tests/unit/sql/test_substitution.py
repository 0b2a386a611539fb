"""Subqueries in place of tables, spliced into the client's own text."""

from __future__ import annotations

import pytest

from sidegate.policy.statement import RelationRef
from sidegate.sql import substituted


def people(table: RelationRef) -> str | None:
    return "SELECT 1 AS x FROM {table}" if table.name in ("people", "Odd Name") else None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT * FROM people", 'SELECT * FROM (SELECT 1 AS x FROM people) AS "people"'),
        ("SELECT 'é', p.x FROM  people p, t", "SELECT 'é', p.x FROM  (SELECT 1 AS x FROM people) p, t"),
        ("SELECT 1 FROM people AS z (a) -- so", "SELECT 1 FROM (SELECT 1 AS x FROM people) AS z (a) -- so"),
        ("SELECT $1 FROM public . people", 'SELECT $1 FROM (SELECT 1 AS x FROM public . people) AS "people"'),
        ('SELECT 1 FROM "Odd Name"', 'SELECT 1 FROM (SELECT 1 AS x FROM "Odd Name") AS "Odd Name"'),
        (
            "SELECT (SELECT x FROM people LIMIT 1) FROM people",
            'SELECT (SELECT x FROM (SELECT 1 AS x FROM people) AS "people" LIMIT 1) FROM (SELECT 1 AS x FROM people) AS "people"',
        ),
    ],
)
def test_a_table_becomes_a_subquery(text: str, expected: str) -> None:
    assert substituted(text, ("public",), people) == expected


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM other",
        "SELECT * FROM ONLY people",
        "SELECT * FROM people *",
        "SELECT * FROM people TABLESAMPLE bernoulli (1)",
        "WITH people AS (SELECT 1) SELECT * FROM people",
        "SELECT 1; SELECT * FROM people",
        "DELETE FROM people",
        "SELECT * FROM people WHERE",
        "",
    ],
)
def test_what_cannot_be_spliced_has_no_text(text: str) -> None:
    assert substituted(text, ("public",), people) is None


def test_a_with_query_hides_the_unqualified_name_alone() -> None:
    text = "WITH people AS (SELECT 1 AS x) SELECT * FROM people, public.people AS p"
    assert substituted(text, ("public",), people) == (
        "WITH people AS (SELECT 1 AS x) SELECT * FROM people, (SELECT 1 AS x FROM public.people) AS p"
    )
