"""What an attacker or an odd driver once got past the measure of a statement: counted, decided on, and taken back or kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidegate.approval.backend import Phase, Verdict
from sidegate.policy.config import ApprovalConfig, RuleAction, RuleConfig, StatementMatch
from sidegate.policy.reason import Reason
from sidegate.postgres.effects import CloseSession, Hold
from sidegate.postgres.messages import frame
from sidegate.postgres.session_facts import SessionLimits
from sidegate.postgres.stories import COUNTERS
from sidegate.record.frame import RecordKind
from tests.support.session import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    FLUSH,
    NOW,
    PARSE_COMPLETE,
    SYNC,
    Bench,
    asked,
    bind,
    codes,
    complete,
    data_row,
    error_of,
    execute,
    parse,
    policy,
    query,
    ready,
    row_description,
    target_error,
)

APPROVAL = ApprovalConfig(approver_groups=("dba",))
HOLD_DDL = RuleConfig("hold-ddl", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("DDL",)), approval=APPROVAL)
BIG_CHANGES = RuleConfig(
    "big-changes",
    RuleAction.REQUIRE_APPROVAL,
    StatementMatch(kinds=("Delete", "Insert", "Truncate"), rows_more_than=100),
    approval=APPROVAL,
)


def approved(rows: int | None = None, name: str = "ar-1") -> Verdict:
    return Verdict(Phase.APPROVED, name, ("dana",), "", NOW, NOW + 3600, rows)


def holds(bench: Bench) -> list[Hold]:
    return [action for action in bench.actions if isinstance(action, Hold)]


def is_open(bench: Bench) -> bool:
    return not any(isinstance(action, CloseSession) for action in bench.actions)


class TestMeasured:
    def test_a_delete_that_is_suspended_is_counted(self) -> None:
        """The target deletes everything at the first Execute and keeps the rows of RETURNING: a row limit of Execute limits nothing."""
        bench = Bench(policy([BIG_CHANGES]))
        bench.client(query("begin"))
        bench.target(complete("BEGIN"), ready("T"))
        bench.seen()
        bench.client(parse("delete from orders returning id"), bind(), execute("", 1), SYNC)
        bench.answer_ask(tag="SAVEPOINT", status="T")
        assert codes(bench.answer_ask(tag="SELECT 0", status="T")) == "PBES"
        bench.target(PARSE_COMPLETE, BIND_COMPLETE, data_row(b"1"), frame(b"s"), ready("T"))
        assert asked(bench.sent()) == COUNTERS
        assert asked(bench.answer_ask((b"public.orders", b"0", b"0", b"5000"), status="T")).startswith("ROLLBACK TO")

    @pytest.mark.parametrize("between", [parse("drop table users"), parse("select 1"), frame(b"C", b"S\0")])
    def test_what_is_measured_again_is_what_was_bound(self, between: bytes) -> None:
        """After the rollback its portal is made again, and the name may be another statement's by then."""
        bench = Bench(policy([BIG_CHANGES, HOLD_DDL]))
        bench.client(parse("delete from orders"), bind("p"), between, execute("p"), SYNC)
        bench.answer_ask(tag="BEGIN", status="T")
        assert codes(bench.answer_ask(tag="SELECT 0", status="T"))[:2] == "PB"
        answer = CLOSE_COMPLETE if between.startswith(b"C") else PARSE_COMPLETE
        bench.target(PARSE_COMPLETE, BIND_COMPLETE, answer, complete("DELETE 5000"), ready("T"))
        bench.sent()
        assert asked(bench.answer_ask((b"public.orders", b"0", b"0", b"5000"), status="T")) == "ROLLBACK"
        sent = bench.answer_ask(tag="ROLLBACK")
        assert not holds(bench)
        assert b"sidegate:" in sent[0][1]
        assert Reason.IMPACT_NOT_MEASURABLE in error_of(bench.target(target_error("34000"), ready()))["D"]

    def test_a_measured_statement_is_decided_on_in_the_records_before_and_after_it_runs(self) -> None:
        bench = Bench(policy([BIG_CHANGES]))
        bench.client(query("delete from orders"))
        bench.answer_ask(tag="BEGIN", status="T")
        bench.answer_ask(tag="SELECT 0", status="T")
        assert [entry.kind for entry in bench.records] == [RecordKind.CLIENT_STATEMENT, RecordKind.DECISION]
        bench.target(complete("DELETE 5"), ready("T"))
        bench.sent()
        bench.answer_ask((b"public.orders", b"0", b"0", b"5"), status="T")
        decisions = [entry for entry in bench.records if entry.kind is RecordKind.DECISION]
        assert b"Measure" in decisions[0].payload
        assert b"Allow" in decisions[1].payload

    def test_what_an_answered_flush_left_open_is_not_rolled_back(self) -> None:
        bench = Bench(policy([BIG_CHANGES]))
        bench.client(parse("update t set a = 1"), bind(), execute(), FLUSH)
        bench.target(PARSE_COMPLETE, BIND_COMPLETE, complete("UPDATE 1"))
        bench.seen()
        sent = bench.client(parse("delete from orders"), bind(), execute(), SYNC)
        assert asked(sent) == "BEGIN"
        assert asked(bench.answer_ask(tag="BEGIN", status="T")).startswith("SAVEPOINT")

    def test_a_begin_that_an_answered_flush_hides_makes_the_count_impossible(self) -> None:
        bench = Bench(policy([BIG_CHANGES]))
        bench.client(parse("begin"), bind(), execute(), FLUSH)
        bench.target(PARSE_COMPLETE, BIND_COMPLETE, complete("BEGIN"))
        bench.seen()
        sent = bench.client(parse("delete from orders"), bind(), execute(), SYNC)
        assert codes(sent) == "PBS"
        assert b"sidegate" in sent[1][1]

    def test_an_answer_over_the_limit_is_not_kept(self) -> None:
        bench = Bench(policy([BIG_CHANGES]), limits=replace(SessionLimits(), max_captured_bytes=1000))
        bench.client(query("delete from orders returning *"))
        bench.answer_ask(tag="BEGIN", status="T")
        bench.answer_ask(tag="SELECT 0", status="T")
        bench.target(row_description("a"))
        for _ in range(100):
            bench.target(data_row(b"x" * 500))
            entry = bench.session.expected.head
            assert entry is not None
            assert entry.capture is not None
            assert sum(map(len, entry.capture)) <= 2000

    def test_an_error_behind_an_answer_over_the_limit_reaches_the_client(self) -> None:
        bench = Bench(policy([BIG_CHANGES]), limits=replace(SessionLimits(), max_captured_bytes=1000))
        bench.client(query("delete from orders returning *"))
        bench.answer_ask(tag="BEGIN", status="T")
        bench.answer_ask(tag="SELECT 0", status="T")
        bench.target(row_description("a"), *[data_row(b"x" * 500)] * 10, target_error("23503", "fk"), ready("E"))
        bench.sent()
        bench.answer_ask(tag="ROLLBACK")
        seen = bench.seen()
        assert codes(seen)[-2:] == "EZ"
        assert error_of(seen)["C"] == "23503"

    def test_an_approved_truncate_runs_and_is_asked_about_once(self) -> None:
        bench = Bench(policy([BIG_CHANGES]))
        bench.client(query("truncate orders"))
        bench.answer_ask(tag="BEGIN", status="T")
        bench.answer_ask((b"read committed", b"0"), status="T")
        bench.answer_ask(tag="LOCK TABLE", status="T")
        bench.answer_ask((b"r", b"f"), status="T")
        bench.answer_ask((b"16384",), status="T")
        assert holds(bench) == []
        assert asked(bench.answer_ask((b"0", b"16384", b"101"), status="T")) == "ROLLBACK"  # no lock while a person thinks
        bench.answer_ask(tag="ROLLBACK")
        request = holds(bench)[0].request
        assert request.impact is not None
        bench.take(bench.session.hold_decided(approved(request.impact.rows_affected), NOW))
        assert len(holds(bench)) == 1
        assert bench.sent() == [("Q", b"truncate orders\0")]

    @pytest.mark.parametrize(("rows_by_then", "runs"), [(b"60", True), (b"61", False)])
    def test_a_truncate_approved_with_its_rows_is_counted_again(self, rows_by_then: bytes, runs: bool) -> None:
        def counts(rows: bytes) -> str:
            bench.answer_ask(tag="BEGIN", status="T")
            bench.answer_ask((b"read committed", b"0"), status="T")
            bench.answer_ask(tag="LOCK TABLE", status="T")
            bench.answer_ask((b"r", b"f"), status="T")
            bench.answer_ask((b"16384",), status="T")
            if asked(bench.answer_ask((b"0", b"16384", rows), status="T")) == "ROLLBACK":
                return "ROLLBACK"
            bench.answer_ask(tag="SELECT 0", status="T")  # counters, before it runs
            bench.target(complete("TRUNCATE TABLE"), ready("T"))
            bench.sent()
            bench.answer_ask(tag="SELECT 0", status="T")  # and after
            return asked(bench.answer_ask((b"16384",), status="T"))

        bench = Bench(policy([BIG_CHANGES]))
        bench.client(query("truncate orders"))
        assert counts(b"60") == "COMMIT"
        bench.answer_ask(tag="COMMIT")
        bench.client(query("truncate orders"))
        assert counts(b"60") == "ROLLBACK"  # a hundred and twenty in this session
        bench.answer_ask(tag="ROLLBACK")
        request = holds(bench)[0].request
        assert request.impact is not None
        bench.take(bench.session.hold_decided(approved(request.impact.rows_affected), NOW))
        assert counts(rows_by_then) == ("COMMIT" if runs else "ROLLBACK")

    @pytest.mark.parametrize("begun", [(b"repeatable read", b"0"), (b"read committed", b"1")])
    def test_a_truncate_is_not_counted_by_an_old_snapshot_or_behind_other_locks(self, begun: tuple[bytes, bytes]) -> None:
        bench = Bench(policy([BIG_CHANGES]))
        bench.client(query("truncate orders"))
        bench.answer_ask(tag="BEGIN", status="T")
        assert asked(bench.answer_ask(begun, status="T")) == "ROLLBACK"

    @pytest.mark.parametrize("counted", [b"16385", b"16384"])
    def test_a_truncate_that_emptied_more_than_was_counted_is_taken_back(self, counted: bytes) -> None:
        """The name led elsewhere when it was counted; or what ran has locked another table."""
        bench = Bench(policy([BIG_CHANGES]))
        bench.client(query("truncate orders"))
        bench.answer_ask(tag="BEGIN", status="T")
        bench.answer_ask((b"read committed", b"0"), status="T")
        bench.answer_ask(tag="LOCK TABLE", status="T")
        bench.answer_ask((b"r", b"f"), status="T")
        bench.answer_ask((b"16384",), status="T")
        sent = bench.answer_ask((b"0", counted, b"0"), status="T")
        if counted == b"16384":
            bench.answer_ask(tag="SELECT 0", status="T")
            bench.target(complete("TRUNCATE TABLE"), ready("T"))
            bench.sent()
            bench.answer_ask(tag="SELECT 0", status="T")
            sent = bench.answer_ask((b"16384",), (b"16390",), status="T")
        assert asked(sent) == "ROLLBACK"

    def test_a_copy_from_stdin_under_a_limit_is_refused_and_the_session_lives(self) -> None:
        bench = Bench(policy([BIG_CHANGES]))
        sent = bench.client(query("copy orders from stdin"))
        assert sent == [("Q", b"sidegate denied\0")]
        assert Reason.IMPACT_NOT_MEASURABLE in error_of(bench.target(target_error(), ready()))["D"]
        assert is_open(bench)

    @pytest.mark.parametrize("moment", ["release", "commit"])
    def test_a_transaction_that_failed_at_its_end_is_no_success(self, moment: str) -> None:
        """A cancel can hit the gate's own statement: then nothing was deleted."""
        bench = Bench(policy([BIG_CHANGES]))
        if moment == "release":
            bench.client(query("begin"))
            bench.target(complete("BEGIN"), ready("T"))
            bench.seen()
        bench.client(query("delete from orders"))
        bench.answer_ask(tag="BEGIN", status="T")
        bench.answer_ask(tag="SELECT 0", status="T")
        bench.target(complete("DELETE 5"), ready("T"))
        bench.sent()
        bench.answer_ask((b"public.orders", b"0", b"0", b"5"), status="T")
        if moment == "release":
            assert bench.target(target_error("57014", "canceled"), ready("E"))[-1] == ("Z", b"E")
            return
        assert bench.target(target_error("57014", "canceled"), ready("E")) == []
        assert asked(bench.sent()) == "ROLLBACK"
        bench.answer_ask(tag="ROLLBACK")
        assert codes(bench.seen()) == "EZ"
