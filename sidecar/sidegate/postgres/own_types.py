"""Casts to types of the target's own that run nobody's code: what is left of a statement once they are known. Pure.

Without the target's catalog a cast to a type that isn't PostgreSQL's may run anything: an input function, a cast that somebody made, the
check of a domain. To an enum it is PostgreSQL's own input function, unless somebody made a cast.

Rules it keeps:
- A name counts only if every type that is called so, in whatever schema, is such an enum: then it doesn't matter which one is meant.
- No function and no operator may be called so: a statement tells the names of what it calls, and not what they are names of.
- `Call` goes only where nothing else is left that is called unseen.
Left out: domains and composite types, and types that a transaction made which isn't committed yet: they stay `Call`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sidegate.policy.statement import FunctionRef, SqlStatement, StatementKind
from sidegate.sql.functions import DANGEROUS
from sidegate.sql.names import PG_CATALOG

# An enum with any cast of somebody's is left out, whatever the cast does.
ENUMS_QUERY: Final = (
    "SELECT t.typname FROM pg_catalog.pg_type t WHERE t.typtype = 'e'"
    " AND NOT EXISTS (SELECT FROM pg_catalog.pg_type o WHERE o.typname = t.typname AND o.typtype <> 'e')"
    " AND NOT EXISTS (SELECT FROM pg_catalog.pg_type o JOIN pg_catalog.pg_cast c ON o.oid IN (c.castsource, c.casttarget)"
    " OR o.typarray IN (c.castsource, c.casttarget) WHERE o.typname = t.typname AND o.typtype = 'e')"
    " AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.proname = t.typname)"
    " AND NOT EXISTS (SELECT FROM pg_catalog.pg_operator p WHERE p.oprname = t.typname)"
)
_BUILTIN: Final = frozenset({PG_CATALOG})


def without_casts(statement: SqlStatement, enums: frozenset[str]) -> SqlStatement:
    """The statement as it is when its casts to these enums are left out of what it calls."""
    if StatementKind.CALL not in statement.kinds:
        return statement
    functions = frozenset(function for function in statement.functions if function.is_known_safe or function.name not in enums)
    if len(functions) == len(statement.functions):
        return statement
    kinds = statement.kinds if any(map(_is_unseen, functions)) else statement.kinds - {StatementKind.CALL}
    return replace(statement, functions=functions, kinds=kinds)


def _is_unseen(function: FunctionRef) -> bool:
    if function.is_known_safe:
        return False
    danger = DANGEROUS.get(function.name)
    return danger is None or StatementKind.CALL in danger.kinds or function.schemas != _BUILTIN
