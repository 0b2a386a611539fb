"""The hand-made client against the real PostgreSQL: what it says is understood, what it hears is decoded to the last byte."""

from __future__ import annotations

import ssl

import pytest

from tests.support import wire_messages as m
from tests.support.debian_postgres import DebianPostgres
from tests.support.postgres_server import PostgresServer, password_of
from tests.support.wire import LoginRefused, WireClient


def logged_in(postgres: PostgresServer, database: str, role: str = "readwrite", application_name: str = "") -> WireClient:
    client = WireClient.tcp("127.0.0.1", postgres.port)
    client.log_in(role, database, password_of(role), application_name=application_name)
    return client


def kinds(replies: list[m.Reply]) -> list[str]:
    return [reply.name if isinstance(reply, m.Bare) else type(reply).__name__ for reply in replies]


def test_logs_in_by_scram_and_hears_key_and_parameters(postgres: PostgresServer, shop: str) -> None:
    with logged_in(postgres, shop, application_name="by hand") as client:
        assert client.key is not None
        assert len(client.key.key) == 4
        assert client.parameters["server_version"].startswith("18.")
        assert client.rows("SHOW application_name") == [(b"by hand",)]


def test_logs_in_over_the_socket_without_a_password(postgres: PostgresServer) -> None:
    with WireClient.unix(postgres.directory, postgres.port) as client:
        client.log_in("postgres", "postgres")
        assert client.rows("SELECT 1") == [(b"1",)]


def test_a_wrong_password_is_refused_with_its_sqlstate(postgres: PostgresServer, shop: str) -> None:
    with WireClient.tcp("127.0.0.1", postgres.port) as client:
        with pytest.raises(LoginRefused) as refused:
            client.log_in("readwrite", shop, "wrong")
        assert refused.value.error.sqlstate == "28P01"
        assert refused.value.error.severity == "FATAL"
        assert client.is_closed_by_peer()


def test_protocol_3_2_has_a_long_key_and_a_newer_one_is_negotiated(postgres: PostgresServer, shop: str) -> None:
    for version in (m.PROTOCOL_3_2, 0x0003270F):
        with WireClient.tcp("127.0.0.1", postgres.port) as client:
            replies = client.log_in(
                "readonly", shop, password_of("readonly"), version=version, **({"_pq_.odd": "1"} if version > 0x30002 else {})
            )
            assert client.key is not None
            assert len(client.key.key) == 32
            negotiated = [reply for reply in replies if isinstance(reply, m.NegotiateProtocolVersion)]
            expected = [] if version == m.PROTOCOL_3_2 else [m.NegotiateProtocolVersion(m.PROTOCOL_3_2, ("_pq_.odd",))]
            assert negotiated == expected


def test_the_extended_protocol_with_parameters_nulls_and_binary(postgres: PostgresServer, shop: str) -> None:
    with logged_in(postgres, shop) as client:
        client.send(
            m.parse("SELECT $1::int4 AS one, $2::text AS two", "s", [23, 25]),
            m.describe_statement("s"),
            m.bind([b"\0\0\0\7", None], statement="s", portal="p", formats=[1, 0], result_formats=[1, 0]),
            m.describe_portal("p"),
            m.execute("p"),
            m.close_portal("p"),
            m.close_statement("s"),
            m.sync(),
        )
        replies = client.receive_until_ready()
    assert kinds(replies) == [
        "ParseComplete",
        "ParameterDescription",
        "RowDescription",
        "BindComplete",
        "RowDescription",
        "DataRow",
        "CommandComplete",
        "CloseComplete",
        "CloseComplete",
        "ReadyForQuery",
    ]
    assert m.ParameterDescription((23, 25)) in replies
    assert m.DataRow((b"\0\0\0\7", None)) in replies
    row = replies[4]
    assert isinstance(row, m.RowDescription)
    assert [(field.name, field.type_oid, field.format) for field in row.fields] == [("one", 23, 1), ("two", 25, 0)]


def test_portals_suspend_and_an_error_skips_to_sync(postgres: PostgresServer, shop: str) -> None:
    with logged_in(postgres, shop) as client:
        client.send(
            m.parse("SELECT id FROM accounts ORDER BY id"), m.bind(), m.execute(max_rows=2), m.execute(max_rows=1), m.sync()
        )
        assert kinds(client.receive_until_ready()) == [
            "ParseComplete", "BindComplete", "DataRow", "DataRow", "PortalSuspended", "DataRow", "PortalSuspended", "ReadyForQuery",
        ]  # fmt: skip
        client.send(m.parse("SELECT wrong"), m.bind(), m.execute(), m.sync(), m.parse(""), m.bind(), m.execute(), m.sync())
        assert kinds(client.receive_until_ready(2)) == [
            "ErrorResponse", "ReadyForQuery", "ParseComplete", "BindComplete", "EmptyQueryResponse", "ReadyForQuery",
        ]  # fmt: skip


def test_copies_both_ways(postgres: PostgresServer, database: str) -> None:
    with logged_in(postgres, database) as client:
        client.send(m.query("COPY audit_trail (what) FROM STDIN"))
        assert client.receive() == m.CopyResponse("in", 0, (0,))
        client.send(m.copy_data(b"a\nb"), m.copy_data(b"\n"), m.copy_done())
        assert client.receive_until_ready() == [m.CommandComplete("COPY 2"), m.ReadyForQuery("I")]
        replies = client.ask("COPY (SELECT what FROM audit_trail ORDER BY id) TO STDOUT")
        assert replies[:4] == [m.CopyResponse("out", 0, (0,)), m.CopyData(b"a\n"), m.CopyData(b"b\n"), m.COPY_DONE]
        client.send(m.query("COPY audit_trail (what) FROM STDIN"), m.copy_fail("enough"))
        error = client.receive_until_ready()[1]
        assert isinstance(error, m.ErrorResponse)
        assert (error.sqlstate, error.message) == ("57014", "COPY from stdin failed: enough")


def test_notices_notifications_and_transaction_status(postgres: PostgresServer, shop: str) -> None:
    with logged_in(postgres, shop) as client:
        replies = client.ask("BEGIN; LISTEN heard; SELECT warn('x'); COMMIT")
        notice = next(reply for reply in replies if isinstance(reply, m.NoticeResponse))
        assert (notice.severity, notice.message) == ("NOTICE", "heed: x")
        assert client.ask("BEGIN")[-1] == m.ReadyForQuery("T")
        assert client.ask("SELECT 1/0")[-1] == m.ReadyForQuery("E")
        assert client.ask("ROLLBACK")[-1] == m.ReadyForQuery("I")
        with logged_in(postgres, shop) as other:
            assert other.key is not None
            other.ask("NOTIFY heard, 'you'")
            assert client.receive() == m.NotificationResponse(other.key.pid, "heard", "you")


def test_a_cancel_request_ends_a_running_statement(postgres: PostgresServer, shop: str) -> None:
    with logged_in(postgres, shop) as client, WireClient.tcp("127.0.0.1", postgres.port) as other:
        assert client.key is not None
        client.send(m.query("SELECT pg_sleep(30)"))
        postgres.wait_for_query("pg_sleep(30)", shop)
        other.send(m.cancel_request(client.key.pid, client.key.key))
        assert other.is_closed_by_peer()
        error = client.receive_until_ready()[1]
        assert isinstance(error, m.ErrorResponse)
        assert error.sqlstate == "57014"


def test_calls_a_function_by_its_oid(postgres: PostgresServer, shop: str) -> None:
    with logged_in(postgres, shop) as client:
        client.send(m.function_call(1598))  # random()
        reply = client.receive_until_ready()[0]
        assert isinstance(reply, m.FunctionCallResponse)
        assert reply.value is not None
        assert len(reply.value) == 8


def test_bytes_one_by_one_are_understood_and_an_unknown_type_ends_the_session(postgres: PostgresServer, shop: str) -> None:
    with logged_in(postgres, shop) as client:
        client.send_in_pieces(m.query("SELECT 'piecemeal'"))
        assert m.DataRow((b"piecemeal",)) in client.receive_until_ready()
        client.send(m.message(b"?", b""))
        error = client.receive()
        assert isinstance(error, m.ErrorResponse)
        assert (error.severity, error.sqlstate) == ("FATAL", "08P01")
        assert client.is_closed_by_peer()


@pytest.mark.debian
def test_tls_by_request(debian_postgres: DebianPostgres) -> None:
    context = ssl.create_default_context(cafile=str(debian_postgres.ca_file))
    with WireClient.tcp("127.0.0.1", debian_postgres.port) as client:
        assert client.request_tls(context, "localhost")
        client.log_in("readonly", debian_postgres.create_database(), password_of("readonly"))
        assert client.rows("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [(b"t",)]


def test_a_peer_without_tls_says_no(postgres: PostgresServer, shop: str) -> None:
    with WireClient.tcp("127.0.0.1", postgres.port) as client:
        assert not client.request_tls(ssl.create_default_context(), "localhost")
        client.send(m.gssenc_request())
        assert client.read_exactly(1) == b"N"
        client.log_in("readonly", shop, password_of("readonly"))


@pytest.mark.parametrize(
    ("kind", "body", "problem"),
    [
        (b"Z", b"X", "unknown transaction status"),
        (b"Z", b"II", "1 bytes left over"),
        (b"C", b"SELECT 1", "string without its end"),
        (b"D", b"\0\1\0\0\0\5abc", "5 bytes wanted"),
        (b"D", b"\0\1\xff\xff\xff\xfe", "-2 bytes wanted"),
        (b"T", b"\0\1name\0\0\0", "18 bytes wanted"),
        (b"E", b"SERROR\0C42501\0\0", "must be there"),
        (b"E", b"SERROR\0SERROR\0\0", "field S twice"),
        (b"1", b"\0", "1 bytes left over"),
        (b"y", b"", "unknown message type"),
    ],
)
def test_refuses_answers_that_are_not_well_formed(kind: bytes, body: bytes, problem: str) -> None:
    with pytest.raises(m.WireError, match=problem):
        m.decode(kind, body)
