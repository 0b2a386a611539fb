"""The texts inside cells that don't show them: decimal digits of binary numbers, and what values of unknown binary forms may hold.

Read as PostgreSQL's own send functions write them (src/backend/utils/adt/*.c): int8, float8, money, numeric, points. A value of a type that
isn't known (an extension's, a domain's, a range's) is tried as each of these, as a range or multirange of them, and as any row of values
behind their lengths; 64-bit integers are looked for at every place in it.
"""

from __future__ import annotations

import re
import struct
from decimal import Decimal, InvalidOperation
from typing import Final

from sidegate.mask.kinds import CellKind

_MOST_DIGITS: Final = 40
_LARGEST_FLOAT: Final = 1e20


def integral_texts(text: bytes) -> list[bytes]:
    """A decimal number in exponent form as an integer, if it is one of a sane size."""
    try:
        number = Decimal(text.decode("ascii"))
    except (InvalidOperation, ValueError):
        return []
    if not number.is_finite() or number.adjusted() > _MOST_DIGITS:
        return []
    return [str(abs(int(number))).encode()]


def number_texts(kind: CellKind, cell: bytes) -> list[bytes]:
    if kind is CellKind.INT8_BINARY and len(cell) == 8:
        return [str(abs(int.from_bytes(cell, "big", signed=True))).encode()]
    if kind is CellKind.MONEY_BINARY and len(cell) == 8:
        amount = str(abs(int.from_bytes(cell, "big", signed=True))).encode()
        return [amount, amount[:-2], amount[:-3]]
    if kind is CellKind.FLOAT8_BINARY and len(cell) == 8:
        return _float_texts(cell)
    if kind is CellKind.NUMERIC_BINARY:
        return _numeric_texts(cell)
    if kind is CellKind.FLOATS_BINARY:
        # path_send and poly_send write a flag and a count before the coordinates, the others nothing.
        return [text for at in range(len(cell) % 8, len(cell), 8) for text in _float_texts(cell[at : at + 8])]
    return []


def _float_texts(cell: bytes) -> list[bytes]:
    number = struct.unpack(">d", cell)[0]
    return [str(abs(int(number))).encode()] if abs(number) < _LARGEST_FLOAT else []


def _numeric_texts(cell: bytes) -> list[bytes]:
    """The integer part of a numeric (numeric_send: digit count, weight, sign, scale, then digits of base 10000)."""
    if len(cell) < 8:
        return []
    count, weight, _, _ = struct.unpack_from(">HhHH", cell)
    if len(cell) != 8 + 2 * count or not 0 <= weight <= _MOST_DIGITS // 4:
        return []
    number = 0
    for place in range(weight + 1):
        digit = int.from_bytes(cell[8 + 2 * place : 10 + 2 * place], "big") if place < count else 0
        number = number * 10000 + digit
    return [str(number).encode()]


_SHORTEST: Final = 9  # bytes: no value that a detector finds is shorter
_LARGEST_CARD: Final = 10**16  # of 16 digits; random bytes read as longer ones would too often have a right check digit
# Where a 64-bit integer from 2**40 on may start, which no scheme's numbers are under; where an int32 of at least _SHORTEST may.
_INTEGER: Final = re.compile(rb"(?=\x00(?:[\x01-\x23].|\x00[^\x00]))", re.DOTALL)
_LENGTH: Final = re.compile(rb"(?=\x00(?:\x00\x00[\x09-\xff]|\x00[^\x00].|[^\x00]..))", re.DOTALL)
_APART: Final = b"\x00,\x00"  # no detector looks over it


def loose_texts(cell: bytes) -> list[bytes]:
    """What a value that is neither a record nor an array may hold. A fixed number of texts, each as long as the value times a constant."""
    texts = [cell, _with_gaps(cell)]
    bounds = _range_bounds(cell) or _multirange_bounds(cell) or []
    numbers = _bare_integers(cell)
    for bound in bounds:
        numbers += number_texts(CellKind.INT8_BINARY, bound)
    for value in (cell, *bounds):
        numbers += [*number_texts(CellKind.FLOAT8_BINARY, value), *_numeric_texts(value)]
    return [*texts, _APART.join(numbers)]


def _with_gaps(cell: bytes) -> bytes:
    """A gap wherever a value of a length that stands before it may begin or end: a length's last byte may read like a letter or digit."""
    places: set[int] = set()
    for match in _LENGTH.finditer(cell):
        start = match.start() + 4
        end = start + int.from_bytes(cell[start - 4 : start], "big")
        if end <= len(cell):
            places |= {start, end}
    pieces: list[bytes] = []
    at = 0
    for place in sorted(places):
        pieces.append(cell[at:place])
        at = place
    return _APART.join([*pieces, cell[at:]])


def _sized_values(cell: bytes, at: int, count: int) -> tuple[list[bytes], int] | None:
    """`count` values, each behind its int32 length, -1 for NULL; and where they end."""
    values: list[bytes] = []
    for _ in range(count):
        if at + 4 > len(cell):
            return None
        size = int.from_bytes(cell[at : at + 4], "big", signed=True)
        at += 4
        if size < -1 or at + max(size, 0) > len(cell):
            return None
        if size >= 0:
            values.append(cell[at : at + size])
            at += size
    return values, at


def _range_bounds(cell: bytes) -> list[bytes] | None:
    """range_send: flags, then the bounds that there are. What type they have isn't said."""
    if not cell:
        return None
    flags = cell[0]
    is_empty, no_lower, no_upper = flags & 0x01, flags & 0x28, flags & 0x50
    found = _sized_values(cell, 1, 0 if is_empty else (not no_lower) + (not no_upper))
    return found[0] if found is not None and found[1] == len(cell) else None


def _multirange_bounds(cell: bytes) -> list[bytes] | None:
    """multirange_send: a count, then each range behind its length."""
    count = int.from_bytes(cell[:4], "big")
    if len(cell) < 4 or count * 5 > len(cell):
        return None
    found = _sized_values(cell, 4, count)
    if found is None or found[1] != len(cell):
        return None
    return [bound for part in found[0] for bound in _range_bounds(part) or ()]


def _bare_integers(cell: bytes) -> list[bytes]:
    """Every 64-bit integer that could start anywhere in a value of unknown form and is as long as a card number (own types)."""
    texts: list[bytes] = []
    for match in _INTEGER.finditer(cell):
        number = int.from_bytes(cell[match.start() : match.start() + 8], "big")
        if match.start() + 8 <= len(cell) and number < _LARGEST_CARD:
            texts.append(str(number).encode())
    return texts
