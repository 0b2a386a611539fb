"""Statements of the gate's own: asked of the target in the client's session, unseen by the client. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidegate.postgres.messages import (
    SYNC,
    encode_bind,
    encode_close,
    encode_describe,
    encode_execute,
    encode_parse,
    encode_query,
)
from sidegate.postgres.pipeline import Answer, Expected, Kind
from sidegate.postgres.runners import POISON
from sidegate.postgres.stories import Ask

if TYPE_CHECKING:
    from sidegate.postgres.session import Session


def ask(session: Session, step: Ask, *, is_behind_error: bool) -> None:
    """Send a statement of the gate's own. Extended protocol with a name of its own: an unnamed statement of the
    client's survives. `is_behind_error`: the one before it failed, and its names weren't closed then.
    """
    name, permit, answer = session.gate_name, step.permit, Answer()
    if step.describe_only:
        middle = [(encode_describe("S", name), Kind.DESCRIBE)]
    else:
        middle = [(encode_bind(name, name), Kind.BIND), (encode_execute(name), Kind.EXECUTE)]
    frames = [
        *([(encode_close(kind, name), Kind.CLOSE) for kind in "PS"] if is_behind_error else ()),
        (encode_parse(name, step.sql), Kind.PARSE),
        *middle,
        (encode_close("P", name), Kind.CLOSE),
        (encode_close("S", name), Kind.CLOSE),
        (SYNC, Kind.SYNC),
    ]
    for data, kind in frames:
        session.send(permit, data, Expected(kind, is_visible=False, answer=answer))


def fail_transaction(session: Session) -> None:
    """A result of a Query was cut too late for the cancel: what the client takes for failed must not go on."""
    entry = Expected(Kind.QUERY, is_cut=True)
    session.send(session.grant.permit, encode_query(POISON), entry)
    session.expected.awaited = entry
