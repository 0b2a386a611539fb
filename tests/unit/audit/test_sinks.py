"""Sinks: one write an event, 0600, linked lines, and an error for everything that isn't a whole line on its way."""

from __future__ import annotations

import os
import select
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sidegate.audit.events import ConfigLoaded, GateStarted, at, decode_event
from sidegate.audit.sinks import AuditError, FileSink, StdoutSink, verify_lines


def _event(revision: str = "r1") -> ConfigLoaded:
    return ConfigLoaded(time=at(0.0), target="shop/shop-db", revision=revision)


def test_file_is_private_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for writer in ("w1", "w2"):
        sink = FileSink(path, writer)
        sink.write(_event("a"))
        sink.write(_event("b"))
        sink.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_bytes().splitlines(keepends=True)
    assert [event.revision for line in lines if isinstance(event := decode_event(line), ConfigLoaded)] == ["a", "b", "a", "b"]
    report = verify_lines(lines)
    assert report.problems == []
    assert {writer: sequence for writer, (sequence, _) in report.writers.items()} == {"w1": 1, "w2": 1}


def test_each_event_is_one_write() -> None:
    reader, writer = os.pipe2(os.O_DIRECT)  # packet mode: each read returns exactly one write
    sink = StdoutSink("w", writer)
    sink.write(GateStarted(time=at(0.0), version="1"))
    sink.write(_event())
    assert [os.read(reader, 4096).split(b'"')[3] for _ in range(2)] == [b"GateStarted", b"ConfigLoaded"]
    os.close(reader)
    os.close(writer)


def test_closing_the_stdout_sink_leaves_the_descriptor_open(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    sink = StdoutSink("w", descriptor)
    sink.close()
    os.fstat(descriptor)
    os.close(descriptor)
    with pytest.raises(AuditError, match="is closed"):
        sink.write(_event())


def test_a_symbolic_link_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditError, match="can't be opened"):
        FileSink(tmp_path / "link", "w")
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_directory_is_an_error_with_a_way_forward(tmp_path: Path) -> None:
    with pytest.raises(AuditError) as caught:
        FileSink(tmp_path / "none" / "audit.jsonl", "w")
    assert "make its directory" in caught.value.way_forward


def test_a_reader_that_went_away_is_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(AuditError, match="can't be written"):
        StdoutSink("w", writer).write(_event())
    os.close(writer)


def test_a_reader_that_stands_still_is_an_error_when_the_descriptor_does_not_block() -> None:
    reader, writer = os.pipe()
    sink = StdoutSink("w", writer)
    os.set_blocking(writer, False)
    while select.select([], [writer], [], 0)[1]:
        os.write(writer, b"x" * 4096)
    with pytest.raises(AuditError, match="can't be written"):
        sink.write(_event())
    os.close(reader)
    os.close(writer)


FILL = """
import resource, signal, sys
from pathlib import Path
from sidegate.audit.events import ConfigLoaded, at
from sidegate.audit.sinks import AuditError, FileSink
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sink = FileSink(Path(sys.argv[1]), "w1")
event = ConfigLoaded(time=at(0.0), target="t", revision="r")
sink.write(event)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
problems = []
for _ in range(2):
    try:
        sink.write(event)
    except AuditError as error:
        problems.append(str(error))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
sink.write(event)
print(len(problems), "took" in problems[0], "can't be written" in problems[1])
"""


def test_a_full_disk_is_an_error_each_time_and_the_log_goes_on_once_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    run = subprocess.run([sys.executable, "-c", FILL, path, "300"], capture_output=True, text=True, check=True)
    assert run.stdout == "2 True True\n"
    lines = path.read_bytes().splitlines(keepends=True)
    report = verify_lines(lines)
    assert report.lines == 3
    assert report.problems == [(2, "not a whole event")]
    assert report.writers["w1"][0] == 1


def test_a_new_process_begins_on_a_fresh_line_behind_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"event":"Confi')
    sink = FileSink(path, "w2")
    sink.write(_event())
    sink.close()
    assert verify_lines(path.read_bytes().splitlines(keepends=True)).problems == [(1, "not a whole event")]


@pytest.mark.parametrize("writer", ['a"b', "100%d", "ü"])
def test_any_writer_name_keeps_the_lines_whole(tmp_path: Path, writer: str) -> None:
    sink = FileSink(tmp_path / "a", writer)
    sink.write(_event())
    sink.close()
    report = verify_lines((tmp_path / "a").read_bytes().splitlines(keepends=True))
    assert report.problems == []
    assert [writer] == list(report.writers)


def test_a_gate_that_is_started_again_goes_on_with_its_chain(tmp_path: Path) -> None:
    for revision in "ab":
        for writer in ("gate-0", "gate-1"):
            sink = FileSink(tmp_path / "a", writer)
            sink.write(_event(revision))
            sink.write(_event(revision))
            sink.close()
    lines = (tmp_path / "a").read_bytes().splitlines(keepends=True)
    report = verify_lines(lines)
    assert report.problems == []
    assert {writer: sequence for writer, (sequence, _) in report.writers.items()} == {"gate-0": 3, "gate-1": 3}
    assert verify_lines(lines[:2] + lines[6:]).problems


def test_a_gate_that_writes_to_standard_output_begins_a_chain_at_each_start(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    for _ in range(2):
        sink = StdoutSink("gate", descriptor)
        sink.write(GateStarted(time=at(float(os.lseek(descriptor, 0, os.SEEK_CUR))), version="1"))
        sink.write(_event())
    os.close(descriptor)
    lines = (tmp_path / "out").read_bytes().splitlines(keepends=True)
    assert verify_lines(lines).problems == []
    assert verify_lines([lines[0], *lines]).problems == [(2, "the first line of writer `gate` stands twice")]
    assert verify_lines([*lines, *lines[:2]]).problems


def _three_lines(tmp_path: Path) -> list[bytes]:
    sink = FileSink(tmp_path / "audit.jsonl", "w")
    for revision in "abc":
        sink.write(_event(revision))
    sink.close()
    return (tmp_path / "audit.jsonl").read_bytes().splitlines(keepends=True)


def test_every_flipped_bit_of_a_log_is_found(tmp_path: Path) -> None:
    lines = _three_lines(tmp_path)
    for number, line in enumerate(lines):
        for offset in range(len(line) - 1):
            changed = bytearray(line)
            changed[offset] ^= 1
            report = verify_lines([*lines[:number], bytes(changed), *lines[number + 1 :]])
            assert report.problems, (number, offset)


def test_a_removed_swapped_or_repeated_line_is_found(tmp_path: Path) -> None:
    first, second, third = _three_lines(tmp_path)
    assert verify_lines([second, third]).problems == [(1, "the chain of writer `w` is broken (sequence -1 is followed by 1)")]
    assert verify_lines([first, third]).problems
    assert verify_lines([first, third, second]).problems
    assert verify_lines([first, second, second, third]).problems
