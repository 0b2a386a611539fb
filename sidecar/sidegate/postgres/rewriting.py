"""What is sent instead of a query, so that it can be answered without telling masked values. Pure.

Keys: masked columns that only sort, group or join. `SELECT id, ssn FROM users ORDER BY ssn` would tell which number is the larger one; with
`'[masked]'` in every row, as if the table held what is shown, it tells nothing. Groups: under `use: Aggregate` a sum gets a HAVING that
leaves small groups out.

Rules it keeps:
- Only where masked columns steer by nothing else: a predicate on masks would answer falsely, so it stays refused.
- The new text is read and decided like any other, and it is what is sent, recorded and approved. The client is told by a notice.
- Pseudonyms tell rows apart: one mask for all would join and group rows that are shown to differ, so nothing is sent instead.
- Every table with a masked column is replaced whole: a rule that allows the use of one (`use: Allowed`) is no reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from sidegate.mask.strategies import REDACTED
from sidegate.policy.decision import ColumnUse, Masks, MaskStrategy
from sidegate.policy.statement import RelationRef, SqlStatement, StatementKind
from sidegate.postgres.catalog import Catalog, Relation
from sidegate.postgres.refusal import as_shown_notice, groups_notice
from sidegate.sql import floored, quote, substituted

_READ: Final = frozenset({StatementKind.READ})
_TEXTS: Final = frozenset({"text", "character varying", "character", "name", "public.citext", "citext"})
Reader: TypeAlias = Callable[[str], "tuple[SqlStatement, ...]"]


class Rewritten(NamedTuple):
    """`notice` is a NoticeResponse."""

    text: str
    statements: tuple[SqlStatement, ...]
    notice: bytes


class _NotToldError(Exception):
    """A table that isn't one for sure."""


def rewritten(
    text: str,
    statements: tuple[SqlStatement, ...],
    masks: Masks,
    catalog: Catalog | None,
    path: tuple[str, ...] | None,
    read: Reader,
) -> Rewritten | None:
    """None where the query needs nothing of it, or can't be run so. `read` analyses a text."""
    if catalog is None or len(statements) != 1 or statements[0].kinds != _READ:
        return None
    (statement,) = statements
    if any(mask.use is ColumnUse.AGGREGATE for mask in masks.columns):
        found = _over_large_groups(text, statement, masks, catalog, read)
        if found is not None:
            return found
    return _by_what_is_shown(text, statement, masks, catalog, path, read) if statement.columns_keys else None


def _over_large_groups(text: str, statement: SqlStatement, masks: Masks, catalog: Catalog, read: Reader) -> Rewritten | None:
    aggregated = [mask for mask in masks.columns if mask.use is ColumnUse.AGGREGATE]
    view = catalog.masked_view(Masks(tuple(aggregated)))
    smallest = max(mask.min_group_size for mask in aggregated)
    if not any(output.is_computed and any(map(view.may_be_masked, output.columns)) for output in statement.lineage):
        return None
    new = floored(text, smallest)
    made = read(new) if new is not None else ()
    if new is None or len(made) != 1 or made[0].kinds != _READ:
        return None
    return Rewritten(new, made, groups_notice(smallest))


def _by_what_is_shown(
    text: str, statement: SqlStatement, masks: Masks, catalog: Catalog, path: tuple[str, ...] | None, read: Reader
) -> Rewritten | None:
    columns = tuple(mask for mask in masks.columns if mask.use is not ColumnUse.ALLOWED)
    view = catalog.masked_view(Masks(columns))
    steering = {column for column in statement.columns_steering if view.may_be_masked(column)}
    if not steering or not steering <= statement.columns_keys:
        return None
    pseudonyms = tuple(mask for mask in columns if mask.strategy is MaskStrategy.PSEUDONYM)
    if pseudonyms and any(map(catalog.masked_view(Masks(pseudonyms)).may_be_masked, steering)):
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
    return Rewritten(new, made, as_shown_notice(tuple(sorted(replaced))))


def _query(relation: Relation, masked: frozenset[int]) -> str:
    shown = [
        f"{_mask(relation.types.get(number, ''))} AS {quote(name)}" if number in masked else quote(name)
        for number, name in sorted(relation.columns.items())
    ]
    return f"SELECT {', '.join(shown)} FROM {{table}}"  # noqa: S608 - every name is quoted


def _mask(kind: str) -> str:
    """A constant of the column's type: the word that stands for masked text, or NULL."""
    if kind in _TEXTS:
        return f"'{REDACTED.decode()}'::pg_catalog.text"
    return f"NULL::{kind}" if kind else "NULL"
