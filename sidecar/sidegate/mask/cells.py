"""Cells of PostgreSQL results: how a value of each type is looked into, and what may legally stand instead of a masked one.

A masked cell must still decode in every driver. Types that hold text get the strategy's output, json and jsonb a JSON string, bytea the
output's bytes; everything else gets NULL. Scanning never changes a cell in which nothing is found.

What a binary cell holds is read as PostgreSQL's own send functions write it (src/backend/utils/adt/*.c): int8, float8, money and numeric
are looked at as decimal text; arrays and records are walked down to their elements; unknown types are tried as both, and looked at raw.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Final

from sidegate.mask.json import mask_json
from sidegate.mask.scanner import Scanner
from sidegate.mask.strategies import is_constant, masked_value
from sidegate.mask.tally import Tally
from sidegate.policy.decision import MaskStrategy

TEXT: Final = 0
BINARY: Final = 1

JSON_OID: Final = 114
JSONB_OID: Final = 3802
BYTEA_OID: Final = 17
INT8_OID: Final = 20
FLOAT8_OID: Final = 701
MONEY_OID: Final = 790
NUMERIC_OID: Final = 1700
# text, varchar, bpchar, name, xml, unknown: any bytes in the client's encoding are a value.
TEXT_OIDS: Final = frozenset({25, 1043, 1042, 19, 142, 705})
# _text, _varchar, _bpchar, _name, _xml, and the search types: a replacement inside keeps the literal readable.
TEXT_COMPOUND_OIDS: Final = frozenset({1009, 1015, 1014, 1003, 143, 3614, 3615, 2249, 2287})
# Ranges and multiranges of numbers, and arrays of what isn't text: a replacement inside would be no element of theirs.
NUMBER_COMPOUND_OIDS: Final = frozenset(
    {1016, 1231, 1022, 791, 1001, 199, 3807}  # _int8, _numeric, _float8, _money, _bytea, _json, _jsonb
    | {3926, 3927, 3906, 3907, 4536, 6157, 4532, 6151}  # int8range, numrange, their multiranges, arrays of each
)

# Types that can't hold what any detector finds: bool, "char", int2, int4, oid, xid, cid, float4 (nine significant digits), date, time,
# timetz, timestamp, timestamptz (colons between at most eight digits), uuid, macaddr, macaddr8, pg_lsn, void.
PLAIN_OIDS: Final = frozenset({16, 18, 21, 23, 26, 28, 29, 700, 1082, 1083, 1266, 1114, 1184, 2950, 829, 774, 3220, 2278})


class CellKind(enum.IntEnum):
    """How a cell is looked into."""

    PLAIN = 0  # can't hold a detector's value
    TEXT_VALUE = 1  # replaced inside
    JSON_TEXT = 2
    JSONB_BINARY = 3  # a version byte, then JSON text
    BYTEA_TEXT = 4
    BYTEA_BINARY = 5
    NUMBER_TEXT = 6  # anything found makes the cell NULL
    FLOAT8_TEXT = 7
    MONEY_TEXT = 8
    INT8_BINARY = 9
    FLOAT8_BINARY = 10
    MONEY_BINARY = 11
    NUMERIC_BINARY = 12
    COMPOUND_BINARY = 13  # array, record, range or unknown


# Their wire bytes don't show their digits: the prefilter over a whole chunk says nothing about them.
OPAQUE_KINDS: Final = frozenset(
    {CellKind.INT8_BINARY, CellKind.FLOAT8_BINARY, CellKind.MONEY_BINARY, CellKind.NUMERIC_BINARY, CellKind.COMPOUND_BINARY}
    | {CellKind.MONEY_TEXT}
)

_BINARY_KINDS: Final[Mapping[int, CellKind]] = {
    **dict.fromkeys(TEXT_OIDS, CellKind.TEXT_VALUE),
    **dict.fromkeys(PLAIN_OIDS, CellKind.PLAIN),
    JSON_OID: CellKind.JSON_TEXT,
    JSONB_OID: CellKind.JSONB_BINARY,
    BYTEA_OID: CellKind.BYTEA_BINARY,
    INT8_OID: CellKind.INT8_BINARY,
    FLOAT8_OID: CellKind.FLOAT8_BINARY,
    MONEY_OID: CellKind.MONEY_BINARY,
    NUMERIC_OID: CellKind.NUMERIC_BINARY,
}
_TEXT_KINDS: Final[Mapping[int, CellKind]] = {
    **dict.fromkeys(PLAIN_OIDS, CellKind.PLAIN),
    **dict.fromkeys(NUMBER_COMPOUND_OIDS, CellKind.NUMBER_TEXT),
    JSON_OID: CellKind.JSON_TEXT,
    JSONB_OID: CellKind.JSON_TEXT,
    BYTEA_OID: CellKind.BYTEA_TEXT,
    INT8_OID: CellKind.NUMBER_TEXT,
    NUMERIC_OID: CellKind.NUMBER_TEXT,
    FLOAT8_OID: CellKind.FLOAT8_TEXT,
    MONEY_OID: CellKind.MONEY_TEXT,
    # inet, cidr, interval, bit, varbit, points and their kin: text that isn't ours to edit
    **dict.fromkeys((869, 650, 1186, 1560, 1562, 600, 601, 602, 603, 604, 628, 718), CellKind.NUMBER_TEXT),
}


def kind_of(type_oid: int, format_code: int) -> CellKind:
    """Unknown types: in text format text, in binary format a compound that is looked into as far as it can be."""
    if format_code == BINARY:
        return _BINARY_KINDS.get(type_oid, CellKind.COMPOUND_BINARY)
    return _TEXT_KINDS.get(type_oid, CellKind.TEXT_VALUE)


def column_replacement(type_oid: int, format_code: int, strategy: MaskStrategy, key: bytes | None) -> tuple[bool, bytes | None]:
    """For a masked column: whether every value gets the same cell, and that cell (None is NULL). If not, `masked_cell` makes each."""
    if not is_constant(strategy, key) and (type_oid in TEXT_OIDS or type_oid in (JSON_OID, JSONB_OID)):
        return False, None
    return True, masked_cell(b"", type_oid, format_code, strategy, key)


def masked_cell(cell: bytes, type_oid: int, format_code: int, strategy: MaskStrategy, key: bytes | None) -> bytes | None:
    """What stands instead of the whole of `cell`; None is NULL."""
    if type_oid in TEXT_OIDS:
        return masked_value(cell, strategy, key)
    if type_oid in (JSON_OID, JSONB_OID):
        # A partly shown document isn't one any more.
        shown = masked_value(cell, MaskStrategy.REDACT if strategy is MaskStrategy.PARTIAL else strategy, key)
        if shown is None:
            return None
        version = b"\x01" if type_oid == JSONB_OID and format_code == BINARY else b""
        return version + b'"' + shown + b'"'
    if type_oid == BYTEA_OID and is_constant(strategy, key):
        shown = masked_value(b"", strategy, key)
        if shown is None:
            return None
        return shown if format_code == BINARY else b"\\x" + shown.hex().encode()
    return None


def scan_cell(kind: CellKind, cell: bytes, scanner: Scanner, tally: Tally) -> bytes | None:
    """`cell` itself when nothing in it is to be masked; else what stands instead (None is NULL). Masked cells are counted in `tally`."""
    if kind is CellKind.TEXT_VALUE:
        return _scan_text(cell, scanner, tally)
    if kind is CellKind.PLAIN:
        return cell
    if kind is CellKind.JSON_TEXT:
        return mask_json(cell, scanner, tally)
    if kind is CellKind.JSONB_BINARY:
        document = cell[1:]
        masked = mask_json(document, scanner, tally)
        if masked is document:
            return cell
        return None if masked is None else cell[:1] + masked
    if kind is CellKind.BYTEA_TEXT:
        return _scan_bytea_text(cell, scanner, tally)
    if kind is CellKind.BYTEA_BINARY:
        return _scan_text(cell, scanner, tally)
    for text in _decimal_texts(kind, cell):
        if _is_hit(text, scanner, tally):
            return None
    return cell


def _scan_text(cell: bytes, scanner: Scanner, tally: Tally) -> bytes | None:
    spans = scanner.find(cell)
    if not spans:
        return cell
    tally.add_all({span.source for span in spans})
    if any(span.strategy is MaskStrategy.NULL for span in spans):
        return None
    return scanner.replace(cell, spans)


def _scan_bytea_text(cell: bytes, scanner: Scanner, tally: Tally) -> bytes | None:
    """The hexadecimal form (`\\x...`) is scanned as the bytes it stands for; the escape form as it is, where a replacement stays legal."""
    if not cell.startswith(b"\\x"):
        return _scan_text(cell, scanner, tally)
    try:
        value = bytes.fromhex(cell[2:].decode("ascii"))
    except ValueError:
        return None
    masked = _scan_text(value, scanner, tally)
    if masked is value:
        return cell
    return None if masked is None else b"\\x" + masked.hex().encode()


def _is_hit(text: bytes, scanner: Scanner, tally: Tally) -> bool:
    spans = scanner.find(text)
    tally.add_all({span.source for span in spans})
    return bool(spans)


def _decimal_texts(kind: CellKind, cell: bytes) -> list[bytes]:
    """The texts to look at for a cell that is masked whole or not at all. A cell of a wrong length for its type is looked at raw."""
    if kind is CellKind.NUMBER_TEXT:
        return [cell]
    if kind is CellKind.FLOAT8_TEXT:
        return [cell, *_integral(cell)] if b"e" in cell else [cell]
    if kind is CellKind.MONEY_TEXT:
        # Locales group and mark fractions as they like: all digits, and all but two and three fraction digits.
        digits = bytes(byte for byte in cell if 48 <= byte <= 57)
        return [cell, digits, digits[:-2], digits[:-3]]
    if kind is CellKind.COMPOUND_BINARY:
        return _compound_texts(cell, 0)
    return [cell, *_number_texts(kind, cell)]


def _integral(text: bytes) -> list[bytes]:
    """A decimal number in exponent form as an integer, if it is one of a sane size."""
    try:
        number = Decimal(text.decode("ascii"))
    except (InvalidOperation, ValueError):
        return []
    if not number.is_finite() or number.adjusted() > _MOST_DIGITS:
        return []
    return [str(abs(int(number))).encode()]


_MOST_DIGITS: Final = 40


def _number_texts(kind: CellKind, cell: bytes) -> list[bytes]:
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


_DEEPEST: Final = 8  # of compounds in compounds; deeper ones are looked at raw
_LARGEST_WALKED: Final = 64 * 1024  # bytes in which 64-bit integers are looked for at every place
_LARGEST_CARD: Final = 10**16


def _compound_texts(cell: bytes, depth: int) -> list[bytes]:
    texts = [cell]
    if depth > _DEEPEST:
        return texts
    parts = _array_parts(cell) or _record_parts(cell)
    if parts is None:
        return texts + _bare_integers(cell)
    for type_oid, value in parts:
        kind = kind_of(type_oid, BINARY)
        if kind is CellKind.COMPOUND_BINARY:
            texts += _compound_texts(value, depth + 1)
        elif kind in OPAQUE_KINDS:
            texts += _number_texts(kind, value)
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


def _bare_integers(cell: bytes) -> list[bytes]:
    """Every 64-bit integer that could start anywhere in a value of unknown form and is as long as a card number (ranges, own types)."""
    texts: list[bytes] = []
    for at in range(min(len(cell), _LARGEST_WALKED) - 7):
        if cell[at] == 0 and cell[at + 1] < 0x24:
            number = int.from_bytes(cell[at : at + 8], "big")
            if 10**12 <= number < _LARGEST_CARD:
                texts.append(str(number).encode())
    return texts
