"""Budgets of a session: whatever way rows come back, and whatever becomes of the statement, no more gets through than the policy says."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
import yaml
from psycopg import errors

from sidegate.policy.compile import Placement, compile_target
from sidegate.policy.config import ApprovalConfig, BudgetConfig, RuleAction, RuleConfig, StatementMatch
from tests.integration.gate.conftest import Connection, config_with, connect, metric, running, wait_for_event, wire
from tests.integration.gate.test_holds import decide, held
from tests.support import wire_messages as m
from tests.support.gate import GateProcess, gate_config, open_policy
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer, embedded_installation
from tests.unit.policy.resources import policy, target

ROWS = 1000
VALUES = 20
CARD = "4111 1111 1111 1111"
DUMP = RuleConfig("no-dump", RuleAction.DENY, budget=BudgetConfig(rows=ROWS), message="ask the data team for an extract")
CARDS = RuleConfig("cards", RuleAction.MASK, detectors=("payment-card",))
FEW_CARDS = RuleConfig("few-cards", RuleAction.DENY, budget=BudgetConfig(masked_values=VALUES))
HELD = RuleConfig(
    "few-events", RuleAction.REQUIRE_APPROVAL, StatementMatch(tables=("events",)), budget=BudgetConfig(rows=30, statements=4),
    approval=ApprovalConfig(approver_groups=("dba",)),
)  # fmt: skip


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, DUMP, CARDS, FEW_CARDS, HELD, role="owner")) as gate:
        yield gate


@pytest.fixture
def client(gate: GateProcess, issuer: Issuer, database: str) -> Iterator[Connection]:
    with connect(gate, issuer, database, "owner") as client:
        yield client


@pytest.fixture
def database(fresh_database: str) -> str:
    return fresh_database


def used_up(client: Connection) -> None:
    """Nothing is left: the next statement that could return a row is refused before it runs, and the session lives on."""
    with pytest.raises(errors.InsufficientPrivilege, match="used up a budget"):
        client.execute("SELECT 1")
    client.execute("ROLLBACK")


def rows_through(client: Connection, statement: str) -> int:
    """By COPY, row by row, so that what came before the error is seen."""
    got = 0

    def copy() -> None:
        nonlocal got
        with client.cursor() as cursor, cursor.copy(statement) as copied:
            for _ in copied.rows():
                got += 1

    with pytest.raises(errors.InsufficientPrivilege) as refused:
        copy()
    assert "BudgetExhausted" in (refused.value.diag.message_detail or "")
    assert "open-owner#no-dump" in (refused.value.diag.message_detail or "")
    assert refused.value.diag.message_hint == DUMP.message
    return got


def test_a_result_within_the_budget_passes_whole_and_the_next_is_refused(client: Connection) -> None:
    assert len(client.execute(f"SELECT generate_series(1, {ROWS})").fetchall()) == ROWS
    used_up(client)
    client.execute("SET application_name = 'still here'")
    assert client.execute("SHOW application_name").fetchone() == ("still here",)


@pytest.mark.parametrize("size", [1, 300, 3000], ids=["small rows", "larger rows", "rows over a packet"])
@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize("many", [ROWS + 1, 200_000])
def test_the_row_that_would_go_over_does_not_reach_the_client(
    gate: GateProcess, issuer: Issuer, database: str, size: int, extended: bool, many: int
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        text = f"SELECT repeat('x', {size}) FROM generate_series(1, {many})"
        messages = (m.parse(text), m.bind(), m.describe_portal(), m.execute(), m.sync()) if extended else (m.query(text),)
        client.send(*messages)
        replies = client.receive_until_ready()
        assert sum(isinstance(reply, m.DataRow) for reply in replies) == ROWS
        assert [type(reply) for reply in replies[-2:]] == [m.ErrorResponse, m.ReadyForQuery]
        assert client.rows("SHOW server_encoding") == [(b"UTF8",)]  # no cancel hits what comes later
        client.send(m.query("SELECT 1"))
        assert [type(reply) for reply in client.receive_until_ready()] == [m.ErrorResponse, m.ReadyForQuery]


def test_copy_out_is_cut(client: Connection) -> None:
    assert rows_through(client, "COPY (SELECT generate_series(1, 5000)) TO STDOUT") == ROWS
    used_up(client)


@pytest.mark.parametrize("options", ["", "(FORMAT binary)", "(FORMAT csv, HEADER)", "(HEADER)"])
def test_copy_out_of_all_that_is_left_passes_whole(client: Connection, options: str) -> None:
    with client.cursor() as cursor, cursor.copy(f"COPY (SELECT generate_series(1, {ROWS})) TO STDOUT {options}") as copy:
        assert sum(len(data) for data in copy) > ROWS
    used_up(client)


@pytest.mark.parametrize("options", ["(FORMAT csv, HEADER)", "(FORMAT binary)"])
def test_copy_out_in_any_form_is_cut_at_the_same_row(gate: GateProcess, issuer: Issuer, database: str, options: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query(f"COPY (SELECT generate_series(1, 5000)) TO STDOUT {options}"))
        replies = client.receive_until_ready()
        assert sum(isinstance(reply, m.CopyData) for reply in replies) == ROWS + ("HEADER" in options)
        assert isinstance(replies[-2], m.ErrorResponse)


@pytest.mark.parametrize(
    "statements",
    [
        ["SELECT generate_series(1, 400)"] * 3,
        ["SELECT generate_series(1, 400); SELECT generate_series(1, 400); SELECT generate_series(1, 400)"],
        ["BEGIN", "DECLARE c CURSOR FOR SELECT generate_series(1, 5000)", *["FETCH 300 FROM c"] * 4],
        ["BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 5000)", "COMMIT", *["FETCH 300 FROM c"] * 4],
        ["PREPARE p AS SELECT generate_series(1, 400)", *["EXECUTE p"] * 3],
        ["BEGIN", "SELECT generate_series(1, 900)", "ROLLBACK", "BEGIN", "SELECT generate_series(1, 900)", "ROLLBACK"],
        ["INSERT INTO accounts SELECT g, 'x' FROM generate_series(100001, 102000) AS g RETURNING id"],
        ["UPDATE accounts SET balance = 1 RETURNING id"],
        ["WITH gone AS (DELETE FROM accounts RETURNING id) SELECT id FROM gone"],
        ["SELECT 1 / (901 - g) FROM generate_series(1, 2000) AS g", "SELECT generate_series(1, 900)"],  # fails after its rows
        ["EXPLAIN SELECT 1", "VALUES (1), (2)", "TABLE accounts"],
        ["COPY accounts (id) TO STDOUT"],
    ],
)
@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_no_way_of_asking_brings_more_rows(
    gate: GateProcess, issuer: Issuer, database: str, statements: Sequence[str], extended: bool
) -> None:
    got, refused = 0, 0
    with wire(gate, issuer, database, "owner") as client:
        for statement in statements:
            if extended and ";" not in statement:
                client.send(m.parse(statement), m.bind(), m.execute(), m.sync())
            else:
                client.send(m.query(statement))
            replies = client.receive_until_ready()
            got += sum(isinstance(reply, (m.DataRow, m.CopyData)) for reply in replies)
            refused += sum(isinstance(reply, m.ErrorResponse) and "sidegate" in reply.message for reply in replies)
            if isinstance(replies[-2], m.ErrorResponse):
                assert replies[-1] in (m.ReadyForQuery("I"), m.ReadyForQuery("E")), (
                    "the client's transaction failed, and so did the target's"
                )
        assert got <= ROWS
        assert refused
        client.send(m.query("ROLLBACK"))
        assert client.receive_until_ready()[-1] == m.ReadyForQuery("I")


def test_a_portal_fetched_in_parts_is_one_result(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query("BEGIN"))
        client.receive_until_ready()
        client.send(m.parse("SELECT generate_series(1, 5000)"), m.bind(portal="p"), *[m.execute("p", 150)] * 9, m.sync())
        replies = client.receive_until_ready()
        assert sum(isinstance(reply, m.DataRow) for reply in replies) == ROWS
        assert sum(reply == m.PORTAL_SUSPENDED for reply in replies) == ROWS // 150
        assert replies[-1] == m.ReadyForQuery("E")


def test_what_comes_behind_a_cut_result_in_its_pipeline_does_not_run_and_what_it_changed_is_taken_back(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    with postgres.admin(database) as admin:
        before = admin.execute("SELECT count(*), sum(balance) FROM accounts").fetchone()
    with wire(gate, issuer, database, "owner") as client:
        client.send(
            m.parse("UPDATE accounts SET balance = balance + 7 RETURNING id"), m.bind(), m.execute(),
            m.parse("DELETE FROM accounts"), m.bind(), m.execute(), m.sync(),
            m.query("SHOW server_encoding"),
        )  # fmt: skip
        replies = client.receive_until_ready()
        assert sum(isinstance(reply, m.DataRow) for reply in replies) == ROWS
        assert not any(isinstance(reply, m.CommandComplete) for reply in replies)
        assert m.DataRow((b"UTF8",)) in client.receive_until_ready()
    with postgres.admin(database) as admin:
        assert admin.execute("SELECT count(*), sum(balance) FROM accounts").fetchone() == before


def test_data_that_a_cut_string_would_copy_in_is_not_waited_for(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query("SELECT generate_series(1, 5000); COPY accounts FROM STDIN; SELECT 1"))
        replies = client.receive_until_ready()
        assert sum(isinstance(reply, m.DataRow) for reply in replies) == ROWS
        assert not any(isinstance(reply, m.CopyResponse) for reply in replies)
        assert client.rows("SHOW server_encoding") == [(b"UTF8",)]


def test_psycopg_pipelines_and_server_cursors_go_on_after_it(client: Connection) -> None:
    got: list[object] = []

    def fetch() -> None:
        with client.transaction(), client.cursor("named") as cursor:
            cursor.itersize = 90
            cursor.execute("SELECT generate_series(1, 5000)")
            got.extend(cursor)

    def pipeline() -> None:
        with client.pipeline():
            client.execute("SELECT 1")
            client.execute("SELECT 2")

    with pytest.raises(errors.InsufficientPrivilege, match="this result has more"):
        fetch()
    assert len(got) <= ROWS
    with pytest.raises(errors.InsufficientPrivilege):
        pipeline()
    assert client.execute("SHOW server_encoding").fetchone() == ("UTF8",)


async def test_asyncpg_goes_on_after_it(gate: GateProcess, issuer: Issuer, database: str) -> None:
    parameters: dict[str, Any] = dict(gate.endpoint(issuer).parameters("owner", database))
    parameters["database"] = parameters.pop("dbname")
    connection = await asyncpg.connect(**parameters)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="used up a budget"):
            await connection.fetch("SELECT generate_series(1, 5000)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="used up a budget"):
            await connection.fetchval("SELECT $1::int", 1)
        assert await connection.fetchval("SHOW server_encoding") == "UTF8"
    finally:
        await connection.close()


def test_psql_shows_the_error_and_goes_on(gate: GateProcess, issuer: Issuer, database: str) -> None:
    psql = embedded_installation().program("psql")
    script = "SELECT generate_series(1, 5000);\n\\copy accounts to '/dev/null'\nSHOW server_encoding;\n"
    done = subprocess.run(
        [psql, "-X", "-A", "-t", gate.endpoint(issuer).dsn("owner", database)],
        input=script, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr.count("the session has used up a budget") == 2
    assert done.stdout.splitlines()[-1] == "UTF8"


def test_masked_values_inside_one_cell_count(client: Connection) -> None:
    cards = f"SELECT string_agg('{CARD}', ', ') FROM generate_series(1, %s)"
    (seen,) = client.execute(cards, [VALUES - 5]).fetchone() or ("",)
    assert seen.count("[masked]") == VALUES - 5
    with pytest.raises(errors.InsufficientPrivilege, match=f"5 of {VALUES} masked values were left"):
        client.execute(cards, [6])
    with pytest.raises(errors.InsufficientPrivilege, match=f"{VALUES} of {VALUES} masked values were returned"):
        client.execute("SELECT 1")


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize("way", ["{}", "COPY ({}) TO STDOUT", "COPY ({}) TO STDOUT (FORMAT binary)"])
def test_rows_with_masked_values_end_before_the_one_that_would_go_over(
    gate: GateProcess, issuer: Issuer, database: str, way: str, extended: bool
) -> None:
    text = way.format(f"SELECT CASE WHEN g % 2 = 0 THEN '{CARD}' ELSE 'plain' END FROM generate_series(1, 900) AS g")
    with wire(gate, issuer, database, "owner") as client:
        client.send(*((m.parse(text), m.bind(), m.execute(), m.sync()) if extended else (m.query(text),)))
        replies = client.receive_until_ready()
        assert sum(b"[masked]" in repr(reply).encode() for reply in replies) == VALUES
        assert sum(isinstance(reply, (m.DataRow, m.CopyData)) for reply in replies) == 2 * VALUES + 1
        assert isinstance(replies[-2], m.ErrorResponse)


def test_what_a_budget_holds_is_approved_anew(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        text = "SELECT id FROM events LIMIT 20"
        assert len(client.rows(text)) == 20
        client.send(m.query(text))
        replies = client.receive_until_ready()
        assert sum(isinstance(reply, m.DataRow) for reply in replies) == 10
        assert "send the statement again: it is held" in error_of(replies).fields["H"]
        client.send(m.parse(text), m.bind(), m.execute(), m.sync())
        name = held(client)
        asked = wait_for_event(gate, "Held", approval=name)
        assert asked["reason"] == "BudgetExhausted"
        assert (
            "30 of 30 rows were returned in this session, and an approval gives it 4 statements, 30 rows anew" in asked["detail"]
        )
        decide(gate, issuer, "approve", name)
        assert sum(isinstance(reply, m.DataRow) for reply in client.receive_until_ready()) == 20
        assert len(client.rows("SELECT id FROM events LIMIT 10")) == 10
        client.send(m.query(text))
        held(client)


def error_of(replies: Sequence[m.Reply]) -> m.ErrorResponse:
    (found,) = (reply for reply in replies if isinstance(reply, m.ErrorResponse))
    return found


def test_refusals_of_budgets_are_counted_and_written_down(gate: GateProcess, client: Connection) -> None:
    before = metric(gate, "sidegate_refusals_total", reason="BudgetExhausted")
    with pytest.raises(errors.InsufficientPrivilege):
        client.execute("SELECT generate_series(1, 5000)")
    used_up(client)
    assert metric(gate, "sidegate_refusals_total", reason="BudgetExhausted") == before + 2
    event = wait_for_event(gate, "StatementExecuted", rows=ROWS, failed=True)
    assert event["outcome"] == "42501"


def test_another_session_has_a_budget_of_its_own(gate: GateProcess, issuer: Issuer, database: str) -> None:
    for _ in range(2):
        with connect(gate, issuer, database, "owner") as client:
            assert len(client.execute(f"SELECT generate_series(1, {ROWS})").fetchall()) == ROWS


PAGE = (Path(__file__).parents[3] / "docs" / "policy.md").read_text("utf-8")


def block(name: str, language: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None, name
    return found[1]


def test_the_documents_example_says_what_the_document_shows(postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    rules = yaml.safe_load(block("example: budgets", "yaml"))["rules"]
    config = compiled_with(rules)
    assert [rule.budget for rule in config] == [BudgetConfig(None, 1000, 200), BudgetConfig(20, 50), None]
    example = msgspec.structs.replace(open_policy("owner", rules=config), namespace="shop", name="example")
    with running(gate_config(postgres, issuer, policies=[example])) as gate:
        psql = embedded_installation().program("psql")
        command, _, shown = block("sample: budget", "console").partition("\n")
        asked = command.partition('"')[2].partition('"')[0]
        done = subprocess.run(
            [psql, "-X", gate.endpoint(issuer).dsn("owner", database), "-c", asked],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert re.sub(r"revision [0-9a-f]{16}", "revision 0123456789abcdef", done.stderr) == shown
        with connect(gate, issuer, database, "owner") as client:
            assert len(client.execute("SELECT id FROM customers LIMIT 50").fetchall()) == 50


def compiled_with(rules: list[dict[str, Any]]) -> tuple[RuleConfig, ...]:
    compiled = compile_target(target(), [policy(rules=rules)], Placement("/run/secrets"))
    assert compiled.config is not None, compiled.findings
    return compiled.config.policies[0].rules
