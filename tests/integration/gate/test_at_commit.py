"""`holdAt: Commit`: the transaction runs, its approver sees what it changed, and it is committed or taken back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from sidegate.policy.config import ApprovalConfig, HoldAt, HoldsConfig, RuleAction, RuleConfig, StatementMatch
from tests.integration.gate.conftest import (
    config_with,
    connect,
    error_in,
    events_of,
    replace,
    run_sidegate,
    running,
    wait_for_event,
    wire,
)
from tests.integration.gate.test_holds import decide, held, phase_of
from tests.support import processes
from tests.support import wire_messages as m
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer
from tests.support.wire import WireClient

AT_COMMIT = ApprovalConfig(approver_groups=("dba",), hold_at=HoldAt.COMMIT)
BALANCES = RuleConfig(
    "balances",
    RuleAction.REQUIRE_APPROVAL,
    statements=StatementMatch(kinds=("Update", "Delete"), tables=("accounts", "orders", "customers", "deferred")),
    approval=AT_COMMIT,
)
HELD_S = 20.0


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    holds = HoldsConfig(notice_interval_s=0.5, in_transaction_timeout_s=HELD_S)
    config = config_with(postgres, issuer, BALANCES, role="owner", change=lambda target: replace(target, holds=holds))
    with running(config) as gate:
        yield gate


@pytest.fixture
def database(fresh_database: str) -> str:
    return fresh_database


def balance(postgres: PostgresServer, database: str, account: int) -> Any:
    with postgres.admin(database) as admin:
        return admin.execute("SELECT balance FROM accounts WHERE id = %s", [account]).fetchall()[0][0]


def run(client: WireClient, statement: str, *, extended: bool = False) -> list[m.Reply]:
    send(client, statement, extended=extended)
    return client.receive_until_ready()


def send(client: WireClient, statement: str, *, extended: bool = False) -> None:
    if extended:
        client.send(m.parse(statement), m.bind(), m.describe_portal(), m.execute(), m.sync())
    else:
        client.send(m.query(statement))


def shown(gate: GateProcess, name: str) -> str:
    return " ".join(run_sidegate("approvals", "show", name, SIDEGATE_STATE=str(gate.state)).stdout.split())


def status_of(replies: list[m.Reply]) -> str:
    return next(reply.status for reply in replies if isinstance(reply, m.ReadyForQuery))


def change(client: WireClient, *, extended: bool) -> None:
    for statement in (
        "BEGIN",
        "INSERT INTO audit_trail (what) VALUES ('before')",
        "UPDATE accounts SET balance = 7 WHERE id <= 3",
        "DELETE FROM orders WHERE id <= 2",
    ):
        replies = run(client, statement, extended=extended)
        assert status_of(replies) == "T"


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_the_approver_sees_every_row_of_the_transaction_and_lets_it_be_committed(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str, extended: bool
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        run(client, "UPDATE audit_trail SET what = what")  # counted before, and none of the transaction's
        change(client, extended=extended)
        send(client, "COMMIT", extended=extended)
        name = held(client)
        page = shown(gate, name)
        assert "~3 -0 public.accounts" in page
        assert "+3 ~0 -0 public.audit_trail" in page  # one of the client's, two of the trigger's
        assert "-2 public.orders" in page
        assert "UPDATE accounts SET balance = 7 WHERE id <= 3" in page
        assert "DELETE FROM orders WHERE id <= 2" in page
        assert balance(postgres, database, 1) != 7
        decide(gate, issuer, "approve", name)
        replies = client.receive_until_ready()
        assert m.CommandComplete("COMMIT") in replies
        assert status_of(replies) == "I"
    assert balance(postgres, database, 1) == 7
    processes.wait_until(lambda: phase_of(gate, name) == "executed", "the outcome to be written down")


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_what_is_denied_is_rolled_back_and_the_session_goes_on(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str, extended: bool
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        change(client, extended=extended)
        send(client, "COMMIT", extended=extended)
        decide(gate, issuer, "deny", held(client), "--comment", "not today")
        replies = client.receive_until_ready()
        error = error_in(replies)
        assert "not today: the transaction was rolled back" in error.message
        assert status_of(replies) == "I"
        assert client.rows("SELECT balance FROM accounts WHERE id = 1") != [(b"7",)]
        assert m.CommandComplete("COMMIT") in run(client, "COMMIT")  # of nothing: it isn't held


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_a_statement_outside_of_a_transaction_runs_in_one_of_the_gates(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str, extended: bool, verb: str
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        send(client, "DELETE FROM orders WHERE id <= 2 RETURNING id", extended=extended)
        name = held(client)
        page = shown(gate, name)
        assert "-2 public.orders" in page
        assert "+2 ~0 -0 public.audit_trail" in page
        decide(gate, issuer, verb, name)
        replies = client.receive_until_ready()
        assert (m.CommandComplete("DELETE 2") in replies) is (verb == "approve")
        assert sum(isinstance(reply, m.DataRow) for reply in replies) == (2 if verb == "approve" else 0)
        assert status_of(replies) == "I"
        left = client.rows("SELECT count(*) FROM orders WHERE id <= 2")
    assert left == [(b"0",)] if verb == "approve" else [(b"2",)]


def test_a_rollback_is_free_and_forgets_what_waited(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        change(client, extended=False)
        assert m.CommandComplete("ROLLBACK") in run(client, "ROLLBACK")
        run(client, "BEGIN")
        run(client, "INSERT INTO audit_trail (what) VALUES ('free')")
        assert m.CommandComplete("COMMIT") in run(client, "COMMIT")


def test_what_a_savepoint_took_back_waits_all_the_same(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        for statement in ("BEGIN", "SAVEPOINT s", "UPDATE accounts SET balance = 7 WHERE id = 1", "ROLLBACK TO SAVEPOINT s"):
            run(client, statement)
        send(client, "COMMIT")
        decide(gate, issuer, "deny", held(client))
        error_in(client.receive_until_ready())


ENDS = (
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "PREPARE TRANSACTION 'x'",
    "COMMIT; SELECT 1",
    "SELECT 1; COMMIT",
    "COMMIT; BEGIN",
    "END; COMMIT",
    "ROLLBACK; SELECT 1",
    "COMMIT PREPARED 'x'",
)


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize("end", ENDS)
def test_no_other_end_commits(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str, end: str, extended: bool
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        change(client, extended=extended)
        error_in(run(client, end, extended=extended))
        run(client, "ROLLBACK")
    assert balance(postgres, database, 1) != 7


def test_a_procedure_and_a_block_may_not_commit(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    """Inside of a transaction the target refuses it; outside of one they are held before they run: what they do can't be seen."""
    with postgres.admin(database) as admin:
        admin.execute("CREATE PROCEDURE ends() LANGUAGE plpgsql AS 'BEGIN UPDATE accounts SET balance = 7; COMMIT; END'")
    for call in ("CALL ends()", "DO 'BEGIN UPDATE accounts SET balance = 7; COMMIT; END'"):
        with wire(gate, issuer, database, "owner") as client:
            send(client, call)
            name = held(client)
            assert "AwaitsCommit" not in shown(gate, name)
            decide(gate, issuer, "deny", name)
            error_in(client.receive_until_ready())
    assert balance(postgres, database, 1) != 7


UNSUPPORTED = (
    "BEGIN; UPDATE accounts SET balance = 7 WHERE id = 1; COMMIT",
    "BEGIN; UPDATE accounts SET balance = 7 WHERE id = 1",
    "UPDATE accounts SET balance = 7 WHERE id = 1; SELECT 1",
    "UPDATE accounts SET balance = 7 WHERE id = 1; COMMIT",
)


@pytest.mark.parametrize("text", UNSUPPORTED)
def test_strings_that_commit_by_themselves_are_refused_with_what_to_send(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str, text: str
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        error = error_in(run(client, text))
        assert error.fields["H"] == "send BEGIN alone, then the statements, then COMMIT alone"
        run(client, "COMMIT")
    assert balance(postgres, database, 1) != 7


def test_pipelines_that_commit_by_themselves_are_refused(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    def steps(*texts: str) -> list[bytes]:
        return [part for text in texts for part in (m.parse(text), m.bind(), m.execute())]

    update = "UPDATE accounts SET balance = 7 WHERE id = 1"
    for texts in (
        ("INSERT INTO audit_trail (what) VALUES ('x')", update),
        ("BEGIN", update, "COMMIT"),
        ("BEGIN", "INSERT INTO audit_trail (what) VALUES ('x')", update),
    ):
        with wire(gate, issuer, database, "owner") as client:
            client.send(*steps(*texts), m.sync())
            assert "pipeline" in error_in(client.receive_until_ready()).message
            client.send(m.query("COMMIT"))
            client.receive_until_ready()
    assert balance(postgres, database, 1) != 7


def test_a_pipeline_inside_of_a_transaction_is_held_at_its_commit(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        run(client, "BEGIN")
        texts = ("UPDATE accounts SET balance = 7 WHERE id = 1", "UPDATE accounts SET balance = 7 WHERE id = 2", "COMMIT")
        client.send(*[part for text in texts for part in (m.parse(text), m.bind(), m.execute())], m.sync())
        name = held(client)
        assert "~2 -0 public.accounts" in shown(gate, name)
        decide(gate, issuer, "deny", name)
        replies = client.receive_until_ready()
        error_in(replies)
        assert status_of(replies) == "I"
    assert balance(postgres, database, 1) != 7


def test_messages_that_are_sent_before_their_answers_are_held_too(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query("BEGIN"), m.query("UPDATE accounts SET balance = 7 WHERE id = 1"), m.query("COMMIT"))
        name = held(client)
        assert balance(postgres, database, 1) != 7
        decide(gate, issuer, "approve", name)
        while m.CommandComplete("COMMIT") not in client.receive_until_ready():
            pass
    assert balance(postgres, database, 1) == 7


def test_deferred_triggers_count_and_their_errors_are_the_commits(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    with postgres.admin(database) as admin:
        admin.execute(
            "CREATE TABLE deferred (id int PRIMARY KEY, next int REFERENCES deferred DEFERRABLE INITIALLY DEFERRED);"
            " INSERT INTO deferred VALUES (1, 1), (2, 2);"
            " CREATE FUNCTION also() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN DELETE FROM accounts WHERE id <= 5; RETURN NULL; END';"
            " CREATE CONSTRAINT TRIGGER also AFTER UPDATE ON deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION also();"
            " GRANT ALL ON deferred TO owner"
        )
    with wire(gate, issuer, database, "owner") as client:
        run(client, "BEGIN")
        run(client, "UPDATE deferred SET next = 2 WHERE id = 1")
        send(client, "COMMIT")
        name = held(client)
        assert "-5 public.accounts" in shown(gate, name)
        decide(gate, issuer, "deny", name)
        error_in(client.receive_until_ready())
        run(client, "BEGIN")
        run(client, "UPDATE deferred SET next = 3 WHERE id = 1")
        replies = run(client, "COMMIT")
        assert error_in(replies).sqlstate == "23503"
        assert status_of(replies) == "I"


def test_an_approval_is_for_one_transaction(gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    """Also when it comes after the session is gone: nothing was committed, and the next one asks anew."""
    with wire(gate, issuer, database, "owner") as client:
        change(client, extended=False)
        send(client, "COMMIT")
        name = held(client)
    processes.wait_until(lambda: phase_of(gate, name) == "withdrawn", "the request to be withdrawn")
    assert balance(postgres, database, 1) != 7
    with wire(gate, issuer, database, "owner") as client:
        change(client, extended=False)
        send(client, "COMMIT")
        other = held(client)
        assert other != name
        decide(gate, issuer, "deny", other)
        client.receive_until_ready()


def test_what_nobody_decides_is_rolled_back(postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    holds = HoldsConfig(in_transaction_timeout_s=0.5)
    config = config_with(postgres, issuer, BALANCES, role="owner", change=lambda target: replace(target, holds=holds))
    with running(config) as gate:
        with wire(gate, issuer, database, "owner") as client:
            change(client, extended=False)
            send(client, "COMMIT")
            name = held(client)
            error = error_in(client.receive_until_ready())
            assert "the transaction was rolled back" in error.message
            assert "run the transaction again" in error.fields["H"]
            assert client.rows("SELECT balance FROM accounts WHERE id = 1") != [(b"7",)]
        with connect(gate, issuer, database, "owner") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE accounts SET balance = 7 WHERE id = 1")
        processes.wait_until(lambda: phase_of(gate, name) == "withdrawn", "the request to be withdrawn")
    assert balance(postgres, database, 1) != 7


def test_a_gate_that_dies_commits_nothing(postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    config = config_with(postgres, issuer, BALANCES, role="owner")
    with GateProcess(config) as gate, WireClient.tcp("127.0.0.1", gate.port) as client:
        client.log_in("owner", database, gate.endpoint(issuer).password("owner"))
        change(client, extended=False)
        send(client, "COMMIT")
        held(client)
        gate.kill()
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND usename = 'owner'"
    with postgres.admin("postgres") as admin:
        processes.wait_until(lambda: admin.execute(query, [database]).fetchall() == [(0,)], "the session to end")
    assert balance(postgres, database, 1) != 7


def test_psycopg_commits_as_ever(gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    with psycopg.connect(gate.endpoint(issuer).dsn("owner", database)) as connection:
        names: list[str] = []

        def approve(diagnostic: psycopg.errors.Diagnostic) -> None:
            message = diagnostic.message_primary or ""
            if message.startswith("held by sidegate"):
                names.append(next(word for word in message.split() if word.startswith("ar-")))
                decide(gate, issuer, "approve", names[-1])

        connection.add_notice_handler(approve)
        for account in range(1, 40):
            connection.execute("UPDATE accounts SET balance = %s WHERE id = %s", [7, account])
        connection.commit()
    assert balance(postgres, database, 39) == 7
    assert "update accounts set balance = $1 where id = $2" in shown(gate, names[0]).lower()
    assert "~39 -0 public.accounts" in shown(gate, names[0])
    wait_for_event(gate, "Held", approval=names[0], rowsMeasured=39)
    assert any(event["event"] == "StatementDecided" and event.get("reason") == "AwaitsCommit" for event in events_of(gate))


@pytest.mark.parametrize("first", ["ROLLBACK", "ROLLBACK TO SAVEPOINT s"])
def test_what_leaves_a_failed_transaction_commits_nothing_behind_it(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str, first: str
) -> None:
    update = "UPDATE accounts SET balance = 7 WHERE id = 1"
    for waits in (False, True):
        for texts in ((first, update, "COMMIT"), (first, "COMMIT", update), (first, "COMMIT")):
            with wire(gate, issuer, database, "owner") as client:
                for text in ("BEGIN", *([update] if waits else ()), "SAVEPOINT s", "SELECT 1 / 0"):
                    run(client, text)
                client.send(*[part for text in texts for part in (m.parse(text), m.bind(), m.execute())], m.sync())
                if waits and first != "ROLLBACK":
                    replies = client.receive_until(m.NoticeResponse, m.ErrorResponse)
                    if isinstance(replies[-1], m.NoticeResponse):
                        name = next(word for word in replies[-1].message.split() if word.startswith("ar-"))
                        decide(gate, issuer, "deny", name)
                client.receive_until_ready()
            with wire(gate, issuer, database, "owner") as client:
                for text in ("BEGIN", *([update] if waits else ()), "SAVEPOINT s", "SELECT 1 / 0"):
                    run(client, text)
                client.send(m.query("; ".join(texts)))
                client.receive_until_ready()
            assert balance(postgres, database, 1) != 7, (waits, texts)


def test_a_commit_that_was_prepared_or_bound_before_is_held(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    for is_bound in (False, True):
        with wire(gate, issuer, database, "owner") as client:
            client.send(m.parse("COMMIT", name="c"), m.sync())
            client.receive_until_ready()
            run(client, "BEGIN")
            if is_bound:
                client.send(m.bind(portal="p", statement="c"), m.sync())
                client.receive_until_ready()
            run(client, "UPDATE accounts SET balance = 7 WHERE id = 1")
            client.send(*([] if is_bound else [m.bind(portal="p", statement="c")]), m.execute("p"), m.sync())
            decide(gate, issuer, "deny", held(client))
            error_in(client.receive_until_ready())
        assert balance(postgres, database, 1) != 7


def test_what_a_taken_back_transaction_set_is_forgotten(gate: GateProcess, issuer: Issuer, database: str) -> None:
    """Names are looked up as the target looks them up: behind the rollback `settings` isn't `prod.settings` any more."""
    with wire(gate, issuer, database, "owner") as client:
        run(client, "BEGIN")
        run(client, "SET search_path = prod")
        run(client, "UPDATE public.accounts SET balance = 7 WHERE id = 1")
        send(client, "COMMIT")
        decide(gate, issuer, "deny", held(client))
        error_in(client.receive_until_ready())
        assert client.rows("SHOW search_path") != [(b"prod",)]
        send(client, "UPDATE accounts SET balance = 7 WHERE id = 1")
        name = held(client)
        assert "path public" in shown(gate, name)
        decide(gate, issuer, "deny", name)
        client.receive_until_ready()


def test_a_copy_and_many_rows_wait_too(postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    rule = RuleConfig("copies", RuleAction.REQUIRE_APPROVAL, statements=StatementMatch(kinds=("CopyIn",)), approval=AT_COMMIT)
    with running(config_with(postgres, issuer, rule, role="owner")) as gate, wire(gate, issuer, database, "owner") as client:
        error = error_in(run(client, "COPY audit_trail (what) FROM STDIN"))
        assert "a COPY would commit by itself" in error.message
        run(client, "BEGIN")
        client.send(m.query("COPY audit_trail (what) FROM STDIN"))
        client.receive_until(m.CopyResponse)
        client.send(m.copy_data(b"x\n" * 1000), m.copy_done())
        assert m.CommandComplete("COPY 1000") in client.receive_until_ready()
        send(client, "COMMIT")
        name = held(client)
        assert "+1000 ~0 -0 public.audit_trail" in shown(gate, name)
        decide(gate, issuer, "approve", name)
        assert m.CommandComplete("COMMIT") in client.receive_until_ready()
        assert client.rows("SELECT count(*) FROM audit_trail") == [(b"1000",)]


def test_a_transaction_too_long_to_be_shown_is_refused_before_it_grows(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        run(client, "BEGIN")
        error_in(run(client, f"UPDATE accounts SET owner = owner WHERE owner IN ({', '.join(['owner'] * 3000)})"))
    with wire(gate, issuer, database, "owner") as client:
        run(client, "BEGIN")
        for number in range(16):
            run(client, f"UPDATE accounts SET balance = 7 WHERE id = 1 {'AND id = 1 ' * number}")
        error = error_in(run(client, f"UPDATE accounts SET balance = 7 WHERE id = 1 {'AND id = 1 ' * 16}"))
        assert "more than 16 different statements" in error.message


@pytest.mark.parametrize("is_alone", [False, True], ids=["transaction", "statement"])
@pytest.mark.parametrize("is_denied", [False, True], ids=["other rules", "denied"])
def test_rules_that_deny_it_meanwhile_take_it_back_and_others_leave_it(
    postgres: PostgresServer, issuer: Issuer, database: str, is_alone: bool, is_denied: bool
) -> None:
    denied = RuleConfig("updates", RuleAction.DENY, statements=StatementMatch(kinds=("Update",)))
    other = RuleConfig("other", RuleAction.DENY, statements=StatementMatch(kinds=("Truncate",)))
    with running(config_with(postgres, issuer, BALANCES, role="owner")) as gate, wire(gate, issuer, database, "owner") as client:
        if not is_alone:
            run(client, "BEGIN")
            run(client, "UPDATE accounts SET balance = 7 WHERE id = 1")
        send(client, "UPDATE accounts SET balance = 7 WHERE id = 1" if is_alone else "COMMIT")
        name = held(client)
        gate.reload(config_with(postgres, issuer, BALANCES, denied if is_denied else other, role="owner"))
        if is_denied:
            assert "the transaction was rolled back" in error_in(client.receive_until_ready()).message
            assert client.rows("SELECT count(*) FROM accounts WHERE balance = 7") == [(b"0",)]
        else:
            decide(gate, issuer, "approve", name)
            assert m.CommandComplete("UPDATE 1" if is_alone else "COMMIT") in client.receive_until_ready()


def test_rules_that_deny_it_before_its_commit_refuse_that(postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    denied = RuleConfig("updates", RuleAction.DENY, statements=StatementMatch(kinds=("Update",)))
    with running(config_with(postgres, issuer, BALANCES, role="owner")) as gate, wire(gate, issuer, database, "owner") as client:
        run(client, "BEGIN")
        run(client, "UPDATE accounts SET balance = 7 WHERE id = 1")
        gate.reload(config_with(postgres, issuer, denied, role="owner"))
        assert "the rules changed" in error_in(run(client, "COMMIT")).message
        assert m.CommandComplete("ROLLBACK") in run(client, "ROLLBACK")
