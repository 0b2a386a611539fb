"""How one statement is sent, refused, kept back and finished: by Query, or by Execute in the extended protocol. Pure;
used by stories.py.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Final

from sidegate.policy.decision import Allow, Deny, Permit
from sidegate.policy.reason import Reason
from sidegate.policy.statement import StatementKind
from sidegate.postgres.answers import deliver_kept
from sidegate.postgres.frames import HEADER_BYTES
from sidegate.postgres.messages import (
    FLUSH,
    SYNC,
    decode_execute,
    encode_bind,
    encode_close,
    encode_execute,
    encode_parse,
    encode_query,
    encode_ready,
)
from sidegate.postgres.pipeline import Answer, Expected, Kind
from sidegate.postgres.portals import describe_portal, settle_portal
from sidegate.postgres.refusal import refusal_message
from sidegate.postgres.stories import Ask, Captured, Step, Story, WaitForCatalog, WaitForReady, deny_builtin

if TYPE_CHECKING:
    from sidegate.postgres.from_client import ClientSide
    from sidegate.postgres.session import Session
    from sidegate.postgres.statements import Binding, Work

POISON: Final = "sidegate denied"  # no statement begins so: the target answers 42601 and does nothing


def poison_parse(session: Session, name: str, deny: Deny, work: Work, binding: Binding | None = None) -> None:
    """A Parse that the target must refuse, under the client's own name: a statement that has the name already stays."""
    refusal = refusal_message(deny, position=work.position)
    session.send(session.grant.permit, encode_parse(name, POISON), Expected(Kind.PARSE, work, refusal=refusal, binding=binding))


def poison_bind(session: Session, work: Work, refusal: bytes) -> None:
    """A Bind of a statement that can't exist."""
    frame = encode_bind("", f"{session.gate_name}:none")
    session.send(session.grant.permit, frame, Expected(Kind.BIND, work, refusal=refusal))


def _await(session: Session, work: Work, entry: Expected) -> bool:
    """Whether what comes behind waits for its answer. What it returns may have to be cut: by a budget, or because the client's encoding
    lacks a character of it. COPY data is part of it, though. After a change of the encoding the next message is read otherwise, and after
    one of definitions names mean something else.
    """
    may_be_cut = session.edge.encoding is not None or (work.meter is not None and work.meter.limits)
    is_needed = may_be_cut or session.judge.settles_definitions(work.statements)
    if work.encoding_change is None and (not is_needed or copies_in(work)):
        return False
    session.expected.awaited = entry
    return True


def copies_in(work: Work) -> int:
    return sum(StatementKind.COPY_IN in statement.kinds for statement in work.statements)


def copy_out_story(runner: QueryRunner | ExecuteRunner, session: Session, decision: Allow) -> Story:
    """COPY OUT brings no RowDescription: what it will copy is described first, and the plan made from that."""
    work = runner.work
    if session.expected.awaits_ready:
        yield WaitForReady()
    if session.status == "I" and session.expected.has_unsynced:
        # Describing it takes a Sync of the gate's, which would end the pipeline's own transaction
        detail = "COPY behind other statements of a pipeline: send it as a Query of its own"
        session.refuse(runner, deny_builtin(Reason.MASK_NOT_PROVABLE, session.config.revision, detail, "copy-out"))
        return
    query = session.masker.copy_out_query(work)
    columns = session.masker.copy_out_columns_query(work)
    if query is not None and columns is not None:
        named: Answer = yield Ask(columns, decision.permit)
        query = session.masker.copy_out_table_query(work, [row[0] for row in named.rows if row[0]])
    problem = "the columns it copies can't be told" if query is None else ""
    if query is not None:
        answer: Answer = yield Ask(query, decision.permit, describe_only=True)
        if answer.was_skipped:  # an earlier message of the pipeline failed: the client already has that error
            session.skip_to_sync()
            return
        if answer.row_description is None:
            problem = (answer.error or {}).get("M", "the target didn't describe it")
        else:
            planned = session.masker.plan_copy_out(work, decision.masks, answer.row_description)
            if planned is None:
                yield WaitForCatalog()
                planned = session.masker.plan_copy_out(work, decision.masks, answer.row_description, is_fresh=True)
            problem = planned or ""
    if problem:
        detail = f"COPY: {problem}"
        session.refuse(runner, deny_builtin(Reason.MASK_NOT_PROVABLE, session.config.revision, detail, "copy-out"))
        return
    work.decision = decision
    session.allow(runner, decision)


class QueryRunner:
    """A statement (or several) in one Query message."""

    __slots__ = ("_client", "_frame", "_session", "has_earlier_work", "work")

    def __init__(self, session: Session, client: ClientSide, work: Work, frame: bytes) -> None:
        self._session = session
        self._client = client
        self._frame = frame
        self.work = work
        self.has_earlier_work = session.expected.has_unsynced

    def send(self, permit: Permit) -> None:
        self._client.copies_to_come, self._client.copy_work = copies_in(self.work), self.work
        bindings = self._session.judge.bindings(self.work, self._session.prepared, self._session.cursors)
        entry = Expected(Kind.QUERY, self.work, binding=bindings)
        self._session.send(permit, self._frame, entry)
        _await(self._session, self.work, entry)
        self._session.fence_names()  # should it fail, what comes behind it runs all the same

    def run(self, permit: Permit, frames: list[bytes]) -> None:
        self._session.send(permit, self._frame, Expected(Kind.QUERY, self.work, capture=frames))

    def refuse(self, deny: Deny) -> None:
        refusal = self.work.own_error or refusal_message(deny, request=self.work.approval, position=self.work.position)
        entry = Expected(Kind.QUERY, self.work, refusal=refusal)
        self._session.send(self._session.grant.permit, encode_query(POISON), entry)

    def has_been_rolled_back(self) -> Deny | None:
        """A Query can simply be sent again."""
        return None

    def settle(self) -> Deny | None:
        session = self._session
        return session.judge.resolve_names(self.work, session.prepared, session.cursors, session.portals)

    def finish(self, captured: Captured, *, owns_transaction: bool) -> Generator[Step, Answer, None]:
        session = self._session
        if owns_transaction:
            answer = yield Ask("COMMIT", session.grant.permit)
            if (
                answer.error is not None
            ):  # a deferred constraint: the statement failed at its end, as it would have without a gate
                captured.frames = [session.masker.error(answer.error)]
                self.work.sqlstate = answer.error.get("C", "")
                if session.status != "I":  # a cancel hit the COMMIT itself
                    yield Ask("ROLLBACK", session.grant.permit)
        self._deliver(captured)

    def fail(self, captured: Captured) -> None:
        self._deliver(captured)

    def _deliver(self, captured: Captured) -> None:
        session = self._session
        deliver_kept(session, self.work, captured.frames)
        session.deliver(encode_ready(session.status))

    def copy_out_story(self, decision: Allow) -> Story:
        return copy_out_story(self, self._session, decision)


class ExecuteRunner:
    """One Execute of a portal. What was withheld for it (Parse, Bind, Describe) goes out right before."""

    __slots__ = ("_client", "_frame", "_name", "_needs_rebind", "_session", "has_earlier_work", "work")

    def __init__(self, session: Session, client: ClientSide, work: Work, frame: bytes) -> None:
        self._session = session
        self._client = client
        self._frame = frame
        self._name = decode_execute(frame[HEADER_BYTES:]).portal
        self._needs_rebind = False
        self.work = work
        self.has_earlier_work = session.expected.has_unsynced

    def send(self, permit: Permit) -> None:
        self._send_portal(permit)
        self._client.copies_to_come, self._client.copy_work = min(1, copies_in(self.work)), self.work
        bindings = self._session.judge.bindings(self.work, self._session.prepared, self._session.cursors)
        entry = Expected(Kind.EXECUTE, self.work, binding=bindings)
        self._session.send(permit, self._frame, entry)
        if _await(self._session, self.work, entry):
            self._session.send(permit, FLUSH)
        if (
            0 < copies_in(self.work) < len(self.work.statements)
        ):  # should it be no COPY, its end must be told before the next Sync
            self._session.send(permit, FLUSH)

    def run(self, permit: Permit, frames: list[bytes]) -> None:
        self._send_portal(permit)
        self._session.send(permit, self._frame, Expected(Kind.EXECUTE, self.work, capture=frames))
        self._session.send(permit, SYNC, Expected(Kind.SYNC, self.work, is_visible=False, capture=frames))

    def _send_portal(self, permit: Permit) -> None:
        session = self._session
        portal = self.work.portal
        self._client.withheld.release(portal)
        if portal is not None and self._needs_rebind:
            session.send(permit, encode_close("P", portal.name), Expected(Kind.CLOSE, is_visible=False))
            binding = session.portals.offer(portal.name, portal)
            session.send(permit, portal.frame, Expected(Kind.BIND, is_visible=False, binding=binding))
        if self.work.masks:
            describe_portal(session, permit, self._name, self.work)

    def refuse(self, deny: Deny) -> None:
        session = self._session
        refusal = self.work.own_error or refusal_message(deny, request=self.work.approval)
        if self._client.withheld.refuse(self.work, refusal):
            return
        self._client.withheld.release()
        frame = encode_execute(f"{session.gate_name}:none")
        session.send(session.grant.permit, frame, Expected(Kind.EXECUTE, self.work, refusal=refusal))

    def has_been_rolled_back(self) -> Deny | None:
        """Its portal went with it, and is made again from the statement: if that is another by now, from nothing."""
        self._needs_rebind = True
        portal = self.work.portal
        if portal is None:
            return None
        candidates = self._session.prepared.find(portal.bind.statement)
        if candidates and all(any(known is candidate for known in portal.candidates) for candidate in candidates):
            return None
        detail = "the prepared statement that its portal was made of is another by now"
        return deny_builtin(Reason.IMPACT_NOT_MEASURABLE, self._session.config.revision, detail, "names")

    def settle(self) -> Deny | None:
        session = self._session
        unknown = settle_portal(session, self.work, self._name)
        return unknown or session.judge.resolve_names(self.work, session.prepared, session.cursors, session.portals)

    def finish(self, captured: Captured, *, owns_transaction: bool) -> Generator[Step, Answer, None]:
        """The client's Sync ends the transaction: until then further messages of its pipeline belong to it."""
        self._session.owns_transaction = self._session.owns_transaction or owns_transaction
        self._deliver(captured)
        yield from ()

    def fail(self, captured: Captured) -> None:
        self._deliver(captured)
        self._session.skip_to_sync()

    def _deliver(self, captured: Captured) -> None:
        deliver_kept(self._session, self.work, captured.frames)

    def copy_out_story(self, decision: Allow) -> Story:
        return copy_out_story(self, self._session, decision)
