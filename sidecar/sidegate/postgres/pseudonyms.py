"""Pseudonyms in one session: what the target's catalog says of writes to columns that are shown as pseudonyms. Pure.

A write that the statement alone doesn't settle (`INSERT INTO t VALUES (...)`, through a view, to a row that holds such a column) is refused
where such a column may be among what it writes, as `sidegate.policy.pseudonyms` refuses it by name.
"""

from __future__ import annotations

from collections.abc import Iterable

from sidegate.policy.decision import ColumnMask, Deny, Masks, MaskStrategy
from sidegate.policy.pseudonyms import written
from sidegate.policy.statement import SqlStatement
from sidegate.postgres.catalog import Catalog


def pseudonym_masks(masks: Masks) -> tuple[ColumnMask, ...]:
    return tuple(mask for mask in masks.columns if mask.strategy is MaskStrategy.PSEUDONYM)


def written_refusal(masks: Masks, statements: Iterable[SqlStatement], catalog: Catalog | None, revision: str) -> Deny | None:
    """Why they may not write what they write; None when no column with pseudonyms is among it. Without a catalog any may be."""
    chosen = pseudonym_masks(masks)
    if not chosen:
        return None
    view = catalog.masked_view(Masks(columns=chosen)) if catalog is not None else None
    for statement in statements:
        for column in statement.columns_written:
            if view is None or view.may_be_masked(column):
                refusal = written(chosen[0], column.name)
                return Deny(refusal.reason, refusal.source, revision, refusal.detail)
    return None
