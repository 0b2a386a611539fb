"""Readings of a value: the same bytes as a person or a parser would read them, with a map back to where each byte stands.

Two steps, each only when its trigger is there. *Unescaping* undoes backslash escapes (JSON, arrays, composites, bytea as hexadecimal or
octal), however deep they are nested: a run of backslashes counts as one. *Folding* maps digits, letters, spaces and dashes of any script or
width that stand for ASCII characters to them (Unicode NFKC and digit values), and drops characters that can't be seen.
A detector looks at the raw value and at each reading; what it finds is mapped back, widened to whole escapes.

Left out: encodings that hide the value from people too (base64, percent-encoding, hexadecimal without `\\x`).
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from functools import lru_cache
from typing import Final

from sidegate.mask.patterns import Span, compile_pattern

# Zero-width characters, joiners, direction marks, fillers, variation selectors, tags, the soft hyphen: they show nothing.
UNSEEN: Final = (
    r"\x{AD}\x{34F}\x{61C}\x{115F}\x{1160}\x{17B4}\x{17B5}\x{180B}-\x{180F}\x{200B}-\x{200F}\x{202A}-\x{202E}\x{2060}-\x{206F}"
    r"\x{3164}\x{FE00}-\x{FE0F}\x{FEFF}\x{FFA0}\x{E0000}-\x{E007F}\x{E0100}-\x{E01EF}"
)
SPACES: Final = r"\x{A0}\x{1680}\x{2000}-\x{200A}\x{202F}\x{205F}\x{3000}"
DASHES: Final = (
    r"\x{58A}\x{5BE}\x{1806}\x{2010}-\x{2015}\x{2043}\x{207B}\x{208B}\x{2212}\x{2E17}\x{2E3A}\x{2E3B}\x{301C}\x{3030}\x{30A0}"
    r"\x{FE58}\x{FE63}\x{FF0D}"
)
# Everything else whose folded form is ASCII: tests/unit/mask/test_reading.py compares this with all of Unicode.
TWINS: Final = (
    r"\x{AA}\x{B2}\x{B3}\x{B9}\x{BA}\x{132}\x{133}\x{17F}\x{1C7}-\x{1CC}\x{1F1}-\x{1F3}\x{2B0}-\x{2B8}\x{2E1}-\x{2E3}\x{1369}-\x{1371}"
    r"\x{19DA}\x{1D2C}-\x{1D6A}\x{1D9C}-\x{1DBB}\x{2024}\x{2070}-\x{209C}\x{20A8}\x{2100}-\x{214F}\x{2160}-\x{217F}\x{2460}-\x{24FF}"
    r"\x{2776}-\x{2792}\x{2C7C}\x{2C7D}\x{3250}-\x{325F}\x{32B1}-\x{32BF}\x{32CC}-\x{32CF}\x{3371}-\x{33FF}\x{A7F2}-\x{A7F4}"
    r"\x{FB00}-\x{FB06}\x{FB29}\x{FE10}-\x{FE19}\x{FE30}-\x{FE6B}\x{FF01}-\x{FF5E}\x{107A5}\x{10A40}-\x{10A43}\x{10E60}-\x{10E68}"
    r"\x{11052}-\x{1105A}\x{1D400}-\x{1D7FF}\x{1F100}-\x{1F190}"
)
_OTHER_DIGITS: Final = r"[^\P{Nd}0-9]"

ESCAPE_TRIGGER: Final = rb"\\(?:[ux][0-9A-Fa-f]{2}|U[0-9A-Fa-f]{8}|[0-3][0-7]{2}|/)"
# Spaces and dashes are frequent in prose and matter only beside what they could hold apart.
FOLD_TRIGGER: Final = (
    f"[{UNSEEN}{TWINS}]|{_OTHER_DIGITS}"
    f"|[0-9][ ._/-]{{0,2}}[{SPACES}{DASHES}]|[{SPACES}{DASHES}][0-9]{{3}}|[0-9A-Za-z][{SPACES}{DASHES}][0-9A-Za-z]"
).encode()

_folded: Final = compile_pattern(f"(?:[{UNSEEN}{TWINS}{SPACES}{DASHES}]|{_OTHER_DIGITS})+".encode())
_unseen: Final = compile_pattern(f"[{UNSEEN}]".encode())
_space: Final = compile_pattern(f"[{SPACES}]".encode())
_dash: Final = compile_pattern(f"[{DASHES}]".encode())
_escape: Final = compile_pattern(
    rb"\\+(?:(u[Dd][89ABab][0-9A-Fa-f]{2}\\+u[Dd][C-Fc-f][0-9A-Fa-f]{2})|(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})"
    rb"|x((?:[0-9A-Fa-f]{2})+)|([0-3][0-7]{2})|([bfnrtv/]))"
)
_SIMPLE: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v", b"/": b"/"}


class Reading:
    """`data` is what detectors look at. Tokens are the places where it differs from what it was read from."""

    __slots__ = ("_from_end", "_from_start", "_to_end", "_to_start", "data")

    def __init__(self, source: bytes, tokens: list[tuple[int, int, bytes]]) -> None:
        """`tokens`: start and end in `source`, and what is read instead, from left to right."""
        self._from_start: list[int] = []
        self._from_end: list[int] = []
        self._to_start: list[int] = []
        self._to_end: list[int] = []
        pieces: list[bytes] = []
        at = length = 0
        for start, end, text in tokens:
            length += start - at
            pieces.append(source[at:start])
            pieces.append(text)
            self._from_start.append(start)
            self._from_end.append(end)
            self._to_start.append(length)
            length += len(text)
            self._to_end.append(length)
            at = end
        pieces.append(source[at:])
        self.data = b"".join(pieces)

    def _source_of(self, place: int) -> Span:
        """The bytes of the source that the byte at `place` was read from."""
        index = bisect_right(self._to_start, place) - 1
        if index < 0:
            return place, place + 1
        if place < self._to_end[index]:
            return self._from_start[index], self._from_end[index]
        start = self._from_end[index] + place - self._to_end[index]
        return start, start + 1

    def source_span(self, span: Span) -> Span:
        """Where a non-empty span of the reading stands in the source."""
        return self._source_of(span[0])[0], self._source_of(span[1] - 1)[1]

    def widened(self, span: Span) -> Span:
        """A span of the source with the tokens that it cuts taken in whole: half an escape would be another escape."""
        start, end = span
        index = bisect_right(self._from_start, start) - 1
        if index >= 0 and self._from_start[index] < start < self._from_end[index]:
            start = self._from_start[index]
        index = bisect_right(self._from_start, end - 1) - 1
        if index >= 0 and end < self._from_end[index]:
            end = self._from_end[index]
        return start, end


@lru_cache(maxsize=8192)
def folded(character: str) -> str:
    """What `character` stands for in ASCII; empty when it can't be seen; itself when there is no twin."""
    raw = character.encode()
    if _unseen.search(raw):
        return ""
    if _space.search(raw):
        return " "
    if _dash.search(raw):
        return "-"
    digit = unicodedata.digit(character, None)
    if digit is not None:
        return str(digit)
    twin = unicodedata.normalize("NFKC", character)
    return twin if twin.isascii() else character


def fold(data: bytes) -> Reading:
    tokens: list[tuple[int, int, bytes]] = []
    for match in _folded.finditer(data):
        start, _ = match.span()
        for character in match.group().decode():
            end = start + len(character.encode())
            tokens.append((start, end, folded(character).encode()))
            start = end
    return Reading(data, tokens)


def _unescaped(groups: tuple[bytes | None, ...]) -> bytes:
    pair, code, hexadecimal, octal, simple = groups
    if pair is not None:
        high, low = int(pair[1:5], 16), int(pair[-4:], 16)
        return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)).encode()
    if code is not None:
        point = int(code[1:], 16)
        return chr(point).encode() if point < 0x110000 and not 0xD800 <= point < 0xE000 else b"?"
    if hexadecimal is not None:
        return bytes.fromhex(hexadecimal.decode("ascii"))
    if octal is not None:
        return bytes((int(octal, 8),))
    return _SIMPLE[simple or b"/"]


def unescape(data: bytes) -> Reading:
    return Reading(data, [(*match.span(), _unescaped(match.groups())) for match in _escape.finditer(data)])
