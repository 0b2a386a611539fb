"""The codec: what each message is, how it is treated, and how the ones that matter are decoded and encoded. Strict, pure.

Every decoder checks that nothing is left over: a gate that reads a message otherwise than its target can be bypassed. Types that the
tables below don't name are refused. docs/coverage/postgres.md is made from the tables.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sidegate.policy.reason import Reason


class ClientProtocolError(Exception):
    """The client sent what no client may send. The session ends: after this the two sides can't agree on anything."""

    def __init__(self, problem: str, sqlstate: str = "08P01", way_forward: str = "") -> None:
        super().__init__(problem)
        self.sqlstate = sqlstate
        self.way_forward = way_forward or Reason.PROTOCOL_REFUSED.way_forward


class TargetProtocolError(Exception):
    """The target sent what the gate can't read. The session ends: nothing unread is passed on."""

    way_forward: Final = "report the target's version and extensions; the gate passes on only what it understands"


class Treatment(enum.StrEnum):
    """What the gate does with a message type."""

    DECIDED = "decided"  # carries or runs a statement: the engine decides before the target sees it
    TRACKED = "tracked"  # decoded, registered, forwarded
    FORWARDED = "forwarded"  # passed on unread, within limits
    MASKED = "masked"  # rewritten where a mask applies
    ANSWERED = "answered"  # the gate itself answers
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class MessageType:
    code: str
    name: str
    treatment: Treatment
    note: str = ""


CLIENT_MESSAGES: Final[Mapping[int, MessageType]] = {
    ord(m.code): m
    for m in (
        MessageType("Q", "Query", Treatment.DECIDED, "the whole string is one unit: the strictest decision wins"),
        MessageType("P", "Parse", Treatment.DECIDED, "denied here already; decided again at each Execute"),
        MessageType("B", "Bind", Treatment.TRACKED),
        MessageType("D", "Describe", Treatment.TRACKED),
        MessageType("E", "Execute", Treatment.DECIDED, "with its parameters"),
        MessageType("C", "Close", Treatment.TRACKED),
        MessageType("S", "Sync", Treatment.TRACKED),
        MessageType("H", "Flush", Treatment.FORWARDED),
        MessageType("d", "CopyData", Treatment.FORWARDED, "only while the target takes a COPY; else dropped, as PostgreSQL does"),
        MessageType("c", "CopyDone", Treatment.TRACKED),
        MessageType("f", "CopyFail", Treatment.TRACKED),
        MessageType("X", "Terminate", Treatment.TRACKED),
        MessageType("F", "FunctionCall", Treatment.REFUSED, "it would call a function past the parser"),
        MessageType("p", "PasswordMessage", Treatment.ANSWERED, "during authentication only"),
    )
}

TARGET_MESSAGES: Final[Mapping[int, MessageType]] = {
    ord(m.code): m
    for m in (
        MessageType("R", "Authentication", Treatment.ANSWERED, "the gate logs in to the target itself"),
        MessageType("K", "BackendKeyData", Treatment.ANSWERED, "the client gets a key that the gate minted"),
        MessageType("v", "NegotiateProtocolVersion", Treatment.ANSWERED),
        MessageType("S", "ParameterStatus", Treatment.MASKED),
        MessageType("Z", "ReadyForQuery", Treatment.TRACKED),
        MessageType("1", "ParseComplete", Treatment.TRACKED),
        MessageType("2", "BindComplete", Treatment.TRACKED),
        MessageType("3", "CloseComplete", Treatment.TRACKED),
        MessageType("t", "ParameterDescription", Treatment.FORWARDED),
        MessageType("T", "RowDescription", Treatment.TRACKED, "the mask plan is made from it"),
        MessageType("n", "NoData", Treatment.TRACKED),
        MessageType("D", "DataRow", Treatment.MASKED),
        MessageType("C", "CommandComplete", Treatment.TRACKED),
        MessageType("I", "EmptyQueryResponse", Treatment.TRACKED),
        MessageType("s", "PortalSuspended", Treatment.TRACKED),
        MessageType("E", "ErrorResponse", Treatment.MASKED),
        MessageType("N", "NoticeResponse", Treatment.MASKED),
        MessageType("A", "NotificationResponse", Treatment.MASKED),
        MessageType("G", "CopyInResponse", Treatment.TRACKED),
        MessageType("H", "CopyOutResponse", Treatment.TRACKED),
        MessageType("W", "CopyBothResponse", Treatment.REFUSED, "replication is for passthrough roles only"),
        MessageType("d", "CopyData", Treatment.MASKED),
        MessageType("c", "CopyDone", Treatment.TRACKED),
        MessageType("V", "FunctionCallResponse", Treatment.REFUSED, "no FunctionCall was let through"),
    )
}


class Reader:
    """Walks one message body; each read checks its bounds, `end` that nothing is left."""

    __slots__ = ("_at", "_body", "_error")

    def __init__(self, body: bytes, error: type[ClientProtocolError] | type[TargetProtocolError]) -> None:
        self._body = body
        self._at = 0
        self._error = error

    def _take(self, count: int) -> bytes:
        stop = self._at + count
        if count < 0 or stop > len(self._body):
            raise self._error("message is shorter than its fields")
        piece = self._body[self._at : stop]
        self._at = stop
        return piece

    def int16(self) -> int:
        return int.from_bytes(self._take(2), "big")

    def int32(self) -> int:
        return int.from_bytes(self._take(4), "big", signed=True)

    def byte(self) -> int:
        return self._take(1)[0]

    def value(self) -> bytes | None:
        """An int32 length, -1 for NULL, and that many bytes."""
        length = self.int32()
        return None if length == -1 else self._take(length)

    def string(self) -> str:
        stop = self._body.find(b"\0", self._at)
        if stop < 0:
            raise self._error("string without its terminating zero byte")
        piece = self._body[self._at : stop]
        self._at = stop + 1
        try:
            return piece.decode("utf-8")
        except UnicodeDecodeError:
            raise self._error("string is not valid UTF-8, the only client encoding the gate lets through") from None

    def end(self) -> None:
        if self._at != len(self._body):
            raise self._error(f"{len(self._body) - self._at} bytes left over after the message's fields")


class Parse:
    __slots__ = ("name", "parameter_oids", "text")

    def __init__(self, name: str, text: str, parameter_oids: tuple[int, ...]) -> None:
        self.name = name
        self.text = text
        self.parameter_oids = parameter_oids


class Bind:
    """`parameters` are raw values, None for NULL; `result_formats` as sent: none, one for all, or one a column."""

    __slots__ = ("parameter_formats", "parameters", "portal", "result_formats", "statement")

    def __init__(
        self,
        portal: str,
        statement: str,
        parameter_formats: tuple[int, ...],
        parameters: tuple[bytes | None, ...],
        result_formats: tuple[int, ...],
    ) -> None:
        self.portal = portal
        self.statement = statement
        self.parameter_formats = parameter_formats
        self.parameters = parameters
        self.result_formats = result_formats


class Execute:
    __slots__ = ("max_rows", "portal")

    def __init__(self, portal: str, max_rows: int) -> None:
        self.portal = portal
        self.max_rows = max_rows


class Named:
    """Describe and Close: `kind` is "S" for a prepared statement, "P" for a portal."""

    __slots__ = ("kind", "name")

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name


def decode_query(body: bytes) -> str:
    reader = Reader(body, ClientProtocolError)
    text = reader.string()
    reader.end()
    return text


def decode_parse(body: bytes) -> Parse:
    reader = Reader(body, ClientProtocolError)
    name, text = reader.string(), reader.string()
    oids = tuple(reader.int32() & 0xFFFFFFFF for _ in range(reader.int16()))
    reader.end()
    return Parse(name, text, oids)


def decode_bind(body: bytes) -> Bind:
    reader = Reader(body, ClientProtocolError)
    portal, statement = reader.string(), reader.string()
    formats = _format_codes(reader)
    count = reader.int16()
    parameters: tuple[bytes | None, ...] = (reader.value(),) if count == 1 else tuple([reader.value() for _ in range(count)])
    results = _format_codes(reader)
    reader.end()
    if len(formats) > 1 and len(formats) != len(parameters):
        raise ClientProtocolError(f"{len(formats)} parameter formats for {len(parameters)} parameters")
    return Bind(portal, statement, formats, parameters, results)


def _format_codes(reader: Reader) -> tuple[int, ...]:
    count = reader.int16()
    if count == 0:
        return ()
    codes = tuple([reader.int16() for _ in range(count)])
    if max(codes) > 1:
        raise ClientProtocolError("format code is neither 0 (text) nor 1 (binary)")
    return codes


def decode_execute(body: bytes) -> Execute:
    reader = Reader(body, ClientProtocolError)
    portal, max_rows = reader.string(), reader.int32()
    reader.end()
    return Execute(portal, max_rows)


def decode_named(body: bytes) -> Named:
    reader = Reader(body, ClientProtocolError)
    kind, name = chr(reader.byte()), reader.string()
    reader.end()
    if kind not in "SP":
        raise ClientProtocolError(f"`{kind}` is neither a prepared statement (S) nor a portal (P)")
    return Named(kind, name)


def decode_fields(body: bytes) -> dict[str, str]:
    """ErrorResponse and NoticeResponse: field codes to texts. Later fields of the same code win, as in libpq."""
    fields: dict[str, str] = {}
    at = 0
    while at < len(body) and body[at]:
        stop = body.find(b"\0", at + 1)
        if stop < 0:
            raise TargetProtocolError("error field without its terminating zero byte")
        fields[chr(body[at])] = body[at + 1 : stop].decode("utf-8", "replace")
        at = stop + 1
    if at != len(body) - 1:
        raise TargetProtocolError("error message doesn't end where its fields do")
    return fields


def decode_parameter_status(body: bytes) -> tuple[str, str]:
    reader = Reader(body, TargetProtocolError)
    name, value = reader.string(), reader.string()
    reader.end()
    return name, value


def decode_data_row(body: bytes) -> tuple[bytes | None, ...]:
    reader = Reader(body, TargetProtocolError)
    values = tuple(reader.value() for _ in range(reader.int16()))
    reader.end()
    return values


def decode_command_tag(body: bytes) -> str:
    reader = Reader(body, TargetProtocolError)
    tag = reader.string()
    reader.end()
    return tag


def rows_of_tag(tag: str) -> int:
    """The row count a command tag ends with ("DELETE 5", "INSERT 0 5"); 0 when it has none."""
    _, _, last = tag.rpartition(" ")
    return int(last) if last.isascii() and last.isdigit() else 0


def frame(code: bytes, body: bytes = b"") -> bytes:
    return code + struct.pack(">I", len(body) + 4) + body


def encode_query(text: str) -> bytes:
    return frame(b"Q", text.encode() + b"\0")


def encode_parse(name: str, text: str, parameter_oids: tuple[int, ...] = ()) -> bytes:
    oids = b"".join((oid & 0xFFFFFFFF).to_bytes(4, "big") for oid in parameter_oids)
    return frame(b"P", name.encode() + b"\0" + text.encode() + b"\0" + len(parameter_oids).to_bytes(2, "big") + oids)


def encode_bind(portal: str, statement: str) -> bytes:
    """No parameters, results as text."""
    return frame(b"B", portal.encode() + b"\0" + statement.encode() + b"\0" + b"\0\0\0\0\0\0")


def encode_bound(bind: Bind) -> bytes:
    """As `decode_bind` reads it."""
    parts = [bind.portal.encode(), b"\0", bind.statement.encode(), b"\0", _encoded_codes(bind.parameter_formats)]
    parts.append(len(bind.parameters).to_bytes(2, "big"))
    for value in bind.parameters:
        parts += (b"\xff\xff\xff\xff",) if value is None else (len(value).to_bytes(4, "big"), value)
    parts.append(_encoded_codes(bind.result_formats))
    return frame(b"B", b"".join(parts))


def _encoded_codes(codes: tuple[int, ...]) -> bytes:
    return b"".join(code.to_bytes(2, "big") for code in (len(codes), *codes))


def encode_describe(kind: str, name: str) -> bytes:
    return frame(b"D", kind.encode() + name.encode() + b"\0")


def encode_execute(portal: str) -> bytes:
    return frame(b"E", portal.encode() + b"\0\0\0\0\0")


def encode_close(kind: str, name: str) -> bytes:
    return frame(b"C", kind.encode() + name.encode() + b"\0")


def encode_fields(code: bytes, fields: Mapping[str, str]) -> bytes:
    """ErrorResponse (E) or NoticeResponse (N). A zero byte in a text would end its field early, so it goes."""
    parts = [key.encode() + text.replace("\0", "").encode("utf-8", "replace") + b"\0" for key, text in fields.items() if text]
    return frame(code, b"".join(parts) + b"\0")


def encode_parameter_status(name: str, value: str) -> bytes:
    return frame(b"S", name.encode() + b"\0" + value.encode() + b"\0")


def encode_negotiate_protocol_version(minor: int, unknown_options: Sequence[str]) -> bytes:
    """Newest minor version as the whole version number (3.minor), then the options that weren't recognised."""
    names = b"".join(name.encode() + b"\0" for name in unknown_options)
    return frame(b"v", struct.pack(">II", 0x00030000 | minor, len(unknown_options)) + names)


def encode_rows(rows: Iterable[Sequence[bytes | None]]) -> bytes:
    """DataRows from raw values."""
    out = bytearray()
    for row in rows:
        body = struct.pack(">H", len(row)) + b"".join(
            b"\xff\xff\xff\xff" if value is None else struct.pack(">I", len(value)) + value for value in row
        )
        out += frame(b"D", body)
    return bytes(out)


SYNC: Final = frame(b"S")
FLUSH: Final = frame(b"H")
TERMINATE: Final = frame(b"X")
COPY_DONE: Final = frame(b"c")
AUTHENTICATION_OK: Final = frame(b"R", b"\0\0\0\0")
AUTHENTICATION_CLEARTEXT: Final = frame(b"R", b"\0\0\0\3")


def encode_ready(status: str) -> bytes:
    """`status`: I idle, T in a transaction, E in a failed one."""
    return frame(b"Z", status.encode())
