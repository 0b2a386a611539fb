"""`sidegate recordings` and `sidegate replay`, as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from sidegate.audit.events import SessionClosed, at
from sidegate.audit.sinks import FileSink
from sidegate.cli.main import main
from sidegate.policy.config import RecordingConfig
from sidegate.record.budget import RecordingBudget
from sidegate.record.entries import NoticeRecord, OpenedRecord, OutcomeRecord, StatementRecord
from sidegate.record.frame import encode_result
from sidegate.record.writer import ClosedRecording, SessionRecorder, target_directory

NOW = 1_795_516_530.25


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIDEGATE_STATE", str(tmp_path))
    return tmp_path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def _open(state: Path, opened: OpenedRecord, session: str, now: float = NOW) -> SessionRecorder:
    named = msgspec.structs.replace(opened, session=msgspec.structs.replace(opened.session, id=session))
    directory = target_directory(state / "recordings", "shop", "shop-db")
    recorder = SessionRecorder.open(RecordingBudget(directory, RecordingConfig()), named, now)
    recorder.append(StatementRecord(statement=1, text="SELECT 1").entry(), now + 0.5)
    recorder.append(encode_result(1, b"C\0\0\0\x0dSELECT 1\0"), now + 0.5)
    recorder.append(OutcomeRecord(statement=1, tag="SELECT 1").entry(), now + 0.5)
    return recorder


def _record(state: Path, opened: OpenedRecord, session: str, now: float = NOW) -> ClosedRecording:
    return _open(state, opened, session, now).close("client left", now + 1)


def test_verify_prints_a_line_for_each_and_exits_0_when_all_are_whole(state: Path, opened: OpenedRecord) -> None:
    first, second = _record(state, opened, "s-1"), _record(state, opened, "s-2", NOW + 60)
    found = run("recordings", "verify")
    assert found.exit_code == 0
    assert found.stdout.splitlines() == [
        f"ok    {done.path}  5 frames, 1 statement, closed, chain {done.link[:16]}…" for done in (first, second)
    ]


def test_verify_exits_1_and_says_what_is_intact_when_one_is_bad(state: Path, opened: OpenedRecord) -> None:
    good, bad = _record(state, opened, "s-1"), _record(state, opened, "s-2", NOW + 60)
    data = bytearray(bad.path.read_bytes())
    offset = data.index(b"SELECT 1\0")
    data[offset] ^= 1
    bad.path.write_bytes(data)
    cut = _open(state, opened, "s-3", NOW + 120)
    cut.abandon()
    found = run("recordings", "verify")
    assert found.exit_code == 1
    lines = found.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "bad", "bad"]
    assert "intact are 2 frames, 1 statement in" in lines[1]
    assert "frame 2 at byte" in lines[1]
    assert "its content isn't what its link was made from" in lines[1]
    assert "intact are 4 frames, 1 statement in" in lines[2]
    assert "its end is missing" in lines[2]
    assert run("recordings", "verify", good.path).exit_code == 0


def test_verify_calls_a_session_that_goes_on_live(state: Path, opened: OpenedRecord) -> None:
    recorder = _open(state, opened, "s-1")
    found = run("recordings", "verify")
    recorder.abandon()
    assert (found.exit_code, found.stdout.split()[0]) == (0, "live")


def test_verify_exits_3_when_there_are_none(state: Path) -> None:
    found = run("recordings", "verify")
    assert (found.exit_code, found.stdout) == (3, "")
    assert f"no recordings in {state}/recordings" in found.stderr
    assert run("recordings", "list").exit_code == 3


def test_verify_finds_a_chain_that_was_made_anew_by_the_audit_log(state: Path, opened: OpenedRecord) -> None:
    done = _record(state, opened, "s-1")
    sink = FileSink(state / "audit.jsonl", "w")
    sink.write(
        SessionClosed(
            time=at(NOW), session=opened.session, reason="x", duration_s=1.0, recording=done.path.name, recording_link=done.link
        )
    )
    sink.close()
    found = run("recordings", "verify", "--audit", state / "audit.jsonl")
    assert (found.exit_code, "as in the audit log" in found.stdout) == (0, True)
    done.path.unlink()
    forged = _open(state, opened, "s-1")
    forged.append(NoticeRecord(text="nothing happened").entry(), NOW + 1)
    forged.close("client left", NOW + 1)
    assert run("recordings", "verify").exit_code == 0
    found = run("recordings", "verify", "--audit", state / "audit.jsonl")
    assert (found.exit_code, "it was made anew" in found.stdout) == (1, True)


def test_verify_says_what_is_no_recording(state: Path, tmp_path: Path) -> None:
    other = tmp_path / "x"
    other.write_text("hello, this is a text")
    found = run("recordings", "verify", other)
    assert (found.exit_code, "it isn't a recording" in found.stdout) == (1, True)
    missing = run("recordings", "verify", tmp_path / "none")
    assert (missing.exit_code, "can't be read" in missing.stdout) == (1, True)


def test_list_is_a_table_with_the_state_of_each(state: Path, opened: OpenedRecord) -> None:
    done = _record(state, opened, "s-1")
    living = _open(state, opened, "s-2", NOW + 60)
    dead = _open(state, opened, "s-3", NOW + 120)
    dead.abandon()
    found = run("recordings", "list")
    living.abandon()
    assert found.exit_code == 0
    header, *rows = found.stdout.splitlines()
    assert header.split() == ["STARTED", "(UTC)", "SESSION", "TARGET", "WHO", "LASTED", "STATEMENTS", "STATE", "FILE"]
    assert rows[0].split() == (
        ["2026-11-24", "10:35:30", "s-1", "shop/shop-db", "ada@example.com", "1.0", "s", "1", "closed", str(done.path)]
    )
    assert " live " in rows[1]
    assert " not closed " in rows[2]
    assert run("recordings", "list", "--target", "shop/other").exit_code == 3


def test_header_of_one(state: Path, opened: OpenedRecord) -> None:
    done = _record(state, opened, "s-1")
    found = run("recordings", "show-header", "s-1")
    assert "ada@example.com through cursor" in found.stdout
    assert str(done.path) in found.stdout


@pytest.mark.parametrize("how", ["session", "file"])
def test_replay_by_session_or_by_file(state: Path, opened: OpenedRecord, how: str) -> None:
    done = _record(state, opened, "s-1-with-dash")
    found = run("replay", "s-1-with-dash" if how == "session" else done.path)
    assert found.exit_code == 0
    assert "  +0.500  #1 simple" in found.stdout
    assert "closed: client left; 1 statements, 5 frames" in found.stdout
    assert found.stderr == ""


def test_replay_as_json(state: Path, opened: OpenedRecord) -> None:
    _record(state, opened, "s-1")
    found = run("replay", "s-1", "--format", "json", "--statement", "1")
    assert [json.loads(line)["kind"] for line in found.stdout.splitlines()] == ["CLIENT_STATEMENT", "RESULT_BYTES", "OUTCOME"]


def test_replay_of_a_damaged_recording_exits_1(state: Path, opened: OpenedRecord) -> None:
    done = _record(state, opened, "s-1")
    done.path.write_bytes(done.path.read_bytes()[:-20])
    found = run("replay", "s-1")
    assert (found.exit_code, "THE RECORDING ENDS HERE" in found.stdout) == (1, True)


def test_replay_says_when_there_is_no_end(state: Path, opened: OpenedRecord) -> None:
    _open(state, opened, "s-1").abandon()
    found = run("replay", "s-1")
    assert (found.exit_code, "has no end" in found.stderr) == (0, True)


def test_replay_at_speed_takes_its_time(state: Path, opened: OpenedRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    _record(state, opened, "s-1")
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("time.monotonic", lambda: 5.0)
    run("replay", "s-1", "--speed", "2")
    assert slept == [0.0, 0.25, 0.25, 0.5]


def test_replay_of_nothing_and_of_too_much_is_told(state: Path, opened: OpenedRecord) -> None:
    found = run("replay", "s-9")
    assert found.exit_code == 1
    assert found.stderr == (
        f"sidegate replay: `s-9` is neither a file nor a session recorded in `{state}/recordings`\nhint: list them: sidegate recordings list\n"
    )
    _record(state, opened, "s-1")
    _record(state, opened, "s-1", NOW + 60)
    assert "has 2 recordings" in run("replay", "s-1").stderr


@pytest.mark.parametrize(
    "verb", [["replay"], ["recordings"], ["recordings", "verify"], ["recordings", "list"], ["recordings", "show-header"]]
)
def test_help_has_an_example(verb: list[str]) -> None:
    found = run(*verb, "--help")
    assert found.exit_code == 0
    assert "EXAMPLE" in found.stdout or "EXIT STATUS" in found.stdout
