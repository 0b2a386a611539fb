"""TLS with clients: how it begins, what may not stand before it, and certificates that are changed on disk."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest

from sidegate.policy.config import TargetConfig, encode_config
from sidegate.probe.answer import DoorState
from sidegate.probe.postgres import probe_postgres
from tests.integration.gate.conftest import replace, rewrite, running
from tests.support import processes
from tests.support import wire_messages as m
from tests.support.debian_postgres import Certificates
from tests.support.gate import GateProcess, gate_config, token_for, with_tls
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer
from tests.support.wire import WireClient


class Files:
    """Certificate, key and authority of a gate, on disk."""

    def __init__(self, directory: Path) -> None:
        self.certificate, self.key, self.ca_file = (directory / name for name in ("tls.crt", "tls.key", "ca.crt"))
        self.authority = Certificates.create()
        self.ca_file.write_bytes(self.authority.authority_pem)
        self.issue("localhost", "127.0.0.1")

    def issue(self, *names: str) -> None:
        chain, key = self.authority.issue(*names)
        for path, content in ((self.certificate, chain), (self.key, key)):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(content)
            fresh.replace(path)

    def change(self, target: TargetConfig) -> TargetConfig:
        tls = msgspec.structs.replace(target.client_tls, may_use_plain_text_on_loopback=False)
        plain = replace(target, client_tls=tls)
        return with_tls(plain, self.certificate, self.key)

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer, files: Files) -> Iterator[GateProcess]:
    with running(gate_config(postgres, issuer, change=files.change)) as gate:
        yield gate


def parameters(gate: GateProcess, issuer: Issuer, files: Files, database: str, **more: str) -> dict[str, str]:
    verified = {"host": "localhost", "hostaddr": "127.0.0.1", "sslmode": "verify-full", "sslrootcert": str(files.ca_file)}
    return {**gate.endpoint(issuer).parameters("readonly", database), **verified, **more}


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
@pytest.mark.parametrize("mode", ["require", "verify-full"])
@pytest.mark.parametrize("version", ["3.0", "3.2"])
def test_libpq_comes_in_by_tls(
    gate: GateProcess, issuer: Issuer, files: Files, shop: str, negotiation: str, mode: str, version: str
) -> None:
    given = parameters(
        gate,
        issuer,
        files,
        shop,
        sslmode=mode,
        sslnegotiation=negotiation,
        min_protocol_version=version,
        max_protocol_version=version,
    )
    with psycopg.connect(**given) as connection:  # type: ignore[arg-type]
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT count(*) FROM accounts").fetchone() == (5000,)


def test_a_client_that_verifies_refuses_another_authority(
    gate: GateProcess, issuer: Issuer, files: Files, shop: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(Certificates.create().authority_pem)
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(**parameters(gate, issuer, files, shop, sslrootcert=str(other)))  # type: ignore[arg-type]


@pytest.mark.parametrize("alpn", [[], ["http/1.1"], ["h2", "http/1.1"]], ids=str)
def test_direct_tls_without_its_alpn_is_refused(gate: GateProcess, files: Files, alpn: list[str]) -> None:
    context = files.context
    if alpn:
        context.set_alpn_protocols(alpn)
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        try:
            client.start_tls(context, "localhost")
            client.send(m.startup({"user": "readonly", "database": "x"}))
            assert client.read_to_end() == b""
        except (ssl.SSLError, ConnectionError):
            pass  # the handshake itself was refused


@pytest.mark.parametrize("request_", [m.ssl_request(), m.gssenc_request()], ids=["SSLRequest", "GSSENCRequest"])
@pytest.mark.parametrize(
    "behind", [b"\0", m.startup({"user": "readonly", "database": "x"}), b"\x16\x03\x01"], ids=["a byte", "start-up", "TLS"]
)
def test_bytes_behind_an_encryption_request_end_the_connection_unanswered(
    gate: GateProcess, request_: bytes, behind: bytes
) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        client.send(request_ + behind)
        assert client.read_to_end() == b""


def test_gss_encryption_is_declined_and_tls_follows(gate: GateProcess, issuer: Issuer, files: Files, shop: str) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        client.send(m.gssenc_request())
        assert client.read_exactly(1) == b"N"
        assert client.request_tls(files.context, "localhost")
        client.log_in("readonly", shop, token_for(issuer, "readonly"))
        assert client.rows("SELECT 1") == [(b"1",)]


def test_encryption_requests_inside_of_tls_are_declined(gate: GateProcess, issuer: Issuer, files: Files, shop: str) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        assert client.request_tls(files.context, "localhost")
        client.send(m.ssl_request())
        assert client.read_exactly(1) == b"N"
        client.log_in("readonly", shop, token_for(issuer, "readonly"))
        assert client.rows("SELECT 1") == [(b"1",)]


def test_the_token_may_not_come_before_tls(gate: GateProcess, shop: str) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        client.send(m.startup({"user": "readonly", "database": shop}))
        error = client.receive()
        assert isinstance(error, m.ErrorResponse)
        assert (error.sqlstate, "plain text" in error.message) == ("28000", True)
        assert client.is_closed_by_peer()


def test_a_handshake_that_breaks_off_harms_nobody(gate: GateProcess, issuer: Issuer, files: Files, shop: str) -> None:
    for data in (b"\x16\x03\x01\x02\x00\x01", b"\x16" + b"\xff" * 600, b"\x16"):
        with WireClient.tcp("127.0.0.1", gate.port) as client:
            client.send(data)
    with psycopg.connect(**parameters(gate, issuer, files, shop)) as connection:  # type: ignore[arg-type]
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_certificate_replaced_on_disk_is_shown_to_who_comes_next(
    postgres: PostgresServer, issuer: Issuer, shop: str, tmp_path: Path
) -> None:
    files = Files(tmp_path)

    def shown_for(name: str) -> bool:
        try:
            psycopg.connect(**parameters(gate, issuer, files, shop, host=name)).close()  # type: ignore[arg-type]
        except psycopg.OperationalError:
            return False
        return True

    with (
        running(gate_config(postgres, issuer, change=files.change)) as gate,
        psycopg.connect(**parameters(gate, issuer, files, shop)) as before,  # type: ignore[arg-type]
    ):
        files.issue("renewed.example")
        processes.wait_until(lambda: shown_for("renewed.example"), "the new certificate")
        assert not shown_for("localhost")
        files.certificate.write_text("no certificate")
        processes.wait_until(lambda: "not used" in gate.read_log(), "the bad certificate to be noticed")
        assert shown_for("renewed.example")
        assert before.execute("SELECT 1").fetchone() == (1,)


def test_a_config_whose_certificate_comes_later_is_taken_up_then(
    postgres: PostgresServer, issuer: Issuer, shop: str, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    key = files.key.read_bytes()
    files.key.unlink()
    with running(gate_config(postgres, issuer)) as gate:
        revision = gate.config.revision
        late = gate_config(postgres, issuer, change=lambda target: replace(files.change(target), port=gate.port))
        rewrite(gate, encode_config(late))
        processes.wait_until(lambda: "config refused" in gate.read_log(), "the config to be refused")
        assert revision in gate.page("/metrics")
        assert f"revision {revision} stays in force" in gate.page("/ready")
        files.key.write_bytes(key)
        processes.wait_until(lambda: late.revision in gate.page("/metrics"), "the config to be taken up")
        assert gate.page("/ready") == "ready\n"
        with psycopg.connect(**parameters(gate, issuer, files, shop)) as connection:  # type: ignore[arg-type]
            assert connection.pgconn.ssl_in_use


async def test_a_probe_knows_the_gate_by_what_it_says_to_a_stranger_without_tls(
    gate: GateProcess, postgres: PostgresServer
) -> None:
    doors = await probe_postgres("127.0.0.1", gate.port, ())
    assert {each.over_tls: each.state for each in doors} == {False: DoorState.GATE, True: DoorState.ASKS}
    (behind,) = {each.state for each in await probe_postgres("127.0.0.1", postgres.port, ()) if not each.over_tls}
    assert behind is DoorState.ASKS
