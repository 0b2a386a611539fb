"""When a session's definitions are read, and by whom. Pure.

Rules it keeps:
- A transaction that has changed definitions sees them alone, and holds their locks: it reads them itself, over the client's own connection,
  behind a savepoint that takes back what reading sets. What it read so is the session's alone, and void when the transaction ends.
- Under REPEATABLE READ and SERIALIZABLE its snapshot may be older than the definitions that its statements run by: then, and whenever
  reading fails, the gate's own connection reads (catalog_reader.py), and what it can't see is masked.
- A string that may end the transaction, or take a part of it back, before its last statement is never judged by what the transaction read.
- What only begins or ends transactions shows nothing and changes nothing by itself, and in a transaction that failed, whose locks are still
  held, nothing else runs: neither waits for a catalog.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Final

from sidegate.policy.statement import SqlStatement, StatementKind
from sidegate.postgres.catalog import QUERIES, Catalog, Rows
from sidegate.postgres.frames import HEADER_BYTES
from sidegate.postgres.messages import decode_bind, decode_execute, decode_parse, decode_query
from sidegate.postgres.pipeline import Answer
from sidegate.postgres.stories import Ask, Step

if TYPE_CHECKING:
    from sidegate.postgres.session import Session

SAVEPOINT: Final = "sidegate_catalog"
_TRANSACTION_ALONE: Final = frozenset({StatementKind.TRANSACTION})
# Of the savepoint, which is rolled back. Other sessions' locks aren't waited for long: the client's transaction holds some itself.
_SETTINGS: Final = (
    "SELECT pg_catalog.current_setting('transaction_isolation'), pg_catalog.set_config('search_path', '', true),"
    " pg_catalog.set_config('lock_timeout', '1s', true)"
)
_QUERY: Final = ord("Q")
_PARSE: Final = ord("P")
_BIND: Final = ord("B")
_EXECUTE: Final = ord("E")


def waits_for_catalog(session: Session, code: int, frame: bytes) -> bool:
    """Whether the message has to wait; what it waits for is on its way then."""
    judge = session.judge
    if code == _QUERY and judge.catalog is not None and judge.catalog.is_own:
        string = _statements_of(session, code, frame[HEADER_BYTES:])
        if len(string) > 1 and any(statement.controls_transaction for statement in string):
            session.refresh_catalog()  # what the transaction read is void within the string
            return True
    if code not in (_QUERY, _PARSE, _BIND, _EXECUTE) or not judge.needs_catalog(session.grant, session.now):
        return False
    statements = _statements_of(session, code, frame[HEADER_BYTES:])
    if statements and all(statement.kinds == _TRANSACTION_ALONE for statement in statements):
        return False
    has_failed = session.status == "E" and not len(session.expected)
    if statements and has_failed and not any(StatementKind.TRANSACTION in statement.kinds for statement in statements):
        return False
    if session.status == "T" and judge.has_changed_definitions and not (len(session.expected) or session.expected.has_unsynced):
        session.start_story(read_own(session))
    else:
        session.refresh_catalog(is_forced=judge.catalog_is_stale)
    return True


def read_own(session: Session) -> Generator[Step, Answer, None]:
    permit = session.grant.permit
    saved = yield Ask(f"SAVEPOINT {SAVEPOINT}", permit)
    if saved.error is not None or saved.was_skipped:
        session.refresh_catalog()
        return
    answer = yield Ask(_SETTINGS, permit)
    results: list[Rows] = []
    if answer.error is None and len(answer.rows) == 1 and answer.rows[0][0] == b"read committed":
        for query in QUERIES[1:]:
            answer = yield Ask(query, permit)
            if answer.error is not None or answer.was_skipped:
                break
            results.append(answer.rows)
    yield Ask(f"ROLLBACK TO SAVEPOINT {SAVEPOINT}", permit)
    yield Ask(f"RELEASE SAVEPOINT {SAVEPOINT}", permit)
    if len(results) == len(QUERIES) - 1:
        session.judge.own_catalogs += 1
        columns, views, generated, composites, tells, events, enums = results
        number = -session.judge.own_catalogs  # below zero: never taken for a shared one's
        session.judge.learn_catalog(
            Catalog.decode(columns, views, generated, number, composites, tells, events, enums), session.now
        )
    else:
        session.refresh_catalog()


def _statements_of(session: Session, code: int, body: bytes) -> Sequence[SqlStatement]:
    """What the message is about, as far as that is known by now."""
    statements: Sequence[SqlStatement] = ()
    if code == _QUERY:
        statements, _ = session.judge.read(decode_query(body))
    elif code == _PARSE:
        statements, _ = session.judge.read(decode_parse(body).text)
    elif code == _BIND:
        statements = [each for known in session.prepared.find(decode_bind(body).statement) for each in known.statements]
    else:
        name = decode_execute(body).portal
        if not session.cursors.find(name):
            statements = [each for portal in session.portals.find(name) for each in portal.statements]
    return statements
