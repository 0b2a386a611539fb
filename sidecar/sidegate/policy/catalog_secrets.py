"""Columns of the target's own catalogs that are masked for everyone who isn't granted `Server` for every schema: clients that introspect
name them plainly.

Which columns those are, and that they stand plainly in the output of a SELECT, is for `sidegate.sql` to tell (`secrets_output`); anything
else that reaches them is `Server`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sidegate.policy.decision import ColumnMask, ColumnUse, Decision, Deny, Masks, MaskStrategy
from sidegate.policy.facts import Facts
from sidegate.policy.source import PolicyRule
from sidegate.policy.statement import ColumnRef, SqlStatement, StatementKind

SOURCE: Final = PolicyRule("builtin", "catalogs", "secrets")


def with_catalog_masks(facts: Facts, statements: Sequence[SqlStatement], decision: Decision) -> Decision:
    secrets = frozenset[ColumnRef]().union(*(statement.secrets_output for statement in statements))
    if not secrets or isinstance(decision, Deny):
        return decision
    if StatementKind.SERVER in facts.kinds_everywhere or facts.lets_ungranted_pass is not None:
        return decision
    masks = tuple(map(_mask, sorted(secrets, key=str)))
    own = tuple(mask for mask in decision.masks.columns if mask not in masks)
    return replace(decision, masks=Masks(own + masks, decision.masks.values))


def without_catalog_masks(masks: Masks) -> Masks:
    """Those of policies alone."""
    if not any(mask.source == SOURCE for mask in masks.columns):
        return masks
    return Masks(tuple(mask for mask in masks.columns if mask.source != SOURCE), masks.values)


def _mask(column: ColumnRef) -> ColumnMask:
    tables = frozenset({column.relation.name}) if column.relation is not None else None
    return ColumnMask(frozenset({column.name}), frozenset({"pg_catalog"}), tables, MaskStrategy.REDACT, ColumnUse.REFUSED, SOURCE)
