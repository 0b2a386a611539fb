"""A client that speaks PostgreSQL's protocol by hand over a socket, for bad input and for exact sequences.

    with WireClient.tcp("127.0.0.1", port) as client:
        client.log_in("readonly", "shop", "secret")
        client.send(parse("select $1::int"), bind([b"1"]), execute(), sync())
        replies = client.receive_until_ready()

Rules: every wait has a limit, every answer is decoded strictly (wire_messages), nothing is retried. `log_in` answers whatever the
peer asks for: nothing, clear text, SCRAM-SHA-256 (RFC 7677; the peer's signature is checked). Everything else is the test's own doing.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import socket
import ssl
import struct
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support import wire_messages as messages
from tests.support.wire_messages import (
    Authentication,
    BackendKeyData,
    DataRow,
    ErrorResponse,
    ParameterStatus,
    ReadyForQuery,
    Reply,
    WireError,
)

TIMEOUT_S: Final = 20.0
MAX_MESSAGE_BYTES: Final = 1 << 30  # PostgreSQL's own limit (MaxAllocSize)


class LoginRefused(Exception):
    """The peer answered the start-up with an error."""

    def __init__(self, error: ErrorResponse) -> None:
        super().__init__(f"{error.sqlstate}: {error.message}")
        self.error = error


class WireClient:
    def __init__(self, connection: socket.socket, timeout_s: float = TIMEOUT_S) -> None:
        connection.settimeout(timeout_s)
        self._socket = connection
        self._received = b""
        self.key: BackendKeyData | None = None
        self.parameters: dict[str, str] = {}

    @classmethod
    def tcp(cls, host: str, port: int, timeout_s: float = TIMEOUT_S) -> Self:
        return cls(socket.create_connection((host, port), timeout_s), timeout_s)

    @classmethod
    def unix(cls, directory: Path, port: int, timeout_s: float = TIMEOUT_S) -> Self:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(directory / f".s.PGSQL.{port}"))
        return cls(connection, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Go without a word, as a client that crashed does."""
        self._socket.close()

    def shut_down_writing(self) -> None:
        with contextlib.suppress(OSError):  # the peer may have closed already
            self._socket.shutdown(socket.SHUT_WR)

    # Bytes

    def send(self, *parts: bytes) -> None:
        self._socket.sendall(b"".join(parts))

    def send_in_pieces(self, data: bytes, size: int = 1) -> None:
        """Every `size` bytes in a segment of their own, as far as the kernel goes along."""
        if self._socket.family != socket.AF_UNIX:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), size):
            self._socket.sendall(data[start : start + size])

    def read_exactly(self, size: int) -> bytes:
        """Raises WireError when the peer ends before."""
        chunks = [self._received]
        have = len(self._received)
        while have < size:
            chunk = self._socket.recv(max(65536, min(size - have, 1 << 20)))
            if not chunk:
                raise WireError(f"the peer closed after {have} of {size} bytes")
            chunks.append(chunk)
            have += len(chunk)
        data = b"".join(chunks)
        self._received = data[size:]
        return data[:size]

    def discard_until(self, ending: bytes, read_bytes: int = 65536) -> tuple[int, bytes]:
        """Read and throw away until what came ends with `ending`: how many bytes, and the last of them. For measuring: nothing is decoded."""
        size, tail = len(self._received), self._received
        self._received = b""
        while not tail.endswith(ending):
            chunk = self._socket.recv(read_bytes)
            if not chunk:
                raise WireError(f"the peer closed after {size} bytes")
            size += len(chunk)
            tail = chunk if len(chunk) > 512 else tail[-512:] + chunk
        return size, tail[-512:]

    def read_to_end(self) -> bytes:
        """Everything until the peer closes."""
        chunks = [self._received]
        self._received = b""
        try:
            while chunk := self._socket.recv(65536):
                chunks.append(chunk)
        except ConnectionResetError:
            pass
        return b"".join(chunks)

    def is_closed_by_peer(self) -> bool:
        """Wait until the peer closes: True; until it sends something instead: False. Raises TimeoutError when it does neither."""
        if self._received:
            return False
        try:
            self._received = self._socket.recv(65536)
        except ConnectionResetError:
            return True
        return not self._received

    # Messages

    def receive(self) -> Reply:
        kind, size = struct.unpack("!cI", self.read_exactly(5))
        if not 4 <= size <= MAX_MESSAGE_BYTES:
            raise WireError(f"message {kind!r} says it has {size} bytes")
        reply = messages.decode(kind, self.read_exactly(size - 4))
        if isinstance(reply, ParameterStatus):
            self.parameters[reply.name] = reply.value
        return reply

    def receive_until(self, *kinds: type[Reply]) -> list[Reply]:
        """Everything up to and including the first answer of one of these kinds."""
        replies = [self.receive()]
        while not isinstance(replies[-1], kinds):
            replies.append(self.receive())
        return replies

    def receive_until_ready(self, times: int = 1) -> list[Reply]:
        """Everything up to and including the `times`-th ReadyForQuery."""
        return [reply for _ in range(times) for reply in self.receive_until(ReadyForQuery)]

    def ask(self, statement: str) -> list[Reply]:
        """A simple query and all it is answered with."""
        self.send(messages.query(statement))
        return self.receive_until_ready()

    def rows(self, statement: str) -> list[tuple[bytes | None, ...]]:
        """The rows of a simple query. Raises WireError when it is answered with an error."""
        replies = self.ask(statement)
        for reply in replies:
            if isinstance(reply, ErrorResponse):
                raise WireError(f"{reply.sqlstate}: {reply.message}")
        return [reply.values for reply in replies if isinstance(reply, DataRow)]

    # Start-up

    def request_tls(self, context: ssl.SSLContext, server_name: str) -> bool:
        """SSLRequest, and the handshake if the peer agrees; False: it doesn't."""
        self.send(messages.ssl_request())
        answer = self.read_exactly(1)
        if answer not in {b"S", b"N"}:
            raise WireError(f"SSLRequest was answered with {answer!r}")
        if answer == b"S":
            self.start_tls(context, server_name)
        return answer == b"S"

    def start_tls(self, context: ssl.SSLContext, server_name: str) -> None:
        """Direct TLS: the handshake at once."""
        if self._received:
            raise WireError("the peer sent more before the handshake")
        self._socket = context.wrap_socket(self._socket, server_hostname=server_name)

    def log_in(
        self, user: str, database: str, password: str | None = None, *, version: int = messages.PROTOCOL_3_0, **parameters: str
    ) -> list[Reply]:
        """From StartupMessage to ReadyForQuery; returns what came after AuthenticationOk.

        Raises:
            LoginRefused: the peer answered with an error.
        """
        self.send(messages.startup({"user": user, "database": database, **parameters}, version))
        negotiated: list[Reply] = []
        while True:
            reply = self.receive()
            if isinstance(reply, ErrorResponse):
                raise LoginRefused(reply)
            if not isinstance(reply, Authentication):
                negotiated.append(reply)
                continue
            if reply.code == 0:
                break
            if password is None:
                raise WireError(f"the peer wants authentication {reply.code}, there is no password")
            if reply.code == 3:
                self.send(messages.password(password))
            elif reply.code == 10 and "SCRAM-SHA-256" in reply.mechanisms:
                self._answer_scram(password)
            else:
                raise WireError(f"authentication {reply.code} {reply.data!r} can't be answered")
        replies = self.receive_until(ReadyForQuery, ErrorResponse)
        if isinstance(replies[-1], ErrorResponse):
            raise LoginRefused(replies[-1])
        self.key = next((reply for reply in replies if isinstance(reply, BackendKeyData)), None)
        return negotiated + replies

    def _answer_scram(self, password: str) -> None:
        nonce = base64.b64encode(os.urandom(18)).decode()
        first_bare = f"n=,r={nonce}"
        self.send(messages.sasl_initial_response("SCRAM-SHA-256", f"n,,{first_bare}".encode()))
        challenge = self._sasl_data(11)
        parts = dict(part.split("=", 1) for part in challenge.split(","))
        if not parts["r"].startswith(nonce) or parts["r"] == nonce:
            raise WireError("the peer's nonce doesn't continue ours")
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(parts["s"]), int(parts["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = f"c=biws,r={parts['r']}"
        signed = f"{first_bare},{challenge},{without_proof}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self.send(messages.sasl_response(f"{without_proof},p={base64.b64encode(proof).decode()}".encode()))
        expected = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
        if self._sasl_data(12) != f"v={base64.b64encode(expected).decode()}":
            raise WireError("the peer's signature is wrong")

    def _sasl_data(self, code: int) -> str:
        reply = self.receive()
        if isinstance(reply, ErrorResponse):
            raise LoginRefused(reply)
        if not isinstance(reply, Authentication) or reply.code != code:
            raise WireError(f"{reply} came in place of authentication {code}")
        return reply.data.decode()
