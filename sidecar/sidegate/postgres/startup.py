"""What comes before the first message: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage. Pure.

The order and the limits are PostgreSQL's own (ProcessStartupPacket): either encryption request at most once, a startup packet of at
most 10,000 bytes that ends with a zero byte exactly at its length. Startup parameters are an attack surface (any setting can be given as
one, `options` carries command-line switches), so they are an allow-list.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from sidegate.postgres.encodings import Encoding, find_encoding, is_utf8
from sidegate.postgres.messages import ClientProtocolError

MAX_STARTUP_PACKET_BYTES: Final = 10_000  # PostgreSQL's MAX_STARTUP_PACKET_LENGTH
NAME_BYTES: Final = 63  # NAMEDATALEN - 1: the target cuts longer names, so they are cut before they are compared
PROTOCOL_MAJOR: Final = 3
NEWEST_MINOR: Final = 2

CANCEL_CODE: Final = 80877102
SSL_CODE: Final = 80877103
GSSENC_CODE: Final = 80877104

# Harmless settings that drivers send at start-up. Passed on to the target.
ALLOWED_PARAMETERS: Final = frozenset({
    "application_name",
    "datestyle",
    "intervalstyle",
    "timezone",
    "extra_float_digits",
    "bytea_output",
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "client_min_messages",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "default_transaction_deferrable",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class SslRequest:
    pass


@dataclass(frozen=True, slots=True)
class GssEncRequest:
    pass


@dataclass(frozen=True, slots=True)
class CancelRequest:
    process_id: int
    key: bytes


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """`parameters` are as the client sent them (`allowed_parameters` judges them); `minor` is the version to speak, after negotiation."""

    user: str
    database: str
    minor: int
    requested_minor: int
    unknown_options: tuple[str, ...]
    parameters: dict[str, str] = field(default_factory=dict)
    replication: str | None = None

    @property
    def must_negotiate(self) -> bool:
        return self.requested_minor > self.minor or bool(self.unknown_options)


StartupPacket: TypeAlias = SslRequest | GssEncRequest | CancelRequest | StartupMessage


def packet_length(header: bytes) -> int:
    """Whole length of the packet whose first four bytes are `header`.

    Raises:
        ClientProtocolError: a length no startup packet can have.
    """
    length = int(struct.unpack(">I", header)[0])
    if not 8 <= length <= MAX_STARTUP_PACKET_BYTES:
        raise ClientProtocolError("invalid length of startup packet")
    return length


def decode_startup_packet(packet: bytes) -> StartupPacket:
    """Decode one whole packet, its length included.

    Raises:
        ClientProtocolError: malformed, another protocol, or a parameter outside the allow-list.
    """
    code = int(struct.unpack_from(">I", packet, 4)[0])
    body = packet[8:]
    if code in (SSL_CODE, GSSENC_CODE):
        if body:
            raise ClientProtocolError("encryption request with bytes after its code")
        return SslRequest() if code == SSL_CODE else GssEncRequest()
    if code == CANCEL_CODE:
        if not 8 <= len(body) <= 260:
            raise ClientProtocolError("invalid length of cancel request")
        return CancelRequest(int(struct.unpack_from(">I", body)[0]), body[4:])
    major, minor = code >> 16, code & 0xFFFF
    if major != PROTOCOL_MAJOR:
        raise ClientProtocolError(
            f"unsupported frontend protocol {major}.{minor}: the gate speaks 3.0 to 3.{NEWEST_MINOR}", "0A000"
        )
    return _decode_startup_message(body, minor)


def _decode_startup_message(body: bytes, minor: int) -> StartupMessage:
    if not body.endswith(b"\0\0") and body != b"\0":
        raise ClientProtocolError("invalid startup packet layout: expected terminator as last byte")
    parts = body[:-1].split(b"\0")[:-1] if len(body) > 1 else []
    if len(parts) % 2:
        raise ClientProtocolError("invalid startup packet layout: a parameter without its value")
    try:
        pairs = [(parts[i].decode(), parts[i + 1].decode()) for i in range(0, len(parts), 2)]
    except UnicodeDecodeError:
        raise ClientProtocolError("startup parameters are not valid UTF-8") from None
    named: dict[str, str] = {}
    for name, value in pairs:
        if not name:
            raise ClientProtocolError("startup parameter without a name")
        if name in named:
            raise ClientProtocolError(f"startup parameter `{name}` is given twice")
        named[name] = value
    user = _cut(named.pop("user", ""))
    if not user:
        raise ClientProtocolError("no PostgreSQL user name specified in startup packet", "28000")
    database = _cut(named.pop("database", "")) or user
    unknown = tuple(name for name in named if name.startswith("_pq_."))
    replication = named.pop("replication", None)
    if replication is not None and replication.lower() in ("false", "off", "no", "0", "f", "n", "of"):
        replication = None
    parameters = {name: value for name, value in named.items() if name not in unknown}
    return StartupMessage(user, database, min(minor, NEWEST_MINOR), minor, unknown, parameters, replication)


def allowed_parameters(parameters: dict[str, str]) -> dict[str, str]:
    """What of the client's parameters goes to the target. Its client_encoding doesn't: it is the gate's to keep (`encoding_of`).

    Raises:
        ClientProtocolError: one that isn't let through.
    """
    allowed = dict(parameters)
    for name, value in parameters.items():
        lowered = name.lower()
        if lowered == "client_encoding":
            if find_encoding(value) is None and not is_utf8(value):
                raise ClientProtocolError(
                    f"client_encoding `{value}` isn't let through: the gate can't convert it as the target would",
                    "22023",
                    "connect with client_encoding=UTF8 (PGCLIENTENCODING=UTF8)",
                )
            del allowed[name]
        elif lowered == "options":
            del allowed[name]
            allowed.update(_decode_options(value))
        elif lowered not in ALLOWED_PARAMETERS:
            raise _refused(name)
    return allowed


def encoding_of(parameters: dict[str, str]) -> Encoding | None:
    """What the client begins with; None: UTF-8. Of parameters that `allowed_parameters` let through."""
    return next((find_encoding(value) for name, value in parameters.items() if name.lower() == "client_encoding"), None)


def _decode_options(options: str) -> dict[str, str]:
    """`-c name=value` and `--name=value` of the allow-list, nothing else; backslash escapes are refused, not guessed."""
    if "\\" in options:
        raise _refused("options")
    words = options.split()
    settings: dict[str, str] = {}
    at = 0
    while at < len(words):
        word = words[at]
        if word == "-c" and at + 1 < len(words):
            at += 1
            assignment = words[at]
        elif word.startswith(("--", "-c")):
            assignment = word[2:]
        else:
            raise _refused(f"options {word}")
        name, equals, value = assignment.partition("=")
        if not equals or name.lower().replace("-", "_") not in ALLOWED_PARAMETERS:
            raise _refused(f"options {assignment}")
        settings[name.replace("-", "_")] = value
        at += 1
    return settings


def _refused(name: str) -> ClientProtocolError:
    return ClientProtocolError(
        f"startup parameter `{name}` isn't let through",
        "42501",
        f"leave it out; these are let through: {', '.join(sorted(ALLOWED_PARAMETERS))}, client_encoding=UTF8",
    )


def _cut(name: str) -> str:
    """As the target does with a name over NAMEDATALEN - 1 bytes; a character that doesn't fit whole goes too."""
    return name.encode()[:NAME_BYTES].decode("utf-8", "ignore")


def encode_startup_message(
    user: str,
    database: str,
    parameters: dict[str, str],
    minor: int = 0,
    replication: str | None = None,
    *,
    wants_utf8: bool = True,
) -> bytes:
    """The gate's own StartupMessage towards the target. `wants_utf8`: what the gate itself reads must be UTF-8."""
    pairs = {"user": user, "database": database, **({"client_encoding": "UTF8"} if wants_utf8 else {}), **parameters}
    if replication is not None:
        pairs["replication"] = replication
    body = b"".join(key.encode() + b"\0" + value.encode() + b"\0" for key, value in pairs.items()) + b"\0"
    return struct.pack(">II", len(body) + 8, (PROTOCOL_MAJOR << 16) | minor) + body


def encode_cancel_request(process_id: int, key: bytes) -> bytes:
    return struct.pack(">III", 12 + len(key), CANCEL_CODE, process_id) + key


SSL_REQUEST: Final = struct.pack(">II", 8, SSL_CODE)
