"""Binary records and arrays, taken apart and put together again with other values in some places. Pure.

Rules it keeps: what stays keeps its bytes; a value that is taken away becomes NULL, and an array's header then says that it has some.
A cell that isn't exactly one record or one array, as record_send and array_send (src/backend/utils/adt) write them, is no compound:
the caller has to replace it whole. The two can't be mistaken: where a record has the type of its first field an array has a flag, and
no type's OID is that low.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from sidegate.policy.decision import MaskStrategy
from sidegate.policy.source import PolicyRule

# By position, type and value: the value, another, or None for NULL.
Replace: TypeAlias = Callable[[int, int, bytes], bytes | None]

DEEPEST: Final = 32
_LOWEST_OID: Final = 16  # bool: pg_type.dat has none below
_NULL: Final = b"\xff\xff\xff\xff"


class FieldMask(NamedTuple):
    """What is done with one field of a row. Neither: it is only scanned."""

    strategy: MaskStrategy | None = None
    sources: tuple[PolicyRule, ...] = ()
    inner: RowFields | None = None  # it is a row itself, or an array of rows


@dataclass(frozen=True, slots=True)
class RowFields:
    """The fields of a row type, those that aren't dropped, in their order."""

    fields: tuple[FieldMask, ...]


class Part(NamedTuple):
    type_oid: int
    value: bytes | None


def record_parts(cell: bytes) -> list[Part] | None:
    """A record's fields; None: it isn't one."""
    if len(cell) < 4:
        return None
    count, at = int.from_bytes(cell[:4], "big"), 4
    if count * 8 > len(cell):
        return None
    parts: list[Part] = []
    for _ in range(count):
        type_oid = int.from_bytes(cell[at : at + 4], "big")
        sized = _sized(cell, at + 4)
        if sized is None or type_oid < _LOWEST_OID:
            return None
        value, at = sized
        parts.append(Part(type_oid, value))
    return parts if at == len(cell) else None


def rewrite_record(cell: bytes, replace: Replace) -> bytes | None:
    """None: it isn't a record."""
    parts = record_parts(cell)
    if parts is None:
        return None
    out = [cell[:4]]
    for place, (type_oid, value) in enumerate(parts):
        out += [type_oid.to_bytes(4, "big"), _wire(value if value is None else replace(place, type_oid, value))]
    return b"".join(out)


def rewrite_array(cell: bytes, replace: Replace) -> bytes | None:
    """None: it isn't an array."""
    if len(cell) < 12:
        return None
    unpacked: tuple[int, int, int] = struct.unpack_from(">iiI", cell)
    dimensions, has_null, type_oid = unpacked
    start = 12 + 8 * dimensions
    if not 0 <= dimensions <= 6 or has_null not in (0, 1) or len(cell) < start:
        return None
    count: int = 1 if dimensions else 0
    for index in range(dimensions):
        count *= struct.unpack_from(">I", cell, 12 + 8 * index)[0]
    if count * 4 > len(cell):
        return None
    values: list[bytes] = []
    at = start
    for place in range(count):
        sized = _sized(cell, at)
        if sized is None:
            return None
        value, at = sized
        replaced = value if value is None else replace(place, type_oid, value)
        has_null = 1 if replaced is None else has_null
        values.append(_wire(replaced))
    if at != len(cell):
        return None
    return b"".join((cell[:4], has_null.to_bytes(4, "big"), cell[8:start], *values))


def rewrite_compound(cell: bytes, replace: Replace) -> bytes | None:
    rewritten = rewrite_record(cell, replace)
    return rewritten if rewritten is not None else rewrite_array(cell, replace)


def mask_rows(cell: bytes, row: RowFields, mask: Callable[[FieldMask, int, bytes], bytes | None], depth: int = 0) -> bytes | None:
    """A row, or an array of them, with its masked fields replaced. None: it isn't what the catalog says."""
    if depth > DEEPEST:
        return None
    parts = record_parts(cell)
    if parts is None:
        return rewrite_array(cell, lambda _place, _type, value: _only_record(value, row, mask, depth))
    return _only_record(cell, row, mask, depth)


def _only_record(cell: bytes, row: RowFields, mask: Callable[[FieldMask, int, bytes], bytes | None], depth: int) -> bytes | None:
    parts = record_parts(cell)
    if parts is None or len(parts) != len(row.fields):
        return None

    def replace(place: int, type_oid: int, value: bytes) -> bytes | None:
        field = row.fields[place]
        if field.inner is not None:
            return mask_rows(value, field.inner, mask, depth + 1)
        return value if field.strategy is None else mask(field, type_oid, value)

    return rewrite_record(cell, replace)


def _sized(cell: bytes, at: int) -> tuple[bytes | None, int] | None:
    """A value behind its int32 length, -1 for NULL, and where it ends."""
    if at + 4 > len(cell):
        return None
    size = int.from_bytes(cell[at : at + 4], "big", signed=True)
    at += 4
    if size == -1:
        return None, at
    if size < 0 or at + size > len(cell):
        return None
    return cell[at : at + size], at + size


def _wire(value: bytes | None) -> bytes:
    return _NULL if value is None else len(value).to_bytes(4, "big") + value
