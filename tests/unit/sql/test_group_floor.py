"""How many values a group has at least: read from HAVING, and put there."""

from __future__ import annotations

import pytest

from sidegate.sql import Analysis, analyse, floored


def floors(text: str) -> list[int]:
    analysis = analyse(text, ("public",))
    assert isinstance(analysis, Analysis)
    return [output.group_floor for output in analysis.statements[0].lineage]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT sum(pay) FROM staff", 'SELECT sum(pay) FROM staff HAVING pg_catalog.count("pay") >= 5 '),
        (
            "SELECT team, avg(s.pay) FROM staff s WHERE id > $1 GROUP BY 1 ORDER BY 1 LIMIT 3",
            'SELECT team, avg(s.pay) FROM staff s WHERE id > $1 GROUP BY 1  HAVING pg_catalog.count("s"."pay") >= 5 ORDER BY 1 LIMIT 3',
        ),
        (
            "SELECT sum(pay) FROM staff HAVING max(id) > 3 OR true;",
            'SELECT sum(pay) FROM staff HAVING ( max(id) > 3 OR true\n) AND pg_catalog.count("pay") >= 5 ;',
        ),
    ],
)
def test_adds_what_is_missing(text: str, expected: str) -> None:
    assert floored(text, 5) == expected
    assert 5 in floors(expected)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT sum(pay) FROM staff HAVING count(pay) >= 5",
        "SELECT max(pay) FROM staff",
        "SELECT sum(pay) FROM staff, other",
        "SELECT sum(pay) FROM staff TABLESAMPLE bernoulli (10)",
        "SELECT sum(pay) FROM (SELECT pay FROM staff) q",
        "SELECT sum(pay) FILTER (WHERE id = 7) FROM staff",
        "SELECT sum(DISTINCT pay) FROM staff",
        "SELECT sum(pay) OVER () FROM staff",
        "SELECT sum(pay + 1) FROM staff",
        "SELECT sum(pay) FROM staff GROUP BY unnest(ARRAY[1])",
        "SELECT unnest(ARRAY[1]) AS g, sum(pay) FROM staff GROUP BY g",
        "SELECT sum(pay) FROM staff UNION ALL SELECT 1",
        "WITH staff AS (SELECT 1 AS pay) SELECT sum(pay) FROM staff",
        "SELECT own.sum(pay) FROM staff",
        "SELECT sum(pay) FROM staff; SELECT 1",
    ],
)
def test_leaves_alone_what_has_it_or_cannot_have_it(text: str) -> None:
    assert floored(text, 5) is None


@pytest.mark.parametrize(
    "text",
    [
        "SELECT sum(pay) FROM staff HAVING count(pay) >= 5 OR true",
        "SELECT sum(pay) FROM staff HAVING count(id) >= 5",
        "SELECT sum(pay) FROM staff HAVING count(*) >= 5",
        "SELECT sum(pay) FROM staff HAVING count(pay) > 5",
        "SELECT sum(pay) FROM staff HAVING count(pay) >= $1",
        "SELECT sum(pay) FROM staff HAVING NOT count(pay) >= 5",
        "SELECT sum(pay) FROM staff, generate_series(1, 9) HAVING count(pay) >= 5",
        "SELECT 1 FROM (SELECT sum(pay) AS s FROM staff HAVING count(pay) >= 5) q WHERE s > 3",
        "WITH w AS (SELECT pay FROM staff, other) SELECT * FROM (SELECT sum(pay) FROM w HAVING count(pay) >= 5) q",
    ],
)
def test_a_condition_that_does_not_bound_the_group_counts_for_nothing(text: str) -> None:
    assert set(floors(text)) == {0}


def test_another_constant_makes_another_floor() -> None:
    assert floors("SELECT sum(pay) FROM staff HAVING count(pay) >= 2") == [2]
    assert floors("SELECT sum(pay) FROM staff HAVING count(pay) >= 7 AND count(pay) >= 3") == [7]


def test_a_comment_at_the_end_hides_no_condition() -> None:
    made = floored("SELECT sum(pay) FROM staff -- the end", 5)
    assert made == 'SELECT sum(pay) FROM staff -- the end\n HAVING pg_catalog.count("pay") >= 5 '
