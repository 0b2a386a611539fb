"""What a real PostgreSQL says of a statement: the origin of each result column, and the relations that it reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
from psycopg.pq import ExecStatus

from sidegate.policy.statement import ColumnRef, RelationRef, SqlStatement


class Origin(NamedTuple):
    schema: str
    table: str
    column: str


class Described(NamedTuple):
    name: str
    origin: Origin | None  # None: an expression


class RefusedError(Exception):
    """The target doesn't take the statement."""


def describe(connection: psycopg.Connection[tuple[Any, ...]], sql: str) -> list[Described]:
    """The result columns of a statement, without running it."""
    pgconn = connection.pgconn
    prepared = pgconn.prepare(b"", sql.encode())
    if prepared.status != ExecStatus.COMMAND_OK:
        raise RefusedError(prepared.error_message.decode())
    return described(connection, pgconn.describe_prepared(b""))


def described(connection: psycopg.Connection[tuple[Any, ...]], result: Any) -> list[Described]:
    """RowDescription with origins by name. A whole row has its table's OID and column 0: it is an expression."""
    found = []
    for number in range(result.nfields):
        table, column = result.ftable(number), result.ftablecol(number)
        name = result.fname(number).decode()
        found.append(Described(name, _origin(connection, table, column) if table and column else None))
    return found


def _origin(connection: psycopg.Connection[tuple[Any, ...]], table: int, column: int) -> Origin:
    query = """SELECT n.nspname, c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE a.attrelid = %s AND a.attnum = %s"""
    row = connection.execute(query, (table, column)).fetchone()
    assert row is not None
    return Origin(*row)


def relation_is(ref: RelationRef, origin: Origin) -> bool:
    return ref.name == origin.table and (ref.schemas is None or origin.schema in ref.schemas)


def column_is(ref: ColumnRef, origin: Origin) -> bool:
    """Whether the reference may mean this column."""
    return ref.name in ("*", origin.column) and (ref.relation is None or relation_is(ref.relation, origin))


def steers(statement: SqlStatement, origin: Origin) -> bool:
    return any(column_is(ref, origin) for ref in statement.columns_steering)


def outputs(statement: SqlStatement, origin: Origin) -> bool:
    return any(column_is(ref, origin) for ref in statement.columns_output)


def reached(statement: SqlStatement, origin: Origin, width: int) -> list[int]:
    """The result's columns that this one may reach by the statement's lineage, counted from both ends around stars."""
    runs = [number for number, output in enumerate(statement.lineage) if output.is_run]
    after = len(statement.lineage) - runs[-1] - 1 if runs else 0
    found = set()
    for number, output in enumerate(statement.lineage):
        if not any(column_is(ref, origin) for ref in output.columns):
            continue
        if not runs or number < runs[0]:
            found.add(number)
        elif number > runs[-1]:
            found.add(width - len(statement.lineage) + number)
        else:
            found |= set(range(runs[0], width - after))
    return sorted(found)
