"""Whatever is done to a recording between its first and its last byte is found."""

from __future__ import annotations

import io
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sidegate.audit.events import SessionFields
from sidegate.policy.config import RecordingConfig
from sidegate.record.budget import RecordingBudget
from sidegate.record.entries import DecisionRecord, NoticeRecord, OpenedRecord, OutcomeRecord, StatementRecord
from sidegate.record.frame import HEADER, TRAILER_BYTES, Frame, RecordEntry, encode_result
from sidegate.record.reader import RecordingProblem, RecordingState, read_frames, verify_recording
from sidegate.record.writer import SessionRecorder

OPENED = OpenedRecord(
    session=SessionFields(id="s-1", target="shop/shop-db", source_address="unix", database="shop", role="readonly"),
    environment="test",
    revision="r1",
    gate_version="0",
)


def _record(entries: list[RecordEntry]) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        recorder = SessionRecorder.open(RecordingBudget(Path(directory), RecordingConfig()), OPENED, 1.0)
        for number, entry in enumerate(entries):
            recorder.append(entry, 1.0 + number)
        return recorder.close("done", 99.0).path.read_bytes()


@cache
def _sample() -> tuple[bytes, tuple[tuple[int, int], ...]]:
    entries: list[RecordEntry] = []
    for number in (1, 2, 3):
        entries += [
            StatementRecord(statement=number, text=f"SELECT {number}").entry(),
            DecisionRecord(statement=number, decision="Allow", reason="Granted").entry(),
            encode_result(number, b"C\0\0\0\x0dSELECT 1\0"),
            OutcomeRecord(statement=number, tag="SELECT 1").entry(),
        ]
    data = _record(entries)
    frames = [item for item in read_frames(io.BytesIO(data)) if isinstance(item, Frame)]
    return data, tuple((frame.offset, frame.size) for frame in frames)


def _problem(data: bytes) -> RecordingProblem | None:
    found = [item for item in read_frames(io.BytesIO(data)) if isinstance(item, RecordingProblem)]
    assert len(found) <= 1
    return found[0] if found else None


def _verify(data: bytes) -> tuple[bool, RecordingState]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "x.sgrec"
        path.write_bytes(data)
        report = verify_recording(path)
        return report.is_ok, report.state


def test_the_sample_itself_is_whole() -> None:
    assert _problem(_sample()[0]) is None
    assert _verify(_sample()[0]) == (True, RecordingState.CLOSED)


@given(st.data())
def test_any_flipped_bit_is_found_and_nothing_behind_it_is_trusted(data: st.DataObject) -> None:
    sample, frames = _sample()
    at = data.draw(st.integers(0, len(sample) - 1))
    changed = bytearray(sample)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    problem = _problem(bytes(changed))
    assert problem is not None
    assert problem.offset <= at
    before = sum(offset + size <= at for offset, size in frames)
    trusted = sum(isinstance(item, Frame) for item in read_frames(io.BytesIO(bytes(changed))))
    assert trusted == min(before, trusted)
    assert trusted >= min(before, len(frames) - 1) or at < len(HEADER)


@given(st.data())
def test_a_removed_frame_is_found(data: st.DataObject) -> None:
    sample, frames = _sample()
    offset, size = frames[data.draw(st.integers(0, len(frames) - 1))]
    assert not _verify(sample[:offset] + sample[offset + size :])[0]


@given(st.data())
def test_a_repeated_frame_is_found(data: st.DataObject) -> None:
    sample, frames = _sample()
    offset, size = frames[data.draw(st.integers(0, len(frames) - 1))]
    to = frames[data.draw(st.integers(0, len(frames) - 1))][0]
    assert not _verify(sample[:to] + sample[offset : offset + size] + sample[to:])[0]


@given(st.data())
def test_swapped_frames_are_found(data: st.DataObject) -> None:
    sample, frames = _sample()
    first, second = sorted(data.draw(st.lists(st.integers(0, len(frames) - 1), min_size=2, max_size=2, unique=True)))
    pieces = [sample[offset : offset + size] for offset, size in frames]
    pieces[first], pieces[second] = pieces[second], pieces[first]
    assert not _verify(HEADER + b"".join(pieces) + sample[-TRAILER_BYTES:])[0]


@given(st.integers(0, 10_000))
def test_a_recording_cut_anywhere_is_never_ok_and_its_whole_frames_are_counted(cut: int) -> None:
    sample, frames = _sample()
    cut %= len(sample)
    shorter = sample[:cut]
    assert not _verify(shorter)[0]
    whole = sum(offset + size <= cut for offset, size in frames)
    assert sum(isinstance(item, Frame) for item in read_frames(io.BytesIO(shorter))) == whole


@given(st.binary(min_size=1, max_size=50))
def test_bytes_behind_the_end_are_found(more: bytes) -> None:
    assert not _verify(_sample()[0] + more)[0]


@given(st.binary(max_size=300))
def test_any_bytes_at_all_are_read_without_another_error(data: bytes) -> None:
    for prefix in (b"", HEADER, _sample()[0][:200]):
        list(read_frames(io.BytesIO(prefix + data)))


@given(
    st.lists(
        st.one_of(st.text().map(lambda t: NoticeRecord(text=t).entry()), st.binary().map(lambda b: encode_result(1, b))),
        max_size=8,
    )
)
def test_whatever_is_recorded_comes_back_the_same(entries: list[RecordEntry]) -> None:
    data = _record(entries)
    items = list(read_frames(io.BytesIO(data)))
    assert all(isinstance(item, Frame) for item in items)
    assert [(f.kind, f.payload) for f in items[1:-1] if isinstance(f, Frame)] == [(e.kind, e.payload) for e in entries]
