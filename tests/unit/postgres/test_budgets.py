"""One session and its budgets: what counts, what is cut, what is told, and that client, gate and target stay in step."""

from __future__ import annotations

import msgspec
import pytest

from sidegate.approval.backend import Phase, Verdict
from sidegate.policy.config import ApprovalConfig, BudgetConfig, PolicyConfig, PolicyMode, RuleAction, RuleConfig, StatementMatch
from sidegate.policy.engine import Engine, SessionGrant, decide_session
from sidegate.policy.reason import Reason
from sidegate.postgres.effects import CancelTarget, Hold
from sidegate.postgres.messages import frame
from sidegate.postgres.spending import HELD_NEXT_TIME
from tests.support.session import (
    ADA,
    BIND_COMPLETE,
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
    error_of,
    execute,
    parse,
    policy,
    query,
    ready,
    row_description,
    target_error,
)

DBA = ApprovalConfig(approver_groups=("dba",))
TWO_ROWS = RuleConfig("two-rows", RuleAction.DENY, budget=BudgetConfig(rows=2), message="ask for an extract")
TWO_STATEMENTS = RuleConfig("two-statements", RuleAction.DENY, budget=BudgetConfig(statements=2))
HELD_ROWS = RuleConfig("held-rows", RuleAction.REQUIRE_APPROVAL, budget=BudgetConfig(rows=2), approval=DBA)
CARDS = RuleConfig("cards", RuleAction.MASK, detectors=("payment-card",))
TWO_VALUES = RuleConfig("two-values", RuleAction.DENY, budget=BudgetConfig(masked_values=2))
DELETES = RuleConfig("deletes", RuleAction.DENY, StatementMatch(kinds=("Delete",), rows_more_than=100))
CARD = b"4111111111111111"


def rows(count: int) -> tuple[bytes, ...]:
    return (row_description("a"), *(data_row(b"x") for _ in range(count)))


def cancels(bench: Bench) -> int:
    return sum(isinstance(action, CancelTarget) for action in bench.actions)


def refused(bench: Bench, text: str) -> str:
    """A Query that doesn't reach the target: why."""
    assert bench.client(query(text)) == [("Q", b"sidegate denied\0")]
    return error_of(bench.target(target_error(), ready()))["M"]


class TestCut:
    def test_the_error_comes_in_place_of_the_row_and_names_rule_reason_and_way_forward(self) -> None:
        bench = Bench(policy([TWO_ROWS]))
        bench.client(query("select a from t"))
        seen = bench.target(*rows(3))
        assert codes(seen) == "TDDE"
        error = error_of(seen)
        assert (error["C"], error["H"]) == ("42501", "ask for an extract")
        assert (
            "the session has used up a budget: all of 2 rows were returned in this session, and this result has more"
            in error["M"]
        )
        assert "reason BudgetExhausted, by shop/p#two-rows" in error["D"]
        assert cancels(bench) == 1

    def test_nothing_more_of_the_statement_reaches_the_client_and_its_transaction_fails(self) -> None:
        bench = Bench(policy([TWO_ROWS]))
        bench.client(query("begin"))
        bench.target(complete("BEGIN"), ready("T"))
        bench.client(query("select a from t; select b from t"))
        assert codes(bench.target(*rows(9), complete("SELECT 9"), *rows(9), complete("SELECT 9"), ready("T"))) == "TDDE"
        assert bench.sent() == [("Q", b"sidegate denied\0")]  # the cancel came too late
        assert bench.target(target_error(), ready("E")) == [("Z", b"E")]

    def test_what_comes_next_waits_until_the_cancel_can_not_hit_it(self) -> None:
        bench = Bench(policy([TWO_ROWS]))
        bench.client(query("select a from t"))
        bench.target(*rows(3), target_error("57014"), ready())
        assert bench.client(query("show server_encoding")) == []
        bench.take(bench.session.target_cancelled(NOW))
        assert bench.sent() == [("Q", b"show server_encoding\0")]

    def test_in_the_extended_protocol_the_target_is_made_to_fail_before_the_sync(self) -> None:
        bench = Bench(policy([TWO_ROWS]))
        sent = bench.client(parse("select a from t"), bind(), execute(), parse("delete from t"), bind(), execute(), SYNC)
        assert codes(sent) == "PBEH", "what comes behind waits for the answer"
        assert codes(bench.target(PARSE_COMPLETE, BIND_COMPLETE, *rows(3)[1:], complete("SELECT 3"))) == "12DDE"
        bench.take(bench.session.target_cancelled(NOW))
        sent = bench.sent()
        assert codes(sent) == "BS"
        assert b"sidegate:" in sent[0][1]
        assert bench.target(target_error("26000"), ready()) == [("Z", b"I")]

    def test_after_an_error_of_the_target_nothing_stands_before_the_sync(self) -> None:
        bench = Bench(policy([TWO_ROWS]))
        bench.client(parse("select a from t"), bind(), execute(), SYNC)
        bench.target(PARSE_COMPLETE, BIND_COMPLETE, *rows(3)[1:], target_error("57014"))
        bench.take(bench.session.target_cancelled(NOW))
        assert codes(bench.sent()) == "S"
        assert bench.target(ready()) == [("Z", b"I")]

    def test_copy_data_that_the_target_waits_for_is_refused_to_it(self) -> None:
        bench = Bench(policy([TWO_ROWS]))
        bench.client(query("select a from t; copy t from stdin"))
        bench.target(*rows(3), complete("SELECT 3"), frame(b"G", b"\0\0\0"))
        assert codes(bench.sent()) == "f"
        assert bench.target(target_error("57014"), ready()) == [("Z", b"I")]

    def test_it_is_decided_recorded_and_audited_as_a_denial_with_the_rows_that_went_out(self) -> None:
        bench = Bench(policy([TWO_ROWS]))
        bench.client(query("select a from t"))
        bench.target(*rows(3), complete("SELECT 3"), ready())
        records = b"".join(record.payload for record in bench.records)
        assert b'"reason":"BudgetExhausted"' in records
        assert b'"rows":2' in records
        assert b"refused by sidegate" in records

    @pytest.mark.parametrize("payload", [b"\xff\xff", b"1\td\0\0\0\6\xff\xff"])
    def test_only_a_whole_message_is_the_end_of_a_binary_copy(self, payload: bytes) -> None:
        bench = Bench(policy([TWO_ROWS]))
        bench.client(query("copy t to stdout (format binary)"))
        copied = [frame(b"d", b"1\n"), frame(b"d", b"2\n"), frame(b"d", payload)]
        seen = bench.target(frame(b"H", b"\1\0\0"), *copied, frame(b"c"), complete("COPY 2"), ready())
        assert codes(seen) == ("HdddcCZ" if payload == b"\xff\xff" else "HddEZ")


class TestCounted:
    def test_statements_are_counted_as_they_run_each_of_a_string_and_not_the_refused(self) -> None:
        bench = Bench(policy([TWO_STATEMENTS]))
        assert "0 of 2 statements have run in this session, and 3 more" in refused(bench, "select 1; select 2; select 3")
        bench.client(query("select 1"))
        bench.target(*rows(1), complete("SELECT 1"), ready())
        bench.client(parse("select 2"), bind(), execute(), SYNC)
        bench.target(PARSE_COMPLETE, BIND_COMPLETE, complete("SELECT 0"), ready())
        assert "2 of 2 statements" in refused(bench, "select 3")
        assert codes(bench.client(query("rollback"))) == "Q"

    def test_rows_of_a_statement_that_fails_were_seen(self) -> None:
        bench = Bench(policy([TWO_ROWS]))
        bench.client(query("select 1 / a from t"))
        bench.target(*rows(2), target_error("22012"), ready())
        assert "2 of 2 rows" in refused(bench, "select 1")

    def test_masked_values_in_notices_and_errors_count(self) -> None:
        bench = Bench(policy([CARDS, TWO_VALUES]))
        bench.client(query("select a from t"))
        notice = frame(b"N", b"SNOTICE\0VNOTICE\0C00000\0M" + CARD + b"\0\0")
        assert codes(bench.target(notice, target_error("22P02", f"no number: {CARD.decode()}"), ready())) == "NEZ"
        assert "2 of 2 masked values" in refused(bench, "select 1")

    def test_a_notice_that_would_go_over_is_left_out(self) -> None:
        bench = Bench(policy([CARDS, TWO_VALUES]))
        bench.client(query("select a from t"))
        notice = frame(b"N", b"SNOTICE\0VNOTICE\0C00000\0M" + CARD + b" " + CARD + b" " + CARD + b"\0\0")
        assert codes(bench.target(notice, complete("SELECT 0"), ready())) == "CZ"
        assert "2 of 2 masked values" in refused(bench, "select 1")

    def test_a_new_revision_of_the_rule_goes_on_with_what_was_used_up(self) -> None:
        bench = Bench(policy([TWO_ROWS]))
        bench.client(query("select a from t"))
        bench.target(*rows(2), complete("SELECT 2"), ready())
        for limit, is_refused in ((2, True), (3, False)):
            larger = RuleConfig("two-rows", RuleAction.DENY, budget=BudgetConfig(rows=limit), message=f"{limit}")
            config = config_of(policy([larger]))
            grant = decide_session(config, ADA, "shop", NOW)
            assert isinstance(grant, SessionGrant)
            bench.take(bench.session.config_changed(config, Engine(config), grant, NOW))
            if is_refused:
                assert "2 of 2 rows" in refused(bench, "select 1")
        assert bench.client(query("select 1")) == [("Q", b"select 1\0")]
        assert codes(bench.target(*rows(2), complete("SELECT 2"), ready())) == "TDEZ"

    def test_a_policy_that_observes_cuts_nothing(self) -> None:
        trial = observing(policy([TWO_ROWS]))
        bench = Bench(policy(), trial)
        bench.client(query("select a from t"))
        assert codes(bench.target(*rows(5), complete("SELECT 5"), ready())) == "TDDDDDCZ"
        bench.client(query("select 1"))
        assert b'"observed"' in b"".join(record.payload for record in bench.records)

    def test_without_budgets_nothing_is_counted_and_nothing_waits(self) -> None:
        bench = Bench(policy([CARDS]))
        assert codes(bench.client(parse("select 1"), bind(), execute(), execute(), SYNC)) == "PBDEDES"
        assert bench.session.judge.spending.spent == {}


def observing(enforced: PolicyConfig) -> PolicyConfig:
    return msgspec.structs.replace(enforced, name="trial", mode=PolicyMode.OBSERVE, grants=())


class TestMeasured:
    """A statement whose change is limited is kept back whole, so a budget refuses it whole."""

    def run(self, bench: Bench, returned: int, *, fails: bool = False) -> None:
        assert asked(bench.client(query("delete from t returning a"))) == "BEGIN"
        bench.answer_ask(tag="BEGIN", status="T")
        assert codes(bench.answer_ask(tag="SELECT 0", status="T")) == "Q"
        ends = (target_error("23503"), ready("E")) if fails else (complete(f"DELETE {returned}"), ready("T"))
        assert bench.target(*rows(returned), *ends) == []

    def test_what_returns_more_than_is_left_is_taken_back(self) -> None:
        bench = Bench(policy([DELETES, TWO_ROWS]))
        self.run(bench, 3)
        assert "pg_stat_xact_user_tables" in asked(bench.sent())
        assert asked(bench.answer_ask((b"public.t", b"0", b"0", b"3"), status="T")) == "ROLLBACK"
        assert bench.answer_ask(tag="ROLLBACK") == [("Q", b"sidegate denied\0")]
        assert Reason.BUDGET_EXHAUSTED in error_of(bench.target(target_error(), ready()))["D"]

    def test_what_is_within_passes_and_counts(self) -> None:
        bench = Bench(policy([DELETES, TWO_ROWS]))
        self.run(bench, 2)
        bench.sent()
        assert asked(bench.answer_ask((b"public.t", b"0", b"0", b"2"), status="T")) == "COMMIT"
        bench.answer_ask(tag="COMMIT")
        assert codes(bench.seen()) == "TDDCZ"
        assert "2 of 2 rows" in refused(bench, "select 1")

    def test_rows_before_an_error_pass_only_within_the_budget(self) -> None:
        bench = Bench(policy([DELETES, TWO_ROWS]))
        self.run(bench, 3, fails=True)
        assert asked(bench.sent()) == "ROLLBACK"
        bench.answer_ask(tag="ROLLBACK")
        assert codes(bench.seen()) == "TEZ"


class TestHeld:
    def test_an_approval_gives_the_budget_anew_and_no_other_approval_does(self) -> None:
        bench = Bench(policy([HELD_ROWS]))
        bench.client(query("select a from t"))
        seen = bench.target(*rows(3), complete("SELECT 3"), ready())
        assert codes(seen) == "TDDEZ"
        assert error_of(seen)["H"] == HELD_NEXT_TIME
        bench.take(bench.session.target_cancelled(NOW))
        assert bench.client(query("select a from t")) == []
        (hold,) = (action for action in bench.actions if isinstance(action, Hold))
        assert hold.request.reason == "BudgetExhausted"
        assert "an approval gives it 2 rows anew by shop/p#held-rows" in hold.request.detail
        bench.take(bench.session.hold_decided(Verdict(Phase.APPROVED, "ar-1", ("dana",), "", NOW, NOW + 60, None), NOW))
        assert bench.sent() == [("Q", b"select a from t\0")]
        assert codes(bench.target(*rows(1), complete("SELECT 1"), ready())) == "TDCZ"
        bench.client(query("select b from t"))
        assert codes(bench.target(*rows(2), complete("SELECT 2"), ready())) == "TDEZ"

    def test_the_rest_of_a_result_is_refused_and_not_held(self) -> None:
        bench = Bench(policy([HELD_ROWS]))
        bench.client(query("begin"))
        bench.target(complete("BEGIN"), ready("T"))
        bench.client(parse("select a from t"), bind("p"), execute("p", 2), execute("p", 2), SYNC)
        bench.target(PARSE_COMPLETE, BIND_COMPLETE, *rows(2)[1:], frame(b"s"))
        assert not any(isinstance(action, Hold) for action in bench.actions)
        seen = bench.target(target_error("34000"), ready("E"))
        assert error_of(seen)["H"] == HELD_NEXT_TIME
