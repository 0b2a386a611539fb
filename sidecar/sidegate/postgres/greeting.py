"""From the first byte of a connection to its StartupMessage or CancelRequest: encryption requests, TLS. The asyncio shell.

The first bytes are looked at before they are taken: they decide whether TLS comes at once, comes after a request, or not at all.
Nothing that was sent in plain text is ever taken for what came over TLS.
"""

from __future__ import annotations

import asyncio
import socket
import ssl

from sidegate.postgres.duplex import Duplex
from sidegate.postgres.messages import ClientProtocolError
from sidegate.postgres.startup import (
    CancelRequest,
    GssEncRequest,
    SslRequest,
    StartupMessage,
    decode_startup_packet,
    packet_length,
)


async def secure(connection: socket.socket, tls: ssl.SSLContext | None) -> tuple[Duplex | None, bool]:
    """Answer encryption requests and bring the connection to where the StartupMessage is read. None: nothing more to do."""
    loop = asyncio.get_running_loop()
    seen: set[type] = set()
    while True:
        first = await _peek(loop, connection)
        if not first:
            return None, False
        if first == b"\x16":  # direct TLS: a handshake record instead of a length
            if tls is None:
                raise OSError("direct TLS, and the gate has no certificate")
            side = await take_over(connection, tls)
            if side.transport is None or side.transport.get_extra_info("ssl_object").selected_alpn_protocol() != "postgresql":
                side.abort()
                raise OSError("direct TLS without the ALPN protocol `postgresql`")
            return side, True
        if await _peek(loop, connection, 4) != b"\0\0\0\x08":  # no request of 8 bytes
            return await take_over(connection), False
        header = await _peek(loop, connection, 8)
        packet = decode_startup_packet(header)
        if type(packet) in seen or not isinstance(packet, (SslRequest, GssEncRequest)):
            raise ClientProtocolError("encryption was asked for twice")
        seen.add(type(packet))
        await _receive(loop, connection, 8)
        if _has_pending(connection):
            # Plain text injected before the handshake would be taken for what came over TLS (CVE-2021-23214)
            raise OSError("bytes behind the encryption request, before the handshake")
        if isinstance(packet, SslRequest) and tls is not None:
            await loop.sock_sendall(connection, b"S")
            return await take_over(connection, tls), True
        await loop.sock_sendall(connection, b"N")


async def read_startup(side: Duplex, *, is_encrypted: bool) -> StartupMessage | CancelRequest:
    while True:
        header = await side.read(4)
        packet = decode_startup_packet(header + await side.read(packet_length(header) - 4))
        match packet:
            case StartupMessage() | CancelRequest():
                return packet
            case SslRequest() | GssEncRequest() if is_encrypted:
                side.write(b"N")
            case _:
                raise ClientProtocolError("encryption request out of place")


async def take_over(connection: socket.socket, tls: ssl.SSLContext | None = None) -> Duplex:
    """After the handshake, where there is one. What uvloop returns for TLS is a protocol of its own, not ours."""
    side = Duplex()
    await asyncio.get_running_loop().connect_accepted_socket(lambda: side, connection, ssl=tls)
    return side


async def _peek(loop: asyncio.AbstractEventLoop, connection: socket.socket, count: int = 1) -> bytes:
    """The first bytes without taking them; fewer when the client closed."""
    while True:
        try:
            data = connection.recv(count, socket.MSG_PEEK)
        except BlockingIOError:
            data = None
        if data is not None and (len(data) >= count or not data):
            return data
        await _readable(loop, connection, had=len(data or b""))


async def _readable(loop: asyncio.AbstractEventLoop, connection: socket.socket, had: int) -> None:
    if had:  # level-triggered: the bytes already there would wake it at once, so give the rest time to arrive
        await asyncio.sleep(0.01)
        return
    ready: asyncio.Future[None] = loop.create_future()

    def is_readable() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection.fileno(), is_readable)
    try:
        await ready
    finally:
        loop.remove_reader(connection.fileno())


async def _receive(loop: asyncio.AbstractEventLoop, connection: socket.socket, count: int) -> bytes:
    data = await loop.sock_recv(connection, count)
    if len(data) != count:
        raise OSError("the connection broke")
    return data


def _has_pending(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False
