"""The frame walk: finds message boundaries in a buffer without decoding. Plain typed Python that mypyc compiles (`make compile`).

A message is one type byte and an int32 length that counts itself but not the type byte (PostgreSQL documentation, "Message Formats").
Nothing here judges a message; callers name the types at which a run has to stop.
"""

from __future__ import annotations

from typing import Final

HEADER_BYTES: Final = 5


def frame_length(buffer: bytes, at: int) -> int:
    """Whole length in bytes of the frame whose header starts at `at`, its type byte included. The header must be there.

    A length under 4 can't be (the field counts itself): it comes back as is and is under HEADER_BYTES, which the caller refuses.
    """
    return 1 + ((buffer[at + 1] << 24) | (buffer[at + 2] << 16) | (buffer[at + 3] << 8) | buffer[at + 4])


def skip_run(buffer: bytes, start: int, end: int, kind: int) -> int:
    """Where a run of whole frames of type `kind` that begins at `start` ends: at another type, a cut frame, or a bad length."""
    at = start
    while at + 5 <= end:
        if buffer[at] != kind:
            break
        length = (buffer[at + 1] << 24) | (buffer[at + 2] << 16) | (buffer[at + 3] << 8) | buffer[at + 4]
        if length < 4 or length > 0x3FFFFFFF or at + 1 + length > end:
            break
        at += 1 + length
    return at


def count_run(buffer: bytes, start: int, end: int) -> int:
    """How many whole frames stand between `start` and `end`, which are frame boundaries."""
    at = start
    frames = 0
    while at + 5 <= end:
        length = (buffer[at + 1] << 24) | (buffer[at + 2] << 16) | (buffer[at + 3] << 8) | buffer[at + 4]
        if length < 4:
            break
        at += 1 + length
        frames += 1
    return frames


def skip_frames(buffer: bytes, start: int, end: int, count: int) -> int:
    """Where the first `count` of the whole frames between `start` and `end` stop."""
    at = start
    while count > 0 and at + 5 <= end:
        at += 1 + ((buffer[at + 1] << 24) | (buffer[at + 2] << 16) | (buffer[at + 3] << 8) | buffer[at + 4])
        count -= 1
    return at
