"""Bind: the target plans the statement then, and may run its functions. What must be approved or measured is bound for its Execute alone."""

from __future__ import annotations

import pytest

from sidegate.approval.backend import Phase, Verdict
from sidegate.policy.config import ApprovalConfig, RuleAction, RuleConfig, StatementMatch
from sidegate.policy.reason import Reason
from sidegate.postgres.effects import CloseSession, Hold
from sidegate.postgres.messages import frame
from sidegate.postgres.stories import COUNTERS
from sidegate.postgres.withheld import MAX_WITHHELD
from tests.support.session import (
    BIND_COMPLETE,
    FLUSH,
    NO_DATA,
    NOW,
    PARSE_COMPLETE,
    SYNC,
    Bench,
    asked,
    bind,
    codes,
    complete,
    describe,
    error_of,
    execute,
    parse,
    policy,
    query,
    ready,
    target_error,
)

APPROVAL = ApprovalConfig(approver_groups=("dba",))
HELD = RuleConfig("held", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("Delete",)), approval=APPROVAL)
MEASURED = RuleConfig(
    "measured", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("Delete",), rows_more_than=100), approval=APPROVAL
)
LIMITED = RuleConfig("limited", RuleAction.DENY, StatementMatch(kinds=("Delete",), rows_more_than=100))
NO_DDL = RuleConfig("no-ddl", RuleAction.DENY, StatementMatch(kinds=("DDL",)))
DELETE = parse("delete from orders where a = $1")
VALUE = b"what-is-bound"


def approved() -> Verdict:
    return Verdict(Phase.APPROVED, "ar-1", ("dana",), "", NOW, NOW + 3600)


def holds(bench: Bench) -> list[Hold]:
    return [action for action in bench.actions if isinstance(action, Hold)]


def begin(bench: Bench) -> None:
    bench.client(query("begin"))
    bench.target(complete("BEGIN"), ready("T"))


def assert_not_bound(sent: list[tuple[str, bytes]]) -> None:
    assert not any(VALUE in body for _, body in sent)
    assert all(b"sidegate:" in body for code, body in sent if code == "B")


class TestAlone:
    @pytest.mark.parametrize("status", ["I", "T"])
    @pytest.mark.parametrize(
        ("rule", "reason"),
        [(HELD, Reason.APPROVAL_REQUIRED), (MEASURED, Reason.IMPACT_NOT_MEASURABLE), (LIMITED, Reason.IMPACT_NOT_MEASURABLE)],
    )
    def test_a_bind_without_its_execute_is_refused(self, rule: RuleConfig, reason: Reason, status: str) -> None:
        bench = Bench(policy([rule]))
        if status == "T":
            begin(bench)
        sent = bench.client(DELETE, bind("", "", VALUE), describe(), SYNC)
        assert codes(sent) == "PBS"
        assert_not_bound(sent)
        seen = bench.target(PARSE_COMPLETE, target_error("26000"), ready("E" if status == "T" else "I"))
        assert codes(seen) == "1EZ"
        error = error_of(seen)
        assert (error["C"], error["S"]) == ("42501", "ERROR")
        assert reason in error["D"]
        assert "Execute" in error["H"]
        assert not holds(bench)
        assert bench.client(query("select 1")) == [("Q", b"select 1\0")]

    @pytest.mark.parametrize(
        "behind",
        [
            FLUSH,
            query("select 1"),
            frame(b"F", b"\0\0\x03\xe8\0\0\0\0\0\0"),
            execute("other"),
            parse("select 1", "o") + bind("o", "o") + execute("o"),
            DELETE + bind("", "", VALUE) + execute(),
            parse("drop table orders", "d"),
            parse("select 1", "o") + bind("o", "d"),
            bind("other", "", VALUE) + execute(),
        ],
        ids=["flush", "query", "function-call", "unknown", "other", "again", "denied", "unknown-statement", "two-portals"],
    )
    def test_whatever_comes_instead_of_its_execute(self, behind: bytes) -> None:
        bench = Bench(policy([HELD, NO_DDL]))
        sent = bench.client(DELETE, bind("", "", VALUE), behind, parse("select 2"), bind(), execute(), SYNC)
        assert codes(sent) == "PBS"
        assert_not_bound(sent)
        assert codes(bench.target(PARSE_COMPLETE, target_error("26000"), ready())) == "1EZ"
        assert not holds(bench)
        assert codes(bench.client(parse("select 3"), bind(), execute(), SYNC)) == "PBES"

    def test_behind_other_statements_of_a_pipeline(self) -> None:
        bench = Bench(policy([HELD]))
        sent = bench.client(
            parse("update t set a = 1"),
            bind(),
            execute(),
            parse("delete from orders where a = $1", "d"),
            bind("p", "d", VALUE),
            SYNC,
        )
        assert codes(sent) == "PBEPBS"
        assert_not_bound([sent[4]])

    def test_a_transaction_of_the_gates_own_fails_with_it(self) -> None:
        """In the client's pipeline both belong to one transaction, so what was measured before is undone."""
        bench = Bench(policy([MEASURED]))
        bench.client(parse("delete from orders"), bind(), execute(), DELETE, bind("", "", VALUE), SYNC)
        bench.answer_ask(tag="BEGIN", status="T")
        bench.answer_ask(tag="SELECT 0", status="T")
        bench.target(PARSE_COMPLETE, BIND_COMPLETE, complete("DELETE 5"), ready("T"))
        assert asked(bench.sent()) == COUNTERS
        sent = bench.answer_ask((b"public.orders", b"0", b"0", b"5"), status="T")
        assert codes(sent[:3]) == "PBS"
        assert_not_bound(sent[:3])
        assert asked(sent[3:]) == "ROLLBACK"
        assert codes(bench.target(PARSE_COMPLETE, target_error("26000"), ready("E"))) == "C1E"
        assert codes(bench.answer_ask(tag="ROLLBACK")) == "S"
        assert codes(bench.target(ready())) == "Z"


class TestTogether:
    @pytest.mark.parametrize("status", ["I", "T"])
    def test_with_its_execute_nothing_reaches_the_target_before_the_approval(self, status: str) -> None:
        bench = Bench(policy([HELD]))
        if status == "T":
            begin(bench)
        assert bench.client(DELETE, bind("", "", VALUE), describe(), execute(), SYNC) == []
        bench.take(bench.session.hold_decided(approved(), NOW))
        assert codes(bench.sent()) == "PBDES"
        seen = bench.target(PARSE_COMPLETE, BIND_COMPLETE, NO_DATA, complete("DELETE 1"), ready(status))
        assert codes(seen) == "12nCZ"

    @pytest.mark.parametrize("status", ["I", "T"])
    @pytest.mark.parametrize("end", [SYNC, FLUSH])
    def test_drivers_may_prepare_and_describe_what_will_be_held(self, end: bytes, status: str) -> None:
        bench = Bench(policy([HELD]))
        if status == "T":
            begin(bench)
        assert codes(bench.client(parse("delete from orders where a = $1", "s"), describe("S", "s"), end))[:2] == "PD"
        seen = bench.target(PARSE_COMPLETE, frame(b"t", b"\0\0"), NO_DATA, *([ready(status)] if end == SYNC else []))
        assert codes(seen)[:3] == "1tn"
        assert bench.client(bind("", "s", VALUE), describe(), execute(), SYNC) == []
        bench.take(bench.session.hold_decided(approved(), NOW))
        assert codes(bench.sent()) == "BDES"

    @pytest.mark.parametrize("phase", [Phase.DENIED, Phase.EXPIRED, Phase.WITHDRAWN])
    def test_what_is_not_approved_is_not_bound(self, phase: Phase) -> None:
        bench = Bench(policy([HELD]))
        bench.client(DELETE, bind("", "", VALUE), describe(), execute(), SYNC)
        bench.take(bench.session.hold_decided(Verdict(phase, "ar-1", ("dana",), "no", NOW, NOW), NOW))
        sent = bench.sent()
        assert codes(sent) == "PBS"
        assert_not_bound(sent)
        assert codes(bench.target(PARSE_COMPLETE, target_error("26000"), ready())) == "1EZ"

    def test_an_earlier_error_of_the_pipeline_voids_what_was_kept_back(self) -> None:
        bench = Bench(policy([HELD]))
        bench.client(
            parse("select 1/0"), bind(), execute(), FLUSH, parse("delete from orders where a = $1", "s"), bind("p", "s", VALUE)
        )
        bench.target(PARSE_COMPLETE, BIND_COMPLETE, target_error("22012"))
        assert codes(bench.client(execute("p"), SYNC)) == "S"
        bench.target(ready())
        assert not bench.session.prepared.find("s")
        assert not bench.session.portals.find("p")
        assert not holds(bench)
        assert bench.session.room.in_flight == 0

    def test_what_is_kept_back_is_bounded(self) -> None:
        bench = Bench(policy([HELD]))
        assert bench.client(DELETE, *[describe("S")] * (MAX_WITHHELD - 1)) == []
        assert codes(bench.client(describe("S"))) == "P" + "D" * (MAX_WITHHELD - 1)


class TestUnknown:
    def test_the_unnamed_statement_has_the_targets_own_words(self) -> None:
        bench = Bench()
        bench.client(bind(), SYNC)
        error = error_of(bench.target(target_error("26000"), ready()))
        assert (error["C"], error["M"]) == ("26000", "unnamed prepared statement does not exist")

    def test_a_bind_of_a_statement_nobody_prepared_is_refused_as_the_target_would(self) -> None:
        """A function may have prepared it there."""
        bench = Bench()
        sent = bench.client(bind("", "made-by-a-function", VALUE), describe(), execute(), SYNC)
        assert codes(sent) == "BDES"
        assert_not_bound(sent)
        error = error_of(bench.target(target_error("26000"), ready()))
        assert error["C"] == "26000"
        assert "made-by-a-function" in error["M"]
        assert not any(isinstance(action, CloseSession) for action in bench.actions)
