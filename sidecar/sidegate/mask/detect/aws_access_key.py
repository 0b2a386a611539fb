"""AWS access key ids, and secret access keys where something says that they are: a label or a key id near by, or nothing else in the value.

An id is a four-letter prefix (IAM User Guide, "Unique identifiers": AKIA long-term, ASIA temporary; ABIA and ACCA bearer and context
keys) and 16 characters. A secret is 40 characters of base64 without a mark of its own; digests and ids of that length are lower case.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Final

from sidegate.mask.detect.detector import ALPHANUMERIC, Detector, continues_word, is_at, is_escape_letter
from sidegate.mask.patterns import Span, compile_pattern, spans_of

_ID: Final = rb"A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}"
_SECRET: Final = rb"[0-9A-Za-z/+]{40}"

# Session tokens of the security token service begin with one of these, the base64 of `origin` and of `aws` behind a few bytes.
_SESSION: Final = rb"(?:IQoJb3JpZ2lu|F[wQ]oGZXIvYXdz|FwoDYXdz|FQoDYXdz)[0-9A-Za-z/+]{20}"

PREFILTER: Final = (_ID, _SECRET, _SESSION)

_session: Final = compile_pattern(_SESSION + rb"[0-9A-Za-z/+]*={0,2}")

_id: Final = compile_pattern(_ID)
_secret: Final = compile_pattern(rb"[0-9A-Za-z/+]{40,}=?")
_LABEL: Final = re.compile(rb"(?i)aws|secret|access.?key")
_SECRET_LENGTH: Final = 40
# The start or end of a value, of a string in JSON (in a string of JSON) or csv, of an element of an array, of a composite's field, of a
# value among others in binary format. In prose 256 blanks are an end too.
_edge_before: Final = re.compile(rb"(?:\A|[\"'{(,\[\x00-\x1f]|\\[nrt])\Z")
_edge_after: Final = re.compile(rb"(?:\Z|[\"'}),\]\x00-\x1f]|\\)")
_EDGE_REACH: Final = 256
_LABEL_REACH: Final = 64  # bytes before the secret in which its label stands
_KEY_ID_REACH: Final = 256  # bytes around it in which a key id stands


def _looks_random(token: bytes) -> bool:
    """Upper case, lower case and digits, and enough different ones: no digest, path or word is that."""
    has_all = any(48 <= b <= 57 for b in token) and any(65 <= b <= 90 for b in token) and any(97 <= b <= 122 for b in token)
    return has_all and len(set(token)) >= 16


def _is_alone(text: bytes, start: int, end: int) -> bool:
    """Nothing but white space stands beside it; or it is one whole string, element or field."""
    before, after = text[max(0, start - _EDGE_REACH) : start].rstrip(), text[end : end + _EDGE_REACH].lstrip()
    return _edge_before.search(before) is not None and _edge_after.match(after) is not None


def _is_near(ids: list[Span], start: int, end: int) -> bool:
    """One of the key ids, which are in order, ends or begins within reach."""
    index = bisect_right(ids, (end + _KEY_ID_REACH, 0)) - 1
    return index >= 0 and ids[index][1] > start - _KEY_ID_REACH


def find(text: bytes) -> list[Span]:
    ids = [
        (start, end)
        for start, end in spans_of(_id, text)
        if not continues_word(text, start) and not is_at(text, end, ALPHANUMERIC)
    ]
    found = [*ids, *spans_of(_session, text)]
    for run_start, end in spans_of(_secret, text):
        start = run_start + is_escape_letter(text, run_start)
        # A path or an assignment without quotes glues its `/` or `=` on; the secret is what is 40 characters long.
        if end - start != _SECRET_LENGTH or not _looks_random(text[start:end]):
            continue
        is_labelled = _LABEL.search(text, max(0, start - _LABEL_REACH), start) is not None
        if is_labelled or _is_near(ids, start, end) or _is_alone(text, start, end):
            found.append((start, end))
    return found


DETECTOR: Final = Detector(
    name="aws-access-key",
    finds="AWS access key ids (AKIA, ASIA, ABIA, ACCA), session tokens, and secret access keys that are a whole value, string, element or "
    "field, labelled, or near a key id",
    proof="none: the prefix; for secrets 40 characters of mixed case and digits",
    leaves_out="secret access keys in the midst of other text without a label or a key id",
    prefilter=PREFILTER,
    find=find,
)
