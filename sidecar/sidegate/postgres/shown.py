"""A statement with its values as an approver sees it: masked, each value with its type and format. Pure.

A value that the detectors find something in is never shown in hexadecimal, where nobody would see what was left of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sidegate.approval.backend import ShownParameter, ShownStatement
from sidegate.postgres.statements import BoundText
from sidegate.record.replay_rows import binary_text

# pg_type.oid of what clients name as types of parameters (PostgreSQL, src/include/catalog/pg_type.dat). Others are shown by their number.
TYPE_NAMES: Final[dict[int, str]] = {
    16: "bool", 17: "bytea", 18: "char", 19: "name", 20: "int8", 21: "int2", 23: "int4", 24: "regproc", 25: "text", 26: "oid",
    27: "tid", 28: "xid", 114: "json", 142: "xml", 600: "point", 650: "cidr", 700: "float4", 701: "float8", 790: "money",
    829: "macaddr", 869: "inet", 1000: "bool[]", 1001: "bytea[]", 1003: "name[]", 1005: "int2[]", 1007: "int4[]", 1009: "text[]",
    1014: "bpchar[]", 1015: "varchar[]", 1016: "int8[]", 1021: "float4[]", 1022: "float8[]", 1028: "oid[]", 1042: "bpchar",
    1043: "varchar", 1082: "date", 1083: "time", 1114: "timestamp", 1115: "timestamp[]", 1182: "date[]", 1184: "timestamptz",
    1185: "timestamptz[]", 1186: "interval", 1231: "numeric[]", 1266: "timetz", 1560: "bit", 1562: "varbit", 1700: "numeric",
    2205: "regclass", 2206: "regtype", 2249: "record", 2278: "void", 2950: "uuid", 2951: "uuid[]", 3802: "jsonb", 3807: "jsonb[]",
    4072: "jsonpath",
}  # fmt: skip


def shown_statement(bound: BoundText, mask: Callable[[str], str]) -> ShownStatement:
    """`mask` is the session's, for texts."""
    return ShownStatement(mask(bound.text), tuple(_shown(bound, index, mask) for index in range(len(bound.parameters))))


def _shown(bound: BoundText, index: int, mask: Callable[[str], str]) -> ShownParameter:
    value, is_binary = bound.parameters[index], bound.is_binary(index)
    oid = bound.oids[index] if index < len(bound.oids) else 0
    kind = "" if oid == 0 else TYPE_NAMES.get(oid, f"oid {oid}")
    if value is None:
        return ShownParameter(kind, is_binary)
    raw = value.decode("utf-8", "surrogateescape")
    masked = mask(raw)
    if masked != raw:
        return ShownParameter(kind, is_binary, masked, is_masked=True)
    if is_binary:
        text = binary_text(oid, value)
        if text is None:
            return ShownParameter(kind, is_binary, hexadecimal=value.hex())
        masked = mask(text)  # digits that the bytes don't have
        return ShownParameter(kind, is_binary, masked, is_masked=masked != text)
    try:
        return ShownParameter(kind, is_binary, value.decode())
    except UnicodeDecodeError:  # the target will refuse it
        return ShownParameter(kind, is_binary, hexadecimal=value.hex())
