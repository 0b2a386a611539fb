"""Logging in by token: what is let in, and how everything else is refused, over plain loopback."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest

from sidegate.policy.config import (
    AddressConfig,
    ClientTlsConfig,
    CredentialConfig,
    RecordingConfig,
    RecordingMode,
    TargetConfig,
)
from tests.integration.gate.conftest import (
    connect,
    metric,
    replace,
    running,
    wait_for_event,
)
from tests.support import processes
from tests.support import wire_messages as m
from tests.support.gate import GateProcess, gate_config, token_for
from tests.support.issuer import Fault, Issuer
from tests.support.postgres_server import PostgresServer
from tests.support.wire import LoginRefused, WireClient


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(gate_config(postgres, issuer)) as gate:
        yield gate


def refused(gate: GateProcess, database: str, password: str, role: str = "readonly") -> m.ErrorResponse:
    """The FATAL error that a login ends with; after it the connection is closed."""
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        with pytest.raises(LoginRefused) as found:
            client.log_in(role, database, password)
        assert client.is_closed_by_peer()
    error = found.value.error
    assert error.severity == "FATAL"
    assert error.fields["D"].startswith("reason ")
    assert error.fields["H"]
    return error


@pytest.mark.parametrize("via", ["tcp", "unix"])
def test_a_token_is_a_password_over_loopback_and_the_socket(gate: GateProcess, issuer: Issuer, shop: str, via: str) -> None:
    dsn = gate.endpoint(issuer).dsn("readonly", shop, "tcp" if via == "tcp" else "unix")
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT current_user, count(*) FROM accounts").fetchone() == ("readonly", 5000)
    opened = wait_for_event(gate, "SessionOpened")
    assert opened["session"]["principal"]["username"] == "ada@example.com"
    assert opened["session"]["sourceAddress"] == ("127.0.0.1" if via == "tcp" else "unix")


def test_plain_text_is_refused_before_a_token_can_be_sent_unless_the_manifest_allows_it(
    postgres: PostgresServer, issuer: Issuer, shop: str
) -> None:
    config = gate_config(postgres, issuer, change=lambda target: replace(target, client_tls=ClientTlsConfig()))
    with running(config) as gate:
        for made in (WireClient.tcp("127.0.0.1", gate.port), WireClient.unix(gate.directory, gate.port)):
            with made as client:
                client.send(m.startup({"user": "readonly", "database": shop}))
                error = client.receive()
                assert isinstance(error, m.ErrorResponse)
                assert (error.severity, error.sqlstate) == ("FATAL", "28000")
                assert "plain text" in error.message
                assert "sslmode=require" in error.fields["H"]
                assert client.is_closed_by_peer()


def test_every_kind_of_bad_token_is_refused_with_its_reason_and_never_shown(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    bad = issuer.bad_tokens()
    for name, (token, cause) in bad.items():
        if "\0" in token:
            continue  # no password message can carry it: see test_a_password_message_that_is_framed_wrongly
        error = refused(gate, shop, token)
        assert error.sqlstate == "28000", name
        assert "IdentityRefused" in error.fields["D"], name
        assert cause.value
        text = "\n".join(error.fields.values())
        for part in token.split("."):
            assert len(part) < 20 or part not in text, name
    written = gate.read_log() + gate.audit.read_text()
    for name, (token, _) in bad.items():
        secret = token.rpartition(".")[2]
        assert len(secret) < 20 or secret not in written, name
    assert metric(gate, "sidegate_refusals_total", reason="IdentityRefused") >= len(bad) - 2


def test_a_good_token_is_in_no_log_no_audit_and_no_recording(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    token = token_for(issuer, "readonly")
    with psycopg.connect(gate.endpoint_with(token).dsn("readonly", shop)) as connection:
        connection.execute("SELECT 1")
    wait_for_event(gate, "SessionClosed")
    secret = token.rpartition(".")[2].encode()
    for path in (gate.log, gate.audit, *gate.state.rglob("*.sgrec")):
        assert secret not in path.read_bytes(), path


def begin(gate: GateProcess, database: str, role: str = "readonly") -> WireClient:
    """A login that waits for the client's token."""
    client = WireClient.tcp("127.0.0.1", gate.port)
    client.send(m.startup({"user": role, "database": database}))
    assert isinstance(client.receive(), m.Authentication)
    return client


def test_a_token_that_expires_while_the_gate_waits_for_it_is_refused(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    def change(target: TargetConfig) -> TargetConfig:
        return replace(target, identity=msgspec.structs.replace(target.identity, clock_skew_s=0))

    with running(gate_config(postgres, issuer, change=change)) as gate, begin(gate, shop) as client:
        expires = int(issuer.clock()) + 1
        token = issuer.token("ada", groups=["readonly"], exp=expires)
        processes.wait_until(lambda: issuer.clock() > expires + 0.01, "the token to expire")
        client.send(m.password(token))
        error = client.receive()
        assert isinstance(error, m.ErrorResponse)
        assert (error.sqlstate, "expired" in error.message) == ("28000", True)


def test_logins_that_began_before_the_issuers_keys_came_are_let_in(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    """Whoever began first may send the token last."""
    with running(gate_config(postgres, issuer)) as gate:
        clients = [begin(gate, shop) for _ in range(4)]
        token = token_for(issuer, "readonly")
        for client in reversed(clients):
            client.send(m.password(token))
        for client in clients:
            client.receive_until_ready()
            client.close()


def test_a_token_of_70_kilobytes_is_refused_as_one(gate: GateProcess, shop: str) -> None:
    error = refused(gate, shop, "e" * 71_000)
    assert error.sqlstate == "28000"
    assert "over 70000 bytes" in error.message


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(m.message(b"p", b"no end"), id="without its end"),
        pytest.param(m.message(b"p", b"one\0two\0"), id="a zero byte inside"),
        pytest.param(m.message(b"p", b""), id="empty"),
        pytest.param(m.query("SELECT 1"), id="a query in its place"),
        pytest.param(b"p\0\0\0\3", id="too short a length"),
        pytest.param(b"p\x7f\xff\xff\xff", id="a length of 2 GiB"),
    ],
)
def test_a_password_message_that_is_framed_wrongly(gate: GateProcess, shop: str, data: bytes) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        client.send(m.startup({"user": "readonly", "database": shop}))
        client.receive_until(m.Authentication)
        client.send(data)
        error = client.receive()
        assert isinstance(error, m.ErrorResponse)
        assert error.severity == "FATAL"
        assert error.sqlstate in {"08P01", "28000"}
        assert client.is_closed_by_peer()


def test_nobody_without_a_grant_gets_in(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    unknown = refused(gate, shop, issuer.token("ada", groups=["strangers"]))
    assert (unknown.sqlstate, "NoPolicy" in unknown.fields["D"]) == ("42501", True)
    other = refused(gate, shop, token_for(issuer, "readonly"), role="readwrite")
    assert (other.sqlstate, "NoGrant" in other.fields["D"]) == ("42501", True)


def test_a_user_name_that_is_no_role_gets_the_role_that_is_granted(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    dsn = gate.endpoint_with(token_for(issuer, "readonly")).dsn("ada", shop)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("readonly",)


def test_an_unknown_database_is_the_targets_own_error(gate: GateProcess, issuer: Issuer) -> None:
    error = refused(gate, "nowhere", token_for(issuer, "readonly"))
    assert error.sqlstate == "3D000"
    assert 'database "nowhere" does not exist' in error.message


@pytest.mark.parametrize(
    "parameters",
    [
        {"options": "-c session_preload_libraries=x"},
        {"options": "-c role=postgres"},
        {"options": "-c search_path=evil"},
        {"options": r"-c statement_timeout=1\ -c\ role=postgres"},
        {"role": "postgres"},
        {"search_path": "evil"},
        {"SEARCH_PATH": "evil"},
        {"session_preload_libraries": "x"},
        {"client_encoding": "EUC_JP"},
        {"options": "-c client_encoding=LATIN1"},
        {"replication": "database"},
        {"replication": "true"},
    ],
    ids=str,
)
def test_a_startup_parameter_outside_of_the_list_is_refused_before_the_token(
    gate: GateProcess, shop: str, parameters: dict[str, str]
) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        client.send(m.startup({"user": "readonly", "database": shop, **parameters}))
        error = client.receive()
        assert isinstance(error, m.ErrorResponse)
        assert error.severity == "FATAL"
        assert error.fields["H"]
        assert client.is_closed_by_peer()


def test_startup_parameters_of_the_list_reach_the_target(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        client.log_in(
            "readonly", shop, token_for(issuer, "readonly"),
            application_name="by hand", options="-c statement_timeout=7s --lock-timeout=3s", client_encoding="UTF8",
        )  # fmt: skip
        assert client.rows("SHOW statement_timeout") == [(b"7s",)]
        assert client.rows("SHOW lock_timeout") == [(b"3s",)]
        assert client.parameters["application_name"] == "by hand"


@pytest.mark.parametrize(
    ("version", "options", "negotiated"),
    [
        (m.PROTOCOL_3_0, {}, None),
        (m.PROTOCOL_3_2, {}, None),
        (0x0003270F, {}, ()),
        (0x0003270F, {"_pq_.grease": "1", "_pq_.other": "2"}, ("_pq_.grease", "_pq_.other")),
        (m.PROTOCOL_3_0, {"_pq_.only": "1"}, ("_pq_.only",)),
    ],
)
def test_every_protocol_version_of_three_is_negotiated(
    gate: GateProcess, issuer: Issuer, shop: str, version: int, options: dict[str, str], negotiated: tuple[str, ...] | None
) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        replies = client.log_in("readonly", shop, token_for(issuer, "readonly"), version=version, **options)
        offers = [reply for reply in replies if isinstance(reply, m.NegotiateProtocolVersion)]
        minor = min(version & 0xFFFF, 2)
        assert offers == ([] if negotiated is None else [m.NegotiateProtocolVersion(0x00030000 | minor, negotiated)])
        assert client.key is not None
        assert len(client.key.key) == (32 if minor == 2 else 4)
        assert client.rows("SELECT 1") == [(b"1",)]


@pytest.mark.parametrize("data", [m.packet(0x00020000, b"\0" * 280), m.packet(0x00040000, b"user\0x\0\0"), m.packet(0x00030000)])
def test_another_protocol_is_refused_with_a_word(gate: GateProcess, data: bytes) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        client.send(data)
        error = client.receive()
        assert isinstance(error, m.ErrorResponse)
        assert error.severity == "FATAL"
        assert client.is_closed_by_peer()


def test_encryption_requests_without_a_certificate_are_declined_once_each(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        for request in (m.gssenc_request(), m.ssl_request()):
            client.send(request)
            assert client.read_exactly(1) == b"N"
        client.log_in("readonly", shop, token_for(issuer, "readonly"))
    for request in (m.gssenc_request(), m.ssl_request()):
        with WireClient.tcp("127.0.0.1", gate.port) as client:
            client.send(request)
            assert client.read_exactly(1) == b"N"
            client.send(request)
            error = client.receive()
            assert isinstance(error, m.ErrorResponse)
            assert "twice" in error.message
            assert client.is_closed_by_peer()


# What stands behind the gate


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", [Fault.HANG, Fault.GARBAGE, Fault.ERROR, Fault.DRIP, Fault.HUGE, "down"], ids=str)
def test_an_issuer_in_trouble_lets_nobody_in(postgres: PostgresServer, shop: str, fault: Fault | str) -> None:
    with Issuer(now=None) as issuer:
        token = token_for(issuer, "readonly")
        if isinstance(fault, Fault):
            issuer.fault = fault
        else:
            issuer.go_down()
        with running(gate_config(postgres, issuer)) as gate:
            error = refused(gate, shop, token)
            assert error.sqlstate == "28000"
            assert token not in gate.read_log()


def broken_credential(server: PostgresServer, password: str) -> CredentialConfig:
    path = server.directory / f"wrong-{os.urandom(4).hex()}.password"
    path.write_text(password)
    return CredentialConfig("readonly", "readonly", str(path))


def test_a_wrong_credential_is_the_operators_to_mend(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    def change(target: TargetConfig) -> TargetConfig:
        return replace(target, credentials=(broken_credential(postgres, "not the password"),))

    with running(gate_config(postgres, issuer, change=change)) as gate:
        error = refused(gate, shop, token_for(issuer, "readonly"))
        assert error.sqlstate == "28P01"
        assert "not the password" not in "\n".join(error.fields.values()) + gate.read_log() + gate.audit.read_text()


def test_a_credential_that_cannot_be_read_is_named(postgres: PostgresServer, issuer: Issuer, shop: str, tmp_path: Path) -> None:
    def change(target: TargetConfig) -> TargetConfig:
        return replace(target, credentials=(CredentialConfig("readonly", "readonly", str(tmp_path / "missing")),))

    with running(gate_config(postgres, issuer, change=change)) as gate:
        error = refused(gate, shop, token_for(issuer, "readonly"))
        assert error.sqlstate == "08006"
        assert "mount the Secret" in error.fields["H"]


def test_a_target_that_is_down_is_named_and_comes_back(issuer: Issuer) -> None:
    with PostgresServer() as server:
        database = server.create_database()
        with running(gate_config(server, issuer)) as gate:
            server.stop()
            error = refused(gate, database, token_for(issuer, "readonly"))
            assert error.sqlstate == "08006"
            assert "can't be reached" in error.message
            server.start()
            with connect(gate, issuer, database, "readonly") as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("method", ["md5", "password"])
def test_a_target_that_wants_the_password_less_than_safely_does_not_get_it(issuer: Issuer, method: str) -> None:
    settings = {"password_encryption": "md5"} if method == "md5" else {}
    with PostgresServer(hba=[f"host all readonly 127.0.0.1/32 {method}"], settings=settings) as server:
        database = server.create_database()
        with running(gate_config(server, issuer, to_target="tcp")) as gate:
            error = refused(gate, database, token_for(issuer, "readonly"))
            assert error.sqlstate == "08006"
            assert "scram-sha-256" in error.fields["H"]


def test_a_target_that_says_nothing_is_given_up(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        address = AddressConfig("127.0.0.1", port)
        with running(gate_config(postgres, issuer, change=lambda target: replace(target, address=address))) as gate:
            error = refused(gate, shop, token_for(issuer, "readonly"))
            assert error.sqlstate == "08006"


def test_who_says_nothing_is_not_waited_for_when_the_gate_stops(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer
) -> None:
    with running(gate_config(postgres, issuer)) as other:
        clients = [WireClient.tcp("127.0.0.1", other.port) for _ in range(3)]
        clients[1].send(b"\0\0\0")
        clients[2].send(m.startup({"user": "readonly", "database": "x"}))
        assert isinstance(clients[2].receive(), m.Authentication)
        other.stop()
        error = clients[2].receive()
        assert isinstance(error, m.ErrorResponse)
        assert error.sqlstate == "57P01"
        for client in clients:
            client.close()


def test_what_cannot_be_recorded_is_not_let_in(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    def change(target: TargetConfig) -> TargetConfig:
        return replace(target, recording=RecordingConfig(max_bytes=1))

    with running(gate_config(postgres, issuer, change=change)) as gate:
        error = refused(gate, shop, token_for(issuer, "readonly"))
        assert error.sqlstate == "58030"
        assert "RecordingUnavailable" in error.fields["D"]
        assert postgres.sessions(shop, "readonly") == []
        relaxed = gate_config(
            postgres,
            issuer,
            change=lambda target: replace(target, recording=RecordingConfig(RecordingMode.BEST_EFFORT, max_bytes=1)),
        )
        gate.reload(relaxed)
        with connect(gate, issuer, shop, "readonly") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert metric(gate, "sidegate_recording_errors_total") >= 2
