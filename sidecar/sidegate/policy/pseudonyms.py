"""What a principal whose columns are shown as pseudonyms may not do beside what every mask forbids. A pseudonym that can be made of a guess
tells where the guess is right: it need only be looked for among the others.

Rules it keeps:
- Nothing is written to such a column: what was written could be read back as its pseudonym.
- No definition names such a column, or its table where the rule is for certain tables: a new column of that name, a table that comes to
  that name, would be shown as pseudonyms too, with values that somebody chose. Whatever the name stands for in the statement; what a
  function in FROM returns may have any.
- Where the rule is for certain schemas, no definition names one of these and another: a table could come from there (SET SCHEMA, INHERIT,
  ATTACH PARTITION, CREATE TABLE AS), with values that somebody chose.
- Statements that a gate translated hold values in the place of pseudonyms: nothing is read that shows the session's own statements.

Left out: columns that a name alone doesn't settle (`INSERT INTO t VALUES (...)`, views): the gate asks the target's catalog for those.
"""

from __future__ import annotations

from typing import Final

from sidegate.policy.decision import ColumnMask, MaskStrategy
from sidegate.policy.masked import ANY_COLUMN, MaskRefusal, may_be_masked
from sidegate.policy.reason import Reason
from sidegate.policy.statement import SqlStatement, StatementKind

# Relations and functions with the texts of the session's own prepared statements and cursors.
OWN_STATEMENTS: Final = frozenset({"pg_prepared_statements", "pg_cursors", "pg_prepared_statement", "pg_cursor"})

_CATALOGS: Final = frozenset({"pg_catalog", "information_schema"})


def pseudonym_refusal(masks: tuple[ColumnMask, ...], statement: SqlStatement) -> MaskRefusal | None:
    """Why the statement may not run while these columns are masked; None when no pseudonym can be made by it."""
    for mask in masks:
        if mask.strategy is not MaskStrategy.PSEUDONYM:
            continue
        for column in sorted(statement.columns_written, key=lambda column: column.name):
            if column.name != ANY_COLUMN and may_be_masked(mask, column):
                return written(mask, column.name)
        if StatementKind.DDL in statement.kinds:
            named = statement.names_defined & (mask.names if mask.tables is None else mask.tables)
            if named or (mask.tables is None and (ANY_COLUMN in mask.names or ANY_COLUMN in statement.names_defined)):
                what = f"`{min(named)}`" if named else "any column"
                detail = f"a definition that names {what} could make a column whose values are chosen and shown as pseudonyms"
                return MaskRefusal(Reason.MASK_NOT_PROVABLE, mask.source, detail)
            if mask.schemas is not None and mask.tables is None and _may_bring(statement, mask.schemas):
                detail = "a definition that brings a table of another schema could bring values that were chosen there"
                return MaskRefusal(Reason.MASK_NOT_PROVABLE, mask.source, detail)
        shown = {relation.name for relation in statement.reads} | {function.name for function in statement.functions}
        shown &= OWN_STATEMENTS
        if shown:
            detail = f"`{min(shown)}` holds statements in which pseudonyms were translated"
            return MaskRefusal(Reason.MASK_NOT_PROVABLE, mask.source, detail)
    return None


def _may_bring(statement: SqlStatement, schemas: frozenset[str]) -> bool:
    """What it defines may get into these schemas from others, whose columns of that name may be written."""
    named = statement.schemas if statement.cascade is None else statement.cascade.schemas
    if named is None:
        return True
    touched = {schema.lower() for schema in named} - _CATALOGS
    return not touched.isdisjoint(schemas) and not touched <= schemas


def written(mask: ColumnMask, name: str) -> MaskRefusal:
    detail = f"what is written to `{name}` would be shown as its pseudonym, which tells where else the value is"
    return MaskRefusal(Reason.MASK_NOT_PROVABLE, mask.source, detail)
