"""Statements gathered from the frames of a recording: in order, none left out, within bounds."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sidegate.record.asked import MAX_DECISIONS, MAX_OPEN_STATEMENTS, AskedStatement, read_asked
from sidegate.record.budget import RecordingBudget
from sidegate.record.entries import (
    ApprovalRecord,
    ConfigRecord,
    DecisionRecord,
    MasksFields,
    OpenedRecord,
    OutcomeRecord,
    StatementRecord,
)
from sidegate.record.frame import RecordEntry
from sidegate.record.reader import RecordingProblem, read_recording
from sidegate.record.writer import SessionRecorder

NOW = 1_795_516_530.25


def read(budget: RecordingBudget, opened: OpenedRecord, entries: Iterable[RecordEntry]) -> list[AskedStatement]:
    recorder = SessionRecorder.open(budget, msgspec.structs.replace(opened, masks=MasksFields()), NOW)
    recorder.append_all(list(entries), NOW)
    recorder.close("client left", NOW)
    first, *found = read_asked(read_recording(recorder.path))
    assert isinstance(first, OpenedRecord)
    return [each for each in found if isinstance(each, AskedStatement)]


def held(statement: int, revision: str) -> RecordEntry:
    return DecisionRecord(statement=statement, decision="RequireApproval", revision=revision).entry()


def allowed(statement: int, revision: str) -> RecordEntry:
    return DecisionRecord(statement=statement, decision="Allow", revision=revision).entry()


def test_statements_come_in_the_order_in_which_they_ended(budget: RecordingBudget, opened: OpenedRecord) -> None:
    asked = [StatementRecord(statement=number, text=f"select {number}").entry() for number in (1, 2, 3)]
    ended = [OutcomeRecord(statement=number, tag="SELECT 1").entry() for number in (2, 1)]
    assert [each.number for each in read(budget, opened, [*asked, *ended])] == [2, 1, 3]


def test_more_open_statements_than_are_kept_lose_none(budget: RecordingBudget, opened: OpenedRecord) -> None:
    count = MAX_OPEN_STATEMENTS + 10
    found = read(budget, opened, (StatementRecord(statement=n, text="select 1").entry() for n in range(count)))
    assert [each.number for each in found] == list(range(count))


def test_a_number_that_comes_twice_hides_nothing(budget: RecordingBudget, opened: OpenedRecord) -> None:
    found = read(budget, opened, (StatementRecord(statement=1, text=text).entry() for text in ("drop table t", "select 1")))
    assert [each.text for each in found] == ["drop table t", "select 1"]


def test_decisions_of_one_statement_are_bounded_and_the_first_and_last_are_kept(
    budget: RecordingBudget, opened: OpenedRecord
) -> None:
    decisions = [held(1, "first"), *(allowed(1, str(number)) for number in range(MAX_DECISIONS * 2)), allowed(1, "last")]
    (found,) = read(budget, opened, [StatementRecord(statement=1, text="select 1").entry(), *decisions])
    assert len(found.decisions) == MAX_DECISIONS
    assert (found.decisions[0].revision, found.decisions[-1].revision) == ("first", "last")


def test_rules_that_change_while_a_statement_is_held_replace_its_decision(budget: RecordingBudget, opened: OpenedRecord) -> None:
    entries = [
        StatementRecord(statement=1, text="delete from t").entry(),
        held(1, "r1"),
        ConfigRecord(revision="r2", masks=MasksFields()).entry(),
        allowed(1, "r2"),
    ]
    (found,) = read(budget, opened, entries)
    assert [each.revision for each in found.decisions] == ["r2"]


def test_a_hold_that_new_rules_left_alone_stays_one_when_it_is_approved(budget: RecordingBudget, opened: OpenedRecord) -> None:
    entries = [
        StatementRecord(statement=1, text="delete from t").entry(),
        held(1, "r1"),
        ConfigRecord(revision="r2").entry(),
        ApprovalRecord(statement=1, approval="ar-1", outcome="Approved").entry(),
        allowed(1, "r2"),
    ]
    (found,) = read(budget, opened, entries)
    assert [each.decision for each in found.decisions] == ["RequireApproval", "Allow"]


def test_damage_is_the_last_thing_and_what_stands_before_it_is_given(budget: RecordingBudget, opened: OpenedRecord) -> None:
    recorder = SessionRecorder.open(budget, opened, NOW)
    recorder.append_all([StatementRecord(statement=n, text=f"select {n}").entry() for n in (1, 2)], NOW)
    recorder.close("client left", NOW)
    data = bytearray(recorder.path.read_bytes())
    data[data.index(b"select 2")] ^= 1
    recorder.path.write_bytes(data)
    _, first, problem = read_asked(read_recording(recorder.path))
    assert isinstance(first, AskedStatement)
    assert (first.text, isinstance(problem, RecordingProblem)) == ("select 1", True)
