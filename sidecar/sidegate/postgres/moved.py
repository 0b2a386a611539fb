"""What one session's open transaction did to definitions, which no catalog that is read beside it can show. Pure.

Rules it keeps:
- A name that was given in the transaction stands for what it was before, too: what derives from a masked column still does.
- After a name moved, a trigger or a rule may stand behind any name: changes may delete what the catalog doesn't know of.
- It holds from the moment such a statement is sent, for those behind it in the same string or pipeline too, until the transaction is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from sidegate.policy.masked import ANY_COLUMN
from sidegate.policy.statement import ColumnRef, RelationRef, SqlStatement, StatementKind, columns_reaching

# Kinds that may run triggers and rules of what they change.
FIRING: Final = frozenset({StatementKind.INSERT, StatementKind.UPDATE, StatementKind.MERGE, StatementKind.TRUNCATE})

# Kinds after which the target's definitions may be others.
CHANGES_DEFINITIONS: Final = frozenset({
    StatementKind.DDL, StatementKind.CALL, StatementKind.DO, StatementKind.ROLES, StatementKind.SERVER,
})  # fmt: skip


class Moved:
    """`is_unsettled`: something was defined. `may_fire_unseen`: a name may have other triggers than the catalog says."""

    __slots__ = ("_former", "has_moved_schema", "is_unsettled", "may_fire_unseen")

    def __init__(self, other: Moved | None = None) -> None:
        self._former: dict[str, frozenset[RelationRef]] = dict(other._former) if other is not None else {}
        self.has_moved_schema: bool = other is not None and other.has_moved_schema
        self.is_unsettled: bool = other is not None and other.is_unsettled
        self.may_fire_unseen: bool = other is not None and other.may_fire_unseen

    def note(self, statements: Iterable[SqlStatement]) -> None:
        """They go out, or have run."""
        for statement in statements:
            if statement.kinds.isdisjoint(CHANGES_DEFINITIONS):
                continue
            self.is_unsettled = True
            self.may_fire_unseen = self.may_fire_unseen or moves_triggers(statement)
            for column in statement.columns_changed:
                if column.name != ANY_COLUMN:
                    continue
                if column.relation is None:
                    self.has_moved_schema = True
                    continue
                was = self._former.get(column.relation.name, frozenset()) | {column.relation}
                for new in statement.creates:
                    self._former[new.name] = self._former.get(new.name, frozenset()) | was

    def settled(self) -> bool:
        """The transaction is over. Whether something was defined in it."""
        was_unsettled = self.is_unsettled
        if was_unsettled:
            self._former, self.has_moved_schema, self.is_unsettled, self.may_fire_unseen = {}, False, False, False
        return was_unsettled

    def meanings(self, column: ColumnRef) -> list[ColumnRef]:
        """The column, and what else it may be by an older name of its relation."""
        if column.relation is None:
            return [column]
        return [column, *(ColumnRef(column.name, former) for former in self._former.get(column.relation.name, ()))]

    def hides(self, statement: SqlStatement, may_be_masked: Callable[[ColumnRef], bool]) -> bool:
        """A column of it may be a masked one by an older name of its relation."""
        if self.has_moved_schema:
            return True
        if not self._former:
            return False
        columns = statement.columns_steering | columns_reaching(statement)
        return any(may_be_masked(former) for column in columns for former in self.meanings(column)[1:])


def moves_triggers(statement: SqlStatement) -> bool:
    """Afterwards triggers or rules may run for a name that had none: a trigger, a view, a partition, or a table by that name."""
    if StatementKind.DDL not in statement.kinds:
        return False
    makes_of_others = bool(statement.creates and (statement.reads or statement.writes))
    moves = any(column.name == ANY_COLUMN for column in statement.columns_changed)
    return makes_of_others or moves or statement.stores_code is not None or StatementKind.ROLES in statement.kinds
