"""TRUNCATE under a row limit: counted before it runs where it can be, and over every limit where not."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from sidegate.policy.config import RuleAction, RuleConfig, StatementMatch
from tests.integration.gate.conftest import config_with, connect, running
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

LIMIT = RuleConfig("few", RuleAction.DENY, statements=StatementMatch(kinds=("Delete", "Truncate"), rows_more_than=10))
TABLES = """
CREATE SCHEMA emptied AUTHORIZATION owner; SET ROLE owner; SET search_path = emptied;
CREATE TABLE few (id int); INSERT INTO few SELECT generate_series(1, 10);
CREATE TABLE many (id int); INSERT INTO many SELECT generate_series(1, 11);
CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1);
CREATE TABLE child (parent int REFERENCES parent); INSERT INTO child SELECT 1 FROM generate_series(1, 50);
CREATE TABLE parted (id int) PARTITION BY RANGE (id);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (100); INSERT INTO parted SELECT generate_series(1, 20);
CREATE TABLE guarded (id int); INSERT INTO guarded SELECT generate_series(1, 20); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE TABLE watched (id int); INSERT INTO watched VALUES (1);
CREATE FUNCTION purge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM emptied.many; RETURN NULL; END $$;
CREATE TRIGGER purge AFTER TRUNCATE ON watched EXECUTE FUNCTION purge();
CREATE TABLE bait (id int);
CREATE FUNCTION sweep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN TRUNCATE emptied.child; RETURN NULL; END $$;
CREATE TRIGGER sweep AFTER TRUNCATE ON bait EXECUTE FUNCTION sweep();
CREATE TABLE "Odd ""name" (id int); INSERT INTO "Odd ""name" VALUES (1);
CREATE VIEW seen AS SELECT * FROM few
"""
COUNTED = ("few", "many", "child", "parted", "guarded", "watched", "bait")


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
        return {name: admin.execute(f"SELECT count(*) FROM emptied.{name}").fetchall()[0][0] for name in COUNTED}


@pytest.mark.parametrize("statement", ["TRUNCATE emptied.few", 'TRUNCATE TABLE ONLY emptied."Odd ""name" RESTART IDENTITY'])
@pytest.mark.parametrize("prepare", [False, True])
def test_empties_a_table_that_has_no_more_rows_than_the_limit(
    gate: GateProcess, issuer: Issuer, database: str, statement: str, prepare: bool
) -> None:
    table = statement.partition("emptied.")[2].removesuffix(" RESTART IDENTITY")
    with connect(gate, issuer, database, "owner") as client:
        client.execute(statement, prepare=prepare)
        assert client.execute(f"SELECT count(*) FROM emptied.{table}").fetchone() == (0,)


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE emptied.many",
        "TRUNCATE emptied.few, emptied.child",  # ten and fifty
        "TRUNCATE emptied.parent CASCADE",  # one row, and fifty that hang on it
        "TRUNCATE emptied.parted",
        "TRUNCATE emptied.guarded",  # how many of its rows one may see says nothing of how many go
        "TRUNCATE emptied.watched",  # its trigger deletes eleven
        "TRUNCATE emptied.bait",  # its trigger truncates a table of fifty
        "TRUNCATE emptied.few; TRUNCATE emptied.few",
    ],
)
def test_refuses_to_take_more_rows_than_the_limit_and_keeps_no_lock(
    gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str, statement: str
) -> None:
    before = counts(postgres, database)
    with connect(gate, issuer, database, "owner") as client:
        for transaction in ("", "BEGIN"):
            if transaction:
                client.execute(transaction)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                client.execute(statement)
            with postgres.admin(database) as admin:
                locks = "SELECT relation::regclass FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND pid <> pg_backend_pid()"
                assert admin.execute(locks).fetchall() == []
        client.execute("ROLLBACK")
    assert counts(postgres, database) == before


def test_rows_of_earlier_truncations_count(gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("TRUNCATE emptied.few")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="refused by sidegate"):
            client.execute("TRUNCATE emptied.parent, emptied.watched, emptied.child")
        client.execute("TRUNCATE emptied.few")  # it is empty by now


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_rows_that_an_older_snapshot_does_not_show_are_not_taken_for_none(
    gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str, isolation: str
) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        client.execute("SELECT count(*) FROM emptied.parent")
        with postgres.admin(database) as admin:
            admin.execute("INSERT INTO emptied.few SELECT generate_series(1, 50)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="isn't counted"):
            client.execute("TRUNCATE emptied.few")
    assert counts(postgres, database)["few"] == 60


def test_a_name_that_the_target_resolves_otherwise_than_the_gate_empties_nothing(
    gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str
) -> None:
    """A schema of the search path that isn't there yet comes before the one that the gate knows."""
    with postgres.admin(database) as admin:
        admin.execute("CREATE TABLE emptied.moved (id int); INSERT INTO emptied.moved SELECT generate_series(1, 50)")
        admin.execute("CREATE SCHEMA behind; GRANT ALL ON SCHEMA behind TO owner; CREATE TABLE behind.moved (id int)")
        admin.execute("ALTER TABLE emptied.moved OWNER TO owner; ALTER TABLE behind.moved OWNER TO owner")
    with connect(gate, issuer, database, "owner") as client:
        client.execute("SET search_path = ahead, behind")
        client.execute("SELECT count(*) FROM moved")
        with postgres.admin(database) as admin:
            admin.execute("CREATE SCHEMA ahead; GRANT ALL ON SCHEMA ahead TO owner; ALTER TABLE emptied.moved SET SCHEMA ahead")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="isn't counted"):
            client.execute("TRUNCATE moved")
    with postgres.admin(database) as admin:
        assert admin.execute("SELECT count(*) FROM ahead.moved").fetchone() == (50,)


def test_what_the_transaction_has_locked_already_is_not_taken_for_counted(
    gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str
) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("BEGIN")
        client.execute("ALTER TABLE emptied.child ADD COLUMN more int")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="isn't counted"):
            client.execute("TRUNCATE emptied.few")
        client.execute("ROLLBACK")
        client.execute("TRUNCATE emptied.few")


def test_what_the_target_refuses_is_the_targets_own_error(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with connect(gate, issuer, database, "owner") as client:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="refused by sidegate"):
            client.execute("TRUNCATE emptied.seen")
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            client.execute("TRUNCATE emptied.watched, emptied.parent")
