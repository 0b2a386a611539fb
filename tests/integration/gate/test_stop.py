"""How a gate ends: told to, in order; killed, with recordings that say what is intact."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from sidegate.audit.sinks import verify_lines
from sidegate.policy.config import ApprovalConfig, RuleAction, RuleConfig, StatementMatch
from sidegate.record.reader import RecordingState
from tests.integration.gate.conftest import (
    WorkersProcess,
    assert_all_is_written,
    config_with,
    events_of,
    last_words,
    recordings,
    run_sidegate,
    running,
    running_workers,
    wire,
)
from tests.support import processes
from tests.support import wire_messages as m
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer
from tests.support.wire import WireClient

HELD = RuleConfig(
    "held",
    RuleAction.REQUIRE_APPROVAL,
    statements=StatementMatch(kinds=("Delete",)),
    approval=ApprovalConfig(approver_groups=("dba",)),
)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_ends_every_session_with_a_word_and_closes_its_recording(
    postgres: PostgresServer, issuer: Issuer, fresh_database: str, workers: int
) -> None:
    config = config_with(postgres, issuer, HELD)
    with running_workers(config, workers) if workers > 1 else running(config) as gate:
        idle, busy, waiting, copying = (WireClient.tcp("127.0.0.1", gate.port) for _ in range(4))
        for client in (idle, busy, waiting, copying):
            client.log_in("readwrite", fresh_database, gate.endpoint(issuer).password("readwrite"))
        idle.rows("SELECT 1")
        busy.send(m.query("SELECT pg_sleep(60), 'busy'"))
        waiting.send(m.query("DELETE FROM accounts"))
        waiting.receive_until(m.NoticeResponse)
        copying.send(m.query("COPY audit_trail (what) FROM STDIN"))
        copying.receive_until(m.CopyResponse)
        copying.send(m.copy_data(b"lost\n"))
        postgres.wait_for_query("'busy'", fresh_database)
        gate.stop()
        for client in (idle, busy, waiting, copying):
            error = last_words(client)
            assert error.sqlstate == "57P01"
            assert "the gate stops" in error.message
            client.close()
        assert_all_is_written(gate)
        assert {found.state for found in recordings(gate)} == {RecordingState.CLOSED}
        events = [event["event"] for event in events_of(gate)]
        assert events.count("SessionClosed") == 4
        assert events.count("GateStopped") == workers
        postgres.wait_for_sessions(0, fresh_database, "readwrite")
        with postgres.admin(fresh_database) as admin:
            assert admin.execute("SELECT count(*) FROM audit_trail").fetchone() == (0,)
            assert admin.execute("SELECT count(*) FROM accounts").fetchone() == (5000,)


def test_a_statement_that_runs_gets_its_answer_before_the_gate_stops(
    postgres: PostgresServer, issuer: Issuer, fresh_database: str
) -> None:
    with running(config_with(postgres, issuer, HELD), arguments=["--finish", "5"]) as gate:
        idle, busy, slow, waiting, pipelined = (WireClient.tcp("127.0.0.1", gate.port) for _ in range(5))
        for client in (idle, busy, slow, waiting, pipelined):
            client.log_in("readwrite", fresh_database, gate.endpoint(issuer).password("readwrite"))
        busy.send(m.query("SELECT pg_sleep(2), 'busy'"))
        slow.send(m.query("SELECT pg_sleep(60), 'slow'"))
        waiting.send(m.query("DELETE FROM accounts"))
        waiting.receive_until(m.NoticeResponse)
        pipelined.send(
            m.query("BEGIN"), m.query("INSERT INTO audit_trail (what) SELECT 'kept' FROM pg_sleep(1)"), m.query("COMMIT")
        )
        for words in ("'busy'", "'slow'", "'kept'"):
            postgres.wait_for_query(words, fresh_database)
        began = time.monotonic()
        os.kill(gate.pid, signal.SIGTERM)
        for client in (idle, waiting):
            assert "the gate stops" in last_words(client).message
        assert time.monotonic() - began < 1.5  # nobody waits for them, nor for people
        with pytest.raises(OSError, match=r"refused|reset"):
            WireClient.tcp("127.0.0.1", gate.port)
        assert m.CommandComplete("SELECT 1") in busy.receive_until_ready()
        assert "the gate stops" in last_words(busy).message
        for _ in range(3):
            pipelined.receive_until_ready()
        assert "the gate stops" in last_words(pipelined).message
        assert "the gate stops" in last_words(slow).message  # its time is over
        assert 4.5 < time.monotonic() - began < 12
        for client in (idle, busy, slow, waiting, pipelined):
            client.close()
    with postgres.admin(fresh_database) as admin:
        assert admin.execute("SELECT count(*) FROM audit_trail").fetchone() == (1,)
        assert admin.execute("SELECT count(*) FROM accounts").fetchone() == (5000,)


def test_a_reader_that_is_slow_does_not_keep_the_gate_from_stopping(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    with running(config_with(postgres, issuer)) as gate, wire(gate, issuer, shop) as client:
        client.send(m.query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
        client.read_exactly(1000)
        gate.stop()
        assert_all_is_written(gate)
    postgres.wait_for_sessions(0, shop, "readwrite")


def test_after_a_kill_the_recordings_say_what_is_intact(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    with GateProcess(config_with(postgres, issuer)) as gate:
        with wire(gate, issuer, shop) as done:
            done.rows("SELECT 'done'")
        processes.wait_until(
            lambda: any(found.state is RecordingState.CLOSED for found in recordings(gate)), "a closed recording"
        )
        with wire(gate, issuer, shop) as client:
            for number in range(5):
                client.rows(f"SELECT {number}")
            assert {found.state for found in recordings(gate)} == {RecordingState.CLOSED, RecordingState.LIVE}
            os.kill(gate.pid, signal.SIGKILL)
            assert client.is_closed_by_peer()
        gate.kill()
        by_state = {found.state: found for found in recordings(gate)}
        assert set(by_state) == {RecordingState.CLOSED, RecordingState.NOT_CLOSED}
        cut = by_state[RecordingState.NOT_CLOSED]
        assert cut.statements == 5
        assert cut.intact_bytes == cut.size
        assert verify_lines(gate.audit.read_bytes().splitlines(keepends=True)).problems == []
        verified = run_sidegate("recordings", "verify", "--directory", gate.state / "recordings", check=False)
        assert verified.returncode == 1
        assert "5 statements" in verified.stdout
        assert "its end is missing" in verified.stdout
        assert "SELECT 4" in run_sidegate("replay", cut.path, check=False).stdout
        postgres.wait_for_sessions(0, shop, "readwrite")
        gate.start()  # the same state directory: the audit log's chain goes on
        with wire(gate, issuer, shop) as client:
            client.rows("SELECT 1")
        gate.stop()
        assert verify_lines(gate.audit.read_bytes().splitlines(keepends=True)).problems == []


def test_a_worker_that_dies_takes_the_others_with_it(postgres: PostgresServer, issuer: Issuer) -> None:
    with WorkersProcess(config_with(postgres, issuer), 2) as gate:
        first, second = processes.children_of(gate.pid)
        os.kill(first, signal.SIGKILL)
        processes.wait_until(lambda: not gate.is_running, "the gate to end")
        assert not Path(f"/proc/{second}").exists()
        gate.kill()


def test_workers_do_not_outlive_their_parent(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    with WorkersProcess(config_with(postgres, issuer), 2) as gate:
        children = processes.children_of(gate.pid)
        with wire(gate, issuer, shop) as client:
            client.rows("SELECT 1")
            gate.kill()
            assert last_words(client).sqlstate == "57P01"
        processes.wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "the workers to end")
        assert_all_is_written(gate)
