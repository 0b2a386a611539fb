"""Writes what a session tells its recording and the audit log, in the order it must be on disk.

What belongs to a statement on its way to the target is written before it goes (write-ahead), together with everything told
before it. What only tells of an answer may wait `LATE_S` for company: the shell then calls `flush`. So a gate that is killed
loses at most that much of what came back, and nothing of what was asked or decided.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from sidegate.audit.events import AuditEvent
from sidegate.audit.sinks import AuditError, AuditSink
from sidegate.policy.config import RecordingMode
from sidegate.postgres.effects import Effects
from sidegate.record.budget import RecordError
from sidegate.record.frame import RecordEntry
from sidegate.record.writer import ClosedRecording, SessionRecorder

log = logging.getLogger("sidegate.postgres")

LATE_S: Final = 0.01
MAX_LATE_ENTRIES: Final = 64


class RecordingMeter(Protocol):
    def recorded_bytes(self, count: int) -> None: ...
    def recording_failed(self) -> None: ...


class JournalWriter:
    """`write` and `flush` answer "" when all is well, else what is wrong: then the session must end."""

    def __init__(self, recorder: SessionRecorder | None, audit: AuditSink, mode: RecordingMode, meter: RecordingMeter) -> None:
        self._recorder = recorder
        self._audit = audit
        self._mode = mode
        self._meter = meter
        self._late_records: list[RecordEntry] = []
        self._late_audits: list[AuditEvent | bytes] = []

    @property
    def is_late(self) -> bool:
        """Something waits for `flush`."""
        return bool(self._late_records) or bool(self._late_audits)

    @property
    def recording_name(self) -> str:
        return self._recorder.path.name if self._recorder is not None else ""

    def write(self, effects: Effects, now: float) -> str:
        if not effects.records and not effects.audits:
            return ""
        self._late_records += effects.records
        self._late_audits += effects.audits
        if effects.to_target or effects.actions or len(self._late_records) >= MAX_LATE_ENTRIES:
            return self.flush(now)
        return ""

    def flush(self, now: float) -> str:
        records, audits = self._late_records, self._late_audits
        self._late_records, self._late_audits = [], []
        recorder = self._recorder
        if records and recorder is not None:
            before = recorder.size
            try:
                recorder.append_all(records, now)
            except RecordError as error:
                self._meter.recording_failed()
                log.error("recording failed: %s", error)
                if self._mode is RecordingMode.REQUIRED:
                    return str(error)
                recorder.abandon()
                self._recorder = None
            else:
                self._meter.recorded_bytes(recorder.size - before)
        if audits:
            try:
                self._audit.write_all(audits)
            except AuditError as unwritten:
                log.error("audit failed: %s", unwritten)
                return str(unwritten)
        return ""

    def close(self, why: str, now: float) -> ClosedRecording | None:
        """The recording's end, seen to the disk: not for an event loop. Call `flush` in the loop before. Raises RecordError."""
        return self._recorder.close(why, now) if self._recorder is not None else None
