"""Whether grants cover a statement. What nobody grants is denied.

Rules it keeps:
- Every kind of the statement must be granted on every schema where the statement could exercise it, each pair by some grant of the
  session's role. Two grants together give what each gives, never more: `Read` on one schema and `Insert` on another don't add up to
  both on both.
- Kinds that change rows are exercised where the statement writes; all others wherever it could reach.
- A schema that could not be settled is covered by a grant without `schemas` only.
- Reading the system catalogs comes with every grant of `Read`, unless `sidegate.sql` names a danger.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sidegate.policy.facts import Facts
from sidegate.policy.source import PolicyGrant
from sidegate.policy.statement import FunctionRef, RelationRef, SqlStatement, StatementKind

IMPLICIT_KINDS: Final = frozenset({StatementKind.TRANSACTION, StatementKind.SESSION, StatementKind.CURSOR})
ROW_WRITING_KINDS: Final = frozenset(
    {
        StatementKind.INSERT,
        StatementKind.UPDATE,
        StatementKind.DELETE,
        StatementKind.MERGE,
        StatementKind.TRUNCATE,
        StatementKind.COPY_IN,
    }
)
READING_KINDS: Final = frozenset({StatementKind.READ, StatementKind.EXPLAIN, StatementKind.COPY_OUT})
SYSTEM_SCHEMAS: Final = frozenset({"pg_catalog", "information_schema"})
_OPAQUE_KINDS: Final = frozenset({StatementKind.DO, StatementKind.CALL})


def covering_grant(facts: Facts, statement: SqlStatement) -> PolicyGrant | str:
    """The grant to name as the source, or what isn't covered, as a sentence."""
    grants = facts.grants
    if not grants:
        return f"no grant as role `{facts.role}` on database `{facts.database}` counts now"
    required = statement.kinds - IMPLICIT_KINDS
    if not required <= facts.kinds_everywhere:
        for kind in sorted(required - facts.kinds_everywhere):
            problem = _uncovered(facts, statement, kind)
            if problem is not None:
                return problem
    for grant in grants:
        if required <= grant.kinds:
            return grant.source
    for grant in grants:
        if not required.isdisjoint(grant.kinds):
            return grant.source
    return grants[0].source


def _uncovered(facts: Facts, statement: SqlStatement, kind: StatementKind) -> str | None:
    if kind is StatementKind.CALL and statement.functions and not unnamed_functions(facts, statement):
        return None
    if kind not in facts.kinds:
        why = f", because of {statement.dangers[0]}" if statement.dangers else ""
        if kind is StatementKind.CALL:
            why = _named(unnamed_functions(facts, statement))
        return f"`{kind.value}` is not granted to role `{facts.role}` on database `{facts.database}`{why}"
    schemas = _schemas_exercised(statement, kind)
    if schemas is None:
        return f"`{kind.value}` could reach any schema, and is granted for some only"
    for schema in sorted(schemas):
        if not any(kind in grant.kinds and (grant.schemas is None or grant.schemas.matches(schema)) for grant in facts.grants):
            return f"`{kind.value}` is not granted on schema `{schema}`"
    return None


def _schemas_exercised(statement: SqlStatement, kind: StatementKind) -> frozenset[str] | None:
    if kind in ROW_WRITING_KINDS and statement.writes:
        return _schemas_of(statement.writes)
    schemas = statement.schemas
    if schemas is None:
        return None
    if kind in READING_KINDS:
        return schemas if statement.dangers else schemas - SYSTEM_SCHEMAS
    # The catalogs' functions and types may be named by anyone; its relations are there for reading alone.
    relations = _schemas_of(statement.reads | statement.writes | statement.creates)
    return schemas if relations is None else schemas - (SYSTEM_SCHEMAS - relations)


def _schemas_of(relations: Iterable[RelationRef]) -> frozenset[str] | None:
    found: set[str] = set()
    for relation in relations:
        if not relation.schemas:
            return None
        found |= relation.schemas
    return frozenset(found)


def unnamed_functions(facts: Facts, statement: SqlStatement) -> tuple[FunctionRef, ...]:
    """Functions not known to be safe that no grant names. Nothing is known of what they do."""
    return tuple(
        function
        for function in statement.functions
        if not function.is_known_safe
        and not any(pattern.must_match(function.name, function.schemas) for grant in facts.grants for pattern in grant.functions)
    )


def opaque_part(facts: Facts, statement: SqlStatement) -> str | None:
    """What of the statement can't be seen into, for a message: an anonymous block, or a function that isn't known. None: nothing."""
    if statement.kinds.isdisjoint(_OPAQUE_KINDS):
        return None
    if StatementKind.DO in statement.kinds:
        return "the anonymous code block"
    unnamed = unnamed_functions(facts, statement)
    if unnamed:
        return "function" + _named(unnamed)
    return None if statement.functions else "what is called"


def _named(functions: Iterable[FunctionRef]) -> str:
    names = sorted(
        {
            f"`{next(iter(function.schemas))}.{function.name}`"
            if function.schemas is not None and len(function.schemas) == 1
            else f"`{function.name}`"
            for function in functions
        }
    )
    return f" {', '.join(names[:3])}" if names else ""
