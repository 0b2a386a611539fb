"""Stands between the client and the gate, and keeps every byte that the gate sent; `units` cuts them up for the hunter.

Rules: what a client received is judged as it came over the wire, not as a driver shows it. It listens on loopback, in clear text; the gate is
on loopback too. Left out: TLS.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from tests.redteam.hunter import Unit

RAW_LIMIT_BYTES: Final = 2_000_000
HELD: Final = b"held by sidegate"  # in the notice to the client of a held statement
ERROR_FIELDS: Final = b"MDHWqtcnsd"  # texts and names of an error or notice; not severity, code and place


class Tee:
    """`port` leads to the gate at `gate_port`. `streams`: what came on each connection since `forget`."""

    def __init__(self, gate_port: int) -> None:
        self._gate_port = gate_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.streams: list[bytearray] = []
        threading.Thread(target=self._accept, name="tee", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # wakes the one that accepts
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def forget(self) -> None:
        self.streams = []

    def is_held(self) -> bool:
        """The last that the gate said, on some connection, is that a statement is held."""
        return any(_ends_held(bytes(stream[-4096:])) for stream in list(self.streams))

    def units(self) -> list[Unit]:
        return [unit for stream in list(self.streams) for unit in units(bytes(stream))]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        kept = bytearray()
        self.streams.append(kept)
        with client:
            try:
                gate = socket.create_connection(("127.0.0.1", self._gate_port), timeout=10)
            except OSError:
                return  # the client sees a connection that ends
            gate.settimeout(None)
            with gate:
                from_client = threading.Thread(target=_pump, args=(client, gate, None), daemon=True)
                from_client.start()
                _pump(gate, client, kept)
                from_client.join(2)


def _pump(source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 18):
            if kept is not None:
                kept += data
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _ends_held(stream: bytes) -> bool:
    at = stream.rfind(HELD)
    return at >= 0 and stream.find(b"\0\0", at) == len(stream) - 2  # where the notice ends


def messages(stream: bytes) -> Iterator[tuple[str, bytes]]:
    """Type and body of each whole message; what makes no sense ends it."""
    start = 0
    while start + 5 <= len(stream):
        length = struct.unpack_from(">I", stream, start + 1)[0]
        if length < 4:
            return
        yield chr(stream[start]), stream[start + 5 : start + 1 + length]
        start += 1 + length


def units(stream: bytes) -> Iterator[Unit]:
    """All that a person or a program could read in it, and the raw bytes."""
    result = 0
    for kind, body in messages(stream):
        match kind:
            case "T":
                result += 1
                yield from (Unit("column name", name) for name in _column_names(body))
            case "D":
                yield from (Unit("cell", value, (result, column)) for column, value in _cells(body))
            case "E" | "N":
                what = "error" if kind == "E" else "notice"
                fields = (field for field in body.split(b"\0") if field[:1] and field[:1] in ERROR_FIELDS)
                yield from (Unit(f"{what} {chr(field[0])}", field[1:]) for field in fields)
            case "d":
                yield Unit("copy", body)
            case "A":
                parts = body[4:].split(b"\0")
                yield Unit("notification", parts[1] if len(parts) > 1 else parts[0])
            case "S" | "C":
                yield Unit("parameter" if kind == "S" else "tag", body.replace(b"\0", b" "))
            case "V":
                yield Unit("fn", body[4:])
    if len(stream) < RAW_LIMIT_BYTES:
        yield Unit("raw", stream)


def _column_names(body: bytes) -> Iterator[bytes]:
    offset = 2
    for _ in range(struct.unpack_from(">H", body)[0]):
        end = body.index(0, offset)
        yield body[offset:end]
        offset = end + 19


def _cells(body: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 2
    for column in range(struct.unpack_from(">H", body)[0]):
        length = struct.unpack_from(">i", body, offset)[0]
        offset += 4
        if length >= 0:
            yield column, body[offset : offset + length]
            offset += length
