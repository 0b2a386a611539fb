"""Composite values in binary format: masked fields and finds are replaced inside, and the other fields are there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from sidegate.mask.compounds import record_parts
from sidegate.policy.config import ColumnMatch, RuleAction, RuleConfig
from tests.integration.gate.conftest import config_with, connect, running
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

RULES = (
    RuleConfig("secret", RuleAction.MASK, columns=(ColumnMatch("password"),)),
    RuleConfig("found", RuleAction.MASK, detectors=("email",)),
)
SECRET, MAIL = b"hunter2-is-planted", b"planted.person@example.com"
TABLES = f"""
CREATE SCHEMA compound AUTHORIZATION owner; SET ROLE owner; SET search_path = compound;
CREATE TYPE contact AS (gone int, phone text, mail text, password text);
CREATE TYPE nest AS (id int, inner_one contact);
CREATE TABLE people (gone int, id int, home contact, homes contact[], deep nest);
INSERT INTO people SELECT 0, 1, c, ARRAY[c, NULL, c], ROW(5, c)::nest
  FROM (SELECT ROW(1, '+1-555-0100', '{MAIL.decode()}', '{SECRET.decode()}')::contact c) made;
ALTER TYPE contact DROP ATTRIBUTE gone;
ALTER TABLE people DROP COLUMN gone;
CREATE VIEW seen AS SELECT id, home FROM people;
CREATE TABLE plain (id int, note text); INSERT INTO plain VALUES (7, 'nothing here')
"""


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, *RULES, role="owner")) as gate:
        yield gate


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> str:
    name = postgres.create_database()
    with postgres.admin(name) as admin:
        admin.execute(TABLES)
    return name


def cell(client: psycopg.Connection[Any], query: str, *, binary: bool = True) -> bytes | None:
    cursor = client.cursor(binary=binary)
    cursor.execute(query)
    assert cursor.pgresult is not None
    return cursor.pgresult.get_value(0, 0)


def values(record: bytes | None) -> list[bytes | None]:
    parts = record_parts(record or b"")
    assert parts is not None
    return [part.value for part in parts]


SHOWN = [b"+1-555-0100", b"[masked]", b"[masked]"]


def test_fields_are_masked_one_by_one(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("SET search_path = compound")
        assert values(cell(client, "SELECT home FROM people")) == SHOWN
        assert values(cell(client, "SELECT h FROM (SELECT home AS h FROM people) q")) == SHOWN
        number, inner = values(cell(client, "SELECT deep FROM people"))
        assert (number, values(inner)) == (b"\0\0\0\5", SHOWN)
        whole = values(cell(client, "SELECT p FROM people p"))
        assert whole[0] == b"\0\0\0\1"
        assert values(whole[1]) == SHOWN
        several = cell(client, "SELECT homes FROM people") or b""
        assert several.count(b"+1-555-0100") == 2
        assert several.count(b"[masked]") == 4


@pytest.mark.parametrize(
    "query",
    [
        *("SELECT home FROM people", "SELECT homes FROM people", "SELECT deep FROM people", "SELECT p FROM people p"),
        *("SELECT home FROM seen", "SELECT s FROM seen s", "SELECT home AS password FROM people", "SELECT ROW(home) FROM people"),
        *("SELECT ARRAY[home] FROM people", "SELECT home FROM people UNION ALL SELECT home FROM people"),
    ],
)
@pytest.mark.parametrize("binary", [False, True])
def test_no_secret_comes_through_in_either_format(
    gate: GateProcess, issuer: Issuer, database: str, query: str, binary: bool
) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("SET search_path = compound")
        try:
            shown = cell(client, query, binary=binary) or b""
        except psycopg.errors.InsufficientPrivilege:
            return
    assert SECRET not in shown
    assert MAIL not in shown


def test_finds_in_records_that_no_table_has(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with connect(gate, issuer, database, "owner") as client:
        made = f"SELECT ROW(1, 'x {MAIL.decode()} y', ARRAY['{MAIL.decode()}', 'z'])"
        first, second, third = values(cell(client, made))
        assert (first, second) == (b"\0\0\0\1", b"x [masked] y")
        assert third is not None
        assert third.endswith(b"\0\0\0\x08[masked]\0\0\0\1z")
        assert values(cell(client, "SELECT p FROM compound.plain p")) == [b"\0\0\0\7", b"nothing here"]


def test_positions_are_those_of_now(gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str) -> None:
    """The columns moved past the gate, after it read the catalog: a row of two as before, with the masked one at the other place."""
    with postgres.admin(database) as admin, connect(gate, issuer, database, "owner") as client:
        admin.execute("CREATE TABLE compound.moved (a text, password text); INSERT INTO compound.moved VALUES ('a', 'b')")
        admin.execute("ALTER TABLE compound.moved OWNER TO owner")
        assert values(cell(client, "SELECT m FROM compound.moved m")) == [b"a", b"[masked]"]
        admin.execute("ALTER TABLE compound.moved DROP COLUMN a; ALTER TABLE compound.moved ADD COLUMN z text DEFAULT 'z'")
        first = cell(client, "SELECT m FROM compound.moved m")  # bound under other definitions than it is read by: masked whole
        assert first is None or values(first) == [b"[masked]", b"z"]
        assert values(cell(client, "SELECT m FROM compound.moved m")) == [b"[masked]", b"z"]
