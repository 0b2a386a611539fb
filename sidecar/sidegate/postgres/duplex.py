"""One side's connection: read by the message while logging in, by callback once the session relays. The asyncio shell's only transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from sidegate.postgres.frames import HEADER_BYTES, frame_length

MAX_LOGIN_BUFFER_BYTES: Final = 256 * 1024
CLOSE_TIMEOUT_S: Final = 10.0  # for what was written to go out; who doesn't take it by then doesn't get it


class ConnectionLostError(Exception):
    """The other end is gone while the gate was waiting for it."""


class Duplex(asyncio.Protocol):
    """Before `start` bytes gather and `read` waits for them; after it each chunk goes to the receiver at once."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_lost = False
        self.is_full = False  # the other end reads slower than is written
        self._buffer = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._receiver: Callable[[bytes], None] | None = None
        self._on_lost: Callable[[], None] | None = None
        self._on_room: Callable[[], None] | None = None
        self._is_paused = False
        self._closing: asyncio.TimerHandle | None = None

    # ---- asyncio.Protocol ---------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._receiver is not None:
            self._receiver(data)
            return
        self._buffer += data
        if len(self._buffer) > MAX_LOGIN_BUFFER_BYTES:
            self.pause()
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        self._wake()
        if self._on_lost is not None:
            on_lost, self._on_lost = self._on_lost, None
            on_lost()

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        if self._on_room is not None:
            self._on_room()

    # ---- logging in ---------------------------------------------------------------------------------------------------------------

    async def read(self, count: int) -> bytes:
        """Exactly `count` bytes.

        Raises:
            ConnectionLostError: the other end closed first.
        """
        while len(self._buffer) < count:
            if self.is_lost:
                raise ConnectionLostError
            self.resume()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        piece = bytes(self._buffer[:count])
        del self._buffer[:count]
        return piece

    async def read_frame(self, max_bytes: int) -> tuple[int, bytes]:
        """One message: its type and its body.

        Raises:
            ConnectionLostError: the other end closed first.
            ValueError: a length that can't be, or over `max_bytes`.
        """
        header = await self.read(HEADER_BYTES)
        length = frame_length(header, 0)
        if not HEADER_BYTES <= length <= max_bytes:
            raise ValueError(f"message of {length} bytes where at most {max_bytes} are let through")
        return header[0], await self.read(length - HEADER_BYTES)

    def has_buffered(self) -> bool:
        """Bytes came that nobody has read."""
        return bool(self._buffer)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # ---- relaying -----------------------------------------------------------------------------------------------------------------

    def start(self, receiver: Callable[[bytes], None], on_lost: Callable[[], None], on_room: Callable[[], None]) -> None:
        """From now on every chunk goes to `receiver`; what was read ahead goes first."""
        self._receiver, self._on_lost, self._on_room = receiver, on_lost, on_room
        self.resume()  # whatever made it pause while logging in is read now
        ahead, self._buffer = bytes(self._buffer), bytearray()
        if ahead:
            receiver(ahead)
        if self.is_lost:
            self.connection_lost(None)

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.is_lost:
            self.transport.write(data)

    def pause(self) -> None:
        if not self._is_paused and self.transport is not None and not self.is_lost:
            self._is_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._is_paused and self.transport is not None and not self.is_lost:
            self._is_paused = False
            self.transport.resume_reading()

    def close(self) -> None:
        """After what was written has gone out, or the other end had its time to take it."""
        if self.transport is not None and not self.is_lost:
            self.transport.close()
            self._closing = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()
