"""Which statements may change the client's encoding, and when the change takes hold. Pure; acts through `Session`.

The target's own client_encoding is UTF8 for ever. A plain SET (sql/client_encoding.py) at the beginning of a Query is sent to it with UTF8
in the value's place, and the edge switches when the target has confirmed it: what comes of the rest of the string is in the new encoding,
and the client's next message is read in it, as PostgreSQL does both. If the string fails, the old encoding is back before ReadyForQuery.

Rules it keeps:
- A change is let through only where nothing can take it back unnoticed: outside of transactions and pipelines, in a string that neither
  begins nor ends one, and that takes no COPY data.
- Every other way to change it is refused in a session whose encoding isn't UTF-8, and by policy/settings.py in all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidegate.policy.decision import Deny
from sidegate.policy.reason import Reason
from sidegate.policy.source import Builtin
from sidegate.policy.statement import SqlStatement, StatementKind
from sidegate.postgres.edge import EncodingChange, error_message
from sidegate.postgres.encodings import Encoding, Untranslatable, find_encoding, is_utf8
from sidegate.postgres.messages import CLIENT_MESSAGES, encode_parameter_status
from sidegate.postgres.runners import QueryRunner, poison_bind
from sidegate.postgres.stories import deny_builtin
from sidegate.sql import encoding_set, names_copy_encoding

if TYPE_CHECKING:
    from sidegate.postgres.from_client import ClientSide
    from sidegate.postgres.session import Session
    from sidegate.postgres.statements import Work

SETTING: Final = "client_encoding"
ALL: Final = "all"
_QUERY: Final = ord("Q")
_COPIES: Final = frozenset({StatementKind.COPY_IN, StatementKind.COPY_OUT})
_SOURCE: Final = Builtin("client-encoding")
ALONE: Final = (
    "send SET client_encoding as a simple query outside of a transaction, as \\encoding and drivers do, or choose it at start-up"
)
SAY_IT: Final = "say it in the COPY: WITH (ENCODING '{name}'); data are then converted by the target"


def read_change(session: Session, text: str, statements: tuple[SqlStatement, ...]) -> EncodingChange | None:
    """What a Query's first statement does to the encoding. None: nothing, or nothing that is supported: that is refused like any setting
    that isn't known.
    """
    if not statements or not statements[0].settings:
        return None
    name = statements[0].settings[0][0]
    if name == SETTING:
        change = _of_set(session, text)
    elif name == ALL:
        change = EncodingChange(text, session.edge.initial, session.edge.encoding)
    else:
        return None
    if change is None or (change.encoding is None and session.edge.is_plain):
        return None
    is_alone = session.status == "I" and not len(session.expected) and not session.expected.has_unsynced
    lasts = not any(statement.controls_transaction for statement in statements[1:])
    takes_data = any(StatementKind.COPY_IN in statement.kinds for statement in statements)
    return change if is_alone and lasts and not takes_data else None


def _of_set(session: Session, text: str) -> EncodingChange | None:
    found = encoding_set(text)
    if found is None:
        return None
    encoding = find_encoding(found.value)
    if encoding is None and not is_utf8(found.value):
        return None
    return EncodingChange(found.text, encoding, session.edge.encoding)


def refuse_unfit(session: Session, work: Work) -> Deny | None:
    """In a session whose encoding isn't UTF-8, or wasn't: what the target would take for something else than the client means by it."""
    revision, change, edge = session.config.revision, work.encoding_change, session.edge
    for statement in work.statements[1 if change is not None else 0 :]:
        for name, _ in statement.settings:
            if name == SETTING or (name == ALL and (change is not None or edge.encoding is not edge.initial)):
                return Deny(Reason.SETTING_REFUSED, _SOURCE, revision, "the client's encoding may not be changed here", ALONE)
    encoding = edge.encoding if change is None else change.encoding
    if encoding is None or not any(statement.kinds & _COPIES for statement in work.statements) or names_copy_encoding(work.text):
        return None
    detail = f"COPY without an encoding of its own, with client_encoding {encoding.name}"
    return Deny(Reason.PROTOCOL_REFUSED, _SOURCE, revision, detail, SAY_IT.format(name=encoding.name))


def take_encoding(session: Session, change: EncodingChange) -> None:
    """The first statement of the string has run."""
    _switch(session, change.encoding)


def settle_encoding(session: Session, change: EncodingChange) -> None:
    """The string has failed, and all of it is undone."""
    _switch(session, change.before)


def _switch(session: Session, encoding: Encoding | None) -> None:
    if session.edge.encoding is not encoding:
        session.edge.switch(encoding)
        session.deliver(encode_parameter_status(SETTING, session.edge.name))


def in_utf8(session: Session, client: ClientSide, code: int, frame: bytes) -> bytes:
    """The client's message as everything else reads it. Empty: it can't be read, and has been refused."""
    try:
        return session.edge.from_client(code, frame)
    except Untranslatable as error:
        unread = error
    is_query = code == _QUERY
    if not is_query and not client.withheld.release():
        return b""
    reason = Reason.PROTOCOL_REFUSED if unread.sqlstate == "0A000" else Reason.STATEMENT_UNPARSABLE
    work = session.new_work(f"({CLIENT_MESSAGES[code].name} that can't be read)", (), is_simple=is_query)
    work.own_error = error_message(unread)
    work.decision = deny = deny_builtin(reason, session.config.revision, unread.message, "client-encoding")
    session.journal.asked(work, session.judge.search_path)
    if is_query:
        session.fence_names()
        session.refuse(QueryRunner(session, client, work, b""), deny)
    else:
        session.journal.decided(work, deny)
        poison_bind(session, work, work.own_error)
    return b""
