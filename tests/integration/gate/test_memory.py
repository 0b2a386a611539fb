"""Large cells, many rows, slow readers and writers: what passes unmasked streams, what is masked is held by the row, nothing piles up.

Memory is the process's high-water mark (VmHWM), measured anew before each step. No time is asserted.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from sidegate.policy.config import ColumnMatch, RecordingConfig, RuleAction, RuleConfig, TargetConfig
from tests.integration.gate.conftest import (
    config_with,
    forget_high_water,
    high_water_mib,
    last_words,
    replace,
    running,
    wire,
)
from tests.support import processes
from tests.support import wire_messages as m
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

CARDS = RuleConfig("cards", RuleAction.MASK, columns=(ColumnMatch("card"),))
DETECTED = RuleConfig("detected", RuleAction.MASK, detectors=("payment-card", "email"))
MIB = 1 << 20
CELL = 40_000_000
SPOOL = 30.0  # MiB that a gate may grow by while bytes only pass

pytestmark = pytest.mark.timeout(120)


def growth(gate: GateProcess, before: float) -> float:
    return high_water_mib(gate.pid) - before


@pytest.fixture(scope="module")
def plain(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer)) as gate:
        yield gate


@pytest.fixture(scope="module")
def masking(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, CARDS)) as gate:
        yield gate


@pytest.fixture(scope="module")
def detecting(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, DETECTED)) as gate:
        yield gate


@pytest.fixture(scope="module")
def large(postgres: PostgresServer) -> Iterator[str]:
    """A database with a card of 40 MB."""
    name = postgres.create_database()
    with postgres.admin(name) as admin:
        admin.execute("UPDATE customers SET card = repeat('0123456789', 4000000), notes = NULL WHERE id = 1")
    yield name
    postgres.drop_database(name)


def test_a_cell_of_40_megabytes_streams_through(plain: GateProcess, issuer: Issuer, large: str) -> None:
    with wire(plain, issuer, large) as client:
        client.rows("SELECT 1")
        before = forget_high_water(plain.pid)
        for query in ("SELECT card FROM customers WHERE id = 1", "COPY (SELECT card FROM customers WHERE id = 1) TO STDOUT"):
            client.send(m.query(query))
            size, _ = client.discard_until(m.message(b"Z", b"I"))
            assert size > CELL
        assert growth(plain, before) < SPOOL


def test_a_cell_of_40_megabytes_is_masked_by_its_column(masking: GateProcess, issuer: Issuer, large: str) -> None:
    with wire(masking, issuer, large) as client:
        client.rows("SELECT card FROM customers WHERE id = 2")
        before = forget_high_water(masking.pid)
        assert client.rows("SELECT id, card FROM customers WHERE id IN (1, 2) ORDER BY id") == [
            (b"1", b"[masked]"),
            (b"2", b"[masked]"),
        ]
        assert growth(masking, before) < 5 * CELL / MIB


def test_a_cell_of_40_megabytes_is_searched_by_detectors(detecting: GateProcess, issuer: Issuer, large: str) -> None:
    """The cards of the shop's other customers, far inside a large cell."""
    with wire(detecting, issuer, large) as client:
        client.rows("SELECT 1")
        before = forget_high_water(detecting.pid)
        query = "SELECT repeat('word ', 4000000) || ' 4111111111111111 ' || repeat('word ', 4000000)"
        ((cell,),) = client.rows(query)
        assert cell is not None
        assert b"4111111111111111" not in cell
        assert len(cell) > CELL - 100
        assert growth(detecting, before) < 10 * CELL / MIB


def test_a_row_that_is_too_large_to_be_masked_ends_the_session_with_a_word(
    masking: GateProcess, issuer: Issuer, postgres: PostgresServer
) -> None:
    name = postgres.create_database()
    with postgres.admin(name) as admin:
        admin.execute("UPDATE customers SET card = repeat('0123456789', 14000000) WHERE id = 1")
    with wire(masking, issuer, name) as client:
        client.send(m.query("SELECT card FROM customers WHERE id = 1"))
        error = last_words(client)
        assert "limit" in error.message
    postgres.drop_database(name)


def test_a_hundred_thousand_rows_are_masked(masking: GateProcess, issuer: Issuer, shop: str) -> None:
    with wire(masking, issuer, shop) as client:
        client.rows("SELECT card FROM customers LIMIT 1")
        before = forget_high_water(masking.pid)
        client.send(m.query("SELECT c.id, c.card FROM customers AS c, generate_series(1, 500)"))
        rows = 0
        while not isinstance(reply := client.receive(), m.ReadyForQuery):
            if isinstance(reply, m.DataRow):
                assert reply.values[1] == b"[masked]"
                rows += 1
        assert rows == 100_000
        assert growth(masking, before) < SPOOL


@pytest.mark.parametrize("kind", ["plain", "masking", "detecting"])
def test_a_client_that_does_not_read_holds_the_target_back_not_memory(
    kind: str, request: pytest.FixtureRequest, postgres: PostgresServer, issuer: Issuer, shop: str
) -> None:
    gate: GateProcess = request.getfixturevalue(kind)
    with wire(gate, issuer, shop) as client:
        client.rows("SELECT 1")
        before = forget_high_water(gate.pid)
        text = f"SELECT repeat('x', 1000), '{kind}', c.card FROM generate_series(1, 1000) AS n, customers AS c"
        client.send(m.query(text))
        # The target waits for room to write: everything between it and the client is full
        processes.wait_until(
            lambda: any(each.wait_event == "ClientWrite" and f"'{kind}'" in each.query for each in postgres.sessions(shop)),
            "the target to be held back",
        )
        with wire(gate, issuer, shop) as other:  # and nobody else is
            assert other.rows("SELECT 1") == [(b"1",)]
        size, _ = client.discard_until(m.message(b"Z", b"I"))
        assert size > 200_000_000
        assert growth(gate, before) < SPOOL


def test_a_target_that_does_not_read_holds_the_client_back_not_memory(
    plain: GateProcess, postgres: PostgresServer, issuer: Issuer, fresh_database: str
) -> None:
    with postgres.admin(fresh_database) as admin, wire(plain, issuer, fresh_database) as client:
        client.rows("SELECT 1")
        before = forget_high_water(plain.pid)
        with admin.transaction():
            admin.execute("LOCK TABLE audit_trail")
            client.send(m.query("COPY audit_trail (what) FROM STDIN"))
            postgres.wait_for_query("COPY audit_trail", fresh_database)
            line = m.copy_data(b"y" * 999 + b"\n") * 1000
            sender = threading.Thread(target=lambda: client.send(line * 60))
            sender.start()
            sender.join(timeout=1)
            assert sender.is_alive()  # 60 MB don't fit anywhere
            assert growth(plain, before) < SPOOL
        sender.join(timeout=60)
        client.send(m.copy_done())
        assert m.CommandComplete("COPY 60000") in client.receive_until_ready()
        assert growth(plain, before) < SPOOL


def test_a_recording_keeps_no_more_of_an_answer_than_it_is_told_to(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    def change(target: TargetConfig) -> TargetConfig:
        return replace(target, recording=RecordingConfig(max_result_bytes_per_statement=10_000))

    with running(config_with(postgres, issuer, change=change)) as gate, wire(gate, issuer, shop) as client:
        client.send(m.query("SELECT repeat('z', 1000) FROM generate_series(1, 10000)"))
        client.discard_until(m.message(b"Z", b"I"))
        client.send(m.terminate())
        assert client.read_to_end() == b""
        processes.wait_until(lambda: "SessionClosed" in gate.audit.read_text(), "the session's end")
        (recording,) = gate.state.rglob("*.sgrec")
        assert recording.stat().st_size < 40_000
