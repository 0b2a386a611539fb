"""Pseudonyms through a whole session: shown, asked with, and never passed or shown as what they stand for where they must not be."""

from __future__ import annotations

import struct

import pytest

from sidegate.mask.pseudonym import Pseudonyms
from sidegate.policy.config import ApprovalConfig, ColumnMatch, RuleAction, RuleConfig, StatementMatch
from sidegate.policy.decision import MaskStrategy
from sidegate.policy.engine import Engine, SessionGrant, decide_session
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.messages import Bind, decode_bind, encode_bound, frame
from tests.support.session import (
    ADA,
    BIND_COMPLETE,
    NOW,
    PARSE_COMPLETE,
    SYNC,
    Bench,
    Message,
    bind,
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

SSN = b"583-68-2629"
PEOPLE, PAYMENTS, MINE = 20000, 20001, 20002
PSEUDONYMS = Pseudonyms(b"k" * 32)  # the bench's key
PSEUDONYM = PSEUDONYMS.shown(SSN) or b""
IDS = RuleConfig("ids", RuleAction.MASK, columns=(ColumnMatch("ssn"),), strategy=MaskStrategy.PSEUDONYM)
WITH = f"select id from people where ssn = '{PSEUDONYM.decode()}'"
WITH_PARAMETER = "select id, ssn from people where ssn = $1"


def relations(*schemas: str) -> Catalog:
    rows = [
        tuple(str(value).encode() for value in (oid, schema, name, "r", number, column))
        for schema in schemas
        for oid, name in ((PEOPLE, "people"), (PAYMENTS, "payments"))
        for number, column in enumerate(("id", "ssn", "name"), 1)
    ]
    return Catalog.decode(rows, [], [], 1)


def bench(*rules: RuleConfig) -> Bench:
    return Bench(policy(rules or (IDS,)), catalog=relations("public"))


def values_of(message: Message) -> tuple[bytes | None, ...]:
    assert message[0] == "B"
    return decode_bind(message[1]).parameters


def was_refused(made: Bench, reason: str) -> bool:
    return reason in error_of(made.target(target_error(), ready()))["D"]


def test_a_value_is_shown_as_its_pseudonym_and_asked_for_by_it() -> None:
    made = bench()
    made.client(query("select id, ssn from people"))
    seen = made.target(row_description(("id", PEOPLE, 1), ("ssn", PEOPLE, 2)), data_row(b"1", SSN), complete("SELECT 1"), ready())
    shown = seen[1][1][-len(SSN) :]
    assert shown == PSEUDONYM
    sent = made.client(query(f"select id from payments where ssn = '{shown.decode()}'"))
    assert sent == [("Q", b"select id from payments where ssn = '583-68-2629'\0")]


def test_what_is_recorded_and_told_is_what_the_client_sent() -> None:
    made = bench()
    made.client(query(WITH))
    made.target(row_description(("id", PEOPLE, 1)), complete("SELECT 0"), ready())
    written = repr(made.records) + repr(made.audits)
    assert PSEUDONYM.decode() in written
    assert SSN.decode() not in written


def test_a_guess_is_not_asked_as_it_is() -> None:
    sent = bench().client(query("select id from people where ssn = '583-68-2629'"))
    assert [code for code, _ in sent] == ["Q"]
    assert SSN not in sent[0][1]
    sent = bench().client(query("select id from people where ssn = 'F'"))
    assert sent == [("Q", b"select id from people where ssn =  NULL \0")]


@pytest.mark.parametrize(
    "text",
    [
        f"select id from people where ssn = '{PSEUDONYM.decode()}' and ssn like '5%'",
        f"select id from people where ssn > '{PSEUDONYM.decode()}'",
        f"select current_query() from people where ssn = '{PSEUDONYM.decode()}'",
        f"explain select id from people where ssn = '{PSEUDONYM.decode()}'",
        f"select 1; select id from people where ssn = '{PSEUDONYM.decode()}'",
        f"delete from people where ssn = '{PSEUDONYM.decode()}'",
        "select id from people where lower(ssn) = 'a'",
        "select ssn, count(*) from people group by ssn",
        "select p.id from people p join payments y using (ssn)",
        "select p.id from people p join payments y on p.ssn = y.ssn",
        "select id, ssn from people order by ssn",
    ],
)
def test_other_uses_are_refused(text: str) -> None:
    made = bench()
    made.client(query(text))
    assert was_refused(made, "MaskedColumnSteers")


def test_a_parameter_is_translated_in_bind() -> None:
    made = bench()
    sent = made.client(parse(WITH_PARAMETER), bind("", "", PSEUDONYM), execute(), SYNC)
    assert sent[0] == ("P", b"\0" + WITH_PARAMETER.encode() + b"\0\0\0")
    assert values_of(sent[1]) == (SSN,)
    seen = made.target(
        PARSE_COMPLETE,
        BIND_COMPLETE,
        row_description(("id", PEOPLE, 1), ("ssn", PEOPLE, 2)),
        data_row(b"1", SSN),
        complete("SELECT 1"),
        ready(),
    )
    assert SSN not in b"".join(body for _, body in seen)
    assert PSEUDONYM in b"".join(body for _, body in seen)


def test_a_named_statement_is_bound_again_and_again() -> None:
    made = bench()
    made.client(parse(WITH_PARAMETER, "by_ssn"), SYNC)
    made.target(PARSE_COMPLETE, ready())
    for value in (SSN, b"Ada Lovelace"):
        sent = made.client(bind("", "by_ssn", PSEUDONYMS.shown(value)), execute(), SYNC)
        assert values_of(sent[0]) == (value,)
        made.target(BIND_COMPLETE, row_description(("id", PEOPLE, 1), ("ssn", PEOPLE, 2)), complete("SELECT 0"), ready())


def test_constants_of_a_parse_are_translated_and_its_types_stay() -> None:
    made = bench()
    text = WITH + " and id = $1"
    sent = made.client(frame(b"P", b"q\0" + text.encode() + b"\0" + struct.pack(">HI", 1, 23)))
    assert sent == [("P", b"q\0select id from people where ssn = '583-68-2629' and id = $1\0" + struct.pack(">HI", 1, 23))]


def test_execute_by_name_would_bring_values_that_nobody_translates() -> None:
    made = bench()
    made.client(parse(WITH_PARAMETER, "by_ssn"), SYNC)
    made.target(PARSE_COMPLETE, ready())
    made.client(query("execute by_ssn('583-68-2629')"))
    assert was_refused(made, "StatementUnknown")


def test_a_parameter_that_is_used_elsewhere_too_is_refused() -> None:
    made = bench()
    made.client(parse("select id from people where ssn = $1 and $1 = '583-68-2629'"), SYNC)
    assert was_refused(made, "MaskedColumnSteers")


def test_a_binary_pseudonym_goes_by_its_cast_or_its_column_where_the_client_gave_no_type() -> None:
    value = encode_bound(Bind("", "", (1,), (PSEUDONYM,), ()))
    typed = Catalog.decode(
        [(b"20000", b"public", b"people", b"r", number, column, kind) for number, column, kind in ((b"1", b"id", b"integer"), (b"2", b"ssn", b"text"))],
        [], [], 2,
    )  # fmt: skip
    for text, catalog in ((WITH_PARAMETER, typed), (WITH_PARAMETER + "::text", relations("public"))):
        made = Bench(policy((IDS,)), catalog=catalog)
        sent = made.client(parse(text), value, execute(), SYNC)
        assert values_of(sent[1]) == (SSN,)


def test_a_binary_pseudonym_without_a_type_is_refused_and_not_passed() -> None:
    made = bench()
    value = encode_bound(Bind("", "", (1,), (SSN,), ()))
    sent = made.client(parse(WITH_PARAMETER), value, execute(), SYNC)
    assert all(SSN not in body for _, body in sent)
    assert "its type in Parse" in error_of(made.target(PARSE_COMPLETE, target_error(), ready()))["M"]


def test_a_statement_whose_column_is_another_by_now_is_refused_at_bind() -> None:
    """`mine.people` isn't masked, and the client may write to it: the value would be compared with its guesses."""
    rule = RuleConfig("ids", RuleAction.MASK, columns=(ColumnMatch("ssn", "people", "public"),), strategy=MaskStrategy.PSEUDONYM)
    for text, values in ((WITH, ()), (WITH_PARAMETER, (PSEUDONYM,))):
        made = Bench(policy((rule,)), catalog=relations("public", "mine"))
        made.client(parse(text, "q"), SYNC)
        made.target(PARSE_COMPLETE, ready())
        made.session.judge.learn_search_path(b"{mine}")
        sent = made.client(bind("", "q", *values), execute(), SYNC)
        assert all(SSN not in body for _, body in sent)
        assert "another by now" in error_of(made.target(target_error(), ready()))["M"]


def test_a_statement_under_other_rules_by_now_is_refused_at_bind() -> None:
    made = bench()
    made.client(parse(WITH_PARAMETER, "q"), SYNC)
    made.target(PARSE_COMPLETE, ready())
    config = config_of(policy((RuleConfig("ids", RuleAction.MASK, columns=(ColumnMatch("ssn"),)),)))
    grant = decide_session(config, ADA, "shop", NOW)
    assert isinstance(grant, SessionGrant)
    made.take(made.session.config_changed(config, Engine(config), grant, NOW))
    made.client(bind("", "q", PSEUDONYM), execute(), SYNC)
    assert "another by now" in error_of(made.target(target_error(), ready()))["M"]


def test_a_bind_whose_statement_is_not_settled_is_refused_where_the_candidates_differ() -> None:
    """Which of two statements has the name is known with the target's answer: the value would be another's parameter."""
    made = bench()
    made.client(parse("select $1", "q"), SYNC)
    made.client(parse(WITH_PARAMETER, "q"), SYNC)
    sent = made.client(bind("", "q", PSEUDONYM), execute(), SYNC)
    assert all(SSN not in body for _, body in sent)


def test_errors_of_a_session_that_translates_quote_nothing_and_point_nowhere() -> None:
    made = bench()
    made.client(query(WITH))
    error = b'SERROR\0VERROR\0C22P02\0Minvalid input syntax for type integer: "583-68-2629"\0P41\0Fnumutils.c\0Rpg_strtoint32_safe\0\0'
    fields = error_of(made.target(frame(b"E", error), ready()))
    assert "583" not in repr(fields)
    assert "P" not in fields


def test_what_would_be_held_is_refused() -> None:
    """Approved, it could run in a session in which the pseudonym stands for somebody else."""
    hold = RuleConfig(
        "reads", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("Read",)), approval=ApprovalConfig(approver_groups=("dba",))
    )  # fmt: skip
    made = bench(IDS, hold)
    made.client(query(WITH))
    assert was_refused(made, "MaskNotProvable")


def test_without_pseudonyms_nothing_is_translated() -> None:
    made = bench(RuleConfig("ids", RuleAction.MASK, columns=(ColumnMatch("ssn"),)))
    made.client(query(WITH))
    assert was_refused(made, "MaskedColumnSteers")
    text = "select id from people where name = '583-68-2629'"
    assert bench().client(query(text)) == [("Q", text.encode() + b"\0")]


def test_rows_by_a_describe_of_the_client_are_shown_as_pseudonyms_too() -> None:
    made = bench()
    made.client(parse(WITH_PARAMETER), bind("", "", PSEUDONYM), describe(), execute(), SYNC)
    description = row_description(("id", PEOPLE, 1), ("ssn", PEOPLE, 2))
    seen = made.target(
        PARSE_COMPLETE, BIND_COMPLETE, description, description, data_row(b"1", SSN), complete("SELECT 1"), ready()
    )
    assert PSEUDONYM in b"".join(body for _, body in seen)
