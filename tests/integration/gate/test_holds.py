"""Statements that a person must approve, from the client's wire to the approver's command line and back."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from sidegate.policy.config import ApprovalConfig, HoldsConfig, RuleAction, RuleConfig, StatementMatch
from tests.integration.gate.conftest import (
    config_with,
    error_in,
    events_of,
    metric,
    recordings,
    replace,
    run_sidegate,
    running,
    wait_for_event,
    wire,
)
from tests.support import processes
from tests.support import wire_messages as m
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer
from tests.support.wire import WireClient

DBA = ApprovalConfig(approver_groups=("dba",))
DDL = RuleConfig("ddl", RuleAction.REQUIRE_APPROVAL, statements=StatementMatch(kinds=("DDL",)), approval=DBA)
BIG = RuleConfig(
    "big", RuleAction.REQUIRE_APPROVAL, statements=StatementMatch(kinds=("Delete", "Update"), rows_more_than=10), approval=DBA
)
PROD = RuleConfig(
    "prod", RuleAction.REQUIRE_APPROVAL, statements=StatementMatch(kinds=("Insert",), schemas=("prod",)), approval=DBA
)


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    holds = HoldsConfig(notice_interval_s=0.5)
    config = config_with(postgres, issuer, DDL, BIG, PROD, role="owner", change=lambda target: replace(target, holds=holds))
    with running(config) as gate:
        yield gate


@pytest.fixture
def database(fresh_database: str) -> str:
    return fresh_database


def held(client: WireClient) -> str:
    """The name of the request that the next notice tells of."""
    notice = client.receive_until(m.NoticeResponse)[-1]
    assert isinstance(notice, m.NoticeResponse)
    assert "held by sidegate" in notice.message
    assert notice.fields["H"]
    return next(word for word in notice.message.split() if word.startswith("ar-"))


def decide(gate: GateProcess, issuer: Issuer, verb: str, name: str, *more: str) -> subprocess.CompletedProcess[str]:
    return run_sidegate(
        verb, name, "--config", gate.config_file, *more,
        SIDEGATE_STATE=str(gate.state), SIDEGATE_TOKEN=issuer.token("dana", groups=["dba"]),
    )  # fmt: skip


def phase_of(gate: GateProcess, name: str) -> str:
    return run_sidegate("approvals", "show", name, SIDEGATE_STATE=str(gate.state)).stdout.split()[0]


def assert_nothing_is_open(server: PostgresServer, database: str) -> None:
    """No session of a role is in a transaction, and none holds a lock."""
    with server.admin(database) as admin:
        query = "SELECT state, query FROM pg_stat_activity WHERE datname = %s AND usename = 'owner' AND (xact_start IS NOT NULL)"
        assert admin.execute(query, [database]).fetchall() == []
        query = (
            "SELECT l.mode, l.relation::regclass FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)"
            " WHERE a.datname = %s AND a.usename = 'owner'"
        )
        assert admin.execute(query, [database]).fetchall() == []


def send(client: WireClient, statement: str, *, extended: bool) -> None:
    if extended:
        client.send(m.parse(statement), m.bind(), m.describe_portal(), m.execute(), m.sync())
    else:
        client.send(m.query(statement))


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_what_is_approved_runs_and_is_written_down(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str, extended: bool
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        send(client, "DELETE FROM accounts WHERE id <= 50 RETURNING id", extended=extended)
        name = held(client)
        assert_nothing_is_open(postgres, database)
        with postgres.admin(database) as admin:
            assert admin.execute("SELECT count(*) FROM accounts").fetchone() == (5000,)
        assert metric(gate, "sidegate_holds_open") == 1
        shown = run_sidegate("approvals", "show", name, SIDEGATE_STATE=str(gate.state)).stdout
        assert "50" in shown
        decide(gate, issuer, "approve", name, "--comment", "spring cleaning")
        replies = client.receive_until_ready()
        assert m.CommandComplete("DELETE 50") in replies
        assert sum(isinstance(reply, m.DataRow) for reply in replies) == 50
        assert client.rows("SELECT count(*) FROM accounts") == [(b"4950",)]
    for event, members in (
        ("Held", {"rowsMeasured": 50}),
        ("ApprovalDecided", {"phase": "Approved", "comment": "spring cleaning"}),
        ("HoldEnded", {"outcome": "Approved"}),
        ("StatementExecuted", {"outcome": "DELETE 50"}),
    ):
        wait_for_event(gate, event, approval=name, **members)
    processes.wait_until(lambda: phase_of(gate, name) == "executed", "the outcome to be written down")
    assert metric(gate, "sidegate_hold_seconds_count", outcome="Approved") >= 1


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_what_is_denied_does_not_run(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str, extended: bool
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        send(client, "DROP TABLE accounts", extended=extended)
        name = held(client)
        assert_nothing_is_open(postgres, database)
        decide(gate, issuer, "deny", name, "--comment", "we need it")
        error = error_in(client.receive_until_ready())
        assert (error.severity, error.sqlstate) == ("ERROR", "42501")
        assert "we need it" in error.message
        assert name in error.message
        assert client.rows("SELECT count(*) FROM accounts") == [(b"5000",)]


def test_what_a_fetch_runs_is_shown_with_its_values_and_the_role_and_path_in_force(
    postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    """Its portal was bound before a rule held it."""
    text = "INSERT INTO prod.settings VALUES ($1, 'on') RETURNING key"
    with running(config_with(postgres, issuer, role="owner")) as gate, wire(gate, issuer, database, "owner") as client:
        client.ask("SET search_path = prod, public")
        client.ask("BEGIN")
        client.send(m.parse(text, "s", [25]), m.bind([b"night\n  runs"], statement="s", portal="p"), m.sync())
        client.receive_until_ready()
        gate.reload(config_with(postgres, issuer, PROD, role="owner"))
        client.send(m.query("FETCH ALL FROM p -- runs: SELECT 1"))
        name = held(client)
        page = run_sidegate("approvals", "show", name, SIDEGATE_STATE=str(gate.state)).stdout
        assert f"database {database} as owner\n  path       prod, public\n" in page
        assert (
            "  statement\n    | FETCH ALL FROM p -- runs: SELECT 1\n"
            f"  runs\n    | {text}\n    $1 (text) =\n      | 'night\n      |   runs'\n"
        ) in page
        decide(gate, issuer, "approve", name)
        assert m.DataRow((b"night\n  runs",)) in client.receive_until_ready()
        client.ask("ROLLBACK")


@pytest.mark.parametrize("inner", ["EXECUTE d", "DEALLOCATE d", "PREPARE e AS SELECT 1"])
def test_an_execute_that_leads_to_another_name_runs_nothing(gate: GateProcess, issuer: Issuer, database: str, inner: str) -> None:
    """The target would run what it leads to: the same statement sent past the gate does."""
    with wire(gate, issuer, database, "owner") as client:
        client.ask("PREPARE d AS INSERT INTO prod.settings VALUES ('a', 'b')")
        client.send(m.parse(inner, "s"), m.sync())
        client.receive_until_ready()
        error = error_in(client.ask("EXECUTE s"))
        assert (error.sqlstate, "is itself a statement" in error.message) == ("42501", True)
        assert client.rows("SELECT count(*) FROM prod.settings WHERE key = 'a'") == [(b"0",)]
        assert client.rows("SELECT name FROM pg_prepared_statements ORDER BY name") == [(b"d",), (b"s",)]


def test_whoever_asks_cannot_approve(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query("DROP TABLE accounts"))
        name = held(client)
        for token in (
            issuer.token("ada", groups=["dba"]),
            issuer.token("dana", groups=["readers"]),
            issuer.token("dana", groups=["dba"], exp=1),
        ):
            done = run_sidegate(
                "approve", name, "--config", gate.config_file, check=False, SIDEGATE_STATE=str(gate.state), SIDEGATE_TOKEN=token
            )
            assert done.returncode != 0
        decide(gate, issuer, "deny", name)
        assert error_in(client.receive_until_ready()).sqlstate == "42501"


def test_an_approval_that_comes_after_the_client_left_counts_once(gate: GateProcess, issuer: Issuer, database: str) -> None:
    statement = "DELETE FROM accounts WHERE id BETWEEN 101 AND 150"
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query(statement))
        name = held(client)
    wait_for_event(gate, "SessionClosed", reason="the client left")
    assert phase_of(gate, name) == "pending"
    decide(gate, issuer, "approve", name)
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query("DELETE FROM accounts WHERE id BETWEEN 101 AND 151"))  # another statement is another question
        other = held(client)
        assert other != name
    with wire(gate, issuer, database, "owner") as client:
        replies = client.ask(statement)
        assert m.CommandComplete("DELETE 50") in replies
        assert not [reply for reply in replies if isinstance(reply, m.NoticeResponse)]
        client.ask("INSERT INTO accounts SELECT n, 'again' FROM generate_series(101, 150) AS n")
        client.send(m.query(statement))
        again = held(client)
        assert again != name
        decide(gate, issuer, "deny", again)
        assert error_in(client.receive_until_ready()).sqlstate == "42501"


def test_two_sessions_with_the_same_statement_share_a_request_and_one_runs(
    gate: GateProcess, issuer: Issuer, database: str
) -> None:
    with wire(gate, issuer, database, "owner") as first, wire(gate, issuer, database, "owner") as second:
        for client in (first, second):
            client.send(m.query("DELETE FROM accounts WHERE id <= 11"))
        name, same = held(first), held(second)
        assert name == same
        decide(gate, issuer, "approve", name)
        outcomes = []
        for client in (first, second):
            replies = client.receive_until_ready()
            outcomes.append(m.CommandComplete("DELETE 11") in replies)
        assert sorted(outcomes) == [False, True]


def test_nobody_decides_in_time(postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    holds = HoldsConfig(timeout_s=1.5, in_transaction_timeout_s=600.0, notice_interval_s=0.4)
    config = config_with(postgres, issuer, DDL, role="owner", change=lambda target: replace(target, holds=holds))
    with running(config) as gate, wire(gate, issuer, database, "owner") as client:
        client.send(m.query("DROP TABLE accounts"))
        name = held(client)
        replies = client.receive_until_ready()
        notices = [reply.message for reply in replies if isinstance(reply, m.NoticeResponse)]
        assert len(notices) >= 2
        assert all("still held" in notice and name in notice for notice in notices)
        error = error_in(replies)
        assert "ApprovalExpired" in error.fields["D"]
        assert name in error.message
        decide(gate, issuer, "approve", name)  # later still counts
        assert m.CommandComplete("DROP TABLE") in client.ask("DROP TABLE accounts")


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_inside_of_a_transaction_the_short_limit_holds(
    postgres: PostgresServer, issuer: Issuer, database: str, extended: bool
) -> None:
    holds = HoldsConfig(timeout_s=600.0, in_transaction_timeout_s=1.0)
    config = config_with(postgres, issuer, BIG, role="owner", change=lambda target: replace(target, holds=holds))
    with running(config) as gate, wire(gate, issuer, database, "owner") as client:
        client.ask("BEGIN")
        client.ask("INSERT INTO audit_trail (what) VALUES ('kept')")
        client.ask("SAVEPOINT s")
        send(client, "DELETE FROM accounts", extended=extended)
        held(client)
        replies = client.receive_until_ready()
        assert "ApprovalExpired" in error_in(replies).fields["D"]
        assert not any(
            isinstance(reply, m.NoticeResponse) for reply in replies
        )  # "still held", and in the same moment not any more
        assert replies[-1] == m.ReadyForQuery("E")
        client.ask("ROLLBACK TO s")
        assert client.ask("COMMIT")[-1] == m.ReadyForQuery("I")
        assert client.rows("SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM audit_trail)") == [(b"5000", b"1")]


def test_what_was_approved_is_all_that_may_change(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    with postgres.admin(database) as admin, wire(gate, issuer, database, "owner") as client:
        admin.execute("INSERT INTO audit_trail (what) SELECT 'old' FROM generate_series(1, 20)")
        client.send(m.query("DELETE FROM audit_trail WHERE what = 'old'"))
        name = held(client)
        admin.execute("INSERT INTO audit_trail (what) SELECT 'old' FROM generate_series(1, 5)")
        decide(gate, issuer, "approve", name)
        error = error_in(client.receive_until_ready())
        assert "ImpactExceedsApproval" in error.fields["D"]
        assert admin.execute("SELECT count(*) FROM audit_trail").fetchone() == (25,)
        assert_nothing_is_open(postgres, database)


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_a_cancel_of_a_measured_statement_leaves_nothing_open(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str, extended: bool
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        assert client.key is not None
        with postgres.admin(database) as admin, admin.transaction():
            admin.execute("LOCK TABLE accounts")  # the statement that is measured waits behind it
            send(client, "DELETE FROM accounts WHERE id <= 100", extended=extended)
            processes.wait_until(
                lambda: any(each.wait_event == "relation" for each in postgres.sessions(database, "owner")),
                "the statement to wait",
            )
            with WireClient.tcp("127.0.0.1", gate.port) as other:
                other.send(m.cancel_request(client.key.pid, client.key.key))
                assert other.is_closed_by_peer()
            replies = client.receive_until_ready()
            assert error_in(replies).sqlstate == "57014"
            assert replies[-1] == m.ReadyForQuery("I")
            assert_nothing_is_open(postgres, database)
        assert client.rows("SELECT count(*) FROM accounts") == [(b"5000",)]


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_a_client_that_leaves_a_measured_statement_leaves_nothing_open(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str, extended: bool
) -> None:
    with postgres.admin(database) as admin, admin.transaction():
        admin.execute("LOCK TABLE accounts")
        with wire(gate, issuer, database, "owner") as client:
            send(client, "DELETE FROM accounts WHERE id <= 5", extended=extended)
            processes.wait_until(
                lambda: any(each.wait_event == "relation" for each in postgres.sessions(database, "owner")),
                "the statement to wait",
            )
    postgres.wait_for_sessions(0, database, "owner")
    with postgres.admin(database) as admin:
        assert admin.execute("SELECT count(*) FROM accounts").fetchone() == (5000,)  # never allowed, so never done
    assert_nothing_is_open(postgres, database)


def test_what_waits_behind_a_hold_is_answered_in_order(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        client.send(
            m.query("SELECT 1"), m.query("INSERT INTO prod.settings VALUES ('a', 'b')"), m.query("SELECT 2"), m.parse("SELECT 3"),
            m.bind(), m.execute(), m.sync(),
        )  # fmt: skip
        assert m.DataRow((b"1",)) in client.receive_until_ready()
        name = held(client)
        decide(gate, issuer, "approve", name)
        replies = client.receive_until_ready(3)
        seen = [reply for reply in replies if isinstance(reply, (m.CommandComplete, m.DataRow))]
        assert seen == [
            m.CommandComplete("INSERT 0 1"), m.DataRow((b"2",)), m.CommandComplete("SELECT 1"), m.DataRow((b"3",)), m.CommandComplete("SELECT 1")
        ]  # fmt: skip


def test_a_hold_behind_rows_that_still_stream_cuts_into_none_of_them(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    before = sum(event["event"] == "Held" for event in events_of(gate))
    with wire(gate, issuer, database, "owner") as client:
        client.send(
            m.parse("SELECT repeat('0123456789', 4000000)"), m.bind(), m.execute(),
            m.parse("DROP TABLE accounts", "d"), m.bind(statement="d", portal="d"), m.execute("d"), m.sync(),
        )  # fmt: skip
        name = wait_for_event(gate, "Held", before + 1)["approval"]
        processes.wait_until(
            lambda: any(each.wait_event == "ClientWrite" for each in postgres.sessions(database)),
            "the target to wait for the client",
        )
        decide(gate, issuer, "deny", name)
        replies = client.receive_until_ready()
        assert m.DataRow((b"0123456789" * 4_000_000,)) in replies
        assert error_in(replies).sqlstate == "42501"
        assert client.rows("SELECT count(*) FROM accounts") == [(b"5000",)]


def test_a_flood_behind_a_hold_is_not_kept_in_memory(gate: GateProcess, issuer: Issuer, database: str) -> None:
    filler = m.query(f"SELECT length('{'x' * 100_000}')")
    with WireClient.tcp("127.0.0.1", gate.port, timeout_s=2) as client:
        client.log_in("owner", database, gate.endpoint(issuer).password("owner"))
        client.send(m.query("INSERT INTO prod.settings VALUES ('c', 'd')"))
        name = held(client)
        relayed = metric(gate, "sidegate_relayed_bytes_total", side="client")
        with pytest.raises(TimeoutError):  # once everything between us and the gate is full
            client.send(filler * 1000)
        assert metric(gate, "sidegate_relayed_bytes_total", side="client") - relayed < 4 << 20
    processes.wait_until(lambda: metric(gate, "sidegate_holds_open") == 0, "the client's end to be noticed")
    assert phase_of(gate, name) == "pending"


def test_without_a_place_for_requests_what_must_be_approved_is_refused(
    postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    with running(config_with(postgres, issuer, DDL, role="owner")) as gate, wire(gate, issuer, database, "owner") as client:
        shutil.rmtree(gate.state / "approvals")
        error = error_in(client.ask("DROP TABLE accounts"))
        assert "ApprovalUnavailable" in error.fields["D"]
        assert error.fields["H"]
        assert client.rows("SELECT count(*) FROM accounts") == [(b"5000",)]


def test_the_recording_of_a_hold_can_be_replayed(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query("DELETE FROM accounts WHERE id <= 13"))
        name = held(client)
        decide(gate, issuer, "deny", name, "--comment", "not these")
        client.receive_until_ready()
        client.send(m.terminate())
        assert client.read_to_end() == b""
    closed = wait_for_event(gate, "SessionClosed", reason="the client ended the session")
    path = gate.state / "recordings" / "shop" / "shop-db" / closed["recording"]
    shown = run_sidegate("replay", path).stdout
    for part in ("DELETE FROM accounts WHERE id <= 13", name, "not these"):
        assert part in shown
    assert any(found.path == path and found.is_ok for found in recordings(gate))


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_rows_that_a_trigger_deletes_count_against_the_limit(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str, extended: bool
) -> None:
    with postgres.admin(database) as admin:
        admin.execute(
            "CREATE FUNCTION purge() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN DELETE FROM accounts WHERE id <= 400; RETURN NULL; END $$;"
            " CREATE TRIGGER purge AFTER INSERT ON audit_trail EXECUTE FUNCTION purge()"
        )
    with wire(gate, issuer, database, "owner") as client:
        send(client, "INSERT INTO audit_trail (what) VALUES ('x')", extended=extended)
        name = held(client)
        assert "400" in run_sidegate("approvals", "show", name, SIDEGATE_STATE=str(gate.state)).stdout
        assert_nothing_is_open(postgres, database)
        decide(gate, issuer, "deny", name)
        assert error_in(client.receive_until_ready()).sqlstate == "42501"
        assert client.rows("SELECT count(*) FROM accounts") == [(b"5000",)]


@pytest.mark.parametrize("first", ["ROLLBACK", "ROLLBACK TO SAVEPOINT s"])
def test_a_failed_transaction_that_a_pipeline_leaves_hides_no_rows(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, database: str, first: str
) -> None:
    """The status that the target told last isn't the one in which the statement runs."""
    with wire(gate, issuer, database, "owner") as client:
        for text in ("BEGIN", "SAVEPOINT s", "SELECT 1 / 0"):
            client.send(m.query(text))
            client.receive_until_ready()
        texts = (first, "DELETE FROM accounts WHERE id <= 50", "COMMIT")
        client.send(*[part for text in texts for part in (m.parse(text), m.bind(), m.execute())], m.sync())
        error = error_in(client.receive_until_ready())
        assert "same pipeline" in error.message
    with postgres.admin(database) as admin:
        assert admin.execute("SELECT count(*) FROM accounts").fetchone() == (5000,)
