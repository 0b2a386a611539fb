"""What is quiet, and what steers: an expression may be answered only where nothing but its value tells of the columns in it."""

from __future__ import annotations

import pytest

from sidegate.policy.statement import SqlStatement, columns_reaching
from sidegate.sql import Analysis, analyse
from sidegate.sql.functions import SAFE
from sidegate.sql.lineage import _QUIET_NODES, QUIET, QUIET_PARTS

QUIET_EXPRESSIONS = (
    *("upper(ssn)", "ssn || '-' || id", "coalesce(ssn, 'x')", "ssn::text", "ssn::varchar(3)"),
    *("left(ssn, 3)", "substr(ssn, 1, 3)", "substring(ssn FROM 2 FOR 3)", "lpad(ssn, 9, '0')", "trim(ssn)"),
    *("CASE WHEN id > 1 THEN ssn END", "(SELECT ssn FROM users u WHERE u.id = users.id)", "ARRAY(SELECT ssn FROM users u)"),
    *("ROW(id, ssn)", "ARRAY[ssn]", 'ssn COLLATE "C"', "max(ssn)", "string_agg(ssn, ',')", "json_build_object('a', ssn)"),
    *("concat_ws('/', name, ssn)", "sum(ssn)", "md5(upper(btrim(ssn)))"),
)
STEERING_EXPRESSIONS = (
    *("replace(ssn, '-', '')", "split_part(ssn, '-', 1)", "translate(ssn, '-', '')", "strpos(ssn, '1')", "position('1' IN ssn)"),
    *("trim(LEADING '1' FROM ssn)", "btrim(ssn, '1')", "greatest(ssn, 'x')", "least(ssn, 'x')", "quote_literal(ssn)"),
    *("max(CASE WHEN id > 1 THEN ssn ELSE 'x' END)", "sum(coalesce(ssn, 9))", "min(upper(ssn))"),
    *("ssn::int", "ssn = 'x'", "nullif(ssn, 'x')", "CASE ssn WHEN 'x' THEN 1 END", "CASE WHEN ssn > 'x' THEN 1 END"),
    *("ssn LIKE '1%'", "ssn ~ '1'", "ssn IS NULL", "ssn IN ('x')", "substring(ssn FROM '(a+)+$')", "substr(ssn, id)"),
    *("left(name, ssn::int)", "repeat(ssn, 1000)", "regexp_replace(ssn, 'a', 'b')", "ssn::text[]", "to_char(ssn, 'x')"),
    *("count(*) FILTER (WHERE ssn > 'x')", "array_agg(id ORDER BY ssn)", "row_number() OVER (ORDER BY ssn)", "-ssn", "1 / ssn"),
    *(
        "string_agg(DISTINCT ssn, ',')",
        "EXISTS (SELECT 1 FROM users u WHERE u.ssn = 'x')",
        "ssn || ssn::int",
        "unnest(ARRAY[ssn])",
    ),
    *(
        "own.upper(ssn)",
        "(SELECT id FROM users u ORDER BY u.ssn LIMIT 1)",
        "json_object_agg(ssn, id)",
        "concat_ws(ssn::xml::text)",
    ),
)


# Some value would make each of these a gigabyte long, where another leaves it short: an error, or the time, would tell which.
LONG = "x" * 2000
DOUBLED = "SELECT ssn || ssn AS a FROM users"
for _ in range(12):
    DOUBLED = f"SELECT a || a AS a FROM ({DOUBLED}) q"
GROWING = (
    f"SELECT replace(replace(replace(left(ssn, 1), '5', '{LONG}'), 'x', '{LONG}'), 'x', '{LONG}') FROM users",
    f"SELECT {'quote_ident(' * 28}translate(ssn, '5', 'a'){')' * 28} FROM users",
    f"SELECT {'to_json(' * 28}ssn{')::text' * 28} FROM users",
    f"SELECT {'concat(' * 3}{', '.join(['ssn'] * 20)}{')' * 3} || 'x' FROM (SELECT concat({', '.join(['ssn'] * 60)}) AS ssn FROM users) q",
    DOUBLED,
    f"WITH a AS (SELECT concat({', '.join(['ssn'] * 40)}) AS ssn FROM users), b AS (SELECT concat({', '.join(['ssn'] * 40)}) AS ssn FROM a) TABLE b",
    "SELECT string_agg(a, '') FROM (SELECT string_agg(ssn, '') AS a FROM users) q, generate_series(1, 9999)",
    "SELECT string_agg(rtrim(left(ssn, 1), '5'), '') FROM users, generate_series(1, 999999999)",
    "SELECT string_agg(greatest(ssn, '5'), '') FROM users, generate_series(1, 999999999)",
    f"SELECT greatest(ssn, '5{LONG * 40}') FROM users",
    "SELECT greatest(ssn, $1) FROM users",
    "SELECT ltrim(rpad(left(ssn, 1), 100000000, '5'), '5') FROM users",
    "SELECT ltrim(concat(ssn::char(10000000)), '5 ') FROM users",
)
STILL_QUIET = (
    f"SELECT {' || '.join(['ssn', 'name'] * 40)} FROM users",
    "SELECT string_agg(name || ' ' || ssn, ', ') FROM users",
    " UNION ALL ".join(["SELECT concat(ssn, name, id) FROM users"] * 30),
    "SELECT lpad(ssn, 40), ssn::char(11), concat(ssn, '-', ssn) FROM users",
    "WITH a AS (SELECT json_build_object('s', ssn, 'n', name) AS j FROM users) SELECT json_agg(j) FROM a",
)


def one(text: str) -> SqlStatement:
    analysis = analyse(text, ("public",))
    assert isinstance(analysis, Analysis)
    (statement,) = analysis.statements
    return statement


def is_named(statement_columns: object, name: str) -> bool:
    return any(column.name in (name, "*") for column in statement_columns)  # type: ignore[attr-defined]


@pytest.mark.parametrize("expression", QUIET_EXPRESSIONS)
def test_what_is_quiet_reaches_the_output_and_does_not_steer(expression: str) -> None:
    statement = one(f"SELECT {expression} FROM users")
    assert not is_named(statement.columns_steering, "ssn")
    assert is_named(statement.lineage[0].columns, "ssn")


@pytest.mark.parametrize("text", GROWING)
def test_what_may_make_a_value_very_long_steers(text: str) -> None:
    assert is_named(one(text).columns_steering, "ssn")


@pytest.mark.parametrize("text", STILL_QUIET)
def test_what_makes_a_value_a_little_longer_is_quiet(text: str) -> None:
    assert not is_named(one(text).columns_steering, "ssn")


@pytest.mark.parametrize("expression", STEERING_EXPRESSIONS)
def test_what_may_fail_choose_or_linger_steers(expression: str) -> None:
    statement = one(f"SELECT {expression} FROM users")
    assert is_named(statement.columns_steering, "ssn")
    assert is_named(columns_reaching(statement), "ssn")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT id FROM (SELECT id, upper(ssn) AS u FROM users) q WHERE u > 'x'",
        "SELECT 1 FROM users JOIN LATERAL (SELECT upper(ssn) AS u) l ON l.u = 'x'",
        "WITH w AS (SELECT upper(ssn) AS u FROM users) SELECT max(u) FILTER (WHERE u > 'x') FROM w",
        "INSERT INTO t SELECT upper(ssn) FROM users",
        "CREATE TABLE t AS SELECT upper(ssn) AS u FROM users",
        "SELECT upper(ssn) FROM users UNION SELECT 'x'",
        "SELECT id FROM users WHERE (SELECT upper(ssn)) = 'x'",
        "UPDATE users SET name = upper(ssn)",
        "SELECT n FROM users, generate_series(1, length(ssn)) n",
        "SELECT to_jsonb(users) FROM users",
        "SELECT sum(x) FROM (SELECT ssn AS x FROM users UNION ALL SELECT 9) q",
        "SELECT max(x) FROM (SELECT ssn AS x FROM users UNION ALL SELECT 'guess') q, generate_series(1, 9)",
        "WITH w(x) AS (SELECT ssn FROM users UNION ALL VALUES (9)) SELECT avg(w.x) FROM w",
        "SELECT * FROM users UNION ALL SELECT * FROM users",
    ],
)
def test_what_is_made_of_a_column_steers_where_it_decides_or_is_stored(text: str) -> None:
    assert is_named(one(text).columns_steering, "ssn")


def test_every_output_knows_what_reaches_it() -> None:
    statement = one("SELECT id, upper(ssn) AS u, count(*), q.* FROM users, (SELECT name FROM users) q")
    assert [(o.name, sorted(c.name for c in o.columns), o.is_computed, o.is_run) for o in statement.lineage] == [
        ("id", ["id"], False, False),
        ("u", ["ssn"], True, False),
        ("count", [], True, False),
        ("name", ["name"], False, False),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM orders NATURAL JOIN (SELECT upper(ssn) AS x, id FROM users) q",
        "SELECT * FROM orders JOIN (SELECT upper(ssn) AS x, id FROM users) q USING (id)",
        "SELECT * FROM (orders JOIN (SELECT upper(ssn) AS x, id FROM users) q USING (id)) AS j (a)",
    ],
)
def test_columns_that_a_join_merges_leave_no_place_certain(text: str) -> None:
    (only,) = one(text).lineage
    assert only.is_run
    assert is_named(only.columns, "ssn")


def test_recursion_mixes_all_its_columns() -> None:
    statement = one("WITH RECURSIVE r(a, b) AS (SELECT id, ssn FROM users UNION ALL SELECT b, a FROM r) SELECT a FROM r")
    assert is_named(statement.lineage[0].columns, "ssn")


def test_every_quiet_function_is_a_safe_built_in() -> None:
    assert set(QUIET) <= set(SAFE)


@pytest.mark.parametrize(
    ("text", "compared"),
    [
        ("SELECT 1 FROM users WHERE ssn = $1", True),
        ("SELECT 1 FROM users WHERE $1 = users.ssn AND id > 3", True),
        ("SELECT 1 FROM users WHERE ssn = 'x'", False),
        ("SELECT 1 FROM users WHERE ssn = $1 OR $1 = users.ssn", True),
        ("SELECT 1 FROM users WHERE ssn = $1 OR ssn = $2", False),
        ("SELECT ssn = $1 FROM users UNION ALL SELECT u.ssn = $2 FROM users u", False),
        ("SELECT 1 FROM users WHERE ssn = ANY ($1)", False),
        ("SELECT 1 FROM users WHERE ssn <> $1", False),
        ("SELECT 1 FROM users WHERE ssn OPERATOR(own.=) $1", False),
        ("SELECT 1 FROM users WHERE ssn = $1 OR ssn > 'x'", False),
        ("SELECT 1 FROM users WHERE ssn = $1 ORDER BY ssn", False),
        ("SELECT 1 FROM users WHERE upper(ssn) = $1", False),
    ],
)
def test_equality_with_a_parameter_is_told_from_other_uses(text: str, compared: bool) -> None:
    statement = one(text)
    assert is_named(statement.columns_steering, "ssn")
    assert is_named(statement.columns_compared, "ssn") is compared


def test_every_quiet_node_is_told_in_words() -> None:
    assert set(QUIET_PARTS) == set(_QUIET_NODES)
