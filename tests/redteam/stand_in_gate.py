"""A gate that lets everyone in and answers nothing: proves the other end, the judge. Through it no attack may count as a success.

`DENY` refuses every statement, `HANG` says nothing, `DROP` ends the connection, `RELAY` passes everything to the target: a gate that doesn't
guard, through which attacks must count as successes.
"""

from __future__ import annotations

import enum
import socket
import struct
import threading
from contextlib import ExitStack, suppress
from io import BufferedIOBase
from types import TracebackType
from typing import Final, Self


class Manner(enum.Enum):
    DENY = "deny"
    HANG = "hang"
    DROP = "drop"
    RELAY = "relay"


def _message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


READY: Final = _message(b"Z", b"I")
REFUSAL: Final = _message(b"E", b"SERROR\0VERROR\0C42501\0Mdenied by policy self-test\0\0")
_SETTINGS: Final = ((b"server_version", b"15.0"), (b"client_encoding", b"UTF8"), (b"standard_conforming_strings", b"on"))
HELLO: Final = (
    _message(b"R", struct.pack(">I", 0))
    + b"".join(_message(b"S", name + b"\0" + value + b"\0") for name, value in _SETTINGS)
    + _message(b"K", struct.pack(">II", 1, 1))
    + READY
)
ASKS_FOR_ENCRYPTION: Final = (80877103, 80877104)  # SSLRequest, GSSENCRequest


class StandInGate:
    """`target_port` is needed to relay alone."""

    def __init__(self, manner: Manner, target_port: int = 0) -> None:
        self._manner, self._target_port = manner, target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._closing = threading.Event()
        threading.Thread(target=self._accept, name="stand-in gate", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                serve = self._relay if self._manner is Manner.RELAY else self._serve
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with ExitStack() as stack, suppress(OSError):
            stack.enter_context(client)
            target = stack.enter_context(socket.create_connection(("127.0.0.1", self._target_port)))
            threading.Thread(target=_copy, args=(client, target), daemon=True).start()
            _copy(target, client)

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as stream, suppress(OSError, struct.error):
            length, code = struct.unpack(">II", stream.read(8))
            while code in ASKS_FOR_ENCRYPTION:
                client.sendall(b"N")
                length, code = struct.unpack(">II", stream.read(8))
            stream.read(length - 8)
            client.sendall(HELLO)
            self._answer(client, stream)

    def _answer(self, client: socket.socket, stream: BufferedIOBase) -> None:
        skips = False
        read = stream.read
        while (kind := read(1)) not in (b"", b"X"):
            read(struct.unpack(">I", read(4))[0] - 4)
            if kind in b"QFPBES" and self._manner is Manner.HANG:
                self._closing.wait()
                return
            if kind in b"QFPBES" and self._manner is Manner.DROP:
                return
            if kind in b"QF":
                client.sendall(REFUSAL + READY)
            elif kind == b"S":
                client.sendall(READY)
                skips = False
            elif kind in b"PBDEC" and not skips:
                client.sendall(REFUSAL)
                skips = True


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 18):
            sink.sendall(data)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
