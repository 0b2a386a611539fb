"""Reads recordings: streaming, strict, and never further than the first damage. What is behind it is only counted.

A recording is in one of four states: CLOSED (whole, with its end), LIVE (whole so far, and its session still holds the file's lock),
NOT_CLOSED (whole so far, but the session died or the end was cut off: the file alone can't tell which), DAMAGED.
"""

from __future__ import annotations

import enum
import fcntl
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from sidegate.audit.chain import LINK_BYTES, link
from sidegate.record.entries import ClosedRecord, OpenedRecord, decode_entry
from sidegate.record.frame import (
    HEAD_BYTES,
    HEADER,
    HEADER_LINK,
    KINDS,
    TRAILER_BYTES,
    Frame,
    RecordKind,
    check_head,
    check_header,
    decode_head,
    decode_result,
    decode_trailer,
)


class RecordingState(enum.StrEnum):
    CLOSED = "closed"
    LIVE = "live"
    NOT_CLOSED = "not closed"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class RecordingProblem:
    """Where reading stopped, and why. `is_torn`: the file ends inside a frame, as after a write that was cut short."""

    problem: str
    offset: int
    sequence: int
    is_torn: bool = False

    def __str__(self) -> str:
        return f"frame {self.sequence} at byte {self.offset}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What can be said of one recording. `frames`, `statements`, `intact_bytes` and `link` are of the part that is whole."""

    path: Path
    state: RecordingState
    frames: int
    statements: int
    intact_bytes: int
    size: int
    link: str
    problem: RecordingProblem | None = None

    @property
    def is_ok(self) -> bool:
        return self.problem is None and self.state in {RecordingState.CLOSED, RecordingState.LIVE}


@dataclass(frozen=True, slots=True)
class RecordingEnds:
    """The first and the last frame, read without what is between them, so nothing between them is checked."""

    opened: OpenedRecord
    opened_at: float
    closed: ClosedRecord | None
    closed_at: float
    size: int
    is_live: bool


def read_frames(stream: BinaryIO) -> Iterator[Frame | RecordingProblem]:
    """Every frame that is whole and rightly linked, in order, then at most one problem as the last item.

    A stream that ends where a frame ends, without SESSION_CLOSED, has no problem here: see `verify_recording`.
    """
    header = stream.read(len(HEADER))
    problem = check_header(header)
    if problem is not None:
        yield RecordingProblem(problem, 0, 0, is_torn=len(header) < len(HEADER) and HEADER.startswith(header))
        return
    previous, sequence, offset = HEADER_LINK, 0, len(HEADER)
    while head_bytes := stream.read(HEAD_BYTES):
        if len(head_bytes) < HEAD_BYTES:
            yield RecordingProblem(f"{len(head_bytes)} bytes are not a whole frame", offset, sequence, is_torn=True)
            return
        head = decode_head(head_bytes)
        problem = check_head(head, sequence)
        if problem is not None:
            yield RecordingProblem(problem, offset, sequence)
            return
        rest = stream.read(head.length + LINK_BYTES)
        if len(rest) < head.length + LINK_BYTES:
            found = HEAD_BYTES + len(rest)
            wanted = HEAD_BYTES + head.length + LINK_BYTES
            yield RecordingProblem(f"{found} bytes are not a whole frame of {wanted}", offset, sequence, is_torn=True)
            return
        payload, found_link = rest[: head.length], rest[head.length :]
        if link(previous, head_bytes + payload) != found_link:
            yield RecordingProblem("its content isn't what its link was made from", offset, sequence)
            return
        frame = Frame(KINDS[head.kind], head.sequence, head.time_us, payload, found_link, offset)
        problem = _check_payload(frame, previous)
        if problem is not None:
            yield RecordingProblem(problem, offset, sequence)
            return
        yield frame
        previous = found_link
        sequence += 1
        offset += frame.size
        if frame.kind == RecordKind.SESSION_CLOSED:
            trailer = stream.read(TRAILER_BYTES + 1)
            if decode_trailer(trailer) != frame.size:
                torn = len(trailer) < TRAILER_BYTES
                yield RecordingProblem("what follows the last frame isn't its trailer", offset, sequence, is_torn=torn)
            return


def read_recording(path: Path) -> Iterator[Frame | RecordingProblem]:
    """As `read_frames`, of a file. What a session that goes on is writing right now is no problem; a file without any frame is one.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as stream:
        is_live = _is_locked(stream)
        is_empty = True
        for item in read_frames(stream):
            if isinstance(item, RecordingProblem) and item.is_torn and is_live:
                return
            is_empty = False
            yield item
        if is_empty and not is_live:
            yield RecordingProblem("there is none", len(HEADER), 0, is_torn=True)


def _check_payload(frame: Frame, previous: bytes) -> str | None:
    try:
        if frame.kind == RecordKind.RESULT_BYTES:
            decode_result(frame.payload)
            return None
        record = decode_entry(frame.kind, frame.payload)
    except (msgspec.DecodeError, ValueError) as error:
        return f"its payload can't be read: {error}"
    if isinstance(record, ClosedRecord) and (record.frames, record.bytes, record.link) != (
        frame.sequence,
        frame.offset,
        previous.hex(),
    ):
        return "its totals aren't those of the frames before it"
    return None


def verify_recording(path: Path) -> Verification:
    """Read the whole file and tell what is intact.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as stream:
        is_live = _is_locked(stream)  # before reading: a session that ends meanwhile is then seen as closed, never as dead
        frames = statements = 0
        intact = 0
        last_link = HEADER_LINK
        problem: RecordingProblem | None = None
        is_closed = False
        for item in read_frames(stream):
            if isinstance(item, RecordingProblem):
                problem = item
                break
            frames += 1
            statements += item.kind == RecordKind.CLIENT_STATEMENT
            intact = item.offset + item.size
            last_link = item.link
            if item.kind == RecordKind.SESSION_CLOSED:
                is_closed = True
        size = os.fstat(stream.fileno()).st_size
    if problem is None and not is_closed and frames == 0 and not is_live:
        problem = RecordingProblem("there is none", len(HEADER), 0, is_torn=True)
    if is_live and problem is not None and problem.is_torn:
        problem = None  # the frame is being written right now
    if problem is not None:
        state = RecordingState.DAMAGED
    elif is_closed:
        state = RecordingState.CLOSED
        intact += TRAILER_BYTES
    else:
        state = RecordingState.LIVE if is_live else RecordingState.NOT_CLOSED
    return Verification(path, state, frames, statements, intact, size, last_link.hex(), problem)


def read_ends(path: Path) -> RecordingEnds | RecordingProblem:
    """The first and the last frame, in time that doesn't depend on the recording's length. Checks only those two.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as stream:
        is_live = _is_locked(stream)
        first = next(read_frames(stream), None)
        if not isinstance(first, Frame):
            return first or RecordingProblem("there is none", len(HEADER), 0, is_torn=True)
        opened = decode_entry(first.kind, first.payload)
        assert isinstance(opened, OpenedRecord)
        size = stream.seek(0, os.SEEK_END)
        closed, closed_at = _read_closed(stream, size)
        return RecordingEnds(opened, first.time, closed, closed_at, size, is_live)


def _read_closed(stream: BinaryIO, size: int) -> tuple[ClosedRecord | None, float]:
    stream.seek(max(0, size - TRAILER_BYTES))
    length = decode_trailer(stream.read(TRAILER_BYTES))
    start = size - TRAILER_BYTES - (length or 0)
    if length is None or length < HEAD_BYTES + LINK_BYTES or start < len(HEADER):
        return None, 0.0
    stream.seek(start)
    data = stream.read(length)
    head = decode_head(data[:HEAD_BYTES])
    if head.kind != RecordKind.SESSION_CLOSED or head.length != length - HEAD_BYTES - LINK_BYTES:
        return None, 0.0
    try:
        closed = decode_entry(RecordKind.SESSION_CLOSED, data[HEAD_BYTES:-LINK_BYTES])
        if isinstance(closed, ClosedRecord) and link(bytes.fromhex(closed.link), data[:-LINK_BYTES]) == data[-LINK_BYTES:]:
            return closed, head.time_us / 1_000_000
    except (msgspec.DecodeError, ValueError):
        pass
    return None, 0.0


def _is_locked(stream: BinaryIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(stream, fcntl.LOCK_UN)
    return False


def find_recordings(directory: Path) -> Iterable[Path]:
    """Every recording below a directory, oldest first by name. Symbolic links aren't followed."""
    found: list[Path] = []
    for parent, _, names in os.walk(directory, followlinks=False):
        found.extend(Path(parent) / name for name in names if name.endswith(".sgrec"))
    return sorted(found, key=lambda path: (path.name, str(path)))
