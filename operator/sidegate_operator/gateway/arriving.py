"""A connection from its first byte to the end of its handshake: TLS is begun by ourselves, so that who it comes from is known before.

Left out: how many there may be (`strangers`), and HTTP (`server`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

_UNKNOWN: Final = "?"  # a connection that is gone already has no address


class Arriving(asyncio.Protocol):
    """`welcome` says whether it may stay, `left` that the handshake came to nothing. Afterwards `inner` has the connection."""

    def __init__(
        self,
        inner: asyncio.Protocol,
        tls: ssl.SSLContext,
        handshake_s: float,
        welcome: Callable[[asyncio.Protocol, str, asyncio.Transport], bool],
        left: Callable[[asyncio.Protocol], object],
    ) -> None:
        self._inner = inner
        self._tls = tls
        self._handshake_s = handshake_s
        self._welcome = welcome
        self._left = left
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()  # what it sends is TLS's
        peer = transport.get_extra_info("peername")
        if not self._welcome(self._inner, str(peer[0]) if peer else _UNKNOWN, transport):
            transport.abort()
            return
        self._task = asyncio.get_running_loop().create_task(self._shake_hands(transport))

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport, self._inner, self._tls, server_side=True, ssl_handshake_timeout=self._handshake_s
            )
        except OSError:  # ssl's errors and the handshake's timeout are OSErrors
            secured = None
        if secured is None or secured.is_closing():
            self._left(self._inner)
            transport.abort()
            return
        self._inner.connection_made(secured)
