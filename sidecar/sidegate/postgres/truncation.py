"""How many rows a TRUNCATE takes away: the target doesn't count them, so the gate looks before. Pure; a part of stories.py's measuring.

Rules it keeps: the tables are locked as TRUNCATE will lock them before anything is counted, so that no row comes in between; nothing is
counted further than the limit; what can't be counted for sure (CASCADE, a view, row security, no right to read) isn't counted at all, and
is then over every limit. Left out: taking locks back, which is the story's.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from sidegate.policy.decision import Permit
from sidegate.policy.statement import RelationRef, SqlStatement, StatementKind, TableImpact
from sidegate.postgres.pipeline import Answer
from sidegate.sql.copy_out import quote

if TYPE_CHECKING:
    from sidegate.postgres.stories import Ask

MOST_TABLES: Final = 32
_ORDINARY: Final = frozenset({b"r", b"p"})  # pg_class.relkind: a table, a partitioned table


def is_truncation(statement: SqlStatement) -> bool:
    return StatementKind.TRUNCATE in statement.kinds


def may_be_counted(statement: SqlStatement) -> bool:
    """CASCADE reaches tables that nobody named: it has no settled schemas."""
    return (
        statement.kinds == {StatementKind.TRUNCATE} and statement.schemas is not None and 0 < len(statement.writes) <= MOST_TABLES
    )


def count_rows(statement: SqlStatement, limit: int, permit: Permit) -> Generator[Ask, Any, tuple[TableImpact, ...] | None]:
    """Lock, look what the tables are, count. None: not to be told, or more than `limit`; locks may have been taken."""
    from sidegate.postgres.stories import Ask

    names = sorted(name_of(relation) for relation in statement.writes)
    locked: Answer = yield Ask(f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE", permit)
    if locked.error is not None or locked.was_skipped:
        return None
    looked: Answer = yield Ask(_LOOK.format(", ".join(f"{literal(name)}::pg_catalog.regclass" for name in names)), permit)
    if looked.error is not None or len(looked.rows) != len(names):
        return None
    if any(kind not in _ORDINARY or has_row_security != b"f" for kind, has_row_security in looked.rows):
        return None
    each = (
        f"SELECT {place}, pg_catalog.count(*) FROM (SELECT 1 FROM {name} LIMIT {limit + 1}) AS counted"  # noqa: S608 - names are quoted
        for place, name in enumerate(names)
    )
    counted: Answer = yield Ask(" UNION ALL ".join(each), permit)
    if counted.error is not None or len(counted.rows) != len(names):
        return None
    counts = {names[int(place or b"0")]: int(count or b"0") for place, count in counted.rows}
    return tuple(TableImpact(name, 0, 0, counts[name]) for name in names) if sum(counts.values()) <= limit else None


_LOOK: Final = (
    "SELECT relkind, relrowsecurity FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) ANY (ARRAY[{}]::pg_catalog.oid[])"
)


def name_of(relation: RelationRef) -> str:
    """As the target resolves the client's own: a name that could be in several schemas was written without one."""
    if relation.schemas is not None and len(relation.schemas) == 1:
        (schema,) = relation.schemas
        return f"{quote(schema)}.{quote(relation.name)}"
    return quote(relation.name)


def literal(text: str) -> str:
    quoted = text.replace("'", "''")
    return f"'{quoted}'"
