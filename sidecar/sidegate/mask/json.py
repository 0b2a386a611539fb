"""Masking inside JSON text so that it stays JSON: in a string the replacement stands in place, a number becomes a string.

A result that would not parse, or a find that crosses the border of a string, makes the whole document the string "[masked]".
"""

from __future__ import annotations

import json
from bisect import bisect_right
from typing import Final

from sidegate.mask.patterns import compile_pattern, spans_of
from sidegate.mask.scanner import Scanner, Span
from sidegate.mask.strategies import REDACTED
from sidegate.mask.tally import Tally
from sidegate.policy.decision import MaskStrategy

_string: Final = compile_pattern(rb'(?s)"(?:[^"\\]|\\.)*"')
_NUMBER: Final = frozenset(b"0123456789+-.eE")
_WHOLE: Final = b'"' + REDACTED + b'"'


def mask_json(document: bytes, scanner: Scanner, tally: Tally) -> bytes | None:
    """`document` itself when nothing in it is to be masked; None (NULL) when a rule asks for that."""
    spans = scanner.find(document)
    if not spans:
        return document
    tally.add_all({span.source for span in spans})
    tally.values += len(spans)
    if any(span.strategy is MaskStrategy.NULL for span in spans):
        return None
    masked = _replaced(document, spans, scanner)
    return masked if masked is not None and _is_json(masked) else _WHOLE


def _replaced(document: bytes, spans: list[Span], scanner: Scanner) -> bytes | None:
    """None when a span is neither inside one string nor one number."""
    strings = list(spans_of(_string, document))
    starts = [start for start, _ in strings]
    pieces: list[bytes] = []
    at = 0
    for span in spans:
        index = bisect_right(starts, span.start) - 1
        shown = scanner.replacement(document[span.start : span.end], span.strategy)
        start, end = span.start, span.end
        if not (index >= 0 and strings[index][0] < start and end < strings[index][1]):
            while start > 0 and document[start - 1] in _NUMBER:
                start -= 1
            while end < len(document) and document[end] in _NUMBER:
                end += 1
            if any(byte not in _NUMBER for byte in document[start:end]):
                return None
            shown = b'"' + shown + b'"'
        if start < at:
            return None
        pieces.append(document[at:start])
        pieces.append(shown)
        at = end
    pieces.append(document[at:])
    return b"".join(pieces)


def _is_json(document: bytes) -> bool:
    try:
        json.loads(document, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True
