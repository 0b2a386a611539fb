"""PostgreSQL's messages for tests that speak the protocol by hand: encoders for what a client says, a strict decoder for the answers.

Source: PostgreSQL 18 documentation, "Message Formats". Rules: encoders check nothing, so that tests can say what no client would;
the decoder takes nothing on trust: an unknown type, a short field or a byte left over is a `WireError`. It shares no code with the
gate, whose tests it serves. Left out: walsender's messages inside CopyData.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

PROTOCOL_3_0: Final = 0x00030000
PROTOCOL_3_2: Final = 0x00030002
SSL_REQUEST: Final = 80877103
GSSENC_REQUEST: Final = 80877104
CANCEL_REQUEST: Final = 80877102


class WireError(Exception):
    """The peer sent what the protocol doesn't allow, or ended the connection in the middle."""


# What a client says


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def packet(code: int, body: bytes = b"") -> bytes:
    """A message of the start-up, which has a code in place of a type."""
    return struct.pack("!II", len(body) + 8, code) + body


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def startup(parameters: Mapping[str, str], version: int = PROTOCOL_3_0) -> bytes:
    return packet(version, b"".join(text(key) + text(value) for key, value in parameters.items()) + b"\0")


def ssl_request() -> bytes:
    return packet(SSL_REQUEST)


def gssenc_request() -> bytes:
    return packet(GSSENC_REQUEST)


def cancel_request(pid: int, key: bytes) -> bytes:
    return packet(CANCEL_REQUEST, struct.pack("!I", pid) + key)


def password(value: str) -> bytes:
    return message(b"p", text(value))


def sasl_initial_response(mechanism: str, response: bytes | None) -> bytes:
    tail = struct.pack("!i", -1) if response is None else struct.pack("!i", len(response)) + response
    return message(b"p", text(mechanism) + tail)


def sasl_response(data: bytes) -> bytes:
    return message(b"p", data)


def query(statement: str) -> bytes:
    return message(b"Q", text(statement))


def parse(statement: str, name: str = "", types: Sequence[int] = ()) -> bytes:
    return message(b"P", text(name) + text(statement) + struct.pack(f"!H{len(types)}I", len(types), *types))


def bind(
    values: Sequence[bytes | None] = (),
    *,
    statement: str = "",
    portal: str = "",
    formats: Sequence[int] = (),
    result_formats: Sequence[int] = (),
) -> bytes:
    body = text(portal) + text(statement) + struct.pack(f"!H{len(formats)}H", len(formats), *formats)
    body += struct.pack("!H", len(values))
    body += b"".join(struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value for value in values)
    return message(b"B", body + struct.pack(f"!H{len(result_formats)}H", len(result_formats), *result_formats))


def describe_statement(name: str = "") -> bytes:
    return message(b"D", b"S" + text(name))


def describe_portal(name: str = "") -> bytes:
    return message(b"D", b"P" + text(name))


def execute(portal: str = "", max_rows: int = 0) -> bytes:
    return message(b"E", text(portal) + struct.pack("!I", max_rows))


def close_statement(name: str = "") -> bytes:
    return message(b"C", b"S" + text(name))


def close_portal(name: str = "") -> bytes:
    return message(b"C", b"P" + text(name))


def sync() -> bytes:
    return message(b"S")


def flush() -> bytes:
    return message(b"H")


def copy_data(data: bytes) -> bytes:
    return message(b"d", data)


def copy_done() -> bytes:
    return message(b"c")


def copy_fail(reason: str) -> bytes:
    return message(b"f", text(reason))


def function_call(oid: int, arguments: Sequence[bytes] = ()) -> bytes:
    body = struct.pack("!IHHH", oid, 1, 1, len(arguments))
    return message(b"F", body + b"".join(struct.pack("!i", len(value)) + value for value in arguments) + struct.pack("!H", 1))


def terminate() -> bytes:
    return message(b"X")


# What it hears


class Field(NamedTuple):
    name: str
    table_oid: int
    attnum: int
    type_oid: int
    type_size: int
    type_modifier: int
    format: int


@dataclass(frozen=True, slots=True)
class Authentication:
    code: int  # 0 ok, 3 clear text, 5 md5, 10 SASL, 11 continue, 12 final
    data: bytes

    @property
    def mechanisms(self) -> list[str]:
        return [part.decode() for part in self.data.split(b"\0") if part]


@dataclass(frozen=True, slots=True)
class BackendKeyData:
    pid: int
    key: bytes


@dataclass(frozen=True, slots=True)
class ParameterStatus:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class NegotiateProtocolVersion:
    newest: int
    unknown_options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadyForQuery:
    status: str  # I idle, T in a transaction, E in a failed one


@dataclass(frozen=True, slots=True)
class RowDescription:
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class ParameterDescription:
    types: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DataRow:
    values: tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True)
class CommandComplete:
    tag: str


@dataclass(frozen=True, slots=True)
class Fields:
    """By PostgreSQL's letters: S severity, C SQLSTATE, M message, D detail, H hint, P position ..."""

    fields: Mapping[str, str]

    @property
    def sqlstate(self) -> str:
        return self.fields["C"]

    @property
    def message(self) -> str:
        return self.fields["M"]

    @property
    def severity(self) -> str:
        return self.fields["V"]  # S is translated, V never


@dataclass(frozen=True, slots=True)
class ErrorResponse(Fields):
    pass


@dataclass(frozen=True, slots=True)
class NoticeResponse(Fields):
    pass


@dataclass(frozen=True, slots=True)
class NotificationResponse:
    pid: int
    channel: str
    payload: str


@dataclass(frozen=True, slots=True)
class CopyResponse:
    direction: str  # in, out, both
    format: int
    column_formats: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CopyData:
    data: bytes


@dataclass(frozen=True, slots=True)
class FunctionCallResponse:
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Bare:
    """A message that says nothing but its name."""

    name: str


PARSE_COMPLETE: Final = Bare("ParseComplete")
BIND_COMPLETE: Final = Bare("BindComplete")
CLOSE_COMPLETE: Final = Bare("CloseComplete")
NO_DATA: Final = Bare("NoData")
PORTAL_SUSPENDED: Final = Bare("PortalSuspended")
EMPTY_QUERY: Final = Bare("EmptyQueryResponse")
COPY_DONE: Final = Bare("CopyDone")
BARE: Final = {
    b"1": PARSE_COMPLETE,
    b"2": BIND_COMPLETE,
    b"3": CLOSE_COMPLETE,
    b"n": NO_DATA,
    b"s": PORTAL_SUSPENDED,
    b"I": EMPTY_QUERY,
    b"c": COPY_DONE,
}

Reply: TypeAlias = (
    Authentication
    | BackendKeyData
    | ParameterStatus
    | NegotiateProtocolVersion
    | ReadyForQuery
    | RowDescription
    | ParameterDescription
    | DataRow
    | CommandComplete
    | ErrorResponse
    | NoticeResponse
    | NotificationResponse
    | CopyResponse
    | CopyData
    | FunctionCallResponse
    | Bare
)


class _Body:
    """A message's body, read from the front. Whoever decodes calls `end` last."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        if size < 0 or self._at + size > len(self._data):
            raise WireError(f"{size} bytes wanted at {self._at} of {len(self._data)}")
        self._at += size
        return self._data[self._at - size : self._at]

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def text(self) -> str:
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise WireError("a string without its end")
        value = self.take(end - self._at).decode()
        self.take(1)
        return value

    def value(self) -> bytes | None:
        size = self.number("!i")
        return None if size == -1 else self.take(size)

    def end(self) -> None:
        if self._at != len(self._data):
            raise WireError(f"{len(self._data) - self._at} bytes left over")


def _notice_fields(body: _Body) -> dict[str, str]:
    fields: dict[str, str] = {}
    while letter := body.take(1).strip(b"\0").decode():
        if letter in fields:
            raise WireError(f"field {letter} twice")
        fields[letter] = body.text()
    if not {"S", "V", "C", "M"} <= fields.keys():
        raise WireError(f"fields S, V, C and M must be there, only {sorted(fields)} are")
    return fields


def _field(body: _Body) -> Field:
    name = body.text()
    return Field(name, *struct.unpack("!IhIhih", body.take(18)))


def _copy_response(direction: str, body: _Body) -> CopyResponse:
    return CopyResponse(direction, body.number("!b"), tuple(body.number("!h") for _ in range(body.number("!h"))))


def _status(body: _Body) -> ReadyForQuery:
    status = body.take(1).decode("latin-1")
    if status not in "ITE":
        raise WireError(f"unknown transaction status {status!r}")
    return ReadyForQuery(status)


_DECODERS: Final[Mapping[bytes, Callable[[_Body], Reply]]] = {
    b"R": lambda body: Authentication(body.number("!I"), body.rest()),
    b"K": lambda body: BackendKeyData(body.number("!I"), body.rest()),
    b"S": lambda body: ParameterStatus(body.text(), body.text()),
    b"v": lambda body: NegotiateProtocolVersion(body.number("!I"), tuple(body.text() for _ in range(body.number("!I")))),
    b"Z": _status,
    b"T": lambda body: RowDescription(tuple(_field(body) for _ in range(body.number("!H")))),
    b"t": lambda body: ParameterDescription(tuple(body.number("!I") for _ in range(body.number("!H")))),
    b"D": lambda body: DataRow(tuple(body.value() for _ in range(body.number("!H")))),
    b"C": lambda body: CommandComplete(body.text()),
    b"E": lambda body: ErrorResponse(_notice_fields(body)),
    b"N": lambda body: NoticeResponse(_notice_fields(body)),
    b"A": lambda body: NotificationResponse(body.number("!I"), body.text(), body.text()),
    b"G": lambda body: _copy_response("in", body),
    b"H": lambda body: _copy_response("out", body),
    b"W": lambda body: _copy_response("both", body),
    b"d": lambda body: CopyData(body.rest()),
    b"V": lambda body: FunctionCallResponse(body.value()),
}


def decode(kind: bytes, data: bytes) -> Reply:
    """One answer.

    Raises:
        WireError: unknown type, a field that runs over the end, bytes left over.
    """
    body = _Body(data)
    bare = BARE.get(kind)
    decoder = _DECODERS.get(kind)
    if bare is None and decoder is None:
        raise WireError(f"unknown message type {kind!r}")
    reply = bare if decoder is None else decoder(body)
    assert reply is not None
    body.end()
    return reply
