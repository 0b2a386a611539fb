"""The gate's own TLS towards the target: who is believed to be the target, and who isn't."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidegate.policy.config import AddressConfig, TargetConfig, TargetTlsConfig, TargetTlsMode
from tests.integration.gate.conftest import Change, connect, replace, running
from tests.support import wire_messages as m
from tests.support.debian_postgres import TLS_ONLY_HBA, Certificates, DebianPostgres, required_debian_installation
from tests.support.gate import GateProcess, gate_config, token_for
from tests.support.issuer import Issuer
from tests.support.wire import LoginRefused, WireClient

pytestmark = pytest.mark.debian
VERIFY, REQUIRE = TargetTlsMode.VERIFY_FULL, TargetTlsMode.REQUIRE


@pytest.fixture(scope="module")
def server() -> Iterator[DebianPostgres]:
    with DebianPostgres(required_debian_installation(), hba=TLS_ONLY_HBA) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def database(server: DebianPostgres) -> str:
    return server.create_database()


def tls(mode: TargetTlsMode, ca_file: Path | None, address: AddressConfig | None = None) -> Change:
    def change(target: TargetConfig) -> TargetConfig:
        config = TargetTlsConfig(mode, str(ca_file) if ca_file else None)
        return replace(target, target_tls=config, address=address or target.address)

    return change


def refused(gate: GateProcess, issuer: Issuer, database: str) -> m.ErrorResponse:
    with WireClient.tcp("127.0.0.1", gate.port) as client, pytest.raises(LoginRefused) as found:
        client.log_in("readonly", database, token_for(issuer, "readonly"))
    assert found.value.error.severity == "FATAL"
    return found.value.error


@pytest.mark.parametrize("mode", [VERIFY, REQUIRE])
def test_the_target_is_reached_by_tls(server: DebianPostgres, issuer: Issuer, database: str, mode: TargetTlsMode) -> None:
    change = tls(mode, server.ca_file if mode is VERIFY else None)
    with (
        running(gate_config(server, issuer, to_target="tcp", change=change)) as gate,
        connect(gate, issuer, database, "readonly") as c,
    ):
        assert c.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)


def test_a_target_of_another_authority_or_name_is_not_the_target(
    server: DebianPostgres, issuer: Issuer, database: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(Certificates.create().authority_pem)
    wrong_name = AddressConfig("127.0.0.2", server.port)
    with running(gate_config(server, issuer, to_target="tcp", change=tls(VERIFY, other))) as gate:
        error = refused(gate, issuer, database)
        assert error.sqlstate == "08006"
        assert "certificate verify failed" in error.message
        gate.reload(gate_config(server, issuer, to_target="tcp", change=tls(VERIFY, server.ca_file, wrong_name)))
        assert refused(gate, issuer, database).sqlstate == "08006"


def test_a_target_without_tls_is_refused(server: DebianPostgres, issuer: Issuer, database: str) -> None:
    with (
        impostor(lambda connection: connection.sendall(b"N")) as address,
        running(gate_config(server, issuer, change=tls(REQUIRE, None, address))) as gate,
    ):
        assert "offers no TLS" in refused(gate, issuer, database).message


def test_bytes_before_the_handshake_are_not_taken_for_the_targets(server: DebianPostgres, issuer: Issuer, database: str) -> None:
    with (
        impostor(lambda connection: connection.sendall(b"S" + m.message(b"R", b"\0\0\0\0"))) as address,
        running(gate_config(server, issuer, change=tls(REQUIRE, None, address))) as gate,
    ):
        assert "before the TLS handshake" in refused(gate, issuer, database).message


def test_a_password_is_not_told_to_a_certificate_that_nobody_verified(
    server: DebianPostgres, issuer: Issuer, database: str
) -> None:
    heard: list[bytes] = []
    chain, key = Certificates.create().issue("localhost")

    def ask_for_the_password(connection: socket.socket) -> None:
        connection.sendall(b"S")
        with server_context(chain, key).wrap_socket(connection, server_side=True) as secure:
            read_packet(secure)
            secure.sendall(m.message(b"R", b"\0\0\0\3"))
            heard.append(secure.recv(4096))

    with (
        impostor(ask_for_the_password) as address,
        running(gate_config(server, issuer, change=tls(REQUIRE, None, address))) as gate,
    ):
        assert "in plain text" in refused(gate, issuer, database).message
    assert heard == [b""]


def test_who_relays_the_login_by_a_good_certificate_is_found_by_channel_binding(
    server: DebianPostgres, issuer: Issuer, database: str, tmp_path: Path
) -> None:
    """SCRAM-SHA-256-PLUS binds the password's proof to the certificate that the target really has."""
    authority = Certificates.create()
    chain, key = authority.issue("localhost", "127.0.0.1")
    trusted = tmp_path / "trusted.crt"
    trusted.write_bytes(authority.authority_pem)

    def relay(connection: socket.socket) -> None:
        connection.sendall(b"S")
        inner = socket.create_connection(("127.0.0.1", server.port))
        inner.sendall(m.ssl_request())
        assert inner.recv(1) == b"S"
        context = ssl.create_default_context(cafile=str(server.ca_file))
        with (
            server_context(chain, key).wrap_socket(connection, server_side=True) as client,
            context.wrap_socket(inner, server_hostname="127.0.0.1") as target,
        ):
            back = threading.Thread(target=pass_on, args=(target, client), daemon=True)
            back.start()
            pass_on(client, target)
            back.join()

    with impostor(relay) as address, running(gate_config(server, issuer, change=tls(VERIFY, trusted, address))) as gate:
        assert "channel binding" in refused(gate, issuer, database).message


# A target that isn't one


@contextlib.contextmanager
def impostor(serve: Callable[[socket.socket], None]) -> Iterator[AddressConfig]:
    """Answers each SSLRequest by `serve`, on a loopback port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    read_packet(connection)
                    serve(connection)
                    connection.settimeout(10)
                    while connection.recv(4096):
                        pass

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield AddressConfig("127.0.0.1", listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def server_context(chain: bytes, key: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(chain + key)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def read_packet(connection: socket.socket) -> bytes:
    (length,) = struct.unpack("!I", connection.recv(4))
    return connection.recv(length - 4)


def pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
