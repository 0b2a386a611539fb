"""PostgreSQL's types as masking sees them: how a cell of each type and format is looked into. Tables; OIDs are from pg_type.dat."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

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
# Ranges and multiranges of numbers, and arrays of what isn't text: a replacement inside would be no element of theirs.
NUMBER_COMPOUND_OIDS: Final = frozenset(
    {1016, 1231, 1022, 791, 1001, 199, 3807}  # _int8, _numeric, _float8, _money, _bytea, _json, _jsonb
    | {3926, 3927, 3906, 3907, 4536, 6157, 4532, 6151}  # int8range, numrange, their multiranges, arrays of each
)

# Types that can't hold what any detector finds: bool, "char", int2, int4, oid, xid, cid, float4 (nine significant digits), date, time,
# timetz, timestamp, timestamptz (colons between at most eight digits), uuid, macaddr, macaddr8, pg_lsn, void.
PLAIN_OIDS: Final = frozenset({16, 18, 21, 23, 26, 28, 29, 700, 1082, 1083, 1266, 1114, 1184, 2950, 829, 774, 3220, 2278})
# In binary format, where their elements tell no type and 64-bit numbers would be looked for at every place: what is made of the types above
# and so can't hold more. int4range, tsrange, tstzrange, daterange and their multiranges (arrays tell the type of their elements); interval,
# which is microseconds, days and months, as timestamp is microseconds.
PLAIN_IN_BINARY_OIDS: Final = frozenset({3904, 3908, 3910, 3912, 4451, 4533, 4534, 4535, 1186})


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
    **dict.fromkeys(PLAIN_OIDS | PLAIN_IN_BINARY_OIDS, CellKind.PLAIN),
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
