"""The client's messages of one session: read, registered, decided, forwarded or refused. Pure; acts through `Session`.

A statement that must not run is replaced by a message that the target itself refuses (stories.py and pipeline.py put our
error in place of the target's): so gate and target never disagree about the transaction, the pipeline or the next
ReadyForQuery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidegate.policy.decision import Allow, Decision, Deny, Measure, RequireApproval
from sidegate.policy.reason import Reason
from sidegate.postgres import at_commit
from sidegate.postgres.between import end_own_transaction, settle_search_path
from sidegate.postgres.encoding_changes import in_utf8, read_change
from sidegate.postgres.frames import HEADER_BYTES, frame_length, skip_run
from sidegate.postgres.messages import (
    CLIENT_MESSAGES,
    FLUSH,
    SYNC,
    ClientProtocolError,
    Treatment,
    decode_bind,
    decode_execute,
    decode_named,
    decode_parse,
    decode_query,
    encode_bind,
    encode_parse,
    encode_query,
)
from sidegate.postgres.own_catalog import waits_for_catalog
from sidegate.postgres.pipeline import Expected, Kind
from sidegate.postgres.portals import settle_portal, work_to_describe
from sidegate.postgres.refusal import refusal_message, unknown_name_message
from sidegate.postgres.runners import ExecuteRunner, QueryRunner, poison_bind, poison_parse
from sidegate.postgres.spending import HELD_NEXT_TIME
from sidegate.postgres.startup import NAME_BYTES
from sidegate.postgres.statements import MAX_NAMES, Portal, Prepared, Work
from sidegate.postgres.stories import deny_builtin
from sidegate.postgres.translation import refusal_of
from sidegate.postgres.withheld import Withheld

if TYPE_CHECKING:
    from sidegate.postgres.session import Session

QUERY: Final = ord("Q")
PARSE: Final = ord("P")
BIND: Final = ord("B")
DESCRIBE: Final = ord("D")
EXECUTE: Final = ord("E")
CLOSE: Final = ord("C")
SYNC_CODE: Final = ord("S")
FLUSH_CODE: Final = ord("H")
COPY_DATA: Final = ord("d")
COPY_DONE_CODE: Final = ord("c")
COPY_FAIL: Final = ord("f")
TERMINATE: Final = ord("X")
FUNCTION_CALL: Final = ord("F")

MAX_FRAME_BYTES: Final = 0x40000000  # PostgreSQL closes the connection at 1 GiB

# Messages behind which an Execute may still come for what was withheld.
BEFORE_EXECUTE: Final = frozenset({PARSE, BIND, DESCRIBE, CLOSE, EXECUTE})


class ClientSide:
    __slots__ = (
        "_buffer",
        "_discard",
        "_parts",
        "_parts_bytes",
        "_session",
        "_stream",
        "_stream_is_sent",
        "copies_to_come",
        "copy_work",
        "is_copying",
        "withheld",
    )

    def __init__(self, session: Session) -> None:
        self._session = session
        self._buffer = b""
        self._parts: list[bytes] = []  # chunks of one large message, joined once when it is whole
        self._parts_bytes = 0
        self._stream = 0  # bytes of a CopyData still to pass on
        self._stream_is_sent = False  # whether its beginning was
        self._discard = 0  # bytes of a refused oversized message still to drop
        self.is_copying = False
        self.copies_to_come = 0  # of `copy_work`
        self.copy_work: Work | None = None  # the statement that asks for COPY data, from when it is sent to its end
        # Parse, Bind and Describe of a statement that may be held: the target takes no lock for it meanwhile
        self.withheld = Withheld(session)

    @property
    def waiting_bytes(self) -> int:
        return len(self._buffer) + self._parts_bytes

    @property
    def waits_for_copy(self) -> bool:
        """The target may ask for COPY data next: until it did, or ended the statement, nobody knows how it reads what comes."""
        return self.copies_to_come > 0 and not self.is_copying

    def receive(self, data: bytes) -> None:
        if self._parts:
            self._parts.append(data)
            self._parts_bytes += len(data)
            needed = frame_length(self._parts[0], 0) if len(self._parts[0]) >= HEADER_BYTES else 0
            if self._parts_bytes < needed:
                return
            data, self._parts, self._parts_bytes = b"".join(self._parts), [], 0
            self._buffer = data
        else:
            self._buffer = self._buffer + data if self._buffer else data
        self.pump()

    def pump(self) -> None:
        """Work through what is buffered until it is used up, cut, or a story makes it wait."""
        session = self._session
        at = 0
        buffer = self._buffer
        end = len(buffer)
        while not session.is_blocked and at < end:
            if self._discard or self._stream:
                at = self._pass_over(buffer, at, end)
                continue
            if at + HEADER_BYTES > end:
                break
            code = buffer[at]
            length = frame_length(buffer, at)
            _check(code, length)
            if self.waits_for_copy:
                break
            if code == COPY_DATA:
                at = self._on_copy_data(buffer, at, end, length)
                continue
            if length > self._limit(code):
                if self.is_copying:
                    raise ClientProtocolError(f"unexpected message of {length} bytes during COPY from stdin")
                self._refuse_oversized(code, length)
                continue
            if at + length > end:
                break
            if code == FLUSH_CODE and self.withheld and at + length < end and buffer[at + length] == EXECUTE:
                at += length  # as pg8000 sends: its Execute came with it, and brings the answer
                continue
            frame = buffer[at : at + length]
            if not self._on_frame(code, frame):
                break  # a story runs first; the same message is read again afterwards
            at += length
        if session.room.in_flight > session.room.crowd and at and not (self.withheld or self.is_copying):
            session.send(session.grant.permit, FLUSH)  # or the target would keep its answers until they fill a packet
        self._keep(buffer, at, end)

    def _keep(self, buffer: bytes, at: int, end: int) -> None:
        rest = buffer[at:] if at else buffer
        if len(rest) >= HEADER_BYTES and not self._session.is_blocked and frame_length(rest, 0) > len(rest) > 65536:
            self._parts, self._parts_bytes, self._buffer = [rest], len(rest), b""
        else:
            self._buffer = rest

    def _limit(self, code: int) -> int:
        limits = self._session.limits
        return limits.max_statement_bytes if code in (QUERY, PARSE) else limits.max_message_bytes

    def _pass_over(self, buffer: bytes, at: int, end: int) -> int:
        if self._discard:
            dropped = min(self._discard, end - at)
            self._discard -= dropped
            return at + dropped
        passed = min(self._stream, end - at)
        self._stream -= passed
        # A message that began goes out to its end: the target, whatever became of the COPY, reads up to there before it reads messages
        if self._stream_is_sent:
            self._session.send(self._session.grant.permit, buffer[at : at + passed])
        return at + passed

    def _on_copy_data(self, buffer: bytes, at: int, end: int, length: int) -> int:
        """CopyData in runs, unread; large ones stream. Outside of a COPY they are dropped, as PostgreSQL drops them."""
        stop = skip_run(buffer, at, end, COPY_DATA)
        if stop == at:
            self._stream, self._stream_is_sent = length, self.is_copying
            return self._pass_over(buffer, at, end)
        if self.is_copying:
            self._session.send(self._session.grant.permit, buffer[at:stop])
        return stop

    def _refuse_oversized(self, code: int, length: int) -> None:
        session = self._session
        self._discard = length
        if session.is_skipping:
            return
        if not self.withheld.release():
            return
        limit = self._limit(code)
        deny = deny_builtin(
            Reason.STATEMENT_TOO_LARGE, session.config.revision, f"{length} bytes, the limit is {limit}", "limits"
        )
        work = session.new_work(f"({CLIENT_MESSAGES[code].name} of {length} bytes)", (), is_simple=code == QUERY)
        if code == QUERY:
            session.refuse(QueryRunner(session, self, work, b""), deny)
        else:
            session.journal.decided(work, deny)
            poison_parse(session, "", deny, work)

    def _on_frame(self, code: int, frame: bytes) -> bool:
        """False: not consumed yet."""
        session = self._session
        if code == TERMINATE:
            session.close_quietly(session.grant.permit, frame)
            return True
        if self.is_copying:
            return self._on_frame_in_copy(code, frame)
        if session.is_skipping and code != SYNC_CODE:
            return True
        if code in (COPY_DONE_CODE, COPY_FAIL):
            return True  # late: PostgreSQL ignores them outside of a COPY
        if self.withheld and code not in BEFORE_EXECUTE and not self.withheld.release() and code != SYNC_CODE:
            return True
        if session.owns_transaction and code in (QUERY, SYNC_CODE, FUNCTION_CALL):
            session.start_story(end_own_transaction(session))
            return False
        if session.edge.encoding is not None and not (frame := in_utf8(session, self, code, frame)):
            return True
        if waits_for_catalog(session, code, frame):
            return False
        if (
            session.judge.search_path_is_stale
            and code in (QUERY, PARSE, BIND, EXECUTE)
            and not (len(session.expected) or session.expected.has_unsynced)  # its Sync would end the pipeline's own transaction
        ):
            session.start_story(settle_search_path(session))
            return False
        if session.grant.holds_at_commit and code in (QUERY, PARSE, BIND, EXECUTE):
            story = at_commit.before(session, code, frame)
            if story is not None:
                session.start_story(story)
                return False
        if CLIENT_MESSAGES[code].treatment is Treatment.REFUSED:
            self._refuse_function_call()
        elif code == QUERY:
            self._on_query(frame)
        elif code == SYNC_CODE:
            self._on_sync()
        else:
            self._on_extended(code, frame)
        return True

    def _on_frame_in_copy(self, code: int, frame: bytes) -> bool:
        session = self._session
        if code in (SYNC_CODE, FLUSH_CODE):
            return True  # the target ignores them during a COPY
        if code not in (COPY_DONE_CODE, COPY_FAIL):
            raise ClientProtocolError(f"unexpected message type `{chr(code)}` during COPY from stdin")
        self.is_copying = False
        session.send(session.grant.permit, frame)
        if (
            self.copies_to_come == 0
            and self.copy_work is not None
            and session.judge.settles_definitions(self.copy_work.statements)
        ):
            session.expected.awaited = session.expected.head
        return True

    # ---- simple protocol ----------------------------------------------------------------------------------------------------------

    def _on_query(self, frame: bytes) -> None:
        session = self._session
        session.fence_names()
        text = decode_query(frame[HEADER_BYTES:])
        statements, deny = session.judge.read(text)
        change = read_change(session, text, statements)
        if change is not None:
            text, frame = change.text, encode_query(change.text)
            statements, deny = session.judge.read(text)
        instead = session.judge.rewritten(text, statements, session.grant.masks)
        if instead is not None:
            frame, statements = encode_query(instead.text), instead.statements
            session.deliver(instead.notice)
        if len(session.prepared) + len(session.cursors) >= MAX_NAMES and any(s.prepares or s.declares for s in statements):
            way = "DEALLOCATE some of them, or connect again"
            raise ClientProtocolError(f"more than {MAX_NAMES} prepared statements and cursors in one session", "54000", way)
        translation = session.masker.translation(text, statements) if instead is None else None
        if translation is not None:
            statements, frame = (translation.statement,), encode_query(translation.text)
        work = session.new_work(instead.text if instead is not None else text, statements, is_simple=True)
        work.asked = text if instead is not None else None
        work.encoding_change = change
        work.is_translated = translation is not None
        runner = QueryRunner(session, self, work, frame)
        if deny is not None:
            work.position = deny.position
            session.journal.asked(work, session.judge.search_path)
            session.refuse(runner, deny.deny)
            return
        unresolved = session.judge.resolve_names(work, session.prepared, session.cursors, session.portals)
        session.journal.asked(work, session.judge.search_path)
        self.judge_and_run(runner, work, unresolved)

    def judge_and_run(self, runner: QueryRunner | ExecuteRunner, work: Work, unresolved: Deny | None) -> None:
        session = self._session
        if unresolved is not None:
            session.refuse(runner, unresolved)
            return
        decision: Decision = session.decide(work)
        if isinstance(decision, (Measure, RequireApproval)) and session.judge.only_prepares(work):
            # PREPARE runs nothing: what it carries is measured or held at each EXECUTE
            decision = Allow(decision.permit, decision.masks, decision.source, decision.revision)
        if isinstance(decision, Allow):
            if decision.masks and session.judge.copies_out(work):
                session.start_story(runner.copy_out_story(decision))
                return
            work.decision = decision
            session.allow(runner, decision)
        elif isinstance(decision, Deny):
            session.refuse(runner, decision)
        else:
            session.start(runner, decision)

    def _refuse_function_call(self) -> None:
        session = self._session
        work = session.new_work("(FunctionCall)", (), is_simple=True)
        deny = deny_builtin(Reason.PROTOCOL_REFUSED, session.config.revision, "FunctionCall would pass the parser by", "protocol")
        session.journal.asked(work, session.judge.search_path)
        session.refuse(QueryRunner(session, self, work, b""), deny)

    # ---- extended protocol --------------------------------------------------------------------------------------------------------

    def _on_sync(self) -> None:
        session = self._session
        session.fence_names()
        session.is_skipping = False
        if session.poisons_sync:
            session.poisons_sync = False
            frame = encode_bind("", f"{session.gate_name}:none")
            session.send(session.grant.permit, frame, Expected(Kind.BIND, is_visible=False, is_cut=True))
        session.send(session.grant.permit, SYNC, Expected(Kind.SYNC))

    def _on_extended(self, code: int, frame: bytes) -> None:
        body = frame[HEADER_BYTES:]
        if code == PARSE:
            self._on_parse(frame, body)
        elif code == BIND:
            self._on_bind(frame, body)
        elif code == EXECUTE:
            self._on_execute(frame, body)
        elif code == DESCRIBE:
            self._on_describe(frame, body)
        elif code == CLOSE:
            self._on_close(frame, body)
        else:
            self._session.send(self._session.grant.permit, FLUSH)

    def _check_name(self, name: str) -> None:
        if name == self._session.gate_name:
            raise ClientProtocolError(f"the name `{name}` is the gate's own")
        if len(name) * 4 > NAME_BYTES and len(name.encode()) > NAME_BYTES:
            # The target looks at the first 63 bytes only: to it, two such names are one
            raise ClientProtocolError(f"a name of more than {NAME_BYTES} bytes", "42622", "choose shorter names")

    def _on_parse(self, frame: bytes, body: bytes) -> None:
        session = self._session
        parse = decode_parse(body)
        self._check_name(parse.name)
        if len(session.prepared) >= MAX_NAMES:
            raise ClientProtocolError(f"more than {MAX_NAMES} prepared statements in one session", "54000", "close some of them")
        statements, problem = session.judge.read(parse.text)
        instead = session.judge.rewritten(parse.text, statements, session.grant.masks)
        if instead is not None:
            parse.text, statements = instead.text, instead.statements
            frame = encode_parse(parse.name, parse.text, parse.parameter_oids)
            session.deliver(instead.notice)
        translation = session.masker.translation(parse.text, statements) if instead is None else None
        if translation is not None:
            frame = encode_parse(parse.name, translation.text, parse.parameter_oids)
        prepared = Prepared(parse.text, statements, parse.parameter_oids, session.judge.search_path, translation=translation)
        work = session.new_work(parse.text, prepared.statements, is_simple=False)
        work.is_translated = translation is not None
        # An EXECUTE or FETCH of a name that nobody set yet is no error here, as at the target: names are settled again when it runs
        session.judge.resolve_names(work, session.prepared, session.cursors, session.portals)
        work.own_error = None
        decision: Decision = problem.deny if problem else session.decide(work)
        if isinstance(decision, Deny):
            if not self.withheld.release():
                return
            work.position = problem.position if problem else None
            session.journal.asked(work, session.judge.search_path)
            session.journal.decided(work, decision)
            binding = session.prepared.offer(parse.name, prepared)
            poison_parse(session, parse.name, decision, work, binding)
            return
        binding = session.prepared.offer(parse.name, prepared)
        is_plain = isinstance(decision, Allow) and not (decision.masks and session.judge.copies_out(work))
        self.withheld.forward(frame, Expected(Kind.PARSE, work, binding=binding), may_withhold=not is_plain)

    def _on_bind(self, frame: bytes, body: bytes) -> None:
        session = self._session
        bind = decode_bind(body)
        self._check_name(bind.portal)
        self._check_name(bind.statement)
        candidates = session.prepared.find(bind.statement)
        if len(session.portals) >= MAX_NAMES:
            raise ClientProtocolError(f"more than {MAX_NAMES} portals in one session", "54000", "close some of them")
        bound = session.masker.bound(candidates, bind, frame)
        portal = Portal(
            bind.portal, candidates, bind, bound.frame, bound.statements, session.judge.search_path, session.judge.present_content
        )
        work = session.new_work(candidates[-1].text if candidates else "", bound.statements, is_simple=False)
        work.is_translated = portal.is_translated
        if bound.problem:
            decision: Decision = refusal_of(bound.problem, session.config.revision)
        else:
            decision = session.decide(work) if candidates else self._unknown_statement(work, bind.statement)
        if isinstance(decision, Deny):
            if not self.withheld.release():
                return
            session.journal.asked(work, session.judge.search_path)
            session.journal.decided(work, decision)
            work.decision = decision
            poison_bind(session, work, work.own_error or refusal_message(decision))
            return
        binding = session.portals.offer(bind.portal, portal)
        expected = Expected(Kind.BIND, binding=binding)
        if isinstance(decision, Allow):
            self.withheld.forward(bound.frame, expected, may_withhold=bool(decision.masks) and session.judge.copies_out(work))
            return
        work.decision, work.portal, work.parameters = decision, portal, bind.parameters
        self.withheld.forward(bound.frame, expected, may_withhold=True, work=work)

    def _unknown_statement(self, work: Work, name: str) -> Deny:
        """The target has no such statement either, or one made by a function: it must not be planned undecided."""
        work.text = f"(Bind of unknown prepared statement `{name}`)"
        work.own_error = unknown_name_message("prepared statement", name)
        detail = f"no prepared statement `{name}` is known"
        return deny_builtin(Reason.STATEMENT_UNKNOWN, self._session.config.revision, detail, "names")

    def _on_describe(self, frame: bytes, body: bytes) -> None:
        session = self._session
        named = decode_named(body)
        self._check_name(named.name)
        entry = Expected(Kind.DESCRIBE)
        if named.kind == "P":
            entry.work = work_to_describe(session, named.name)
        self.withheld.forward(frame, entry)

    def _on_close(self, frame: bytes, body: bytes) -> None:
        session = self._session
        named = decode_named(body)
        self._check_name(named.name)
        names = session.prepared if named.kind == "S" else session.portals
        self.withheld.forward(frame, Expected(Kind.CLOSE, binding=names.removal(named.name)))

    def _on_execute(self, frame: bytes, body: bytes) -> None:
        session = self._session
        execute = decode_execute(body)
        self._check_name(execute.portal)
        work = session.new_work("", (), is_simple=False)
        unresolved = settle_portal(session, work, execute.portal)
        if self.withheld.binds_another(work.portal):
            self.withheld.release()  # all of it: of two such portals neither is bound for the other's Execute
            return
        if unresolved is None:
            unresolved = session.judge.resolve_names(work, session.prepared, session.cursors, session.portals)
        session.journal.asked(work, session.judge.search_path)
        runner = ExecuteRunner(session, self, work, frame)
        portal = work.portal
        if unresolved is None and portal is not None and portal.is_suspended:
            decision = _of_rest(session.decide(work))
            if isinstance(decision, Deny):
                session.refuse(runner, decision)
                return
            work.decision = decision  # the rest of rows that were already decided on
            work.masks = decision.masks
            session.judge.meter(work, session.now, is_rest=True)
            session.journal.decided(work, decision)
            runner.send(decision.permit)
            return
        self.judge_and_run(runner, work, unresolved)


def _check(code: int, length: int) -> None:
    message = CLIENT_MESSAGES.get(code)
    if message is None or message.treatment is Treatment.ANSWERED:
        raise ClientProtocolError(f"invalid frontend message type {code}")
    if not HEADER_BYTES <= length <= MAX_FRAME_BYTES:
        raise ClientProtocolError("invalid message length")


def _of_rest(decision: Decision) -> Decision:
    """The rest of a result isn't held: its portal would keep the transaction open while people think."""
    if isinstance(decision, RequireApproval) and decision.reason is Reason.BUDGET_EXHAUSTED:
        return Deny(decision.reason, decision.source, decision.revision, decision.detail, HELD_NEXT_TIME)
    return decision
