"""Listening sockets and their accept loops. A connection is handed over as a raw socket: its first bytes decide what it becomes.

Addresses: `HOST:PORT`, `[IPV6]:PORT`, or `unix:DIRECTORY`, where the socket has the name PostgreSQL's clients look for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger("sidegate.runtime")

BACKLOG: Final = 512
ACCEPT_PAUSE_S: Final = 0.2  # out of descriptors: waiting is better than spinning

Serve = Callable[[socket.socket, str], Awaitable[None]]


class ListenError(Exception):
    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """`directory` for a Unix socket, else `host` and `port`."""

    host: str = ""
    port: int = 0
    directory: Path | None = None

    @classmethod
    def parse(cls, text: str, default_port: int) -> ListenAddress:
        """Raises ListenError for what is no address."""
        if text.startswith("unix:"):
            return cls(port=default_port, directory=Path(text.removeprefix("unix:")))
        host, separator, port = text.rpartition(":")
        if not separator or not port.isdigit() or int(port) > 65535:
            raise ListenError(f"`{text}` is no address to listen at", "write HOST:PORT, [IPV6]:PORT or unix:DIRECTORY")
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        if self.directory is not None:
            return f"unix:{self.directory}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Listener:
    def __init__(
        self, address: ListenAddress, serve: Serve, *, shares_port: bool = False, inherited: socket.socket | None = None
    ) -> None:
        """`inherited` listens already, for several processes."""
        self.address = address
        self._serve = serve
        self._socket = inherited or _bind(address, shares_port=shares_port)
        self._accepting: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1]) if self.address.directory is None else self.address.port

    def start(self) -> None:
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    async def close(self) -> None:
        """Take no more connections; those being served go on."""
        if self._accepting is not None:
            self._accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._accepting
        self._socket.close()
        if self.address.directory is not None:
            _socket_path(self.address).unlink(missing_ok=True)

    async def wait_served(self, timeout_s: float) -> None:
        if self._serving:
            await asyncio.wait(self._serving, timeout=timeout_s)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(self._socket)
            except OSError as error:
                log.error("accept failed: %s", error)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            source = "unix"
            try:
                connection.setblocking(False)
                if self.address.directory is None:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    source = str(peer[0]).removeprefix("::ffff:")  # IPv4 through an IPv6 socket (RFC 4291, 2.5.5.2)
            except OSError as error:  # it is gone already
                log.info("connection was lost while it was accepted: %s", error)
                connection.close()
                continue
            task = loop.create_task(self._run(connection, source))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _run(self, connection: socket.socket, source: str) -> None:
        await self._serve(connection, source)


def bind_unix_sockets(texts: Sequence[str], default_port: int) -> dict[str, socket.socket]:
    """Those of the addresses that are directories, bound and listening: a path can't be shared by binding it twice.

    Raises:
        ListenError: one can't be had.
    """
    addresses = {text: ListenAddress.parse(text, default_port) for text in texts}
    return {text: _bind(address, shares_port=False) for text, address in addresses.items() if address.directory is not None}


def _socket_path(address: ListenAddress) -> Path:
    assert address.directory is not None
    return address.directory / f".s.PGSQL.{address.port}"


def _bind(address: ListenAddress, *, shares_port: bool) -> socket.socket:
    try:
        if address.directory is not None:
            path = _socket_path(address)
            if path.is_socket():
                path.unlink()
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            before = os.umask(0o177)
            try:
                made.bind(str(path))
            finally:
                os.umask(before)
        else:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            made = socket.socket(family, socket.SOCK_STREAM)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shares_port:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind((address.host, address.port))
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError as error:
        raise ListenError(
            f"can't listen at {address}: {error.strerror or error}", "choose another address, or stop what listens there"
        ) from error
    return made
