"""How much of one statement's result is recorded: the first bytes up to a limit, then only their number, their rows and their hash.

Bytes are those that go to the client, in order, after masking. The cut falls between two messages of the wire where the chunk it falls
in begins with one (each message: a kind byte and a u32 length that counts itself), so that what is kept can be read as rows.

Pure: the caller appends the entries that come back.
"""

from __future__ import annotations

import hashlib
from typing import Final

from sidegate.record.entries import TruncationRecord
from sidegate.record.frame import RecordEntry, encode_result

_DATA_ROW: Final = ord("D")


class ResultCapture:
    """Takes the result of one statement and gives back what to record of it."""

    __slots__ = ("_bytes_left_out", "_hash", "_max_bytes", "_recorded", "_rows_left_out", "_statement")

    def __init__(self, statement: int, max_bytes: int) -> None:
        self._statement = statement
        self._max_bytes = max_bytes
        self._begin()

    def _begin(self) -> None:
        self._recorded = 0
        self._hash = None if self._max_bytes > 0 else hashlib.sha256()
        self._bytes_left_out = 0
        self._rows_left_out = 0

    @property
    def has_left_out(self) -> bool:
        """`finish` will have a marker."""
        return self._bytes_left_out > 0

    def add(self, chunk: bytes, rows: int = 0, starts_message: bool = True) -> RecordEntry | None:
        """Bytes on their way to the client, with the number of rows that end in them: what to append now.

        `starts_message` False: the chunk goes on with a message that an earlier chunk began.
        """
        if not chunk:
            return None
        if self._hash is None:
            room = self._max_bytes - self._recorded
            if len(chunk) <= room:
                self._recorded += len(chunk)
                return encode_result(self._statement, chunk)
            self._hash = hashlib.sha256()
            end, rows_kept = _whole_messages(chunk, room) if starts_message else (room, 0)
            self._leave_out(chunk[end:], rows - rows_kept)
            self._recorded += end
            return encode_result(self._statement, chunk[:end]) if end else None
        self._leave_out(chunk, rows)
        return None

    def finish(self) -> RecordEntry | None:
        """At the result's end: the marker, when anything was left out. The capture is empty again afterwards."""
        marker = None
        if self._hash is not None and self._bytes_left_out:
            marker = TruncationRecord(
                statement=self._statement, rows=self._rows_left_out, bytes=self._bytes_left_out, sha256=self._hash.hexdigest()
            ).entry()
        self._begin()
        return marker

    def _leave_out(self, chunk: bytes, rows: int) -> None:
        assert self._hash is not None
        self._hash.update(chunk)
        self._bytes_left_out += len(chunk)
        self._rows_left_out += rows


def _whole_messages(chunk: bytes, room: int) -> tuple[int, int]:
    """How many bytes of whole messages fit, and how many rows are in them."""
    position = rows = 0
    while position + 5 <= room:
        end = position + 1 + int.from_bytes(chunk[position + 1 : position + 5], "big")
        if end > room or end < position + 5:
            break
        rows += chunk[position] == _DATA_ROW
        position = end
    return position, rows
