"""What goes with a CASCADE: only the target knows, so it is asked before the statement is decided, and again after it ran. Pure; a part of
stories.py's telling.

Rules it keeps:
- What is found is at least what the target finds (dependency.c, findDependentObjects): everything that refers to what goes, whatever the
  kind of dependency, and what an internal part or a member of an extension belongs to. For TRUNCATE: the tables that refer by foreign keys.
- It is asked over the session's own connection: its transaction's changes, temporary tables and search_path are the target's to see.
- An object has a home: the schema it is in, or that of the relation it is a part of. What has none could be anywhere.
- INVARIANT: the target locks each object before it drops it (AcquireDeletionLock) or empties it, and keeps the lock to the end of the
  transaction. So what was locked is what went, however definitions changed meanwhile. With a lock on anything that wasn't found before, the
  statement is taken back and decided as one that could reach any schema.

Left out: an object that is moved to another schema by another session between the question and the statement.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sidegate.policy.decision import Permit
from sidegate.policy.statement import CascadeRoot, RelationRef, Root, SqlStatement, StatementKind
from sidegate.postgres.cascade_queries import LOCKS, MOST_OBJECTS, what_goes, what_is_emptied
from sidegate.postgres.pipeline import Answer

if TYPE_CHECKING:
    from sidegate.postgres.session import Session
    from sidegate.postgres.statements import Work
    from sidegate.postgres.stories import Ask, Runner

MOST_ROOTS: Final = 64
_CLASS: Final = b"1259"  # pg_class, among the catalogs
_DEFINES: Final = frozenset({StatementKind.DDL, StatementKind.ROLES, StatementKind.SERVER})
_EMPTIED_KINDS: Final = frozenset(
    {b"r", b"p", b"f", b"m"}
)  # pg_class.relkind; indexes, TOAST and sequences come with their table
_TEMPORARY: Final = "pg_temp"
_OF_TABLES: Final = "pg_toast"  # and `pg_toast_temp_N`: what is in there is a part of a table that was found by itself

Locks = frozenset[tuple[bytes | None, bytes | None, bytes | None]]


@dataclass(frozen=True, slots=True)
class Reach:
    """`schemas` None: any. `objects` are those that it may lock (pg_class.oid of the catalog, oid), in text."""

    schemas: frozenset[str] | None
    relations: frozenset[RelationRef] = frozenset()
    objects: frozenset[tuple[bytes, bytes]] = frozenset()
    counted: frozenset[RelationRef] = frozenset()  # of what is emptied: tables that don't inherit from another one of them


ANYWHERE: Final = Reach(None)


def cascades(statements: Sequence[SqlStatement]) -> bool:
    return any(statement.cascade is not None for statement in statements)


def by_itself(statements: Sequence[SqlStatement]) -> tuple[SqlStatement, ...]:
    """As if nothing went with it."""
    return tuple(
        replace(each, schemas=each.cascade.schemas, cascade=None) if each.cascade is not None else each for each in statements
    )


def reaching(statements: Sequence[SqlStatement], reach: Reach | None) -> tuple[SqlStatement, ...]:
    """With what goes with it, as far as that is known."""
    if reach is None or reach.schemas is None:
        return tuple(statements)
    found: list[SqlStatement] = []
    for statement in statements:
        if statement.cascade is not None:
            named = statement.cascade.schemas
            schemas = named | reach.schemas if named is not None else None
            found.append(replace(statement, schemas=schemas, writes=statement.writes | reach.relations, cascade=None))
        else:
            found.append(statement)
    return tuple(found)


def words_for(statements: Sequence[SqlStatement], reach: Reach) -> str:
    """What it reaches beyond what it names, for a message: other schemas' first. Empty: nothing that has a name of its own."""
    named = frozenset[RelationRef]().union(*(statement.writes for statement in statements))
    schemas = frozenset[str]().union(*(each.cascade.schemas or () for each in statements if each.cascade is not None))
    others = sorted(
        (schema in schemas, f"`{schema}.{relation.name}`")
        for relation in reach.relations - named
        for schema in relation.schemas or ()
    )
    if not others:
        return ""
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return f"its CASCADE reaches {', '.join(name for _, name in others[:3])}{more}"


def parts_of(reach: Reach | None) -> tuple[tuple[str, ...], ...]:
    """What an approval is bound to beside the statement, where it was held for what goes with it."""
    if reach is None or reach.schemas is None:
        return ()
    names = (f"{schema}.{relation.name}" for relation in reach.relations for schema in relation.schemas or ())
    return (tuple(sorted(reach.schemas)), tuple(sorted(names)))


def ask_reach(session: Session, runner: Runner, permit: Permit) -> Generator[Ask, Any, Reach]:
    """Nothing is changed and nothing locked. In doubt: anywhere."""
    from sidegate.postgres.stories import SAVEPOINT, Ask

    question = _question(runner.work)
    is_pipelined = session.expected.has_transaction_control or (session.status == "I" and runner.has_earlier_work)
    if question is None or is_pipelined:
        return ANYWHERE
    is_inside = session.status == "T"
    if is_inside:  # should the question fail, the client's transaction must not
        saved: Answer = yield Ask(f"SAVEPOINT {SAVEPOINT}", permit)
        if saved.error is not None or saved.was_skipped:
            return ANYWHERE
    answer: Answer = yield Ask(question, permit)
    if is_inside:
        if answer.error is not None:
            yield Ask(f"ROLLBACK TO SAVEPOINT {SAVEPOINT}", permit)
        yield Ask(f"RELEASE SAVEPOINT {SAVEPOINT}", permit)
    return _reach(answer)


def locks(permit: Permit) -> Generator[Ask, Any, Locks | None]:
    """Objects that this transaction has locked as it locks what it drops. None: not to be told."""
    from sidegate.postgres.stories import Ask

    held: Answer = yield Ask(LOCKS, permit)
    if held.error is not None or held.was_skipped:
        return None
    return frozenset((row[0], row[1], row[2]) for row in held.rows)


def kept_within(reach: Reach, work: Work, before: Locks | None, after: Locks | None) -> bool:
    """It took nothing that wasn't found before."""
    if before is None or after is None:
        return False
    is_emptied = any(StatementKind.TRUNCATE in statement.kinds for statement in work.statements)
    return all(
        (catalog, oid) in reach.objects
        for catalog, oid, kind in after - before
        if not is_emptied or (catalog == _CLASS and kind in _EMPTIED_KINDS)
    )


def _question(work: Work) -> str | None:
    """None: where it starts can't be told, or what else is in its string may change what goes."""
    roots: set[CascadeRoot] = set()
    for statement in work.statements:
        if statement.cascade is not None:
            if statement.cascade.roots is None:
                return None
            roots |= statement.cascade.roots
    if not 0 < len(roots) <= MOST_ROOTS:
        return None
    found = sorted(roots, key=str)
    if all(root.kind is Root.EMPTIED for root in roots):
        return what_is_emptied(found) if len(work.own) == len(work.statements) == 1 else None
    if any(root.kind is Root.EMPTIED for root in roots):
        return None
    if not all(StatementKind.DDL in each.kinds and each.kinds <= _DEFINES for each in work.statements):
        return None
    if any(statement.controls_transaction for statement in work.statements):
        return None
    return what_goes(found)


def _reach(answer: Answer) -> Reach:
    if answer.error is not None or answer.was_skipped or len(answer.rows) > MOST_OBJECTS:
        return ANYWHERE
    schemas: set[str] = set()
    relations: set[RelationRef] = set()
    counted: set[RelationRef] = set()
    objects: set[tuple[bytes, bytes]] = set()
    for catalog, oid, schema, relation, near, isolation, is_child in answer.rows:
        if schema is None or catalog is None or oid is None or isolation != b"read committed":
            return ANYWHERE  # an older snapshot says nothing of where things are by now
        objects.add((catalog, oid))
        objects.update((_CLASS, each) for each in (near or b"{}").strip(b"{}").split(b",") if each not in (b"", b"0"))
        name = _home(schema.decode())
        if not name:
            continue
        schemas.add(name)
        if relation is not None:
            found = RelationRef(relation.decode(), frozenset({name}))
            relations.add(found)
            if is_child == b"f":
                counted.add(found)
    return Reach(frozenset(schemas), frozenset(relations), frozenset(objects), frozenset(counted))


def _home(schema: str) -> str:
    if schema.startswith(_OF_TABLES):
        return ""
    return _TEMPORARY if schema.startswith("pg_temp_") else schema
