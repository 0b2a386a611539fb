from __future__ import annotations

import pytest

from sidegate.sql import CopyOut, copy_out_options, copy_out_query

TEXT = CopyOut("text", "\t", "\\N", False, '"', '"', (), None)
CSV = CopyOut("csv", ",", "", False, '"', '"', (), None)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("COPY users TO STDOUT", 'SELECT * FROM "users"'),
        ('COPY app."Us""ers" (id, "S S") TO STDOUT', 'SELECT "id", "S S" FROM "app"."Us""ers"'),
        ("COPY select_ TO STDOUT;", 'SELECT * FROM "select_"'),
        ("COPY (SELECT (a), ')' FROM t) TO STDOUT", "SELECT (a), ')' FROM t"),
        ("COPY /* ( */ ( SELECT 1 -- )\n) TO STDOUT", "SELECT 1 -- )"),
        ("COPY (DELETE FROM t RETURNING (id)) TO STDOUT CSV", "DELETE FROM t RETURNING (id)"),
        ("COPY (SELECT 'é', $$)$$, E'\\')', \")\" FROM t) TO STDOUT", "SELECT 'é', $$)$$, E'\\')', \")\" FROM t"),
        ("COPY (SELECT 1 UNION (SELECT 2)) TO STDOUT (FORMAT csv)", "SELECT 1 UNION (SELECT 2)"),
        ("COPY ((SELECT 1)) TO STDOUT", "(SELECT 1)"),
        ("COPY (SELECT ARRAY[1] FROM t WHERE a IN (1, 2)) TO STDOUT", "SELECT ARRAY[1] FROM t WHERE a IN (1, 2)"),
        ("COPY users FROM STDIN", None),
        ("COPY users TO '/tmp/x'", None),
        ("COPY users TO PROGRAM 'x'", None),
        ("SELECT 1", None),
        ("COPY users TO STDOUT; SELECT 1", None),
        ("COPY users TO", None),
        ("", None),
    ],
)
def test_copied_columns_are_described_by_a_query(text: str, query: str | None) -> None:
    assert query == copy_out_query(text)


@pytest.mark.parametrize("depth", [10, 100, 200, 300, 400, 480, 2000, 20_000])
def test_no_depth_raises(depth: int) -> None:
    query = "SELECT 1" + "+1" * depth
    found = copy_out_query(f"COPY ({query}) TO STDOUT")
    assert found == query if depth <= 100 else found in (query, None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", TEXT),
        ("WITH (FORMAT csv)", CSV),
        ("CSV", CSV),
        ("(FORMAT binary)", CopyOut("binary", "\t", "\\N", False, '"', '"', (), None)),
        ("BINARY", CopyOut("binary", "\t", "\\N", False, '"', '"', (), None)),
        ("(DELIMITER '|', NULL '')", CopyOut("text", "|", "", False, '"', '"', (), None)),
        ("CSV HEADER QUOTE '''' ESCAPE '\\'", CopyOut("csv", ",", "", True, "'", "\\", (), None)),
        ("(FORMAT csv, QUOTE '|')", CopyOut("csv", ",", "", False, "|", "|", (), None)),
        ("(FORMAT csv, HEADER off, FORCE_QUOTE *)", CopyOut("csv", ",", "", False, '"', '"', ("*",), None)),
        ('(FORMAT csv, HEADER 1, FORCE_QUOTE (a, "B"))', CopyOut("csv", ",", "", True, '"', '"', ("a", "B"), None)),
        ("(ENCODING 'latin1')", CopyOut("text", "\t", "\\N", False, '"', '"', (), "latin1")),
        ("(HEADER match)", None),
        ("(HEADER maybe)", None),
        ("(FORMAT parquet)", None),
        ("(FREEZE)", None),
        ("(SOMETHING 1)", None),
        ("(DELIMITER ',,')", None),
        ("(NULL 'a', NULL 'b')", None),
    ],
)
def test_options_are_told_or_the_whole_is_refused(options: str, expected: CopyOut | None) -> None:
    assert expected == copy_out_options(f"COPY t TO STDOUT {options}")


def test_options_of_what_is_no_copy_out_are_none() -> None:
    assert copy_out_options("COPY t FROM STDIN") is None
    assert copy_out_options("SELECT 1") is None
