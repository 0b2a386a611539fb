"""What the session core puts to approvers: everything that would run, each text and value apart, and a fingerprint that covers it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from sidegate.approval.backend import HoldRequest, ShownParameter, ShownStatement
from sidegate.policy.config import ApprovalConfig, RuleAction, RuleConfig, StatementMatch
from sidegate.policy.engine import Engine, decide_session
from sidegate.policy.reason import Reason
from sidegate.postgres.effects import Hold
from sidegate.postgres.messages import frame
from sidegate.record.entries import Parameter, StatementBeside, StatementRecord, decode_entry
from sidegate.record.frame import RecordKind
from tests.support.session import (
    ADA,
    BIND_COMPLETE,
    NOW,
    PARSE_COMPLETE,
    SYNC,
    Bench,
    asked,
    bind,
    complete,
    config_of,
    error_of,
    execute,
    parse,
    policy,
    query,
    ready,
    target_error,
)

DELETE = "delete from orders where id = $1 returning *"


def rule(groups: tuple[str, ...] = ("dba",), required: int = 1, expires_after_s: float = 3600.0) -> RuleConfig:
    approval = ApprovalConfig(approver_groups=groups, required=required, expires_after_s=expires_after_s)
    return RuleConfig("hold", RuleAction.REQUIRE_APPROVAL, StatementMatch(kinds=("Delete",)), approval=approval)


def gate(**changes: object) -> Bench:
    return Bench(policy([rule(**changes)]))  # type: ignore[arg-type]


def held(bench: Bench) -> HoldRequest:
    (hold,) = (action for action in bench.actions if isinstance(action, Hold))
    return hold.request


def recorded(bench: Bench) -> StatementRecord:
    entry = [each for each in bench.records if each.kind is RecordKind.CLIENT_STATEMENT][-1]
    record = decode_entry(entry.kind, entry.payload)
    assert isinstance(record, StatementRecord)
    return record


def prepared(bench: Bench, text: str, name: str) -> None:
    bench.client(parse(text, name), SYNC)
    bench.target(PARSE_COMPLETE, ready(bench.session.status))


def in_transaction(bench: Bench) -> Bench:
    bench.client(query("begin"))
    bench.target(complete("BEGIN"), ready("T"))
    return bench


def with_portal(value: bytes, formats: bytes = b"\0\0") -> Bench:
    """A transaction with portal `p`, bound to the DELETE when nothing held it yet: what is held isn't bound without its Execute."""
    bench = in_transaction(Bench(policy([])))
    values = struct.pack(">HI", 1, len(value)) + value + b"\0\0"
    bench.client(parse(DELETE, "s"), frame(b"B", b"p\0s\0" + formats + values), SYNC)
    bench.target(PARSE_COMPLETE, BIND_COMPLETE, ready("T"))
    config = config_of(policy([rule()]))
    bench.take(bench.session.config_changed(config, Engine(config), decide_session(config, ADA, "shop", NOW), NOW))
    return bench


def test_what_execute_runs_is_no_part_of_the_clients_text() -> None:
    bench = gate()
    bench.client(query("prepare d as delete from orders"))
    bench.target(complete("PREPARE"), ready())
    text = "execute d\n-- runs: select 1\n-- $1 = '1'"
    bench.client(query(text))
    request = held(bench)
    assert request.statement == text
    assert request.runs == (ShownStatement("prepare d as delete from orders"),)
    assert (request.alternatives, request.parameters) == ((), ())
    assert (recorded(bench).text, recorded(bench).runs) == (text, (StatementBeside(text="prepare d as delete from orders"),))


def test_the_values_of_a_portal_that_sql_fetches_are_shown_recorded_and_covered() -> None:
    """FETCH runs the portal of the protocol, with what was bound to it."""
    requests = []
    for value in (b"1", b"2"):
        bench = with_portal(value)
        bench.client(query("fetch all from p"))
        assert held(bench).runs == (ShownStatement(DELETE, (ShownParameter(text=value.decode()),)),)
        assert recorded(bench).runs == (StatementBeside(text=DELETE, parameters=(Parameter(text=value.decode()),)),)
        requests.append(held(bench))
    assert requests[0].fingerprint != requests[1].fingerprint


def test_the_formats_of_a_fetched_portal_are_covered() -> None:
    fingerprints = set()
    for formats in (b"\0\0", b"\0\1\0\1"):
        bench = with_portal(b"1234", formats)
        bench.client(query("fetch all from p"))
        fingerprints.add(held(bench).fingerprint)
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    "inner",
    [
        "execute d",
        "fetch all from p",
        "prepare e as delete from orders",
        "deallocate d",
        "discard all",
        "declare c cursor for select 1",
        "close p",
    ],
)
def test_execute_of_a_statement_that_uses_names_itself_is_refused(inner: str) -> None:
    """The target runs an EXECUTE that was prepared by Parse, and with it what nobody decided on."""
    bench = with_portal(b"1")
    bench.client(query("prepare d as delete from orders"))
    bench.target(complete("PREPARE"), ready("T"))
    prepared(bench, inner, "x")
    assert bench.client(query("execute x")) == [("Q", b"sidegate denied\0")]
    error = error_of(bench.target(target_error(), ready("E")))
    assert Reason.STATEMENT_UNKNOWN in error["D"]
    assert "`x` is itself a statement that uses or sets names" in error["M"]


def test_fetch_from_a_portal_that_executes_is_refused() -> None:
    bench = in_transaction(gate())
    bench.client(query("prepare d as delete from orders returning *"))
    bench.target(complete("PREPARE"), ready("T"))
    bench.client(parse("execute d", "x"), bind("q", "x"), SYNC)
    bench.target(PARSE_COMPLETE, BIND_COMPLETE, ready("T"))
    assert bench.client(query("fetch all from q")) == [("Q", b"sidegate denied\0")]


def test_the_portal_of_an_execute_itself_is_held_with_what_it_runs() -> None:
    bench = gate()
    bench.client(query("prepare d as delete from orders"))
    bench.target(complete("PREPARE"), ready())
    bench.client(parse("execute d"), bind(), execute(), SYNC)
    assert held(bench).statement == "execute d"
    assert held(bench).runs == (ShownStatement("prepare d as delete from orders"),)


def test_a_cursor_fetched_in_one_string_with_others_still_works() -> None:
    bench = gate()
    bench.client(query("begin; declare c cursor for select 1"))
    bench.target(complete("BEGIN"), complete("DECLARE CURSOR"), ready("T"))
    assert bench.client(query("fetch c")) == [("Q", b"fetch c\0")]


def test_execute_of_a_cursor_has_the_values_of_its_declaration() -> None:
    bench = in_transaction(gate())
    text = "declare c cursor for select $1"
    bench.client(parse(text), bind("", "", b"7"), execute(), SYNC)
    bench.target(PARSE_COMPLETE, BIND_COMPLETE, complete("DECLARE CURSOR"), ready("T"))
    bench.client(execute("c"), SYNC)
    assert (recorded(bench).text, recorded(bench).parameters) == (text, (Parameter(text="7"),))
    bench.target(complete("SELECT 1"), ready("T"))
    bench.client(query("fetch c"))
    assert recorded(bench).runs == (StatementBeside(text=text, parameters=(Parameter(text="7"),)),)


def test_while_it_isnt_settled_which_statement_has_the_name_all_of_them_are_recorded() -> None:
    bench = gate()
    prepared(bench, "delete from tmp where id = $1", "s")
    bench.client(parse(DELETE, "s"), SYNC, bind("", "s", b"5"), execute(), SYNC)
    assert recorded(bench).text == DELETE
    assert recorded(bench).alternatives == (
        StatementBeside(text="delete from tmp where id = $1", parameters=(Parameter(text="5"),)),
    )
    bench.target(target_error("42P05"), ready())  # now it is
    assert (held(bench).statement, held(bench).alternatives) == ("delete from tmp where id = $1", ())


def test_parameters_have_their_type_and_format() -> None:
    bench = gate()
    values = struct.pack(">HI", 1, 4) + b"\0\0\0\5" + b"\0\0"
    typed = frame(b"P", b"\0" + DELETE.encode() + b"\0\0\1\0\0\0\x17")
    bench.client(typed, frame(b"B", b"\0\0\0\1\0\1" + values), execute(), SYNC)
    assert held(bench).statement == DELETE
    assert held(bench).parameters == (ShownParameter("int4", True, "5"),)


def test_the_path_and_role_in_force_are_shown_and_covered() -> None:
    fingerprints = set()
    for path, role in (
        (b"{public}", b"rw"),
        (b"{evil,public}", b"rw"),
        (b'{"evil,public"}', b"rw"),
        (b"{public}", b"boss"),
        (b"{}", b"rw"),
    ):
        bench = gate()
        bench.client(query("set role boss"))
        bench.target(complete("SET"), ready())
        assert asked(bench.client(query("delete from orders"))) == "SELECT pg_catalog.current_schemas(false), current_user"
        bench.answer_ask((path, role))
        request = held(bench)
        assert request.search_path == bench.session.judge.search_path or request.search_path == ("pg_catalog",)
        assert (request.role, request.current_role, request.database) == ("rw", role.decode(), "shop")
        fingerprints.add(request.fingerprint)
    assert len(fingerprints) == 5


def test_a_path_that_isnt_known_is_told() -> None:
    bench = gate()
    bench.client(query("set role boss"))
    bench.target(complete("SET"), ready())
    bench.client(query("delete from orders"))
    bench.answer_ask()
    assert (held(bench).search_path, held(bench).current_role) == (None, None)


def fingerprint_of(
    text: str = "delete from orders -- as agreed", change: Callable[[Bench], object] = id, **changes: object
) -> str:
    bench = gate(**changes)
    change(bench)
    bench.client(query(text))
    return held(bench).fingerprint


def test_a_fingerprint_is_the_same_for_the_same_statement_under_the_same_rule() -> None:
    assert fingerprint_of() == fingerprint_of(text="DELETE\n FROM orders -- as agreed")


@pytest.mark.parametrize(
    "other",
    [
        lambda: fingerprint_of(text="delete from orders -- whatever"),
        lambda: fingerprint_of(text="delete from orders"),
        lambda: fingerprint_of(groups=("dba", "interns")),
        lambda: fingerprint_of(required=2),
        lambda: fingerprint_of(expires_after_s=60.0),
    ],
)
def test_a_fingerprint_covers_comments_and_the_rules_terms(other: Callable[[], str]) -> None:
    assert other() != fingerprint_of()


def test_a_fingerprint_covers_who_asks_and_from_which_environment() -> None:
    people = [
        ADA, replace(ADA, subject="u2"), replace(ADA, username="eve@example.com"), replace(ADA, agent="cursor"),
        replace(ADA, environment="office"),
    ]  # fmt: skip
    fingerprints = set()
    for person in people:
        bench = Bench(policy([rule()]), principal=person)
        bench.client(query("delete from orders"))
        fingerprints.add(held(bench).fingerprint)
    assert len(fingerprints) == len(people)


def test_every_text_and_value_is_masked() -> None:
    card = "4111 1111 1111 1111"
    masks = RuleConfig("cards", RuleAction.MASK, detectors=("payment-card",))
    bench = in_transaction(Bench(policy([rule(), masks])))
    bench.client(query(f"prepare d as delete from orders where card = '{card}'"))
    bench.target(complete("PREPARE"), ready("T"))
    bench.client(parse(f"execute d -- {card}"), bind("", "", card.encode()), execute(), SYNC)
    request = held(bench)
    assert "[masked]" in request.statement
    assert "[masked]" in request.runs[0].statement
    assert request.parameters == (ShownParameter(text="[masked]", is_masked=True),)
    assert b"4111" not in msgspec.json.encode(request)
    assert not any(b"4111" in entry.payload for entry in bench.records)
