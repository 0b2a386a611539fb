"""Scopes: which columns a name may mean. Without the target's catalog a table's columns are not known, so an answer has candidates.

Rules it keeps:
- A query's level is asked before the levels around it, as PostgreSQL does. A name that a derived table of a level surely has ends the
  search there; a table or function, whose columns aren't known, doesn't.
- In doubt every candidate counts. A renamed column (`users AS u(a, b)`) may be any column of its relation: it is "*".
- A name that may be a whole row (it is also an alias) counts as every column of that relation.
- `is_plain` says that whatever the name means, it is a plain column, whose origin PostgreSQL tells in RowDescription. `u.f` may also be a
  function's call on the row `u`; then no origin comes, and whoever masks must treat a column without origin as unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from sidegate.policy.statement import ColumnRef, RelationRef

STAR: Final = "*"
Columns: TypeAlias = frozenset[ColumnRef]
NO_COLUMNS: Final[Columns] = frozenset()


class Output(NamedTuple):
    """One column of a query or from item, or several (`is_star`). `columns`: what it may be; of an expression all that it is made of."""

    name: str | None
    columns: Columns
    is_plain: bool
    is_star: bool = False
    is_renamed: bool = False  # a star whose columns go by other names than their own
    is_row: bool = False  # whole rows of relations (`columns` are their stars), which may be passed on and taken apart
    group_floor: int = 0  # of an aggregate of one column of one table: how many values each group has at least
    is_field: bool = False  # taken out of a row: no origin is told, at the top it is masked by its name


EXPRESSION: Final = Output(None, NO_COLUMNS, False)  # of constants alone
OPEN: Final = Output(None, NO_COLUMNS, False, is_star=True)  # more columns than are known, none of a table


class Resolution(NamedTuple):
    columns: Columns
    is_plain: bool
    row: Columns = NO_COLUMNS  # of `columns`, those of the whole row that the name means unless it is a column


def star_of(relation: RelationRef) -> Output:
    return Output(None, frozenset({ColumnRef(STAR, relation)}), True, is_star=True)


def pool(outputs: list[Output]) -> Columns:
    """Every column that any of them may be."""
    found: set[ColumnRef] = set()
    for output in outputs:
        found |= output.columns
    return frozenset(found)


def renamed(outputs: list[Output], names: list[str]) -> list[Output]:
    """The outputs under an alias list. Behind a star positions aren't known, and then each name may be any of them."""
    if not names:
        return outputs
    if not any(output.is_star for output in outputs[: len(names)]):
        return [output._replace(name=name) for output, name in zip(outputs, names, strict=False)] + outputs[len(names) :]
    everything = pool(outputs)
    is_plain = all(output.is_plain for output in outputs)
    named = [Output(name, everything, is_plain) for name in [*names, *(o.name for o in outputs if o.name is not None)]]
    is_field = any(output.is_field for output in outputs)
    return [*named, Output(None, everything, is_plain, is_star=True, is_renamed=True, is_field=is_field)]


@dataclass(slots=True)
class Source:
    """A from item. `relation`: set for a table without an alias, which may also be named with its schema."""

    alias: str | None
    outputs: list[Output]
    relation: RelationRef | None = None
    is_qualified_only: bool = False  # OLD, NEW, EXCLUDED and the alias of a USING: no part of `*`, and no unqualified names
    is_unsure: bool = False  # a function of someone's: its columns may have any name

    def exact(self, name: str) -> Resolution | None:
        columns: Columns = NO_COLUMNS
        is_plain, is_row, is_found = True, True, False
        for output in self.outputs:
            if output.name == name and not output.is_star:
                columns, is_plain, is_found = columns | output.columns, is_plain and output.is_plain, True
                is_row = is_row and output.is_row
        return Resolution(columns, is_plain, columns if is_row else NO_COLUMNS) if is_found else None

    def possible(self, name: str) -> Columns:
        """What the name may mean among columns that aren't known by name."""
        found: set[ColumnRef] = set()
        for output in self.outputs:
            if output.is_star:
                for column in output.columns:
                    found.add(column if output.is_renamed or column.name != STAR else ColumnRef(name, column.relation))
        return frozenset(found)

    @property
    def row(self) -> Columns:
        """The stars of the relation whose rows these are; none where they aren't a relation's own."""
        if all(output.is_star and output.is_plain and not output.is_renamed for output in self.outputs):
            return pool(self.outputs)
        return NO_COLUMNS

    @property
    def has_fields(self) -> bool:
        return any(output.is_field for output in self.outputs)

    @property
    def is_open(self) -> bool:
        return any(output.is_star for output in self.outputs)


@dataclass(slots=True)
class Cte:
    """A WITH query. `node` is set until it has been walked; a reference from inside itself finds it `is_running`."""

    name: str
    node: dict[str, Any] | None
    outputs: list[Output] = field(default_factory=list)
    is_running: bool = False
    is_recursive: bool = False


class Scope:
    """A level of names: from items and WITH queries, inside `parent`."""

    __slots__ = ("ctes", "has_merged_columns", "parent", "sources")

    def __init__(self, parent: Scope | None = None, sources: list[Source] | None = None) -> None:
        self.parent = parent
        self.sources: list[Source] = sources if sources is not None else []
        self.ctes: dict[str, tuple[Cte, Scope]] = {}
        self.has_merged_columns = False

    def cte(self, name: str) -> tuple[Cte, Scope] | None:
        """The WITH query of that name and the scope it is read in."""
        scope: Scope | None = self
        while scope is not None:
            found = scope.ctes.get(name)
            if found is not None:
                return found
            scope = scope.parent
        return None

    def resolve(self, parts: list[str]) -> Resolution:
        """A column reference without a star."""
        if len(parts) == 1:
            return self._unqualified(parts[0])
        found = self._source(parts[:-1])
        if found is None:
            return Resolution(frozenset({ColumnRef(parts[-1], None)}), False)
        name = parts[-1]
        exact = found.exact(name)
        if exact is not None:
            return exact
        if found.is_open:
            return Resolution(found.possible(name), all(output.is_plain for output in found.outputs if output.is_star))
        return Resolution(pool(found.outputs), False)  # a function's call on the whole row

    def _unqualified(self, name: str) -> Resolution:
        possible: set[ColumnRef] = set()
        rows: set[ColumnRef] = set()
        row: set[ColumnRef] = set()
        is_plain, is_row, is_found = True, True, False
        scope: Scope | None = self
        while scope is not None:
            is_exact = False
            for source in scope.sources:
                exact = source.exact(name) if not source.is_qualified_only else None
                if exact is not None:
                    is_exact, is_found = True, True
                    possible |= exact.columns
                    row |= exact.row
                    is_plain, is_row = is_plain and exact.is_plain, is_row and bool(exact.row)
            if is_exact:
                break
            for source in scope.sources:
                if not source.is_qualified_only and source.is_open:
                    possible |= source.possible(name)
                    is_found = True
                    is_plain = is_plain and not source.is_unsure and not source.has_fields
                if source.alias == name:
                    rows |= pool(source.outputs)
                    row |= source.row
                    is_found, is_plain, is_row = True, False, is_row and bool(source.row)
            scope = scope.parent
        if not is_found:
            return Resolution(frozenset({ColumnRef(name, None)}), False)
        own = [column for column in possible if column.name == name]
        if len(own) > 1:
            possible.difference_update(own)
            possible.add(ColumnRef(name, None))
        return Resolution(frozenset(possible | rows), is_plain and bool(possible), frozenset(row) if is_row else NO_COLUMNS)

    def _source(self, qualifier: list[str]) -> Source | None:
        name = qualifier[-1]
        schema = qualifier[-2] if len(qualifier) > 1 else None
        scope: Scope | None = self
        while scope is not None:
            for source in scope.sources:
                if source.alias != name:
                    continue
                if schema is None:
                    return source
                relation = source.relation
                if relation is not None and (relation.schemas is None or schema in relation.schemas):
                    return source
            scope = scope.parent
        return None

    def star(self, qualifier: list[str]) -> list[Output]:
        """The outputs of `*` or `qualifier.*`."""
        if qualifier:
            found = self._source(qualifier)
            return found.outputs if found is not None else [Output(None, frozenset({ColumnRef(STAR, None)}), False, is_star=True)]
        scope: Scope | None = self
        while scope is not None and not scope.sources:  # a level of WITH queries alone
            scope = scope.parent
        if scope is None:
            return [Output(None, frozenset({ColumnRef(STAR, None)}), False, is_star=True)]
        outputs = [output for source in scope.sources if not source.is_qualified_only for output in source.outputs]
        if scope.has_merged_columns and not all(output.is_star for output in outputs):
            # USING puts the merged columns first: positions among them aren't told
            everything = pool(outputs)
            is_field = any(output.is_field for output in outputs)
            merged = Output(None, everything, all(o.is_plain for o in outputs), is_star=True, is_renamed=True, is_field=is_field)
            outputs = [merged, *outputs]
        return outputs
