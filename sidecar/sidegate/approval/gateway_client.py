"""Requests to the operator's gateway over TLS: one connection each, to a replica that answers; a `Line` keeps one for what is asked next.

Rules it keeps: TLS 1.3; the certificate is verified by name and by the authority in the file, and by no other; token and authority are read
for each connection, for both are renewed; size and time of each step are bounded, the whole as well. A wait costs a socket, never a
thread. An error says whether the request may have arrived: who may not ask twice has to know.

Left out: what is asked (`gateway`, and the runtime's reports), and asking again later.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeAlias, cast

from sidegate.gateway.http import (
    MAX_HEAD_BYTES,
    MAX_TOKEN_BYTES,
    Answer,
    AnswerError,
    Place,
    PlaceError,
    checked_token,
    encode_request,
    parse_head,
    parse_place,
)

CONNECT_TIMEOUT_S: Final = 3.0
ANSWER_TIMEOUT_S: Final = 10.0  # beyond what the gateway was asked to wait
MAX_ADDRESSES: Final = 16
MAX_AUTHORITY_BYTES: Final = 1024 * 1024  # a ConfigMap has no more
_OK: Final = 200
_AGAIN: Final = frozenset({429, 502, 503, 504})

Address: TypeAlias = tuple[str, int]
Resolve: TypeAlias = Callable[[str, int], Awaitable[tuple[Address, ...]]]


class GatewayError(Exception):
    """No answer. `may_have_arrived` is False when it is certain that the gateway has seen nothing of the request."""

    def __init__(self, problem: str, way_forward: str, *, may_have_arrived: bool = False) -> None:
        super().__init__(problem)
        self.way_forward = way_forward
        self.may_have_arrived = may_have_arrived


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Where the gateway is, and the files that hold the gate's own token and the gateway's authority (PEM)."""

    url: str
    token_file: Path
    ca_file: Path


async def resolve(host: str, port: int) -> tuple[Address, ...]:
    """Every address of the name. Raises OSError when there is none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys((str(each[4][0]), int(each[4][1])) for each in found))[:MAX_ADDRESSES]


class _Opening(asyncio.StreamReaderProtocol):
    """Knows its transport from the end of the handshake on, before whoever waits for it does."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self._opened: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opened = cast("asyncio.WriteTransport", transport)  # uvloop's are none by their class

    def abort(self) -> None:
        if self._opened is not None:
            self._opened.abort()


class Line:
    """A connection that is kept from one request to the next, for who asks again at once. It ends with the `with` that it is made in."""

    def __init__(self) -> None:
        self._kept: tuple[Address, asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def address(self) -> Address | None:
        """Where it leads, while it is there and nobody has closed it."""
        if self._kept is None:
            return None
        address, reader, writer = self._kept
        return None if reader.at_eof() or writer.is_closing() else address

    def keep(self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._end()  # of one that the other side has closed
        self._kept = address, reader, writer

    def _end(self) -> None:
        kept = self.take()
        if kept is not None:
            kept[2].transport.abort()

    def take(self) -> tuple[Address, asyncio.StreamReader, asyncio.StreamWriter] | None:
        kept, self._kept = self._kept, None
        return kept


class GatewayClient:
    """Raises PlaceError when the URL isn't one. `resolve_name` is there for names that only a test knows."""

    def __init__(
        self, settings: GatewaySettings, *, resolve_name: Resolve = resolve,
        connect_timeout_s: float = CONNECT_TIMEOUT_S, answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._place = parse_place(settings.url)
        self._resolve = resolve_name
        self._connect_timeout_s = connect_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._preferred: Address | None = None
        self._turn = 0

    @property
    def place(self) -> Place:
        return self._place

    async def addresses(self) -> tuple[Address, ...]:
        """Every replica there is.

        Raises:
            GatewayError: the name has no address.
        """
        place = self._place
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                found = await self._resolve(place.host, place.port)
        except TimeoutError:
            raise GatewayError(f"the name of {place} isn't resolved in time", self._see_to_it()) from None
        except (OSError, UnicodeError) as error:
            raise GatewayError(f"the name of {place} has no address: {_said(error)}", self._see_to_it()) from error
        if not found:
            raise GatewayError(f"the name of {place} has no address", self._see_to_it())
        return found

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        *,
        wait_s: float = 0.0,
        may_repeat: bool = True,
        line: Line | None = None,
    ) -> Answer:
        """The answer of a replica, of the one that answered last if it is still there; over `line` if that still leads somewhere.

        The next one is asked when that changes nothing: the request didn't arrive, or `may_repeat`.

        Raises:
            GatewayError: none answered, or it can't be told what became of a request that may not be repeated.
        """
        if line is not None and (address := line.address) is not None:
            addresses: tuple[Address, ...] = (address,)  # without asking for its name again
        else:
            addresses = await self.addresses()
        first = addresses.index(self._preferred) if self._preferred in addresses else self._turn % len(addresses)
        problem: GatewayError | None = None
        for address in (*addresses[first:], *addresses[:first]):
            try:
                answer = await self.exchange(address, method, path, body, wait_s=wait_s, line=line)
            except GatewayError as error:
                self._move_on()
                problem = GatewayError(
                    str(error), error.way_forward,
                    may_have_arrived=error.may_have_arrived or (problem is not None and problem.may_have_arrived),
                )  # fmt: skip
                if error.may_have_arrived and not may_repeat:
                    break
                continue
            self._preferred = address
            if answer.status in _AGAIN:
                self._move_on()
            return answer
        assert problem is not None
        raise problem

    def _move_on(self) -> None:
        self._preferred = None
        self._turn += 1

    async def exchange(
        self, address: Address, method: str, path: str, body: bytes | None, *, wait_s: float = 0.0, line: Line | None = None
    ) -> Answer:
        """One request to one replica.

        Raises:
            GatewayError: no answer, or not the gateway's.
        """
        request = encode_request(method, path, self._place, self._token(), body, is_last=line is None)
        kept = line.take() if line is not None and line.address == address else None
        reader, writer = kept[1:] if kept is not None else await self._connect(address)
        is_kept = False
        try:
            async with asyncio.timeout(self._answer_timeout_s + wait_s):
                writer.write(request)
                await writer.drain()
                head = parse_head(await reader.readuntil(b"\r\n\r\n"))
                answer = Answer(head, await reader.readexactly(head.length))
            if (
                line is not None and not head.is_last and head.status == _OK
            ):  # of any other answer another replica may know better
                line.keep(address, reader, writer)
                is_kept = True
            return answer
        except TimeoutError:
            raise self._broken("it doesn't answer in time") from None
        except AnswerError as error:
            raise self._broken(f"its answer can't be read: {error}") from error
        except asyncio.LimitOverrunError as error:
            raise self._broken("its answer can't be read: its head is too long") from error
        except (
            EOFError,
            OSError,
        ) as error:  # ssl's errors are OSErrors; so is a certificate of ours that it wants and there isn't
            raise self._broken(f"the connection broke off: {_said(error)}") from error
        finally:
            if not is_kept:
                writer.transport.abort()  # not in its own time: there is nothing left to say

    async def _connect(self, address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """INVARIANT: who gives up in the midst of it leaves no connection. asyncio ends one whose handshake isn't over; one whose
        handshake is just over it would close politely, and wait for the other side.
        """
        place = self._place
        context = self._context()
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_HEAD_BYTES, loop=loop)
        protocol = _Opening(reader, loop)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                transport, _ = await loop.create_connection(lambda: protocol, *address, ssl=context, server_hostname=place.host)
            return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
        except asyncio.CancelledError:
            protocol.abort()
            raise
        except TimeoutError:
            protocol.abort()
            raise GatewayError(f"{place} can't be reached at {address[0]} in time", self._see_to_it()) from None
        except ssl.SSLCertVerificationError as error:
            raise GatewayError(
                f"the certificate of {place} can't be verified: {error.verify_message}",
                f"see that `{self._settings.ca_file}` has the operator's authority",
            ) from error
        except (OSError, ValueError) as error:
            raise GatewayError(f"{place} can't be reached at {address[0]}: {_said(error)}", self._see_to_it()) from error

    def _context(self) -> ssl.SSLContext:
        file = self._settings.ca_file
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, by name too; knows no authority of the system's
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_verify_locations(cadata=_content(file, MAX_AUTHORITY_BYTES).decode("ascii"))
        except (OSError, ValueError) as error:
            raise GatewayError(
                f"the authority of {self._place} can't be read from `{file}`: {_said(error)}",
                "mount the operator's authority there",
            ) from error
        return context

    def _token(self) -> str:
        file = self._settings.token_file
        try:
            return checked_token(_content(file, MAX_TOKEN_BYTES))
        except PlaceError as error:
            raise GatewayError(f"{error}: `{file}`", error.way_forward) from error
        except OSError as error:
            raise GatewayError(
                f"the gate's token can't be read from `{file}`: {_said(error)}", "mount the pod's projected token there"
            ) from error

    def _broken(self, problem: str) -> GatewayError:
        return GatewayError(f"{self._place}: {problem}", self._see_to_it(), may_have_arrived=True)

    def _see_to_it(self) -> str:
        return f"see that the operator runs and its gateway {self._place} can be reached from the gate"


def _content(file: Path, limit: int) -> bytes:
    """One byte more than `limit` when there is more."""
    with contextlib.closing(file.open("rb")) as stream:
        return stream.read(limit + 1)


def _said(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]
