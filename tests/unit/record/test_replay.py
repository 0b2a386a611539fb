"""Replay: what a person reads, from frames; tables from wire bytes; nothing raw on a terminal."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.policy.decision import ENGINE_SEAL, Allow, ApprovalTerms, Deny, Masks, Permit, RequireApproval
from sidegate.policy.reason import Reason
from sidegate.policy.source import PolicyGrant, PolicyRule
from sidegate.policy.statement import Impact, TableImpact
from sidegate.record.budget import RecordingBudget
from sidegate.record.capture import ResultCapture
from sidegate.record.entries import (
    ApprovalRecord,
    ConfigRecord,
    DecisionRecord,
    HoldRecord,
    NoticeRecord,
    OpenedRecord,
    OutcomeRecord,
    Parameter,
    StatementBeside,
    StatementRecord,
    TruncationRecord,
    decode_entry,
)
from sidegate.record.frame import Frame, RecordEntry, RecordKind, decode_result, encode_result
from sidegate.record.reader import RecordingProblem, read_frames
from sidegate.record.replay import replay_json, replay_text
from sidegate.record.replay_rows import read_results, table
from sidegate.record.writer import SessionRecorder

NOW = 1_795_516_530.25
RULE = PolicyRule("shop", "assistants", "no-drop")
PERMIT = Permit(ENGINE_SEAL, "test", RULE, "r1")


def message(kind: str, body: bytes) -> bytes:
    return kind.encode() + (len(body) + 4).to_bytes(4, "big") + body


def row_description(*columns: tuple[str, int, int]) -> bytes:
    parts = [name.encode() + b"\0" + struct.pack(">IhIhih", 0, 0, oid, -1, -1, form) for name, oid, form in columns]
    return message("T", struct.pack(">H", len(columns)) + b"".join(parts))


def data_row(*cells: bytes | None) -> bytes:
    parts = [b"\xff\xff\xff\xff" if cell is None else len(cell).to_bytes(4, "big") + cell for cell in cells]
    return message("D", struct.pack(">H", len(cells)) + b"".join(parts))


CUSTOMERS = (
    row_description(("id", 23, 0), ("name", 25, 0), ("password", 25, 0))
    + data_row(b"1", "Adä".encode(), b"[redacted]")
    + data_row(b"22", None, b"[redacted]")
    + message("C", b"SELECT 2\0")
)


def _items(budget: RecordingBudget, opened: OpenedRecord, entries: Iterable[RecordEntry]) -> list[Frame | RecordingProblem]:
    recorder = SessionRecorder.open(budget, opened, NOW)
    for number, entry in enumerate(entries, 1):
        recorder.append(entry, NOW + number)
    done = recorder.close("client left", NOW + 99)
    return list(read_frames(io.BytesIO(done.path.read_bytes())))


def test_a_session_reads_as_it_happened(budget: RecordingBudget, opened: OpenedRecord) -> None:
    allow = Allow(PERMIT, Masks(), PolicyGrant("shop", "assistants", 0), "r1")
    deny = Deny(Reason.DENIED_BY_RULE, RULE, "r1", detail="drops `shop.orders`")
    terms = ApprovalTerms(frozenset({"dba"}), frozenset(), 1, 60.0)
    hold = RequireApproval(terms, PERMIT, Masks(), PolicyRule("shop", "assistants", "big-deletes"), "r1")
    impact = Impact(5000, (TableImpact("shop.orders", 0, 0, 5000),))
    entries = [
        StatementRecord(statement=1, text="SELECT *\nFROM customers").entry(),
        DecisionRecord.of(1, allow).entry(),
        encode_result(1, CUSTOMERS[:60]),
        encode_result(1, CUSTOMERS[60:]),
        OutcomeRecord(statement=1, tag="SELECT 2", rows=2, masked={"shop/assistants#pii": 2}).entry(),
        StatementRecord(
            statement=2,
            text="DROP TABLE orders",
            via="extended",
            name="s1",
            parameters=(Parameter(text="it's"), Parameter(binary=b"\0\1"), Parameter(), Parameter(text="*", masked="cards")),
        ).entry(),
        DecisionRecord.of(2, deny).entry(),
        StatementRecord(
            statement=3,
            text="EXECUTE d(10)\n  runs\n  | SELECT 1",
            runs=(StatementBeside(text="PREPARE d AS\nDELETE FROM orders WHERE total < $1"),),
            alternatives=(StatementBeside(text="FETCH c", parameters=(Parameter(text="1"),)),),
        ).entry(),
        DecisionRecord.of(3, hold, impact=impact).entry(),
        HoldRecord(statement=3, approval="ar-1", hold_until=NOW + 600).entry(),
        NoticeRecord(text="waiting for ar-1", statement=3).entry(),
        ApprovalRecord(statement=3, approval="ar-1", outcome="Denied", approvers=("bob",), comment="too many").entry(),
        ConfigRecord(revision="r2").entry(),
        OutcomeRecord(statement=3, sqlstate="42501", message="denied").entry(),
    ]
    text = "\n".join(step.text for step in replay_text(_items(budget, opened, entries)))
    assert text == (Path(__file__).parent / "replay_of_a_session.txt").read_text()


def test_one_statement_alone(budget: RecordingBudget, opened: OpenedRecord) -> None:
    entries = []
    for number in (1, 2):
        entries += [
            StatementRecord(statement=number, text=f"SELECT {number}").entry(),
            encode_result(number, data_row(b"cell %d" % number)),
            OutcomeRecord(statement=number, tag="SELECT 1").entry(),
        ]
    text = "\n".join(step.text for step in replay_text(_items(budget, opened, entries), statement=2))
    assert "cell 2" in text
    assert "cell 1" not in text
    assert "session" not in text


def test_a_damaged_recording_says_so_where_it_ends(budget: RecordingBudget, opened: OpenedRecord) -> None:
    items = _items(budget, opened, [StatementRecord(statement=1, text="SELECT 1").entry()])
    problem = RecordingProblem("its content isn't what its link was made from", 300, 2)
    assert "THE RECORDING ENDS HERE: frame 2 at byte 300" in list(replay_text([*items[:2], problem]))[-1].text
    assert json.loads(list(replay_json([*items[:2], problem]))[-1].text)["kind"] == "DAMAGED"


def test_a_result_without_an_outcome_is_still_shown(budget: RecordingBudget, opened: OpenedRecord) -> None:
    items = _items(budget, opened, [encode_result(7, CUSTOMERS)])
    assert "#7 (its outcome isn't recorded)" in list(replay_text(items))[-1].text


def test_as_json_each_frame_is_a_line_with_all_it_has(budget: RecordingBudget, opened: OpenedRecord) -> None:
    items = _items(budget, opened, [StatementRecord(statement=1, text="SELECT 1").entry(), encode_result(1, b"abc")])
    lines = [json.loads(step.text) for step in replay_json(items)]
    assert [line["kind"] for line in lines] == ["SESSION_OPENED", "CLIENT_STATEMENT", "RESULT_BYTES", "SESSION_CLOSED"]
    assert lines[1] == {
        "kind": "CLIENT_STATEMENT",
        "sequence": 1,
        "time": "2026-11-24T10:35:31.250000Z",
        "statement": 1,
        "text": "SELECT 1",
    }
    assert lines[2]["base64"] == "YWJj"
    assert [json.loads(step.text)["sequence"] for step in replay_json(items, statement=1)] == [1, 2]


ATTACKS = ["\x1b[2J\x1b]0;owned\x07", "a\rb", "x\n  +9.000  #9 Allow", "\u202egnissap", "\u2028", "\x9b31m", "\ue000", "\x00"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_recorded_text_reaches_the_terminal_raw(budget: RecordingBudget, opened: OpenedRecord, attack: str) -> None:
    raw = attack.encode()
    entries = [
        StatementRecord(statement=1, text=attack, name=attack, parameters=(Parameter(text=attack),)).entry(),
        DecisionRecord(statement=1, decision="Deny", detail=attack, source=attack, observed=attack, way_forward=attack).entry(),
        HoldRecord(statement=1, approval=attack, hold_until=NOW).entry(),
        ApprovalRecord(statement=1, approval=attack, outcome=attack, approvers=(attack,), comment=attack).entry(),
        encode_result(1, row_description((attack.replace("\0", ""), 25, 0)) + data_row(raw)),
        encode_result(
            1, message("E", b"S" + raw + b"\0M" + raw + b"\0D" + raw + b"\0\0") + message("d", raw) + message("C", raw)
        ),
        NoticeRecord(text=attack).entry(),
        ConfigRecord(revision=attack).entry(),
        OutcomeRecord(statement=1, tag=attack, masked={attack: 1}).entry(),
        OutcomeRecord(statement=1, sqlstate=attack, message=attack).entry(),
    ]
    items = _items(budget, opened, entries)
    for step in replay_text(items):
        assert all(c.isprintable() or c == "\n" for c in step.text), step.text
    text = "\n".join(step.text for step in replay_text(items))
    assert "\n  +9.000  #9 Allow" not in text


ASKED = ("simple", "  | SELECT 1", "  $1 = 'x'", "  runs", "#2 Allow", "#1 done: DELETE 0")


@given(st.lists(st.sampled_from(ASKED) | st.text(max_size=8)).map("\n".join))
def test_no_text_of_a_statement_reads_as_a_value_or_as_what_it_runs(text: str) -> None:
    beside = StatementBeside(text="DELETE FROM orders WHERE id = $1", parameters=(Parameter(text="7"),))
    record = StatementRecord(statement=1, text=text, parameters=(Parameter(text="5"),), runs=(beside,))
    frame = Frame(RecordKind.CLIENT_STATEMENT, 0, int(NOW * 1_000_000), record.entry().payload, b"", 0)
    ((_, shown),) = replay_text([frame])
    lines = [line[10:].rstrip() for line in shown.split("\n")]
    assert [line for line in lines if not line.startswith("  |")] == ["#1 simple", "  $1 = '5'", "  runs", "  $1 = '7'"]
    assert lines[-2] == "  | DELETE FROM orders WHERE id = $1"
    assert len([line for line in lines if line.startswith("  |")]) == text.count("\n") + 2


def test_a_table_has_aligned_columns_and_tells_nulls() -> None:
    (part,) = read_results(CUSTOMERS)
    assert list(table(part)) == [
        " id | name   | password",
        "----+--------+------------",
        " 1  | Adä    | [redacted]",
        " 22 | (null) | [redacted]",
        "(2 rows)",
        "SELECT 2",
    ]


@pytest.mark.parametrize(
    ("oid", "value", "shown"),
    [
        (16, b"\1", "t"),
        (16, b"\0", "f"),
        (21, struct.pack(">h", -3), "-3"),
        (23, struct.pack(">i", 70000), "70000"),
        (20, struct.pack(">q", -(2**40)), str(-(2**40))),
        (701, struct.pack(">d", 1.5), "1.5"),
        (25, b"text", "text"),
        (1082, struct.pack(">i", 9824), "2026-11-24"),
        (1114, struct.pack(">q", 848831730250000), "2026-11-24 10:35:30.250000"),
        (1184, struct.pack(">q", 0), "2000-01-01 00:00:00+00"),
        (2950, bytes(range(16)), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        (3802, b'\1{"a": 1}', '{"a": 1}'),
        (3802, b"\2{}", "\\x027b7d"),
        (17, b"\0\1", "\\x0001"),
        (600, b"\0\1", "\\x0001"),  # point: not among the types that are decoded
        (23, b"\0\1", "\\x0001"),  # a length that isn't the type's
        (1082, struct.pack(">i", 2**31 - 1), "\\x7fffffff"),  # infinity
    ],
)
def test_binary_cells_of_common_types_are_decoded_and_others_shown_in_hexadecimal(oid: int, value: bytes, shown: str) -> None:
    (part,) = read_results(row_description(("c", oid, 1)) + data_row(value))
    assert part.rows == [(shown,)]


def test_rows_without_columns_are_still_a_table() -> None:
    (part,) = read_results(data_row(b"a", b"\0\0\0\7"))
    assert list(table(part)) == [" column 1 | column 2", "----------+------------", " a        | \\x00000007", "(1 row)"]


def test_a_long_cell_is_cut_and_says_so() -> None:
    (part,) = read_results(row_description(("c", 25, 0)) + data_row(b"x" * 205))
    assert part.rows == [("x" * 200 + "... (5 more)",)]


def test_an_error_shows_code_message_detail_and_hint() -> None:
    (part,) = read_results(message("E", b"SERROR\0C42501\0Mno\0Dbecause\0Hask\0\0"))
    assert list(table(part)) == ["ERROR 42501: no\nDETAIL: because\nHINT: ask"]


def test_several_results_of_one_statement_are_several_tables() -> None:
    assert [len(part.rows) for part in read_results(CUSTOMERS + CUSTOMERS)] == [2, 2]


@given(st.binary(max_size=200), st.sampled_from([b"", CUSTOMERS[:40], b"D\0\0\0\x0c", b"T\0\0\0\x20\0\3"]))
def test_any_bytes_are_shown_without_an_error(data: bytes, prefix: bytes) -> None:
    for part in read_results(prefix + data):
        for line in table(part):
            assert all(piece.isprintable() for piece in line.split("\n"))


def _captured(capture: ResultCapture, *chunks: tuple[bytes, int]) -> tuple[bytes, TruncationRecord | None]:
    kept = [decode_result(entry.payload)[1] for chunk, rows in chunks if (entry := capture.add(chunk, rows)) is not None]
    marker = capture.finish()
    record = None if marker is None else decode_entry(marker.kind, marker.payload)
    assert record is None or isinstance(record, TruncationRecord)
    return b"".join(kept), record


def test_a_result_within_the_limit_is_kept_whole() -> None:
    assert _captured(ResultCapture(1, len(CUSTOMERS)), (CUSTOMERS, 2)) == (CUSTOMERS, None)


def test_a_result_is_cut_between_messages_and_what_is_left_out_is_counted_and_hashed() -> None:
    import hashlib

    row = data_row(b"x" * 90)
    head = row_description(("c", 25, 0))
    stream = head + row * 10
    kept, marker = _captured(ResultCapture(1, len(head) + 3 * len(row) + 50), (head + row * 2, 2), (row * 5, 5), (row * 3, 3))
    assert kept == head + row * 3
    assert marker is not None
    assert (marker.rows, marker.bytes) == (7, 7 * len(row))
    assert marker.sha256 == hashlib.sha256(stream[len(kept) :]).hexdigest()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 4)), max_size=12), st.integers(0, 600))
def test_kept_and_left_out_are_always_all_of_it(chunks: list[tuple[int, int]], limit: int) -> None:
    import hashlib

    pieces = [(data_row(b"x" * size) * count, count) for size, count in chunks]
    stream = b"".join(data for data, _ in pieces)
    kept, marker = _captured(ResultCapture(1, limit), *pieces)
    assert stream.startswith(kept)
    assert len(kept) <= limit or limit == 0
    left = stream[len(kept) :]
    if marker is None:
        assert not left
    else:
        rows_kept = sum(len(part.rows) for part in read_results(kept))
        assert (marker.bytes, marker.sha256) == (len(left), hashlib.sha256(left).hexdigest())
        assert marker.rows == sum(count for _, count in pieces) - rows_kept


def test_one_huge_message_that_comes_in_pieces_is_bounded() -> None:
    capture = ResultCapture(1, 100)
    whole = data_row(b"x" * 10_000)
    entries = [capture.add(whole[:64], 0), *(capture.add(whole[at : at + 64], 0, False) for at in range(64, len(whole), 64))]
    kept = b"".join(decode_result(entry.payload)[1] for entry in entries if entry is not None)
    assert kept == whole[:100]
    assert capture.finish() is not None


def test_a_limit_of_zero_keeps_nothing_but_the_count() -> None:
    kept, marker = _captured(ResultCapture(1, 0), (CUSTOMERS, 2))
    assert (kept, marker and marker.rows) == (b"", 2)


def test_the_numbers_of_kinds_never_change() -> None:
    assert [kind.name for kind in sorted(RecordKind)] == [
        "SESSION_OPENED",
        "CLIENT_STATEMENT",
        "DECISION",
        "HOLD",
        "APPROVAL_DECIDED",
        "RESULT_BYTES",
        "RESULT_TRUNCATED",
        "OUTCOME",
        "NOTICE",
        "CONFIG",
        "SESSION_CLOSED",
    ]
