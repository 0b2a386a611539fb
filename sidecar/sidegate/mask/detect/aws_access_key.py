"""AWS access key ids, and secret access keys where something says that they are: a label or a key id near by, or nothing else in the value.

An id is a four-letter prefix (IAM User Guide, "Unique identifiers": AKIA long-term, ASIA temporary; ABIA and ACCA bearer and context
keys) and 16 characters. A secret is 40 characters of base64 without a mark of its own; digests and ids of that length are lower case.
"""

from __future__ import annotations

import re
from typing import Final

from sidegate.mask.detect.detector import ALPHANUMERIC, Detector, continues_word, is_at, is_escape_letter
from sidegate.mask.patterns import Span, compile_pattern, spans_of

_ID: Final = rb"A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}"
_SECRET: Final = rb"[0-9A-Za-z/+]{40}"

PREFILTER: Final = (_ID, _SECRET)

_id: Final = compile_pattern(_ID)
_secret: Final = compile_pattern(rb"[0-9A-Za-z/+]{40,}=?")
_LABEL: Final = re.compile(rb"(?i)aws|secret|access.?key")
_SECRET_LENGTH: Final = 40
_LABEL_REACH: Final = 64  # bytes before the secret in which its label stands
_KEY_ID_REACH: Final = 256  # bytes around it in which a key id stands


def _looks_random(token: bytes) -> bool:
    """Upper case, lower case and digits, and enough different ones: no digest, path or word is that."""
    has_all = any(48 <= b <= 57 for b in token) and any(65 <= b <= 90 for b in token) and any(97 <= b <= 122 for b in token)
    return has_all and len(set(token)) >= 16


def find(text: bytes) -> list[Span]:
    ids = [
        (start, end)
        for start, end in spans_of(_id, text)
        if not continues_word(text, start) and not is_at(text, end, ALPHANUMERIC)
    ]
    found = list(ids)
    for run_start, end in spans_of(_secret, text):
        start = run_start + is_escape_letter(text, run_start)
        # A path or an assignment without quotes glues its `/` or `=` on; the secret is what is 40 characters long.
        if end - start != _SECRET_LENGTH or not _looks_random(text[start:end]):
            continue
        is_whole = not text[:start].strip() and not text[end:].strip()
        is_labelled = _LABEL.search(text, max(0, start - _LABEL_REACH), start) is not None
        has_id = any(start - _KEY_ID_REACH < id_end and id_start < end + _KEY_ID_REACH for id_start, id_end in ids)
        if is_whole or is_labelled or has_id:
            found.append((start, end))
    return found


DETECTOR: Final = Detector(
    name="aws-access-key",
    finds="AWS access key ids (AKIA, ASIA, ABIA, ACCA), and secret access keys that are the whole value, labelled, or near a key id",
    proof="none: the prefix; for secrets 40 characters of mixed case and digits",
    leaves_out="secret access keys in the midst of other text without a label or a key id",
    prefilter=PREFILTER,
    find=find,
)
