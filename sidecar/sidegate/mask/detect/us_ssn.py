"""US social security numbers: three, two and four digits, with the areas that were never given out left out.

Without separators any nine digits would do, so then the value must stand behind a word that says what it is (`ssn: 123456789`).
Areas 000, 666 and 900 to 999, group 00 and serial 0000 are never given out (Social Security Administration, POMS RM 10201.035). Taxpayer
numbers (9xx) are no SSNs.
"""

from __future__ import annotations

from typing import Final

from sidegate.mask.detect.detector import DIGITS, Detector, is_at
from sidegate.mask.patterns import Span, compile_pattern

_SEPARATED: Final = rb"[0-9]{3}[ .-]{1,3}[0-9]{2}[ .-]{1,3}[0-9]{4}"
# The words between label and number: at most 24 ASCII characters without a digit.
_LABELLED: Final = rb"(?i:ssn|social[ _-]?sec(?:urity)?)[\t\r\n !-/:-@A-Z\[-\x60a-z{-~]{0,24}[0-9]{9}"

PREFILTER: Final = (_SEPARATED, _LABELLED)

_separated: Final = compile_pattern(_SEPARATED)
_labelled: Final = compile_pattern(_LABELLED)
_JOINERS: Final = frozenset(b"-.")


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


def find(text: bytes) -> list[Span]:
    found: list[Span] = []
    at = 0
    while (match := _separated.search(text, at)) is not None:
        start, end = match.span()
        at = start + 1
        digits = bytes(byte for byte in text[start:end] if byte in DIGITS)
        if is_ssn(digits) and not _is_part_of_longer_number(text, start, end):
            found.append((start, end))
            at = end
    at = 0
    while (match := _labelled.search(text, at)) is not None:
        end = match.span()[1]
        start = end - 9
        at = start
        if is_ssn(text[start:end]) and not is_at(text, end, DIGITS):
            found.append((start, end))
    return found


DETECTOR: Final = Detector(
    name="us-ssn",
    finds="US social security numbers as 3-2-4 digits with dashes, spaces or dots; nine digits in one piece behind a label such as `ssn`",
    proof="no area, group or serial that is never given out",
    leaves_out="nine digits without separators and without a label, taxpayer numbers (9xx), pieces of longer numbers",
    prefilter=PREFILTER,
    find=find,
)
