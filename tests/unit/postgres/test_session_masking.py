"""One session: what is masked, and what comes of clients and targets that don't keep to the protocol."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from sidegate.approval.backend import Phase, Verdict
from sidegate.policy.config import ApprovalConfig, ColumnMatch, RuleAction, RuleConfig, StatementMatch
from sidegate.policy.decision import ENGINE_SEAL, Permit
from sidegate.policy.reason import Reason
from sidegate.policy.source import Builtin
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.effects import CloseSession, Hold
from sidegate.postgres.messages import frame
from sidegate.postgres.session_facts import SessionLimits
from tests.support.session import (
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


class TestMasked:
    def test_a_column_is_masked_by_its_origin_whatever_its_alias(self) -> None:
        bench = Bench(policy([SSN]), catalog=CATALOG)
        bench.client(query("select ssn as harmless from users"))
        seen = bench.target(row_description(("harmless", 20000, 2)), data_row(b"123-45-6789"), complete("SELECT 1"), ready())
        assert codes(seen) == "TDCZ"
        assert b"[masked]" in seen[1][1]
        assert b"123-45-6789" not in b"".join(body for _, body in seen)

    @pytest.mark.parametrize("chunk", [None, 1, 2, 5, 11])
    def test_masking_does_not_depend_on_how_bytes_are_cut(self, chunk: int | None) -> None:
        bench = Bench(policy([SSN, CARDS]), catalog=CATALOG, chunk=chunk)
        bench.client(query("select ssn, id from users"))
        rows = [data_row(b"123-45-6789", CARD), data_row(None, b"x"), data_row(b"1", b"y" * 100)]
        seen = bench.target(row_description(("ssn", 20000, 2), ("id", 20000, 1)), *rows, complete("SELECT 3"), ready())
        assert codes(seen) == "TDDDCZ"
        everything = b"".join(body for _, body in seen)
        assert b"123-45" not in everything
        assert CARD not in everything
        assert b"y" * 100 in everything

    def test_a_column_of_a_view_over_a_masked_one_is_masked(self) -> None:
        bench = Bench(policy([SSN]), catalog=CATALOG)
        bench.client(query("select number from people"))
        seen = bench.target(row_description(("number", 20002, 2)), data_row(b"123-45-6789"), complete("SELECT 1"), ready())
        assert b"123-45-6789" not in seen[1][1]

    def test_a_masked_column_may_not_steer(self) -> None:
        bench = Bench(policy([SSN]), catalog=CATALOG)
        assert bench.client(query("select id from users where ssn like '1%'")) == [("Q", b"sidegate denied\0")]
        assert Reason.MASKED_COLUMN_STEERS in error_of(bench.target(target_error(), ready()))["D"]

    def test_a_column_that_derives_from_a_masked_one_may_not_steer_either(self) -> None:
        bench = Bench(policy([SSN]), catalog=CATALOG)
        assert bench.client(query("select id from people where number like '1%'")) == [("Q", b"sidegate denied\0")]

    def test_an_unknown_table_is_looked_up_and_then_masked(self) -> None:
        bench = Bench(policy([SSN]), catalog=CATALOG)
        bench.client(query("select a from fresh"))
        seen = bench.target(row_description(("a", 30000, 1)), data_row(b"123-45-6789"), complete("SELECT 1"), ready())
        assert b"123-45-6789" not in seen[1][1]

    def test_an_execute_without_a_describe_is_described_by_the_gate(self) -> None:
        bench = Bench(policy([SSN]), catalog=CATALOG)
        sent = bench.client(parse("select ssn from users"), bind(), execute(), SYNC)
        assert codes(sent) == "PBDES"
        seen = bench.target(
            PARSE_COMPLETE,
            BIND_COMPLETE,
            row_description(("ssn", 20000, 2)),
            data_row(b"123-45-6789"),
            complete("SELECT 1"),
            ready(),
        )
        assert codes(seen) == "12DCZ"
        assert b"123-45-6789" not in seen[2][1]

    def test_a_function_called_as_a_column_is_not_taken_for_one(self) -> None:
        bench = Bench(policy([SSN]), catalog=CATALOG)
        bench.client(query("select u.leak from users u"))
        seen = bench.target(row_description("leak"), data_row(b"123-45-6789"), complete("SELECT 1"), ready())
        assert b"123-45-6789" not in seen[1][1]

    def test_a_copied_table_is_described_by_the_columns_that_copy_takes(self) -> None:
        bench = Bench(policy([SSN]), catalog=CATALOG)
        assert "pg_attribute" in asked(bench.client(query("copy users to stdout")))
        assert asked(bench.answer_ask((b"id",), (b"ssn",))) == 'SELECT id, ssn FROM "users"'

    def test_notices_errors_and_notifications_are_masked(self) -> None:
        bench = Bench(policy([CARDS]))
        bench.client(query("select 1"))
        notice = frame(b"N", b"SNOTICE\0C00000\0Mcard " + CARD + b"\0\0")
        note = frame(b"A", b"\0\0\0\1ch\0card " + CARD + b"\0")
        seen = bench.target(notice, note, target_error("22000", "bad " + CARD.decode()), ready())
        assert codes(seen) == "NAEZ"
        assert CARD not in b"".join(body for _, body in seen)

    def test_statements_in_recordings_and_requests_are_masked(self) -> None:
        bench = Bench(policy([CARDS, HOLD_DDL]))
        text = f"comment on table users is 'card {CARD.decode()}'"
        bench.client(query(text))
        assert CARD.decode() not in held(bench).request.statement
        assert all(CARD not in entry.payload for entry in bench.records)
        assert CARD not in msgspec.json.encode(bench.audits)


class TestMisbehaviour:
    @pytest.mark.parametrize("code", [b"p", b"Z", b"R", b"\0", b"\xff", b"W", b"K"])
    def test_an_unknown_message_ends_the_session_and_reaches_nobody(self, code: bytes) -> None:
        bench = Bench()
        assert bench.client(frame(code, b"x\0")) == []
        assert "08P01" not in error_of(bench.seen())["S"]
        assert isinstance(bench.actions[-1], CloseSession)

    @pytest.mark.parametrize("length", [0, 1, 3, 0x40000001, 0xFFFFFFFF])
    def test_a_length_that_cannot_be_ends_the_session(self, length: int) -> None:
        bench = Bench()
        assert bench.client(b"Q" + length.to_bytes(4, "big") + b"select 1\0") == []
        assert isinstance(bench.actions[-1], CloseSession)

    def test_an_oversized_statement_is_refused_and_the_session_goes_on(self) -> None:
        bench = Bench(limits=replace(SessionLimits(), max_statement_bytes=100), chunk=13)
        assert bench.client(query("select '" + "x" * 1000 + "'")) == [("Q", b"sidegate denied\0")]
        assert error_of(bench.target(target_error(), ready()))["C"] == "54000"
        assert bench.client(query("select 1")) == [("Q", b"select 1\0")]

    @pytest.mark.parametrize(
        "message",
        [
            frame(b"R", b"\0\0\0\0"),
            frame(b"K", b"\0" * 8),
            frame(b"W", b"\0\0\0"),
            frame(b"V", b"\xff\xff\xff\xff"),
            frame(b"x", b""),
            frame(b"v", b""),
        ],
    )
    def test_a_message_the_target_may_not_send_ends_the_session(self, message: bytes) -> None:
        bench = Bench()
        bench.client(query("select 1"))
        assert codes(bench.target(message)) == "E"
        assert isinstance(bench.actions[-1], CloseSession)

    @pytest.mark.parametrize(
        "message", [data_row(b"x"), complete("SELECT 1"), ready(), PARSE_COMPLETE, row_description("a"), NO_DATA]
    )
    def test_an_answer_to_nothing_ends_the_session(self, message: bytes) -> None:
        bench = Bench()
        assert codes(bench.target(message)) == "E"
        assert isinstance(bench.actions[-1], CloseSession)

    @pytest.mark.parametrize(("name", "value"), [("client_encoding", "SJIS"), ("standard_conforming_strings", "off")])
    def test_a_setting_that_changes_how_text_is_read_ends_the_session(self, name: str, value: str) -> None:
        bench = Bench()
        bench.client(query("select 1"))
        assert codes(bench.target(frame(b"S", name.encode() + b"\0" + value.encode() + b"\0"))) == "E"
        assert isinstance(bench.actions[-1], CloseSession)

    def test_a_permit_cannot_be_forged(self) -> None:
        with pytest.raises(PermissionError):
            Permit(object(), "everything", Builtin("me"), "r")
        assert Permit(ENGINE_SEAL, "this", Builtin("engine"), "r").covers == "this"

    def test_copy_data_outside_of_a_copy_is_dropped_as_the_target_would(self) -> None:
        bench = Bench()
        assert bench.client(frame(b"d", b"row\n"), frame(b"c")) == []
        assert bench.client(query("select 1")) == [("Q", b"select 1\0")]

    @pytest.mark.parametrize("chunk", [None, 1, 4])
    def test_copy_in_passes_and_its_early_sync_is_swallowed(self, chunk: int | None) -> None:
        bench = Bench(chunk=chunk)
        assert codes(bench.client(parse("copy users from stdin"), bind(), execute(), SYNC)) == "PBE"
        assert codes(bench.target(PARSE_COMPLETE, BIND_COMPLETE, frame(b"G", b"\0\0\1\0\0"))) == "12G"
        sent = bench.client(frame(b"d", b"1\n"), SYNC, frame(b"d", b"2\n"), frame(b"c"), SYNC)
        assert b"".join(body for code, body in sent if code == "d") == b"1\n2\n"
        assert codes(sent)[-2:] == "cS"
        assert codes(sent).count("S") == 1
        assert codes(bench.target(complete("COPY 2"), ready())) == "CZ"
