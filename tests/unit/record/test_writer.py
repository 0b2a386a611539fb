"""The recorder: private files, written ahead, whole or refused, verifiable after every kind of failure."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from sidegate.policy.config import RecordingConfig
from sidegate.record.budget import RecordError, RecordingBudget
from sidegate.record.entries import ClosedRecord, NoticeRecord, OpenedRecord, StatementRecord, decode_entry
from sidegate.record.frame import MAX_PAYLOAD_BYTES, Frame, RecordEntry, RecordKind, encode_result
from sidegate.record.reader import RecordingState, find_recordings, read_ends, read_frames, verify_recording
from sidegate.record.writer import SessionRecorder, recording_name, target_directory

NOW = 1_795_516_530.25


def _statement(number: int, text: str = "SELECT 1") -> StatementRecord:
    return StatementRecord(statement=number, text=text)


def _frames(path: Path) -> list[Frame]:
    with path.open("rb") as stream:
        return [item for item in read_frames(stream) if isinstance(item, Frame)]


def test_a_closed_recording_reads_back_whole(budget: RecordingBudget, opened: OpenedRecord) -> None:
    recorder = SessionRecorder.open(budget, opened, NOW)
    recorder.append_all((_statement(1).entry(), encode_result(1, b"C\0\0\0\x0dSELECT 1\0")), NOW + 1)
    recorder.append(_statement(2, "SELECT 2").entry(), NOW + 2)
    done = recorder.close("client left", NOW + 3)
    frames = _frames(done.path)
    assert [frame.sequence for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.time - NOW for frame in frames] == [0, 1, 1, 2, 3]
    assert opened == decode_entry(frames[0].kind, frames[0].payload)
    closed = decode_entry(frames[-1].kind, frames[-1].payload)
    assert isinstance(closed, ClosedRecord)
    assert ("client left", 4, 2, frames[-2].link.hex()) == (closed.reason, closed.frames, closed.statements, closed.link)
    report = verify_recording(done.path)
    assert report.is_ok
    assert (report.state, report.frames, report.statements) == (RecordingState.CLOSED, 5, 2)
    assert done.path.stat().st_size == report.intact_bytes == report.size == done.size
    assert done.link == report.link == frames[-1].link.hex()


def test_the_file_is_private_named_by_time_and_session_and_below_its_target(tmp_path: Path, opened: OpenedRecord) -> None:
    directory = target_directory(tmp_path / "state" / "recordings", "shop", "shop-db")
    recorder = SessionRecorder.open(RecordingBudget(directory, RecordingConfig()), opened, NOW)
    assert tmp_path / "state/recordings/shop/shop-db/20261124T103530.250000Z-s-1.sgrec" == recorder.path
    assert stat.S_IMODE(recorder.path.stat().st_mode) == 0o600
    assert [stat.S_IMODE(parent.stat().st_mode) for parent in list(recorder.path.parents)[:3]] == [0o700] * 3
    recorder.close("done", NOW)
    assert [recorder.path] == list(find_recordings(tmp_path))


@pytest.mark.parametrize(("namespace", "name"), [("..", "x"), ("a", "../b"), ("a/b", "c"), ("", "c"), ("a", "c\n"), ("A", "c")])
def test_no_name_leads_out_of_the_directory(tmp_path: Path, namespace: str, name: str) -> None:
    with pytest.raises(RecordError, match="can't name a directory"):
        target_directory(tmp_path, namespace, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("session", ["", "../x", "a/b", "a\n", "x" * 65, "ü"])
def test_no_session_id_leads_out_of_the_directory(budget: RecordingBudget, opened: OpenedRecord, session: str) -> None:
    other = msgspec.structs.replace(opened, session=msgspec.structs.replace(opened.session, id=session))
    with pytest.raises(RecordError, match="can't name a file"):
        SessionRecorder.open(budget, other, NOW)
    assert list(budget.directory.iterdir()) == []


def test_a_file_that_is_there_already_is_never_appended_to(budget: RecordingBudget, opened: OpenedRecord) -> None:
    (budget.directory / recording_name("s-1", NOW)).write_bytes(b"mine")
    with pytest.raises(RecordError, match="File exists"):
        SessionRecorder.open(budget, opened, NOW)
    assert (budget.directory / recording_name("s-1", NOW)).read_bytes() == b"mine"


def test_what_was_appended_is_in_the_file_before_append_returns(budget: RecordingBudget, opened: OpenedRecord) -> None:
    recorder = SessionRecorder.open(budget, opened, NOW)
    recorder.append(_statement(1, "DROP TABLE x").entry(), NOW)
    assert b"DROP TABLE x" in recorder.path.read_bytes()
    recorder.abandon()


def test_a_batch_is_one_write(budget: RecordingBudget, opened: OpenedRecord, tmp_path: Path) -> None:
    """Seen from outside: strace isn't needed, since a pipe in packet mode gives back one write for each read."""
    recorder = SessionRecorder.open(budget, opened, NOW)
    reader, writer = os.pipe2(os.O_DIRECT)
    os.dup2(writer, recorder._descriptor)
    recorder.append_all((_statement(1).entry(), NoticeRecord(text="x").entry()), NOW)
    assert os.read(reader, 65536).count(b'"text"') == 2
    for descriptor in (reader, writer):
        os.close(descriptor)
    recorder.abandon()


def test_a_living_session_is_live_and_a_dead_one_is_not_closed(budget: RecordingBudget, opened: OpenedRecord) -> None:
    recorder = SessionRecorder.open(budget, opened, NOW)
    assert verify_recording(recorder.path).state == RecordingState.LIVE
    recorder.abandon()
    report = verify_recording(recorder.path)
    assert report.state == RecordingState.NOT_CLOSED
    assert not report.is_ok
    assert report.problem is None


def test_nothing_is_written_after_the_close(budget: RecordingBudget, opened: OpenedRecord) -> None:
    recorder = SessionRecorder.open(budget, opened, NOW)
    recorder.close("done", NOW)
    size = recorder.path.stat().st_size
    with pytest.raises(RecordError, match="it is closed"):
        recorder.append(_statement(1).entry(), NOW)
    with pytest.raises(RecordError, match="it is closed"):
        recorder.close("again", NOW)
    assert size == recorder.path.stat().st_size


def test_a_payload_over_the_limit_ends_the_recording(budget: RecordingBudget, opened: OpenedRecord) -> None:
    recorder = SessionRecorder.open(budget, opened, NOW)
    with pytest.raises(RecordError, match="over the limit"):
        recorder.append(RecordEntry(RecordKind.RESULT_BYTES, bytes(MAX_PAYLOAD_BYTES + 1)), NOW)
    assert recorder.failure is not None
    with pytest.raises(RecordError, match="has failed before"):
        recorder.append(_statement(1).entry(), NOW)
    recorder.abandon()


def test_text_that_is_not_unicode_is_kept_as_its_escape(budget: RecordingBudget, opened: OpenedRecord) -> None:
    recorder = SessionRecorder.open(budget, opened, NOW)
    recorder.append(_statement(1, "SELECT '\udce4'").entry(), NOW)
    done = recorder.close("done", NOW)
    assert _statement(1, "SELECT '\\udce4'") == decode_entry(RecordKind.CLIENT_STATEMENT, _frames(done.path)[1].payload)


FILL = textwrap.dedent("""
    import resource, signal, sys
    from pathlib import Path
    import msgspec
    from sidegate.policy.config import RecordingConfig
    from sidegate.record.budget import RecordError, RecordingBudget
    from sidegate.record.entries import OpenedRecord, StatementRecord
    from sidegate.record.writer import SessionRecorder
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    opened = msgspec.json.decode(sys.argv[2], type=OpenedRecord)
    budget = RecordingBudget(Path(sys.argv[1]), RecordingConfig(), free_floor_bytes=0)
    recorder = SessionRecorder.open(budget, opened, 0.0)
    if sys.argv[3] != "0":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
    done = 0
    try:
        while True:
            recorder.append(StatementRecord(statement=done + 1, text="SELECT " + "x" * 100).entry(), 1.0)
            done += 1
    except RecordError as error:
        print(done, recorder.path, sep="\\n")
        print(error, file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    size = recorder.path.stat().st_size
    for attempt in (lambda: recorder.append(StatementRecord(statement=0, text="late").entry(), 2.0), lambda: recorder.close("x", 2.0)):
        try:
            attempt()
        except RecordError as error:
            print("refused" if "has failed before" in str(error) else error)
    print(size == recorder.path.stat().st_size)
    """)


def _fill(directory: Path, opened: OpenedRecord, limit: int) -> tuple[int, Path, str]:
    run = subprocess.run(
        [sys.executable, "-c", FILL, directory, msgspec.json.encode(opened), str(limit)],
        capture_output=True,
        text=True,
        check=True,
    )
    done, path, *rest = run.stdout.splitlines()
    assert rest == ["refused", "refused", "True"]
    return int(done), Path(path), run.stderr


@pytest.mark.parametrize("limit", range(2000, 2010))
def test_a_short_write_leaves_a_torn_end_that_is_told_exactly(tmp_path: Path, opened: OpenedRecord, limit: int) -> None:
    done, path, error = _fill(tmp_path, opened, limit)
    assert "bytes were taken" in error or "File too large" in error
    report = verify_recording(path)
    assert (done, done + 1) == (report.statements, report.frames)
    assert limit == report.size
    assert not report.is_ok
    if report.intact_bytes == limit:
        assert report.state == RecordingState.NOT_CLOSED
    else:
        assert report.problem is not None
        assert (True, report.intact_bytes, done + 1) == (report.problem.is_torn, report.problem.offset, report.problem.sequence)


def test_a_full_disk_ends_the_recording_with_a_clear_error(tmp_path: Path, opened: OpenedRecord) -> None:
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("a small file system can only be mounted by root with CAP_SYS_ADMIN")
    try:
        done, path, error = _fill(tmp_path, opened, 0)
        assert "No space left on device" in error or "bytes were taken" in error
        assert done > 100
        report = verify_recording(path)
        assert (done, False) == (report.statements, report.is_ok)
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_device_that_takes_nothing_is_a_clear_error(budget: RecordingBudget, opened: OpenedRecord) -> None:
    recorder = SessionRecorder.open(budget, opened, NOW)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, recorder._descriptor)
    os.close(full)
    with pytest.raises(RecordError, match="No space left on device") as caught:
        recorder.append(_statement(1).entry(), NOW)
    assert "recording volume" in caught.value.way_forward
    recorder.abandon()


KILLED = textwrap.dedent("""
    import sys
    from pathlib import Path
    import msgspec
    from sidegate.policy.config import RecordingConfig
    from sidegate.record.budget import RecordingBudget
    from sidegate.record.entries import OpenedRecord, StatementRecord
    from sidegate.record.writer import SessionRecorder
    recorder = SessionRecorder.open(
        RecordingBudget(Path(sys.argv[1]), RecordingConfig()), msgspec.json.decode(sys.argv[2], type=OpenedRecord), 0.0
    )
    print(recorder.path, flush=True)
    number = 0
    while True:
        number += 1
        recorder.append(StatementRecord(statement=number, text="x" * 50_000).entry(), 1.0)
        if number % 10 == 0:
            print(number, flush=True)
    """)


def test_a_gate_killed_in_the_midst_leaves_all_that_was_acknowledged(tmp_path: Path, opened: OpenedRecord) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path, msgspec.json.encode(opened)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        acknowledged = int(process.stdout.readline())
        assert verify_recording(path).state == RecordingState.LIVE
        process.kill()
        acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
    report = verify_recording(path)
    assert report.statements >= acknowledged
    assert not report.is_ok
    assert report.state == RecordingState.NOT_CLOSED or (report.problem is not None and report.problem.is_torn)
    with path.open("rb") as stream:
        assert report.frames == sum(isinstance(item, Frame) for item in read_frames(stream))


def test_sessions_side_by_side_keep_apart(budget: RecordingBudget, opened: OpenedRecord) -> None:
    recorders = [
        SessionRecorder.open(
            budget, msgspec.structs.replace(opened, session=msgspec.structs.replace(opened.session, id=f"s-{n}")), NOW
        )
        for n in range(8)
    ]
    for number in range(1, 6):
        for n, recorder in enumerate(recorders):
            recorder.append(_statement(number, f"SELECT {n}").entry(), NOW)
    for n, recorder in enumerate(recorders):
        done = recorder.close("done", NOW)
        report = verify_recording(done.path)
        assert (report.is_ok, report.statements) == (True, 5)
        texts = {decode_entry(f.kind, f.payload).text for f in _frames(done.path) if f.kind == RecordKind.CLIENT_STATEMENT}  # type: ignore[union-attr]
        assert {f"SELECT {n}"} == texts


def test_first_and_last_frame_are_found_without_reading_what_is_between(budget: RecordingBudget, opened: OpenedRecord) -> None:
    recorder = SessionRecorder.open(budget, opened, NOW)
    recorder.append(_statement(1).entry(), NOW)
    ends = read_ends(recorder.path)
    assert (opened, None) == (ends.opened, ends.closed)  # type: ignore[union-attr]
    recorder.close("done", NOW + 60)
    ends = read_ends(recorder.path)
    assert (ends.closed.reason, ends.closed_at) == ("done", NOW + 60)  # type: ignore[union-attr]


def test_syncs_by_its_interval_do_not_disturb(budget: RecordingBudget, opened: OpenedRecord) -> None:
    recorder = SessionRecorder.open(budget, opened, NOW, sync_interval_s=1.0)
    for second in range(4):
        recorder.append(_statement(second + 1).entry(), NOW + second)
    assert verify_recording(recorder.close("done", NOW + 5).path).is_ok
