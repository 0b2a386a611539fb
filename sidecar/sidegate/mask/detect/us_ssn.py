"""US social security numbers: three, two and four digits, with the areas that were never given out left out.

Without separators, or with others, any nine digits would do, so then the value must stand behind a word that says what it is
(`ssn: 123456789`), or right before it (`123456789 (SSN)`).
Areas 000, 666 and 900 to 999, group 00 and serial 0000 are never given out (Social Security Administration, POMS RM 10201.035). Taxpayer
numbers (9xx) are no SSNs.
"""

from __future__ import annotations

import re
from typing import Final

from sidegate.mask.detect.detector import DIGITS, Detector, is_at
from sidegate.mask.patterns import Pattern, Span, compile_pattern

# A line may have been wrapped behind a separator.
_GAP: Final = rb"[ ./_-]{1,3}(?:\r?\n[ \t]{0,8})?"
_SEPARATED: Final = rb"[0-9]{3}" + _GAP + rb"[0-9]{2}" + _GAP + rb"[0-9]{4}"
_NINE: Final = rb"[0-9](?:[ ._-]?[0-9]){8}"
_LABEL: Final = rb"(?i:ssn|soc(?:ial)?[._ -]{0,2}sec(?:urity)?|\bss ?(?:#|no\b|num))"
# The words between label and number: at most 24 ASCII characters without a digit.
_LABELLED: Final = _LABEL + rb"[\t\r\n !-/:-@A-Z\[-\x60a-z{-~]{0,24}" + _NINE
_BEFORE_LABEL: Final = _NINE + rb"[\t !-/:-@\[-\x60{-~]{1,4}(?i:ssn|social sec)"

PREFILTER: Final = (_SEPARATED, _LABELLED.replace(rb"\b", b""), _BEFORE_LABEL)

_separated: Final = compile_pattern(_SEPARATED)
_labelled: Final = compile_pattern(_LABELLED)
_before_label: Final = compile_pattern(_BEFORE_LABEL)
_nine: Final = re.compile(_NINE)
_digits: Final = re.compile(rb"[0-9]+")
_JOINERS: Final = frozenset(b"-./_")


def is_ssn(digits: bytes) -> bool:
    """Nine digits that could have been given out."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in (b"000", b"666") and area < b"900" and group != b"00" and serial != b"0000"


def _is_part_of_longer_number(text: bytes, start: int, end: int) -> bool:
    if is_at(text, start - 1, DIGITS) or is_at(text, end, DIGITS):
        return True
    before = is_at(text, start - 1, _JOINERS) and is_at(text, start - 2, DIGITS)
    after = is_at(text, end, _JOINERS) and is_at(text, end + 1, DIGITS)
    return before or after


def _has_equal_separators(text: bytes) -> bool:
    """Both the same, but for white space around them: `123-45-6789`, not `123.45 6789` or `123 45-6789`."""
    first, second = (part.strip() for part in _digits.split(text)[1:3])
    return first == second and len(first) <= 1


def _find_labelled(text: bytes, pattern: Pattern) -> list[Span]:
    found: list[Span] = []
    at = 0
    while (match := pattern.search(text, at)) is not None:
        start, end = match.span()
        # The label may stand on either side, and between it and the number are no digits: the number is all the digits that there are.
        number = _nine.search(text, start, end)
        at = end
        if number is None:
            continue
        digits = bytes(byte for byte in number.group() if byte in DIGITS)
        if is_ssn(digits) and not is_at(text, number.start() - 1, DIGITS) and not is_at(text, number.end(), DIGITS):
            found.append(number.span())
    return found


def find(text: bytes) -> list[Span]:
    found: list[Span] = []
    at = 0
    while (match := _separated.search(text, at)) is not None:
        start, end = match.span()
        at = start + 1
        digits = bytes(byte for byte in text[start:end] if byte in DIGITS)
        if is_ssn(digits) and _has_equal_separators(text[start:end]) and not _is_part_of_longer_number(text, start, end):
            found.append((start, end))
            at = end
    return [*found, *_find_labelled(text, _labelled), *_find_labelled(text, _before_label)]


DETECTOR: Final = Detector(
    name="us-ssn",
    finds="US social security numbers as 3-2-4 digits with dashes, spaces, dots, slashes or underscores; nine digits in one "
    "piece or in any groups beside a label such as `ssn`",
    proof="no area, group or serial that is never given out",
    leaves_out="nine digits without separators and without a label, taxpayer numbers (9xx), pieces of longer numbers",
    prefilter=PREFILTER,
    find=find,
)
