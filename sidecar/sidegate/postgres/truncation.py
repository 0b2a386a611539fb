"""How many rows a TRUNCATE takes away: the target doesn't count them, so the gate looks before. Pure; a part of stories.py's measuring.

Rules it keeps:
- The tables are locked as TRUNCATE will lock them before anything is counted, so that no row comes in between. An older snapshot, as
  of REPEATABLE READ, doesn't show what came before the lock: then nothing is counted.
- Names are the target's to resolve, and may lead elsewhere a moment later; and a trigger may truncate more. So what counts is what was
  emptied: TRUNCATE locks it exclusively, and of such locks the transaction may have none before, and afterwards none but on what was
  counted.
- Nothing is counted further than the limit. What can't be counted for sure (CASCADE, a view, row security, no right to read) isn't
  counted at all, and is then over every limit.

Left out: taking locks back, which is the story's.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sidegate.policy.decision import Permit
from sidegate.policy.statement import RelationRef, SqlStatement, StatementKind, TableImpact
from sidegate.postgres.pipeline import Answer
from sidegate.sql import quote

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


@dataclass(frozen=True, slots=True)
class Counted:
    """`locked`: the tables that the count is of, as the target numbers them (pg_class.oid in text), those that inherit among them."""

    tables: tuple[TableImpact, ...]
    locked: frozenset[bytes | None]


def count_rows(statement: SqlStatement, limit: int, permit: Permit) -> Generator[Ask, Any, Counted | None]:
    """Lock, look what the tables are, count. None: not to be told, or more than `limit`; locks may have been taken."""
    from sidegate.postgres.stories import Ask

    begun: Answer = yield Ask(_BEGUN, permit)
    if begun.error is not None or begun.rows != [(b"read committed", b"0")]:
        return None
    names = sorted(name_of(relation) for relation in statement.writes)
    taken: Answer = yield Ask(f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE", permit)
    if taken.error is not None or taken.was_skipped:
        return None
    looked: Answer = yield Ask(_LOOK.format(", ".join(f"{literal(name)}::pg_catalog.regclass" for name in names)), permit)
    if looked.error is not None or len(looked.rows) != len(names):
        return None
    if any(kind not in _ORDINARY or has_row_security != b"f" for kind, has_row_security in looked.rows):
        return None
    held: Answer = yield Ask(_EXCLUSIVE, permit)
    if held.error is not None:
        return None
    locked = frozenset(oid for (oid,) in held.rows)
    each = (
        f"SELECT {place}, {literal(name)}::pg_catalog.regclass::pg_catalog.oid,"  # noqa: S608 - names are quoted
        f" pg_catalog.count(*) FROM (SELECT 1 FROM {name} LIMIT {limit + 1}) AS counted"
        for place, name in enumerate(names)
    )
    counted: Answer = yield Ask(" UNION ALL ".join(each), permit)
    if counted.error is not None or len(counted.rows) != len(names):
        return None
    if not locked.issuperset(oid for _, oid, _ in counted.rows):  # the name leads elsewhere by now
        return None
    counts = {names[int(place or b"0")]: int(count or b"0") for place, _, count in counted.rows}
    if sum(counts.values()) > limit:
        return None
    return Counted(tuple(TableImpact(name, 0, 0, counts[name]) for name in names), locked)


def was_all(counted: Counted, permit: Permit) -> Generator[Ask, Any, bool]:
    """After it ran: whether nothing was emptied but what was counted."""
    from sidegate.postgres.stories import Ask

    held: Answer = yield Ask(_EXCLUSIVE, permit)
    return held.error is None and counted.locked.issuperset(oid for (oid,) in held.rows)


# Tables of any kind that this transaction has locked in the mode of TRUNCATE; indexes and TOAST come with their table.
_EXCLUSIVE: Final = (
    "SELECT held.relation FROM pg_catalog.pg_locks AS held"
    " JOIN pg_catalog.pg_class AS class ON class.oid OPERATOR(pg_catalog.=) held.relation"
    " WHERE held.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
    " AND held.locktype OPERATOR(pg_catalog.=) 'relation' AND held.mode OPERATOR(pg_catalog.=) 'AccessExclusiveLock'"
    " AND class.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'f', 'm']::pg_catalog.\"char\"[])"
)
_BEGUN: Final = (
    "SELECT pg_catalog.current_setting('transaction_isolation'),"  # noqa: S608 - constants
    f" (SELECT pg_catalog.count(*) FROM ({_EXCLUSIVE}) AS before)"
)
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
