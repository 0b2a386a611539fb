"""docs/recording-format.md is right: its reader, its example and its tables are held against the code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pytest

from sidegate.audit.events import SessionFields
from sidegate.record.budget import RecordingBudget
from sidegate.record.entries import (
    ApprovalRecord,
    ClosedRecord,
    ConfigRecord,
    DecisionRecord,
    HoldRecord,
    NoticeRecord,
    OpenedRecord,
    OutcomeRecord,
    StatementBeside,
    StatementRecord,
    TruncationRecord,
)
from sidegate.record.frame import HEADER_LINK, MAX_PAYLOAD_BYTES, RecordKind, encode_result
from sidegate.record.writer import SessionRecorder

PAGE = (Path(__file__).parents[3] / "docs" / "recording-format.md").read_text("utf-8")
NOW = 1_795_516_530.25

Reader: TypeAlias = Callable[[bytes], Iterator[tuple[int, float, dict[str, Any]]]]


@pytest.fixture(scope="module")
def read() -> Reader:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(source, names)
    reader: Reader = names["read"]
    return reader


@pytest.fixture(scope="module")
def example() -> bytes:
    (text,) = re.findall(r"```hex\n(.*?)```", PAGE, re.DOTALL)
    return bytes.fromhex(text)


def test_the_reader_of_the_page_reads_the_recording_of_the_page(read: Reader, example: bytes) -> None:
    frames = list(read(example))
    assert [kind for kind, _, _ in frames] == [1, 2, 11]
    assert frames[1][1:] == (NOW + 0.75, {"statement": 1, "text": "SELECT 1"})
    assert f"{len(example)} bytes: a session" in PAGE


def test_the_recording_of_the_page_is_what_this_version_writes(budget: RecordingBudget, example: bytes) -> None:
    session = SessionFields(id="s-1", target="shop/shop-db", source_address="unix", database="shop", role="readonly")
    opened = OpenedRecord(session=session, environment="test", revision="r1", gate_version="0.1.0")
    recorder = SessionRecorder.open(budget, opened, NOW)
    recorder.append(StatementRecord(statement=1, text="SELECT 1").entry(), NOW + 0.75)
    done = recorder.close("client left", NOW + 1.75)
    assert done.path.read_bytes() == example
    assert done.link in PAGE
    assert HEADER_LINK.hex() in PAGE


def test_the_reader_of_the_page_reads_every_kind_that_this_version_writes(
    read: Reader, budget: RecordingBudget, opened: OpenedRecord
) -> None:
    recorder = SessionRecorder.open(budget, opened, NOW)
    entries = [
        StatementRecord(statement=1, text="ü\n", runs=(StatementBeside(text="x"),)).entry(),
        DecisionRecord(statement=1, decision="Allow").entry(),
        HoldRecord(statement=1, approval="ar-1", hold_until=1.0).entry(),
        ApprovalRecord(statement=1, approval="ar-1", outcome="Approved").entry(),
        encode_result(1, b"\0\1\2"),
        TruncationRecord(statement=1, rows=1, bytes=2, sha256="00").entry(),
        OutcomeRecord(statement=1, tag="SELECT 1").entry(),
        NoticeRecord(text="x").entry(),
        ConfigRecord(revision="r2").entry(),
    ]
    recorder.append_all(entries, NOW)
    data = recorder.close("done", NOW).path.read_bytes()
    frames = list(read(data))
    assert [kind for kind, _, _ in frames] == list(RecordKind)
    assert frames[5][2] == {"statement": 1, "bytes": b"\0\1\2"}
    for offset in range(0, len(data), 7):
        changed = bytearray(data)
        changed[offset] ^= 4
        with pytest.raises(ValueError):
            list(read(bytes(changed)))
    with pytest.raises(ValueError, match=r"torn end|not closed|trailer"):
        list(read(data[:-10]))


def test_the_table_of_kinds_has_each_with_its_number_and_fields() -> None:
    rows = {
        int(number): (name, cell) for number, name, cell in re.findall(r"^\| (\d+) \| ([A-Z_]+) \| (.*) \|$", PAGE, re.MULTILINE)
    }
    assert {number: name for number, (name, _) in rows.items()} == {int(kind): kind.name for kind in RecordKind}
    for record in (
        OpenedRecord,
        StatementRecord,
        DecisionRecord,
        HoldRecord,
        ApprovalRecord,
        TruncationRecord,
        OutcomeRecord,
        NoticeRecord,
        ConfigRecord,
        ClosedRecord,
    ):
        named = set(re.findall(r"`(\w+)`", rows[record.KIND][1]))
        fields = {field.encode_name for field in msgspec.structs.fields(record)}
        assert fields <= named, record.__name__


def test_the_limit_of_a_payload_is_the_one_of_the_page() -> None:
    assert f"at most {MAX_PAYLOAD_BYTES}" in PAGE
