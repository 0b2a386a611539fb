"""Clients over TLS, the gate's own TLS towards the target, and what happens where a certificate isn't the right one."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import msgspec
import psycopg
import pytest

from sidegate.policy.config import TargetConfig, TargetTlsConfig, TargetTlsMode
from tests.integration.clients.conftest import Run
from tests.support import processes, requirements
from tests.support import wire_messages as m
from tests.support.debian_postgres import Certificates, DebianPostgres, debian_installation
from tests.support.endpoint import Endpoint
from tests.support.gate import GateProcess, gate_config, with_tls
from tests.support.issuer import Issuer
from tests.support.wire import WireClient

pytestmark = pytest.mark.debian


@dataclass(frozen=True, slots=True)
class Secure:
    """An endpoint with TLS, and the authority that vouches for it under the name `localhost`."""

    endpoint: Endpoint
    ca_file: Path

    def parameters(self, role: str, database: str, **more: str) -> dict[str, str]:
        verified = {"host": "localhost", "hostaddr": "127.0.0.1", "sslmode": "verify-full", "sslrootcert": str(self.ca_file)}
        return {**self.endpoint.parameters(role, database), **verified, **more}

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))


class TlsGate:
    """A gate before Debian's PostgreSQL: TLS on both sides, no plain text even on loopback."""

    def __init__(self, server: DebianPostgres, issuer: Issuer, directory: Path, target_ca: Path | None = None) -> None:
        self.server, self.issuer = server, issuer
        self.certificate, self.key, self.ca_file = (directory / name for name in ("tls.crt", "tls.key", "ca.crt"))
        self.renew()
        verified = TargetTlsConfig(TargetTlsMode.VERIFY_FULL, str(target_ca or server.ca_file))

        def secured(target: TargetConfig) -> TargetConfig:
            tls = msgspec.structs.replace(
                with_tls(target, self.certificate, self.key).client_tls, may_use_plain_text_on_loopback=False
            )
            return msgspec.structs.replace(target, client_tls=tls, target_tls=verified)

        self.gate = GateProcess(gate_config(server, issuer, to_target="tcp", change=secured))

    def renew(self) -> None:
        """Another authority, another certificate, at the same place."""
        certificates = Certificates.create()
        chain, key = certificates.issue("localhost", "127.0.0.1")
        for path, content in ((self.ca_file, certificates.authority_pem), (self.certificate, chain), (self.key, key)):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(content)
            fresh.replace(path)

    @property
    def secure(self) -> Secure:
        return Secure(self.gate.endpoint(self.issuer), self.ca_file)


@pytest.fixture(scope="module")
def tls_gate(debian_postgres: DebianPostgres, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsGate]:
    running = TlsGate(debian_postgres, issuer, tmp_path_factory.mktemp("tls"))
    with running.gate:
        yield running


@pytest.fixture(params=["direct", "gate"])
def secure(request: pytest.FixtureRequest, debian_postgres: DebianPostgres) -> Secure:
    if request.param == "direct":
        return Secure(debian_postgres.endpoint, debian_postgres.ca_file)
    running: TlsGate = request.getfixturevalue("tls_gate")
    return running.secure


@pytest.fixture(scope="module")
def debian_shop(debian_postgres: DebianPostgres) -> str:
    return debian_postgres.create_database()


def test_psycopg_verifies_name_and_chain(secure: Secure, debian_shop: str) -> None:
    with psycopg.connect(**secure.parameters("readonly", debian_shop)) as connection:  # type: ignore[arg-type]
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
        assert connection.execute("SELECT count(*) FROM accounts").fetchone() == (5000,)


def test_psql_of_debian_speaks_tls(run: Run, secure: Secure, debian_shop: str) -> None:
    installation = debian_installation()
    if installation is None:
        requirements.absent("Debian's psql", "apt-get install postgresql")
    environment = {
        **secure.endpoint.environment("readonly", debian_shop),
        "PGHOST": "localhost",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(secure.ca_file),
    }
    done = run(
        installation.program("psql"), "-X", "-A", "-t", "-c", "SELECT 'over tls'", "-c", r"\conninfo", environment=environment
    )
    assert "over tls\n" in done.stdout
    assert "SSL connection (protocol: TLSv1.3" in done.stdout


async def test_asyncpg_speaks_tls(secure: Secure, debian_shop: str) -> None:
    connection = await asyncpg.connect(
        host="localhost",
        port=secure.endpoint.port,
        user="readonly",
        password=secure.endpoint.password("readonly"),
        database=debian_shop,
        ssl=secure.context,
    )
    assert await connection.fetchval("SELECT $1::int", 7) == 7
    await connection.close()


def test_another_authority_is_not_trusted(secure: Secure, debian_shop: str, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(Certificates.create().authority_pem)
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(**secure.parameters("readonly", debian_shop, sslrootcert=str(other)))  # type: ignore[arg-type]


def test_large_values_pass_both_ways_over_tls(secure: Secure, debian_shop: str) -> None:
    blob = bytes(range(256)) * 20_000
    with psycopg.connect(**secure.parameters("readonly", debian_shop)) as connection:  # type: ignore[arg-type]
        assert connection.execute("SELECT %b::bytea", [blob], binary=True).fetchone() == (blob,)


def test_cancel_works_over_tls(secure: Secure, debian_postgres: DebianPostgres, debian_shop: str) -> None:
    with psycopg.connect(**secure.parameters("readonly", debian_shop), autocommit=True) as connection:  # type: ignore[arg-type]
        connection.pgconn.send_query(b"SELECT pg_sleep(30), 'cancelled over tls'")
        debian_postgres.wait_for_query("cancelled over tls", debian_shop)
        connection.cancel_safe(timeout=10)
        result = connection.pgconn.get_result()
        assert result is not None
        assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"57014"
        assert connection.pgconn.get_result() is None


def test_tls_may_come_first_with_its_alpn(tls_gate: TlsGate, debian_shop: str) -> None:
    parameters = tls_gate.secure.parameters("readonly", debian_shop, sslnegotiation="direct")
    with psycopg.connect(**parameters) as connection:  # type: ignore[arg-type]
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_tls_first_without_alpn_or_with_another_is_refused(tls_gate: TlsGate) -> None:
    for protocols in ([], ["http/1.1"]):
        context = tls_gate.secure.context
        if protocols:
            context.set_alpn_protocols(protocols)
        with WireClient.tcp("127.0.0.1", tls_gate.gate.port) as client:
            try:
                client.start_tls(context, "localhost")
                client.send(m.startup({"user": "readonly", "database": "x"}))
                assert m.message(b"R", b"\0\0\0\3") not in client.read_to_end()
            except (ssl.SSLError, ConnectionError):
                pass


def test_plain_text_gets_no_session_and_no_chance_to_send_a_token(tls_gate: TlsGate, debian_shop: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"(?i)tls|ssl|encrypt"):
        psycopg.connect(**tls_gate.secure.parameters("readonly", debian_shop, sslmode="disable"))  # type: ignore[arg-type]
    with WireClient.tcp("127.0.0.1", tls_gate.gate.port) as client:
        client.send(m.startup({"user": "readonly", "database": debian_shop}))
        assert isinstance(client.receive(), m.ErrorResponse)
        assert client.is_closed_by_peer()


def test_bytes_behind_an_ssl_request_are_not_taken_for_encrypted_ones(tls_gate: TlsGate) -> None:
    with WireClient.tcp("127.0.0.1", tls_gate.gate.port) as client:
        client.send(m.ssl_request(), m.startup({"user": "readonly", "database": "x"}))
        assert client.read_to_end()[:1] != b"S" or client.is_closed_by_peer()


def test_a_renewed_certificate_is_shown_without_a_restart(
    debian_postgres: DebianPostgres, issuer: Issuer, debian_shop: str, tmp_path: Path
) -> None:
    running = TlsGate(debian_postgres, issuer, tmp_path)
    with running.gate, psycopg.connect(**running.secure.parameters("readonly", debian_shop)) as before:  # type: ignore[arg-type]
        running.renew()

        def is_trusted() -> bool:
            try:
                psycopg.connect(**running.secure.parameters("readonly", debian_shop)).close()  # type: ignore[arg-type]
            except psycopg.OperationalError:
                return False
            return True

        processes.wait_until(is_trusted, "the renewed certificate")
        assert before.execute("SELECT 1").fetchone() == (1,)


def test_a_target_that_is_not_the_right_one_is_refused(
    debian_postgres: DebianPostgres, issuer: Issuer, debian_shop: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(Certificates.create().authority_pem)
    running = TlsGate(debian_postgres, issuer, tmp_path, target_ca=other)
    with running.gate, pytest.raises(psycopg.OperationalError, match="target"):
        psycopg.connect(**running.secure.parameters("readonly", debian_shop))  # type: ignore[arg-type]
