"""What definitions say against a statement: columns that derive from masked ones steer, or are compared with when written. Pure.

An answer depends on the statement, the masks and the catalog alone, and is kept while all three stay what they were.
"""

from __future__ import annotations

from typing import Final

from sidegate.policy.decision import ColumnUse, Masks
from sidegate.policy.statement import SqlStatement
from sidegate.postgres.catalog import Catalog, MaskedView

# What a refusal says that the target's catalog made, so that a reader of recordings knows it from one that the policies made alone.
DERIVES: Final = "derives from a masked column"
WOULD_TELL: Final = "and a conflict would tell its values"
MAX_KEPT: Final = 512
MAX_KEPT_TEXT: Final = 8192  # characters of a statement, which a kept answer keeps alive

_WITH_EQUALITY: Final = frozenset({ColumnUse.ALLOWED, ColumnUse.EQUALITY})


class Derived:
    __slots__ = ("_catalog", "_kept", "_masks")

    def __init__(self) -> None:
        self._kept: dict[int, tuple[SqlStatement, str | None]] = {}
        self._masks: Masks | None = None
        self._catalog: Catalog | None = None

    def problem(self, statement: SqlStatement, masks: Masks, catalog: Catalog) -> str | None:
        """Why the statement may not run, in words for the refusal's detail."""
        if masks is not self._masks or catalog is not self._catalog:
            self._kept.clear()
            self._masks, self._catalog = masks, catalog
        # INVARIANT: an entry keeps its statement alive, so an id in use never names another statement
        kept = self._kept.get(id(statement))
        if kept is not None:
            return kept[1]
        found = _problem(statement, masks, catalog.masked_view(masks))
        if len(statement.text) <= MAX_KEPT_TEXT:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[id(statement)] = statement, found
        return found


def _problem(statement: SqlStatement, masks: Masks, view: MaskedView) -> str | None:
    steering = statement.columns_steering
    if all(mask.use in _WITH_EQUALITY for mask in masks.columns):
        steering -= statement.columns_compared
    for column in steering:
        if view.derives(column):
            where = f"{column.relation.name}.{column.name}" if column.relation else column.name
            return f"`{where}` {DERIVES}"
    for column in statement.columns_written:
        told = view.tells(column)
        if told is not None:
            return f"what is written is compared with masked column `{told}`, {WOULD_TELL}"
    return None
