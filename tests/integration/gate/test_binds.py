"""Bind at a real target, which plans the statement then and folds IMMUTABLE functions: what must be approved or measured isn't planned before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from sidegate.policy.config import ApprovalConfig, RuleAction, RuleConfig, StatementMatch
from tests.integration.gate.conftest import config_with, connect, error_in, running, wire
from tests.integration.gate.test_holds import decide, held
from tests.support import wire_messages as m
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

HELD = RuleConfig(
    "held", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("Delete",)), approval=ApprovalConfig(approver_groups=("dba",))
)
MEASURED = RuleConfig("measured", RuleAction.DENY, StatementMatch(kinds=("Update",), rows_more_than=100))

# A sequence keeps what was called, whatever becomes of the transaction.
TRACE = """
    CREATE SEQUENCE planned;
    GRANT ALL ON SEQUENCE planned TO public;
    CREATE FUNCTION trace(value int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
        'BEGIN PERFORM nextval(''public.planned''); RETURN value; END'
"""
DELETE = "DELETE FROM accounts WHERE id = trace($1)"
TRACED = "UPDATE accounts SET balance = 1 WHERE id <= trace($1)"
UPDATE = "UPDATE accounts SET balance = 1 WHERE id <= $1 RETURNING id"


@pytest.fixture(scope="module")
def open_gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, role="owner")) as gate:
        yield gate


@pytest.fixture(scope="module")
def holding(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, HELD, role="owner")) as gate:
        yield gate


@pytest.fixture(scope="module")
def measuring(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, MEASURED, role="owner")) as gate:
        yield gate


@pytest.fixture
def database(postgres: PostgresServer, fresh_database: str) -> str:
    with postgres.admin(fresh_database) as admin:
        admin.execute(TRACE)
    return fresh_database


def was_planned(server: PostgresServer, database: str) -> bool:
    with server.admin(database) as admin:
        row = admin.execute("SELECT is_called FROM planned").fetchone()
    assert row is not None
    return bool(row[0])


def test_the_target_runs_functions_at_bind(
    open_gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    """A statement that is simply allowed is bound when its client says so."""
    with wire(open_gate, issuer, database, "owner") as client:
        client.send(m.parse("SELECT trace($1)", "", [23]), m.bind([b"7"]), m.flush())
        assert [client.receive(), client.receive()] == [m.PARSE_COMPLETE, m.BIND_COMPLETE]
        assert was_planned(postgres, database)
        client.send(m.execute(), m.sync())
        assert m.DataRow((b"7",)) in client.receive_until_ready()


@pytest.mark.parametrize(
    "behind", [m.sync(), m.flush() + m.sync(), m.describe_portal() + m.sync()], ids=["sync", "flush", "describe"]
)
@pytest.mark.parametrize(("name", "statement"), [("holding", DELETE), ("measuring", TRACED)])
@pytest.mark.parametrize("opening", ["", "BEGIN"], ids=["alone", "in-transaction"])
def test_a_bind_without_its_execute_plans_nothing(
    request: pytest.FixtureRequest, postgres: PostgresServer, issuer: Issuer, database: str, opening: str, name: str, statement: str,
    behind: bytes,
) -> None:  # fmt: skip
    with wire(request.getfixturevalue(name), issuer, database, "owner") as client:
        if opening:
            client.ask(opening)
        client.send(m.parse(statement, "", [23]), m.bind([b"7"]), behind)
        replies = client.receive_until_ready()
        error = error_in(replies)
        assert (error.severity, error.sqlstate) == ("ERROR", "42501")
        assert "right behind its Bind" in error.fields["H"]
        assert replies[-1] == m.ReadyForQuery("E" if opening else "I")
        if opening:
            client.ask("ROLLBACK")
        assert not was_planned(postgres, database)
        assert client.rows("SELECT count(*) FROM accounts") == [(b"5000",)]


@pytest.mark.parametrize("verb", ["approve", "deny"])
@pytest.mark.parametrize("opening", ["", "BEGIN"], ids=["alone", "in-transaction"])
def test_what_is_held_is_planned_once_it_is_approved(
    holding: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str, opening: str, verb: str
) -> None:
    with wire(holding, issuer, database, "owner") as client:
        if opening:
            client.ask(opening)
        client.send(m.parse(DELETE, "s", [23]), m.sync())  # as drivers prepare
        client.receive_until_ready()
        client.send(m.bind([b"7"], statement="s"), m.describe_portal(), m.execute(), m.sync())
        name = held(client)
        assert not was_planned(postgres, database)
        decide(holding, issuer, verb, name)
        replies = client.receive_until_ready()
        assert (m.CommandComplete("DELETE 1") in replies) is (verb == "approve")
        assert was_planned(postgres, database) is (verb == "approve")


def test_psycopg_runs_what_is_measured_in_each_of_its_ways(measuring: GateProcess, issuer: Issuer, database: str) -> None:
    with connect(measuring, issuer, database, "owner") as connection:
        for _ in range(3):
            assert len(connection.execute(UPDATE.replace("$1", "%s"), [5], prepare=True).fetchall()) == 5
        assert len(connection.execute(UPDATE.replace("$1", "%s"), [5], binary=True).fetchall()) == 5
        with connection.pipeline():
            cursors = [connection.execute(UPDATE.replace("$1", "%s"), [count]) for count in (1, 2, 3)]
            assert [len(cursor.fetchall()) for cursor in cursors] == [1, 2, 3]
        with connection.cursor() as cursor:
            cursor.executemany(UPDATE.replace("$1", "%s"), [(4,), (5,)], returning=True)
            assert len(cursor.fetchall()) == 4


async def test_asyncpg_runs_what_is_measured_and_is_told_why_a_portal_of_it_is_refused(
    measuring: GateProcess, issuer: Issuer, database: str
) -> None:
    parameters: dict[str, Any] = dict(measuring.endpoint(issuer).parameters("owner", database))
    parameters["database"] = parameters.pop("dbname")
    connection = await asyncpg.connect(**parameters)
    assert len(await connection.fetch(UPDATE, 5)) == 5
    statement = await connection.prepare(UPDATE)
    assert len(await statement.fetch(6)) == 6
    await connection.executemany(UPDATE, [(1,), (2,)])
    async with connection.transaction():
        assert [row["id"] async for row in connection.cursor(UPDATE, 3)] == [1, 2, 3]
    with pytest.raises(asyncpg.InsufficientPrivilegeError) as raised:
        async with connection.transaction():
            await connection.cursor(UPDATE, 3)  # Bind and Sync; its Execute would come with the first fetch
    assert "right behind its Bind" in raised.value.hint
    assert await connection.fetchval("SELECT count(*) FROM accounts WHERE balance = 1") == 6
    await connection.close()


def test_a_flush_between_a_bind_and_the_execute_that_came_with_it_waits_for_that(
    measuring: GateProcess, issuer: Issuer, database: str
) -> None:
    """So pg8000 sends."""
    with wire(measuring, issuer, database, "owner") as client:
        client.send(m.parse(UPDATE, "", [23]), m.bind([b"7"]), m.flush(), m.execute(), m.flush(), m.sync())
        assert m.CommandComplete("UPDATE 7") in client.receive_until_ready()
        client.send(m.parse(UPDATE, "", [23]), m.bind([b"7"]), m.flush())
        assert "its Bind came without its Execute" in error_in([client.receive(), client.receive()]).message
