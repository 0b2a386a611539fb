"""The one place where identity touches the network: a GET or a form POST, with every limit an attacker would look for.

Rules it keeps: https with verified certificates (TLS 1.2 or newer), plain http to loopback alone, and there the peer's address is checked
after connecting, whatever the name resolved to; redirects are refused, not followed; a limit on bytes, on each read and on the whole
exchange, which holds against a peer that sends one byte at a time. Proxy settings of the environment are not read. Standard library
only: an HTTP framework would cost the gate more memory than all of its rules. Left out: what the answers mean, retries, caching.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import SplitResult, urlencode

from sidegate.identity.discovery import DiscoveryError, check_url, is_loopback_host
from sidegate.identity.problem import quoted

_REFUSED_REDIRECTS: Final = range(300, 400)


class TransportError(Exception):
    """The exchange failed or was refused. The message names the URL, never what was sent or received."""

    def __init__(self, problem: str, way_forward: str = "check that the issuer runs and can be reached from here") -> None:
        super().__init__(problem)
        self.way_forward = way_forward


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP response."""

    status: int
    body: bytes


class Transport(Protocol):
    """What identity needs of a network. Raises TransportError for all that isn't a whole response within limits."""

    async def get(self, url: str) -> Answer: ...

    async def post_form(self, url: str, fields: Mapping[str, str], authorization: str | None = None) -> Answer: ...


@dataclass(frozen=True, slots=True)
class TransportLimits:
    total_s: float = 10.0  # from the first byte of DNS to the last of the body
    read_s: float = 5.0  # of one connect or read
    max_bytes: int = 512 * 1024


class HttpTransport:
    """HTTP/1.1 by the standard library, each exchange on a worker thread and a connection of its own.

    `ca_file` replaces the system's certificate authorities. It is read at each exchange, so a renewed file needs no restart.
    """

    def __init__(self, ca_file: str | None = None, limits: TransportLimits | None = None) -> None:
        self._ca_file = ca_file
        self._limits = limits or TransportLimits()

    async def get(self, url: str) -> Answer:
        return await self._exchange("GET", url, None, {})

    async def post_form(self, url: str, fields: Mapping[str, str], authorization: str | None = None) -> Answer:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if authorization is not None:
            headers["Authorization"] = authorization
        return await self._exchange("POST", url, urlencode(fields).encode("ascii"), headers)

    async def _exchange(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        try:
            parts = check_url(url, allow_query=True, allow_loopback=True)
        except DiscoveryError as error:
            raise TransportError(str(error), error.way_forward) from None
        exchange = _Exchange(parts, url, self._limits, self._ca_file)
        try:
            async with asyncio.timeout(self._limits.total_s):
                return await asyncio.to_thread(exchange.run, method, body, headers)
        except TimeoutError:
            raise TransportError(f"{quoted(url)} didn't answer within {self._limits.total_s:g} s") from None
        finally:
            # INVARIANT: no worker thread outlives its exchange by more than one step: shutting the socket down ends its read.
            exchange.abort()


class _Exchange:
    """One request and its response, blocking. `abort` may come from another thread at any time."""

    def __init__(self, parts: SplitResult, url: str, limits: TransportLimits, ca_file: str | None) -> None:
        self._parts = parts
        self._url = url
        self._limits = limits
        self._ca_file = ca_file
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_aborted = False

    def abort(self) -> None:
        with self._lock:
            self._is_aborted = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    # The plain socket's method: the TLS one would first drop the state that the reading thread still uses.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def run(self, method: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        try:
            connection = self._connect()
        except ssl.SSLCertVerificationError as error:
            raise TransportError(
                f"{quoted(self._url)} has a certificate that can't be verified: {error.verify_message}",
                "give the issuer's certificate authority as a CA file",
            ) from None
        except (OSError, ValueError) as error:  # ValueError: a name that can't be encoded, a CA file without certificates
            raise TransportError(f"{quoted(self._url)} can't be reached: {_first_line(error)}") from None
        try:
            path = self._parts.path or "/"
            target = f"{path}?{self._parts.query}" if self._parts.query else path
            connection.request(method, target, body, self._headers() | dict(headers))
            return self._read(connection.getresponse())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TransportError(f"{quoted(self._url)} broke off: {_first_line(error)}") from None
        finally:
            with self._lock:
                self._socket = None
            connection.close()

    def _headers(self) -> dict[str, str]:
        # The authority as the URL writes it: the library would add the port of https, which some name-based hosts don't know.
        return {"Host": self._parts.netloc, "Accept": "application/json", "Accept-Encoding": "identity", "Connection": "close"}

    def _connect(self) -> http.client.HTTPConnection:
        host = self._parts.hostname or ""
        is_tls = self._parts.scheme == "https"
        port = self._parts.port or (443 if is_tls else 80)
        plain: socket.socket = socket.create_connection((host, port), timeout=self._limits.read_s)
        try:
            self._keep(plain)
            if is_tls:
                context = ssl.create_default_context(cafile=self._ca_file)
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                # The handshake comes after the socket is kept, so that `abort` ends a peer that never finishes it.
                tls = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
                plain = tls
                self._keep(tls)
                tls.do_handshake()
            elif not is_loopback_host(plain.getpeername()[0]):
                raise ValueError("plain http led away from loopback")
        except BaseException:
            plain.close()
            raise
        connection = http.client.HTTPConnection(host, port, timeout=self._limits.read_s)
        connection.sock = plain
        return connection

    def _keep(self, sock: socket.socket) -> None:
        with self._lock:
            if self._is_aborted:
                raise TimeoutError("given up")
            self._socket = sock

    def _read(self, response: http.client.HTTPResponse) -> Answer:
        if response.status in _REFUSED_REDIRECTS:
            raise TransportError(
                f"{quoted(self._url)} answered with a redirect ({response.status}), which is refused",
                "configure the address it leads to, if it is the right one",
            )
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise TransportError(f"{quoted(self._url)} answered in an encoding that wasn't asked for")
        body = response.read(self._limits.max_bytes + 1)
        if len(body) > self._limits.max_bytes:
            raise TransportError(f"{quoted(self._url)} answered with more than {self._limits.max_bytes} bytes")
        # A short read with an announced length is not an error to the library, and a cut-off key set would be.
        if response.length not in (None, 0):
            raise TransportError(f"{quoted(self._url)} broke off: the response is incomplete")
        return Answer(response.status, body)


def _first_line(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return quoted(text.splitlines()[0] if text else text)[1:-1]
