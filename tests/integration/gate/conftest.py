"""A gate as a process between real clients and a real PostgreSQL. Whatever a test does to it, at the end its audit log and recordings verify."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import psycopg
import pytest

from sidegate.audit.sinks import verify_lines
from sidegate.policy.config import GateConfig, RuleConfig, TargetConfig
from sidegate.record.reader import Verification, find_recordings, verify_recording
from tests.support import processes
from tests.support import wire_messages as m
from tests.support.gate import GateError, GateProcess, gate_config, open_policy
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer
from tests.support.wire import WireClient

Change: TypeAlias = Callable[[TargetConfig], TargetConfig]
Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


@contextlib.contextmanager
def running(
    config: GateConfig, *, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[GateProcess]:
    """A gate that must end cleanly and leave an audit log and recordings that verify."""
    with GateProcess(config, arguments=arguments, environment=environment) as gate:
        yield gate
        gate.stop()
        assert_all_is_written(gate)


class WorkersProcess(GateProcess):
    """A gate of several processes, each with a metrics port of its own behind the first one's. Returns when all are ready."""

    def __init__(self, config: GateConfig, workers: int) -> None:
        self.workers = workers
        super().__init__(config, arguments=["--workers", str(workers)])

    def start(self) -> None:
        for _ in range(5):  # ports in a row that were free a moment ago may not be any more
            self.metrics_port = _ports_in_a_row(self.workers)
            try:
                super().start()
                processes.wait_until(lambda: self.read_log().count("ready, listening") == self.workers, "every worker")
            except (GateError, TimeoutError):
                if "address already in use" not in self.read_log():
                    raise
                self.kill()
                self.log.unlink()
                self.audit.unlink(missing_ok=True)
            else:
                return
        raise GateError("no ports for the workers' metrics")


def _ports_in_a_row(count: int) -> int:
    while True:
        first = processes.free_port()
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except (OSError, OverflowError):
                continue
        return first


@contextlib.contextmanager
def running_workers(config: GateConfig, workers: int) -> Iterator[GateProcess]:
    """Like `running`, in several processes."""
    with WorkersProcess(config, workers) as gate:
        yield gate
        gate.stop()
        assert_all_is_written(gate)


def assert_all_is_written(gate: GateProcess) -> None:
    """After its end: no line of the audit log and no frame of a recording is missing or changed."""
    report = verify_lines(gate.audit.read_bytes().splitlines(keepends=True))
    assert report.problems == []
    bad = [found for found in recordings(gate) if not found.is_ok]
    assert bad == []


def recordings(gate: GateProcess) -> list[Verification]:
    return [verify_recording(path) for path in find_recordings(gate.state / "recordings")]


def replace(target: TargetConfig, **changes: Any) -> TargetConfig:
    return msgspec.structs.replace(target, **changes)


def config_with(
    server: PostgresServer, issuer: Issuer, *rules: RuleConfig, change: Change = lambda target: target, role: str = "readwrite"
) -> GateConfig:
    """Everything for `role`, less what `rules` take away."""
    return gate_config(server, issuer, policies=[open_policy(role, rules=rules)], change=change)


def connect(gate: GateProcess, issuer: Issuer, database: str, role: str = "readwrite", **more: Any) -> Connection:
    return psycopg.connect(gate.endpoint(issuer).dsn(role, database), autocommit=True, **more)


def rewrite(gate: GateProcess, data: bytes) -> None:
    """Put something else in the config file and have the gate look at it. Who expects it to be taken up uses `gate.reload`."""
    fresh = gate.config_file.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.replace(gate.config_file)
    os.kill(gate.pid, signal.SIGHUP)


@contextlib.contextmanager
def wire(gate: GateProcess, issuer: Issuer, database: str, role: str = "readwrite") -> Iterator[WireClient]:
    """Logged in, by hand."""
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        client.log_in(role, database, gate.endpoint(issuer).password(role))
        yield client


def error_in(replies: list[m.Reply]) -> m.ErrorResponse:
    """The one error among them."""
    found = [reply for reply in replies if isinstance(reply, m.ErrorResponse)]
    assert len(found) == 1, replies
    return found[0]


def last_words(client: WireClient) -> m.ErrorResponse:
    """Everything up to the FATAL error that ends the connection; after it nothing comes."""
    while True:
        reply = client.receive()
        if isinstance(reply, m.ErrorResponse) and reply.severity == "FATAL":
            assert client.is_closed_by_peer()
            return reply


def events_of(gate: GateProcess) -> list[dict[str, Any]]:
    """Audit events so far, without a line that is being written right now."""
    whole, _, _ = gate.audit.read_bytes().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]


def wait_for_event(gate: GateProcess, name: str, count: int = 1, **members: Any) -> dict[str, Any]:
    """The last of at least `count` audit events of that name with these members."""

    def found() -> list[dict[str, Any]]:
        return [
            event
            for event in events_of(gate)
            if event["event"] == name and all(event.get(key) == value for key, value in members.items())
        ]

    processes.wait_until(lambda: len(found()) >= count, f"{count} audit event(s) {name} {members}: {gate.read_log()}")
    return found()[-1]


def metric(gate: GateProcess, name: str, **labels: str) -> float:
    """The sum of the samples of that name with these labels; 0 when there are none."""
    total = 0.0
    for line in gate.page("/metrics").splitlines():
        sample, _, value = line.rpartition(" ")
        if sample.partition("{")[0] == name and all(f'{key}="{wanted}"' in sample for key, wanted in labels.items()):
            total += float(value)
    return total


def high_water_mib(pid: int) -> float:
    """The most memory that the process ever had resident (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM in /proc")


def forget_high_water(pid: int) -> float:
    """Begin to measure anew; what is resident now, in MiB."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return high_water_mib(pid)


def run_sidegate(*arguments: str | Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a person would call it."""
    done = subprocess.run(
        [sys.executable, "-m", "sidegate.cli.main", *(str(argument) for argument in arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not check or done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done


@pytest.fixture
def fresh_database(postgres: PostgresServer) -> Iterator[str]:
    """A copy of the shop for one test, dropped only after the gates of that test are gone."""
    name = postgres.create_database()
    yield name
    postgres.drop_database(name)
