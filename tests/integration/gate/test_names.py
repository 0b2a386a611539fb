"""What a session may keep by name at a real target: statements, portals and cursors, by SQL and by the protocol."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from tests.integration.gate.conftest import (
    config_with,
    error_in,
    forget_high_water,
    high_water_mib,
    running,
    wire,
)
from tests.support import wire_messages as m
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer
from tests.support.wire import WireClient

MIB = 1 << 20
FILLER = "x" * MIB

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, role="owner")) as gate:
        yield gate


@pytest.fixture
def database(fresh_database: str) -> str:
    return fresh_database


def prepare(client: WireClient, number: int) -> None:
    client.send(m.query(f"PREPARE p{number} AS SELECT '{FILLER}'"))


def declare(client: WireClient, number: int) -> None:
    client.send(m.query(f"DECLARE c{number} CURSOR WITH HOLD FOR SELECT '{FILLER}'"))


def parse(client: WireClient, number: int) -> None:
    client.send(m.parse(f"SELECT '{FILLER}'", f"p{number}"), m.sync())


@pytest.mark.parametrize("step", [prepare, declare, parse])
def test_a_session_that_hoards_names_is_ended_with_the_way_forward(
    gate: GateProcess, issuer: Issuer, database: str, step: Callable[[WireClient, int], None]
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        for number in range(100):
            step(client, number)
            first = client.receive()
            if isinstance(first, m.ErrorResponse):
                break
            client.receive_until_ready()
        assert 10 < number < 70
        assert isinstance(first, m.ErrorResponse)
        assert (first.severity, first.sqlstate) == ("FATAL", "54000")
        assert "DEALLOCATE" in first.fields["H"]
        assert client.is_closed_by_peer()


def test_what_is_closed_makes_room(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        for number in range(80):
            declare(client, number)
            client.receive_until_ready()
            client.ask(f"CLOSE c{number}")
        for _ in range(80):
            client.ask("BEGIN")
            client.ask(f"DECLARE c CURSOR FOR SELECT '{FILLER}'")
            assert client.ask("COMMIT")[-1] == m.ReadyForQuery("I")
        assert client.rows("SELECT 1") == [(b"1",)]


@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT"])
@pytest.mark.parametrize("close", ["CLOSE c", "CLOSE ALL"])
def test_a_cursor_that_was_closed_stays_closed_whatever_becomes_of_the_transaction(
    gate: GateProcess, issuer: Issuer, database: str, close: str, end: str
) -> None:
    """What the gate forgets at CLOSE must be gone at the target for good, or another cursor of the name could hide it."""
    with wire(gate, issuer, database, "owner") as client:
        client.ask("DECLARE c CURSOR WITH HOLD FOR SELECT 1")
        client.ask("BEGIN")
        client.ask("SAVEPOINT s")
        client.ask(close)
        client.ask("ROLLBACK TO SAVEPOINT s")
        client.ask(end)
        assert client.rows("SELECT name FROM pg_cursors") == []
        assert error_in(client.ask("FETCH 1 FROM c")).sqlstate == "34000"


def test_a_cursor_by_sql_is_read_by_the_protocol_and_back(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        client.ask("BEGIN")
        client.ask("DECLARE c CURSOR FOR SELECT 1")
        client.send(m.execute("c"), m.sync())
        assert m.DataRow((b"1",)) in client.receive_until_ready()
        client.send(m.parse("SELECT 2"), m.bind(portal="p"), m.sync())
        client.receive_until_ready()
        assert m.DataRow((b"2",)) in client.ask("FETCH 1 FROM p")
        client.ask("CLOSE p")
        assert error_in(client.ask("FETCH 1 FROM p")).sqlstate == "34000"


def test_a_pipeline_of_large_parameters_is_paced(gate: GateProcess, issuer: Issuer, database: str) -> None:
    """The target keeps its short answers back until they fill a packet: the gate would keep every parameter until then."""
    with wire(gate, issuer, database, "owner") as client:
        client.ask("SELECT 1")
        client.send(m.parse("SELECT length($1)", "s"), m.sync())
        client.receive_until_ready()
        before = forget_high_water(gate.pid)
        frames = m.bind([b"x" * MIB], statement="s") + m.execute()
        sender = threading.Thread(target=lambda: client.send(frames * 200, m.sync()))
        sender.start()
        replies = client.receive_until_ready()
        sender.join()
        assert sum(isinstance(reply, m.DataRow) for reply in replies) == 200
        grown = high_water_mib(gate.pid) - before
        assert grown < 100
