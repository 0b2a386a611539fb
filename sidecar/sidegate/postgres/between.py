"""What a session does by itself between the client's messages: end a transaction of the gate's own, read the search path again. Pure
generators, as in stories.py.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from sidegate.postgres.messages import SYNC
from sidegate.postgres.pipeline import Answer, Expected, Kind
from sidegate.postgres.stories import Ask, Step

if TYPE_CHECKING:
    from sidegate.postgres.session import Session


def end_own_transaction(session: Session) -> Generator[Step, Answer, None]:
    """The client's Sync (or next Query) ends the transaction that a measured statement was put in, as it would have
    ended by itself.
    """
    session.owns_transaction = False
    error = None
    if session.is_skipping:  # the target takes nothing before a Sync
        session.send(session.grant.permit, SYNC, Expected(Kind.SYNC, is_visible=False))
    else:
        # INVARIANT: what waits for a COMMIT of the client's isn't committed by the gate
        answer = yield Ask("COMMIT" if session.judge.awaiting.held is None else "ROLLBACK", session.grant.permit)
        error = answer.error
    if session.is_skipping or session.status != "I":  # something in the pipeline failed, or a cancel hit the COMMIT
        answer = yield Ask("ROLLBACK", session.grant.permit)
        error = error or answer.error
    if error is not None:
        session.deliver(session.masker.error(error))


def settle_search_path(session: Session) -> Generator[Step, Answer, None]:
    """Names resolve by the target's search_path; after it may have changed it is read again before the next statement. So is the
    role in force, which can change by the same statements.
    """
    session.judge.search_path_is_stale = False
    answer = yield Ask("SELECT pg_catalog.current_schemas(false), current_user", session.grant.permit)
    session.judge.path_settled(session.status)
    session.judge.learn_search_path(*(answer.rows[0] if answer.rows else (None,)))
