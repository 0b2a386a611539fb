"""What a principal with masked columns may not do, whatever is granted. A mask that can be walked around is none.

Rules it keeps:
- A masked column may stand plainly in the output (it is masked there) and nowhere else, unless its rule says `use: Allowed`.
- It may never be copied to where no mask follows: into another table, a view, a new column. `use: Allowed` doesn't change that.
- Code that can't be seen into, and code that would be stored, is refused, because it could do either.
- Statistics, other sessions' statements and raw files hold column values too: they are refused.

It leaves out lineage: which output column shows which table's column is for the gate and `sidegate.sql`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from sidegate.policy.decision import ColumnMask, ColumnUse
from sidegate.policy.reason import Reason
from sidegate.policy.source import PolicyRule
from sidegate.policy.statement import ColumnRef, RelationRef, SqlStatement, StatementKind

ANY_COLUMN: Final = "*"
# Kinds that put what they read somewhere else.
_COPYING: Final = frozenset({StatementKind.DDL, StatementKind.INSERT, StatementKind.MERGE, StatementKind.UPDATE})
# Kinds that reach column values around every column: code, files, the write-ahead log.
_UNPROVABLE: Final[dict[StatementKind, str]] = {
    StatementKind.DO: "an anonymous code block can read masked columns unseen",
    StatementKind.SERVER: "files, programs and other servers can show masked columns unseen",
    StatementKind.REPLICATION: "logical decoding and replication show masked columns unseen",
}
# Catalog relations that hold column values or other people's statements. None of them is needed by a client's introspection.
LEAKY_CATALOGS: Final = frozenset(
    {
        "pg_statistic",
        "pg_statistic_ext_data",
        "pg_stats",
        "pg_stats_ext",
        "pg_stats_ext_exprs",
        "pg_stat_activity",
        "pg_stat_statements",
        "pg_largeobject",
        "pg_prepared_xacts",
        "pg_replication_slots",
    }
)


class MaskRefusal(NamedTuple):
    reason: Reason
    source: PolicyRule
    detail: str


def mask_refusal(masks: tuple[ColumnMask, ...], statement: SqlStatement, opaque: str | None) -> MaskRefusal | None:
    """Why the statement may not run while these columns are masked; None when the masks can be kept."""
    if not masks:
        return None
    first = masks[0].source
    for kind, why in _UNPROVABLE.items():
        if kind in statement.kinds:
            return MaskRefusal(Reason.MASK_NOT_PROVABLE, first, why)
    if opaque is not None:
        return MaskRefusal(
            Reason.MASK_NOT_PROVABLE, first, f"{opaque} could read masked columns unseen; a grant may name it under `functions`"
        )
    leaky = _leaky_catalog(statement)
    if leaky is not None:
        return MaskRefusal(
            Reason.MASK_NOT_PROVABLE, first, f"`{leaky}` holds values of masked columns or other people's statements"
        )
    if statement.executes is not None and StatementKind.DDL in statement.kinds:
        return MaskRefusal(
            Reason.MASKED_COLUMN_COPIED, first, f"what the prepared statement `{statement.executes}` reads would be copied unseen"
        )
    if statement.stores_code is not None:
        detail = f"{statement.stores_code} could read masked columns unseen once it runs"
        return MaskRefusal(Reason.MASK_NOT_PROVABLE, first, detail)
    for mask in masks:
        for column in sorted(statement.columns_changed, key=_column_order):
            # A table by another name keeps the names of its columns: only a mask that names its table or schema loses it.
            if column.name == ANY_COLUMN and mask.tables is None and mask.schemas is None:
                continue
            if may_be_masked(mask, column):
                return MaskRefusal(Reason.MASKED_COLUMN_COPIED, mask.source, f"{_shown(column)} would be known by another name")
    if not statement.kinds.isdisjoint(_COPYING):
        copied = _copied(masks, statement)
        if copied is not None:
            return copied
    for mask in masks:
        if mask.use is ColumnUse.ALLOWED:
            continue
        steering = statement.columns_steering
        if mask.use is ColumnUse.EQUALITY:
            steering -= statement.columns_compared
        for column in sorted(steering, key=_column_order):
            if may_be_masked(mask, column):
                return MaskRefusal(
                    Reason.MASKED_COLUMN_STEERS, mask.source, f"{_shown(column)} may only stand plainly in the output"
                )
    return None


def may_be_masked(mask: ColumnMask, column: ColumnRef) -> bool:
    """Whether the mask covers the column, or may: `*` is every column of its relation, and an unsettled relation could be any."""
    if column.name != ANY_COLUMN and column.name.lower() not in mask.names and ANY_COLUMN not in mask.names:
        return False
    relation = column.relation
    if relation is None:
        return True
    if mask.tables is not None and relation.name.lower() not in mask.tables:
        return False
    return mask.schemas is None or not relation.schemas or any(schema.lower() in mask.schemas for schema in relation.schemas)


def _copied(masks: tuple[ColumnMask, ...], statement: SqlStatement) -> MaskRefusal | None:
    """Masked columns in a statement that stores what it reads."""
    is_update_in_place = StatementKind.UPDATE in statement.kinds and statement.kinds.isdisjoint(_COPYING - {StatementKind.UPDATE})
    if is_update_in_place and not statement.reads - statement.writes:
        # Without FROM it can copy from column to column only. Its predicate stands among the same columns: the rule on steering refuses
        # both, except where steering is allowed, and there a copy can't be told from a predicate.
        masks = tuple(mask for mask in masks if mask.use is ColumnUse.ALLOWED)
        columns: Iterable[ColumnRef] = statement.columns_steering
    elif StatementKind.DDL in statement.kinds:
        columns = statement.columns_steering | statement.columns_output
    else:
        # What an INSERT or MERGE stores stands among the columns that steer. Its plain output is RETURNING, which goes to the client.
        columns = statement.columns_steering
    for mask in masks:
        for column in sorted(columns, key=_column_order):
            if may_be_masked(mask, column):
                return MaskRefusal(
                    Reason.MASKED_COLUMN_COPIED, mask.source, f"{_shown(column)} would be stored where no mask follows"
                )
    return None


def _leaky_catalog(statement: SqlStatement) -> str | None:
    for relation in sorted(statement.reads, key=_relation_order):
        if relation.name in LEAKY_CATALOGS and (
            not relation.schemas or "pg_catalog" in relation.schemas or relation.name == "pg_stat_statements"
        ):
            return relation.name
    return None


def _relation_order(relation: RelationRef) -> tuple[str, tuple[str, ...]]:
    return relation.name, tuple(sorted(relation.schemas or ()))


def _column_order(column: ColumnRef) -> tuple[str, tuple[str, tuple[str, ...]]]:
    return column.name, _relation_order(column.relation) if column.relation is not None else ("", ())


def _shown(column: ColumnRef) -> str:
    where = f" of `{column.relation.name}`" if column.relation is not None else ""
    return f"`*`, every column{where}," if column.name == ANY_COLUMN else f"masked column `{column.name}`{where}"
