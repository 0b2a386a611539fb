"""Masked columns that only sort, group or join: the query runs on masks instead of values, as if the table held what is shown. Pure.

`SELECT id, ssn FROM users ORDER BY ssn` would tell which number is the larger one. With `'[masked]'` in every row it tells nothing, and is
still answered.

Rules it keeps:
- Only where masked columns steer by nothing else: a predicate on masks would answer falsely, so it stays refused.
- The new text is read and decided like any other, and it is what is sent, recorded and approved. The client is told by a notice.
- Every table with a masked column is replaced whole, or none: what a rule allows to be used (`use: Allowed`) is no reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from sidegate.mask.strategies import REDACTED
from sidegate.policy.decision import ColumnUse, Masks
from sidegate.policy.statement import RelationRef, SqlStatement, StatementKind
from sidegate.postgres.catalog import Catalog, Relation
from sidegate.sql import substituted

_READ: Final = frozenset({StatementKind.READ})
_TEXTS: Final = frozenset({"text", "character varying", "character", "name", "public.citext", "citext"})
Reader: TypeAlias = Callable[[str], "tuple[SqlStatement, ...]"]


class AsShown(NamedTuple):
    """`columns`: the masked columns that are replaced, for the notice."""

    text: str
    statements: tuple[SqlStatement, ...]
    columns: tuple[str, ...]


class _NotToldError(Exception):
    """A table that isn't one for sure."""


def as_shown(
    text: str,
    statements: tuple[SqlStatement, ...],
    masks: Masks,
    catalog: Catalog | None,
    path: tuple[str, ...] | None,
    read: Reader,
) -> AsShown | None:
    """The statement with masks in place of values; None where it needs none, or can't be run so."""
    if catalog is None or len(statements) != 1 or statements[0].kinds != _READ or not statements[0].columns_keys:
        return None
    columns = tuple(mask for mask in masks.columns if mask.use is not ColumnUse.ALLOWED)
    if not columns:
        return None
    view = catalog.masked_view(Masks(columns))
    (statement,) = statements
    steering = {column for column in statement.columns_steering if view.may_be_masked(column)}
    if not steering or not steering <= statement.columns_keys:
        return None
    replaced: set[str] = set()

    def subquery(reference: RelationRef) -> str | None:
        found = catalog.named(reference)
        if len(found) != 1:
            if any(view.masked_columns(relation) for relation in found) or not found:
                raise _NotToldError
            return None
        masked = view.masked_columns(found[0])
        replaced.update(found[0].columns[number] for number in masked)
        return _query(found[0], masked) if masked else None

    try:
        new = substituted(text, path, subquery)
    except _NotToldError:
        return None
    if new is None:
        return None
    made = read(new)
    if len(made) != 1 or made[0].kinds != _READ or any(map(view.may_be_masked, made[0].columns_steering)):
        return None
    return AsShown(new, made, tuple(sorted(replaced)))


def _query(relation: Relation, masked: frozenset[int]) -> str:
    shown = [
        f"{_mask(relation.types.get(number, ''))} AS {_quoted(name)}" if number in masked else _quoted(name)
        for number, name in sorted(relation.columns.items())
    ]
    return f"SELECT {', '.join(shown)} FROM {{table}}"  # noqa: S608 - every name is quoted


def _mask(kind: str) -> str:
    """A constant of the column's type: the word that stands for masked text, or NULL."""
    if kind in _TEXTS:
        return f"'{REDACTED.decode()}'::pg_catalog.text"
    return f"NULL::{kind}" if kind else "NULL"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
