"""CancelRequest: only the right key does anything, in one process or several; and a cancel of a held statement withdraws it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from sidegate.policy.config import ApprovalConfig, RuleAction, RuleConfig, StatementMatch
from tests.integration.gate.conftest import (
    config_with,
    connect,
    error_in,
    events_of,
    metric,
    running,
    running_workers,
    wait_for_event,
    wire,
)
from tests.support import processes
from tests.support import wire_messages as m
from tests.support.gate import GateProcess, token_for
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer, embedded_installation
from tests.support.wire import WireClient

HELD = RuleConfig(
    "held",
    RuleAction.REQUIRE_APPROVAL,
    statements=StatementMatch(kinds=("Delete",)),
    approval=ApprovalConfig(approver_groups=("dba",)),
)


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, HELD)) as gate:
        yield gate


def send_cancel(gate: GateProcess, pid: int, key: bytes) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        client.send(m.cancel_request(pid, key))
        assert client.is_closed_by_peer()


@pytest.mark.parametrize("version", ["3.0", "3.2"])
def test_psycopg_cancels_a_running_statement(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, shop: str, version: str
) -> None:
    with connect(gate, issuer, shop, min_protocol_version=version, max_protocol_version=version) as connection:
        connection.pgconn.send_query(f"SELECT pg_sleep(60), 'cancel {version}'".encode())
        postgres.wait_for_query(f"cancel {version}", shop)
        connection.cancel_safe(timeout=10)
        result = connection.pgconn.get_result()
        assert result is not None
        assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"57014"
        assert connection.pgconn.get_result() is None
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_interrupt_of_psql_cancels(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, shop: str, tmp_path: Path
) -> None:
    environment = {**os.environ, **gate.endpoint(issuer).environment("readwrite", shop)}
    psql = embedded_installation().program("psql")
    script = "SELECT pg_sleep(60), 'interrupted';\nSELECT 'and ' || 'on';\n"
    file = tmp_path / "script.sql"
    file.write_text(script)
    process = subprocess.Popen(
        [psql, "-X", "-A", "-t", "-f", file], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    postgres.wait_for_query("interrupted", shop)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert "canceling statement due to user request" in err
    assert process.returncode in {0, 3} or "and on" in out


@pytest.mark.parametrize("version", [m.PROTOCOL_3_0, m.PROTOCOL_3_2], ids=["3.0", "3.2"])
def test_a_wrong_key_does_nothing_and_is_written_down(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, shop: str, version: int
) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        client.log_in("readwrite", shop, token_for(issuer, "readwrite"), version=version)
        assert client.key is not None
        pid, key = client.key.pid, client.key.key
        client.send(m.query("SELECT pg_sleep(60), 'wrong key'"))
        target = postgres.wait_for_query("wrong key", shop)
        before = len([event for event in events_of(gate) if event["event"] == "CancelReceived"])
        wrong = [
            (pid, bytes(len(key))), (pid + 1, key), (pid, key[:-1]), (pid, key + b"\0"), (pid, key[:4] if len(key) > 4 else key * 2),
            (target.pid, key), (0, b"\0\0\0\0"),
        ]  # fmt: skip
        for each in wrong:
            if len(each[1]) >= 4:
                send_cancel(gate, *each)
        wait_for_event(gate, "CancelReceived", before + len([each for each in wrong if len(each[1]) >= 4]))
        assert postgres.wait_for_query("wrong key", shop).pid == target.pid
        send_cancel(gate, pid, key)
        assert error_in(client.receive_until_ready()).sqlstate == "57014"


def test_the_targets_own_key_is_not_shown(gate: GateProcess, postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    with wire(gate, issuer, shop) as client:
        assert client.key is not None
        ((pid,),) = client.rows("SELECT pg_backend_pid()")
        assert pid is not None
        assert client.key.pid != int(pid)


def test_a_cancel_while_nothing_runs_is_harmless(gate: GateProcess, issuer: Issuer, shop: str) -> None:
    with wire(gate, issuer, shop) as client:
        assert client.key is not None
        for _ in range(3):
            send_cancel(gate, client.key.pid, client.key.key)
        assert client.rows("SELECT pg_sleep(0.05), 1")[0][1] == b"1"


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize("in_transaction", [False, True], ids=["alone", "in a transaction"])
def test_a_cancel_withdraws_a_hold(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, fresh_database: str, extended: bool, in_transaction: bool
) -> None:
    with wire(gate, issuer, fresh_database) as client:
        assert client.key is not None
        if in_transaction:
            client.ask("BEGIN")
        statement = "DELETE FROM accounts WHERE id = 1"
        if extended:
            client.send(m.parse(statement), m.bind(), m.execute(), m.sync())
        else:
            client.send(m.query(statement))
        notices = client.receive_until(m.NoticeResponse)
        assert isinstance(notices[-1], m.NoticeResponse)
        name = next(word for word in notices[-1].message.split() if word.startswith("ar-"))
        if not in_transaction:  # in one, the target has parsed it by then, as it would have without a gate
            assert [each.query for each in postgres.sessions(fresh_database, "readwrite") if "accounts" in each.query] == []
        send_cancel(gate, client.key.pid, client.key.key)
        replies = client.receive_until_ready()
        error = error_in(replies)
        assert (error.severity, error.sqlstate) == ("ERROR", "57014")
        assert "ApprovalWithdrawn" in error.fields["D"]
        assert replies[-1] == m.ReadyForQuery("E" if in_transaction else "I")
        if in_transaction:
            client.ask("ROLLBACK")
        assert client.rows("SELECT count(*) FROM accounts WHERE id = 1") == [(b"1",)]
    assert wait_for_event(gate, "HoldEnded", approval=name)["outcome"] == "Withdrawn"
    request = (gate.state / "approvals" / f"{name}.yaml").read_text()
    assert "Withdrawn" in request
    processes.wait_until(lambda: metric(gate, "sidegate_holds_open") == 0, "no open hold")


# Several processes


def test_cancels_reach_the_worker_whose_session_it_is(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    count = 12
    with running_workers(config_with(postgres, issuer), 2) as gate:
        clients = [WireClient.tcp("127.0.0.1", gate.port) for _ in range(count)]
        clients += [WireClient.unix(gate.directory, gate.port) for _ in range(count // 2)]
        for number, client in enumerate(clients):
            client.log_in(
                "readwrite", shop, token_for(issuer, "readwrite"), version=m.PROTOCOL_3_2 if number % 2 else m.PROTOCOL_3_0
            )
            client.send(m.query(f"SELECT pg_sleep(60), 'worker {number}'"))
        for number in range(len(clients)):
            postgres.wait_for_query(f"worker {number}'", shop)
        keys = [client.key for client in clients]
        workers = {key.pid >> 24 for key in keys if key is not None}
        assert workers == {0, 1}
        for client in clients:
            assert client.key is not None
            send_cancel(gate, client.key.pid, client.key.key)
            assert error_in(client.receive_until_ready()).sqlstate == "57014"
            assert client.rows("SELECT 1") == [(b"1",)]
            client.close()
        assert {event["writer"] for event in events_of(gate)} == {"gate-0", "gate-1"}
