"""Definitions that a session's own transaction has changed, and those that somebody's lock hides: masks hold, and nobody waits for long."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest

from sidegate.policy.config import ColumnMatch, RuleAction, RuleConfig, StatementMatch
from tests.integration.gate.conftest import config_with, connect, error_in, running, wire
from tests.support import wire_messages as m
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

MASK = RuleConfig("ssn", RuleAction.MASK, columns=(ColumnMatch("ssn"),))
LIMIT = RuleConfig("few", RuleAction.DENY, statements=StatementMatch(kinds=("Delete",), rows_more_than=3))
OBJECTS = """
CREATE SCHEMA lab AUTHORIZATION owner; SET ROLE owner;
CREATE TABLE lab.people (id int PRIMARY KEY, ssn text, note text); INSERT INTO lab.people VALUES (1, '856-45-6789', 'plain');
CREATE VIEW lab.shown AS SELECT id, ssn AS number, note FROM lab.people; CREATE VIEW lab.plain AS SELECT id, note FROM lab.people;
CREATE TABLE lab.other (id int); CREATE VIEW lab.others AS SELECT id FROM lab.other; INSERT INTO lab.other VALUES (7);
CREATE TABLE lab.many (id int); INSERT INTO lab.many SELECT generate_series(1, 10);
"""
SECRET = "856-45-6789"
SOON_S = 8.0  # a reader that waited for the session's own lock took 30 s and was then refused


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, MASK, role="owner")) as gate:
        yield gate


@pytest.fixture
def database(fresh_database: str, postgres: PostgresServer) -> str:
    with postgres.admin(fresh_database) as admin:
        admin.execute(OBJECTS)
    return fresh_database


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
@pytest.mark.parametrize(
    "change",
    [
        "DROP VIEW lab.plain",
        "ALTER VIEW lab.shown RENAME COLUMN note TO remark",
        "ALTER TABLE lab.people ADD COLUMN more int",
        "CREATE OR REPLACE VIEW lab.others AS SELECT id, 1 AS one FROM lab.other",
        "DROP TABLE lab.people CASCADE",
    ],
)
def test_a_session_goes_on_after_changing_a_view_in_its_transaction(
    gate: GateProcess, issuer: Issuer, database: str, change: str, isolation: str
) -> None:
    began = time.monotonic()
    with connect(gate, issuer, database, "owner") as client:
        client.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        client.execute(change)
        client.execute("SAVEPOINT here")
        if "DROP TABLE" not in change:
            rows = client.execute("SELECT * FROM lab.shown").fetchall()
            assert len(rows) == 1
            assert SECRET not in str(rows)
            if isolation == "READ COMMITTED":
                assert "plain" in str(rows)
        assert client.execute("SELECT count(*) FROM lab.other").fetchall() == [(1,)]
        client.execute("ROLLBACK TO here")
        client.execute("ROLLBACK")
        assert client.execute("SELECT id, note FROM lab.shown").fetchall() == [(1, "plain")]
        assert SECRET not in str(client.execute("SELECT * FROM lab.shown").fetchall())
    assert time.monotonic() - began < SOON_S


@pytest.mark.parametrize("ending", ["ROLLBACK", "COMMIT"])
@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_a_failed_transaction_with_a_view_locked_can_be_ended(
    gate: GateProcess, issuer: Issuer, database: str, ending: str, extended: bool
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        for text in ("BEGIN", "DROP VIEW lab.plain"):
            client.send(m.query(text))
            client.receive_until_ready()
        client.send(m.query("SELECT 1/0"))
        assert error_in(client.receive_until_ready()).sqlstate == "22012"
        began = time.monotonic()
        client.send(*([m.parse(ending), m.bind(), m.execute(), m.sync()] if extended else [m.query(ending)]))
        assert m.CommandComplete("ROLLBACK") in client.receive_until_ready()
        assert time.monotonic() - began < SOON_S / 8  # nothing was read for it
        assert client.rows("SELECT id FROM lab.plain") == [(b"1",)]


def test_what_the_own_transaction_defined_is_known(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with connect(gate, issuer, database, "owner") as client, connect(gate, issuer, database, "owner") as other:
        client.execute("BEGIN")
        client.execute("CREATE TABLE lab.fresh (id int, note text, ssn text)")
        client.execute("INSERT INTO lab.fresh VALUES (1, 'mine', '856-45-6789')")
        assert [row[:2] for row in client.execute("SELECT * FROM lab.fresh").fetchall()] == [(1, "mine")]
        assert SECRET not in str(client.execute("SELECT * FROM lab.fresh").fetchall())
        client.execute("CREATE VIEW lab.seen AS SELECT id, note FROM lab.fresh")
        assert client.execute("TABLE lab.seen").fetchall() == [(1, "mine")]
        other.execute("TABLE lab.other")
        client.execute("COMMIT")
        assert other.execute("TABLE lab.seen").fetchall() == [(1, "mine")]
        assert SECRET not in str(other.execute("TABLE lab.fresh").fetchall())


def test_a_definition_that_was_taken_back_counts_no_more(
    gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str
) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("BEGIN")
        client.execute("SAVEPOINT here")
        client.execute("DROP VIEW lab.shown")
        client.execute("CREATE VIEW lab.shown AS SELECT id, note AS number, note FROM lab.people")
        assert client.execute("SELECT number FROM lab.shown").fetchall() == [("plain",)]
        client.execute("ROLLBACK TO here")
        assert SECRET not in str(client.execute("SELECT number FROM lab.shown").fetchall())
        client.execute("CREATE OR REPLACE VIEW lab.plain AS SELECT id, note FROM lab.people WHERE id < 100")
        assert client.execute("SELECT note FROM lab.plain").fetchall() == [("plain",)]
        client.execute("ROLLBACK")
        with postgres.admin(database) as admin:
            admin.execute("CREATE OR REPLACE VIEW lab.plain AS SELECT id, ssn AS note FROM lab.people")
        assert SECRET not in str(client.execute("SELECT note FROM lab.plain").fetchall())


def test_a_trigger_of_the_own_transaction_counts(postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    with postgres.admin(database) as admin:
        admin.execute(
            "CREATE FUNCTION lab.wipe() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM lab.many; RETURN NEW; END'"
        )
    with running(config_with(postgres, issuer, LIMIT, role="owner")) as gate, connect(gate, issuer, database, "owner") as client:
        client.execute("BEGIN")
        client.execute("CREATE TRIGGER wipes BEFORE INSERT ON lab.other FOR EACH ROW EXECUTE FUNCTION lab.wipe()")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="it changes 10 rows"):
            client.execute("INSERT INTO lab.other VALUES (1)")


def test_somebody_elses_lock_masks_what_it_hides_and_nothing_else(
    postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    with running(config_with(postgres, issuer, MASK, role="owner")) as gate, postgres.admin(database) as admin:
        admin.execute("BEGIN; ALTER VIEW lab.plain RENAME TO plainly; LOCK TABLE lab.other IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        with connect(gate, issuer, database, "owner") as client:
            assert client.execute("SELECT id, note FROM lab.shown").fetchall() == [(1, "plain")]
            assert SECRET not in str(client.execute("SELECT number FROM lab.shown").fetchall())
            assert time.monotonic() - began < SOON_S
            admin.execute("COMMIT")
            client.execute("CREATE TABLE lab.any ()")  # the catalog is read anew
            assert client.execute("TABLE lab.plainly").fetchall() == [(1, "plain")]
