"""IBANs: country, two check digits, and as many characters as that country's register entry says (ISO 13616, SWIFT IBAN registry)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidegate.mask.detect.detector import ALPHANUMERIC, DIGITS, Detector, continues_word, is_at
from sidegate.mask.patterns import Span, compile_pattern

# Whole length by country, from the SWIFT IBAN registry.
_REGISTRY: Final = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 "
    "FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 "
    "MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 "
    "SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
)
LENGTHS: Final[Mapping[bytes, int]] = {entry[:2].encode(): int(entry[2:]) for entry in _REGISTRY.split()}
LONGEST: Final = max(LENGTHS.values())
_SHAPE: Final = b"(?i:" + b"|".join(sorted(LENGTHS)) + rb")[ -]?[0-9]{2}(?:[ \t\r\n./_-]{0,3}[0-9A-Za-z]){11}"

PREFILTER: Final = (_SHAPE,)

_shape: Final = compile_pattern(_SHAPE)
_SEPARATORS: Final = frozenset(b" \t\r\n./_-")
_LONGEST_GAP: Final = 3
_SPACE: Final = b" "
_GROUP: Final = 4  # on paper
# National accounts are numbers with a few letters: the fewest digits, bank codes and check digits counted, are those of the Netherlands
# and Malta. Prose that looks like an IBAN has fewer.
_FEWEST_DIGITS: Final = 9
_WEIGHTS: Final[Mapping[int, str]] = {byte: str(int(chr(byte), 36)) for byte in b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


def has_iban_digits(iban: bytes) -> bool:
    """ISO 7064 MOD 97-10 over the characters with the first four moved to the end. `iban` is upper case without separators."""
    return int("".join(_WEIGHTS[byte] for byte in iban[4:] + iban[:4])) % 97 == 1


def is_iban(iban: bytes) -> bool:
    return iban[2:4].isdigit() and sum(byte in DIGITS for byte in iban[4:]) >= _FEWEST_DIGITS and has_iban_digits(iban)


def _take(text: bytes, start: int, count: int) -> tuple[bytes, int]:
    """`count` letters and digits from `start` on, what separates them skipped; and where they end.

    Single spaces count anywhere: each country has its own way. Anything else, and wider gaps, only after every fourth character, as on
    paper, and throughout (at a line's end a space may have become a break): anything looser is found in UUIDs and prose.
    """
    taken = bytearray()
    gaps: list[tuple[int, bytes]] = []  # how many characters stand before each, and what it is
    at = start
    while len(taken) < count and at < len(text):
        if text[at] in ALPHANUMERIC:
            taken.append(text[at])
            at += 1
            continue
        end = at
        while end < len(text) and end - at < _LONGEST_GAP and text[end] in _SEPARATORS:
            end += 1
        if end == at or not is_at(text, end, ALPHANUMERIC):
            break
        gaps.append((len(taken), text[at:end]))
        at = end
    is_loose = all(gap == _SPACE for _, gap in gaps)
    on_paper = [*range(_GROUP, count, _GROUP)]
    is_on_paper = [place for place, _ in gaps] == on_paper and len({gap.strip() for _, gap in gaps}) == 1
    if not (is_loose or is_on_paper):
        return b"", at
    return bytes(taken).upper(), at


def _is_free_before(text: bytes, start: int) -> bool:
    return not continues_word(text, start) or text[max(0, start - 4) : start].upper() == b"IBAN"


def find(text: bytes) -> list[Span]:
    found: list[Span] = []
    at = 0
    while (match := _shape.search(text, at)) is not None:
        start = match.span()[0]
        at = start + 1
        if not _is_free_before(text, start):
            continue
        length = LENGTHS[text[start : start + 2].upper()]
        iban, end = _take(text, start, length)
        if len(iban) == length and not is_at(text, end, ALPHANUMERIC) and is_iban(iban):
            found.append((start, end))
            at = end
    return found


DETECTOR: Final = Detector(
    name="iban",
    finds="international bank account numbers, in one piece or grouped by spaces, or in fours by dashes, dots, "
    "slashes, underscores or line breaks, in either case",
    proof="length of the country and check digits (mod 97)",
    leaves_out="national account numbers, countries outside the registry",
    prefilter=PREFILTER,
    find=find,
)
