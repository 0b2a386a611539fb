"""What definitions say against a statement: columns that derive from masked ones steer, or are compared with when written. Pure.

An answer depends on the statement, the masks and the catalog alone, and is kept while all three stay what they were; where an open
transaction has changed definitions, on that too, and isn't kept.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sidegate.policy.decision import ColumnUse, Masks
from sidegate.policy.masked import ANY_COLUMN
from sidegate.policy.reason import Reason
from sidegate.policy.statement import ColumnRef, SqlStatement
from sidegate.postgres.catalog import Catalog, MaskedView
from sidegate.postgres.moved import Moved

# What a refusal says that the target's catalog made, so that a reader of recordings knows it from one that the policies made alone.
DERIVES: Final = "derives from a masked column"
WOULD_TELL: Final = "and a conflict would tell its values"
MAX_KEPT: Final = 512
MAX_KEPT_TEXT: Final = 8192  # characters of a statement, which a kept answer keeps alive

_WITH_EQUALITY: Final = frozenset({ColumnUse.ALLOWED, ColumnUse.EQUALITY})


class Problem(NamedTuple):
    """Why the statement may not run, in words for the refusal's detail."""

    reason: Reason
    detail: str


class Derived:
    __slots__ = ("_catalog", "_kept", "_masks")

    def __init__(self) -> None:
        self._kept: dict[int, tuple[SqlStatement, Problem | None]] = {}
        self._masks: Masks | None = None
        self._catalog: Catalog | None = None

    def problem(self, statement: SqlStatement, masks: Masks, catalog: Catalog, moved: Moved) -> Problem | None:
        if moved.is_unsettled:
            return _problem(statement, masks, catalog.masked_view(masks), moved)
        if masks is not self._masks or catalog is not self._catalog:
            self._kept.clear()
            self._masks, self._catalog = masks, catalog
        # INVARIANT: an entry keeps its statement alive, so an id in use never names another statement
        kept = self._kept.get(id(statement))
        if kept is not None:
            return kept[1]
        found = _problem(statement, masks, catalog.masked_view(masks), moved)
        if len(statement.text) <= MAX_KEPT_TEXT:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[id(statement)] = statement, found
        return found


def _problem(statement: SqlStatement, masks: Masks, view: MaskedView, moved: Moved) -> Problem | None:
    steering = statement.columns_steering
    if all(mask.use in _WITH_EQUALITY for mask in masks.columns):
        steering -= statement.columns_compared
    for column in steering:
        if _derives(column, view, moved):
            return Problem(Reason.MASKED_COLUMN_STEERS, f"`{_shown(column)}` {DERIVES}")
    for column in statement.columns_changed:
        if column.name != ANY_COLUMN:
            if _derives(column, view, moved):
                why = f"`{_shown(column)}` {DERIVES}, and could be known by another name afterwards"
                return Problem(Reason.MASKED_COLUMN_COPIED, why)
        elif not statement.creates and not statement.changes_schemas and _holds(column, view, moved):
            # By another name it keeps what it is known by: its number. Attached, put under a parent, or put in order it can be read
            # by other columns, or tells of its own by where its rows may stand.
            why = f"`{_shown(column)}` holds masked columns, and its rows would tell of them by their new place"
            return Problem(Reason.MASKED_COLUMN_COPIED, why)
    for column in statement.columns_written:
        for meant in moved.meanings(column):
            told = view.tells(meant)
            if told is not None:
                why = f"what is written is compared with masked column `{told}`, {WOULD_TELL}"
                return Problem(Reason.MASKED_COLUMN_STEERS, why)
    return None


def _derives(column: ColumnRef, view: MaskedView, moved: Moved) -> bool:
    if any(view.derives(meant) for meant in moved.meanings(column)):
        return True
    return moved.has_moved_schema and column.relation is not None and view.is_unknown(column.relation)


def _holds(column: ColumnRef, view: MaskedView, moved: Moved) -> bool:
    """A table that isn't known was made in this transaction, and is empty or what it was made of was decided; or it isn't there."""
    if column.relation is None or moved.has_moved_schema:
        return True
    meanings = [meant for meant in moved.meanings(column) if meant.relation is not None and not view.is_unknown(meant.relation)]
    if not meanings:
        return not moved.is_unsettled
    return any(map(view.may_be_masked, meanings))


def _shown(column: ColumnRef) -> str:
    return f"{column.relation.name}.{column.name}" if column.relation else column.name
