"""Fields of whole rows: masked by their attribute, whatever they are called and wherever the row came through; the others are shown."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from sidegate.policy.config import ColumnMatch, RuleAction, RuleConfig
from tests.integration.gate.conftest import config_with, connect, running
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

MASK = RuleConfig("secret", RuleAction.MASK, columns=(ColumnMatch("password"),))
SECRET = "hunter2-is-planted"
TABLES = f"""
CREATE SCHEMA rows AUTHORIZATION owner; SET ROLE owner; SET search_path = rows;
CREATE TABLE people (id int, name text, password text); INSERT INTO people VALUES (1, 'ada', '{SECRET}');
CREATE VIEW renamed AS SELECT id, name, password AS pw FROM people;
CREATE VIEW whole AS SELECT p FROM people p;
CREATE VIEW apart AS SELECT (p).* FROM (SELECT p FROM people p OFFSET 0) q;
CREATE TABLE harmless (id int, note text); INSERT INTO harmless VALUES (7, 'plain');
CREATE SEQUENCE numbers
"""
SHOWN = {
    "SELECT (p).* FROM (SELECT p FROM people p) q": [1, "ada"],
    "SELECT (q.p).name, (q.p).password FROM (SELECT p FROM people p) q": ["ada"],
    "WITH q AS (SELECT p FROM people p) SELECT (p).name AS x, (p).password AS y FROM q": ["ada"],
    "WITH q AS MATERIALIZED (SELECT p AS r FROM people p) SELECT (r).id, r FROM q": [1],
    "SELECT (r).name, (r).pw FROM (SELECT r FROM renamed r OFFSET 0) q": ["ada"],
    "SELECT (r).* FROM (SELECT r FROM renamed r OFFSET 0) q": [1, "ada"],
    "SELECT (r).pw AS name, (r).id FROM renamed r": [1],
    "SELECT p, (p).id FROM (SELECT * FROM people) p": [1],
    "SELECT (h).*, h FROM (SELECT h FROM harmless h) q": [7, "plain", (7, "plain")],
    "INSERT INTO people VALUES (1, 'ada', '" + SECRET + "') RETURNING (people).name, (people).password": ["ada"],
    "SELECT * FROM (SELECT p, id FROM people p) q": [1],
    "SELECT last_value, is_called FROM numbers": [1, False],
}
# Refused, or masked: no matter which, if nothing comes through.
HIDDEN = (
    "SELECT p FROM people p",
    "SELECT password AS x FROM (SELECT (p).* FROM people p) q",
    "SELECT x FROM (SELECT (p).password AS x FROM people p) q",
    "SELECT b AS x FROM (SELECT (p).* FROM people p) q (a)",
    "SELECT pw AS x FROM (SELECT (r).* FROM renamed r) q",
    "SELECT (p).password || '' AS x FROM people p",
    "SELECT ((q).p).password AS x FROM (SELECT p FROM people p) q",
    "SELECT (w.p).password AS x FROM whole w",
    "SELECT (p).* FROM whole",
    "SELECT password AS x FROM apart",
    "SELECT p FROM whole",
    "SELECT p FROM people p UNION ALL SELECT p FROM people p",
    "SELECT (p).* FROM (SELECT p FROM people p) q ORDER BY password",
    "SELECT (r).* FROM (SELECT r FROM renamed r) q ORDER BY pw",
    "SELECT array_agg(p) FROM people p",
    "SELECT to_json(p) FROM people p",
    "SELECT (array_agg(p))[1].password FROM people p",
    "CREATE TEMP TABLE mine AS SELECT (p).password AS x FROM people p",
    "CREATE TEMP TABLE mine AS SELECT p FROM people p",
    "SELECT (SELECT p FROM people p)",
    "SELECT ((SELECT p FROM people p)).password AS x",
    "SELECT l.* FROM people p, LATERAL (SELECT (p).password AS x) l",
    "SELECT (p).password AS x FROM people p GROUP BY p",
)


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, MASK, role="owner")) as gate:
        yield gate


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> str:
    name = postgres.create_database()
    with postgres.admin(name) as admin:
        admin.execute(TABLES)
    return name


def rows_of(client: psycopg.Connection[tuple[object, ...]], statement: str, *, binary: bool) -> tuple[list[object], str]:
    """The values of the first row, and every byte of the answer as text."""
    cursor = client.cursor(binary=binary)
    cursor.execute(statement)
    result = cursor.pgresult
    assert result is not None
    raw = [result.get_value(0, number) for number in range(result.nfields)]
    return list(cursor.fetchone() or ()), repr(raw)


@pytest.mark.parametrize("statement", SHOWN)
@pytest.mark.parametrize("binary", [False, True])
def test_masked_fields_are_masked_and_the_others_shown(
    gate: GateProcess, issuer: Issuer, database: str, statement: str, binary: bool
) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("SET search_path = rows")
        values, raw = rows_of(client, statement, binary=binary)
    assert SECRET not in raw
    for expected in SHOWN[statement]:
        assert expected in values or (isinstance(expected, tuple) and str(expected[0]) in raw), (values, raw)


@pytest.mark.parametrize("statement", HIDDEN)
@pytest.mark.parametrize("binary", [False, True])
def test_a_field_that_cant_be_told_is_masked_or_refused(
    gate: GateProcess, issuer: Issuer, database: str, statement: str, binary: bool
) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("SET search_path = rows")
        try:
            _, raw = rows_of(client, statement, binary=binary)
        except psycopg.Error as error:  # of the gate, or of the target
            raw = str(error)
        assert SECRET not in raw


def test_what_copy_takes_of_a_row_is_masked_too(gate: GateProcess, issuer: Issuer, database: str) -> None:
    query = "SELECT (q).id, (q).password AS x, q FROM (SELECT * FROM rows.people) q"
    with connect(gate, issuer, database, "owner") as client, client.cursor().copy(f"COPY ({query}) TO STDOUT") as copy:
        data = b"".join(bytes(part) for part in copy)
    assert data.startswith(b"1\t")
    assert SECRET.encode() not in data
