"""Our SCRAM client logs in to real PostgreSQL servers: without TLS on both transports, with TLS and channel binding."""

from __future__ import annotations

import secrets
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql

from sidegate.postgres.scram import MECHANISM, MECHANISM_PLUS, ScramClient, ScramError, ScramKeyCache, tls_server_end_point
from tests.support.debian_postgres import DebianPostgres, required_debian_installation
from tests.support.postgres_server import PostgresServer, password_of

SASL, SASL_CONTINUE, SASL_FINAL, OK = 10, 11, 12, 0


class Wire:
    """The few messages of a login, over any socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._sock.close()

    @classmethod
    def over_tcp(cls, server: PostgresServer) -> Wire:
        return cls(socket.create_connection(("127.0.0.1", server.port), timeout=20))

    @classmethod
    def over_unix(cls, server: PostgresServer) -> Wire:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(str(server.directory / f".s.PGSQL.{server.port}"))
        return cls(sock)

    @classmethod
    def over_tls(cls, server: PostgresServer, ca_file: Path) -> tuple[Wire, bytes]:
        """Also the target's certificate."""
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        sock.sendall(struct.pack("!ii", 8, 80877103))
        assert sock.recv(1) == b"S"
        tls = ssl.create_default_context(cafile=str(ca_file)).wrap_socket(sock, server_hostname="localhost")
        certificate = tls.getpeercert(binary_form=True)
        assert certificate is not None
        return cls(tls), certificate

    def start(self, role: str) -> list[str]:
        """The mechanisms that the target offers."""
        body = struct.pack("!i", 196608) + b"user\0" + role.encode() + b"\0database\0postgres\0\0"
        self._sock.sendall(struct.pack("!i", len(body) + 4) + body)
        code, data = self.authentication()
        assert code == SASL
        return [name.decode() for name in data.split(b"\0") if name]

    def send(self, body: bytes) -> None:
        self._sock.sendall(b"p" + struct.pack("!i", len(body) + 4) + body)

    def authentication(self) -> tuple[int, bytes]:
        kind, body = self.message()
        if kind == b"E":
            fields = {part[:1]: part[1:] for part in body.split(b"\0") if part}
            raise PermissionError(fields[b"C"].decode())
        assert kind == b"R"
        return int(struct.unpack("!i", body[:4])[0]), body[4:]

    def message(self) -> tuple[bytes, bytes]:
        kind = self._file.read(1)
        (length,) = struct.unpack("!i", self._file.read(4))
        return kind, self._file.read(length - 4)

    def log_in(self, scram: ScramClient) -> None:
        first = scram.client_first()
        self.send(scram.mechanism.encode() + b"\0" + struct.pack("!i", len(first)) + first)
        code, data = self.authentication()
        assert code == SASL_CONTINUE
        self.send(scram.client_final(data))
        code, data = self.authentication()
        assert code == SASL_FINAL
        scram.verify(data)
        assert self.authentication() == (OK, b"")


def new_client(password: str, binding: bytes | None = None, *, could_bind: bool = False) -> ScramClient:
    return ScramClient(password, secrets.token_urlsafe(18), binding, could_bind=could_bind)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


@pytest.fixture(scope="module")
def tls_server() -> Iterator[DebianPostgres]:
    with DebianPostgres(required_debian_installation()) as running:
        yield running


@pytest.mark.parametrize("connect", [Wire.over_tcp, Wire.over_unix], ids=["tcp", "unix"])
def test_logs_in(server: PostgresServer, connect: object) -> None:
    assert callable(connect)
    with connect(server) as wire:
        assert wire.start("readonly") == [MECHANISM]
        wire.log_in(new_client(password_of("readonly")))


def test_a_wrong_password_is_refused_by_the_target(server: PostgresServer) -> None:
    with Wire.over_unix(server) as wire:
        wire.start("readonly")
        with pytest.raises(PermissionError, match="28P01"):
            wire.log_in(new_client("wrong"))


def test_cached_keys_log_in_again(server: PostgresServer) -> None:
    cache = ScramKeyCache()
    for _ in range(3):
        with Wire.over_unix(server) as wire:
            wire.start("readonly")
            wire.log_in(ScramClient(password_of("readonly"), secrets.token_urlsafe(18), cache=cache))
    assert len(cache) == 1


@pytest.mark.parametrize("iterations", [4096, 100_000])
def test_follows_the_targets_iteration_count(server: PostgresServer, iterations: int) -> None:
    with server.admin() as admin:
        admin.execute(f"SET scram_iterations = {iterations}")
        admin.execute("CREATE ROLE counted LOGIN PASSWORD 'x'")
    try:
        with Wire.over_unix(server) as wire:
            wire.start("counted")
            wire.log_in(new_client("x"))
    finally:
        with server.admin() as admin:
            admin.execute("DROP ROLE counted")


def test_refuses_a_target_with_a_weak_iteration_count(server: PostgresServer) -> None:
    with server.admin() as admin:
        admin.execute("SET scram_iterations = 1")
        admin.execute("CREATE ROLE weak LOGIN PASSWORD 'x'")
    try:
        with Wire.over_unix(server) as wire:
            wire.start("weak")
            with pytest.raises(ScramError, match="asks for 1 iterations"):
                wire.log_in(new_client("x"))
    finally:
        with server.admin() as admin:
            admin.execute("DROP ROLE weak")


@pytest.mark.parametrize(
    "password",
    [
        "pässwörd",
        "e\u0301",  # set decomposed, hashed composed
        "Ⅸ and ª",
        "soft\u00adhyphen",
        "no-break\u00a0space",
        "zero\u200bwidth",
        "\u200b",
        "é\x07bell",
        "é\x7f",
        "\u0627\u0628",
        "\u0627\u0031",
        "\u0627x\u0628",
        "🔑 emoji \u00aa",
        "\u00ad",
        "\ufb03",  # a ligature
        "\u2126 ohm",
        "x\ufffdª",
        "\u0340ª",  # prohibited as written, harmless once normalised: the order of the two steps shows
        "ǰ\u0323",
        "Ἀ\u0345",
        "\u1e9b\u0323",
        "가\u11a8",
        "￠ halfwidth ｱ",
        "a\u2028bª",
        "tab\té",
    ],
)
def test_prepares_passwords_as_this_server_does(server: PostgresServer, password: str) -> None:
    with server.admin() as admin:
        admin.execute(sql.SQL("CREATE ROLE prepared LOGIN PASSWORD {}").format(password))
    try:
        with Wire.over_unix(server) as wire:
            wire.start("prepared")
            wire.log_in(new_client(password))
    finally:
        with server.admin() as admin:
            admin.execute("DROP ROLE prepared")


def test_binds_the_login_to_the_targets_certificate(tls_server: DebianPostgres) -> None:
    wire, certificate = Wire.over_tls(tls_server, tls_server.ca_file)
    with wire:
        assert wire.start("readonly") == [MECHANISM_PLUS, MECHANISM]
        wire.log_in(new_client(password_of("readonly"), tls_server_end_point(certificate)))


def test_a_login_bound_to_another_certificate_is_refused(tls_server: DebianPostgres) -> None:
    wire, certificate = Wire.over_tls(tls_server, tls_server.ca_file)
    with wire:
        wire.start("readonly")
        with pytest.raises(PermissionError, match="28000"):
            wire.log_in(new_client(password_of("readonly"), bytes(len(tls_server_end_point(certificate)))))


def test_without_binding_over_tls_the_plain_mechanism_works(tls_server: DebianPostgres) -> None:
    wire, _ = Wire.over_tls(tls_server, tls_server.ca_file)
    with wire:
        wire.start("readonly")
        wire.log_in(new_client(password_of("readonly")))


def test_a_target_that_offered_binding_notices_that_the_offer_was_taken_out(tls_server: DebianPostgres) -> None:
    wire, _ = Wire.over_tls(tls_server, tls_server.ca_file)
    with wire:
        wire.start("readonly")
        with pytest.raises(PermissionError, match="28000"):
            wire.log_in(new_client(password_of("readonly"), could_bind=True))
