"""One gate as several processes that share its port (SO_REUSEPORT): one for each core, when asked.

The kernel spreads connections over the workers; a CancelRequest comes on a connection of its own and may reach another
worker than its session's. The process id in its key says whose it is, and that worker is told through a datagram socket in
the state directory. A worker that ends takes the others with it: half a gate would look like a whole one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from sidegate.policy.config import ConfigError, decode_config
from sidegate.runtime.listener import bind_unix_sockets

if TYPE_CHECKING:
    from sidegate.postgres.cancels import ReceiveCancel
    from sidegate.runtime.main import GateOptions

MAX_CANCEL_BYTES: Final = 512
PR_SET_PDEATHSIG: Final = 1


class WorkerPost:
    """Implements `postgres.cancels.CancelPost` between the workers of one state directory."""

    def __init__(self, state: Path, worker: int) -> None:
        self.worker = worker
        self._state = state
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = self._path(worker)
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._socket.bind(str(path))
        finally:
            os.umask(before)
        self._socket.setblocking(False)

    def _path(self, worker: int) -> Path:
        return self._state / f"worker-{worker}.cancel"

    def send(self, worker: int, process_id: int, key: bytes, source_address: str) -> None:
        """To the worker whose session it is; a worker that isn't there has no session."""
        self._send(self._path(worker), process_id, key, source_address)

    def send_to_others(self, process_id: int, key: bytes, source_address: str) -> None:
        """To every other worker."""
        for path in self._state.glob("worker-*.cancel"):
            if path != self._path(self.worker):
                self._send(path, process_id, key, source_address)

    def _send(self, path: Path, process_id: int, key: bytes, source_address: str) -> None:
        message = process_id.to_bytes(4, "big") + len(key).to_bytes(2, "big") + key + source_address.encode()
        with contextlib.suppress(OSError):
            self._socket.sendto(message, str(path))

    def start(self, receive: ReceiveCancel) -> None:
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._receive, receive)

    def _receive(self, receive: ReceiveCancel) -> None:
        with contextlib.suppress(BlockingIOError):
            message = self._socket.recv(MAX_CANCEL_BYTES)
            length = int.from_bytes(message[4:6], "big")
            receive(int.from_bytes(message[:4], "big"), message[6 : 6 + length], message[6 + length :].decode("ascii", "replace"))

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._path(self.worker).unlink(missing_ok=True)


def run_workers(options: GateOptions, workers: int) -> int:
    """Fork the workers and wait for them; returns the exit status. Worker N serves metrics at the given port plus N."""
    from sidegate.runtime.main import DEFAULT_PORT, run_gate, run_loop

    try:
        port = decode_config(options.config_file.read_bytes()).target.port
    except (OSError, ConfigError):
        port = DEFAULT_PORT  # as a worker without a config does
    options = replace(options, inherited=bind_unix_sockets(options.listen, port))
    parent = os.getpid()
    children: list[int] = []
    for number in range(workers):
        child = os.fork()
        if child == 0:
            own = replace(options, shares_port=True, worker=number, workers=workers, metrics=_metrics_of(options.metrics, number))
            status = 1
            try:
                _end_with_parent(parent)
                run_loop(lambda own=own: run_gate(own))  # type: ignore[misc]
                status = 0
            except Exception as error:  # the child's last words; whatever it was, the parent ends the rest
                os.write(2, f"Error: worker {number}: {error}\n".encode())
            finally:
                os._exit(status)
        children.append(child)
    return _supervise(children)


def _end_with_parent(parent: int) -> None:
    """A worker whose parent was killed stops as if it had been told to (Linux, prctl(2)): nobody would look after it."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:  # it died in between
        os._exit(1)


def _supervise(children: list[int]) -> int:
    is_stopping = False

    def pass_on(number: int, _frame: FrameType | None) -> None:
        nonlocal is_stopping
        is_stopping = is_stopping or number != signal.SIGHUP
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    worst = 0
    while children:
        child, state = os.wait()
        if child not in children:
            continue
        children.remove(child)
        code = os.waitstatus_to_exitcode(state)
        if code != 0 or not is_stopping:
            worst = 1
            if not is_stopping:
                pass_on(signal.SIGTERM, None)
    return worst


def _metrics_of(address: str | None, worker: int) -> str | None:
    if address is None:
        return None
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + worker}"
