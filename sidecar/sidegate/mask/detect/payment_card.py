"""Payment card numbers (PAN): ISO/IEC 7812 check digit (Luhn), issuer ranges and lengths of the schemes, usual ways of grouping.

A number is taken as people and programs write it: in one piece; in groups of three or more digits between one to three separators; in the
groups that are printed on cards, between line breaks and tabs too; one separator after every digit or every second digit; with its
thousands marked; padded with zeros; in exponent form. Not taken: what is part of a longer run of digits, the fraction of a decimal number,
a piece of a UUID or of a hexadecimal digest, and a valid EAN-13 (a 13-digit Visa number, not issued for decades, looks the same).
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from sidegate.mask.detect.detector import ALPHANUMERIC, DIGITS, Detector, is_at
from sidegate.mask.patterns import Span, compile_pattern, spans_of

SHORTEST: Final = 13
LONGEST: Final = 19

# (first prefix, last prefix, lengths): public issuer identification number ranges of the schemes. UATP (1..., 15 digits) is left out: it
# can't be told from a time in microseconds.
SCHEMES: Final[tuple[tuple[str, str, frozenset[int], str], ...]] = (
    ("4", "4", frozenset({13, 16, 19}), "Visa"),
    ("51", "55", frozenset({16}), "Mastercard"),
    ("2221", "2720", frozenset({16}), "Mastercard"),
    ("34", "34", frozenset({15}), "American Express"),
    ("37", "37", frozenset({15}), "American Express"),
    ("300", "305", frozenset({14, 16, 17, 18, 19}), "Diners Club"),
    ("3095", "3095", frozenset({14, 16, 17, 18, 19}), "Diners Club"),
    ("36", "36", frozenset({14, 15, 16, 17, 18, 19}), "Diners Club"),
    ("38", "39", frozenset({14, 16, 17, 18, 19}), "Diners Club"),
    ("3528", "3589", frozenset({16, 17, 18, 19}), "JCB"),
    ("6011", "6011", frozenset({16, 17, 18, 19}), "Discover"),
    ("644", "649", frozenset({16, 17, 18, 19}), "Discover"),
    ("65", "65", frozenset({16, 17, 18, 19}), "Discover, RuPay, Troy"),
    ("62", "62", frozenset({16, 17, 18, 19}), "UnionPay"),
    ("8100", "8171", frozenset({16, 17, 18, 19}), "UnionPay, RuPay"),
    ("60", "60", frozenset({16}), "RuPay, Hipercard"),
    ("82", "82", frozenset({16}), "RuPay"),
    ("508", "508", frozenset({16}), "RuPay"),
    ("5018", "5018", frozenset(range(13, 20)), "Maestro"),
    ("5019", "5019", frozenset({16}), "Dankort"),
    ("5020", "5020", frozenset(range(13, 20)), "Maestro"),
    ("5038", "5038", frozenset(range(13, 20)), "Maestro"),
    ("5893", "5893", frozenset(range(13, 20)), "Maestro"),
    ("6304", "6304", frozenset(range(13, 20)), "Maestro"),
    ("6759", "6759", frozenset(range(13, 20)), "Maestro"),
    ("6761", "6763", frozenset(range(13, 20)), "Maestro"),
    ("676770", "676774", frozenset(range(13, 20)), "Maestro"),
    ("506099", "506198", frozenset({16, 18, 19}), "Verve"),
    ("507865", "507964", frozenset({16, 18, 19}), "Verve"),
    ("509", "509", frozenset({16}), "Elo"),
    ("5067", "5067", frozenset({16}), "Elo"),
    ("627780", "627780", frozenset({16}), "Elo"),
    ("636", "636", frozenset({16, 17, 18, 19}), "InterPayment, Elo"),
    ("637", "639", frozenset({16}), "InstaPayment"),
    ("2200", "2204", frozenset({16, 17, 18, 19}), "Mir"),
    ("2205", "2205", frozenset({16}), "Borica"),
    ("8600", "8600", frozenset({16}), "UzCard"),
    ("9860", "9860", frozenset({16}), "Humo"),
    ("9704", "9704", frozenset({16, 19}), "Napas"),
    ("9792", "9792", frozenset({16}), "Troy"),
)

_BY_FIRST_DIGIT: Final = {
    digit: tuple(scheme for scheme in SCHEMES if scheme[0][0] <= digit <= scheme[1][0]) for digit in "23456789"
}

_SEPARATED: Final = rb"[0-9](?:[ ._/+-]{0,3}[0-9]){12}"
# As printed: 4-4-4-4, 4-4-4-4-3, 4-6-5, 4-6-4. Broken, wide and tabbed gaps count here alone: tables are full of them.
_GAP: Final = rb"[ \t-\r._/+-]{1,4}"
_PRINTED: Final = (
    rb"[0-9]{4}" + _GAP + rb"(?:[0-9]{4}" + _GAP + rb"[0-9]{4}" + _GAP + rb"[0-9]{4}|[0-9]{6}" + _GAP + rb"[0-9]{4})"
)
_THOUSANDS: Final = rb"[0-9]{1,3}(?:[,.' ][0-9]{3}){4}"
# How PostgreSQL writes a double precision number of 16 digits and more, and JSON any number.
_EXPONENT: Final = rb"[0-9][eE]\+?1[0-9]"

PREFILTER: Final = (_SEPARATED, _PRINTED, _THOUSANDS, _EXPONENT)

_RUN: Final = compile_pattern(_SEPARATED + rb"(?:[ ._/+-]{0,3}[0-9])*")
_printed: Final = compile_pattern(_PRINTED)
_printed_rest: Final = re.compile(rb"(?:" + _GAP + rb"[0-9]{3}|[0-9])(?![0-9])")
_thousands: Final = compile_pattern(_THOUSANDS + rb"(?:[,.' ][0-9]{3})*")
_exponent: Final = compile_pattern(rb"[0-9]\.[0-9]{8,18}[eE]\+?1[0-9]")
_GROUP: Final = re.compile(rb"[0-9]+")
_UUID: Final = re.compile(rb"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}")
_UUID_LENGTH: Final = 36
_HEX_TOKEN: Final = re.compile(rb"[0-9a-f]+|[0-9A-F]+")
_SHORTEST_DIGEST: Final = 24  # hexadecimal characters; below this a run of letters a-f around a number is no digest
_MIN_GROUP: Final = 3
# Digits of the groups that are printed on cards.
_LAYOUTS: Final = frozenset({(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4)})
_SEPARATORS: Final = b" \t\n\v\f\r._/+-"
_BROKEN: Final = re.compile(rb"[\t-\r]|[ ._/+-]{4}")
_SHORTEST_THOUSANDS: Final = 15  # marked thousands are amounts, and few amounts are that large
_SHORTEST_PADDED: Final = 15
_LONGEST_PADDED: Final = 24
_ZERO: Final = 48
_POINT: Final = frozenset(b".")
_LUHN_DOUBLED: Final = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))
_LUHN_PLAIN: Final = bytes.maketrans(b"0123456789", bytes(range(10)))


def has_luhn_digit(digits: bytes) -> bool:
    """ISO/IEC 7812-1 annex B: from the right, every second digit doubled, digit sums added, divisible by ten."""
    return (sum(digits[-1::-2].translate(_LUHN_PLAIN)) + sum(digits[-2::-2].translate(_LUHN_DOUBLED))) % 10 == 0


def scheme_of(digits: bytes) -> str | None:
    text, length = digits.decode("ascii"), len(digits)
    for first, last, lengths, scheme in _BY_FIRST_DIGIT.get(text[:1], ()):
        if length in lengths and first <= text[: len(first)] <= last:
            return scheme
    return None


def _is_ean13(digits: bytes) -> bool:
    """GS1 check digit: weights 1 and 3 from the left over 13 digits."""
    plain = digits.translate(_LUHN_PLAIN)
    return len(digits) == 13 and (sum(plain[::2]) + 3 * sum(plain[1::2])) % 10 == 0


def is_card_number(digits: bytes) -> bool:
    return (
        SHORTEST <= len(digits) <= LONGEST and scheme_of(digits) is not None and has_luhn_digit(digits) and not _is_ean13(digits)
    )


def _is_inside_identifier(text: bytes, start: int, end: int) -> bool:
    """The digits belong to a UUID or to a hexadecimal digest."""
    has_letters = is_at(text, start - 1, ALPHANUMERIC) or is_at(text, end, ALPHANUMERIC)
    if not has_letters and b"-" not in text[max(0, start - 1) : end + 1]:
        return False
    near = max(0, start - _UUID_LENGTH)
    for match in _UUID.finditer(text, near, min(len(text), end + _UUID_LENGTH)):
        if match.start() <= start and end <= match.end():
            return True
    left, right = start, end
    while left > max(0, start - 128) and text[left - 1] in ALPHANUMERIC:
        left -= 1
    while right < min(len(text), end + 128) and text[right] in ALPHANUMERIC:
        right += 1
    return right - left > max(end - start, _SHORTEST_DIGEST) and _HEX_TOKEN.fullmatch(text, left, right) is not None


def _is_fraction(text: bytes, start: int) -> bool:
    """A digit and a point stand right before it."""
    return is_at(text, start - 1, _POINT) and is_at(text, start - 2, DIGITS)


def _is_decimal(text: bytes, groups: list[Span]) -> bool:
    """A decimal number, or several: points stand between groups only if they all do, and then there are at least two. What begins with a
    fraction is one more, unless its groups are those of a card (`1.4242 4242 4242 4242` in a list of such).
    """
    is_fraction = _is_fraction(text, groups[0][0])
    if len(groups) == 1:
        return is_fraction
    points = sum(b"." in text[before[1] : after[0]] for before, after in pairwise(groups))
    if is_fraction and not points and tuple(end - start for start, end in groups) not in _LAYOUTS:
        return True
    return 0 < points < max(2, len(groups) - 1)


def _even_runs(groups: list[Span]) -> list[tuple[int, int]]:
    """Groups of one digit each, or of two each but for the last, as first and last group: as many in a row as there are."""
    runs: list[tuple[int, int]] = []
    first = 0
    for last in range(len(groups)):
        size = groups[first][1] - groups[first][0]
        is_even = size <= 2 and groups[last][1] - groups[last][0] == size
        if not is_even:
            if size == 2 and groups[last][1] - groups[last][0] == 1 and last > first:
                runs.append((first, last))
            elif last - 1 > first:
                runs.append((first, last - 1))
            first = last
    if len(groups) - 1 > first:
        runs.append((first, len(groups) - 1))
    return runs


def _begins_like_a_card(groups: list[Span]) -> bool:
    """Not with three digits alone, unless it is all in threes: order numbers are written 3-7-7, telephone numbers 3-3-4."""
    sizes = [end - start for start, end in groups]
    return len(sizes) == 1 or sizes[0] > _MIN_GROUP or set(sizes[:-1]) == {_MIN_GROUP}


def _windows(text: bytes, groups: list[Span]) -> list[tuple[int, int]]:
    """Pieces of one run that are written as a card number may be, as first and last group."""
    windows = _even_runs(groups)
    for first in range(len(groups)):
        total, previous = 0, _MIN_GROUP
        for last in range(first, len(groups)):
            start, end = groups[last]
            total += end - start
            if previous < _MIN_GROUP or total > LONGEST:
                break
            previous = end - start
            piece = groups[first : last + 1]
            if total >= SHORTEST and _begins_like_a_card(piece) and not _is_decimal(text, piece):
                windows.append((first, last))
    return windows


def _without_padding(text: bytes, group: Span) -> Span | None:
    """The number in a group that fields of a fixed width pad with zeros on the left."""
    start, end = group
    if not _SHORTEST_PADDED < end - start <= _LONGEST_PADDED or text[start] != _ZERO:
        return None
    digits = text[start:end].lstrip(b"0")
    return (end - len(digits), end) if len(digits) >= _SHORTEST_PADDED and is_card_number(digits) else None


def _find_separated(text: bytes) -> list[Span]:
    found: list[Span] = []
    for start, end in spans_of(_RUN, text):
        groups = [match.span() for match in _GROUP.finditer(text, start, end)]
        digits = text[start:end].translate(None, _SEPARATORS)
        before = [0]  # digits of the run before each group
        for group_start, group_end in groups:
            before.append(before[-1] + group_end - group_start)
        for first, last in _windows(text, groups):
            place = (groups[first][0], groups[last][1])
            if is_card_number(digits[before[first] : before[last + 1]]) and not _is_inside_identifier(text, *place):
                found.append(place)
        for group in groups:
            padded = None if _is_fraction(text, group[0]) else _without_padding(text, group)
            if padded is not None and not _is_inside_identifier(text, *group):
                found.append(padded)
    return found


def _find_broken(text: bytes) -> list[Span]:
    """In printed groups, with tabs, line breaks or wide gaps in between: those that `_find_separated` doesn't look over."""
    found: list[Span] = []
    at = 0
    while (match := _printed.search(text, at)) is not None:
        start, end = match.span()
        at = start + 1
        rest = _printed_rest.match(text, end)
        for stop in (end, end if rest is None else rest.end()):
            piece = text[start:stop]
            is_whole = not is_at(text, start - 1, DIGITS) and not is_at(text, stop, DIGITS)
            has_equal_gaps = len({gap.strip() for gap in _GROUP.split(piece)}) <= 2  # and the empty ones at both ends
            if (
                is_whole
                and has_equal_gaps
                and _BROKEN.search(piece) is not None
                and is_card_number(piece.translate(None, _SEPARATORS))
            ):
                found.append((start, stop))
    return found


def _find_thousands(text: bytes) -> list[Span]:
    """Marked thousands: groups of three, one and the same mark between them."""
    found: list[Span] = []
    for start, end in spans_of(_thousands, text):
        digits = text[start:end].translate(None, b",.' ")
        marks = set(text[start:end].translate(None, b"0123456789"))
        is_whole = not is_at(text, start - 1, DIGITS) and not is_at(text, end, DIGITS)
        if is_whole and len(marks) == 1 and len(digits) >= _SHORTEST_THOUSANDS and is_card_number(digits):
            found.append((start, end))
    return found


def _find_exponents(text: bytes) -> list[Span]:
    """`4.242424242424242e+15`. Nine digits at least: those of a measured quantity are rounded to fewer."""
    found: list[Span] = []
    for start, end in spans_of(_exponent, text):
        mantissa, exponent = text[start:end].lower().split(b"e")
        digits = mantissa.replace(b".", b"")
        length = int(exponent) + 1
        if len(digits) <= length and not is_at(text, start - 1, DIGITS) and is_card_number(digits.ljust(length, b"0")):
            found.append((start, end))
    return found


def find(text: bytes) -> list[Span]:
    return [*_find_separated(text), *_find_broken(text), *_find_thousands(text), *_find_exponents(text)]


DETECTOR: Final = Detector(
    name="payment-card",
    finds="payment card numbers of 13 to 19 digits, in one piece or grouped by spaces, dashes, dots, slashes, underscores, pluses or line "
    "breaks, with marked thousands, in exponent form",
    proof="Luhn check digit, issuer range and length of a scheme",
    leaves_out="pieces of longer digit runs, decimal fractions, UUIDs, digests, EAN-13 codes, UATP (starts with 1)",
    prefilter=PREFILTER,
    find=find,
)
