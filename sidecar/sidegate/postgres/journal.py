"""What a session tells its recording and the audit log, in order. Pure: gathers, the shell writes.

Text and parameters are masked here before they go into either; results come as the client saw them. Audit events carry the normalised
statement, the recording the masked one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

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
from sidegate.policy.decision import Decision, Deny, RequireApproval
from sidegate.postgres.frames import count_run
from sidegate.postgres.statements import Work
from sidegate.record.capture import ResultCapture
from sidegate.record.entries import (
    ApprovalRecord,
    ConfigRecord,
    DecisionRecord,
    HoldRecord,
    NoticeRecord,
    OutcomeRecord,
    Parameter,
    StatementRecord,
)
from sidegate.record.frame import RecordEntry

MAX_RECORDED_PARAMETER_BYTES: Final = 64 * 1024


class Journal:
    def __init__(self, fields: SessionFields, mask_text: Callable[[str], str], max_result_bytes: int, opened_at: float) -> None:
        self._fields = fields
        self._mask_text = mask_text
        self._max_result_bytes = max_result_bytes
        self._opened_at = opened_at
        self._records: list[RecordEntry] = []
        self._audits: list[AuditEvent] = []
        self._revision = ""
        self._captures: dict[int, ResultCapture] = {}
        self._held_at = opened_at
        self.now = opened_at
        self.statements = 0
        self.denied = 0
        self.rows = 0
        self.masked_cells = 0

    def take(self) -> tuple[list[RecordEntry], list[AuditEvent]]:
        taken = self._records, self._audits
        self._records, self._audits = [], []
        return taken

    # ---- statements ---------------------------------------------------------------------------------------------------------------

    def asked(self, work: Work) -> None:
        self.statements += 1
        name = work.portal.name if work.portal is not None else None
        record = StatementRecord(
            statement=work.id,
            text=self._mask_text(work.text),
            via="simple" if work.is_simple else "extended",
            name=name or None,
            parameters=tuple(self._parameter(work, index) for index in range(len(work.parameters))),
        )
        self._records.append(record.entry())

    def _parameter(self, work: Work, index: int) -> Parameter:
        value = work.parameters[index]
        if value is None:
            return Parameter()
        if len(value) > MAX_RECORDED_PARAMETER_BYTES:
            return Parameter(text=f"({len(value)} bytes)", masked="size")
        formats = work.portal.bind.parameter_formats if work.portal is not None else ()
        is_binary = bool(formats) and formats[index if len(formats) > 1 else 0] == 1
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return Parameter(binary=value)
        masked = self._mask_text(text)
        if masked != text:
            return Parameter(text=masked, masked="values")
        return Parameter(binary=value) if is_binary else Parameter(text=text)

    def decided(self, work: Work, decision: Decision) -> None:
        if isinstance(decision, Deny):
            self.denied += 1
        kinds = work.kind_names()
        rows = work.impact.rows_affected if work.impact is not None else None
        record = DecisionRecord.of(work.id, decision, fingerprint=work.fingerprint, kinds=kinds, impact=work.impact)
        self._records.append(record.entry())
        self._audits.append(
            StatementDecided.of(
                at(self.now), self._fields, work.id, decision,
                text=self._mask_text(work.normalised()), fingerprint=work.fingerprint, kinds=kinds, rows_measured=rows,
            )
        )  # fmt: skip

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
        """Bytes of the answer, as they go to the client."""
        capture = self._captures.get(work.id)
        if capture is None:
            capture = self._captures[work.id] = ResultCapture(work.id, self._max_result_bytes)
        rows = count_run(frames, 0, len(frames)) if starts_message else 0
        entry = capture.add(frames, rows, starts_message)
        if entry is not None:
            self._records.append(entry)

    def outcome(self, work: Work) -> None:
        capture = self._captures.pop(work.id, None)
        marker = capture.finish() if capture is not None else None
        if marker is not None:
            self._records.append(marker)
        self.rows += work.rows
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

    def config_changed(self, revision: str, previous: str) -> None:
        self._records.append(ConfigRecord(revision=revision, previous_revision=previous).entry())

    def closed_event(self, reason: str, recording: str, recording_link: str) -> SessionClosed:
        """Written by the shell once the recording is closed: only then its last link is known."""
        return SessionClosed(
            time=at(self.now), session=self._fields, reason=reason, duration_s=max(0.0, self.now - self._opened_at),
            statements=self.statements, denied=self.denied, rows=self.rows, recording=recording, recording_link=recording_link,
        )  # fmt: skip
