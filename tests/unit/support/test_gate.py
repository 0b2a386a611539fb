"""The gate as tests run it: it starts and says so, takes a new config, ends in order, and trouble in its log doesn't pass unseen."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.support.gate import GateError, GateProcess, gate_config, open_policy
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer(now=None) as running:
        yield running


def test_clients_get_in_by_token_and_by_nothing_else(postgres: PostgresServer, shop: str, issuer: Issuer) -> None:
    with GateProcess(gate_config(postgres, issuer)) as gate:
        endpoint = gate.endpoint(issuer)
        for via in ("tcp", "unix"):
            with psycopg.connect(endpoint.dsn("readonly", shop, "unix" if via == "unix" else "tcp")) as connection:
                assert connection.execute("SELECT current_user").fetchone() == ("readonly",)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(gate.endpoint_with("no token").dsn("readonly", shop))
        assert any(event for event in gate.audit_events())
        # A session ends a moment after its client has seen the connection closed
        wait_until(lambda: "sidegate_sessions_open 0" in gate.page("/metrics"), "no session is open")
        directory = gate.directory
    assert not directory.exists()


def test_a_reload_is_in_force_when_it_returns(postgres: PostgresServer, shop: str, issuer: Issuer) -> None:
    with GateProcess(gate_config(postgres, issuer)) as gate:
        dsn = gate.endpoint(issuer).dsn("readonly", shop)
        with psycopg.connect(dsn, autocommit=True) as open_session:
            open_session.execute("SELECT 1")
            gate.reload(gate_config(postgres, issuer, policies=[open_policy("app")]))
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(dsn)
            with pytest.raises(psycopg.OperationalError):
                open_session.execute("SELECT 1")


def test_it_starts_again_after_a_stop_and_after_a_kill(postgres: PostgresServer, shop: str, issuer: Issuer) -> None:
    with GateProcess(gate_config(postgres, issuer)) as gate:
        port = gate.port
        for end in (gate.stop, gate.kill):
            end()
            assert not gate.is_running
            gate.start()
            assert gate.port == port
            with psycopg.connect(gate.endpoint(issuer).dsn("readonly", shop)) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_gate_that_can_not_start_says_why(postgres: PostgresServer, issuer: Issuer) -> None:
    with pytest.raises(GateError, match="--no-such-option"):
        GateProcess(gate_config(postgres, issuer), arguments=["--no-such-option"])


def test_a_traceback_in_the_log_is_trouble(postgres: PostgresServer, issuer: Issuer) -> None:
    with GateProcess(gate_config(postgres, issuer)) as gate:
        gate.assert_no_trouble()
        log = gate.read_log()
        gate.log.write_text(log + "Traceback (most recent call last):\n")
        with pytest.raises(GateError, match="Traceback"):
            gate.assert_no_trouble()
        gate.log.write_text(log)
