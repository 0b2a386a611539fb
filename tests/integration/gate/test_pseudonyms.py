"""Pseudonyms with a real PostgreSQL and real drivers: shown in both formats, asked with in every way, and no way to make one of a guess."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import asyncpg
import psycopg
import pytest

from sidegate.policy.config import ColumnMatch, RuleAction, RuleConfig
from sidegate.policy.decision import MaskStrategy
from tests.integration.gate.conftest import config_with, connect, running
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

NAMES = ("ssn", "account", "total", "key", "code", "short")
MASK = RuleConfig(
    "ids", RuleAction.MASK, columns=tuple(ColumnMatch(name) for name in NAMES), strategy=MaskStrategy.PSEUDONYM
)  # fmt: skip
SSN, KEY = "583-68-2629", "8f14e45f-ceea-467f-a6c5-0d1b1f1a2b3c"
TABLES = f"""
CREATE SCHEMA ids AUTHORIZATION owner; SET ROLE owner; SET search_path = ids;
CREATE TABLE people (id int, ssn text, account int, total numeric, key uuid, code char(16), short varchar, name text);
INSERT INTO people VALUES (1, '{SSN}', 73512345, 98765432109876, '{KEY}', 'AB12-CD34', 'F', 'ada'), (2, '219-09-9999', 5, 1.5, NULL, 'x', 'M', 'bob');
CREATE TABLE payments (id int, ssn text, amount int); INSERT INTO payments VALUES (10, '{SSN}', 7), (11, '{SSN}', 8), (12, '219-09-9999', 9);
CREATE VIEW passed AS SELECT id, ssn AS tax_id FROM people;
CREATE VIEW computed AS SELECT id, "left"(ssn, 3) AS tax_id FROM people;
"""


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


@pytest.fixture
def client(gate: GateProcess, issuer: Issuer, database: str) -> Iterator[psycopg.Connection]:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("SET search_path = ids")
        yield client


def shown(client: psycopg.Connection, column: str, table: str = "people", *, binary: bool = False) -> object:
    row = client.cursor(binary=binary).execute(f"SELECT {column} FROM {table} WHERE id = 1").fetchone()
    assert row is not None
    return row[0]


def test_each_type_is_shown_as_another_value_of_it_in_both_formats(client: psycopg.Connection) -> None:
    for column, value in (
        ("ssn", SSN),
        ("account", 73512345),
        ("total", 98765432109876),
        ("key", uuid.UUID(KEY)),
        ("short", "F"),
    ):
        text, binary = shown(client, column), shown(client, column, binary=True)
        assert text == binary
        assert type(text) is type(value) or column == "total"
        assert text != value
        assert column == "short" or len(str(text)) == len(str(value))
    assert client.execute("SELECT account, total, key FROM people WHERE id = 2").fetchone() == (None, None, None)


@pytest.mark.parametrize("column", ["ssn", "account", "total", "key", "short"])
@pytest.mark.parametrize("binary", [False, True])
def test_a_pseudonym_finds_its_rows_as_parameter_and_as_constant(client: psycopg.Connection, column: str, binary: bool) -> None:
    pseudonym = shown(client, column)
    kind = "b" if binary and column not in ("ssn", "short") else "s"
    assert client.execute(f"SELECT id FROM people WHERE {column} = %{kind}", (pseudonym,), binary=binary).fetchall() == [(1,)]
    assert client.execute(f"SELECT id FROM people WHERE {column} = ANY(%s)", ([pseudonym],)).fetchall() == [(1,)]
    for literal in (f"'{pseudonym}'", str(pseudonym) if column in ("account", "total") else f"$${pseudonym}$$"):
        assert client.execute(f"SELECT id FROM people WHERE {column} IN ({literal}, NULL)").fetchall() == [(1,)]


def test_pseudonyms_join_tables_and_views(client: psycopg.Connection) -> None:
    people = dict(client.execute("SELECT ssn, id FROM people").fetchall())
    joined = [(people[ssn], amount) for ssn, amount in client.execute("SELECT ssn, amount FROM payments").fetchall()]
    assert sorted(joined) == [(1, 7), (1, 8), (2, 9)]
    assert shown(client, "tax_id", "passed") == shown(client, "ssn")
    assert client.execute("SELECT sum(amount) FROM payments WHERE ssn = %s", (shown(client, "ssn"),)).fetchone() == (15,)
    assert client.execute("SELECT id FROM passed WHERE tax_id = %s", (shown(client, "ssn"),)).fetchall() == [(1,)]


def test_padding_of_a_char_column_does_not_matter(client: psycopg.Connection) -> None:
    pseudonym = shown(client, "code")
    assert isinstance(pseudonym, str)
    for value in (pseudonym, pseudonym.rstrip()):
        assert client.execute("SELECT id FROM people WHERE code = %s", (value,)).fetchall() == [(1,)]
        assert client.execute(f"SELECT id FROM people WHERE code = '{value}'").fetchall() == [(1,)]


def test_another_session_has_other_pseudonyms(
    gate: GateProcess, issuer: Issuer, database: str, client: psycopg.Connection
) -> None:
    with connect(gate, issuer, database, "owner") as other:
        other.execute("SET search_path = ids")
        assert shown(other, "ssn") != shown(client, "ssn")
        assert other.execute("SELECT id FROM people WHERE ssn = %s", (shown(client, "ssn"),)).fetchall() == []


def test_a_guess_finds_nothing(client: psycopg.Connection) -> None:
    assert client.execute(f"SELECT id FROM people WHERE ssn = '{SSN}'").fetchall() == []
    assert client.execute("SELECT id FROM people WHERE ssn = %s", (SSN,)).fetchall() == []
    assert client.execute("SELECT id FROM people WHERE ssn = ANY(%s)", ([SSN],)).fetchall() == []
    assert client.execute("SELECT id FROM people WHERE account = 73512345").fetchall() == []
    assert client.execute("SELECT id FROM people WHERE short = 'F'").fetchall() == []
    assert client.execute("SELECT id FROM people WHERE NOT short = 'F'").fetchall() == []


# What would make a pseudonym of a guess, or show the value of one: refused, or nothing of either comes through.
@pytest.mark.parametrize(
    "attack",
    [
        f"SELECT '{SSN}' AS ssn",
        f"SELECT ssn FROM (VALUES ('{SSN}')) v (ssn)",
        f"SELECT ssn FROM people UNION ALL SELECT '{SSN}'",
        f"WITH g (ssn) AS (SELECT '{SSN}'::text) SELECT ssn FROM g",
        f'SELECT (jsonb_populate_record(null::people, \'{{"ssn": "{SSN}"}}\')).ssn',
        f'SELECT ssn FROM jsonb_to_record(\'{{"ssn": "{SSN}"}}\') AS r (ssn text)',
        f"INSERT INTO people (id, ssn) VALUES (3, '{SSN}') RETURNING ssn",
        f"INSERT INTO people VALUES (3, '{SSN}') RETURNING ssn",
        f"UPDATE people SET ssn = '{SSN}' WHERE id = 2 RETURNING ssn",
        f"UPDATE passed SET tax_id = '{SSN}' WHERE id = 2",
        f"CREATE TEMP TABLE mine AS SELECT '{SSN}' AS ssn",
        f"CREATE TEMP TABLE mine (ssn text DEFAULT '{SSN}')",
        f"CREATE TEMP VIEW mine (ssn) AS SELECT '{SSN}'",
        f'CREATE TEMP TABLE mine AS SELECT * FROM json_each_text(\'{{"x": "{SSN}"}}\')',
        "SELECT statement FROM pg_prepared_statements",
        "SELECT statement FROM pg_cursors",
        "SELECT current_query() FROM people WHERE ssn = '{p}'",
        "SELECT id, (SELECT current_query()) FROM people WHERE ssn = '{p}'",
        "EXPLAIN SELECT id FROM people WHERE ssn = '{p}'",
        "SELECT id FROM people WHERE account = '{p}'",
        "SELECT id FROM people WHERE key = '{p}'",
        "SELECT id FROM people WHERE ssn = '{p}'::int4::text",
        "SELECT id FROM people WHERE account = '{p}'::int4",
        "SELECT tax_id FROM computed WHERE id = 1",
        "SELECT ssn FROM people WHERE ssn = '{p}' AND nosuch = 1",
    ],
)
def test_no_statement_makes_a_pseudonym_of_a_guess_or_shows_a_value(client: psycopg.Connection, attack: str) -> None:
    pseudonym = str(shown(client, "ssn"))
    text = attack.replace("{p}", pseudonym) if "{p}" in attack else attack
    notices: list[str] = []
    client.add_notice_handler(lambda notice: notices.append(repr(notice.message_primary)))
    try:
        answer = repr(client.execute(text).fetchall())
    except psycopg.Error as error:
        answer = repr([getattr(error.diag, name) for name in dir(error.diag) if not name.startswith("_")])
    answer += repr(notices)
    assert SSN not in answer
    if SSN in attack:
        assert pseudonym not in answer


async def test_asyncpg_binds_pseudonyms_in_binary_by_the_types_that_the_target_gives(
    gate: GateProcess, issuer: Issuer, database: str
) -> None:
    endpoint = gate.endpoint(issuer)
    connection = await asyncpg.connect(
        host="127.0.0.1", port=gate.port, user="owner", password=endpoint.password("owner"), database=database, ssl=False
    )  # fmt: skip
    try:
        await connection.execute("SET search_path = ids")
        row = await connection.fetchrow("SELECT ssn, account, key, total FROM people WHERE id = 1")
        assert row is not None
        for column in ("ssn", "account", "key", "total"):
            assert await connection.fetchval(f"SELECT id FROM people WHERE {column} = $1", row[column]) == 1
            assert await connection.fetchval(f"SELECT id FROM people WHERE {column} = ANY($1)", [row[column]]) == 1
        assert await connection.fetchval("SELECT id FROM people WHERE ssn = $1", SSN) is None
        assert await connection.fetchval("SELECT id FROM people WHERE account = $1", 73512345) is None
    finally:
        await connection.close()


def test_copy_and_cursors_show_the_same_pseudonyms(client: psycopg.Connection) -> None:
    pseudonym = str(shown(client, "ssn"))
    with client.cursor().copy("COPY (SELECT ssn FROM people WHERE id = 1) TO STDOUT") as copy:
        assert b"".join(bytes(part) for part in copy) == pseudonym.encode() + b"\n"
    with client.transaction():
        client.execute("DECLARE c CURSOR FOR SELECT ssn FROM people WHERE id = 1")
        assert client.execute("FETCH c").fetchone() == (pseudonym,)
    assert client.execute("DELETE FROM payments WHERE id = 12 RETURNING ssn").fetchone() != (SSN,)


def test_statements_that_are_prepared_once_are_translated_each_time(client: psycopg.Connection) -> None:
    pseudonyms = [row[0] for row in client.execute("SELECT ssn FROM people ORDER BY id").fetchall()]
    for _ in range(3):
        found = [client.execute("SELECT id FROM people WHERE ssn = %s", (p,), prepare=True).fetchall() for p in pseudonyms]
        assert found == [[(1,)], [(2,)]]
    client.execute("SET search_path = ids, public")
    assert client.execute("SELECT id FROM people WHERE ssn = %s", (pseudonyms[0],)).fetchall() == [(1,)]


def test_a_pipeline_is_translated(client: psycopg.Connection) -> None:
    pseudonym = shown(client, "ssn")
    with client.pipeline():
        first = client.execute("SELECT id FROM people WHERE ssn = %s", (pseudonym,))
        second = client.execute("SELECT count(*) FROM payments WHERE ssn = %s", (pseudonym,))
        assert first.fetchall() == [(1,)]
        assert second.fetchone() == (2,)
