"""The small SQL of the fake target: what its statements are, by patterns on their text; tables, portals, prepared statements as values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

INT4: Final = 23
NAME: Final = 19
TEXT: Final = 25
NAME_ARRAY: Final = 1003
INT8: Final = 20
SIZES: Final = {INT4: 4, NAME: 64, TEXT: -1, NAME_ARRAY: -1, INT8: 8}

Cell = bytes | None
Row = tuple[Cell, ...]


class Column(NamedTuple):
    name: str
    type_oid: int
    table_oid: int = 0
    attnum: int = 0


@dataclass(slots=True)
class Table:
    oid: int
    columns: tuple[Column, ...]
    rows: list[Row]


class Counts(NamedTuple):
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


class TargetError(Exception):
    def __init__(self, sqlstate: str, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Plan:
    """One analysed statement. `kind` is a key of the run table; `values` are the pattern's groups. `columns` None: it returns no rows."""

    kind: str
    text: str
    values: tuple[str, ...] = ()
    columns: tuple[Column, ...] | None = None
    parameters: int = 0
    is_exit: bool = False  # COMMIT, ROLLBACK, ROLLBACK TO: let through in a failed transaction
    reads: int = 0  # the OID of the table that a SELECT reads


@dataclass(slots=True)
class Prepared:
    plan: Plan | None
    is_sql: bool = False


@dataclass(slots=True)
class Portal:
    """`rows` is what is still to be fetched, once it ran; `is_store`: it ran to its end at its first Execute."""

    plan: Plan | None
    parameters: tuple[Cell, ...]
    formats: tuple[int, ...]
    depth: int = 0  # how many savepoints were open when it was made
    rows: list[Row] | None = None
    tag: str = ""
    is_done: bool = False
    is_store: bool = False


@dataclass(slots=True)
class Snapshot:
    tables: dict[str, Table]
    path: str


def standard_tables(secrets: Sequence[str] = ("s-1", "s-2", "s-3")) -> dict[str, Table]:
    def table(oid: int, rows: list[Row]) -> Table:
        return Table(oid, (Column("id", INT4, oid, 1), Column("secret", TEXT, oid, 2)), rows)

    return {
        "notes": table(20000, [(str(number).encode(), text.encode()) for number, text in enumerate(secrets, 1)]),
        "other": table(20001, [(b"7", b"plain")]),
    }


_NAME: Final = r'"?([a-z_][a-z_0-9.]*)"?'
_ITEM: Final = r"(?:\d+|1/0|[a-z]+|'[^']*'|\$1::(?:int|text))"
_LIMIT: Final = r"(?: where id <= (\d+|\$1::int))?"

PATTERNS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("path", r"select pg_catalog\.current_schemas\(false\), current_user"),
        ("counters", r"select schemaname .*pg_stat_xact_user_tables.*"),
        ("select", rf"select ({_ITEM}(?:, {_ITEM})*)(?: from {_NAME})?{_LIMIT}"),
        ("insert", rf"insert into {_NAME} values ((?:\(\d+, '[^']*'\)(?:, )?)+)"),
        ("delete", rf"delete from {_NAME}{_LIMIT}(?: returning ([a-z]+(?:, [a-z]+)*))?"),
        ("truncate", rf"truncate {_NAME}"),
        ("create", rf"create table {_NAME} \(id int primary key, secret text\)"),
        ("drop", rf"drop table {_NAME}"),
        ("begin", r"begin"),
        ("commit", r"commit"),
        ("rollback", r"rollback"),
        ("savepoint", rf"savepoint {_NAME}"),
        ("release", rf"release savepoint {_NAME}"),
        ("rollback_to", rf"rollback to savepoint {_NAME}"),
        ("set_path", r"set search_path = ([a-z]+)"),
        ("prepare", rf"prepare {_NAME} as (.+)"),
        ("execute", rf"execute {_NAME}"),
        ("deallocate", rf"deallocate {_NAME}"),
        ("declare", rf"declare {_NAME} cursor for (.+)"),
        ("fetch", rf"fetch (\d+) from {_NAME}"),
        ("close", rf"close {_NAME}"),
        ("copy_in", rf"copy {_NAME} from stdin"),
        ("copy_out", rf"copy {_NAME} to stdout"),
    )
)


def split_statements(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if re.sub(r"/\*.*?\*/", "", part).strip()]


def match_plan(text: str) -> Plan:
    bare = " ".join(re.sub(r"/\*.*?\*/", " ", text).split())
    for kind, pattern in PATTERNS:
        found = pattern.fullmatch(bare)
        if found is not None:
            values = tuple(group or "" for group in found.groups())
            if kind in ("prepare", "declare"):
                match_plan(values[1])
            is_exit = kind in ("commit", "rollback", "rollback_to")
            return Plan(kind, text, values, None, 1 if "$1" in bare and kind != "prepare" else 0, is_exit)
    raise TargetError("42601", "syntax error")


def cut(name: str) -> str:
    """As PostgreSQL keeps names: their first 63 bytes."""
    return name.encode()[:63].decode("utf-8", "ignore")
