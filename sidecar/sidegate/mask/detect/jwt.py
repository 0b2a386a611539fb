"""JSON Web Tokens in compact form (RFC 7519, 7515, 7516): base64url segments, the first of which is a JSON object with `alg`.

An unsigned token has an empty last segment; an encrypted one has five. A segment with characters cut off is still masked as far as it goes,
and over the breaks of lines that were wrapped: in the last segment only behind a long line, for prose may follow it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Final

from sidegate.mask.detect.detector import Detector
from sidegate.mask.patterns import Span, compile_pattern, spans_of

# The base64 of `{"`, `{ "` and of `{` before white space.
_START: Final = rb"e(?:yJ|yAi|w[ko0])"

PREFILTER: Final = (_START + rb"[0-9A-Za-z_-]{6}",)

_BREAK: Final = rb"(?:=?\r?\n[ \t]{0,8})"
_CHARACTERS: Final = rb"[0-9A-Za-z_-]+"
_INNER: Final = rb"(?:" + _CHARACTERS + _BREAK + rb"?)+"
_LAST: Final = rb"(?:[0-9A-Za-z_-]{48,}" + _BREAK + rb")*[0-9A-Za-z_-]*"
_token: Final = compile_pattern(
    _START + rb"[0-9A-Za-z_-]{6}" + _INNER + rb"\." + _BREAK + rb"?" + _INNER + rb"\.(?:(?:" + _INNER + rb")?\.){0,2}" + _LAST
)
_not_base64: Final = re.compile(rb"[^0-9A-Za-z_-]+")
_LONGEST_HEADER: Final = 4096
_MOST_STARTS: Final = 8


def _has_alg(header: bytes) -> bool:
    try:
        header = _not_base64.sub(b"", header)
        decoded = json.loads(base64.urlsafe_b64decode(header + b"=" * (-len(header) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return False
    return isinstance(decoded, dict) and "alg" in decoded


def _header_start(text: bytes, start: int, dot: int) -> int | None:
    """Where the header begins: letters may be glued on in front (`Bearer_eyJ...`), so it may be at any `ew` or `ey`.

    What is too long or has too many of them to try is taken for a token unread.
    """
    if dot - start > _LONGEST_HEADER:
        return start
    at = start
    for _ in range(_MOST_STARTS):
        if _has_alg(text[at:dot]):
            return at
        places = [place for mark in (b"ey", b"ew") if (place := text.find(mark, at + 1, dot)) >= 0]
        if not places:
            return None
        at = min(places)
    return start


def find(text: bytes) -> list[Span]:
    found: list[Span] = []
    for start, end in spans_of(_token, text):
        at = _header_start(text, start, text.index(b".", start))
        if at is not None:
            found.append((at, end))
    return found


DETECTOR: Final = Detector(
    name="jwt",
    finds="JSON Web Tokens in compact form, signed, unsigned and encrypted",
    proof="the first segment decodes to a JSON object with `alg`",
    leaves_out="tokens in JSON serialisation, opaque tokens",
    prefilter=PREFILTER,
    find=find,
)
