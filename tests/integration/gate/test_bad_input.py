"""Bad input after the login: each kind ends in a clear error, in a session that goes on in step where it can, and harms nobody else."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from sidegate.policy.config import ColumnMatch, RuleAction, RuleConfig, StatementMatch
from tests.integration.gate.conftest import config_with, error_in, last_words, metric, running, wait_for_event, wire
from tests.support import wire_messages as m
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

CARDS = RuleConfig("cards", RuleAction.MASK, columns=(ColumnMatch("card"),))
NO_DELETES = RuleConfig("no-deletes", RuleAction.DENY, statements=StatementMatch(kinds=("Delete",)))


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, CARDS, NO_DELETES)) as gate:
        yield gate


@pytest.fixture(autouse=True)
def others_go_on(gate: GateProcess, issuer: Issuer, shop: str) -> Iterator[None]:
    """Somebody who works all the while notices nothing."""
    with wire(gate, issuer, shop) as bystander:
        yield
        assert bystander.rows("SELECT card FROM customers WHERE id = 1") == [(b"[masked]",)]
        gate.assert_no_trouble()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\0\0\0\0\4", id="type 0"),
        pytest.param(b"?\0\0\0\4", id="type ?"),
        pytest.param(b"\xff\xff\xff\xff\xff", id="type 255"),
        pytest.param(m.message(b"R", b"\0\0\0\0"), id="a server's Authentication"),
        pytest.param(m.message(b"Z", b"I"), id="a server's ReadyForQuery"),
        pytest.param(m.password("x"), id="a password"),
        pytest.param(m.startup({"user": "postgres", "database": "x"}), id="a second start-up"),
        pytest.param(m.ssl_request(), id="SSLRequest"),
        pytest.param(b"Q\0\0\0\0", id="a length of 0"),
        pytest.param(b"Q\0\0\0\3", id="a length of 3"),
        pytest.param(b"Q\x7f\xff\xff\xff", id="a length of 2 GiB"),
        pytest.param(b"Q\xff\xff\xff\xff", id="a length of 4 GiB"),
        pytest.param(b"d\x7f\xff\xff\xff", id="CopyData of 2 GiB"),
        pytest.param(m.message(b"Q", b"SELECT 1"), id="a query without its end"),
        pytest.param(m.message(b"Q", b"SELECT 1\0; DELETE FROM accounts\0"), id="bytes behind a query"),
        pytest.param(m.message(b"Q", b"SELECT '\xff'\0"), id="a query that is no UTF-8"),
        pytest.param(m.message(b"P", b"\0SELECT 1\0\0\1"), id="Parse without its types"),
        pytest.param(m.message(b"P", b"\0SELECT 1\0\0\0DELETE"), id="bytes behind Parse"),
        pytest.param(m.message(b"B", b"\0\0\0\0\0\1\0\0\0\xff\0\0"), id="Bind with a value that runs over"),
        pytest.param(m.message(b"B", b"\0\0\0\0\0\1\xff\xff\xff\xfe\0\0"), id="Bind with a length of -2"),
        pytest.param(m.message(b"B", b"\0\0\0\0\0\0\0\0x"), id="bytes behind Bind"),
        pytest.param(m.message(b"B", b"\0\0\0\1\0\2\0\0\0\0"), id="Bind with a format of 2"),
        pytest.param(m.message(b"E", b"\0\0\0"), id="Execute cut"),
        pytest.param(m.message(b"E", b"\0\0\0\0\0DELETE"), id="bytes behind Execute"),
        pytest.param(m.message(b"D", b"X\0"), id="Describe of neither"),
        pytest.param(m.message(b"C", b""), id="Close of nothing"),
    ],
)
def test_what_no_client_may_send_ends_the_session(gate: GateProcess, issuer: Issuer, shop: str, data: bytes) -> None:
    with wire(gate, issuer, shop) as client:
        client.rows("SELECT 1")
        client.send(data)
        error = last_words(client)
        assert error.sqlstate == "08P01"
        assert "ProtocolRefused" in error.fields["D"]


@pytest.mark.parametrize("data", [m.message(b"S", b"x"), m.message(b"H", b"x")], ids=["Sync", "Flush"])
def test_a_body_where_there_is_none_never_reaches_the_target(gate: GateProcess, issuer: Issuer, shop: str, data: bytes) -> None:
    """The target would fail at it; the gate sends messages of its own in their place."""
    with wire(gate, issuer, shop) as client:
        client.send(data, m.query("SELECT 1"))
        replies = client.receive_until_ready(2 if data[:1] == b"S" else 1)
        assert not [reply for reply in replies if isinstance(reply, m.ErrorResponse)]
        assert m.DataRow((b"1",)) in replies


@pytest.mark.parametrize(
    "cut",
    [
        m.query("SELECT count(*) FROM accounts")[:-5],
        m.query("SELECT count(*) FROM accounts")[:3],
        m.parse("SELECT 1") + m.bind()[:-2],
        m.query("COPY audit_trail (what) FROM STDIN") + m.copy_data(b"one\n")[:-2],
        b"Q",
    ],
    ids=["in a query", "in a header", "in a pipeline", "in a COPY", "after one byte"],
)
def test_a_client_that_leaves_in_the_middle_of_a_message(
    gate: GateProcess, issuer: Issuer, postgres: PostgresServer, cut: bytes
) -> None:
    database = postgres.create_database()
    with wire(gate, issuer, database) as client:
        client.send(cut)
    postgres.wait_for_sessions(0, database, "readwrite")
    with postgres.admin(database) as admin:
        assert admin.execute("SELECT count(*) FROM audit_trail").fetchone() == (0,)
    postgres.drop_database(database)


def test_execute_before_bind_and_what_else_comes_out_of_order(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    with wire(gate, issuer, shop) as client:
        for data, sqlstate in (
            (m.execute("none"), "34000"),
            (m.bind(statement="none"), "26000"),
            (m.describe_statement("none"), "26000"),
            (m.describe_portal("none"), "34000"),
            (m.parse("SELECT 1", "twice") + m.parse("SELECT 2", "twice"), "42P05"),
            (m.bind(), "26000"),
        ):
            client.send(data, m.sync())
            assert error_in(client.receive_until_ready()).sqlstate == sqlstate
        client.send(m.copy_data(b"stray"), m.copy_done(), m.copy_fail("stray"), m.query("SELECT 1"))
        assert m.DataRow((b"1",)) in client.receive_until_ready()
        client.send(m.query("COPY audit_trail (what) FROM STDIN"), m.copy_data(b"x\n"), m.query("SELECT 1"))
        assert last_words(client).sqlstate == "08P01"


def test_a_storm_of_syncs_is_answered_one_by_one(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    with wire(gate, issuer, shop) as client:
        client.send(m.sync() * 20_000)
        assert client.receive_until_ready(20_000) == [m.ReadyForQuery("I")] * 20_000
        client.send((m.parse("SELECT 1") + m.bind() + m.execute() + m.sync()) * 2_000)
        assert client.receive_until_ready(2_000).count(m.DataRow((b"1",))) == 2_000


def test_a_session_byte_by_byte(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    with wire(gate, issuer, shop) as client:
        client.send_in_pieces(
            m.query("SELECT card FROM customers WHERE id = 2")
            + m.query("DELETE FROM accounts")
            + m.parse("SELECT card FROM customers WHERE id = $1::int")
            + m.bind([b"3"])
            + m.execute()
            + m.sync()
            + m.query("COPY (SELECT card FROM customers WHERE id = 4) TO STDOUT")
        )
        replies = client.receive_until_ready(4)
        assert replies.count(m.DataRow((b"[masked]",))) == 2
        assert m.CopyData(b"[masked]\n") in replies
        assert error_in(replies).sqlstate == "42501"


def test_a_pipeline_cut_at_every_byte_is_answered_alike(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    data = (
        m.parse("SELECT card, $1::int FROM customers WHERE id = 1")
        + m.bind([b"1"])
        + m.execute()
        + m.sync()
        + m.query("SELECT 2")
    )
    with wire(gate, issuer, shop) as client:
        client.send(data)
        expected = client.receive_until_ready(2)
        assert m.DataRow((b"[masked]", b"1")) in expected
        for cut in range(1, len(data)):
            client.send(data[:cut])
            client.send(data[cut:])
            assert client.receive_until_ready(2) == expected, cut


def test_large_statements_are_taken_or_refused_and_the_session_lives(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    with wire(gate, issuer, shop) as client:
        text = "x" * (7 << 20)
        assert client.rows(f"SELECT length('{text}')") == [(str(len(text)).encode(),)]
        for mebibytes in (17, 64):
            for extended in (False, True):
                statement = f"SELECT length('{'x' * (mebibytes << 20)}')"
                client.send(m.parse(statement) + m.bind() + m.execute() + m.sync() if extended else m.query(statement))
                error = error_in(client.receive_until_ready())
                assert (error.severity, error.sqlstate) == ("ERROR", "54000")
                assert "StatementTooLarge" in error.fields["D"]
                assert client.rows("SELECT 1") == [(b"1",)]
    assert metric(gate, "sidegate_refusals_total", reason="StatementTooLarge") >= 4


def test_an_oversized_statement_in_a_transaction_fails_the_transaction(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    with wire(gate, issuer, shop) as client:
        client.ask("BEGIN")
        client.send(m.query(f"SELECT '{'x' * (17 << 20)}'"))
        replies = client.receive_until_ready()
        assert error_in(replies).sqlstate == "54000"
        assert replies[-1] == m.ReadyForQuery("E")
        assert client.ask("ROLLBACK")[-1] == m.ReadyForQuery("I")


def test_a_large_parameter_passes(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    with wire(gate, issuer, shop) as client:
        value = b"v" * (40 << 20)
        client.send(m.parse("SELECT length($1::text)"), m.bind([value]), m.execute(), m.sync())
        assert m.DataRow((str(len(value)).encode(),)) in client.receive_until_ready()


def test_a_name_of_the_gates_own_cannot_be_guessed(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    with wire(gate, issuer, shop) as client:
        for name in ("sidegate", "sidegate:", "sidegate:0000000000000000"):
            client.send(m.parse("SELECT 1", name), m.bind(statement=name, portal=name), m.execute(name), m.sync())
            assert m.DataRow((b"1",)) in client.receive_until_ready()


def test_more_prepared_statements_than_anyone_needs_are_refused(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    with wire(gate, issuer, shop) as client:
        for start in range(0, 12_000, 1000):
            client.send(b"".join(m.parse("SELECT 1", f"s{number}") for number in range(start, start + 1000)) + m.sync())
        error = last_words(client)
        assert error.sqlstate == "54000"


@pytest.mark.timeout(120)
def test_bytes_behind_a_hold_of_the_protocol_are_bounded(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    """Nothing is answered while a statement runs; what is sent meanwhile is answered in order."""
    with wire(gate, issuer, shop) as client:
        client.send(m.query("SELECT pg_sleep(0.3)"), *(m.query(f"SELECT {number}") for number in range(5000)))
        replies = client.receive_until_ready(5001)
        rows = [reply.values[0] for reply in replies if isinstance(reply, m.DataRow)]
        assert rows == [b"", *(str(number).encode() for number in range(5000))]


def test_garbage_is_written_down(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    with wire(gate, issuer, shop) as client:
        client.send(struct.pack("!cI", b"!", 4))
        last_words(client)
    assert wait_for_event(gate, "SessionClosed")["reason"].startswith("ProtocolRefused")
