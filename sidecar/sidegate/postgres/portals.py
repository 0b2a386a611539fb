"""What a portal or a cursor runs, by what is known of its name when it is executed or described. Pure.

INVARIANT: a name that may be one of several runs, for whoever decides, all that it may run; one that nobody knows runs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidegate.policy.decision import Deny, Permit
from sidegate.policy.reason import Reason
from sidegate.policy.statement import SqlStatement
from sidegate.postgres.messages import encode_describe
from sidegate.postgres.pipeline import Expected, Kind
from sidegate.postgres.refusal import unknown_name_message
from sidegate.postgres.statements import Work
from sidegate.postgres.stories import deny_builtin

if TYPE_CHECKING:
    from sidegate.postgres.session import Session


def settle_portal(session: Session, work: Work, name: str) -> Deny | None:
    """Put into `work` what the portal (or cursor) `name` runs, by what is known now."""
    portals = session.portals.find(name)
    cursors = session.cursors.find(name)
    for portal in portals:
        if any(candidate.is_void for candidate in portal.candidates):
            portal.candidates = tuple(candidate for candidate in portal.candidates if not candidate.is_void)
            portal.statements = tuple(s for candidate in portal.candidates for s in candidate.statements)
            portal.search_path = None
    if not (portals or cursors) or any(not portal.candidates for portal in portals):
        # The target has no such portal either, or one made by a function: it must not be run undecided
        work.text = f"(Execute of unknown portal `{name}`)"
        work.own_error = unknown_name_message("portal", name)
        return deny_builtin(Reason.STATEMENT_UNKNOWN, session.config.revision, f"no portal `{name}` is known", "names")
    statements: list[SqlStatement] = []
    for portal in portals:
        if portal.search_path != session.judge.search_path:  # a utility statement resolves its names when it runs
            statements += [s for candidate in portal.candidates for s in session.judge.current(candidate)]
        statements += portal.statements
    statements += [statement for cursor in cursors for statement in cursor.statements]
    work.own = work.statements = tuple(statements) if len(statements) == 1 else tuple(dict.fromkeys(statements))
    work.opened_under = frozenset([*(each.opened_under for each in portals), *(each.opened_under for each in cursors)])
    work.portal = portals[-1] if portals else None
    work.cursor = None if portals else cursors[-1]
    work.text = portals[-1].candidates[-1].text if portals else cursors[-1].text
    work.parameters = portals[-1].bind.parameters if portals else cursors[-1].bound().parameters
    is_certain = len(portals) + len(cursors) == 1 and (not portals or len(portals[0].candidates) == 1)
    work.is_translated = any(portal.is_translated for portal in portals)
    work.alternatives = () if is_certain else work.other_texts(portals, cursors)
    return None


def describe_portal(session: Session, permit: Permit, name: str, work: Work) -> None:
    """Have the target describe a portal that the client didn't: without its columns nothing can be masked."""
    entry = Expected(Kind.DESCRIBE, work, is_visible=False)
    session.send(permit, encode_describe("P", name), entry)


def work_to_describe(session: Session, name: str) -> Work | None:
    """What a Describe of the portal `name` is about; None: nobody knows it."""
    portals = session.portals.find(name)
    if not portals:
        return None
    work = session.new_work("", portals[-1].statements, is_simple=False)
    work.portal = portals[-1]
    return work
