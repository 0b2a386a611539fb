"""What breaks around a gate: the recording's volume, the audit log, the target. Each ends in a clear error; nothing is lost or let through."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from sidegate.audit.sinks import verify_lines
from sidegate.policy.config import RecordingConfig, RecordingMode, TargetConfig
from sidegate.record.reader import RecordingState
from tests.integration.gate.conftest import (
    config_with,
    connect,
    error_in,
    last_words,
    metric,
    recordings,
    replace,
    running,
    wait_for_event,
    wire,
)
from tests.support import processes, requirements
from tests.support import wire_messages as m
from tests.support.gate import GateError, GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer
from tests.support.wire import LoginRefused, WireClient

# A full volume still takes what fits into a file's last block: a statement whose record doesn't, in the audit log's short form either.
LARGE = "INSERT INTO audit_trail (what) VALUES " + ", ".join(["('never')"] * 2000)


class Volume:
    """A small file system of its own that can be filled to the last byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 65536):
                pass
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0"):
                pass

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    path = tmp_path / "volume"
    path.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        requirements.absent("a file system to fill", "run the tests as root")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=80m,mode=0700", "tmpfs", path], capture_output=True, check=False)
    if done.returncode != 0:
        requirements.absent("a file system to fill", f"root may not mount here: {done.stderr.decode()}")
    yield Volume(path)
    subprocess.run(["umount", "-l", path], check=True)


def recording_on(volume: Volume, mode: RecordingMode, postgres: PostgresServer, issuer: Issuer) -> GateProcess:
    def change(target: TargetConfig) -> TargetConfig:
        return replace(target, recording=RecordingConfig(mode))

    gate = GateProcess(config_with(postgres, issuer, change=change), arguments=["--state", str(volume.path)])
    gate.state = volume.path
    return gate


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_a_full_volume_ends_the_session_before_the_statement_is_sent(
    volume: Volume, postgres: PostgresServer, issuer: Issuer, fresh_database: str, extended: bool
) -> None:
    with recording_on(volume, RecordingMode.REQUIRED, postgres, issuer) as gate:
        with wire(gate, issuer, fresh_database) as client:
            assert client.rows("SELECT 1") == [(b"1",)]
            volume.fill()
            client.send(m.parse(LARGE) + m.bind() + m.execute() + m.sync() if extended else m.query(LARGE))
            error = last_words(client)
            assert error.sqlstate == "58030"
            assert "RecordingUnavailable" in error.fields["D"]
            assert "recording volume" in error.fields["H"]
        with WireClient.tcp("127.0.0.1", gate.port) as client, pytest.raises(LoginRefused) as found:
            client.log_in("readwrite", fresh_database, gate.endpoint(issuer).password("readwrite"))
        assert found.value.error.sqlstate == "58030"
        assert metric(gate, "sidegate_recording_errors_total") >= 2
        postgres.wait_for_sessions(0, fresh_database, "readwrite")
        with postgres.admin(fresh_database) as admin:
            assert admin.execute("SELECT count(*) FROM audit_trail").fetchone() == (0,)
        volume.free()
        with wire(gate, issuer, fresh_database) as client:
            assert client.rows("SELECT 1") == [(b"1",)]
        gate.stop()
        assert verify_lines(gate.audit.read_bytes().splitlines(keepends=True)).problems == []
        states = sorted(found.state for found in recordings(gate))
        assert states.count(RecordingState.CLOSED) == 1
        assert len(states) == 2  # and the one that the full volume cut short


def test_best_effort_goes_on_when_the_volume_is_full(
    volume: Volume, postgres: PostgresServer, issuer: Issuer, fresh_database: str
) -> None:
    with recording_on(volume, RecordingMode.BEST_EFFORT, postgres, issuer) as gate:
        with wire(gate, issuer, fresh_database) as client:
            client.rows("SELECT 1")
            volume.fill()
            assert m.CommandComplete("INSERT 0 2000") in client.ask(LARGE)
            assert client.rows("SELECT count(*) FROM audit_trail") == [(b"2000",)]
        with wire(gate, issuer, fresh_database) as client:
            assert client.rows("SELECT count(*) FROM audit_trail") == [(b"2000",)]
        assert metric(gate, "sidegate_recording_errors_total") >= 2
        gate.stop()
        assert verify_lines(gate.audit.read_bytes().splitlines(keepends=True)).problems == []


def test_a_recording_budget_that_is_used_up_ends_the_session(
    postgres: PostgresServer, issuer: Issuer, fresh_database: str
) -> None:
    def change(target: TargetConfig) -> TargetConfig:
        return replace(target, recording=RecordingConfig(max_bytes=20_000))

    with GateProcess(config_with(postgres, issuer, change=change)) as gate:
        with wire(gate, issuer, fresh_database) as client:
            while True:
                client.send(m.query("INSERT INTO audit_trail (what) VALUES ('recorded')"))
                reply = client.receive()
                if isinstance(reply, m.ErrorResponse):
                    break
                client.receive_until_ready()
            assert (reply.severity, reply.sqlstate) == ("FATAL", "58030")
        (found,) = recordings(gate)
        with postgres.admin(fresh_database) as admin:
            row = admin.execute("SELECT count(*) FROM audit_trail").fetchone()
        assert row is not None
        assert 0 < row[0] <= found.statements  # nothing was done that isn't recorded


def test_an_audit_log_that_is_full_ends_sessions_and_lets_nobody_in(
    volume: Volume, postgres: PostgresServer, issuer: Issuer, fresh_database: str
) -> None:
    audit = volume.path / "audit.jsonl"
    with GateProcess(config_with(postgres, issuer), arguments=["--audit", str(audit)]) as gate:
        with wire(gate, issuer, fresh_database) as client:
            client.rows("SELECT 1")
            volume.fill()
            client.send(m.query(LARGE))
            error = last_words(client)
            assert error.sqlstate == "58030"
        with WireClient.tcp("127.0.0.1", gate.port) as client, pytest.raises(LoginRefused) as found:
            client.log_in("readwrite", fresh_database, gate.endpoint(issuer).password("readwrite"))
        assert found.value.error.sqlstate == "58030"
        postgres.wait_for_sessions(0, fresh_database, "readwrite")
        with postgres.admin(fresh_database) as admin:
            assert admin.execute("SELECT count(*) FROM audit_trail").fetchone() == (0,)
        volume.free()
        with wire(gate, issuer, fresh_database) as client:
            assert client.rows("SELECT 1") == [(b"1",)]
        gate.stop()
        assert {found.state for found in recordings(gate)} <= {RecordingState.CLOSED}


@pytest.mark.parametrize("path", ["/dev/full", "/nowhere/audit.jsonl"])
def test_a_gate_that_cannot_write_its_audit_log_does_not_start(postgres: PostgresServer, issuer: Issuer, path: str) -> None:
    with pytest.raises(GateError, match=r"Error: audit log .* can't be (written|opened)") as found:
        GateProcess(config_with(postgres, issuer), arguments=["--audit", path])
    assert "Traceback" not in str(found.value)


# The target


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.mark.parametrize("victim", ["the session", "the server"])
def test_a_target_killed_in_the_middle_of_anything_ends_sessions_with_a_word(
    server: PostgresServer, issuer: Issuer, victim: str
) -> None:
    database = server.create_database()
    with running(config_with(server, issuer)) as gate:
        clients = [WireClient.tcp("127.0.0.1", gate.port) for _ in range(5)]
        for client in clients:
            client.log_in("readwrite", database, gate.endpoint(issuer).password("readwrite"))
        _, busy, reading, writing, extended = clients
        busy.send(m.query("SELECT pg_sleep(60), 'busy'"))
        extended.send(m.parse("SELECT pg_sleep(60), 'extended'"), m.bind(), m.execute(), m.sync())
        reading.send(m.query("COPY (SELECT repeat('r', 1000) FROM generate_series(1, 1000000)) TO STDOUT"))
        reading.receive_until(m.CopyData)
        writing.send(m.query("COPY audit_trail (what) FROM STDIN"))
        writing.receive_until(m.CopyResponse)
        writing.send(m.copy_data(b"lost\n"))
        target = server.wait_for_query("'busy'", database)
        server.wait_for_query("'extended'", database)
        if victim == "the session":
            os.kill(target.pid, signal.SIGKILL)  # the server ends every other session for it, and starts again
        else:
            server.kill()
        for client in clients:
            if client is reading:  # the last message may be cut off, and then nothing stands behind it
                assert set(kinds_of(client.read_to_end())) <= {b"d", b"N", b"E"}
            else:
                assert "08006" in fatal_errors(client)  # the target's own last words may come first
            client.close()
        wait_for_event(gate, "SessionClosed", 5)
        assert all(found.state is RecordingState.CLOSED for found in recordings(gate))
        if victim == "the server":
            with pytest.raises(psycopg.OperationalError, match="can't be reached"):
                connect(gate, issuer, database)
            server.start()

        def is_back() -> bool:
            try:
                with connect(gate, issuer, database) as connection:
                    return connection.execute("SELECT count(*) FROM audit_trail").fetchone() == (0,)
            except psycopg.OperationalError:
                return False

        processes.wait_until(is_back, "the target to be back", timeout_s=30)


def test_a_session_ended_by_an_administrator_says_so(postgres: PostgresServer, issuer: Issuer, fresh_database: str) -> None:
    with running(config_with(postgres, issuer)) as gate, wire(gate, issuer, fresh_database) as client:
        (target,) = postgres.sessions(fresh_database, "readwrite")
        with postgres.admin() as admin:
            admin.execute("SELECT pg_terminate_backend(%s)", [target.pid])
        error = client.receive()
        assert isinstance(error, m.ErrorResponse)
        assert (error.severity, error.sqlstate) == ("FATAL", "57P01")
        client.read_to_end()
        wait_for_event(gate, "SessionClosed")


def test_settings_of_the_targets_own_end_what_they_are_for(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    with running(config_with(postgres, issuer)) as gate, wire(gate, issuer, shop) as client:
        client.ask("SET statement_timeout = '100ms'")
        assert error_in(client.ask("SELECT pg_sleep(60)")).sqlstate == "57014"
        client.ask("SET idle_in_transaction_session_timeout = '100ms'")
        client.ask("BEGIN")
        assert fatal_errors(client)[0] == "25P03"


def kinds_of(data: bytes) -> Iterator[bytes]:
    """The type of each message, up to the cut."""
    at = 0
    while at + 5 <= len(data):
        yield data[at : at + 1]
        at += 1 + int.from_bytes(data[at + 1 : at + 5], "big")


def fatal_errors(client: WireClient) -> list[str]:
    """The SQLSTATE of every FATAL error until the connection ends, which it does between two messages."""
    found: list[str] = []
    while not found or not client.is_closed_by_peer():
        reply = client.receive()
        if isinstance(reply, m.ErrorResponse):
            assert reply.severity == "FATAL"
            found.append(reply.sqlstate)
    return found


def test_a_target_that_stops_answering_holds_nobody_else_up(server: PostgresServer, issuer: Issuer) -> None:
    """A frozen session of the target is only that session's trouble; its client can leave, and its recording is closed."""
    database = server.create_database()
    with running(config_with(server, issuer)) as gate, wire(gate, issuer, database) as other:
        with wire(gate, issuer, database) as client:
            (frozen,) = [
                each
                for each in server.sessions(database)
                if each.pid == int(client.rows("SELECT pg_backend_pid()")[0][0] or b"0")
            ]
            os.kill(frozen.pid, signal.SIGSTOP)
            client.send(m.query("SELECT 1"))
            assert other.rows("SELECT 2") == [(b"2",)]
        wait_for_event(gate, "SessionClosed")
        os.kill(frozen.pid, signal.SIGCONT)
