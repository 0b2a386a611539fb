"""What an attacker, a slow network or an odd driver once got past the session core, or made it do. One test for each."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from sidegate.approval.backend import Phase, Verdict
from sidegate.policy.config import ApprovalConfig, ColumnMatch, RuleAction, RuleConfig, StatementMatch
from sidegate.policy.engine import Engine, decide_session
from sidegate.policy.reason import Reason
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.effects import CloseSession, Hold
from sidegate.postgres.messages import frame
from sidegate.record.frame import RecordKind
from tests.support.session import (
    ADA,
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

APPROVAL = ApprovalConfig(approver_groups=("dba",))
HOLD_DDL = RuleConfig("hold-ddl", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("DDL",)), approval=APPROVAL)
HOLD_DELETES = RuleConfig("hold-deletes", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("Delete",)), approval=APPROVAL)
BIG_CHANGES = RuleConfig(
    "big-changes",
    RuleAction.REQUIRE_APPROVAL,
    StatementMatch(kinds=("Delete", "Insert", "Truncate"), rows_more_than=100),
    approval=APPROVAL,
)
NOT_IN_PROD = RuleConfig("not-in-prod", RuleAction.DENY, StatementMatch(kinds=("Delete",), schemas=("prod",)))
SSN = RuleConfig("ssn", RuleAction.MASK, columns=(ColumnMatch("ssn"),))
CATALOG = Catalog.decode(
    [(b"20000", b"public", b"users", b"r", b"1", b"id"), (b"20000", b"public", b"users", b"r", b"2", b"ssn")], [], [], 1
)
SECRET = b"123-45-6789"


def approved(rows: int | None = None, name: str = "ar-1") -> Verdict:
    return Verdict(Phase.APPROVED, name, ("dana",), "", NOW, NOW + 3600, rows)


def holds(bench: Bench) -> list[Hold]:
    return [action for action in bench.actions if isinstance(action, Hold)]


def is_open(bench: Bench) -> bool:
    return not any(isinstance(action, CloseSession) for action in bench.actions)


class TestNames:
    def test_a_statement_that_is_confirmed_keeps_the_one_that_follows_it(self) -> None:
        """The target answers Parse only at Flush or Sync: the first of two can be confirmed while the second is in place already."""
        bench = Bench(policy([HOLD_DELETES]))
        bench.client(parse("select 1"), FLUSH, parse("delete from orders"))
        bench.target(PARSE_COMPLETE)
        assert codes(bench.client(bind(), execute(), SYNC)) == ""
        assert len(holds(bench)) == 1

    def test_a_portal_that_is_confirmed_keeps_the_one_that_follows_it(self) -> None:
        bench = Bench(policy([HOLD_DELETES]))
        bench.client(parse("select 1", "a"), parse("delete from orders", "b"), SYNC)
        bench.target(PARSE_COMPLETE, PARSE_COMPLETE, ready())
        bench.client(query("begin"))
        bench.target(complete("BEGIN"), ready("T"))
        bench.client(bind("", "a"), FLUSH, bind("", "b"))
        bench.target(BIND_COMPLETE)
        assert codes(bench.client(execute(), SYNC)) == ""
        assert len(holds(bench)) == 1

    @pytest.mark.parametrize("message", [parse("select 1", "x" * 64), bind("x" * 64), bind("", "x" * 64), execute("x" * 64)])
    def test_a_name_that_the_target_would_cut_is_refused(self, message: bytes) -> None:
        """The target compares 63 bytes: two names that differ behind them are one name there."""
        bench = Bench()
        assert bench.client(message) == []
        assert "63" in error_of(bench.seen())["M"]

    def test_a_name_of_63_bytes_is_let_through(self) -> None:
        bench = Bench()
        assert codes(bench.client(parse("select 1", "x" * 63))) == "P"

    def test_a_cursor_of_a_string_is_described_by_its_own_name(self) -> None:
        bench = Bench(policy([SSN]), catalog=CATALOG)
        bench.client(query("begin"))
        bench.target(complete("BEGIN"), ready("T"))
        bench.client(query("declare a cursor for select id from users; declare b cursor for select ssn from users"))
        bench.target(complete("DECLARE CURSOR"), complete("DECLARE CURSOR"), ready("T"))
        assert bench.client(execute("b"), SYNC)[0] == ("D", b"Pb\0")

    def test_portals_bound_behind_the_end_of_a_transaction_are_known(self) -> None:
        bench = Bench()
        bench.client(query("select 1"), parse("select 2"), bind("p"))
        bench.target(row_description("a"), data_row(b"1"), complete("SELECT 1"), ready())
        assert codes(bench.client(execute("p"), SYNC)) == "ES"
        assert bench.session.portals.find("p")

    def test_a_statement_prepared_in_sql_and_run_by_the_protocol_is_decided(self) -> None:
        """PREPARE itself runs nothing and is let through; a Bind of its name runs what it carries."""
        for rule in (HOLD_DELETES, BIG_CHANGES):
            bench = Bench(policy([rule]))
            assert bench.client(query("prepare d as delete from orders")) != []
            bench.target(complete("PREPARE"), ready())
            sent = bench.client(bind("", "d"), execute(), SYNC)
            assert holds(bench) or asked(sent) == "BEGIN"

    def test_a_prepare_that_may_fail_leaves_the_older_statement_in_question(self) -> None:
        bench = Bench(policy([HOLD_DELETES]))
        bench.client(parse("delete from orders", "d"), SYNC)
        bench.target(PARSE_COMPLETE, ready())
        bench.client(query("prepare d as select 1"), bind("", "d"), execute(), SYNC)
        bench.target(target_error("42P05"), ready())
        assert holds(bench)

    @pytest.mark.parametrize("gone", [[frame(b"C", b"S*\0"), SYNC], [query('deallocate "*"')]])
    def test_a_statement_named_star_is_not_every_statement(self, gone: list[bytes]) -> None:
        """What the target keeps must stay known: another statement of the name could hide it."""
        bench = Bench(policy([HOLD_DELETES]))
        bench.client(parse("delete from orders", "d"), SYNC)
        bench.target(PARSE_COMPLETE, ready())
        if bench.client(*gone)[0][0] == "C":
            bench.target(CLOSE_COMPLETE, ready())
        else:
            assert Reason.STATEMENT_UNKNOWN in error_of(bench.target(target_error(), ready()))["D"]
        bench.client(parse("select 1", "d"), SYNC, bind("", "d"), execute(), SYNC)
        bench.target(target_error("42P05"), ready())
        assert holds(bench)[0].request.statement.startswith("delete from orders")

    def test_deallocating_all_leaves_the_unnamed_statement(self) -> None:
        bench = Bench()
        bench.client(parse("select 1"), parse("deallocate all", "d"), bind("", "d"), execute(), SYNC)
        bench.target(PARSE_COMPLETE, PARSE_COMPLETE, BIND_COMPLETE, complete("DEALLOCATE ALL"), ready())
        assert bench.session.prepared.find("")
        assert not bench.session.prepared.find("d")


class TestSearchPath:
    def test_a_string_that_changes_the_path_is_read_without_one(self) -> None:
        """The target resolves each statement of a string when it gets to it."""
        for text in (
            "set search_path = prod; delete from orders",
            "select set_config('search_path', 'prod', false); delete from orders",
        ):
            bench = Bench(policy([NOT_IN_PROD]))
            assert bench.client(query(text)) == [("Q", b"sidegate denied\0")]

    def test_a_statement_prepared_under_another_path_is_read_again_at_bind(self) -> None:
        """The target analyses a prepared statement again when the path is another than at Parse."""
        bench = Bench(policy([NOT_IN_PROD]))
        bench.client(parse("delete from orders", "d"), SYNC)
        bench.target(PARSE_COMPLETE, ready())
        bench.client(query("set search_path = prod"))
        bench.target(complete("SET"), ready())
        assert "current_schemas" in asked(bench.client(bind("", "d"), execute(), SYNC))
        sent = bench.answer_ask((b"{prod}",))
        assert b"sidegate" in sent[0][1]
        assert Reason.DENIED_BY_RULE in error_of(bench.target(target_error("26000"), ready()))["D"]

    def test_a_path_changed_in_the_same_pipeline_counts_at_bind(self) -> None:
        bench = Bench(policy([NOT_IN_PROD]))
        sent = bench.client(
            parse("set search_path = prod", "s"),
            parse("delete from orders", "d"),
            bind("", "s"),
            execute(),
            bind("", "d"),
            execute(),
            SYNC,
        )
        assert codes(sent) == "PPBEBES"
        assert b"sidegate" in sent[4][1]

    def test_a_statement_prepared_in_sql_is_read_again_at_execute(self) -> None:
        bench = Bench(policy([NOT_IN_PROD]))
        bench.client(query("prepare d as delete from orders"))
        bench.target(complete("PREPARE"), ready())
        bench.client(query("set search_path = prod"))
        bench.target(complete("SET"), ready())
        bench.client(query("execute d"))
        assert bench.answer_ask((b"{prod}",)) == [("Q", b"sidegate denied\0")]


class TestApprovals:
    def test_an_approval_of_execute_covers_what_was_prepared(self) -> None:
        requests = []
        for inner in ("delete from tmp", "delete from orders"):
            bench = Bench(policy([HOLD_DELETES]))
            bench.client(query(f"prepare d as {inner}"))
            bench.target(complete("PREPARE"), ready())
            bench.client(query("execute d"))
            requests.append(holds(bench)[0].request)
            assert [each.statement for each in requests[-1].runs] == [f"prepare d as {inner}"]
        assert requests[0].fingerprint != requests[1].fingerprint

    def test_an_approval_covers_how_parameters_are_read(self) -> None:
        """Four bytes are another number in the binary format, and another value as another type."""

        def asked_for(formats: bytes, oids: bytes) -> str:
            bench = Bench(policy([HOLD_DELETES]))
            text = b"delete from orders where id = $1"
            values = struct.pack(">H", 1) + struct.pack(">I", 4) + b"1234" + b"\0\0"
            bench.client(frame(b"P", b"\0" + text + b"\0" + oids), frame(b"B", b"\0\0" + formats + values), execute(), SYNC)
            return holds(bench)[0].request.fingerprint

        as_text, as_binary = b"\0\0", b"\0\1\0\1"
        untyped, as_int8 = b"\0\0", b"\0\1\0\0\0\x14"
        assert len({asked_for(as_text, untyped), asked_for(as_binary, untyped), asked_for(as_text, as_int8)}) == 3

    def test_what_is_approved_is_what_runs_when_a_name_was_refused_by_the_target(self) -> None:
        """The second Parse of the name fails there, so the first statement runs: it is what the approver has to see."""
        bench = Bench(policy([HOLD_DDL]))
        bench.client(parse("drop table users", "s"), SYNC)
        bench.target(PARSE_COMPLETE, ready())
        bench.client(parse("comment on table users is 'x'", "s"), SYNC, bind("", "s"), execute(), SYNC)
        bench.target(target_error("42P05"), ready())
        assert holds(bench)[0].request.statement == "drop table users"

    def test_a_verdict_for_another_request_changes_nothing(self) -> None:
        bench = Bench(policy([HOLD_DDL]))
        bench.client(query("drop table users"))
        bench.take(bench.session.hold_submitted("ar-2", NOW))
        bench.take(bench.session.hold_decided(approved(name="ar-1"), NOW))
        assert bench.sent() == []
        bench.take(bench.session.hold_decided(approved(name="ar-2"), NOW))
        assert bench.sent() == [("Q", b"drop table users\0")]

    def test_a_verdict_after_the_end_reaches_no_target(self) -> None:
        bench = Bench(policy([HOLD_DDL]))
        bench.client(query("drop table users"))
        bench.take(bench.session.end(Reason.SESSION_ENDED, "the token is over", NOW))
        bench.take(bench.session.hold_decided(approved(), NOW))
        fresh = config_of(policy())
        bench.take(bench.session.config_changed(fresh, Engine(fresh), decide_session(fresh, ADA, "shop", NOW), NOW))
        assert bench.sent() == []

    def test_a_limit_raised_meanwhile_is_measured_against_what_is_there_now(self) -> None:
        bench = Bench(policy([BIG_CHANGES]))
        bench.client(query("delete from orders"))
        bench.answer_ask(tag="BEGIN", status="T")
        bench.answer_ask(tag="SELECT 0", status="T")
        bench.target(complete("DELETE 150"), ready("T"))
        bench.sent()
        bench.answer_ask((b"public.orders", b"0", b"0", b"150"), status="T")
        bench.answer_ask(tag="ROLLBACK")
        assert len(holds(bench)) == 1
        match = StatementMatch(kinds=("Delete",), rows_more_than=200)
        raised = RuleConfig("big-changes", RuleAction.REQUIRE_APPROVAL, match, approval=APPROVAL)
        fresh = config_of(policy([raised]))
        bench.take(bench.session.config_changed(fresh, Engine(fresh), decide_session(fresh, ADA, "shop", NOW), NOW))
        assert asked(bench.sent()) == "BEGIN"

    def test_a_held_copy_out_is_masked_once_approved(self) -> None:
        hold_copies = RuleConfig(
            "hold-copies", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("CopyOut",)), approval=APPROVAL
        )
        bench = Bench(policy([SSN, hold_copies]), catalog=CATALOG)
        bench.client(query("copy users to stdout"))
        bench.take(bench.session.hold_decided(approved(), NOW))
        assert codes(bench.sent()) == "PBECCS"
        assert codes(bench.answer_ask((b"id",), (b"ssn",))) == "PDCCS"
        described = row_description(("id", 20000, 1), ("ssn", 20000, 2))
        bench.target(PARSE_COMPLETE, frame(b"t", b"\0\0"), described, CLOSE_COMPLETE, CLOSE_COMPLETE, ready())
        assert bench.sent() == [("Q", b"copy users to stdout\0")]
        out = bench.target(
            frame(b"H", b"\0\0\2\0\0\0\0"), frame(b"d", b"1\t" + SECRET + b"\n"), frame(b"c"), complete("COPY 1"), ready()
        )
        assert codes(out) in ("HdcCZ", "HddcCZ")
        assert SECRET not in b"".join(body for _, body in out)


class TestCopyIn:
    def test_a_row_cut_when_the_copy_fails_is_sent_to_its_end(self) -> None:
        """The target reads the rest of a message that it began: what would come in its place could be statements nobody decided on."""
        bench = Bench()
        bench.client(query("copy t from stdin"))
        bench.target(frame(b"G", b"\0\0\1\0\0"))
        row = frame(b"d", b"x" * 100)
        effects = bench.session.from_client(frame(b"d", b"bad\n") + row[:20], NOW)
        sent = b"".join(data for _, data in effects.to_target)
        bench.target(target_error("22P02"), ready())
        effects = bench.session.from_client(row[20:] + query("select 1"), NOW)
        sent += b"".join(data for _, data in effects.to_target)
        assert sent == frame(b"d", b"bad\n") + row + query("select 1")

    def test_a_row_that_begins_behind_the_failure_is_dropped_to_its_end(self) -> None:
        bench = Bench()
        bench.client(query("copy t from stdin"))
        bench.target(frame(b"G", b"\0\0\1\0\0"), target_error("22P02"), ready())
        row = frame(b"d", b"x" * 100)
        for at in range(0, len(row), 30):
            assert bench.session.from_client(row[at : at + 30], NOW).to_target == []
        assert bench.client(query("select 1")) == [("Q", b"select 1\0")]

    def test_a_copy_that_may_not_come_is_not_waited_for_in_vain(self) -> None:
        """The name may be an older statement's by then: should it be no COPY, its end has to be asked for."""
        bench = Bench()
        bench.client(parse("select 1", "s"), SYNC)
        bench.target(PARSE_COMPLETE, ready())
        assert codes(bench.client(parse("copy t from stdin", "s"), SYNC, bind("", "s"), execute(), SYNC)) == "PSBEH"
        bench.target(target_error("42P05"), ready(), BIND_COMPLETE, data_row(b"1"), complete("SELECT 1"))
        assert codes(bench.sent()) == "S"

    def test_two_copies_in_one_string_are_both_announced(self) -> None:
        bench = Bench()
        bench.client(query("copy t from stdin; copy u from stdin"))
        bench.target(frame(b"G", b"\0\0\1\0\0"))
        assert codes(bench.client(frame(b"d", b"1\n"), frame(b"c"), frame(b"d", b"2\n"), frame(b"c"), query("select 1"))) == "dc"
        assert codes(bench.target(complete("COPY 1"), frame(b"G", b"\0\0\1\0\0"))) == "CG"
        assert codes(bench.sent()) == "dcQ"
        assert is_open(bench)

    def test_a_copy_is_awaited_although_an_earlier_query_ends(self) -> None:
        bench = Bench()
        bench.client(query("select 1"), query("copy t from stdin"), frame(b"d", b"1\n"), frame(b"c"))
        bench.target(row_description("a"), data_row(b"1"), complete("SELECT 1"), ready())
        assert codes(bench.target(frame(b"G", b"\0\0\1\0\0"))) == "G"
        assert codes(bench.sent()) == "dc"


class TestRecords:
    def test_what_sql_executes_is_recorded_with_its_text(self) -> None:
        bench = Bench()
        bench.client(parse("delete from orders", "d"), SYNC)
        bench.target(PARSE_COMPLETE, ready())
        bench.client(query("execute d"))
        assert any(b"delete from orders" in entry.payload for entry in bench.records)

    def test_every_statement_that_a_name_may_be_is_recorded(self) -> None:
        bench = Bench()
        bench.client(parse("delete from orders", "d"), SYNC)
        bench.target(PARSE_COMPLETE, ready())
        bench.client(parse("select 1", "d"), SYNC, bind("", "d"), execute(), SYNC)
        texts = b"".join(entry.payload for entry in bench.records if entry.kind is RecordKind.CLIENT_STATEMENT)
        assert b"select 1" in texts
        assert b"delete from orders" in texts


class TestErrorsInPipelines:
    def test_messages_behind_an_error_are_void_up_to_the_sync(self) -> None:
        """The error can be here before the client has sent the rest: the target skips that rest without a word."""
        bench = Bench()
        bench.client(parse("select 1/0"), bind(), execute(), FLUSH)
        bench.target(PARSE_COMPLETE, BIND_COMPLETE, target_error("22012"))
        assert codes(bench.client(parse("select 2"), bind(), execute(), query("select 3"), SYNC))[-1:] == "S"
        assert codes(bench.target(ready())) == "12EZ"[3:]
        assert is_open(bench)
        assert bench.client(query("select 1")) == [("Q", b"select 1\0")]

    @pytest.mark.parametrize("phase", [Phase.APPROVED, Phase.DENIED])
    def test_a_hold_behind_an_error_ends_without_a_word(self, phase: Phase) -> None:
        bench = Bench(policy([HOLD_DDL]))
        bench.client(parse("select 1/0"), bind(), execute(), parse("drop table users"), bind(), execute(), SYNC)
        bench.target(PARSE_COMPLETE, BIND_COMPLETE, target_error("22012"))
        bench.take(bench.session.hold_decided(replace(approved(), phase=phase), NOW))
        assert codes(bench.sent())[-1:] == "S"
        assert codes(bench.target(ready())) == "Z"
        assert is_open(bench)

    def test_a_transaction_of_the_gates_own_ends_behind_an_error_that_came_before_the_sync(self) -> None:
        bench = Bench(policy([BIG_CHANGES]))
        bench.client(parse("delete from orders"), bind(), execute())
        bench.answer_ask(tag="BEGIN", status="T")
        bench.answer_ask(tag="SELECT 0", status="T")
        bench.target(PARSE_COMPLETE, BIND_COMPLETE, complete("DELETE 5"), ready("T"))
        bench.answer_ask((b"public.orders", b"0", b"0", b"5"), status="T")
        bench.client(parse("select 1/0"), bind(), FLUSH)
        assert codes(bench.target(PARSE_COMPLETE, target_error("22012")))[-1:] == "E"
        sent = bench.client(execute(), SYNC)
        assert codes(sent)[:2] == "SP"
        assert asked(sent[1:]) == "ROLLBACK"
        bench.target(ready("E"))
        assert codes(bench.answer_ask(tag="ROLLBACK")) == "S"
        assert codes(bench.target(ready())) == "Z"
        assert is_open(bench)


class TestEnds:
    def test_garbage_behind_a_held_statement_ends_the_session_and_raises_nothing(self) -> None:
        bench = Bench(policy([HOLD_DDL]))
        bench.client(query("drop table users"), frame(b"Q", b"no end"))
        bench.take(bench.session.hold_decided(approved(), NOW))
        assert not is_open(bench)

    def test_a_large_message_is_read_on_although_it_waits(self) -> None:
        bench = Bench()
        bench.client(b"Q" + (8_000_000).to_bytes(4, "big") + b"x" * 4_000_000)
        assert bench.session.wants_client_bytes

    def test_bytes_behind_a_hold_are_bounded(self) -> None:
        bench = Bench(policy([HOLD_DDL]))
        bench.client(query("drop table users"), b"Q" + (8_000_000).to_bytes(4, "big") + b"x" * 4_000_000)
        assert not bench.session.wants_client_bytes

    def test_a_function_call_stays_behind_what_was_kept_back_for_a_hold(self) -> None:
        bench = Bench(policy([HOLD_DDL]))
        assert codes(bench.client(parse("drop table users"), frame(b"F", b"\0\0\x03\xe8\0\0\0\0\0\0"))) == "PQ"


class TestNamesNobodySet:
    def test_preparing_a_fetch_is_no_error_and_running_it_is_the_targets_own(self) -> None:
        bench = Bench()
        assert codes(bench.client(parse("fetch 1 from nowhere"), SYNC)) == "PS"
        assert codes(bench.target(PARSE_COMPLETE, ready())) == "1Z"
        sent = bench.client(bind(), execute(), SYNC)
        assert codes(sent) == "BES"
        assert b"sidegate:" in sent[1][1]
        assert error_of(bench.target(BIND_COMPLETE, target_error("34000"), ready()))["C"] == "34000"
