"""A view's masks follow what it is when its rows are read: also where a transaction redefined it and took that back, or a cursor was
opened before.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sidegate.policy.config import ColumnMatch, RuleAction, RuleConfig
from tests.integration.gate.conftest import config_with, running, wire
from tests.support import wire_messages as m
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer
from tests.support.wire import WireClient

MASK = RuleConfig("cards", RuleAction.MASK, columns=(ColumnMatch("card"),))
HARMLESS = "CREATE OR REPLACE VIEW customer_contacts AS SELECT id, name, email, name AS payment FROM customers"
SELECT = "SELECT payment FROM customer_contacts LIMIT 2"
MASKED = [(b"[masked]",)] * 2
NAMES = [(b"Customer 1",), (b"Customer 2",)]


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, MASK, role="owner")) as gate:
        yield gate


@pytest.fixture
def database(fresh_database: str, postgres: PostgresServer) -> str:
    with postgres.admin(fresh_database) as admin:
        admin.execute("GRANT CREATE ON SCHEMA public TO owner; ALTER VIEW customer_contacts OWNER TO owner")
    return fresh_database


def rows(replies: list[m.Reply]) -> list[tuple[bytes | None, ...]]:
    return [reply.values for reply in replies if isinstance(reply, m.DataRow)]


def run(client: WireClient, *texts: str) -> list[tuple[bytes | None, ...]]:
    """The rows of the last."""
    found: list[tuple[bytes | None, ...]] = []
    for text in texts:
        client.send(m.query(text))
        found = rows(client.receive_until_ready())
    return found


def steps(text: str) -> list[bytes]:
    return [m.parse(text), m.bind(), m.describe_portal(), m.execute()]


@pytest.mark.parametrize("back", ["ROLLBACK TO SAVEPOINT s", "ROLLBACK"])
@pytest.mark.parametrize("how", ["string", "queries", "pipeline", "pipelines"])
def test_what_a_transaction_took_back_shows_nothing_behind_it(
    gate: GateProcess, issuer: Issuer, database: str, back: str, how: str
) -> None:
    """Also if both are sent before either is answered: what the transaction read of its own definitions is void by then."""
    messages = {
        "string": [m.query(f"{back}; {SELECT}")],
        "queries": [m.query(back), m.query(SELECT)],
        "pipeline": [*steps(back), *steps(SELECT), m.sync()],
        "pipelines": [*steps(back), m.sync(), *steps(SELECT), m.sync()],
    }
    with wire(gate, issuer, database, "owner") as client:
        assert run(client, "BEGIN", "SAVEPOINT s", HARMLESS, SELECT) == NAMES
        client.send(*messages[how])
        found = rows(client.receive_until_ready())
        if how in ("queries", "pipelines"):
            found = rows(client.receive_until_ready())
        assert found == MASKED


def test_what_is_masked_may_not_be_read_by_an_expression_behind_it(gate: GateProcess, issuer: Issuer, database: str) -> None:
    asks = "SELECT count(*) FROM customer_contacts WHERE payment LIKE '4%'"
    with wire(gate, issuer, database, "owner") as client:
        assert run(client, "BEGIN", "SAVEPOINT s", HARMLESS, asks) == [(b"0",)]
        client.send(m.query("ROLLBACK TO SAVEPOINT s"), m.query(asks))
        client.receive_until_ready()
        assert any(isinstance(reply, m.ErrorResponse) for reply in client.receive_until_ready())


@pytest.mark.parametrize("is_held", [False, True], ids=["in a transaction", "WITH HOLD"])
def test_a_cursor_shows_what_it_was_opened_for(gate: GateProcess, issuer: Issuer, database: str, is_held: bool) -> None:
    declare = f"DECLARE c CURSOR {'WITH HOLD ' if is_held else ''}FOR {SELECT}"
    with wire(gate, issuer, database, "owner") as client:
        run(client, "BEGIN", declare, *(["COMMIT"] if is_held else []))
        assert run(client, HARMLESS, SELECT) == NAMES
        assert run(client, "FETCH 2 FROM c") == MASKED


def test_a_portal_shows_what_it_was_bound_for(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        run(client, "BEGIN")
        client.send(m.parse(SELECT), m.bind(portal="p"), m.sync())
        client.receive_until_ready()
        assert run(client, HARMLESS, SELECT) == NAMES
        client.send(m.execute("p"), m.sync())
        assert rows(client.receive_until_ready()) == MASKED


def test_other_definitions_change_nothing_of_an_open_cursor(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        run(client, "BEGIN", "DECLARE c CURSOR FOR SELECT name, upper(name), card FROM customers")
        for number in range(3):
            run(client, f"CREATE TABLE other_{number} (id int)", f"SELECT * FROM other_{number}")
        assert run(client, "FETCH 1 FROM c") == [(b"Customer 1", b"CUSTOMER 1", b"[masked]")]
