"""The analysis against a real PostgreSQL: origins of result columns, relations read, and values that must not matter."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from sidegate.policy.statement import SqlStatement, StatementKind
from sidegate.sql import Analysis, analyse
from tests.unit.sql.cases import SEARCH_PATH, Case, load
from tests.unit.sql.origins import Described, Origin, column_is, describe, reached, relation_is, steers

# What this server refuses: it is built without libxml, and a change must be a WITH query of the top level.
REFUSED = ("XML", "WITH b AS (UPDATE")
QUERIES = [
    case
    for case in load("queries", "derived_tables", "joins", "functions_in_from", "with_queries", "changes")
    if not any(part in case.values[0].sql for part in REFUSED)
]
PLAIN_QUERIES = [
    case for case in QUERIES if not case.values[0].expected.get("writes") and not case.values[0].expected.get("creates")
]
# A function called as if it were a column: only the catalog tells, and what comes back has no origin.
FUNCTION_AS_COLUMN = "u.full_name"
TABLES = {
    "users": ("id", "name", "ssn", "email", "manager_id"),
    "orders": ("id", "user_id", "total", "note"),
    "app.users": ("id", "login", "ssn"),
    "app.secrets": ("id", "value"),
    '"Upper"': ("Id", "SSN"),
    "people": ("id", "home", "mood"),
    "docs": ("id", "body", "tags"),
}


def one(text: str) -> SqlStatement:
    analysis = analyse(text, SEARCH_PATH)
    assert isinstance(analysis, Analysis)
    (statement,) = analysis.statements
    return statement


def columns_of(target: psycopg.Connection[tuple[Any, ...]], text: str) -> list[Described]:
    target.execute("DECLARE c CURSOR FOR SELECT * FROM users") if "CURRENT OF c" in text else None
    return describe(target, text)


@pytest.mark.parametrize("case", QUERIES)
def test_lineage_has_every_origin_that_the_target_tells_in_its_place(
    target: psycopg.Connection[tuple[Any, ...]], case: Case
) -> None:
    statement = one(case.sql)
    described = columns_of(target, case.sql)
    for number, column in enumerate(described):
        if column.origin is not None and not statement.creates:
            assert number in reached(statement, column.origin, len(described)), column


@pytest.mark.parametrize("case", QUERIES)
def test_every_output_column_has_an_origin(target: psycopg.Connection[tuple[Any, ...]], case: Case) -> None:
    statement = one(case.sql)
    origins = [column.origin for column in columns_of(target, case.sql) if column.origin is not None]
    for ref in statement.columns_output - statement.columns_steering:
        if case.sql.find(FUNCTION_AS_COLUMN) >= 0:
            continue
        if any(field == ref for _, field in statement.fields_output):
            names = {name for name, field in statement.fields_output if field == ref}
            assert names == {None} or names & {column.name for column in columns_of(target, case.sql)}, ref
            continue
        if ref.name == "*":
            assert origins
            continue
        could_be = [o for o in origins if ref.name in ("*", o.column) and (ref.relation is None or relation_is(ref.relation, o))]
        # the same name may steer as another relation's candidate, where it is merged by USING
        merged = any(other.name in (ref.name, "*") for other in statement.columns_steering)
        assert could_be or merged, ref


@pytest.mark.parametrize(
    "case", [c for c in PLAIN_QUERIES if not any(part in c.values[0].sql for part in ("DELETE", "FOR ", "row(", "SELECT q FROM"))]
)
def test_reads_are_what_the_target_reads(target: psycopg.Connection[tuple[Any, ...]], case: Case) -> None:
    """A view depends on what its query reads. Left out: what no view can hold."""
    statement = one(case.sql)
    columns = columns_of(target, case.sql)
    names = sql.SQL(", ").join(sql.Identifier(f"c{number}") for number in range(len(columns)))
    target.execute(sql.SQL("CREATE VIEW seen ({}) AS {}").format(names, sql.SQL(case.sql)))
    rows = target.execute(
        """SELECT DISTINCT n.nspname, c.relname FROM pg_depend d JOIN pg_rewrite r ON d.objid = r.oid
        JOIN pg_class c ON c.oid = d.refobjid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
        AND r.ev_class = 'seen'::regclass AND c.relkind IN ('r', 'v') AND c.relname <> 'seen'"""
    ).fetchall()
    for schema, name in rows:
        assert any(relation_is(ref, Origin(schema, name, "")) for ref in statement.reads), name
    # An inner query may read a table of which the view needs no column; what is read by name is still there.
    found = {(schema, name) for schema, name in rows}
    for ref in statement.reads:
        assert ref.schemas is not None
        assert any((schema, ref.name) in found for schema in ref.schemas) or "app.secrets" in case.sql


@pytest.mark.parametrize(
    "case", [c for c in PLAIN_QUERIES if not {FUNCTION_AS_COLUMN, "TABLESAMPLE"} & set(c.values[0].sql.replace(",", " ").split())]
)
def test_values_of_a_column_that_does_not_steer_change_nothing_but_that_column(
    target: psycopg.Connection[tuple[Any, ...]], case: Case
) -> None:
    """Other values in a column: the result is the same once columns of that origin are masked. Left out: functions as columns, chance."""
    statement = one(case.sql)
    columns = columns_of(target, case.sql)
    before = target.execute(case.sql.encode()).fetchall()

    def is_field(name: str, origin: Origin) -> bool:
        """What a gate masks by name: a field of a row, or a whole row with the column in it."""
        fields = [field for field in statement.fields_output if column_is(field[1], origin)]
        return any(name == (origin.column if field is None else field) for field, _ in fields)

    for table, names in TABLES.items():
        schema, _, bare = table.rpartition(".")
        for name in names:
            origin = Origin(schema or "public", bare.strip('"'), name)
            if steers(statement, origin):
                continue
            target.execute("SAVEPOINT other")
            target.execute("SET LOCAL session_replication_role = replica")
            target.execute(f'UPDATE {table} SET "{name}" = {other_value(name)}'.encode())
            after = target.execute(case.sql.encode()).fetchall()
            target.execute("ROLLBACK TO SAVEPOINT other")
            lineage = reached(statement, origin, len(columns))
            hidden = [
                number
                for number, column in enumerate(columns)
                if column.origin == origin or is_field(column.name, origin) or (column.origin is None and number in lineage)
            ]
            assert masked(before, hidden) == masked(after, hidden), origin


def other_value(name: str) -> str:
    if name == "id" or name == "Id":
        return f'"{name}" + 100'
    if name in ("manager_id", "user_id", "total"):
        return f"({name} + 3) % 7"
    return {"home": "ROW('elsewhere', 'x')::address", "mood": "'glad'", "body": "'{\"b\": 9}'", "tags": "'{z}'"}.get(
        name, f'md5("{name}")'
    )


def masked(rows: list[tuple[Any, ...]], hidden: list[int]) -> list[str]:
    shown = [tuple("***" if number in hidden else value for number, value in enumerate(row)) for row in rows]
    return sorted(map(repr, shown))


def test_a_copy_is_described_column_by_column(target: psycopg.Connection[tuple[Any, ...]]) -> None:
    from sidegate.sql import copy_out_query

    query = copy_out_query("COPY users (ssn, id) TO STDOUT")
    assert query is not None
    assert [Origin("public", "users", "ssn"), Origin("public", "users", "id")] == [c.origin for c in describe(target, query)]


def test_kinds_say_read_for_whatever_returns_rows_of_tables(target: psycopg.Connection[tuple[Any, ...]]) -> None:
    for case in QUERIES:
        statement = one(case.values[0].sql)
        if any(column.origin for column in columns_of(target, case.values[0].sql)):
            assert StatementKind.READ in statement.kinds
        target.rollback()
