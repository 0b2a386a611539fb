"""The layout of a recording: a header, then frames, each linked to all before it. docs/recording-format.md says it for other programs.

    file    := header frame* [trailer]
    header  := magic (8) version (u16) reserved (u16)
    frame   := kind (u8) flags (u8) length (u32) sequence (u64) time (u64, microseconds since the epoch) payload (length) link (32)
    trailer := length of the frame before it (u32) end magic (4)

All numbers are big-endian. `link = SHA-256(previous link || u64 length of head and payload || head || payload)`; the link before the
first frame is the link of the header behind 32 zero bytes (`audit.chain`). The first frame is SESSION_OPENED, the last SESSION_CLOSED, and
the trailer stands behind that one only: so a file's end says whether anything is missing, and its last frame can be found from there.

Rules: decoding is strict: an unknown kind, a flag that isn't 0, a wrong sequence or link, or bytes behind the trailer are damage. Nothing
behind damage is trusted. Payloads are JSON (`entries`), except those of RESULT_BYTES: u64 statement number, then wire bytes.

Left out: compression (flags are kept for it), signatures. Pure: bytes in, bytes out.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from sidegate.audit.chain import GENESIS, LENGTH_BYTES, LINK_BYTES, link

MAGIC: Final = b"\x89SGREC\r\n"  # as PNG's: the first byte isn't text, and a transfer that mends line ends breaks it
VERSION: Final = 1
_HEADER: Final = struct.Struct(">8sHH")
HEADER: Final = _HEADER.pack(MAGIC, VERSION, 0)
HEADER_LINK: Final = link(GENESIS, HEADER)

_HEAD: Final = struct.Struct(">BBIQQ")
_LINKED_HEAD: Final = struct.Struct(">QBBIQQ")  # behind the length that the link covers as well
HEAD_BYTES: Final = _HEAD.size
MAX_PAYLOAD_BYTES: Final = 128 * 1024**2  # a 64 MiB statement, the most a gate takes, and the JSON escapes of ordinary text

_TRAILER: Final = struct.Struct(">I4s")
END_MAGIC: Final = b"SGE\n"
TRAILER_BYTES: Final = _TRAILER.size

_RESULT_HEAD: Final = struct.Struct(">Q")
RESULT_HEAD_BYTES: Final = _RESULT_HEAD.size


class RecordKind(enum.IntEnum):
    """What a frame tells of. Numbers are never given a second meaning."""

    SESSION_OPENED = 1
    CLIENT_STATEMENT = 2
    DECISION = 3
    HOLD = 4
    APPROVAL_DECIDED = 5
    RESULT_BYTES = 6
    RESULT_TRUNCATED = 7
    OUTCOME = 8
    NOTICE = 9
    CONFIG = 10
    SESSION_CLOSED = 11


KINDS: Final = {int(kind): kind for kind in RecordKind}


class RecordEntry:
    """One thing to be recorded, encoded. A pure core makes it, the shell appends it."""

    __slots__ = ("kind", "payload")

    def __init__(self, kind: RecordKind, payload: bytes) -> None:
        self.kind = kind
        self.payload = payload

    def __repr__(self) -> str:
        return f"RecordEntry({self.kind!r}, {self.payload!r})"


class Frame(NamedTuple):
    """One frame as read and checked; `offset` is where it begins in the file."""

    kind: RecordKind
    sequence: int
    time_us: int
    payload: bytes
    link: bytes
    offset: int

    @property
    def time(self) -> float:
        return self.time_us / 1_000_000

    @property
    def size(self) -> int:
        return HEAD_BYTES + len(self.payload) + LINK_BYTES


class FrameHead(NamedTuple):
    kind: int
    flags: int
    length: int
    sequence: int
    time_us: int


def encode_frames(entries: Iterable[RecordEntry], sequence: int, time_us: int, previous: bytes) -> tuple[bytes, bytes]:
    """The entries as consecutive frames from `sequence` on, behind the link `previous`: their bytes, and the last link.

    Raises:
        ValueError: a payload is over `MAX_PAYLOAD_BYTES`.
    """
    parts: list[bytes] = []
    for entry in entries:
        payload = entry.payload
        size = len(payload)
        if size > MAX_PAYLOAD_BYTES:
            raise ValueError(f"a payload of {size} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
        head = _LINKED_HEAD.pack(HEAD_BYTES + size, entry.kind, 0, size, sequence, time_us)
        previous = hashlib.sha256(b"%b%b%b" % (previous, head, payload)).digest()  # `link` of head and payload, joined once
        parts.append(head[LENGTH_BYTES:])
        parts.append(payload)
        parts.append(previous)
        sequence += 1
    return b"".join(parts), previous


def encode_trailer(closed_frame_bytes: int) -> bytes:
    """What stands behind the SESSION_CLOSED frame: how long that frame is, so that it is found from the end of the file."""
    return _TRAILER.pack(closed_frame_bytes, END_MAGIC)


def decode_trailer(data: bytes) -> int | None:
    """The length of the frame in front of the trailer; None when these bytes aren't a trailer."""
    if len(data) != TRAILER_BYTES:
        return None
    length, magic = _TRAILER.unpack(data)
    return int(length) if magic == END_MAGIC else None


def check_header(data: bytes) -> str | None:
    """What is wrong with a file's first bytes; None when they are a header of this version."""
    if len(data) < len(HEADER):
        return "it ends before its header does"
    magic, version, reserved = _HEADER.unpack(data[: len(HEADER)])
    if magic != MAGIC:
        return "it isn't a recording: its first bytes are others"
    if version != VERSION:
        return f"its format is version {version}, this program reads {VERSION}"
    if reserved != 0:
        return "reserved bits of its header are set"
    return None


def decode_head(data: bytes) -> FrameHead:
    """The head of a frame, from exactly `HEAD_BYTES` bytes; nothing in it is checked yet."""
    return FrameHead._make(_HEAD.unpack(data))


def check_head(head: FrameHead, sequence: int) -> str | None:
    """What is wrong with a head that should be the frame `sequence`; None when nothing is."""
    if head.kind not in KINDS:
        return f"kind {head.kind} is unknown"
    if head.flags != 0:
        return f"flags {head.flags:#x} are unknown"
    if head.length > MAX_PAYLOAD_BYTES:
        return f"a length of {head.length} bytes is over the limit"
    if head.sequence != sequence:
        return f"sequence {head.sequence} stands where {sequence} belongs"
    if (head.kind == RecordKind.SESSION_OPENED) != (sequence == 0):
        return "a recording begins with SESSION_OPENED, and has it only there"
    return None


def encode_result(statement: int, data: bytes) -> RecordEntry:
    """Wire bytes exactly as the client got them (so already masked), as the result of a statement."""
    return RecordEntry(RecordKind.RESULT_BYTES, _RESULT_HEAD.pack(statement) + data)


def decode_result(payload: bytes) -> tuple[int, bytes]:
    """The statement's number and the wire bytes.

    Raises:
        ValueError: shorter than its own head.
    """
    if len(payload) < RESULT_HEAD_BYTES:
        raise ValueError("a result without its statement's number")
    return int(_RESULT_HEAD.unpack_from(payload)[0]), payload[RESULT_HEAD_BYTES:]
