"""DROP of tables under a limit on deleted rows: counted before, checked after, and over every limit where that can't be done."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from sidegate.policy.config import RuleAction, RuleConfig, StatementMatch
from tests.integration.gate.conftest import config_with, connect, running
from tests.support.gate import GateProcess, gate_config, open_policy
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

LIMIT = RuleConfig("few", RuleAction.DENY, statements=StatementMatch(kinds=("Delete",), rows_more_than=10))
TABLES = """
CREATE SCHEMA dropped AUTHORIZATION owner; SET ROLE owner; SET search_path = dropped;
CREATE TABLE few (id int PRIMARY KEY); INSERT INTO few SELECT generate_series(1, 10);
CREATE TABLE many (id int, few int REFERENCES few); INSERT INTO many SELECT generate_series(1, 11);
CREATE TABLE parted (id int) PARTITION BY RANGE (id);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (100); INSERT INTO parted SELECT generate_series(1, 20);
CREATE TABLE mother (id int); CREATE TABLE daughter () INHERITS (mother); INSERT INTO daughter SELECT generate_series(1, 20);
CREATE TABLE guarded (id int); INSERT INTO guarded VALUES (1); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE TYPE pair AS (id int, name text);
CREATE TABLE pairs OF pair; INSERT INTO pairs SELECT generate_series(1, 20);
CREATE FUNCTION half(int) RETURNS int IMMUTABLE LANGUAGE sql RETURN $1 / 2;
CREATE TABLE halved (id int) PARTITION BY RANGE (dropped.half(id));
CREATE TABLE halved_all PARTITION OF halved DEFAULT; INSERT INTO halved SELECT generate_series(1, 20);
CREATE MATERIALIZED VIEW seen AS SELECT generate_series(1, 20);
CREATE TABLE "Odd ""name" (id int); INSERT INTO "Odd ""name" VALUES (1);
RESET ROLE; CREATE SCHEMA small AUTHORIZATION owner; SET ROLE owner; CREATE TABLE small.one AS SELECT generate_series(1, 10)
"""
COUNTED = ("few", "many", "parted", "mother", "guarded", "pairs", "halved")
TOO_MANY = (
    "DROP TABLE dropped.many CASCADE",
    "DROP TABLE dropped.few, dropped.many CASCADE",
    "DROP TABLE IF EXISTS dropped.absent, dropped.many CASCADE",
    "DROP TABLE dropped.parted_low",
    "DROP TABLE dropped.parted",
    "DROP TABLE dropped.mother CASCADE",
    "DROP TABLE dropped.guarded",  # how many of its rows one may see says nothing of how many go
    "DROP TYPE dropped.pair CASCADE",
    "DROP FUNCTION dropped.half CASCADE",
    "DROP SCHEMA dropped CASCADE",
    "DROP OWNED BY owner",
    "ALTER TABLE dropped.many RENAME TO other; DROP TABLE dropped.other CASCADE",
    "CREATE TABLE dropped.mine (); DROP TABLE dropped.many CASCADE; CREATE TABLE dropped.many ()",
    "DROP TABLE dropped.few CASCADE; SELECT 1",
)
WITHIN = (
    "DROP TABLE dropped.few CASCADE",
    'DROP TABLE dropped."Odd ""name"',
    "DROP TABLE IF EXISTS dropped.absent, nowhere.absent",
    "DROP SCHEMA small CASCADE",
    "DROP MATERIALIZED VIEW dropped.seen",
    "ALTER TABLE dropped.few DROP COLUMN id CASCADE",
    "CREATE TABLE dropped.mine (id int); ALTER TABLE dropped.mine ADD w int; DROP TABLE dropped.mine",
)


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, LIMIT, role="owner")) as gate:
        yield gate


@pytest.fixture
def database(fresh_database: str, postgres: PostgresServer) -> str:
    with postgres.admin(fresh_database) as admin:
        admin.execute(TABLES)
    return fresh_database


def counts(postgres: PostgresServer, database: str) -> dict[str, int]:
    with postgres.admin(database) as admin:
        return {name: admin.execute(f"SELECT count(*) FROM dropped.{name}").fetchall()[0][0] for name in COUNTED}


@pytest.mark.parametrize("statement", WITHIN)
def test_what_takes_no_more_rows_than_the_limit_is_dropped(
    gate: GateProcess, issuer: Issuer, database: str, statement: str
) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("BEGIN")
        client.execute(statement)
        client.execute("ROLLBACK")
    with connect(gate, issuer, database, "owner") as client:  # another session: what was taken back counts in the first
        client.execute(statement)


def test_what_is_dropped_is_gone_for_the_statements_behind_it(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("SET search_path = small, dropped")
        client.execute("DROP TABLE one", prepare=True)
        with pytest.raises(psycopg.errors.UndefinedTable):
            client.execute("SELECT * FROM one")
        client.execute("DROP SCHEMA small CASCADE")
        assert client.execute("SELECT count(*) FROM many").fetchone() == (11,)


@pytest.mark.parametrize("statement", TOO_MANY)
def test_what_takes_more_is_refused_and_keeps_no_lock(
    gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str, statement: str
) -> None:
    before = counts(postgres, database)
    with connect(gate, issuer, database, "owner") as client:
        for transaction in ("", "BEGIN"):
            if transaction:
                client.execute(transaction)
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="refused by sidegate"):
                client.execute(statement)
            with postgres.admin(database) as admin:
                locks = "SELECT relation::regclass FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND pid <> pg_backend_pid()"
                assert admin.execute(locks).fetchall() == []
        client.execute("ROLLBACK")
    assert counts(postgres, database) == before


def test_rows_that_an_older_snapshot_does_not_show_are_not_taken_for_none(
    gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str
) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        client.execute("SELECT count(*) FROM dropped.guarded")
        with postgres.admin(database) as admin:
            admin.execute("INSERT INTO dropped.few SELECT generate_series(11, 60)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="isn't counted"):
            client.execute("DROP TABLE dropped.few CASCADE")
    with postgres.admin(database) as admin:
        assert admin.execute("SELECT count(*) FROM dropped.few").fetchone() == (60,)


def test_operators_of_the_clients_own_count_nothing_away(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("CREATE FUNCTION dropped.never(oid, oid) RETURNS bool LANGUAGE sql AS 'SELECT false'")
        client.execute("CREATE OPERATOR dropped.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = dropped.never)")
        client.execute("SET search_path = dropped, pg_catalog")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="refused by sidegate"):
            client.execute("DROP TABLE many CASCADE")


def test_a_temporary_table_of_ones_own_is_dropped_however_full(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("CREATE TEMP TABLE mine AS SELECT generate_series(1, 1000) AS id")
        client.execute("DROP TABLE mine")


def test_rows_dropped_and_rows_deleted_share_one_limit(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("DELETE FROM dropped.many WHERE id <= 3")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="refused by sidegate"):
            client.execute("DROP TABLE small.one")
        client.execute('DROP TABLE dropped."Odd ""name"')


def test_the_limit_holds_for_who_may_not_delete_at_all(postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    policy = open_policy("owner", rules=[LIMIT], kinds=("DDL", "Read", "Transaction", "Session"))
    with running(gate_config(postgres, issuer, policies=[policy])) as gate, connect(gate, issuer, database, "owner") as client:
        client.execute("DROP TABLE dropped.few CASCADE")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="refused by sidegate"):
            client.execute("DROP TABLE dropped.many")
