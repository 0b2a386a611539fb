"""A hash chain: every link is made from the one before and the bytes it covers, so that nothing in between can change unseen.

`link = SHA-256(previous link || length of the bytes, 8 bytes big-endian || the bytes)`. The length stands in front so that bytes can't
move from one piece to the next with the same link. Recordings and audit lines use the same chain.

What it proves and what not: a changed, removed, inserted or swapped piece breaks the chain from there on. Whoever can rewrite the whole
chain can also compute it anew: keep its last link somewhere else (the audit event `SessionClosed` carries that of its recording).
A chain says nothing about pieces cut off its end; whoever uses it needs a last piece that says so.

Pure: bytes in, bytes out.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

LINK_BYTES: Final = 32
GENESIS: Final = bytes(LINK_BYTES)  # the link before the first piece, where nothing else gives one

_LENGTH: Final = struct.Struct(">Q")
LENGTH_BYTES: Final = _LENGTH.size


def link(previous: bytes, data: bytes) -> bytes:
    """The link that covers `data` behind `previous`."""
    return hashlib.sha256(b"".join((previous, _LENGTH.pack(len(data)), data))).digest()


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """The first piece, counted from 0, whose link isn't the one its bytes and all before it give."""

    index: int
    expected: bytes
    found: bytes


def verify(pieces: Iterable[tuple[bytes, bytes]], start: bytes = GENESIS) -> ChainBreak | bytes:
    """Check pieces of (data, link) in order: the first break, or the last link when there is none."""
    previous = start
    for index, (data, found) in enumerate(pieces):
        expected = link(previous, data)
        if expected != found:
            return ChainBreak(index, expected, found)
        previous = found
    return previous
