"""What can be shown of a result's columns from the statements that make it and the target's catalog, for one set of masks. Pure.

The target names the origin of what is passed on. For every other column the statement's lineage tells which columns reach it.

Rules it keeps:
- Of several statements (a string, what EXECUTE or FETCH refers to, candidates of a portal) each whose columns could be these counts.
- Where a function isn't known, a name may be a call, or the catalog isn't there, every such column may hold anything.
- Columns are counted from both ends: between two stars, or where the counts don't agree, whatever could be there counts for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sidegate.policy.decision import ColumnUse, Masks
from sidegate.policy.statement import ColumnRef, OutputColumn, SqlStatement
from sidegate.postgres.catalog import Catalog, MaskedView
from sidegate.postgres.results import Reach, ResultPlan
from sidegate.sql import is_of_table, may_disguise, shows_values

MAX_KEPT_PLANS: Final = 16  # of one proof: the same statement described under several formats


class Proof:
    """`masked_fields`: names of the output's columns that are masked fields of rows, or rows with such a field; None: they can't be told.
    `plans` are those made with it, by description. `has_unknown`: a column of a relation that the catalog doesn't have reaches the
    result: of a temporary table, or of one that was made since. `is_confirmed`: the catalog was read again, and still doesn't have it.
    """

    __slots__ = (
        "_is_unsure",
        "_lineages",
        "_may_disguise",
        "_view",
        "catalog",
        "has_unknown",
        "is_confirmed",
        "masked_fields",
        "masks",
        "plans",
        "statements",
    )

    def __init__(self, statements: tuple[SqlStatement, ...], masks: Masks, catalog: Catalog | None) -> None:
        self.statements = statements  # INVARIANT: kept alive, so that their ids stay theirs
        self.masks = masks
        self.catalog = catalog
        self.plans: dict[bytes, ResultPlan] = {}
        self._may_disguise = bool(masks.values) and any(map(may_disguise, statements))
        self._view = catalog.masked_view(masks) if catalog is not None and masks.columns else None
        self._lineages = tuple(statement.lineage for statement in statements if statement.lineage)
        self._is_unsure = bool(masks.columns) and (self._view is None or _is_unsure(statements, self._view))
        self.masked_fields = self._masked_fields()
        self.has_unknown = self._has_unknown()
        self.is_confirmed = False

    def holds_for(self, masks: Masks, catalog: Catalog | None) -> bool:
        return self.catalog is catalog and (self.masks is masks or self.masks == masks)

    def reaches(self, width: int) -> tuple[Reach, ...]:
        """How masked columns get into each of `width` columns, should it have no origin."""
        if not self.masks.columns:
            return (Reach.NONE,) * width
        view = self._view
        if view is None or self._is_unsure or self.masked_fields is None:
            return (Reach.COMPUTED,) * width
        found = [Reach.NONE] * width
        lineages = [lineage for lineage in self._lineages if _fits(lineage, width)]
        for lineage in lineages or self._lineages:
            for number, reach in enumerate(_spread(list(map(self._reach, lineage)), lineage, width)):
                found[number] = max(found[number], reach)
        return tuple(found)

    def disguises(self, width: int) -> tuple[bool, ...]:
        """Which of the columns, should they have no origin, may hold values of tables in a form that no detector knows."""
        if not self._may_disguise:
            return (False,) * width
        lineages = [lineage for lineage in self._lineages if _fits(lineage, width)]
        if len(self.statements) > 1 or not lineages:
            return (True,) * width
        of_tables = [Reach.COMPUTED if any(map(is_of_table, output.columns)) else Reach.NONE for output in lineages[0]]
        return tuple(reach is not Reach.NONE for reach in _spread(of_tables, lineages[0], width))

    def _reach(self, output: OutputColumn) -> Reach:
        view = self._view_for(output)
        if view is None or output.is_of_row or not any(map(view.may_be_masked, output.columns)):
            return Reach.NONE  # rows and their fields go by name
        return Reach.COMPUTED if output.is_computed else Reach.PASSED

    def _view_for(self, output: OutputColumn) -> MaskedView | None:
        """Of an aggregate over large groups of a table's values, those masks are left out that let it be shown. A view may repeat rows."""
        group_floor = output.group_floor
        if not group_floor or self.catalog is None or not all(_is_of_table(column, self.catalog) for column in output.columns):
            return self._view
        left = tuple(m for m in self.masks.columns if m.use is not ColumnUse.AGGREGATE or group_floor < m.min_group_size)
        return self.catalog.masked_view(Masks(left)) if left else None

    def _has_unknown(self) -> bool:
        view = self._view
        if view is None:
            return False
        columns = (column for lineage in self._lineages for output in lineage if output.is_computed for column in output.columns)
        return any(column.relation is not None and view.is_unknown(column.relation) for column in columns)

    def _masked_fields(self) -> frozenset[str] | None:
        found: set[str] = set()
        view = self._view
        for statement in self.statements:
            for name, column in statement.fields_output:
                if view is None:
                    return None if self.masks.columns else frozenset()
                if name is None:
                    names = view.masked_names(column)
                    if names is None:
                        return None
                    found |= names
                elif view.may_be_masked(column):
                    found.add(name.lower())
        return frozenset(found)


def _is_unsure(statements: tuple[SqlStatement, ...], view: MaskedView) -> bool:
    """Some column could hold what no lineage tells."""
    for statement in statements:
        if any(map(shows_values, statement.functions)):
            return True
        if any(view.is_no_column(column) for column in statement.columns_output):
            return True
        for output in statement.lineage:
            if output.is_computed and any(_may_be_call(column, view) for column in output.columns & statement.columns_qualified):
                return True
        has_floor = any(output.group_floor for output in statement.lineage)
        if has_floor and any(_may_be_call(column, view) for column in statement.columns_steering):
            return True  # in GROUP BY it may repeat rows until the groups are large
        if not statement.lineage and any(view.may_be_masked(column) for column in statement.columns_steering):
            return True  # EXPLAIN, CALL and whatever else returns rows without a query of its own
    return False


def _is_of_table(column: ColumnRef, catalog: Catalog) -> bool:
    relations = catalog.named(column.relation) if column.relation is not None else []
    return bool(relations) and not any(relation.definition is not None or relation.is_opaque for relation in relations)


def _may_be_call(column: ColumnRef, view: MaskedView) -> bool:
    """`u.f` with no column `f` in `u` calls a function on the whole row. Of relations that aren't known see `has_unknown`."""
    return column.relation is not None and not view.is_unknown(column.relation) and view.is_no_column(column)


def _fits(lineage: Sequence[OutputColumn], width: int) -> bool:
    runs = sum(output.is_run for output in lineage)
    return len(lineage) - runs <= width if runs else len(lineage) == width


def _spread(reaches: list[Reach], lineage: Sequence[OutputColumn], width: int) -> list[Reach]:
    """One for each of `width` columns."""
    if not _fits(lineage, width):
        return [max(reaches, default=Reach.NONE)] * width
    runs = [number for number, output in enumerate(lineage) if output.is_run]
    if not runs:
        return reaches
    before, after = runs[0], len(lineage) - runs[-1] - 1
    between = max(reaches[before : len(lineage) - after])
    return [*reaches[:before], *[between] * (width - before - after), *reaches[len(lineage) - after :]]
