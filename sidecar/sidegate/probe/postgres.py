"""Trying a PostgreSQL server's doors from where this process runs: one connection each, no password, nothing sent after the first answer.

The certificate isn't verified: what counts is that something answers, and nothing secret is said to it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sidegate.probe.answer import MAX_ANSWER, SSL_REQUEST, Door, DoorState, UnreadableAnswer, read_answer, startup_message

DATABASES: Final = ("postgres",)
TIMEOUT_S: Final = 3.0
_TOGETHER: Final = 4


async def probe_postgres(
    host: str,
    port: int,
    roles: Sequence[str],
    timeout_s: float = TIMEOUT_S,
    *,
    databases: Sequence[str] = DATABASES,
    local_address: str | None = None,
) -> tuple[Door, ...]:
    """Each role, and one that nobody has, into each database, without TLS and with it. One door alone when nothing answers at all.

    `local_address` is which of this machine's addresses to come from; host rules go by it.
    """
    way = _Way(host, port, (local_address, 0) if local_address is not None else None, timeout_s)
    first = await _reach(way)
    if first is not None:
        return (first,)
    limit = asyncio.Semaphore(_TOGETHER)
    stranger = f"sidegate_probe_{secrets.token_hex(8)}"

    async def attempt(role: str | None, database: str, over_tls: bool) -> Door:
        async with limit:
            state, detail = await _try(way, role if role is not None else stranger, database, over_tls)
        return Door(host, port, role, database, over_tls, state, detail)

    wanted = [
        attempt(role, database, over_tls)
        for role in (*dict.fromkeys(roles), None)
        for database in dict.fromkeys(databases or DATABASES)
        for over_tls in (False, True)
    ]
    return tuple(await asyncio.gather(*wanted))


@dataclass(frozen=True, slots=True)
class _Way:
    host: str
    port: int
    local: tuple[str, int] | None
    timeout_s: float

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port, local_addr=self.local)


# What a network says of a place where nothing may be reached. Other errors are this side's own: no descriptors, no such name.
_UNREACHABLE: Final = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.ECONNRESET})


async def _reach(way: _Way) -> Door | None:
    """None: something listens."""
    try:
        async with asyncio.timeout(way.timeout_s):
            _, writer = await way.connect()
    except TimeoutError:
        return Door(way.host, way.port, None, "", False, DoorState.SILENT, "no answer in time")
    except OSError as error:
        state = DoorState.SILENT if error.errno in _UNREACHABLE else DoorState.UNCLEAR
        why = os.strerror(error.errno) if error.errno in _UNREACHABLE and error.errno else type(error).__name__
        return Door(way.host, way.port, None, "", False, state, why)
    writer.transport.abort()
    return None


async def _try(way: _Way, role: str, database: str, over_tls: bool) -> tuple[DoorState, str]:
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(way.timeout_s):
            reader, writer = await way.connect()
            if over_tls:
                writer.write(SSL_REQUEST)
                answer = await reader.readexactly(1)
                if answer == b"N":
                    return DoorState.NO_TLS, ""
                if answer != b"S":
                    return DoorState.UNCLEAR, "it speaks another protocol"
                await writer.start_tls(_unverified())
            writer.write(startup_message(role, database))
            received = b""
            while len(received) <= MAX_ANSWER:
                chunk = await reader.read(4096)
                if not chunk:
                    return DoorState.UNCLEAR, "it closed the connection"
                received += chunk
                found = read_answer(received)
                if found is not None:
                    return found
            return DoorState.UNCLEAR, "its answer has no end"
    except TimeoutError:  # it listened a moment ago, so this isn't a closed door
        return DoorState.UNCLEAR, "no answer in time"
    except UnreadableAnswer as error:
        return DoorState.UNCLEAR, str(error)
    except ssl.SSLError as error:
        return DoorState.UNCLEAR, f"TLS failed: {error.reason}"
    except (OSError, EOFError) as error:
        return DoorState.UNCLEAR, f"the connection broke: {type(error).__name__}"
    finally:
        if writer is not None:
            writer.transport.abort()


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
