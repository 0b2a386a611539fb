"""How each figure is taken: throughput by pgbench, rows by a bare socket, processor time and memory from /proc.

Rules: the client costs as little as can be, since it shares the machine with what is measured; processor time is the sum over all
threads of a process in nanoseconds (schedstat), since clock ticks are too coarse; memory is what smaps_rollup says.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support import wire_messages as messages
from tests.support.endpoint import Endpoint
from tests.support.wire import WireClient

READ_BYTES: Final = 1 << 18
READY: Final = b"Z\0\0\0\5I"


class MeasureError(Exception):
    """A client failed, so there is no figure."""


@dataclass(frozen=True, slots=True)
class Load:
    tps: float
    transactions: int


def pgbench(
    program: Path,
    endpoint: Endpoint,
    role: str,
    database: str,
    *,
    protocol: str,
    clients: int,
    seconds: float | None = None,
    transactions: int = 0,
) -> Load:
    """pgbench's own select-only workload, one thread; connection times are not part of the figure."""
    amount = f"--time={seconds:.0f}" if seconds else f"--transactions={transactions}"
    command = [str(program), "-n", "-S", f"--client={clients}", "--jobs=1", f"--protocol={protocol}", amount]
    environment = {**os.environ, **endpoint.environment(role, database)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    tps = re.search(r"^tps = ([0-9.]+) \(without initial connection time\)", done.stdout, re.M)
    count = re.search(r"actually processed: (\d+)", done.stdout)
    failed = re.search(r"failed transactions: (\d+)", done.stdout)
    if done.returncode != 0 or not tps or not count or (failed and failed[1] != "0"):
        raise MeasureError(f"pgbench against {endpoint.name} ended with {done.returncode}: {done.stdout} {done.stderr}")
    return Load(float(tps[1]), int(count[1]))


class BulkReader:
    """One session that reads a whole result and throws it away: no parsing, so that what answers is what is measured."""

    def __init__(self, endpoint: Endpoint, role: str, database: str) -> None:
        self._client = WireClient.tcp("127.0.0.1", endpoint.port)
        self._client.log_in(role, database, endpoint.password(role))
        self._endpoint = endpoint.name

    def close(self) -> None:
        self._client.send(messages.terminate())
        self._client.close()

    def read(self, statement: str) -> tuple[float, int, bytes]:
        """Seconds, bytes and the last bytes."""
        began = time.perf_counter()
        self._client.send(messages.query(statement))
        size, tail = self._client.discard_until(READY, READ_BYTES)
        return time.perf_counter() - began, size, tail

    def rows_per_second(self, statement: str, rows: int, repeats: int) -> float:
        """The median of `repeats` reads.

        Raises:
            MeasureError: the answer isn't `rows` rows.
        """
        times: list[float] = []
        for _ in range(repeats):
            seconds, _, tail = self.read(statement)
            if f"SELECT {rows}\0".encode() not in tail:
                raise MeasureError(f"{self._endpoint} answered `{statement}` with {tail[-200:]!r}")
            times.append(seconds)
        return rows / sorted(times)[len(times) // 2]


def connection_ms(endpoint: Endpoint, role: str, database: str, times: int) -> float:
    """The median time from the first packet to ReadyForQuery."""
    found: list[float] = []
    password = endpoint.password(role)
    for _ in range(times):
        began = time.perf_counter()
        with WireClient.tcp("127.0.0.1", endpoint.port) as client:
            client.log_in(role, database, password)
            found.append(time.perf_counter() - began)
            client.send(messages.terminate())
    return sorted(found)[len(found) // 2] * 1000


def open_sessions(endpoint: Endpoint, role: str, database: str, count: int) -> list[WireClient]:
    """Sessions that have each asked something and now sit idle."""
    sessions: list[WireClient] = []
    for _ in range(count):
        client = WireClient.tcp("127.0.0.1", endpoint.port)
        client.log_in(role, database, endpoint.password(role))
        client.rows("SELECT abalance FROM pgbench_accounts WHERE aid = 1")
        sessions.append(client)
    return sessions


def processor_seconds(pid: int) -> float:
    """Processor time of every thread that lives, user and kernel."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def resident_mib(pid: int) -> float:
    return _kib(f"/proc/{pid}/smaps_rollup", "Rss") / 1024


def private_mib(pid: int) -> float:
    """What would be freed if the process ended."""
    path = f"/proc/{pid}/smaps_rollup"
    return (_kib(path, "Private_Clean") + _kib(path, "Private_Dirty")) / 1024


def peak_mib(pid: int) -> float:
    """The most that was ever resident."""
    return _kib(f"/proc/{pid}/status", "VmHWM") / 1024


def _kib(path: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(path).read_text(), re.M)
    if found is None:
        raise MeasureError(f"{path} has no {name}")
    return int(found[1])
