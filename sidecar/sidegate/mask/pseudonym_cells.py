"""Pseudonyms in cells of results, and values in parameters: between a type's wire forms and the text that a pseudonym is made of.

A value of each type has one text, whatever format it comes in, so that its pseudonym is the same in both. What isn't a value of its type
any more (a number that left the type's range, a token in place of a number) is NULL. Types that aren't here have no pseudonyms.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Final

from sidegate.mask.kinds import BINARY, INT8_OID, NUMERIC_OID, TEXT_OIDS
from sidegate.mask.pseudonym import UUID, WHOLE_NUMBER, Pseudonyms

UUID_OID: Final = 2950
_INTEGER_BYTES: Final[Mapping[int, int]] = {21: 2, 23: 4, INT8_OID: 8}
SHOWN_OIDS: Final = TEXT_OIDS | _INTEGER_BYTES.keys() | {NUMERIC_OID, UUID_OID}
_NEGATIVE: Final = 0x4000  # NUMERIC_NEG (utils/adt/numeric.c)
_GROUP: Final = 10_000
_BARE_UUID: Final = re.compile(rb"[0-9A-Fa-f]{32}")


def pseudonym_cell(cell: bytes, type_oid: int, format_code: int, pseudonyms: Pseudonyms) -> bytes | None:
    """What stands instead of `cell`; None is NULL."""
    text = text_of(cell, type_oid, format_code)
    shown = pseudonyms.shown(text) if text is not None else None
    return cell_of(shown, type_oid, format_code) if shown is not None else None


def original_cell(cell: bytes, type_oid: int, format_code: int, pseudonyms: Pseudonyms) -> bytes | None:
    """The value whose pseudonym a client sent; None: no value of the type has it."""
    text = text_of(cell, type_oid, format_code)
    value = pseudonyms.original(text) if text is not None else None
    return cell_of(value, type_oid, format_code) if value is not None else None


def text_of(cell: bytes, type_oid: int, format_code: int) -> bytes | None:
    """The text of a value; None where the type, or this value of it, has no pseudonym."""
    if type_oid in TEXT_OIDS:
        return cell
    if format_code != BINARY:
        if type_oid == UUID_OID and _BARE_UUID.fullmatch(cell):
            return _spelled(cell.decode("ascii").lower())  # as drivers write it
        return cell if _is_of(cell, type_oid) else None
    size = _INTEGER_BYTES.get(type_oid)
    if size is not None:
        return str(int.from_bytes(cell, "big", signed=True)).encode() if len(cell) == size else None
    if type_oid == UUID_OID and len(cell) == 16:
        return _spelled(cell.hex())
    return _numeric_text(cell) if type_oid == NUMERIC_OID else None


def cell_of(text: bytes, type_oid: int, format_code: int) -> bytes | None:
    """The wire form of a text as a value of the type; None: it isn't one."""
    if type_oid in TEXT_OIDS:
        return text
    if not _is_of(text, type_oid):
        return None
    if format_code != BINARY:
        return text
    size = _INTEGER_BYTES.get(type_oid)
    if size is not None:
        return int(text).to_bytes(size, "big", signed=True)
    return bytes.fromhex(text.decode().replace("-", "")) if type_oid == UUID_OID else _numeric_cell(int(text))


def _spelled(digits: str) -> bytes:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])).encode()


def _is_of(text: bytes, type_oid: int) -> bool:
    if not text.isascii():
        return False
    form = UUID if type_oid == UUID_OID else WHOLE_NUMBER
    if form.fullmatch(text.decode("ascii")) is None:
        return False
    size = _INTEGER_BYTES.get(type_oid)
    if size is None:
        return type_oid in SHOWN_OIDS
    return len(text) <= 20 and -(1 << (8 * size - 1)) <= int(text) < 1 << (8 * size - 1)


def _numeric_text(cell: bytes) -> bytes | None:
    """numeric_send: count of digits, weight, sign, scale, then digits of base 10,000. None: it isn't a whole number other than 0."""
    if len(cell) < 8:
        return None
    unpacked: tuple[int, int, int, int] = struct.unpack_from(">HhHH", cell)
    count, weight, sign, scale = unpacked
    if len(cell) != 8 + 2 * count or sign not in (0, _NEGATIVE) or scale or not 0 < count <= weight + 1 or weight > 64:
        return None
    number = 0
    for place in range(weight + 1):
        group = int.from_bytes(cell[8 + 2 * place : 10 + 2 * place], "big") if place < count else 0
        if group >= _GROUP:
            return None
        number = number * _GROUP + group
    if not number:
        return None
    return str(-number if sign else number).encode()


def _numeric_cell(number: int) -> bytes:
    groups: list[int] = []
    rest = abs(number)
    while rest:
        rest, group = divmod(rest, _GROUP)
        groups.insert(0, group)
    weight = len(groups) - 1
    while groups and not groups[-1]:
        groups.pop()
    sign = _NEGATIVE if number < 0 else 0
    return struct.pack(">HhHH", len(groups), weight, sign, 0) + b"".join(group.to_bytes(2, "big") for group in groups)
