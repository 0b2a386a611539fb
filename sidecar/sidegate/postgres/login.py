"""The gate's own login to the target: connect, TLS, SCRAM-SHA-256, and what the target says of itself. The asyncio shell.

Only SCRAM proves the password without giving it away, so it is the way; a plain-text request is answered on verified TLS or a
Unix socket only, MD5 never.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidegate.policy.config import AddressConfig, CredentialConfig, TargetTlsMode
from sidegate.postgres.duplex import ConnectionLostError, Duplex
from sidegate.postgres.messages import Reader, TargetProtocolError, decode_fields, decode_parameter_status, frame
from sidegate.postgres.scram import ScramClient, ScramError, ScramKeyCache, tls_server_end_point
from sidegate.postgres.startup import SSL_REQUEST, encode_cancel_request, encode_startup_message

MAX_LOGIN_MESSAGE_BYTES: Final = 64 * 1024
CONNECT_TIMEOUT_S: Final = 10.0


class TargetLoginError(Exception):
    """The target can't be reached, or refused the gate. `fields` is its ErrorResponse when it sent one."""

    def __init__(self, problem: str, way_forward: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(problem)
        self.way_forward = way_forward
        self.fields = fields or {}


@dataclass(slots=True)
class TargetLogin:
    """An open, idle connection. `parameters` are the target's ParameterStatus; `process_id` and `key` are for
    CancelRequests.
    """

    side: Duplex
    parameters: dict[str, str]
    process_id: int
    key: bytes


@dataclass(frozen=True, slots=True)
class TargetAddress:
    address: AddressConfig
    tls_mode: TargetTlsMode
    tls: ssl.SSLContext | None

    @property
    def is_socket(self) -> bool:
        return self.address.host.startswith("/")

    def __str__(self) -> str:
        return f"{self.address.host}:{self.address.port}"


async def connect(target: TargetAddress) -> Duplex:
    """A connection to the target, with TLS where the config asks for it.

    Raises:
        TargetLoginError: it can't be reached, or offers no TLS.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if target.is_socket:
                path = f"{target.address.host}/.s.PGSQL.{target.address.port}"
                _, side = await loop.create_unix_connection(Duplex, path)
                return side
            _, side = await loop.create_connection(Duplex, target.address.host, target.address.port)
            if target.tls is None:
                return side
            try:
                return await _start_tls(loop, side, target)
            except BaseException:
                side.abort()
                raise
    except (OSError, TimeoutError, ConnectionLostError) as error:
        cause = "no answer in time" if isinstance(error, TimeoutError) else str(error) or "it closed the connection"
        raise TargetLoginError(
            f"target {target} can't be reached: {cause}", "see that it runs and listens at the address in the ProtectedTarget"
        ) from error


async def _start_tls(loop: asyncio.AbstractEventLoop, side: Duplex, target: TargetAddress) -> Duplex:
    side.write(SSL_REQUEST)
    answer = await side.read(1)
    if answer != b"S":
        raise TargetLoginError(
            "target offers no TLS", "turn `ssl` on in the target, or set tls.target.mode to Loopback beside it"
        )
    if side.has_buffered():
        # Plain text injected before the handshake would be taken for what came over TLS (CVE-2021-23222)
        raise TargetLoginError("target sent bytes before the TLS handshake", "see what stands between the gate and the target")
    assert side.transport is not None
    assert target.tls is not None
    verifies = target.tls_mode is TargetTlsMode.VERIFY_FULL
    secure = await loop.start_tls(side.transport, side, target.tls, server_hostname=target.address.host if verifies else None)
    if secure is None:
        raise ConnectionLostError
    side.connection_made(secure)
    return side


async def log_in(
    target: TargetAddress, credential: CredentialConfig, database: str, parameters: dict[str, str], cache: ScramKeyCache
) -> TargetLogin:
    """Connect and log in as the credential's user.

    Raises:
        TargetLoginError: see `connect`; or the target refused the login, or asked for a way to log in that the gate doesn't
        take.
    """
    side = await connect(target)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            side.write(encode_startup_message(credential.username, database, parameters))
            return await _Dialogue(side, target, credential, cache).run()
    except TargetLoginError:
        side.abort()
        raise
    except (ConnectionLostError, TimeoutError, ValueError, TargetProtocolError, ScramError, OSError) as error:
        side.abort()
        cause = "it closed the connection" if isinstance(error, ConnectionLostError) else str(error) or "no answer in time"
        raise TargetLoginError(
            f"login to the target failed: {cause}", getattr(error, "way_forward", "see the target's log")
        ) from error


class _Dialogue:
    def __init__(self, side: Duplex, target: TargetAddress, credential: CredentialConfig, cache: ScramKeyCache) -> None:
        self._side = side
        self._target = target
        self._credential = credential
        self._cache = cache
        self._scram: ScramClient | None = None

    async def run(self) -> TargetLogin:
        login = TargetLogin(self._side, {}, 0, b"")
        has_authenticated = False
        while True:
            code, body = await self._side.read_frame(MAX_LOGIN_MESSAGE_BYTES)
            match chr(code):
                case "R":
                    has_authenticated = self._on_authentication(body)
                case "E":
                    fields = decode_fields(body)
                    raise TargetLoginError(f"target refused the login: {fields.get('M', '')}", "see the target's log", fields)
                case "N":
                    continue
                case "v":
                    continue  # the gate asks for 3.0, every target has it; options it asks for: none
                case _ if not has_authenticated:
                    raise TargetProtocolError(f"message type {code} before authentication")
                case "S":
                    name, value = decode_parameter_status(body)
                    login.parameters[name] = value
                case "K":
                    reader = Reader(body, TargetProtocolError)
                    login.process_id, login.key = reader.int32() & 0xFFFFFFFF, body[4:]
                case "Z":
                    return login
                case _:
                    raise TargetProtocolError(f"message type {code} during login")

    def _on_authentication(self, body: bytes) -> bool:
        reader = Reader(body, TargetProtocolError)
        kind = reader.int32()
        rest = body[4:]
        if kind == 0:
            if self._scram is not None and not self._scram.is_verified:
                raise ScramError("the target let the gate in without proving that it knows the password")
            if (
                self._scram is None
                and self._credential.password_file is not None
                and self._target.tls_mode is TargetTlsMode.REQUIRE
            ):
                # TLS without a verified certificate, and no proof either: it could be anyone
                raise TargetLoginError(
                    "target let the gate in without asking for the password",
                    "use scram-sha-256 in pg_hba.conf, or tls mode VerifyFull",
                )
            return True
        if kind == 3:
            self._answer_cleartext()
        elif kind == 10:
            self._begin_scram(rest)
        elif kind == 11 and self._scram is not None:
            self._side.write(frame(b"p", self._scram.client_final(rest)))
        elif kind == 12 and self._scram is not None:
            self._scram.verify(rest)
        else:
            way = "set the role's password with password_encryption=scram-sha-256, and scram-sha-256 in pg_hba.conf"
            raise TargetLoginError(f"target asks for authentication of kind {kind}, which the gate doesn't do", way)
        return False

    def _password(self) -> str:
        if self._credential.password_file is None:
            raise TargetLoginError(
                f"target asks for a password of `{self._credential.username}` and the credential has none", "give it a secretRef"
            )
        try:
            return Path(self._credential.password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            raise TargetLoginError(
                f"credential of role `{self._credential.role}` can't be read: {error.strerror}", "mount the Secret for the gate"
            ) from error

    def _answer_cleartext(self) -> None:
        if self._target.tls_mode is not TargetTlsMode.VERIFY_FULL and not self._target.is_socket:
            raise TargetLoginError("target asks for the password in plain text", "use scram-sha-256 in pg_hba.conf")
        self._side.write(frame(b"p", self._password().encode() + b"\0"))

    def _begin_scram(self, rest: bytes) -> None:
        offered = rest.split(b"\0")
        assert self._side.transport is not None
        connection = self._side.transport.get_extra_info("ssl_object")
        binding = None
        if connection is not None and b"SCRAM-SHA-256-PLUS" in offered:
            certificate = connection.getpeercert(binary_form=True)
            binding = tls_server_end_point(certificate) if certificate else None
        if binding is None and b"SCRAM-SHA-256" not in offered:
            raise TargetLoginError("target offers no SASL mechanism that the gate knows", "use scram-sha-256 in pg_hba.conf")
        nonce = base64.b64encode(secrets.token_bytes(18)).decode()
        scram = ScramClient(
            self._password(), nonce, binding, could_bind=connection is not None and binding is None, cache=self._cache
        )
        self._scram = scram
        first = scram.client_first()
        self._side.write(frame(b"p", scram.mechanism.encode() + b"\0" + len(first).to_bytes(4, "big") + first))


async def cancel_at_target(target: TargetAddress, process_id: int, key: bytes) -> None:
    """A CancelRequest with the target's own key; no answer is due. A failure changes nothing: the statement goes on.

    It returns once the target has closed the connection, which is after it signalled: a cancel doesn't hit a later statement.
    """
    try:
        side = await connect(target)
    except TargetLoginError:
        return
    side.write(encode_cancel_request(process_id, key))
    with contextlib.suppress(ConnectionLostError, TimeoutError):
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await side.read(1)
    side.close()


async def ask(login: TargetLogin, queries: tuple[str, ...]) -> list[list[tuple[bytes | None, ...]]]:
    """Run the gate's own queries on a connection of its own and bring each one's rows (text).

    Raises:
        TargetLoginError: the target refused one of them.
    """
    from sidegate.postgres.messages import decode_data_row, encode_query

    results: list[list[tuple[bytes | None, ...]]] = []
    for query in queries:
        login.side.write(encode_query(query))
        rows: list[tuple[bytes | None, ...]] = []
        problem: dict[str, str] | None = None
        while True:
            code, body = await login.side.read_frame(16 * 1024 * 1024)
            if code == ord("D"):
                rows.append(decode_data_row(body))
            elif code == ord("E"):
                problem = decode_fields(body)
            elif code == ord("Z"):
                break
        if problem is not None:
            raise TargetLoginError(
                f"target refused a query of the gate's: {problem.get('M', '')}", "see the target's log", problem
            )
        results.append(rows)
    return results
