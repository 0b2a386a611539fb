"""Random SELECTs on a real PostgreSQL: a column that isn't said to steer can't be seen, once results of its origin are masked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from sidegate.sql import Analysis, analyse
from tests.support.postgres_server import PostgresServer
from tests.unit.sql import generated
from tests.unit.sql.origins import Origin, RefusedError, describe, reached, relation_is, steers

SCHEMA = Path(__file__).parents[1] / "unit/sql/schema.sql"
EXAMPLES = int(os.environ.get("SQL_EXAMPLES", "150"))
OTHER = {
    "id": "id + 100",
    '"Id"': '"Id" + 100',
    "manager_id": "(manager_id + 3) % 7",
    "user_id": "(user_id + 3) % 7",
    "total": "(total + 30) % 70",
}


@pytest.fixture(scope="module")
def target(postgres: PostgresServer) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    name = postgres.create_database(template=None)
    with postgres.admin(name) as connection:
        connection.execute(SCHEMA.read_text().encode())
        connection.execute("ALTER TABLE orders DROP CONSTRAINT orders_user_id_fkey")
    with psycopg.connect(postgres.dsn("postgres", name, "unix")) as connection:
        connection.execute("SET statement_timeout = '2s'")
        connection.commit()
        yield connection


def rows_of(target: psycopg.Connection[tuple[Any, ...]], text: str, hidden: list[int]) -> list[str]:
    found = target.execute(text.encode()).fetchall()
    return sorted(repr(["***" if number in hidden else value for number, value in enumerate(row)]) for row in found)


def is_same(
    target: psycopg.Connection[tuple[Any, ...]], text: str, hidden: list[int], table: str, name: str, *, is_in_order: bool = False
) -> bool:
    """Whether other values in the column leave the result as it was. `is_in_order`: with the rows laid anew, so that no tie can differ."""
    target.execute("SAVEPOINT other")
    if is_in_order:
        for every in generated.TABLES:
            target.execute(f"CREATE TEMP TABLE laid ON COMMIT DROP AS SELECT * FROM {every} ORDER BY 1".encode())
            target.execute(f"TRUNCATE {every}; INSERT INTO {every} SELECT * FROM laid ORDER BY 1; DROP TABLE laid".encode())
        target.execute(f"UPDATE {table} SET {name} = {name}".encode())
    before = rows_of(target, text, hidden)
    target.execute(f"UPDATE {table} SET {name} = {OTHER.get(name, f'md5({name})')}".encode())
    after = rows_of(target, text, hidden)
    target.execute("ROLLBACK TO SAVEPOINT other")
    return before == after


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(query=generated.select())
def test_a_column_that_does_not_steer_cannot_be_seen(target: psycopg.Connection[tuple[Any, ...]], query: generated.Query) -> None:
    analysis = analyse(query.sql, ("public",))
    assert isinstance(analysis, Analysis)
    (statement,) = analysis.statements
    target.rollback()
    try:
        columns = describe(target, query.sql)
        target.rollback()
        rows_of(target, query.sql, [])
    except (RefusedError, psycopg.Error):
        target.rollback()
        return
    for number, column in enumerate(columns):
        if column.origin is not None:
            assert number in reached(statement, column.origin, len(columns)), (query.sql, column)
            assert any(relation_is(ref, column.origin) for ref in statement.reads)
    for table, names in generated.TABLES.items():
        schema, _, bare = table.rpartition(".")
        for name in names:
            origin = Origin(schema or "public", bare.strip('"'), name.strip('"'))
            if steers(statement, origin):
                continue
            lineage = reached(statement, origin, len(columns))
            hidden = [
                n for n, column in enumerate(columns) if column.origin == origin or (column.origin is None and n in lineage)
            ]
            if not is_same(target, query.sql, hidden, table, name):
                assert is_same(target, query.sql, hidden, table, name, is_in_order=True), (query.sql, origin)
