"""Readings of a value: the same bytes as a person or a parser would read them, with a map back to where each byte stands.

Three steps, each only when its trigger is there. *Unescaping* undoes backslash escapes (JSON, arrays, composites, bytea as hexadecimal or
octal, C, Python, JavaScript), percent-encoding and character references (XML, HTML), however deep they are nested. *Folding* maps digits,
letters, spaces, dashes, dots and slashes of any script or width that stand for ASCII characters to them (Unicode NFKC and digit values),
and drops what can't be seen and marks that only decorate (an underline, a keycap). *Narrowing* reads UTF-16 in bytes as ASCII.
A detector looks at the raw value and at each reading; what it finds is mapped back, widened to whole escapes.

Left out: encodings that hide the value from people too (base64, quoted-printable, hexadecimal without `\\x`), letters that look alike.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from functools import lru_cache
from typing import Final

from sidegate.mask.patterns import Span, compile_pattern, spans_of

# Zero-width characters, joiners, direction marks, fillers, variation selectors, tags, the soft hyphen: they show nothing.
UNSEEN: Final = (
    r"\x{AD}\x{34F}\x{61C}\x{115F}\x{1160}\x{17B4}\x{17B5}\x{180B}-\x{180F}\x{200B}-\x{200F}\x{202A}-\x{202E}\x{2060}-\x{206F}"
    r"\x{3164}\x{FE00}-\x{FE0F}\x{FEFF}\x{FFA0}\x{E0000}-\x{E007F}\x{E0100}-\x{E01EF}"
)
SPACES: Final = r"\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{2800}\x{3000}"
DASHES: Final = (
    r"\x{58A}\x{5BE}\x{1806}\x{2010}-\x{2015}\x{2043}\x{207B}\x{208B}\x{2212}\x{2E17}\x{2E3A}\x{2E3B}\x{301C}\x{3030}\x{30A0}"
    r"\x{FE58}\x{FE63}\x{FF0D}"
)
# Points in the middle, bullets, ideographic stops.
DOTS: Final = r"\x{B7}\x{2022}\x{2027}\x{2219}\x{22C5}\x{2E31}\x{2E33}\x{3002}\x{30FB}\x{FF61}\x{FF65}"
SLASHES: Final = r"\x{2044}\x{2215}\x{29F8}"
# Everything else whose folded form is ASCII: tests/unit/mask/test_reading.py compares this with all of Unicode.
TWINS: Final = (
    r"\x{AA}\x{B2}\x{B3}\x{B9}\x{BA}\x{132}\x{133}\x{17F}\x{1C7}-\x{1CC}\x{1F1}-\x{1F3}\x{2B0}-\x{2B8}\x{2E1}-\x{2E3}\x{1369}-\x{1371}"
    r"\x{19DA}\x{1D2C}-\x{1D6A}\x{1D9C}-\x{1DBB}\x{2024}\x{2070}-\x{209C}\x{20A8}\x{2100}-\x{214F}\x{2160}-\x{217F}\x{2460}-\x{24FF}"
    r"\x{2776}-\x{2792}\x{2C7C}\x{2C7D}\x{3250}-\x{325F}\x{32B1}-\x{32BF}\x{32CC}-\x{32CF}\x{3371}-\x{33FF}\x{A7F2}-\x{A7F4}"
    r"\x{FB00}-\x{FB06}\x{FB29}\x{FE10}-\x{FE19}\x{FE30}-\x{FE6B}\x{FF01}-\x{FF5E}\x{107A5}\x{10A40}-\x{10A43}\x{10E60}-\x{10E68}"
    r"\x{11052}-\x{1105A}\x{1D400}-\x{1D7FF}\x{1F100}-\x{1F190}"
)
_OTHER_DIGITS: Final = r"[^\P{Nd}0-9]"
# Digits that Unicode calls something else, or that are younger than the interpreter's tables: first character, its value, how many.
_DECADES: Final = (
    (0x10107, 1, 9), (0x102E1, 1, 9), (0x10D40, 0, 10), (0x111E1, 1, 9), (0x116D0, 0, 10), (0x116DA, 0, 10), (0x11BF0, 0, 10),
    (0x11DE0, 0, 10), (0x11F50, 0, 10), (0x16E80, 0, 10), (0x1CCF0, 0, 10), (0x1D2E0, 0, 10), (0x1D360, 1, 9), (0x1E4F0, 0, 10),
    (0x1E5F1, 0, 10), (0x1E8C7, 1, 9), (0x3220, 1, 9), (0x3280, 1, 9),
)  # fmt: skip
_HAN_DIGITS: Final = "\u3007\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d"
_ZERO: Final = "\u96f6"  # as it is written beside them
_NUMERALS: Final = {
    **{chr(first + place): str(value + place) for first, value, count in _DECADES for place in range(count)},
    **{digit: str(value) for value, digit in enumerate(_HAN_DIGITS)},
    _ZERO: "0",
}
_OWN_DIGITS: Final = "".join(rf"\x{{{first:X}}}-\x{{{first + count - 1:X}}}" for first, _, count in _DECADES)
_HAN: Final = "".join(rf"\x{{{ord(digit):X}}}" for digit in _HAN_DIGITS + _ZERO)

ESCAPE_TRIGGER: Final = (
    rb"\\(?:[ux][0-9A-Fa-f]{2}|u\{|U[0-9A-Fa-f]{8}|[0-3][0-7]{2}|/)"
    rb"|[0-9][ ._/-]{0,3}\\+[nrt]|%[0-9A-Fa-f]{2}|&(?:amp;|#[0-9xX]|[A-Za-z]{2,9};)"
)
_PUNCTUATION: Final = f"{SPACES}{DASHES}{DOTS}{SLASHES}"
# Spaces, dashes and points are frequent in prose and matter only beside what they could hold apart; marks only on what they could hide.
FOLD_TRIGGER: Final = (
    f"[{UNSEEN}{TWINS}{_OWN_DIGITS}]|{_OTHER_DIGITS}|[{_HAN}]{{2}}"
    f"|[0-9][ ._/-]{{0,2}}[{_PUNCTUATION}]|[{_PUNCTUATION}][0-9]{{3}}|[0-9A-Za-z][{_PUNCTUATION}][0-9A-Za-z]|-[{DASHES}]|[{DASHES}][ -]?B"
    rf"|[0-9A-Za-z@.-]\pM"
).encode()
# ASCII in UTF-16: as long as the shortest value that a detector finds.
WIDE_TRIGGER: Final = rb"(?:[\t-\r -~]\x00){8}"

_folded: Final = compile_pattern(f"(?:[{UNSEEN}{TWINS}{_OWN_DIGITS}{_HAN}{_PUNCTUATION}]|{_OTHER_DIGITS}|\\pM)+".encode())
_plain: Final = tuple(
    (compile_pattern(f"[{characters}]".encode()), twin)
    for characters, twin in ((UNSEEN, ""), (SPACES, " "), (DASHES, "-"), (DOTS, "."), (SLASHES, "/"))
)
_REFERENCE: Final = rb"&(?:amp;)*(?:#([0-9]{1,7});?|#[xX]([0-9A-Fa-f]{1,6});?|([A-Za-z]{2,9});)"
_BYTES: Final = rb"|x((?:[0-9A-Fa-f]{2})+)"
_OCTAL: Final = rb"|([0-3][0-7]{2})|([bfnrtv/]))"
_MARKUP: Final = rb"|%(?:25)*([0-9A-Fa-f]{2})|" + _REFERENCE
_CODES: Final = (
    rb"\\+(?:(u[Dd][89ABab][0-9A-Fa-f]{2}\\+u[Dd][C-Fc-f][0-9A-Fa-f]{2})|(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|u\{[0-9A-Fa-f]{1,6}\})"
)
_escape: Final = compile_pattern(_CODES + _BYTES + _OCTAL + _MARKUP)
# Where `\xa0` is one byte, or the character of that number, and whatever follows is itself.
_short_escape: Final = compile_pattern(_CODES + rb"|(x[0-9A-Fa-f]{2}(?:\\+x[0-9A-Fa-f]{2})*)" + _OCTAL + _MARKUP)
_backslashes: Final = compile_pattern(_CODES + _BYTES + _OCTAL)
_nul: Final = compile_pattern(rb"\x00+")
_SIMPLE: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v", b"/": b"/"}
_ENTITIES: Final = {
    b"amp": "&", b"commat": "@", b"period": ".", b"nbsp": "\xa0", b"ensp": "\u2002", b"emsp": "\u2003", b"thinsp": "\u2009",
    b"hyphen": "\u2010", b"dash": "\u2010", b"ndash": "\u2013", b"mdash": "\u2014", b"minus": "\u2212", b"shy": "\xad",
    b"zwnj": "\u200c", b"zwj": "\u200d", b"lrm": "\u200e", b"rlm": "\u200f", b"sol": "/", b"lowbar": "_", b"plus": "+",
    b"middot": "\xb7", b"bull": "\u2022", b"num": "#", b"colon": ":", b"quot": '"', b"apos": "'", b"lt": "<", b"gt": ">",
}  # fmt: skip


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


@lru_cache(maxsize=8192)
def folded(character: str) -> str:
    """What `character` stands for in ASCII; empty when it can't be seen or is a mark; itself when there is no twin."""
    raw = character.encode()
    for characters, twin in _plain:
        if characters.search(raw):
            return twin
    if character in _NUMERALS:
        return _NUMERALS[character]
    digit = unicodedata.digit(character, None)
    if digit is not None:
        return str(digit)
    if unicodedata.category(character).startswith("M"):
        return ""
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


def narrow(data: bytes) -> Reading:
    """Without NUL bytes: UTF-16 of either order as ASCII."""
    return Reading(data, [(*match.span(), b"") for match in _nul.finditer(data)])


def _character(point: int) -> bytes:
    return chr(point).encode() if point < 0x110000 and not 0xD800 <= point < 0xE000 else b"?"


def _unescaped(groups: tuple[bytes | None, ...], source: bytes) -> bytes:
    pair, code, hexadecimal, octal, simple, percent, decimal, number, entity = groups
    if pair is not None:
        high, low = int(pair[1:5], 16), int(pair[-4:], 16)
        return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)).encode()
    if code is not None:
        return _character(int(code[1:].strip(b"{}"), 16))
    if hexadecimal is not None:
        return _bytes_of(hexadecimal)
    if octal is not None:
        return bytes((int(octal, 8),))
    if percent is not None:
        return bytes((int(percent, 16),))
    if decimal is not None or number is not None:
        return _character(int(decimal) if decimal is not None else int(number or b"0", 16))
    if entity is not None:
        shown = _ENTITIES.get(entity)
        return source if shown is None else shown.encode()
    return _SIMPLE[simple or b"/"]


def _bytes_of(hexadecimal: bytes) -> bytes:
    """`3432`, or `xc2\\xa0`: bytes as UTF-8 if they are that, else the characters of these numbers."""
    raw = bytes.fromhex(hexadecimal.translate(None, b"\\x").decode("ascii"))
    if not hexadecimal.startswith(b"x"):
        return raw
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1").encode()
    return raw


def unescape(data: bytes, is_short: bool = False) -> Reading:
    """`is_short`: two hexadecimal digits follow `\\x`, as programming languages write it; else as many as there are, as bytea does."""
    pattern = _short_escape if is_short else _escape
    return Reading(data, [(*match.span(), _unescaped(match.groups(), match.group())) for match in pattern.finditer(data)])


def whole_escapes(data: bytes, spans: list[Span]) -> list[Span]:
    """Spans with the backslash escapes that they cut taken in whole: half an escape would be another escape."""
    escapes = list(spans_of(_backslashes, data))
    starts = [start for start, _ in escapes]
    widened: list[Span] = []
    for start, end in spans:
        first, last = bisect_right(starts, start) - 1, bisect_right(starts, end - 1) - 1
        is_cut = first >= 0 and start < escapes[first][1]
        ends_in = last >= 0 and end < escapes[last][1]
        widened.append((escapes[first][0] if is_cut else start, escapes[last][1] if ends_in else end))
    return widened
