"""The decimal texts inside cells that don't show their digits: binary numbers, and binary compounds that hold some.

Read as PostgreSQL's own send functions write them (src/backend/utils/adt/*.c): int8, float8, money and numeric; arrays, records, ranges and
multiranges down to their elements. An unknown type is tried as each of these, and 64-bit integers are looked for at every place in it.
"""

from __future__ import annotations

import re
import struct
from decimal import Decimal, InvalidOperation
from typing import Final

from sidegate.mask.kinds import BINARY, OPAQUE_KINDS, CellKind, kind_of

_MOST_DIGITS: Final = 40


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
        number = struct.unpack(">d", cell)[0]
        return [str(abs(int(number))).encode()] if abs(number) < 1e20 else []
    if kind is CellKind.NUMERIC_BINARY:
        return _numeric_texts(cell)
    return []


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


_DEEPEST: Final = 64  # of compounds in compounds; deeper ones are looked at raw and for bare integers
_LARGEST_CARD: Final = 10**16  # of 16 digits; random bytes read as longer ones would too often have a right check digit
_INTEGER: Final = re.compile(
    rb"(?=\x00(?:[\x01-\x23].|\x00[^\x00]))", re.DOTALL
)  # from 2**40, which no scheme's numbers are under


def compound_texts(cell: bytes, depth: int) -> list[bytes]:
    texts = [cell]
    if depth > _DEEPEST:
        return texts + _bare_integers(cell)
    bounds = _range_bounds(cell) or _multirange_bounds(cell)
    for bound in bounds or ():
        texts += [*number_texts(CellKind.INT8_BINARY, bound), *_numeric_texts(bound)]
    parts = _array_parts(cell) or _record_parts(cell)
    if parts is None:
        return texts + _bare_integers(cell)
    for type_oid, value in parts:
        kind = kind_of(type_oid, BINARY)
        if kind is CellKind.COMPOUND_BINARY:
            texts += compound_texts(value, depth + 1)
        elif kind in OPAQUE_KINDS:
            texts += number_texts(kind, value)
    return texts


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


def _array_parts(cell: bytes) -> list[tuple[int, bytes]] | None:
    """array_send: dimensions, has-null flag, element type, size and lower bound of each dimension, then the elements."""
    if len(cell) < 12:
        return None
    dimensions, has_null, type_oid = struct.unpack_from(">iiI", cell)
    if not 0 <= dimensions <= 6 or has_null not in (0, 1) or len(cell) < 12 + 8 * dimensions:
        return None
    count = 1 if dimensions else 0
    for index in range(dimensions):
        count *= struct.unpack_from(">I", cell, 12 + 8 * index)[0]
    if count * 4 > len(cell):
        return None
    found = _sized_values(cell, 12 + 8 * dimensions, count)
    if found is None or found[1] != len(cell):
        return None
    return [(type_oid, value) for value in found[0]]


def _record_parts(cell: bytes) -> list[tuple[int, bytes]] | None:
    """record_send: field count, then each field's type and value."""
    if len(cell) < 4:
        return None
    count, at = int.from_bytes(cell[:4], "big"), 4
    parts: list[tuple[int, bytes]] = []
    if count * 8 > len(cell):
        return None
    for _ in range(count):
        type_oid = int.from_bytes(cell[at : at + 4], "big")
        found = _sized_values(cell, at + 4, 1)
        if found is None:
            return None
        parts += [(type_oid, value) for value in found[0]]
        at = found[1]
    return parts if at == len(cell) else None


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
