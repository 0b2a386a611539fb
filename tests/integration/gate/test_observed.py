"""What a gate says of itself: metrics, health, audit events and recordings tell the same story."""

from __future__ import annotations

import threading
import urllib.error

import psycopg
import pytest

from sidegate.policy.config import ColumnMatch, RuleAction, RuleConfig, StatementMatch
from tests.integration.gate.conftest import config_with, connect, metric, run_sidegate, running, wait_for_event
from tests.support import processes
from tests.support import wire_messages as m
from tests.support.gate import token_for
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer
from tests.support.wire import WireClient

CARDS = RuleConfig("cards", RuleAction.MASK, columns=(ColumnMatch("card"),))
NO_DELETES = RuleConfig("no-deletes", RuleAction.DENY, statements=StatementMatch(kinds=("Delete",)))


def test_metrics_audit_and_recording_agree_on_a_session(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    with running(config_with(postgres, issuer, CARDS, NO_DELETES)) as gate:
        assert metric(gate, "sidegate_sessions_open") == 0
        with connect(gate, issuer, shop, application_name="observed") as connection:
            assert metric(gate, "sidegate_sessions_open") == 1
            connection.execute("SELECT id, card FROM customers ORDER BY id LIMIT 7")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("DELETE FROM accounts")
            connection.execute("SELECT 1")
        closed = wait_for_event(gate, "SessionClosed")
        opened = wait_for_event(gate, "SessionOpened")
        processes.wait_until(lambda: metric(gate, "sidegate_sessions_open") == 0, "the session to be counted out")
        assert opened["applicationName"] == "observed"
        assert opened["session"]["id"] == closed["session"]["id"]
        assert (closed["statements"], closed["denied"]) == (3, 1)
        assert wait_for_event(gate, "Masked")["cells"] == {"shop/open-readwrite#cards": 7}
        assert metric(gate, "sidegate_sessions_total") == 1
        assert metric(gate, "sidegate_statements_total", decision="Allow", kind="Read") == 2
        assert metric(gate, "sidegate_statements_total", decision="Deny", kind="Delete") == 1
        assert metric(gate, "sidegate_refusals_total", reason="DeniedByRule") == 1
        assert metric(gate, "sidegate_masked_values_total") == 7
        assert metric(gate, "sidegate_relayed_bytes_total", side="client") > 100
        assert metric(gate, "sidegate_relayed_bytes_total", side="target") > 100
        (recording,) = gate.state.rglob("*.sgrec")
        assert metric(gate, "sidegate_recording_bytes_total") <= recording.stat().st_size
        verified = run_sidegate("recordings", "verify", "--directory", gate.state / "recordings", "--audit", gate.audit).stdout
        assert "as in the audit log" in verified
        text = recording.read_bytes()
        for card in (b"4111111111111111", b"5555555555554444", b"378282246310005"):
            assert card not in text


def test_the_audit_log_is_one_chain_however_many_sessions_end_at_once(
    postgres: PostgresServer, issuer: Issuer, shop: str
) -> None:
    """Recordings are closed beside the event loop; events are written in it alone."""
    with running(config_with(postgres, issuer)) as gate:
        password = token_for(issuer, "readwrite")

        def come_and_go() -> None:
            for _ in range(25):
                with WireClient.tcp("127.0.0.1", gate.port) as client:
                    client.log_in("readwrite", shop, password)
                    client.ask("SELECT 1")
                    client.send(m.terminate())
                    client.read_to_end()

        def stay_busy() -> None:
            with WireClient.tcp("127.0.0.1", gate.port) as client:
                client.log_in("readwrite", shop, password)
                while not is_over.is_set():
                    client.send(m.query("SELECT 1") * 50)
                    client.receive_until_ready(50)

        is_over = threading.Event()
        busy = [threading.Thread(target=stay_busy) for _ in range(1)]
        threads = [threading.Thread(target=come_and_go) for _ in range(4)]
        for thread in (*busy, *threads):
            thread.start()
        for thread in threads:
            thread.join()
        is_over.set()
        for thread in busy:
            thread.join()
        wait_for_event(gate, "SessionClosed", 101)


def test_health_follows_the_gate(postgres: PostgresServer, issuer: Issuer) -> None:
    with running(config_with(postgres, issuer)) as gate:
        assert gate.page("/ready") == "ready\n"
        assert gate.page("/started") == "started\n"
        assert gate.page("/live") == "live\n"
        with pytest.raises(urllib.error.HTTPError):
            gate.page("/nothing")
        gate.stop()
        with pytest.raises(urllib.error.URLError):
            gate.page("/live")
