"""What one session may keep by name, and when a cursor is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sidegate.policy.config import ApprovalConfig, RuleAction, RuleConfig, StatementMatch
from sidegate.postgres.effects import CloseSession, Hold
from sidegate.postgres.messages import frame
from sidegate.postgres.session_facts import SessionLimits
from tests.support.session import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    FLUSH,
    PARSE_COMPLETE,
    SYNC,
    Bench,
    bind,
    codes,
    complete,
    error_of,
    execute,
    parse,
    policy,
    query,
    ready,
    target_error,
)

SMALL = replace(SessionLimits(), max_name_bytes=40_000)
HOLD_READS = RuleConfig(
    "hold-reads", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("Read",)), approval=ApprovalConfig(approver_groups=("dba",))
)


def in_transaction(bench: Bench) -> None:
    bench.client(query("begin"))
    bench.target(complete("BEGIN"), ready("T"))


def by_sql(bench: Bench, number: int) -> None:
    bench.client(query(f"prepare p{number} as select '{'x' * 2000}'"))
    bench.target(complete("PREPARE"), ready())


def by_parse(bench: Bench, number: int) -> None:
    bench.client(parse(f"select '{'x' * 2000}'", f"p{number}"), SYNC)
    bench.target(PARSE_COMPLETE, ready())


def by_execute(bench: Bench, number: int) -> None:
    bench.client(parse(f"prepare p{number} as select '{'x' * 2000}'"), bind(), execute(), SYNC)
    bench.target(PARSE_COMPLETE, BIND_COMPLETE, complete("PREPARE"), ready())


def by_declare(bench: Bench, number: int) -> None:
    bench.client(query(f"declare c{number} cursor for select '{'x' * 2000}'"))
    bench.target(complete("DECLARE CURSOR"), ready("T"))


def by_bind(bench: Bench, number: int) -> None:
    bench.client(parse("select $1"), bind(f"p{number}", "", b"x" * 2000), SYNC)
    bench.target(PARSE_COMPLETE, BIND_COMPLETE, ready("T"))


def is_open(bench: Bench) -> bool:
    return not any(isinstance(action, CloseSession) for action in bench.actions)


def count_until_the_end(bench: Bench, step: Callable[[Bench, int], None]) -> int:
    for number in range(200):
        step(bench, number)
        if not is_open(bench):
            return number
    return 200


class TestRoom:
    @pytest.mark.parametrize("step", [by_sql, by_parse, by_execute, by_declare, by_bind])
    def test_names_are_bounded_by_what_they_keep(self, step: Callable[[Bench, int], None]) -> None:
        bench = Bench(limits=SMALL)
        if step in (by_declare, by_bind):
            in_transaction(bench)
        assert 4 < count_until_the_end(bench, step) < 20
        assert bench.session.room.kept < 50_000

    def test_the_end_says_why_and_what_to_do(self) -> None:
        bench = Bench(limits=SMALL)
        for number in range(200):
            bench.client(query(f"prepare p{number} as select '{'x' * 2000}'"))
            if not is_open(bench):
                break
            bench.target(complete("PREPARE"), ready())
        error = error_of(bench.seen())
        assert (error["S"], error["C"]) == ("FATAL", "54000")
        assert "40000 bytes" in error["M"]
        assert "DEALLOCATE" in error["H"]

    @pytest.mark.parametrize("step", [by_sql, by_parse])
    def test_what_is_closed_makes_room(self, step: Callable[[Bench, int], None]) -> None:
        bench = Bench(limits=SMALL)
        for number in range(200):
            step(bench, number)
            if step is by_sql:
                bench.client(query(f"deallocate p{number}"))
                bench.target(complete("DEALLOCATE"), ready())
            else:
                bench.client(frame(b"C", f"Sp{number}\0".encode()), SYNC)
                bench.target(CLOSE_COMPLETE, ready())
        assert is_open(bench)
        assert bench.session.room.kept == 0

    def test_large_parameters_of_the_unnamed_portal_are_no_hoard(self) -> None:
        bench = Bench(limits=SMALL)
        in_transaction(bench)
        for _ in range(10):
            bench.client(parse("select $1"), bind("", "", b"x" * 100_000), execute(), SYNC)
            bench.target(PARSE_COMPLETE, BIND_COMPLETE, complete("SELECT 0"), ready("T"))
        assert is_open(bench)

    def test_a_pipeline_that_runs_ahead_is_paced_and_not_ended(self) -> None:
        bench = Bench(limits=SMALL)
        bench.client(parse("select $1", "s"), SYNC)
        bench.target(PARSE_COMPLETE, ready())
        sent: list[tuple[str, bytes]] = []
        answered = 0
        for _ in range(200):
            if not bench.session.wants_client_bytes:
                assert sent[-1][0] == "H"
                answers = [BIND_COMPLETE, complete("SELECT 0")] * (codes(sent).count("B") - answered)
                answered = codes(sent).count("B")
                bench.target(*answers)
                assert bench.session.wants_client_bytes
            sent += bench.client(bind("", "s", b"x" * 500), execute())
            assert bench.session.room.in_flight < 15_000
        assert is_open(bench)
        assert codes(sent).count("B") == 200
        assert 0 < codes(sent).count("H") < 50

    def test_what_is_withheld_for_its_execute_stops_nobody(self) -> None:
        bench = Bench(policy([HOLD_READS]), limits=SMALL)
        assert bench.client(parse(f"select '{'x' * 10_000}'"), bind()) == []
        assert bench.session.room.in_flight > bench.session.room.crowd
        assert bench.session.wants_client_bytes
        assert codes(bench.client(FLUSH)) == "PBH"  # the flush for the crowd


class TestCursors:
    def test_a_cursor_that_outlives_its_transaction_stays_until_it_is_closed(self) -> None:
        def declare(bench: Bench, number: int) -> None:
            bench.client(query(f"declare c{number} cursor with hold for select '{'x' * 2000}'"))
            bench.target(complete("DECLARE CURSOR"), ready())

        def and_close(bench: Bench, number: int) -> None:
            declare(bench, number)
            bench.client(query(f"close c{number}"))
            bench.target(complete("CLOSE CURSOR"), ready())

        assert count_until_the_end(Bench(limits=SMALL), declare) < 20
        assert count_until_the_end(Bench(limits=SMALL), and_close) == 200

    def test_other_cursors_go_with_their_transaction(self) -> None:
        bench = Bench(limits=SMALL)
        for number in range(100):
            in_transaction(bench)
            by_declare(bench, number)
            bench.client(query("rollback" if number % 2 else "commit"))
            bench.target(complete("COMMIT"), ready())
        assert is_open(bench)
        assert bench.session.room.kept == 0

    def test_so_do_those_of_a_string_of_statements(self) -> None:
        bench = Bench(limits=SMALL)
        for _ in range(100):
            bench.client(query(f"begin; declare c cursor for select '{'x' * 2000}'; fetch 1 from c; commit"))
            bench.target(complete("BEGIN"), complete("DECLARE CURSOR"), complete("FETCH 0"), complete("COMMIT"), ready())
        assert is_open(bench)
        assert bench.session.room.kept == 0

    def test_a_cursor_declared_behind_the_end_of_a_transaction_is_known(self) -> None:
        bench = Bench()
        in_transaction(bench)
        bench.client(query("commit"), query("begin"), query("declare c cursor for select 1"))
        bench.target(complete("COMMIT"), ready())
        assert bench.session.cursors.find("c")
        bench.target(complete("BEGIN"), ready("T"), complete("DECLARE CURSOR"), ready("T"))
        assert bench.client(query("fetch 1 from c")) == [("Q", b"fetch 1 from c\0")]

    def test_close_all_closes_all(self) -> None:
        bench = Bench()
        for number in range(3):
            bench.client(query(f"declare c{number} cursor with hold for select 1"))
            bench.target(complete("DECLARE CURSOR"), ready())
        bench.client(query("close all"))
        assert len(bench.session.cursors) == 3  # until the target says so
        bench.target(complete("CLOSE CURSOR ALL"), ready())
        assert len(bench.session.cursors) == 0

    @pytest.mark.parametrize("text", ["close c", "select 1; close c", "close c; select 1"])
    def test_a_cursor_of_which_nobody_knows_whether_it_was_closed_stays(self, text: str) -> None:
        bench = Bench()
        bench.client(query("declare c cursor with hold for select 1"))
        bench.target(complete("DECLARE CURSOR"), ready())
        bench.client(query(text))
        bench.target(target_error("34000"), ready())
        assert bench.session.cursors.find("c")

    def test_a_cursor_that_may_still_be_there_cannot_hide_behind_another(self) -> None:
        """The second DECLARE may fail at the target, and then FETCH reads the first cursor."""
        bench = Bench()
        bench.client(query("declare c cursor with hold for select 1"))
        bench.target(complete("DECLARE CURSOR"), ready())
        bench.client(query("close c; select 1"), query("declare c cursor with hold for select 2"))
        assert len(bench.session.cursors.find("c")) == 2

    def test_closing_a_held_cursor_asks_nobody(self) -> None:
        bench = Bench(policy([HOLD_READS]))
        assert bench.client(query("close c")) == [("Q", b"close c\0")]
        assert not [action for action in bench.actions if isinstance(action, Hold)]
