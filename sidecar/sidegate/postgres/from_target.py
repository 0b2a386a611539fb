"""The target's answers of one session: matched to what they answer, masked, recorded, delivered. Pure; acts through `Session`.

Rows that need no change pass in runs, unread, and a cut row passes as far as it came. With a mask plan a row is rewritten whole. Types that
the table doesn't name, answers to nothing, and rows that no description covers end the session: nothing unread is passed on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidegate.policy.decision import Deny
from sidegate.postgres.answers import cut, cut_short
from sidegate.postgres.encoding_changes import settle_encoding, take_encoding
from sidegate.postgres.frames import HEADER_BYTES, frame_length, skip_frames, skip_run
from sidegate.postgres.masker import count_masked
from sidegate.postgres.messages import (
    TARGET_MESSAGES,
    TargetProtocolError,
    Treatment,
    decode_command_tag,
    decode_data_row,
    decode_fields,
    decode_parameter_status,
    rows_of_tag,
)
from sidegate.postgres.own_statements import fail_transaction
from sidegate.postgres.pipeline import Expected, Kind
from sidegate.postgres.refusal import INSUFFICIENT_PRIVILEGE, sqlstate_of
from sidegate.postgres.rows import rewrite_rows

if TYPE_CHECKING:
    from sidegate.postgres.session import Session
    from sidegate.postgres.statements import Work

DATA_ROW: Final = ord("D")
COPY_DATA: Final = ord("d")
ROW_DESCRIPTION: Final = ord("T")
COMMAND_COMPLETE: Final = ord("C")
ERROR: Final = ord("E")
NOTICE: Final = ord("N")
READY: Final = ord("Z")
NOTIFICATION: Final = ord("A")
PARAMETER_STATUS: Final = ord("S")
COPY_IN: Final = ord("G")
COPY_OUT: Final = ord("H")
COPY_DONE: Final = ord("c")
EMPTY_QUERY: Final = ord("I")
SUSPENDED: Final = ord("s")
NO_DATA: Final = ord("n")
PARAMETER_DESCRIPTION: Final = ord("t")

COMPLETES: Final = {ord("1"): Kind.PARSE, ord("2"): Kind.BIND, ord("3"): Kind.CLOSE}


class TargetSide:
    __slots__ = (
        "_buffer", "_copy_work", "_dropped", "_is_fresh", "_needed", "_parts", "_parts_bytes", "_session", "_stream", "_stream_work",
    )  # fmt: skip

    def __init__(self, session: Session) -> None:
        self._session = session
        self._buffer = b""
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._needed = 0
        self._stream = 0  # bytes of a cut row still to pass on
        self._stream_work: Work | None = None
        self._dropped = 0  # bytes still to drop of a row that the client doesn't get
        self._copy_work: Work | None = None
        self._is_fresh = False  # the catalog was just read again for the message at hand

    @property
    def is_mid_message(self) -> bool:
        """Part of a row has gone to the client, its rest hasn't come yet."""
        return self._stream > 0

    def receive(self, data: bytes) -> None:
        session = self._session
        if session.is_closed:
            return
        if self._parts:
            self._parts.append(data)
            self._parts_bytes += len(data)
            if self._parts_bytes < self._needed:
                return
            data, self._parts, self._parts_bytes = b"".join(self._parts), [], 0
        elif self._buffer:
            data = self._buffer + data
        self._buffer = b""
        self._needed = 0
        at = 0
        end = len(data)
        while at < end and not session.waits_for_catalog and not session.is_closed:
            if self._dropped:
                passed = min(self._dropped, end - at)
                self._dropped -= passed
                at += passed
                continue
            if self._stream:
                passed = min(self._stream, end - at)
                self._stream -= passed
                self._deliver_rows(data[at : at + passed], self._stream_work, starts_message=False)
                at += passed
                continue
            if at + HEADER_BYTES > end:
                break
            code = data[at]
            if code in (DATA_ROW, COPY_DATA):
                after = self._on_rows(data, at, end, code)
                if after == at:
                    break
                at = after
                continue
            length = frame_length(data, at)
            self._check(code, length)
            if at + length > end:
                self._wait_for(length)
                break
            frame = data[at : at + length]
            if not self._on_frame(code, frame):
                break
            self._is_fresh = False
            at += length
        rest = data[at:] if at else data
        if self._needed > len(rest) > 0 and not session.waits_for_catalog:
            self._parts, self._parts_bytes = [rest], len(rest)
        else:
            self._buffer = rest

    def _wait_for(self, length: int) -> None:
        self._needed = length

    def _check(self, code: int, length: int) -> None:
        message = TARGET_MESSAGES.get(code)
        if message is None:
            raise TargetProtocolError(f"unknown message type {code}")
        if message.treatment in (Treatment.REFUSED, Treatment.ANSWERED):
            raise TargetProtocolError(f"{message.name} has no place here")
        if not HEADER_BYTES <= length <= self._session.limits.max_target_message_bytes:
            raise TargetProtocolError(f"{message.name} of {length} bytes")

    # ---- rows ---------------------------------------------------------------------------------------------------------------------

    def _on_rows(self, data: bytes, at: int, end: int, code: int) -> int:
        """A run of rows (or COPY data) as far as it goes; returns where it ends, `at` when more bytes are needed."""
        session = self._session
        entry = session.expected.head
        if entry is None or entry.refusal is not None or (code == DATA_ROW and entry.kind not in (Kind.EXECUTE, Kind.QUERY)):
            raise TargetProtocolError("rows that answer nothing")
        if entry.answer is not None:
            return self._gather(entry, data, at, end)
        if entry.is_cut:
            return self._drop_rows(data, at, end, code)
        work = entry.work
        if work is None or (code == COPY_DATA and self._copy_work is not work):
            raise TargetProtocolError("rows that belong to no statement")
        stop = skip_run(data, at, end, code)
        is_plain = not work.masks or (work.plan is not None and work.plan.is_passthrough)
        if code == COPY_DATA and work.masks and work.copy_rewriter is not None:
            is_plain = False
        if work.meter is not None and entry.capture is None:
            return self._on_metered_rows(data, at, stop, end, code, entry, work, is_plain=is_plain)
        if stop == at:
            return self._on_cut_row(data, at, end, code, entry, is_plain=is_plain)
        return self._pass_rows(data, at, stop, end, code, entry, work, is_plain=is_plain)

    def _pass_rows(
        self, data: bytes, at: int, stop: int, end: int, code: int, entry: Expected, work: Work, *, is_plain: bool
    ) -> int:
        session = self._session
        if is_plain:
            self._deliver_rows(data if at == 0 and stop == end else data[at:stop], work, entry)
            return stop
        if code == COPY_DATA:
            self._deliver_rows(session.masker.rewrite_copy(work, data, at, stop), work, entry)
            return stop
        if work.plan is None and not self._plan_execute(work):
            return at
        assert work.plan is not None
        rows = data[at:stop] if work.plan.is_passthrough else rewrite_rows(data, at, stop, work.plan)
        if not work.plan.is_passthrough:
            count_masked(work)
        self._deliver_rows(rows, work, entry)
        return stop

    def _on_metered_rows(
        self, data: bytes, at: int, stop: int, end: int, code: int, entry: Expected, work: Work, *, is_plain: bool
    ) -> int:
        """As far as the budgets go; the row that would go over any of them is where the result is cut."""
        meter = work.meter
        assert meter is not None
        left = meter.rows_left()
        if stop == at:
            if left < 1:
                return self._cut(data, at, entry, work, rows=1)
            after = self._on_cut_row(data, at, end, code, entry, is_plain=is_plain)
            if after != at:
                meter.take(1, 0)  # it streams
            return after
        is_copy = code == COPY_DATA
        rows = meter.rows_in(data, at, stop, is_copy=is_copy)
        has_more = rows > left
        if has_more:
            stop = skip_frames(data, at, stop, left + (is_copy and meter.has_copy_header))
            rows = left
        if stop > at:
            if meter.limits_values and not is_plain:
                return self._on_valued_rows(data, at, stop, code, entry, work, has_more=has_more)
            before = work.masked_values
            if self._pass_rows(data, at, stop, end, code, entry, work, is_plain=is_plain) == at:
                return at
            meter.take(rows, work.masked_values - before)
            meter.has_copy_header = meter.has_copy_header and not is_copy
        return self._cut(data, stop, entry, work, rows=1) if has_more else stop

    def _on_valued_rows(self, data: bytes, at: int, stop: int, code: int, entry: Expected, work: Work, *, has_more: bool) -> int:
        """Masked values are counted as they are masked: in one go, and when that goes over, row by row up to the one that does."""
        meter = work.meter
        assert meter is not None
        if code == DATA_ROW and work.plan is None and not self._plan_execute(work):
            return at
        is_copy = code == COPY_DATA
        left = meter.values_left()
        counts = work.masked_values, dict(work.masked_cells)
        if not is_copy:
            rows = self._rewritten(data, at, stop, work)
            if work.masked_values - counts[0] <= left:
                meter.take(meter.rows_in(data, at, stop, is_copy=False), work.masked_values - counts[0])
                self._deliver_rows(rows, work, entry)
                return self._cut(data, stop, entry, work, rows=1) if has_more else stop
            work.masked_values, work.masked_cells = counts
        while at < stop:
            counts = work.masked_values, dict(work.masked_cells)
            after = at + frame_length(data, at)
            # COPY keeps what it has of a row, and is read once
            row = self._session.masker.rewrite_copy(work, data, at, after) if is_copy else self._rewritten(data, at, after, work)
            values = work.masked_values - counts[0]
            if values > meter.values_left():
                work.masked_values, work.masked_cells = counts
                return self._cut(data, at, entry, work, values=values)
            meter.take(meter.rows_in(data, at, after, is_copy=is_copy), values)
            meter.has_copy_header = meter.has_copy_header and not is_copy
            self._deliver_rows(row, work, entry)
            at = after
        return self._cut(data, stop, entry, work, rows=1) if has_more else stop

    def _rewritten(self, data: bytes, at: int, stop: int, work: Work) -> bytes:
        assert work.plan is not None
        if work.plan.is_passthrough:
            return data[at:stop]
        rows = rewrite_rows(data, at, stop, work.plan)
        count_masked(work)
        return rows

    def _cut(self, data: bytes, at: int, entry: Expected, work: Work, *, rows: int = 0, values: int = 0) -> int:
        """The rows from `at` on are dropped as they come: the next turn begins there."""
        session = self._session
        assert work.meter is not None
        deny = work.meter.refusal(session.config.revision, rows, values)
        assert deny is not None
        work.copy_rewriter = None
        if not entry.is_cut:  # by a row before it
            cut(session, entry, work, deny)
        return self._drop_rows(data, at, len(data), data[at]) if at < len(data) else at

    def _drop_rows(self, data: bytes, at: int, end: int, code: int) -> int:
        stop = skip_run(data, at, end, code)
        if stop > at or at + HEADER_BYTES > end:
            return stop
        length = frame_length(data, at)
        if length < HEADER_BYTES:
            raise TargetProtocolError("invalid message length")
        self._dropped = length - (end - at)
        return end

    def _on_cut_row(self, data: bytes, at: int, end: int, code: int, entry: Expected, *, is_plain: bool) -> int:
        length = frame_length(data, at)
        if length < HEADER_BYTES:
            raise TargetProtocolError("invalid message length")
        session = self._session
        if is_plain and entry.capture is None and session.edge.encoding is None:
            self._stream, self._stream_work = length - (end - at), entry.work
            self._deliver_rows(data[at:end], entry.work)
            return end
        if length > self._session.limits.max_row_bytes:
            raise TargetProtocolError(
                f"a row of {length} bytes has to be rewritten, the limit is {self._session.limits.max_row_bytes}"
            )
        self._wait_for(length)
        return at

    def _plan_execute(self, work: Work) -> bool:
        """Rows of an Execute: the plan comes from the description of its portal. False: wait for the catalog."""
        if work.row_description is None:
            raise TargetProtocolError("rows without a description")
        return self._plan(work, work.row_description)

    def _plan(self, work: Work, body: bytes) -> bool:
        session = self._session
        plan = session.masker.plan(work, body, is_fresh=self._is_fresh)
        if plan is None:
            self._is_fresh = True
            session.refresh_catalog()
            return False
        work.plan = plan
        return True

    def _deliver_rows(
        self, rows: bytes, work: Work | None, entry: Expected | None = None, *, starts_message: bool = True
    ) -> None:
        session = self._session
        if session.edge.encoding is not None and work is not None and entry is not None and entry.capture is None:
            problem = None if entry.is_cut else session.edge.row_problem(rows)
            if entry.is_cut or problem is not None:
                if problem is not None:
                    self._deliver_rows(rows[: problem.at], work, entry)
                    cut_short(session, entry, work, problem.error, problem.sqlstate)
                return
        if work is not None and (entry is None or entry.capture is None):  # what is kept back is recorded once it goes out
            session.journal.result(work, rows, starts_message=starts_message)
        session.deliver(rows, entry)

    def _gather(self, entry: Expected, data: bytes, at: int, end: int) -> int:
        length = frame_length(data, at)
        if not HEADER_BYTES <= length <= self._session.limits.max_target_message_bytes:
            raise TargetProtocolError("invalid message length")
        if at + length > end:
            self._wait_for(length)
            return at
        assert entry.answer is not None
        entry.answer.rows.append(decode_data_row(data[at + HEADER_BYTES : at + length]))
        return at + length

    # ---- everything else ----------------------------------------------------------------------------------------------------------

    def _on_frame(self, code: int, frame: bytes) -> bool:
        """False: not consumed, the catalog is needed first."""
        session = self._session
        if code in (NOTICE, NOTIFICATION, PARAMETER_STATUS):
            self._on_asynchronous(code, frame)
            return True
        entry = session.expected.head
        if code == ERROR:
            self._on_error(entry, frame)
            return True
        if entry is None:
            raise TargetProtocolError(f"{TARGET_MESSAGES[code].name} answers nothing")
        if code == READY:
            self._on_ready(entry, frame)
            return True
        if entry.refusal is not None:
            raise TargetProtocolError("the target ran what it was meant to refuse")
        if code in COMPLETES:
            self._on_complete(entry, code, frame)
            return True
        return self._on_answer(entry, code, frame)

    def _on_complete(self, entry: Expected, code: int, frame: bytes) -> None:
        if entry.kind is not COMPLETES[code]:
            raise TargetProtocolError(f"{TARGET_MESSAGES[code].name} out of order")
        self._session.expected.pop()
        if entry.binding is not None:
            entry.binding.confirm()
        if entry.is_visible:
            self._session.deliver(frame, entry)

    def _on_answer(self, entry: Expected, code: int, frame: bytes) -> bool:
        session = self._session
        if entry.is_cut:
            self._on_cut_answer(entry, code)
            return True
        work = entry.work
        if code in (ROW_DESCRIPTION, NO_DATA, PARAMETER_DESCRIPTION):
            if entry.kind not in (Kind.DESCRIBE, Kind.QUERY):
                raise TargetProtocolError(f"{TARGET_MESSAGES[code].name} out of order")
            if code == ROW_DESCRIPTION and not self._on_description(entry, frame[HEADER_BYTES:]):
                return False
            if entry.kind is Kind.DESCRIBE and code != PARAMETER_DESCRIPTION:
                session.expected.pop()
                if entry.answer is not None:
                    entry.answer.is_complete = True
        elif entry.kind not in (Kind.EXECUTE, Kind.QUERY):
            raise TargetProtocolError(f"{TARGET_MESSAGES[code].name} out of order")
        elif code in (COPY_IN, COPY_OUT, COPY_DONE):
            self._on_copy(entry, code)
        elif entry.answer is not None:
            entry.answer.is_complete = True
            session.expected.pop()
        elif work is not None:
            self._on_statement_end(entry, work, code, frame)
        if entry.is_visible:
            session.deliver(frame, entry)
            if work is not None and entry.capture is None and code not in (COPY_IN, COPY_OUT, COPY_DONE):
                session.journal.result(work, frame)
        return True

    def _on_cut_answer(self, entry: Expected, code: int) -> None:
        """Nothing of it goes out; what the target waits for is refused to it."""
        session, work = self._session, entry.work
        self._copy_work = None
        if code == COPY_IN:  # of a string whose result was cut: the client has its error, and sends no data any more
            session.copy_refused()
        elif entry.kind is Kind.DESCRIBE:
            if code != PARAMETER_DESCRIPTION:
                session.expected.pop()
        elif entry.kind is Kind.EXECUTE and code in (COMMAND_COMPLETE, EMPTY_QUERY, SUSPENDED):
            session.expected.pop()
            session.copy_ended(work)
            if entry.binding is not None:
                entry.binding.confirm()
            if work is not None:
                self._finish(work)

    def _on_description(self, entry: Expected, body: bytes) -> bool:
        work = entry.work
        if entry.answer is not None:
            entry.answer.row_description = body
            return True
        if work is None:
            return True
        work.row_description = body
        if entry.kind is Kind.QUERY:
            work.plan = None
            return not work.masks or self._plan(work, body)
        return True

    def _on_statement_end(self, entry: Expected, work: Work, code: int, frame: bytes) -> None:
        session = self._session
        if code == COMMAND_COMPLETE:
            work.tag = decode_command_tag(frame[HEADER_BYTES:])
            work.rows += rows_of_tag(work.tag)
            if work.encoding_change is not None:
                take_encoding(session, work.encoding_change)
        if work.portal is not None:
            work.portal.is_suspended = code == SUSPENDED
        if work.copy_rewriter is not None and self._copy_work is work:
            raise TargetProtocolError("COPY ended without CopyDone")
        if entry.kind is Kind.EXECUTE:
            session.expected.pop()
            session.copy_ended(work)
            if entry.binding is not None:
                entry.binding.confirm()
            if entry.capture is None:
                self._finish(work)

    def _on_copy(self, entry: Expected, code: int) -> None:
        session = self._session
        work = entry.work
        if code == COPY_IN:
            session.copy_in_started()
        elif code == COPY_OUT:
            if work is None or (work.masks and work.copy_rewriter is None):
                raise TargetProtocolError("a COPY that was not announced")
            self._copy_work = work
        else:
            if self._copy_work is not work or work is None:
                raise TargetProtocolError("CopyDone out of order")
            rest = session.masker.finish_copy(work)
            if rest:
                self._deliver_rows(rest, work, entry)
            self._copy_work = None

    def _on_error(self, entry: Expected | None, frame: bytes) -> None:
        session = self._session
        fields = decode_fields(frame[HEADER_BYTES:])
        if fields.get("V", fields.get("S", "")) in ("FATAL", "PANIC"):
            session.target_has_ended = True
        if entry is None:  # the target ends the session: an administrator, a crash, a timeout
            session.deliver(session.masker.error(fields))
            return
        work = entry.work
        session.copy_ended(work)
        self._copy_work = None
        if entry.answer is not None:
            entry.answer.error = fields
            if session.target_has_ended:
                session.deliver(session.masker.error(fields))
        elif entry.is_cut:
            session.poisons_sync = False  # the target skips to the Sync by itself
            if session.target_has_ended:
                session.deliver(session.masker.error(fields))
        elif entry.refusal is not None:
            session.deliver(entry.refusal)
            if work is not None:
                work.sqlstate = sqlstate_of(work.decision.reason) if isinstance(work.decision, Deny) else INSUFFICIENT_PRIVILEGE
                session.journal.result(work, entry.refusal)
        elif entry.is_visible:
            if work is not None and entry.kind is Kind.PARSE:
                session.journal.asked(work, session.judge.search_path)  # others are recorded when they run; this one never will
            masked = session.masker.error(fields, frame)
            if work is not None and work.meter is not None and entry.capture is None:
                work.meter.take(0, session.masker.values_in(fields))
            session.deliver(masked, entry)
            if work is not None and entry.capture is None:
                session.journal.result(work, masked)
        else:
            session.deliver(session.masker.error(fields, frame))
        if work is not None and not work.sqlstate:
            work.sqlstate = fields.get("C", "XX000")
        if work is not None and entry.capture is None and entry.kind in (Kind.PARSE, Kind.BIND, Kind.EXECUTE):
            self._finish(work)
        if entry.kind is Kind.SYNC:
            return
        if entry.kind is Kind.QUERY:
            if entry.binding is not None:
                entry.binding.take_back()
                entry.binding = None
            return
        for skipped in session.expected.skip_to_sync():
            if skipped.binding is not None:
                skipped.binding.take_back()
            if skipped is entry:
                continue
            session.copy_ended(skipped.work)
            if skipped.work is not None and skipped.kind is Kind.EXECUTE and skipped.capture is None:
                skipped.work.sqlstate = skipped.work.sqlstate or "25P02"
                session.journal.outcome(skipped.work)
        if session.expected.head is None:  # the Sync is still to come: up to there the target skips without a word
            session.skip_to_sync()

    def _on_ready(self, entry: Expected, frame: bytes) -> None:
        session = self._session
        if entry.kind not in (Kind.SYNC, Kind.QUERY) or len(frame) != 6:
            raise TargetProtocolError("ReadyForQuery out of order")
        status = chr(frame[5])
        if status not in "ITE":
            raise TargetProtocolError(f"unknown transaction status `{status}`")
        session.expected.pop()
        session.copy_ended(entry.work)
        work = entry.work
        if entry.binding is not None:
            entry.binding.confirm()
        session.set_status(status)
        if entry.answer is not None:
            entry.answer.status = status
            session.resume_answer(entry.answer)
            return
        if entry.capture is not None:
            session.resume_run(status, has_failed=work is None or bool(work.sqlstate) or not work.has_run)
            return
        if work is not None and entry.kind is Kind.QUERY:
            self._finish(work)
        if entry.is_cut and status == "T" and not len(session.expected):
            fail_transaction(session)
            return
        if entry.is_visible or entry.is_cut:
            session.deliver(frame)
        session.ready()

    def _finish(self, work: Work) -> None:
        session = self._session
        if work.encoding_change is not None and work.sqlstate:
            settle_encoding(session, work.encoding_change)
        session.journal.outcome(work)
        session.statement_ended(work)

    def _on_asynchronous(self, code: int, frame: bytes) -> None:
        session = self._session
        entry = session.expected.head
        if code == PARAMETER_STATUS:
            name, value = decode_parameter_status(frame[HEADER_BYTES:])
            session.parameter_changed(name, value)
            session.deliver(session.masker.parameter_status(name, value, frame))
            return
        if code == NOTIFICATION:
            session.deliver(session.masker.notification(frame))
            return
        if entry is not None and (entry.answer is not None or entry.is_cut):
            return  # a notice to a statement of the gate's own, or of one that the client has an error for
        fields = decode_fields(frame[HEADER_BYTES:])
        masked = session.masker.notice(fields, frame)
        meter = entry.work.meter if entry is not None and entry.work is not None else None
        if meter is not None and masked is not frame:
            values = session.masker.values_in(fields)
            if meter.refusal(session.config.revision, 0, values) is not None:
                return
            meter.take(0, values)
        session.deliver(masked, entry)
