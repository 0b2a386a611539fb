"""The session core: bytes in, effects out. Every path of a statement, in every chunking where the chunking could matter."""

from __future__ import annotations

import pytest

from sidegate.approval.backend import Phase, ShownParameter, Verdict
from sidegate.policy.config import ApprovalConfig, ColumnMatch, RuleAction, RuleConfig, StatementMatch
from sidegate.policy.engine import Engine, decide_session
from sidegate.policy.reason import Reason
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.effects import CancelTarget, CloseSession, Hold, WithdrawHold
from sidegate.postgres.messages import decode_fields, frame
from tests.support.session import (
    ADA,
    BIND_COMPLETE,
    NO_DATA,
    NOW,
    PARSE_COMPLETE,
    SYNC,
    Bench,
    asked,
    bind,
    codes,
    complete,
    config_of,
    data_row,
    describe,
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
NO_DDL = RuleConfig("no-ddl", RuleAction.DENY, StatementMatch(kinds=("DDL",)), message="ask for a migration")
HOLD_DDL = RuleConfig("hold-ddl", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("DDL",)), approval=APPROVAL)
BIG_DELETES = RuleConfig(
    "big-deletes", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("Delete",), rows_more_than=100), approval=APPROVAL
)
SSN = RuleConfig("ssn", RuleAction.MASK, columns=(ColumnMatch("ssn"),))
CARDS = RuleConfig("cards", RuleAction.MASK, detectors=("payment-card",))
CARD = b"4111111111111111"

CATALOG = Catalog.decode(
    [
        (b"20000", b"public", b"users", b"r", b"1", b"id"),
        (b"20000", b"public", b"users", b"r", b"2", b"ssn"),
        (b"20001", b"public", b"orders", b"r", b"1", b"id"),
        (b"20002", b"public", b"people", b"v", b"1", b"id"),
        (b"20002", b"public", b"people", b"v", b"2", b"number"),
    ],
    [(b"20002", b" SELECT users.id, users.ssn AS number FROM public.users;")],
    [],
    1,
)


def approved(name: str = "ar-1", rows: int | None = None) -> Verdict:
    return Verdict(Phase.APPROVED, name, ("dana",), "", NOW, NOW + 3600, rows)


def held(bench: Bench) -> Hold:
    holds = [action for action in bench.actions if isinstance(action, Hold)]
    assert len(holds) == 1, bench.actions
    return holds[0]


class TestAllowed:
    @pytest.mark.parametrize("chunk", [None, 1, 3, 7])
    def test_a_query_and_its_answer_pass_byte_for_byte(self, chunk: int | None) -> None:
        bench = Bench(chunk=chunk)
        assert bench.client(query("select 1 as a")) == [("Q", b"select 1 as a\0")]
        answer = (row_description("a"), data_row(b"1"), complete("SELECT 1"), ready())
        seen = bench.target(*answer)
        assert b"".join(answer) == b"".join(frame(code.encode(), body) for code, body in seen)

    def test_records_stand_before_what_they_let_through(self) -> None:
        bench = Bench()
        effects = bench.session.from_client(query("select 1"), NOW)
        assert effects.records
        assert effects.audits
        assert effects.to_target

    def test_the_extended_protocol_passes_in_order(self) -> None:
        bench = Bench()
        assert codes(bench.client(parse("select 1"), bind(), describe(), execute(), SYNC)) == "PBDES"
        seen = bench.target(PARSE_COMPLETE, BIND_COMPLETE, row_description("a"), data_row(b"1"), complete("SELECT 1"), ready())
        assert codes(seen) == "12TDCZ"

    def test_a_large_row_streams_as_it_comes(self) -> None:
        bench = Bench()
        bench.client(query("select repeat('x', 40000000)"))
        row = data_row(b"x" * 1_000_000)
        bench.target(row_description("a"))
        passed = 0
        for at in range(0, len(row), 65536):
            effects = bench.session.from_target(row[at : at + 65536], NOW)
            passed += sum(map(len, effects.to_client))
            assert passed >= min(at + 65536, len(row)) - 5
        assert codes(bench.target(complete("SELECT 1"), ready())) == "CZ"

    def test_terminate_closes_both_sides(self) -> None:
        bench = Bench()
        assert codes(bench.client(frame(b"X"))) == "X"
        assert isinstance(bench.actions[-1], CloseSession)


class TestDenied:
    def test_the_target_is_made_to_refuse_and_the_client_reads_why(self) -> None:
        bench = Bench(policy([NO_DDL]))
        sent = bench.client(query("drop table users"))
        assert sent == [("Q", b"sidegate denied\0")]
        seen = bench.target(target_error(), ready())
        assert codes(seen) == "EZ"
        error = error_of(seen)
        assert error["C"] == "42501"
        assert error["S"] == "ERROR"
        assert "no-ddl" in error["D"]
        assert Reason.DENIED_BY_RULE in error["D"]
        assert error["H"]

    def test_nothing_of_a_denied_statement_reaches_the_target(self) -> None:
        bench = Bench(policy([NO_DDL]))
        for message in (query("drop table users"), parse("drop table users", "s")):
            for _, body in bench.client(message):
                assert b"drop" not in body

    def test_the_session_goes_on_after_a_denial(self) -> None:
        bench = Bench(policy([NO_DDL]))
        bench.client(query("drop table users"))
        bench.target(target_error(), ready())
        assert bench.client(query("select 1")) == [("Q", b"select 1\0")]

    def test_a_string_of_statements_is_denied_as_one(self) -> None:
        bench = Bench(policy([NO_DDL]))
        assert bench.client(query("select 1; drop table users; select 2")) == [("Q", b"sidegate denied\0")]

    def test_a_denied_parse_fails_under_its_own_name_and_the_rest_is_skipped(self) -> None:
        bench = Bench(policy([NO_DDL]))
        sent = bench.client(parse("drop table users", "s"), bind("", "s"), execute(), SYNC)
        assert sent[0] == ("P", b"s\0sidegate denied\0\0\0")
        seen = bench.target(target_error(), ready())
        assert codes(seen) == "EZ"
        assert "no-ddl" in error_of(seen)["D"]

    def test_an_earlier_statement_of_the_name_survives_a_denied_one(self) -> None:
        bench = Bench(policy([NO_DDL]))
        bench.client(parse("select 1", "s"), SYNC)
        bench.target(PARSE_COMPLETE, ready())
        bench.client(parse("drop table users", "s"), SYNC)
        bench.target(target_error(), ready())
        sent = bench.client(bind("", "s"), execute(), SYNC)
        assert codes(sent) == "BES"
        assert bench.session.prepared.find("s")[-1].text == "select 1"

    def test_an_unparsable_statement_is_refused_with_its_position(self) -> None:
        bench = Bench()
        assert bench.client(query("selekt 1")) == [("Q", b"sidegate denied\0")]
        error = error_of(bench.target(target_error(), ready()))
        assert error["C"] == "42601"
        assert error["P"] == "1"

    def test_a_function_call_is_refused_and_never_forwarded(self) -> None:
        bench = Bench()
        assert codes(bench.client(frame(b"F", b"\0\0\x03\xe8\0\0\0\0\0\0"))) == "Q"
        assert error_of(bench.target(target_error(), ready()))["C"] == "0A000"

    def test_a_target_that_runs_what_it_must_refuse_ends_the_session(self) -> None:
        bench = Bench(policy([NO_DDL]))
        bench.client(query("drop table users"))
        seen = bench.target(complete("DROP TABLE"), ready())
        assert error_of(seen)["S"] == "FATAL"
        assert isinstance(bench.actions[-1], CloseSession)

    def test_execute_of_a_portal_nobody_bound_is_refused(self) -> None:
        bench = Bench()
        sent = bench.client(execute("made-by-a-function"), SYNC)
        assert codes(sent) == "ES"
        assert b"made-by-a-function" not in sent[0][1]
        assert error_of(bench.target(target_error("34000"), ready()))["C"] == "34000"

    def test_execute_of_an_sql_statement_nobody_prepared_is_refused(self) -> None:
        bench = Bench()
        assert bench.client(query("execute something")) == [("Q", b"sidegate denied\0")]

    def test_a_prepared_delete_is_decided_at_execute(self) -> None:
        bench = Bench(policy([RuleConfig("no-deletes", RuleAction.DENY, StatementMatch(kinds=("Delete",)))]))
        assert bench.client(query("prepare d as delete from users")) == [("Q", b"sidegate denied\0")]

    def test_a_second_prepare_of_a_name_cannot_hide_the_first(self) -> None:
        bench = Bench(policy([BIG_DELETES]))
        bench.client(query("prepare d as delete from users"))
        bench.target(complete("PREPARE"), ready())
        bench.client(query("prepare d as select 1"))
        bench.target(target_error("42P05", "already exists"), ready())
        assert asked(bench.client(query("execute d"))) == "BEGIN"

    def test_prepare_and_execute_in_one_string_are_judged_together(self) -> None:
        bench = Bench(policy([RuleConfig("no-deletes", RuleAction.DENY, StatementMatch(kinds=("Delete",)))]))
        assert bench.client(query("prepare d as delete from users; execute d")) == [("Q", b"sidegate denied\0")]


class TestHeld:
    def test_a_held_statement_waits_and_runs_once_approved(self) -> None:
        bench = Bench(policy([HOLD_DDL]))
        assert bench.client(query("create table t (a int)")) == []
        request = held(bench).request
        assert request.statement == "create table t (a int)"
        bench.take(bench.session.hold_submitted("ar-1", NOW))
        notice = bench.seen()
        assert codes(notice) == "N"
        assert "ar-1" in decode_fields(notice[0][1])["M"]
        bench.take(bench.session.hold_decided(approved(), NOW))
        assert bench.sent() == [("Q", b"create table t (a int)\0")]

    def test_what_comes_behind_a_held_statement_waits(self) -> None:
        bench = Bench(policy([HOLD_DDL]))
        assert bench.client(query("create table t (a int)"), query("select 1")) == []
        bench.take(bench.session.hold_decided(approved(), NOW))
        assert [body for _, body in bench.sent()] == [b"create table t (a int)\0", b"select 1\0"]

    @pytest.mark.parametrize(
        ("phase", "reason"),
        [
            (Phase.DENIED, Reason.APPROVAL_DENIED),
            (Phase.EXPIRED, Reason.APPROVAL_EXPIRED),
            (Phase.WITHDRAWN, Reason.APPROVAL_WITHDRAWN),
            (Phase.PENDING, Reason.APPROVAL_UNAVAILABLE),
            (Phase.EXECUTED, Reason.APPROVAL_UNAVAILABLE),
        ],
    )
    def test_anything_but_approved_refuses(self, phase: Phase, reason: Reason) -> None:
        bench = Bench(policy([HOLD_DDL]))
        bench.client(query("create table t (a int)"))
        bench.take(bench.session.hold_decided(Verdict(phase, "ar-1", (), "because", NOW, NOW), NOW))
        assert bench.sent() == [("Q", b"sidegate denied\0")]
        error = error_of(bench.target(target_error(), ready()))
        assert reason in error["D"]
        assert "because" in error["M"]

    def test_too_many_requests_are_said_to_be_the_reason(self) -> None:
        bench = Bench(policy([HOLD_DDL]))
        bench.client(query("create table t (a int)"))
        bench.take(bench.session.hold_decided(Verdict(Phase.PENDING, "", (), "wait 9 s", NOW, NOW, is_over_quota=True), NOW))
        error = error_of(bench.target(target_error(), ready()))
        assert error["D"].startswith("reason TooManyApprovals, by ")
        assert "wait 9 s" in error["M"]
        assert "mend" not in error["H"]

    def test_a_cancel_withdraws_the_hold_and_touches_nothing(self) -> None:
        bench = Bench(policy([HOLD_DDL]))
        bench.client(query("create table t (a int)"))
        bench.take(bench.session.hold_submitted("ar-1", NOW))
        bench.seen()
        bench.take(bench.session.cancel("unix", NOW))
        assert any(isinstance(action, WithdrawHold) and action.name == "ar-1" for action in bench.actions)
        assert bench.sent() == [("Q", b"sidegate denied\0")]
        assert error_of(bench.target(target_error(), ready()))["C"] == "57014"

    def test_a_cancel_of_a_running_statement_goes_to_the_target(self) -> None:
        bench = Bench()
        bench.client(query("select pg_sleep(10)"))
        bench.take(bench.session.cancel("unix", NOW))
        assert isinstance(bench.actions[-1], CancelTarget)

    def test_nothing_of_a_held_extended_statement_reaches_the_target(self) -> None:
        bench = Bench(policy([HOLD_DDL]))
        assert bench.client(parse("create table t (a int)"), bind(), describe(), execute(), SYNC) == []
        bench.take(bench.session.hold_decided(approved(), NOW))
        assert codes(bench.sent()) == "PBDES"
        assert codes(bench.target(PARSE_COMPLETE, BIND_COMPLETE, NO_DATA, complete("CREATE TABLE"), ready())) == "12nCZ"

    def test_a_denied_extended_statement_fails_at_its_bind(self) -> None:
        bench = Bench(policy([HOLD_DDL]))
        bench.client(parse("create table t (a int)"), bind(), execute(), SYNC)
        bench.take(bench.session.hold_decided(Verdict(Phase.DENIED, "ar-1", ("dana",), "no", NOW, NOW), NOW))
        sent = bench.sent()
        assert codes(sent) == "PBS"
        assert b"sidegate:" in sent[1][1]
        seen = bench.target(PARSE_COMPLETE, target_error("26000"), ready())
        assert codes(seen) == "1EZ"
        assert error_of(seen)["C"] == "42501"

    def test_an_approval_covers_only_what_was_shown(self) -> None:
        first, second = Bench(policy([HOLD_DDL])), Bench(policy([HOLD_DDL]))
        first.client(query("create table t (a int)"))
        second.client(query("create table t (a int, b int)"))
        assert held(first).request.fingerprint != held(second).request.fingerprint

    def test_an_approval_of_an_execute_covers_what_it_runs(self) -> None:
        fingerprints = set()
        for limit in (10, 1000):
            bench = Bench(
                policy([RuleConfig("hold", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("Delete",)), approval=APPROVAL)])
            )
            bench.client(query(f"prepare d as delete from orders where id < {limit}"))
            bench.target(complete("PREPARE"), ready())
            bench.client(query("execute d"))
            request = held(bench).request
            assert request.statement == "execute d"
            assert [each.statement for each in request.runs] == [f"prepare d as delete from orders where id < {limit}"]
            fingerprints.add(held(bench).request.fingerprint)
        assert len(fingerprints) == 2

    def test_an_approver_sees_the_parameters_and_the_approval_covers_them(self) -> None:
        fingerprints = set()
        for value in (b"1", b"2", None):
            bench = Bench(
                policy([RuleConfig("hold", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("Delete",)), approval=APPROVAL)])
            )
            bench.client(parse("delete from orders where id = $1"), bind("", "", value), execute(), SYNC)
            request = held(bench).request
            assert request.statement == "delete from orders where id = $1"
            assert request.parameters == (ShownParameter(text=None if value is None else value.decode()),)
            fingerprints.add(held(bench).request.fingerprint)
        assert len(fingerprints) == 3

    def test_a_vanished_rule_lets_the_held_statement_run(self) -> None:
        bench = Bench(policy([HOLD_DDL]))
        bench.client(query("create table t (a int)"))
        bench.take(bench.session.hold_submitted("ar-1", NOW))
        fresh = config_of(policy())
        grant = decide_session(fresh, ADA, "shop", NOW)
        bench.take(bench.session.config_changed(fresh, Engine(fresh), grant, NOW))
        assert bench.sent() == [("Q", b"create table t (a int)\0")]
        assert any(isinstance(action, WithdrawHold) for action in bench.actions)

    def test_a_lost_grant_ends_the_session(self) -> None:
        bench = Bench()
        fresh = config_of()
        bench.take(bench.session.config_changed(fresh, Engine(fresh), decide_session(fresh, ADA, "shop", NOW), NOW))
        assert error_of(bench.seen())["S"] == "FATAL"
        assert isinstance(bench.actions[-1], CloseSession)


class TestMeasured:
    def run(self, bench: Bench, deleted: int) -> None:
        """A DELETE outside of a transaction, up to the second look at the counters."""
        assert asked(bench.client(query("delete from orders"))) == "BEGIN"
        assert "pg_stat_xact_user_tables" in asked(bench.answer_ask(tag="BEGIN", status="T"))
        assert bench.answer_ask(tag="SELECT 0", status="T") == [("Q", b"delete from orders\0")]
        assert bench.target(complete(f"DELETE {deleted}"), ready("T")) == []
        assert "pg_stat_xact_user_tables" in asked(bench.sent())

    def test_a_small_delete_is_kept(self) -> None:
        bench = Bench(policy([BIG_DELETES]))
        self.run(bench, 5)
        assert asked(bench.answer_ask((b"public.orders", b"0", b"0", b"5"), status="T")) == "COMMIT"
        bench.answer_ask(tag="COMMIT")
        seen = bench.seen()
        assert seen == [("C", b"DELETE 5\0"), ("Z", b"I")]

    def test_a_big_delete_is_taken_back_before_anybody_is_asked(self) -> None:
        bench = Bench(policy([BIG_DELETES]))
        self.run(bench, 5000)
        assert asked(bench.answer_ask((b"public.orders", b"0", b"0", b"5000"), status="T")) == "ROLLBACK"
        assert not bench.actions
        bench.answer_ask(tag="ROLLBACK")
        request = held(bench).request
        assert request.impact is not None
        assert request.impact.rows_affected == 5000

    def test_rows_of_a_cascade_count(self) -> None:
        bench = Bench(policy([BIG_DELETES]))
        self.run(bench, 1)
        rows = ((b"public.orders", b"0", b"0", b"1"), (b"public.items", b"0", b"0", b"400"))
        assert asked(bench.answer_ask(*rows, status="T")) == "ROLLBACK"

    def test_small_deletes_add_up_over_the_session(self) -> None:
        bench = Bench(policy([BIG_DELETES]))
        self.run(bench, 60)
        bench.answer_ask((b"public.orders", b"0", b"0", b"60"), status="T")
        bench.answer_ask(tag="COMMIT")
        bench.seen()
        self.run(bench, 60)
        assert asked(bench.answer_ask((b"public.orders", b"0", b"0", b"60"), status="T")) == "ROLLBACK"

    def test_after_approval_it_runs_again_and_may_not_exceed_it(self) -> None:
        bench = Bench(policy([BIG_DELETES]))
        self.run(bench, 5000)
        bench.answer_ask((b"public.orders", b"0", b"0", b"5000"), status="T")
        bench.answer_ask(tag="ROLLBACK")
        bench.take(bench.session.hold_decided(approved(rows=5000), NOW))
        assert asked(bench.sent()) == "BEGIN"
        bench.answer_ask(tag="BEGIN", status="T")
        bench.answer_ask(tag="SELECT 0", status="T")
        bench.target(complete("DELETE 6000"), ready("T"))
        bench.sent()
        assert asked(bench.answer_ask((b"public.orders", b"0", b"0", b"6000"), status="T")) == "ROLLBACK"
        assert bench.answer_ask(tag="ROLLBACK") == [("Q", b"sidegate denied\0")]
        assert Reason.IMPACT_EXCEEDS_APPROVAL in error_of(bench.target(target_error(), ready()))["D"]

    def test_an_approved_delete_is_kept(self) -> None:
        bench = Bench(policy([BIG_DELETES]))
        self.run(bench, 5000)
        bench.answer_ask((b"public.orders", b"0", b"0", b"5000"), status="T")
        bench.answer_ask(tag="ROLLBACK")
        bench.take(bench.session.hold_decided(approved(rows=5000), NOW))
        bench.sent()
        bench.answer_ask(tag="BEGIN", status="T")
        bench.answer_ask(tag="SELECT 0", status="T")
        bench.target(complete("DELETE 5000"), ready("T"))
        bench.sent()
        assert asked(bench.answer_ask((b"public.orders", b"0", b"0", b"5000"), status="T")) == "COMMIT"
        bench.answer_ask(tag="COMMIT")
        assert bench.seen() == [("C", b"DELETE 5000\0"), ("Z", b"I")]

    def test_an_error_of_the_measured_statement_reaches_the_client_once(self) -> None:
        bench = Bench(policy([BIG_DELETES]))
        bench.client(query("delete from orders"))
        bench.answer_ask(tag="BEGIN", status="T")
        bench.answer_ask(tag="SELECT 0", status="T")
        bench.target(target_error("42P01", "no such table"), ready("E"))
        assert asked(bench.sent()) == "ROLLBACK"
        bench.answer_ask(tag="ROLLBACK")
        seen = bench.seen()
        assert codes(seen) == "EZ"
        assert error_of(seen)["C"] == "42P01"

    def test_in_a_transaction_it_hides_behind_a_savepoint(self) -> None:
        bench = Bench(policy([BIG_DELETES]))
        bench.client(query("begin"))
        bench.target(complete("BEGIN"), ready("T"))
        assert asked(bench.client(query("delete from orders"))).startswith("SAVEPOINT")

    def test_a_pipelined_begin_is_waited_for(self) -> None:
        bench = Bench(policy([BIG_DELETES]))
        assert bench.client(query("begin"), query("delete from orders")) == [("Q", b"begin\0")]
        bench.target(complete("BEGIN"), ready("T"))
        assert asked(bench.sent()).startswith("SAVEPOINT")

    def test_a_delete_among_other_statements_is_refused(self) -> None:
        bench = Bench(policy([BIG_DELETES]))
        assert bench.client(query("delete from orders; select 1")) == [("Q", b"sidegate denied\0")]

    def test_a_measured_execute_is_committed_at_the_clients_sync(self) -> None:
        bench = Bench(policy([BIG_DELETES]))
        assert asked(bench.client(parse("delete from orders"), bind(), execute(), SYNC)) == "BEGIN"
        bench.answer_ask(tag="BEGIN", status="T")
        sent = bench.answer_ask(tag="SELECT 0", status="T")
        assert codes(sent) == "PBES"
        seen = bench.target(PARSE_COMPLETE, BIND_COMPLETE, complete("DELETE 5"), ready("T"))
        assert codes(seen) == "12"
        bench.sent()
        assert asked(bench.answer_ask((b"public.orders", b"0", b"0", b"5"), status="T")) == "COMMIT"
        assert codes(bench.seen()) == "C"
        assert codes(bench.answer_ask(tag="COMMIT")) == "S"
        assert codes(bench.target(ready())) == "Z"
