"""Roles that pass without OIDC: authenticated by the target itself, relayed, recorded, and ended when they may pass no longer."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from sidegate.policy.config import GateConfig, PassthroughConfig, TargetConfig
from tests.integration.gate.conftest import (
    assert_all_is_written,
    config_with,
    error_in,
    recordings,
    replace,
    run_sidegate,
    running,
    running_workers,
    wait_for_event,
    wire,
)
from tests.support import wire_messages as m
from tests.support.gate import GateProcess, gate_config, open_policy, token_for
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer, embedded_installation, password_of
from tests.support.wire import LoginRefused, WireClient


def passing_config(server: PostgresServer, issuer: Issuer, *entries: PassthroughConfig) -> GateConfig:
    def change(target: TargetConfig) -> TargetConfig:
        return replace(target, passthrough=entries)

    return gate_config(server, issuer, policies=[open_policy("readwrite")], change=change, to_target="tcp")


APP = PassthroughConfig("app", ("app",), ("127.0.0.0/8", "unix"))
BACKUP = PassthroughConfig("backup", ("replicator",), ("127.0.0.1/32",), may_replicate=True)


@pytest.fixture(scope="module")
def replicator(postgres: PostgresServer) -> str:
    with postgres.admin() as admin:
        admin.execute("CREATE ROLE replicator LOGIN REPLICATION PASSWORD 'for copies'")
    return "for copies"


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer, replicator: str) -> Iterator[GateProcess]:
    with running(passing_config(postgres, issuer, APP, BACKUP)) as gate:
        yield gate


def app_parameters(gate: GateProcess, database: str, **more: str) -> dict[str, str]:
    return {
        "host": "127.0.0.1",
        "port": str(gate.port),
        "user": "app",
        "dbname": database,
        "password": password_of("app"),
        **more,
    }


def test_the_application_logs_in_with_its_own_password(gate: GateProcess, shop: str) -> None:
    with psycopg.connect(**app_parameters(gate, shop, options="-c search_path=prod")) as connection:  # type: ignore[arg-type]
        assert connection.execute("SELECT current_user, current_setting('search_path')").fetchone() == ("app", "prod")
        assert connection.execute("SELECT count(*) FROM public.customers WHERE card LIKE %s", ["4%"]).fetchone() == (66,)
        with connection.cursor().copy("COPY (SELECT generate_series(1, 10000)) TO STDOUT") as copy:
            assert sum(1 for _ in copy.rows()) == 10000
    opened = wait_for_event(gate, "SessionOpened", passthrough=None)
    assert opened["session"]["passthrough"] == "app"
    wait_for_event(gate, "SessionClosed")
    shown = run_sidegate("replay", gate.state / "recordings" / "shop" / "shop-db" / opened["recording"]).stdout
    assert "SELECT current_user" in shown
    assert "card LIKE $1" in shown


def test_its_own_client_encoding_stands_as_it_does_directly(gate: GateProcess, postgres: PostgresServer, shop: str) -> None:
    ask = "SHOW client_encoding"
    with postgres.admin() as admin:
        admin.execute("ALTER ROLE app SET client_encoding = 'LATIN1'")
    try:
        with psycopg.connect(postgres.dsn("app", shop)) as direct, psycopg.connect(**app_parameters(gate, shop)) as passing:  # type: ignore[arg-type]
            assert passing.execute(ask).fetchone() == direct.execute(ask).fetchone() == ("LATIN1",)
    finally:
        with postgres.admin() as admin:
            admin.execute("ALTER ROLE app RESET client_encoding")


def test_its_wrong_password_is_refused_by_the_target(gate: GateProcess, shop: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(**app_parameters(gate, shop, password="wrong"))  # type: ignore[arg-type]


def test_a_role_that_is_not_listed_needs_a_token(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client, pytest.raises(LoginRefused) as found:
        client.log_in("readwrite", shop, password_of("readwrite"))
    assert found.value.error.sqlstate == "28000"
    with wire(gate, issuer, shop) as client:
        assert client.rows("SELECT current_user") == [(b"readwrite",)]


def test_a_role_from_elsewhere_needs_a_token(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    elsewhere = PassthroughConfig("app", ("app",), ("10.0.0.0/8",))
    with running(passing_config(postgres, issuer, elsewhere)) as gate:
        with WireClient.tcp("127.0.0.1", gate.port) as client, pytest.raises(LoginRefused) as found:
            client.log_in("app", shop, password_of("app"))
        assert found.value.error.sqlstate == "28000"
        with WireClient.unix(gate.directory, gate.port) as client, pytest.raises(LoginRefused):
            client.log_in("app", shop, password_of("app"))


@pytest.mark.parametrize("version", [m.PROTOCOL_3_0, m.PROTOCOL_3_2], ids=["3.0", "3.2"])
def test_a_cancel_with_the_targets_own_key_works(gate: GateProcess, postgres: PostgresServer, shop: str, version: int) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        client.log_in("app", shop, password_of("app"), version=version)
        assert client.key is not None
        client.send(m.query("SELECT pg_sleep(60), 'passing'"))
        postgres.wait_for_query("'passing'", shop)
        for key in (bytes(len(client.key.key)), client.key.key):
            with WireClient.tcp("127.0.0.1", gate.port) as other:
                other.send(m.cancel_request(client.key.pid, key))
                assert other.is_closed_by_peer()
        assert error_in(client.receive_until_ready()).sqlstate == "57014"


def test_cancels_of_passthrough_sessions_reach_every_worker(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    with running_workers(passing_config(postgres, issuer, APP), 3) as gate:
        for number in range(12):
            with WireClient.tcp("127.0.0.1", gate.port) as client:
                client.log_in("app", shop, password_of("app"))
                assert client.key is not None
                client.send(m.query(f"SELECT pg_sleep(60), 'passing {number}'"))
                postgres.wait_for_query(f"'passing {number}'", shop)
                with WireClient.tcp("127.0.0.1", gate.port) as other:
                    other.send(m.cancel_request(client.key.pid, client.key.key))
                assert error_in(client.receive_until_ready()).sqlstate == "57014"


def test_a_newer_protocol_is_negotiated_once(gate: GateProcess, shop: str) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        replies = client.log_in("app", shop, password_of("app"), version=0x0003270F, **{"_pq_.grease": "1"})
        offers = [reply for reply in replies if isinstance(reply, m.NegotiateProtocolVersion)]
        assert offers == [m.NegotiateProtocolVersion(m.PROTOCOL_3_0, ("_pq_.grease",))]
        assert client.rows("SELECT 1") == [(b"1",)]


def test_replication_is_for_entries_that_may(gate: GateProcess, issuer: Issuer, shop: str, replicator: str) -> None:
    for role, password, sqlstate in (
        ("app", password_of("app"), "0A000"),
        ("readwrite", token_for(issuer, "readwrite"), "0A000"),
    ):
        for wanted in ("database", "true"):
            with WireClient.tcp("127.0.0.1", gate.port) as client, pytest.raises(LoginRefused) as found:
                client.log_in(role, shop, password, replication=wanted)
            assert found.value.error.sqlstate == sqlstate
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        client.log_in("replicator", shop, replicator, replication="database")
        assert client.rows("IDENTIFY_SYSTEM")[0][3] == shop.encode()


def test_pg_basebackup_copies_through_the_gate(gate: GateProcess, replicator: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    done = subprocess.run(
        [
            embedded_installation().program("pg_basebackup"), "-h", "127.0.0.1", "-p", str(gate.port), "-U", "replicator",
            "-D", tmp_path / "copy", "-X", "stream", "-c", "fast",
        ],
        env={**os.environ, "PGPASSWORD": replicator}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy" / "PG_VERSION").read_text().strip() == "18"


def test_what_is_no_message_ends_the_session(gate: GateProcess, shop: str) -> None:
    for data in (b"\xff\0\0\0\4", b"Q\0\0\0\1", b"?" * 50):
        with WireClient.tcp("127.0.0.1", gate.port) as client:
            client.log_in("app", shop, password_of("app"))
            client.send(data)
            assert client.read_to_end() == b""


def test_an_entry_that_is_gone_takes_its_sessions_with_it(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    with running(passing_config(postgres, issuer, APP)) as gate, WireClient.tcp("127.0.0.1", gate.port) as client:
        client.log_in("app", shop, password_of("app"))
        gate.reload(passing_config(postgres, issuer, APP, BACKUP))
        assert client.rows("SELECT 1") == [(b"1",)]
        gate.reload(config_with(postgres, issuer))
        assert client.is_closed_by_peer()
        assert gate.config.revision in wait_for_event(gate, "SessionClosed")["reason"]


def test_a_stop_closes_their_recordings(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    with running(passing_config(postgres, issuer, APP)) as gate, WireClient.tcp("127.0.0.1", gate.port) as client:
        client.log_in("app", shop, password_of("app"))
        client.rows("SELECT 1")
        gate.stop()
        assert client.is_closed_by_peer()
        assert_all_is_written(gate)
        assert [found.state for found in recordings(gate)] == ["closed"]


def test_a_target_that_is_down_is_not_described_to_strangers(issuer: Issuer) -> None:
    with PostgresServer() as server, running(passing_config(server, issuer, APP)) as gate:
        server.stop()
        with WireClient.tcp("127.0.0.1", gate.port) as client, pytest.raises(LoginRefused) as found:
            client.log_in("app", "shop", "x")
        assert found.value.error.sqlstate == "08006"
        assert str(server.port) not in "".join(found.value.error.fields.values())
