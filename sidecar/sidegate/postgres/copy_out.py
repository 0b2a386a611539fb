"""Rewrites what COPY TO STDOUT sends, by a result plan: text, csv and binary format. Pure and incremental.

The protocol doesn't promise one row a CopyData message, so rows are put together first; a row that outgrows the limit ends the COPY. A cell
is unescaped or unquoted before it is looked at, and written back only when it changed: whatever needs no masking comes out byte by byte
as it went in (PostgreSQL documentation, COPY, "File Formats"; src/backend/commands/copyto.c).

Rules: the column count must be the plan's in every row, and the file must end where COPY ends, or TargetProtocolError. Options that this
file doesn't know are refused before the first byte. The client encoding is UTF-8, so delimiters are never part of a character.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final, Protocol

from sidegate.postgres.messages import TargetProtocolError
from sidegate.postgres.results import Action, ResultPlan, wire_cell

MAX_ROW_BYTES: Final = 256 * 1024 * 1024

_NEWLINE: Final = 10
_BINARY_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0"
_BINARY_HEADER_BYTES: Final = len(_BINARY_SIGNATURE) + 8  # signature, flags, length of the extension
_LARGEST: Final = 0x7FFFFFFF


class CopyKind(enum.StrEnum):
    TEXT = "text"
    CSV = "csv"
    BINARY = "binary"


class CopyOptions(Protocol):
    """What the parse tree says of a COPY TO STDOUT; None: not given."""

    @property
    def format(self) -> str: ...
    @property
    def delimiter(self) -> str | None: ...
    @property
    def null(self) -> str | None: ...
    @property
    def header(self) -> bool: ...
    @property
    def quote(self) -> str | None: ...
    @property
    def escape(self) -> str | None: ...
    @property
    def encoding(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class CopyFormat:
    """How rows are written. Delimiter, quote and escape are one byte each; `quote` and `escape` are for csv alone."""

    kind: CopyKind
    delimiter: bytes = b"\t"
    null: bytes = b"\\N"
    header: bool = False
    quote: bytes = b'"'
    escape: bytes = b'"'

    def __post_init__(self) -> None:
        """Raises TargetProtocolError for what PostgreSQL itself would refuse, and what can't be taken apart again."""
        if any(len(mark) != 1 for mark in (self.delimiter, self.quote, self.escape)):
            raise TargetProtocolError("COPY with a delimiter, quote or escape that is not a single byte")
        marks = {self.delimiter} | ({self.quote, self.escape} if self.kind is CopyKind.CSV else {b"\\"})
        if marks & {b"\n", b"\r", b"\0"} or self.delimiter in ({self.quote} if self.kind is CopyKind.CSV else {b"\\"}):
            raise TargetProtocolError("COPY with a delimiter, quote or escape that hides where cells end")
        if b"\n" in self.null or b"\r" in self.null or self.delimiter in self.null:
            raise TargetProtocolError("COPY with a null string that hides where cells end")

    @classmethod
    def of(cls, options: CopyOptions) -> CopyFormat:
        """With PostgreSQL's defaults for what isn't given. Raises TargetProtocolError for a format or a mark that isn't known."""
        try:
            kind = CopyKind(options.format.lower())
        except ValueError:
            raise TargetProtocolError(f"COPY in an unknown format `{options.format}`") from None
        if options.encoding is not None and options.encoding.lower().replace("-", "") not in ("utf8", "unicode"):
            # In some encodings a delimiter's byte is the second half of a character, and detectors read UTF-8.
            raise TargetProtocolError(f"COPY in the encoding `{options.encoding}`, only UTF-8 is let through")
        is_csv = kind is CopyKind.CSV
        quote = _mark(options.quote, '"')
        return cls(
            kind=kind,
            delimiter=_mark(options.delimiter, "," if is_csv else "\t"),
            null=_mark(options.null, "" if is_csv else "\\N"),
            header=bool(options.header),
            quote=quote,
            escape=quote if options.escape is None else _mark(options.escape, '"'),
        )


def _mark(text: str | None, default: str) -> bytes:
    return (default if text is None else text).encode()


class CopyOutRewriter:
    """One COPY. `feed` takes the payload of each CopyData message and gives what to send instead (maybe nothing yet)."""

    __slots__ = ("_rows",)

    def __init__(self, plan: ResultPlan, copy_format: CopyFormat, max_row_bytes: int = MAX_ROW_BYTES) -> None:
        self._rows: _TextRows | _CsvRows | _BinaryRows
        if copy_format.kind is CopyKind.BINARY:
            self._rows = _BinaryRows(plan.in_format(1), max_row_bytes)
        elif copy_format.kind is CopyKind.CSV:
            self._rows = _CsvRows(plan.in_format(0), copy_format, max_row_bytes)
        else:
            self._rows = _TextRows(plan.in_format(0), copy_format, max_row_bytes)

    def feed(self, data: bytes) -> bytes:
        """Every row that is whole by now, masked.

        Raises:
            TargetProtocolError: not what the plan and the format say, or a row over the limit.
        """
        return self._rows.feed(data)

    def finish(self) -> bytes:
        """At CopyDone. Raises TargetProtocolError when a row is cut off."""
        self._rows.finish()
        return b""


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise TargetProtocolError(f"a row of COPY is over the limit of {limit} bytes")


def _masked_cell(plan: ResultPlan, column: int, value: bytes) -> bytes | None:
    """`value` itself, or what stands instead; None is NULL."""
    action = plan.actions[column]
    if action == Action.PASS:
        return value
    if action == Action.SCAN:
        return plan.scan(column, value)
    plan.count_masked(column, 1)
    return plan.mask(column, value)


class _Lines:
    """Rows that end in a newline: gathering them, checking their column count, masking their cells."""

    __slots__ = ("_limit", "_options", "_pending", "_plan", "_seen", "_wants_header")

    def __init__(self, plan: ResultPlan, options: CopyFormat, limit: int) -> None:
        self._plan = plan
        self._options = options
        self._limit = limit
        self._pending = bytearray()  # an unfinished row
        self._seen = 0  # how much of it was looked through
        self._wants_header = options.header

    def feed(self, data: bytes) -> bytes:
        if not self._pending and self._passes_unread(data):
            return data
        self._pending += data
        out: list[bytes] = []
        start = 0
        while (end := self._row_end()) is not None:
            out.append(self._row(bytes(self._pending[start:end])))
            out.append(b"\n")
            start = end + 1
        _check_size(len(self._pending) - start, self._limit)
        del self._pending[:start]
        self._seen -= start
        return b"".join(out)

    def finish(self) -> None:
        if self._pending:
            raise TargetProtocolError("COPY ended in the middle of a row")

    def _passes_unread(self, data: bytes) -> bool:
        """Whole rows in which no column is masked and nothing can be found, even across escapes."""
        plan = self._plan
        return (
            not self._wants_header
            and not plan.has_masks
            and not plan.has_opaque
            and data.endswith(b"\n")
            and self._is_plain(data)
            and not plan.scanner.may_contain(data)
        )

    def _row(self, line: bytes) -> bytes:
        cells = self._cells(line)
        columns = self._plan.columns
        if columns == 0 and line == b"":
            return line
        if len(cells) != columns:
            raise TargetProtocolError(f"a row of COPY has {len(cells)} columns, described were {columns}")
        if self._wants_header:
            self._wants_header = False
            return self._header(line, cells)
        changed = False
        for column, raw in enumerate(cells):
            value = self._value(raw)
            if value is None:
                if not self._plan.hides_null[column]:
                    continue
                value = b""
            masked = _masked_cell(self._plan, column, value)
            if masked is not value:
                cells[column] = self._written(masked, raw)
                changed = True
        return self._options.delimiter.join(cells) if changed else line

    def _header(self, line: bytes, cells: list[bytes]) -> bytes:
        """Column names: the client's own aliases or the catalog's, but looked through all the same."""
        names = [(self._value(raw), raw) for raw in cells]
        masked = [None if name is None else self._plan.scanner.mask(name) for name, _ in names]
        if not any(masked):
            return line
        return self._options.delimiter.join(
            raw if name is None else self._written(name, raw) for name, (_, raw) in zip(masked, names, strict=True)
        )

    def _row_end(self) -> int | None:
        raise AssertionError("each format has its own")

    def _is_plain(self, data: bytes) -> bool:
        """No value in `data` has an escape in it, and the last newline ends a row."""
        raise AssertionError("each format has its own")

    def _cells(self, line: bytes) -> list[bytes]:
        raise AssertionError("each format has its own")

    def _value(self, raw: bytes) -> bytes | None:
        raise AssertionError("each format has its own")

    def _written(self, value: bytes | None, raw: bytes) -> bytes:
        raise AssertionError("each format has its own")


_TEXT_ESCAPE: Final = re.compile(rb"\\(?:x([0-9A-Fa-f]{1,2})|([0-7]{1,3})|(.))", re.DOTALL)
_TEXT_LETTERS: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_TEXT_WRITTEN: Final = {value: b"\\" + letter for letter, value in _TEXT_LETTERS.items()} | {b"\\": b"\\\\"}
_BACKSLASH: Final = 92


def _text_unescaped(match: re.Match[bytes]) -> bytes:
    hexadecimal, octal, other = match.groups()
    if hexadecimal is not None:
        return bytes((int(hexadecimal, 16),))
    if octal is not None:
        return bytes((int(octal, 8) & 0xFF,))
    return _TEXT_LETTERS.get(other, other)


class _TextRows(_Lines):
    """Text format: newlines and delimiters in values are escaped by a backslash, so each bare one is what it looks like."""

    __slots__ = ("_escaped", "_is_null_certain")

    def __init__(self, plan: ResultPlan, options: CopyFormat, limit: int) -> None:
        super().__init__(plan, options, limit)
        # A value that reads like any other null string is written like NULL. If such cells passed, a client could choose the null string to
        # guess masked values with.
        self._is_null_certain = options.null == b"\\N"
        self._escaped = re.compile(rb"[\x08\f\n\r\t\v\\" + re.escape(options.delimiter) + rb"]")

    def _row_end(self) -> int | None:
        end = self._pending.find(b"\n", self._seen)
        while end >= 0 and self._is_escaped(self._pending, end):
            end = self._pending.find(b"\n", end + 1)
        self._seen = len(self._pending) if end < 0 else end + 1
        return None if end < 0 else end

    @staticmethod
    def _is_escaped(text: bytes | bytearray, at: int) -> bool:
        """An odd number of backslashes stands before `at`."""
        first = at
        while first > 0 and text[first - 1] == _BACKSLASH:
            first -= 1
        return (at - first) % 2 == 1

    def _is_plain(self, data: bytes) -> bool:
        return b"\\" not in data

    def _cells(self, line: bytes) -> list[bytes]:
        delimiter = self._options.delimiter
        cells = line.split(delimiter)
        if b"\\" + delimiter not in line:
            return cells
        joined: list[bytes] = []
        pieces: list[bytes] = []
        for piece in cells:
            pieces.append(piece)
            if not self._is_escaped(piece, len(piece)):
                joined.append(delimiter.join(pieces))
                pieces = []
        if pieces:
            raise TargetProtocolError("a row of COPY ends in half an escape")
        return joined

    def _value(self, raw: bytes) -> bytes | None:
        if self._is_null_certain and raw == b"\\N":
            return None
        return _TEXT_ESCAPE.sub(_text_unescaped, raw) if b"\\" in raw else raw

    def _written(self, value: bytes | None, raw: bytes) -> bytes:
        if value is None:
            return self._options.null
        return self._escaped.sub(lambda match: _TEXT_WRITTEN.get(match.group(), b"\\" + match.group()), value)


class _CsvRows(_Lines):
    """Csv format: a quoted value may hold delimiters, newlines, and quotes behind an escape."""

    __slots__ = ("_is_quoted", "_marks", "_special")

    def __init__(self, plan: ResultPlan, options: CopyFormat, limit: int) -> None:
        super().__init__(plan, options, limit)
        self._is_quoted = False  # at `_seen`
        self._special = re.compile(
            b"[" + re.escape(options.delimiter) + re.escape(options.quote) + re.escape(options.escape) + b"\r\n]"
        )
        self._marks = re.compile(b"[" + re.escape(options.quote) + re.escape(options.escape) + b"\n]")

    def _row_end(self) -> int | None:
        """Walks from mark to mark; a quote inside quotes that doubles or is escaped switches twice, or is stepped over."""
        quote, escape = self._options.quote[0], self._options.escape[0]
        pending = self._pending
        while (match := self._marks.search(pending, self._seen)) is not None:
            at = match.start()
            mark = pending[at]
            if self._is_quoted and mark == escape and escape != quote:
                if at + 1 >= len(pending):
                    self._seen = at
                    return None
                # An escape counts only before a quote or another escape.
                self._seen = at + (2 if pending[at + 1] in (quote, escape) else 1)
            elif mark == quote:
                self._is_quoted = not self._is_quoted
                self._seen = at + 1
            else:
                self._seen = at + 1
                if mark == _NEWLINE and not self._is_quoted:
                    return at
        self._seen = len(pending)
        return None

    def _is_plain(self, data: bytes) -> bool:
        options = self._options
        if options.quote == options.escape == b'"':
            return b'""' not in data and data.count(b'"') % 2 == 0
        return options.quote not in data and options.escape not in data

    def _cells(self, line: bytes) -> list[bytes]:
        options = self._options
        if options.quote not in line:
            return line.split(options.delimiter)
        quote, escape, delimiter = options.quote[0], options.escape[0], options.delimiter[0]
        cells: list[bytes] = []
        start = at = 0
        is_quoted = False
        while (match := self._special.search(line, at)) is not None:
            at = match.start()
            mark = line[at]
            if is_quoted and mark == escape and escape != quote and at + 1 < len(line) and line[at + 1] in (quote, escape):
                at += 2
                continue
            if mark == quote:
                is_quoted = not is_quoted
            elif mark == delimiter and not is_quoted:
                cells.append(line[start:at])
                start = at + 1
            at += 1
        if is_quoted:
            raise TargetProtocolError("a row of COPY ends inside quotes")
        cells.append(line[start:])
        return cells

    def _value(self, raw: bytes) -> bytes | None:
        options = self._options
        if raw == options.null:
            return None  # unquoted: a value that reads like the null string is written in quotes
        if options.quote not in raw:
            return raw
        out = bytearray()
        at = 0
        is_quoted = False
        quote, escape = options.quote[0], options.escape[0]
        while at < len(raw):
            byte = raw[at]
            if is_quoted and byte == escape and at + 1 < len(raw) and raw[at + 1] in (quote, escape):
                out.append(raw[at + 1])
                at += 2
                continue
            if byte == quote:
                is_quoted = not is_quoted
            else:
                out.append(byte)
            at += 1
        return bytes(out)

    def _written(self, value: bytes | None, raw: bytes) -> bytes:
        options = self._options
        if value is None:
            return options.null
        was_quoted = raw.startswith(options.quote)
        if not was_quoted and value != options.null and self._special.search(value) is None:
            return value
        for mark in dict.fromkeys((options.escape, options.quote)):
            value = value.replace(mark, options.escape + mark)
        return options.quote + value + options.quote


class _BinaryRows:
    """Binary format: signature, flags, extension; then tuples as in DataRow; then the trailer."""

    __slots__ = ("_at", "_cells_left", "_has_ended", "_has_header", "_limit", "_pending", "_plan")

    def __init__(self, plan: ResultPlan, limit: int) -> None:
        self._plan = plan
        self._limit = limit
        self._pending = bytearray()
        self._has_header = False
        self._has_ended = False
        self._at = 0  # how far the unfinished tuple at the start of `_pending` was walked
        self._cells_left = -1  # of that tuple; -1: its count isn't read yet

    def feed(self, data: bytes) -> bytes:
        self._pending += data
        out: list[bytes] = []
        if not self._has_header and not self._take_header(out):
            return b""
        start = 0
        while (end := self._tuple_end(start)) is not None:
            out.append(self._tuple(bytes(self._pending[start:end])))
            start = self._at = end
        _check_size(len(self._pending) - start, self._limit)
        del self._pending[:start]
        self._at -= start
        return b"".join(out)

    def finish(self) -> None:
        if not self._has_ended or self._pending:
            raise TargetProtocolError("COPY in binary format ended without its trailer")

    def _take_header(self, out: list[bytes]) -> bool:
        pending = self._pending
        if not _BINARY_SIGNATURE.startswith(pending[: len(_BINARY_SIGNATURE)]):
            raise TargetProtocolError("COPY in binary format without its signature")
        if len(pending) < _BINARY_HEADER_BYTES:
            return False
        flags = int.from_bytes(pending[11:15], "big")
        extension = int.from_bytes(pending[15:19], "big")
        if flags:  # bit 16 would add a column of OIDs, which no supported version sends
            raise TargetProtocolError(f"COPY in binary format with unknown flags {flags:#x}")
        _check_size(extension, self._limit)
        if extension:
            raise TargetProtocolError("COPY in binary format with a header extension that isn't known")
        out.append(bytes(pending[:_BINARY_HEADER_BYTES]))
        del pending[:_BINARY_HEADER_BYTES]
        self._has_header = True
        return True

    def _tuple_end(self, start: int) -> int | None:
        """Goes on where it stopped, so that a long tuple in small pieces isn't walked again and again."""
        pending = self._pending
        size = len(pending)
        if self._cells_left < 0:
            if size < start + 2:
                return None
            if self._has_ended:
                raise TargetProtocolError("bytes after the trailer of COPY in binary format")
            count = int.from_bytes(pending[start : start + 2], "big")
            if count == 0xFFFF:
                self._has_ended = True
                return start + 2
            if count != self._plan.columns:
                raise TargetProtocolError(f"a row of COPY has {count} columns, described were {self._plan.columns}")
            self._cells_left = count
            self._at = start + 2
        while self._cells_left:
            if size < self._at + 4:
                return None
            length = int.from_bytes(pending[self._at : self._at + 4], "big")
            if length == 0xFFFFFFFF:
                length = 0
            elif length > _LARGEST:
                raise TargetProtocolError("a cell of COPY has a negative length")
            _check_size(self._at - start + length, self._limit)
            if size < self._at + 4 + length:
                return None
            self._at += 4 + length
            self._cells_left -= 1
        self._cells_left = -1
        return self._at

    def _tuple(self, row: bytes) -> bytes:
        plan = self._plan
        if row == b"\xff\xff" or not (plan.has_masks or plan.has_opaque or plan.scanner.may_contain(row)):
            return row
        pieces: list[bytes] = []
        kept, at = 0, 2
        for column in range(plan.columns):
            size = int.from_bytes(row[at : at + 4], "big", signed=True)
            end = at + 4 + max(size, 0)
            if size >= 0 or plan.hides_null[column]:
                value = row[at + 4 : end]
                masked = _masked_cell(plan, column, value)
                if masked is not value:
                    pieces.append(row[kept:at])
                    pieces.append(wire_cell(masked))
                    kept = end
            at = end
        pieces.append(row[kept:])
        return b"".join(pieces)
