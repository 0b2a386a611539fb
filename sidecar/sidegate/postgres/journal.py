"""What a session tells its recording and the audit log, in order. Pure: gathers, the shell writes.

Text and parameters are masked here before they go into either; results come as the client saw them. Audit events carry the normalised
statement, the recording the masked one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from sidegate.approval.backend import HoldRequest, Verdict
from sidegate.audit.events import (
    ApprovalDecided,
    AuditEvent,
    CancelReceived,
    Held,
    HoldEnded,
    Masked,
    SessionClosed,
    SessionFields,
    StatementDecided,
    StatementExecuted,
    at,
)
from sidegate.policy.decision import Allow, Decision, Deny, Masks, Measure, RequireApproval
from sidegate.postgres.frames import count_run
from sidegate.postgres.statements import BoundText, Work
from sidegate.record.capture import ResultCapture
from sidegate.record.entries import (
    ApprovalRecord,
    ConfigRecord,
    DecisionRecord,
    HoldRecord,
    MasksFields,
    NoticeRecord,
    OutcomeRecord,
    Parameter,
    StatementBeside,
    StatementRecord,
)
from sidegate.record.frame import RecordEntry, RecordKind

MAX_RECORDED_PARAMETER_BYTES: Final = 64 * 1024
MAX_CACHED_TAILS: Final = 256


class Journal:
    def __init__(self, fields: SessionFields, mask_text: Callable[[str], str], max_result_bytes: int, opened_at: float) -> None:
        self._fields = fields
        self._mask_text = mask_text
        self._max_result_bytes = max_result_bytes
        self._opened_at = opened_at
        self._records: list[RecordEntry] = []
        self._audits: list[AuditEvent | bytes] = []
        self._revision = ""
        self._captures: dict[int, ResultCapture] = {}
        self._pending: list[tuple[Work, bytes, bool]] = []  # bytes of answers since the last `take`
        self._decided: list[tuple[str, str, str]] = []
        self._session_json = msgspec.json.encode(fields)
        self._tails: dict[int, tuple[Decision, str, bytes, bytes, tuple[str, str, str]]] = {}
        self._held_at = opened_at
        self._search_path: tuple[str, ...] | None = None  # as recorded last
        self._has_search_path = False
        self.now = opened_at
        self._timed, self._time_json = -1.0, b""
        self.statements = 0
        self.denied = 0
        self.rows = 0
        self.masked_cells = 0

    def take(self) -> tuple[list[RecordEntry], list[AuditEvent | bytes], list[tuple[str, str, str]]]:
        """Records, audit events, and what was decided (decision, first kind, reason) since it was last asked for."""
        if self._pending:
            self._record_pending()
        taken = self._records, self._audits, self._decided
        self._records, self._audits, self._decided = [], [], []
        return taken

    # ---- statements ---------------------------------------------------------------------------------------------------------------

    def asked(self, work: Work, search_path: tuple[str, ...] | None) -> None:
        """`search_path` is what its names are looked up in; recorded when it is another than before."""
        self.statements += 1
        name = work.portal.name if work.portal is not None else None
        has_moved = not self._has_search_path or search_path != self._search_path
        if not has_moved and work.is_simple and not (work.parameters or work.referred or work.alternatives or work.asked):
            text = self._mask_text(work.text)
            if text.isascii():
                payload = b'{"statement":%d,"text":%s}' % (work.id, msgspec.json.encode(text))
                self._records.append(RecordEntry(RecordKind.CLIENT_STATEMENT, payload))
                return
        record = StatementRecord(
            statement=work.id,
            text=self._mask_text(work.text),
            asked=self._mask_text(work.asked) if work.asked is not None else None,
            via="simple" if work.is_simple else "extended",
            name=name or None,
            parameters=self._parameters(work.parameters, work.value_formats()) if work.parameters else (),
            runs=self._beside(work.referred) if work.referred else (),
            alternatives=self._beside(work.alternatives) if work.alternatives else (),
            search_path=search_path if has_moved else msgspec.UNSET,
        )
        self._search_path, self._has_search_path = search_path, True
        self._records.append(record.entry())

    def _beside(self, texts: tuple[BoundText, ...]) -> tuple[StatementBeside, ...]:
        return tuple(
            StatementBeside(text=self._mask_text(each.text), parameters=self._parameters(each.parameters, each.formats))
            for each in texts
        )

    def _parameters(self, values: tuple[bytes | None, ...], formats: tuple[int, ...]) -> tuple[Parameter, ...]:
        codes = formats if len(formats) == len(values) else (formats or (0,)) * len(values)
        return tuple(self._parameter(value, code) for value, code in zip(values, codes, strict=True))

    def _parameter(self, value: bytes | None, format_code: int) -> Parameter:
        if value is None:
            return Parameter()
        if len(value) > MAX_RECORDED_PARAMETER_BYTES:
            return Parameter(text=f"({len(value)} bytes)", masked="size")
        text = value.decode("utf-8", "surrogateescape")  # what isn't text as a whole may have text in it
        masked = self._mask_text(text)
        if masked != text:
            return Parameter(text=masked, masked="values")
        is_text = format_code == 0 and (text.isascii() or _is_unicode(text))
        return Parameter(text=text) if is_text else Parameter(binary=value)

    def decided(self, work: Work, decision: Decision) -> None:
        kinds = work.kind_names()
        if isinstance(decision, Allow) and work.impact is None and not work.fingerprint:
            self._decided_plainly(work, decision, kinds)
            return
        kind = kinds[0] if kinds else ""
        if isinstance(decision, Measure):
            self._decided.append(("Measure", kind, ""))
        else:
            self._decided.append((type(decision).__name__, kind, decision.reason.value))
        if isinstance(decision, Deny):
            self.denied += 1
        rows = work.impact.rows_affected if work.impact is not None else None
        record = DecisionRecord.of(work.id, decision, fingerprint=work.fingerprint, kinds=kinds, impact=work.impact)
        self._records.append(record.entry())
        self._audits.append(
            StatementDecided.of(
                at(self.now), self._fields, work.id, decision,
                text=self._mask_text(work.normalised()), fingerprint=work.fingerprint, kinds=kinds, rows_measured=rows,
            )
        )  # fmt: skip

    def _decided_plainly(self, work: Work, decision: Allow, kinds: tuple[str, ...]) -> None:
        """What most statements are. The same decision on the same statement is encoded once; only number and time differ."""
        normalised = work.normalised()
        cached = self._tails.get(id(decision))
        if cached is None or cached[0] is not decision or cached[1] != normalised:
            if len(self._tails) >= MAX_CACHED_TAILS:
                self._tails.clear()
            record = DecisionRecord.of(0, decision, kinds=kinds)
            event = StatementDecided.of(at(0), self._fields, 0, decision, text=self._mask_text(normalised), kinds=kinds)
            counted = ("Allow", kinds[0] if kinds else "", decision.reason.value)
            cached = (decision, normalised, tail_of(record), tail_of(event), counted)
            self._tails[id(decision)] = cached
        number = b"%d" % work.id
        self._decided.append(cached[4])
        self._records.append(RecordEntry(RecordKind.DECISION, b'{"statement":' + number + cached[2]))
        self._audits.append(
            b'{"event":"StatementDecided","time":%s,"session":%s,"statement":%s%s'
            % (self._time(), self._session_json, number, cached[3])
        )

    def _time(self) -> bytes:
        """`now` in JSON, as msgspec writes it. Made once for each event that the session is told of."""
        if self._timed != self.now:
            self._timed, self._time_json = self.now, msgspec.json.encode(at(self.now))
        return self._time_json

    def held(self, work: Work, decision: RequireApproval, request: HoldRequest, name: str, *, joined: bool) -> None:
        self._held_at = self.now
        self._records.append(HoldRecord(statement=work.id, approval=name, hold_until=request.hold_until, joined=joined).entry())
        self._audits.append(
            Held(
                time=at(self.now), session=self._fields, statement=work.id, approval=name, source=str(decision.source),
                reason=decision.reason.value, detail=decision.detail, fingerprint=work.fingerprint,
                rows_measured=work.impact.rows_affected if work.impact is not None else None,
                hold_until=at(request.hold_until), joined=joined,
            )
        )  # fmt: skip

    def hold_ended(self, work: Work, verdict: Verdict, outcome: str) -> None:
        as_grant = verdict.decided_at < self._held_at
        self._records.append(
            ApprovalRecord(
                statement=work.id, approval=verdict.name, outcome=outcome, approvers=verdict.approvers, comment=verdict.comment,
                as_grant=as_grant,
            ).entry()
        )  # fmt: skip
        if verdict.approvers:
            self._audits.append(
                ApprovalDecided(
                    time=at(self.now), session=self._fields, statement=work.id, approval=verdict.name, phase=verdict.phase.value,
                    approvers=verdict.approvers, comment=verdict.comment, as_grant=as_grant,
                )
            )  # fmt: skip
        self._audits.append(
            HoldEnded(
                time=at(self.now), session=self._fields, statement=work.id, approval=verdict.name, outcome=outcome,
                waited_s=max(0.0, self.now - self._held_at), detail=verdict.comment,
            )
        )  # fmt: skip

    def result(self, work: Work, frames: bytes, *, starts_message: bool = True) -> None:
        """Bytes of the answer, as they go to the client. Recorded together at the next `take`, or with the outcome."""
        self._pending.append((work, frames, starts_message))

    def _record_pending(self) -> None:
        pending, self._pending = self._pending, []
        at_most = len(pending)
        index = 0
        while index < at_most:
            work, first, starts_message = pending[index]
            parts = [first]
            index += 1
            while index < at_most and pending[index][0] is work:
                parts.append(pending[index][1])
                index += 1
            frames = parts[0] if len(parts) == 1 else b"".join(parts)
            capture = self._captures.get(work.id)
            if capture is None:
                capture = self._captures[work.id] = ResultCapture(work.id, self._max_result_bytes)
            rows = count_run(frames, 0, len(frames)) if starts_message else 0
            entry = capture.add(frames, rows, starts_message)
            if entry is not None:
                self._records.append(entry)

    def outcome(self, work: Work) -> None:
        if self._pending:
            self._record_pending()
        capture = self._captures.pop(work.id, None)
        marker = capture.finish() if capture is not None and capture.has_left_out else None
        if marker is not None:
            self._records.append(marker)
        self.rows += work.rows
        number = b"%d" % work.id
        if work.sqlstate or work.masked_cells or work.approval:
            self._outcome_in_full(work)
            return
        tag = msgspec.json.encode(work.tag)
        rows = b',"rows":%d' % work.rows if work.rows else b""
        self._records.append(RecordEntry(RecordKind.OUTCOME, b'{"statement":%s,"tag":%s%s}' % (number, tag, rows)))
        self._audits.append(
            b'{"event":"StatementExecuted","time":%s,"session":%s,"statement":%s,"outcome":%s%s}'
            % (self._time(), self._session_json, number, tag, rows)
        )

    def _outcome_in_full(self, work: Work) -> None:
        self._records.append(
            OutcomeRecord(
                statement=work.id, tag=work.tag, sqlstate=work.sqlstate, rows=work.rows or None, masked=dict(work.masked_cells)
            ).entry()
        )
        self._audits.append(
            StatementExecuted(
                time=at(self.now), session=self._fields, statement=work.id, outcome=work.sqlstate or work.tag,
                rows=work.rows or None, failed=bool(work.sqlstate), approval=work.approval or "",
            )
        )  # fmt: skip
        if work.masked_cells:
            self.masked_cells += sum(work.masked_cells.values())
            self._audits.append(Masked(time=at(self.now), session=self._fields, statement=work.id, cells=dict(work.masked_cells)))

    # ---- the session --------------------------------------------------------------------------------------------------------------

    def noticed(self, text: str) -> None:
        self._records.append(NoticeRecord(text=text).entry())

    def cancel_received(self, source_address: str, withdrew: str) -> None:
        self.noticed("cancel received" + (f", withdrew {withdrew}" if withdrew else ""))
        self._audits.append(
            CancelReceived(
                time=at(self.now),
                source_address=source_address,
                target=self._fields.target,
                session=self._fields,
                withdrew=withdrew,
            )
        )

    def config_changed(self, revision: str, previous: str, masks: Masks) -> None:
        self._records.append(ConfigRecord(revision=revision, previous_revision=previous, masks=MasksFields.of(masks)).entry())

    def closed_event(self, reason: str, recording: str, recording_link: str) -> SessionClosed:
        """Written by the shell once the recording is closed: only then its last link is known."""
        return SessionClosed(
            time=at(self.now), session=self._fields, reason=reason, duration_s=max(0.0, self.now - self._opened_at),
            statements=self.statements, denied=self.denied, rows=self.rows, recording=recording, recording_link=recording_link,
        )  # fmt: skip


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def tail_of(entry: DecisionRecord | StatementDecided) -> bytes:
    """The JSON behind the statement's number, which must come last of what differs: see the structs' field order."""
    encoded = msgspec.json.encode(entry)
    _, _, tail = encoded.partition(b'"statement":0')
    return tail
