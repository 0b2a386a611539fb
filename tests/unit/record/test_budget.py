"""The budget: refuses before a session opens, never removes evidence, counts what it writes."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from sidegate.policy.config import RecordingConfig
from sidegate.record.budget import RecordError, RecordingBudget
from sidegate.record.entries import OpenedRecord, StatementRecord
from sidegate.record.reader import verify_recording
from sidegate.record.writer import ClosedRecording, SessionRecorder

NOW = 1_795_516_530.25
DAY = 86_400.0


def _record(budget: RecordingBudget, opened: OpenedRecord, session: str, now: float, closes: bool = True) -> Path:
    named = msgspec.structs.replace(opened, session=msgspec.structs.replace(opened.session, id=session))
    recorder = SessionRecorder.open(budget, named, now)
    if closes:
        recorder.close("done", now + 1)
    else:
        recorder.abandon()
    os.utime(recorder.path, (now, now))
    return recorder.path


def test_only_closed_recordings_past_their_retention_are_removed(tmp_path: Path, opened: OpenedRecord) -> None:
    writing = RecordingBudget(tmp_path, RecordingConfig())
    old = _record(writing, opened, "old", NOW - 91 * DAY)
    unclosed = _record(writing, opened, "unclosed", NOW - 91 * DAY, closes=False)
    recent = _record(writing, opened, "recent", NOW - 89 * DAY)
    damaged = _record(writing, opened, "damaged", NOW - 91 * DAY)
    damaged.write_bytes(damaged.read_bytes()[:-4])
    os.utime(damaged, (0, 0))
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    os.utime(other, (0, 0))
    RecordingBudget(tmp_path, RecordingConfig(retention_days=90)).admit(NOW)
    assert sorted([unclosed, recent, damaged, other]) == sorted(tmp_path.iterdir())
    assert not old.exists()


def test_a_changed_modification_time_does_not_age_a_recording(tmp_path: Path, opened: OpenedRecord) -> None:
    path = _record(RecordingBudget(tmp_path, RecordingConfig()), opened, "s", NOW)
    os.utime(path, (0, 0))
    RecordingBudget(tmp_path, RecordingConfig(retention_days=90)).admit(NOW + DAY)
    assert path.exists()


def test_over_the_limit_no_session_opens(tmp_path: Path, opened: OpenedRecord) -> None:
    (tmp_path / "x.sgrec").write_bytes(bytes(1000))
    budget = RecordingBudget(tmp_path, RecordingConfig(max_bytes=1000))
    with pytest.raises(RecordError, match="take 1000 bytes, 1000 are allowed") as caught:
        SessionRecorder.open(budget, opened, NOW)
    assert "maxBytes" in caught.value.way_forward
    assert os.listdir(tmp_path) == ["x.sgrec"]


def test_below_the_floor_of_free_space_no_session_opens(tmp_path: Path, opened: OpenedRecord) -> None:
    budget = RecordingBudget(tmp_path, RecordingConfig(), free_floor_bytes=1000, free=lambda _: 999)
    with pytest.raises(RecordError, match="999 bytes free, 1000 must stay"):
        SessionRecorder.open(budget, opened, NOW)


def test_a_missing_directory_is_a_clear_error(tmp_path: Path, opened: OpenedRecord) -> None:
    with pytest.raises(RecordError, match="can't be counted: No such file"):
        SessionRecorder.open(RecordingBudget(tmp_path / "none", RecordingConfig()), opened, NOW)


def test_one_endless_session_stops_at_the_limit_with_whole_frames(tmp_path: Path, opened: OpenedRecord) -> None:
    budget = RecordingBudget(tmp_path, RecordingConfig(max_bytes=4000))
    recorder = SessionRecorder.open(budget, opened, NOW)
    done = 0
    with pytest.raises(RecordError, match="would go over 4000 bytes"):  # noqa: PT012
        for number in range(100):
            recorder.append(StatementRecord(statement=number, text="x" * 100).entry(), NOW)
            done += 1
    recorder.abandon()
    assert done > 5
    report = verify_recording(recorder.path)
    assert (done, None) == (report.statements, report.problem)
    assert report.size == budget.used_bytes <= 4000


def test_the_end_of_a_recording_is_written_even_when_the_limit_is_reached(tmp_path: Path, opened: OpenedRecord) -> None:
    budget = RecordingBudget(tmp_path, RecordingConfig(max_bytes=100_000))
    recorder = SessionRecorder.open(budget, opened, NOW)
    budget.spend(100_000 - budget.used_bytes)
    assert isinstance(recorder.close("done", NOW), ClosedRecording)
    assert verify_recording(recorder.path).is_ok


def test_the_directory_is_read_at_most_once_a_minute(tmp_path: Path) -> None:
    budget = RecordingBudget(tmp_path, RecordingConfig(max_bytes=1000))
    budget.admit(NOW)
    (tmp_path / "x.sgrec").write_bytes(bytes(2000))
    budget.admit(NOW + 59)
    with pytest.raises(RecordError):
        budget.admit(NOW + 61)


def test_a_clock_set_back_reads_the_directory_again(tmp_path: Path) -> None:
    budget = RecordingBudget(tmp_path, RecordingConfig(max_bytes=1000))
    budget.admit(NOW)
    (tmp_path / "x.sgrec").write_bytes(bytes(2000))
    with pytest.raises(RecordError):
        budget.admit(NOW - 3600)
