"""What functions make of values, for whoever masks: those that could take a value past a detector, and those whose answer holds none.

Rules it keeps:
- A detector knows a value by its form. A function that cuts, recodes or reorders text changes the form and keeps the content, so what it
  makes of a table's column can't be left to detectors.
- Functions that change the form and are in every report stay out: case, trimming of spaces, concatenation, to_char, arithmetic. A detector
  is no proof against whoever computes; a rule on columns is.
- Columns of the system catalogs hold names and definitions, which clients cut and join all the time: they don't count.
"""

from __future__ import annotations

from typing import Final

from sidegate.policy.statement import ColumnRef, FunctionRef, SqlStatement, StatementKind, columns_reaching
from sidegate.sql.functions import DANGEROUS
from sidegate.sql.names import INFORMATION_SCHEMA, PG_CATALOG

DISGUISING: Final = frozenset(
    """ascii chr convert convert_from convert_to decode encode get_bit get_byte left lpad overlay regexp_match regexp_matches regexp_replace
    regexp_split_to_array regexp_split_to_table regexp_substr replace reverse right rpad set_bit set_byte split_part string_to_array
    string_to_table substr substring to_bin to_hex to_oct translate unistr""".split()  # noqa: SIM905
)
_CATALOGS: Final = frozenset({PG_CATALOG, INFORMATION_SCHEMA})
_ONLY_CATALOG: Final = frozenset({PG_CATALOG})
# Kinds of built-ins that act, and answer with nothing but what they were given, a number or a state.
_WITHOUT_VALUES: Final = frozenset({StatementKind.UPDATE, StatementKind.NOTIFY, StatementKind.LOCK, StatementKind.SESSION})


def may_disguise(statement: SqlStatement) -> bool:
    """Some result of the statement may be a value of a table in a form that no detector knows."""
    if not any(function.name in DISGUISING for function in statement.functions):
        return False
    return any(map(is_of_table, statement.columns_steering | columns_reaching(statement)))


def is_of_table(column: ColumnRef) -> bool:
    """Not of a system catalog for sure."""
    return column.relation is None or not column.relation.schemas or not column.relation.schemas <= _CATALOGS


def shows_values(function: FunctionRef) -> bool:
    """Its answer may hold what no argument brought to it."""
    if function.is_known_safe:
        return False
    danger = DANGEROUS.get(function.name)
    return danger is None or function.schemas != _ONLY_CATALOG or not danger.kinds <= _WITHOUT_VALUES
