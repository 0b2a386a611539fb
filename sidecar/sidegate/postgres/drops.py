"""How many rows go with tables that are dropped: the target doesn't count them, so the gate looks before and after. Pure; a part of
stories.py's measuring.

Rules it keeps: the tables that are named, and all that inherit from them, are locked as DROP will lock them before anything is counted, and
nothing is counted further than the limit. Whatever else CASCADE took is found afterwards, by the tables that are gone: those weren't
counted, so the statement is over every limit, as it is where row security, a missing right or a snapshot older than the lock (REPEATABLE
READ) keeps rows out of sight. Rows of temporary tables are nobody else's and don't count; foreign tables hold none.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sidegate.policy.decision import Permit
from sidegate.policy.statement import RelationRef, SqlStatement, StatementKind, TableImpact
from sidegate.postgres.pipeline import Answer
from sidegate.postgres.truncation import literal, name_of
from sidegate.sql import quote

if TYPE_CHECKING:
    from sidegate.postgres.stories import Ask

_DEFINES: Final = frozenset({StatementKind.DDL, StatementKind.ROLES, StatementKind.SERVER})
MOST_NAMED: Final = 64
MOST_TABLES: Final = 128
# Every name and operator is spelled in full: the client's search_path may have its own.
_FIND: Final = (
    "WITH RECURSIVE gone (oid) AS (SELECT pg_catalog.unnest(ARRAY[{tables}]::pg_catalog.oid[])"
    " UNION SELECT c.oid FROM pg_catalog.pg_class c"
    " WHERE c.relnamespace OPERATOR(pg_catalog.=) ANY (ARRAY[{schemas}]::pg_catalog.oid[])"
    " UNION SELECT i.inhrelid FROM gone g JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) g.oid)"
    " SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relrowsecurity FROM gone g"
    " JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) g.oid"
    " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
    " WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{{r,p}}'::pg_catalog.\"char\"[]) LIMIT {most}"
)
_ISOLATION: Final = "SELECT pg_catalog.current_setting('transaction_isolation')"
_ALL: Final = (
    "SELECT pg_catalog.array_agg(c.oid) FROM pg_catalog.pg_class c"
    " WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'::pg_catalog.\"char\"[])"
    " AND c.relpersistence OPERATOR(pg_catalog.<>) 't'::pg_catalog.\"char\""
)
_GONE: Final = (
    "SELECT o.oid FROM pg_catalog.unnest({there}::pg_catalog.oid[]) o (oid)"
    " WHERE o.oid OPERATOR(pg_catalog.<>) ALL ({counted}::pg_catalog.oid[]) AND NOT EXISTS"
    " (SELECT FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) o.oid) LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Going:
    """What was there before, and how many rows are in what was named."""

    there: str  # every table, as an array of oids
    tables: tuple[str, ...]  # those that were counted
    counted: tuple[TableImpact, ...]


def is_drop(statements: Sequence[SqlStatement]) -> bool:
    return any(statement.drops_tables is not None for statement in statements)


def may_be_counted(statements: Sequence[SqlStatement]) -> bool:
    """Alone, or among definitions: other statements of the string could fill or empty what was counted."""
    named = sum(len(statement.drops_tables or ()) for statement in statements)
    return named <= MOST_NAMED and all(
        StatementKind.DDL in statement.kinds and statement.kinds <= _DEFINES for statement in statements
    )


def count_rows(statements: Sequence[SqlStatement], limit: int, permit: Permit) -> Generator[Ask, Any, Going | None]:
    """Find the tables, lock them, count. None: not to be told, or more than `limit`; locks may have been taken."""
    from sidegate.postgres.stories import Ask

    isolation: Answer = yield Ask(_ISOLATION, permit)
    if isolation.error is not None or isolation.rows != [(b"read committed",)]:
        return None
    named = sorted({relation for statement in statements for relation in statement.drops_tables or ()}, key=str)
    found: Answer = yield Ask(_find(named), permit)
    if found.error is not None or found.was_skipped or len(found.rows) > MOST_TABLES:
        return None
    rows = [tuple((value or b"").decode() for value in row) for row in found.rows]
    names = [f"{quote(schema)}.{quote(name)}" for _oid, schema, name, *_ in rows]
    if names:
        locked: Answer = yield Ask(f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE", permit)
        if locked.error is not None or locked.was_skipped:
            return None
    counts: list[TableImpact] = []
    lasting = [name for name, row in zip(names, rows, strict=True) if row[3:5] == ("r", "p") or row[3:5] == ("r", "u")]
    if lasting:
        if any(row[5] != "f" for row in rows):
            return None
        each = (
            f"SELECT {place}, pg_catalog.count(*) FROM (SELECT 1 FROM ONLY {name} LIMIT {limit + 1}) AS counted"  # noqa: S608 - names are quoted
            for place, name in enumerate(lasting)
        )
        counted: Answer = yield Ask(" UNION ALL ".join(each), permit)
        if counted.error is not None or len(counted.rows) != len(lasting):
            return None
        counts = [TableImpact(lasting[int(place or b"0")], 0, 0, int(count or b"0")) for place, count in counted.rows]
        if sum(table.deleted for table in counts) > limit:
            return None
    there: Answer = yield Ask(_ALL, permit)
    if there.error is not None or len(there.rows) != 1:
        return None
    listed = (there.rows[0][0] or b"{}").decode()
    return Going(listed, tuple(row[0] for row in rows), tuple(table for table in counts if table.deleted))


def took_others(going: Going, permit: Permit) -> Generator[Ask, Any, bool]:
    """Whether a table is gone that wasn't counted. In doubt: yes."""
    from sidegate.postgres.stories import Ask

    counted = "{" + ",".join(going.tables) + "}"
    gone: Answer = yield Ask(_GONE.format(there=literal(going.there), counted=literal(counted)), permit)
    return gone.error is not None or gone.was_skipped or bool(gone.rows)


def _find(named: Sequence[RelationRef]) -> str:
    tables = [
        f"pg_catalog.to_regclass({literal(name_of(relation))})::pg_catalog.oid" for relation in named if relation.name != "*"
    ]
    schemas = [
        f"pg_catalog.to_regnamespace({literal(quote(schema))})::pg_catalog.oid"
        for relation in named
        if relation.name == "*"
        for schema in relation.schemas or ()
    ]
    return _FIND.format(tables=", ".join(tables), schemas=", ".join(schemas), most=MOST_TABLES + 1)
