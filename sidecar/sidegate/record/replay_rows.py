"""Recorded results of a PostgreSQL target as tables: a small decoder of its own, since a recording is read without any gate.

Reads the messages that recordings keep (RowDescription, DataRow, CommandComplete, ErrorResponse, NoticeResponse, CopyData; PostgreSQL's
documentation, section "Message Formats"), in text format and, for common types, in binary. A cell it can't read is shown in hexadecimal,
a message it can't read is said to be unreadable: nothing here raises, since what was recorded is what the client got, odd or not.

Pure. Terminal safety is `plain`'s.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final

from sidegate.mask.plain import cells, plain

MAX_CELL: Final = 200  # characters of one cell that are shown
_NULL: Final = "(null)"


@dataclass(frozen=True, slots=True)
class Column:
    """A column as RowDescription has it."""

    name: str
    type_oid: int
    is_binary: bool


@dataclass(slots=True)
class ResultPart:
    """One result of a statement: rows under their columns, or a note; and what ended it."""

    columns: tuple[Column, ...] | None = None
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_results(data: bytes) -> list[ResultPart]:
    """Every result in recorded wire bytes, in order."""
    parts = [ResultPart()]
    for kind, body in _messages(data):
        part = parts[-1]
        try:
            match kind:
                case "T":
                    if part.columns is not None or part.rows or part.notes:
                        parts.append(part := ResultPart())
                    part.columns = _columns(body)
                case "D":
                    part.rows.append(_row(body, part.columns))
                case "C":
                    part.notes.append(plain(_text(body.rstrip(b"\0"))))
                    parts.append(ResultPart())
                case "E" | "N":
                    part.notes.append(_report(body))
                case "d":
                    part.notes.append(plain(_text(body.rstrip(b"\n"))))
                case "":
                    part.notes.append(f"({len(body)} bytes of a message that isn't recorded whole)")
                case _:
                    pass  # completions of the extended protocol: they say nothing to a reader
        except (ValueError, struct.error, IndexError):
            part.notes.append(f"(message `{kind}` of {len(body)} bytes is unreadable)")
    return [part for part in parts if part.columns is not None or part.rows or part.notes]


def table(part: ResultPart) -> Iterator[str]:
    """The lines of one result: its table as psql draws one, then its notes."""
    if part.columns is not None or part.rows:
        width = max([len(part.columns or ()), *(len(row) for row in part.rows)], default=0)
        names = [plain(column.name) for column in part.columns or ()]
        header = tuple(names + [f"column {n}" for n in range(len(names) + 1, width + 1)])
        widths = [max(map(cells, column)) for column in zip(*_padded([header, *part.rows], width), strict=True)]
        for number, row in enumerate(_padded([header, *part.rows], width)):
            yield " " + " | ".join(_fill(cell, w) for cell, w in zip(row, widths, strict=True)).rstrip()
            if number == 0:
                yield "-" + "-+-".join("-" * w for w in widths) + "-"
        yield f"({len(part.rows)} row{'' if len(part.rows) == 1 else 's'})"
    yield from part.notes


def _messages(data: bytes) -> Iterator[tuple[str, bytes]]:
    position = 0
    while position < len(data):
        end = position + 1 + int.from_bytes(data[position + 1 : position + 5], "big")
        if position + 5 > len(data) or end > len(data) or end < position + 5:
            yield "", data[position:]
            return
        yield chr(data[position]), data[position + 5 : end]
        position = end


def _columns(body: bytes) -> tuple[Column, ...]:
    (count,) = struct.unpack_from(">H", body)
    position, columns = 2, []
    for _ in range(count):
        end = body.index(b"\0", position)
        _, _, type_oid, _, _, form = struct.unpack_from(">IhIhih", body, end + 1)
        columns.append(Column(_text(body[position:end]), type_oid, form == 1))
        position = end + 19
    return tuple(columns)


def _row(body: bytes, columns: tuple[Column, ...] | None) -> tuple[str, ...]:
    (count,) = struct.unpack_from(">H", body)
    position, cells = 2, []
    for number in range(count):
        (length,) = struct.unpack_from(">i", body, position)
        position += 4
        if length < 0:
            cells.append(_NULL)
            continue
        value = body[position : position + length]
        if len(value) < length:
            raise ValueError("a cell ends behind its row")
        position += length
        column = columns[number] if columns is not None and number < len(columns) else None
        cells.append(_cell(value, column))
    return tuple(cells)


def _cell(value: bytes, column: Column | None) -> str:
    if column is not None and column.is_binary:
        try:
            text = _BINARY.get(column.type_oid, _hex)(value)
        except (ValueError, struct.error, OverflowError):
            text = _hex(value)
    elif column is None and not _is_readable(value):
        text = _hex(value)  # the client had the columns from before: text or binary isn't known
    else:
        text = _text(value)
    shown = plain(text[:MAX_CELL])
    return f"{shown}... ({len(text) - MAX_CELL} more)" if len(text) > MAX_CELL else shown


def binary_text(type_oid: int, value: bytes) -> str | None:
    """The text of a value in PostgreSQL's binary format; None when its type isn't known here, or it isn't of that type."""
    read = _BINARY.get(type_oid)
    if read is None or read is _hex:
        return None
    try:
        text = read(value)
    except (ValueError, struct.error, OverflowError):
        return None
    return None if text == _hex(value) else text


def _report(body: bytes) -> str:
    fields = {piece[:1]: _text(piece[1:]) for piece in body.split(b"\0") if piece}
    severity, message = fields.get(b"S", "NOTICE"), fields.get(b"M", "")
    lines = [f"{severity} {fields.get(b'C', '')}: {message}"]
    lines += [f"{name}: {fields[code]}" for code, name in ((b"D", "DETAIL"), (b"H", "HINT")) if code in fields]
    return "\n".join(plain(line) for line in lines)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _is_readable(value: bytes) -> bool:
    try:
        return all(c.isprintable() or c in "\n\t" for c in value.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def _hex(value: bytes) -> str:
    return "\\x" + value.hex()


def _number(layout: str) -> Callable[[bytes], str]:
    unpack = struct.Struct(layout).unpack
    return lambda value: str(unpack(value)[0])


_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL counts from here


def _timestamp(value: bytes) -> str:
    moment = _EPOCH + timedelta(microseconds=struct.unpack(">q", value)[0])
    return moment.replace(tzinfo=None).isoformat(" ")


def _date(value: bytes) -> str:
    return (date(2000, 1, 1) + timedelta(days=struct.unpack(">i", value)[0])).isoformat()


# By pg_type.oid. What isn't here is shown in hexadecimal.
_BINARY: Final[dict[int, Callable[[bytes], str]]] = {
    16: lambda value: {b"\0": "f", b"\1": "t"}.get(value) or _hex(value),  # bool
    17: _hex,  # bytea
    18: _text,  # "char"
    19: _text,  # name
    20: _number(">q"),
    21: _number(">h"),
    23: _number(">i"),
    25: _text,  # text
    26: _number(">I"),  # oid
    114: _text,  # json
    700: _number(">f"),
    701: _number(">d"),
    1042: _text,  # bpchar
    1043: _text,  # varchar
    1082: _date,
    1114: _timestamp,
    1184: lambda value: _timestamp(value) + "+00",
    2950: lambda value: str(uuid.UUID(bytes=value)),
    3802: lambda value: _text(value[1:]) if value[:1] == b"\1" else _hex(value),  # jsonb, version 1
}


def _fill(text: str, width: int) -> str:
    return text + " " * (width - cells(text))


def _padded(rows: list[tuple[str, ...]], width: int) -> list[tuple[str, ...]]:
    return [row + ("",) * (width - len(row)) for row in rows]
