"""The client's edge: between a client with an encoding of its own and the session core, which reads and writes UTF-8 alone. Pure.

A whole message of the client's goes through `from_client` before anything reads it, a message to the client through `to_client` after
everything else. So the target, the parser, masks, recordings and the audit log see UTF-8, and no byte of a character can be taken for a
quote or a backslash. While the client's encoding is UTF-8 nothing here is called.

Rules it keeps:
- Bytes that aren't characters (22021), and characters without an equivalent (22P05), are errors with PostgreSQL's own words.
- Values in binary format are passed on only where they are ASCII: whether they are text depends on types, and is not guessed.
- COPY data isn't touched: it is in the encoding that the COPY itself names (encoding_changes.py asks for one).
- Names, notices and errors with a character that has no equivalent show a question mark in its place.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from sidegate.postgres.encodings import Encoding, Untranslatable
from sidegate.postgres.frames import HEADER_BYTES, frame_length
from sidegate.postgres.messages import ClientProtocolError, TargetProtocolError, decode_bind, encode_fields

_QUERY: Final = ord("Q")
_PARSE: Final = ord("P")
_BIND: Final = ord("B")
_NAMED: Final = (ord("D"), ord("C"))
_EXECUTE: Final = ord("E")
_ROW_DESCRIPTION: Final = ord("T")
_DATA_ROW: Final = ord("D")
_FIELDS: Final = (ord("E"), ord("N"))
_NOTIFICATION: Final = ord("A")
_STRINGS: Final = (ord("S"), ord("C"))  # ParameterStatus, CommandComplete: strings alone
_COLUMN_BYTES: Final = 18  # of a column's description, behind its name
_NULL: Final = -1

UTF8: Final = "UTF8"
BINARY_HINT: Final = "ask for text format, or connect with client_encoding=UTF8"


class EncodingChange(NamedTuple):
    """What a string asks for: `text` is what the target may get of it; `before` is back if the string fails."""

    text: str
    encoding: Encoding | None
    before: Encoding | None


class RowProblem(NamedTuple):
    """The row at `at` can't be written in the client's encoding."""

    at: int
    sqlstate: str
    error: bytes


class ClientEdge:
    """`encoding` None: UTF-8. `initial` is what the session began with. `is_plain`: neither is another than UTF-8."""

    __slots__ = ("_binary", "encoding", "initial", "is_plain")

    def __init__(self, initial: Encoding | None = None) -> None:
        self.initial = self.encoding = initial
        self.is_plain = initial is None
        self._binary: tuple[bool, ...] = ()

    @property
    def name(self) -> str:
        """What the client is told."""
        return self.encoding.name if self.encoding is not None else UTF8

    def switch(self, encoding: Encoding | None) -> None:
        self.encoding = encoding
        self.is_plain = encoding is None and self.initial is None

    # ---- from the client ----------------------------------------------------------------------------------------------------------

    def from_client(self, code: int, frame: bytes) -> bytes:
        """One whole message, in UTF-8. Raises Untranslatable; ClientProtocolError where it isn't a message at all."""
        encoding = self.encoding
        if encoding is None:
            return frame
        if code == _BIND:
            return self._bind(encoding, frame)
        if frame[HEADER_BYTES:].isascii():
            return frame
        body = frame[HEADER_BYTES:]
        if code == _QUERY:
            body = encoding.to_utf8(body)
        elif code == _PARSE:
            name, text, rest = _cut(body, 2)
            body = encoding.to_utf8(name) + b"\0" + encoding.to_utf8(text) + b"\0" + rest
        elif code in _NAMED:
            body = body[:1] + encoding.to_utf8(body[1:])
        elif code == _EXECUTE:
            name, rest = _cut(body, 1)
            body = encoding.to_utf8(name) + b"\0" + rest
        return _framed(code, body)

    def _bind(self, encoding: Encoding, frame: bytes) -> bytes:
        portal, statement, rest = _cut(frame[HEADER_BYTES:], 2)
        bind = decode_bind(b"\0\0" + rest)  # its names aren't UTF-8 yet
        if 1 in bind.result_formats:
            raise Untranslatable("0A000", f"results in binary format aren't let through with client_encoding {encoding.name}")
        formats = bind.parameter_formats
        values: list[bytes] = []
        for index, value in enumerate(bind.parameters):
            if value is None:
                values.append(b"\xff\xff\xff\xff")
                continue
            if (formats[index] if len(formats) > 1 else formats[0] if formats else 0) == 0:
                values.append(_sized(encoding.to_utf8(value)))
                continue
            if not value.isascii():
                raise Untranslatable(
                    "0A000", f"parameter {index + 1} in binary format isn't let through with client_encoding {encoding.name}"
                )
            values.append(_sized(value))
        before = 2 + 2 * len(formats) + 2
        tail = len(rest) - 2 - 2 * len(bind.result_formats)
        names = encoding.to_utf8(portal) + b"\0" + encoding.to_utf8(statement) + b"\0"
        return _framed(_BIND, names + rest[:before] + b"".join(values) + rest[tail:])

    # ---- to the client ------------------------------------------------------------------------------------------------------------

    def to_client(self, data: bytes) -> bytes:
        """Whole messages, in the client's encoding. Rows have passed `row_problem` before."""
        encoding = self.encoding
        if encoding is None:
            return data
        if data[:1] == b"C":
            self._binary = ()  # the next rows have a description of their own, or are in text
        if data.isascii() and data[:1] != b"T":
            return data
        parts: list[bytes] = []
        at = 0
        while at < len(data):
            stop = at + frame_length(data, at)
            frame = data[at:stop]
            parts.append(self._outgoing(encoding, frame))
            at = stop
        return b"".join(parts)

    def row_problem(self, data: bytes) -> RowProblem | None:
        """The first of these rows that can't be written in the client's encoding."""
        encoding = self.encoding
        at = 0
        while encoding is not None and at < len(data) and data[at] == _DATA_ROW:
            stop = at + frame_length(data, at)
            try:
                self._row(encoding, data[at:stop])
            except Untranslatable as error:
                return RowProblem(at, error.sqlstate, error_message(error))
            at = stop
        return None

    def _outgoing(self, encoding: Encoding, frame: bytes) -> bytes:
        code, body = frame[0], frame[HEADER_BYTES:]
        if code == _ROW_DESCRIPTION:
            return _framed(code, self._description(encoding, body))
        if code == _DATA_ROW:
            return self._row(encoding, frame, or_mark=True)
        if body.isascii():
            return frame
        if code in _FIELDS or code in _STRINGS:
            return _framed(code, encoding.from_utf8_or_mark(body))  # zero bytes are characters too
        if code == _NOTIFICATION:
            return _framed(code, body[:4] + encoding.from_utf8_or_mark(body[4:]))
        return frame

    def _description(self, encoding: Encoding, body: bytes) -> bytes:
        parts = [body[:2]]
        formats: list[bool] = []
        at = 2
        for _ in range(int.from_bytes(body[:2], "big")):
            stop = body.find(b"\0", at)
            if stop < 0 or stop + 1 + _COLUMN_BYTES > len(body):
                raise TargetProtocolError("a description is shorter than its columns")
            after = stop + 1 + _COLUMN_BYTES
            parts += (encoding.from_utf8_or_mark(body[at:stop]), body[stop:after])
            formats.append(body[after - 1] == 1)
            at = after
        self._binary = tuple(formats) if any(formats) else ()
        return b"".join(parts)

    def _row(self, encoding: Encoding, frame: bytes, *, or_mark: bool = False) -> bytes:
        parts = [frame[HEADER_BYTES : HEADER_BYTES + 2]]
        at = HEADER_BYTES + 2
        for index in range(int.from_bytes(parts[0], "big")):
            length = int.from_bytes(frame[at : at + 4], "big", signed=True)
            at += 4
            if length == _NULL:
                parts.append(b"\xff\xff\xff\xff")
                continue
            value = frame[at : at + length]
            at += length
            if length < 0 or len(value) != length:
                raise TargetProtocolError("a row is shorter than its fields")
            if not value.isascii():
                if index < len(self._binary) and self._binary[index]:
                    if or_mark:
                        raise TargetProtocolError("rows in binary format for a client with another encoding than UTF-8")
                    raise Untranslatable("0A000", f"binary format isn't let through with client_encoding {encoding.name}")
                value = encoding.from_utf8_or_mark(value) if or_mark else encoding.from_utf8(value)
            parts += (struct.pack(">I", len(value)), value)
        return _framed(_DATA_ROW, b"".join(parts))


def error_message(error: Untranslatable) -> bytes:
    hint = BINARY_HINT if error.sqlstate == "0A000" else ""
    return encode_fields(b"E", {"S": "ERROR", "V": "ERROR", "C": error.sqlstate, "M": error.message, "H": hint})


def _sized(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _framed(code: int, body: bytes) -> bytes:
    return struct.pack(">BI", code, len(body) + 4) + body


def _cut(body: bytes, strings: int) -> list[bytes]:
    """So many strings, and what comes behind them."""
    parts = body.split(b"\0", strings)
    if len(parts) <= strings:
        raise ClientProtocolError("string without its terminating zero byte")
    return parts
