"""Held statements that the operator's gateway keeps: psql, a gate and a real PostgreSQL, with decisions that are sealed, forged, late and lost."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidegate import __version__
from sidegate.policy.config import ApprovalConfig, HoldsConfig, RuleAction, RuleConfig, StatementMatch
from tests.integration.gate.conftest import (
    config_with,
    error_in,
    events_of,
    metric,
    replace,
    rewrite,
    running,
    running_workers,
    wait_for_event,
    wire,
)
from tests.support import processes
from tests.support import wire_messages as m
from tests.support.fake_gateway import STRANGER, FakeGateway, Fault
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer, embedded_installation
from tests.support.wire import WireClient

DANA, DORA = "dana@example.com", "dora@example.com"
pytestmark = pytest.mark.filterwarnings("ignore:unclosed :ResourceWarning")  # the fake's own, see its `close`
DBA = ApprovalConfig(approver_groups=("dba",))
BIG = RuleConfig(
    "big", RuleAction.REQUIRE_APPROVAL, statements=StatementMatch(kinds=("Delete", "Update"), rows_more_than=10), approval=DBA
)
TWO = RuleConfig(
    "two", RuleAction.REQUIRE_APPROVAL, statements=StatementMatch(kinds=("DDL",)),
    approval=ApprovalConfig(approver_groups=("dba",), required=2),
)  # fmt: skip
SOON = RuleConfig(
    "soon", RuleAction.REQUIRE_APPROVAL, statements=StatementMatch(kinds=("Insert",), schemas=("prod",)),
    approval=ApprovalConfig(approver_groups=("dba",), expires_after_s=3),
)  # fmt: skip
STATEMENT = "DELETE FROM accounts WHERE id <= 50"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGateway]:
    with FakeGateway(tmp_path_factory.mktemp("gateway")) as running_gateway:
        yield running_gateway


@pytest.fixture(scope="module")
def gate(shared: FakeGateway, postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    holds = HoldsConfig(timeout_s=60, notice_interval_s=0.5)
    config = config_with(postgres, issuer, BIG, TWO, SOON, role="owner", change=lambda target: replace(target, holds=holds))
    with running(config, arguments=shared.arguments) as started:
        yield started


@pytest.fixture
def gateway(shared: FakeGateway) -> Iterator[FakeGateway]:
    """The shared one, empty and honest again after each test."""
    yield shared
    shared.faults.clear()
    shared.lie = None
    shared.come_back()
    shared.objects.clear()
    shared.requests.clear()
    shared.outcomes.clear()


@pytest.fixture
def database(fresh_database: str) -> str:
    return fresh_database


def held(client: WireClient) -> str:
    notice = client.receive_until(m.NoticeResponse)[-1]
    assert isinstance(notice, m.NoticeResponse)
    return next(word for word in notice.message.split() if word.startswith("ar-"))


def refused(client: WireClient) -> str:
    """All that the one error says."""
    error = error_in(client.receive_until_ready())
    assert (error.severity, error.sqlstate) == ("ERROR", "42501")
    return " ".join(error.fields.values())


def accounts(server: PostgresServer, database: str) -> int:
    with server.admin(database) as admin:
        row = admin.execute("SELECT count(*) FROM accounts").fetchone()
        assert row is not None
        return int(row[0])


def start_psql(gate: GateProcess, issuer: Issuer, database: str, statement: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment |= gate.endpoint(issuer).environment("owner", database)
    return subprocess.Popen(
        [embedded_installation().program("psql"), "-X", "-A", "-t", "-c", statement],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_psql_waits_for_an_approval_and_its_statement_runs_once(
    gate: GateProcess, gateway: FakeGateway, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    psql = start_psql(gate, issuer, database, STATEMENT)
    name = gateway.only()
    spec = gateway.objects[name]["spec"]
    assert (spec["statement"], spec["impact"]["rows"], spec["principal"]["username"]) == (STATEMENT, 50, "ada@example.com")
    assert spec["approvers"] == {"groups": ["dba"]}
    assert accounts(postgres, database) == 5000
    assert not (gate.state / "approvals").exists()
    gateway.decide(name, DANA, comment="spring cleaning")
    out, err = psql.communicate(timeout=30)
    assert (psql.returncode, out) == (0, "DELETE 50\n")
    assert name in err
    assert accounts(postgres, database) == 4950
    assert gateway.phase(name) == "Executed"
    wait_for_event(gate, "ApprovalDecided", approval=name, phase="Approved", comment="spring cleaning")
    gateway.wait_for(lambda: name in gateway.outcomes)
    assert (gateway.outcomes[name].result, gateway.outcomes[name].rows) == ("Succeeded", 50)
    again = start_psql(gate, issuer, database, STATEMENT.replace("50", "90"))
    gateway.wait_for(lambda: len(gateway.objects) == 2)  # another statement is another request
    again.terminate()
    again.communicate(timeout=30)
    assert accounts(postgres, database) == 4950


def test_psql_is_shown_the_comment_of_a_denial(
    gate: GateProcess, gateway: FakeGateway, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    psql = start_psql(gate, issuer, database, STATEMENT)
    gateway.decide(gateway.only(), DANA, "Denied", comment="we still need them")
    out, err = psql.communicate(timeout=30)
    assert (psql.returncode, out) == (1, "")
    assert "we still need them" in err
    assert DANA in err
    assert accounts(postgres, database) == 5000


def _edit(**changes: Any) -> Callable[[FakeGateway, str], object]:
    def edit(gateway: FakeGateway, name: str) -> None:
        gateway.change(name, lambda each: each["spec"].update(changes))
        gateway.decide(name, DANA)

    return edit


def _replay(gateway: FakeGateway, name: str) -> None:
    """A decision that was made for an earlier request for the same."""
    earlier = json.loads(json.dumps(gateway.objects[name]))
    earlier["metadata"].update(name="ar-earlier", uid="uid-earlier")
    gateway.objects["ar-earlier"] = earlier
    entry = gateway.decide("ar-earlier", DANA)
    gateway.mark("ar-earlier", "Executed")
    gateway.change(name, lambda each: each["spec"].update(decisions=[entry]))
    gateway.mark(name, "Approved")


FORGED: dict[str, tuple[str, Callable[[FakeGateway, str], object]]] = {
    "a forged seal": ("SealBroken", lambda gw, name: gw.decide(name, DANA, signature="c2VhbGVk")),
    "a wrong key": ("SealBroken", lambda gw, name: gw.decide(name, DANA, sealed_by=STRANGER)),
    "self-approval": ("Requester", lambda gw, name: gw.decide(name, "ada@example.com")),
    "self-approval behind a prefix": ("Requester", lambda gw, name: gw.decide(name, "oidc:ada@example.com")),
    "an outsider": ("NotAnApprover", lambda gw, name: gw.decide(name, "eve@example.com", groups=["system:masters"])),
    "another request's decision": ("SealBroken", lambda gw, name: gw.decide(name, DANA, sealed_as={"uid": "another"})),
    "a replayed decision": ("SealBroken", _replay),
    "a phase without decisions": ("too few approvals", lambda gw, name: gw.mark(name, "Approved")),
    "an edited statement": ("can't be trusted", _edit(statement="DELETE FROM accounts WHERE id = 1")),
    "edited approvers": ("can't be trusted", _edit(approvers={"users": ["dana@example.com"]})),
    "an edited expiry": ("can't be trusted", _edit(expiresAt="2099-01-01T00:00:00Z")),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_approval_runs_nothing(
    gate: GateProcess, gateway: FakeGateway, postgres: PostgresServer, issuer: Issuer, database: str, what: str
) -> None:
    said, forge = FORGED[what]
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query(STATEMENT))
        name = held(client)
        forge(gateway, name)
        words = refused(client)
        assert said in words
        assert name in words
        assert client.rows("SELECT count(*) FROM accounts") == [(b"5000",)]
        assert ("claim", 200) not in gateway.requests


def test_two_are_needed_where_the_rule_says_so(
    gate: GateProcess, gateway: FakeGateway, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query("DROP TABLE accounts"))
        name = held(client)
        gateway.decide(name, DANA)
        gateway.mark(name, "Approved")
        assert "too few approvals" in refused(client)
        client.send(m.query("ALTER TABLE accounts ADD COLUMN note text"))
        name = held(client)
        gateway.decide(name, DANA)
        gateway.decide(name, DORA)
        assert m.CommandComplete("ALTER TABLE") in client.receive_until_ready()


def test_a_lost_answer_to_the_claim_loses_the_approval_and_runs_nothing(
    gate: GateProcess, gateway: FakeGateway, issuer: Issuer, database: str
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query(STATEMENT))
        name = held(client)
        gateway.faults["claim"] = Fault.LOSE_ANSWER
        gateway.decide(name, DANA)
        assert "counts as lost" in refused(client)
        assert gateway.phase(name) == "Executed"
        gateway.faults.clear()
        client.send(m.query(STATEMENT))
        assert held(client) != name  # it takes a new request
        gateway.decide(list(gateway.objects)[-1], DANA, "Denied")
        refused(client)
        assert client.rows("SELECT count(*) FROM accounts") == [(b"5000",)]


def test_over_a_quota_the_client_is_told_at_once_by_what_and_what_to_do(
    gate: GateProcess, gateway: FakeGateway, issuer: Issuer, database: str
) -> None:
    gateway.faults["submit"] = Fault.OVER_QUOTA
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query(STATEMENT))
        words = refused(client)
        assert client.rows("SELECT count(*) FROM accounts") == [(b"5000",)]
    assert "reason TooManyApprovals, by " in words
    assert "have some decided" in words
    assert [status for operation, status in gateway.requests if operation == "submit"] == [429]


def test_a_gateway_that_is_down_refuses_what_needs_approval_and_nothing_else(
    gate: GateProcess, gateway: FakeGateway, issuer: Issuer, database: str
) -> None:
    gateway.go_down()
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query(STATEMENT))
        words = refused(client)
        assert "ApprovalUnavailable" in words
        assert gateway.url in words
        assert client.rows("SELECT count(*) FROM accounts") == [(b"5000",)]
        assert m.CommandComplete("DELETE 1") in client.ask("DELETE FROM accounts WHERE id = 1")
    processes.wait_until(lambda: "approvals: statements that need approval are refused" in gate.page("/ready"), "the warning", 20)
    assert gate.page("/ready").startswith("ready\n")
    assert metric(gate, "sidegate_gateway_report_age_seconds") > 0
    gateway.come_back()
    processes.wait_until(lambda: "approvals" not in gate.page("/ready"), "the warning to go", 20)


def test_a_hold_outlives_a_restart_of_the_gateway(gate: GateProcess, gateway: FakeGateway, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query(STATEMENT))
        name = held(client)
        gateway.wait_for(lambda: gateway.answered("wait"))
        gateway.go_down()
        client.receive_until(m.NoticeResponse)  # still held
        gateway.come_back()
        gateway.decide(name, DANA)
        assert m.CommandComplete("DELETE 50") in client.receive_until_ready()


def test_an_approval_after_the_client_left_counts_once_also_for_a_gate_that_started_anew(
    gateway: FakeGateway, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    with running(config_with(postgres, issuer, BIG, role="owner"), arguments=gateway.arguments) as gate:
        with wire(gate, issuer, database, "owner") as client:
            client.send(m.query(STATEMENT))
            name = held(client)
        wait_for_event(gate, "SessionClosed", reason="the client left")
        assert gateway.phase(name) == "Pending"
        gate.stop()
        gate.start()
        gateway.decide(name, DANA)
        with wire(gate, issuer, database, "owner") as client:
            client.send(m.query("delete from accounts  where id <= 50"))
            assert m.CommandComplete("DELETE 50") in client.receive_until_ready()
            client.send(m.query("UPDATE accounts SET balance = 0 WHERE id <= 90"))
            assert held(client) != name
        assert gateway.answered("claim") == 1


def test_a_grant_does_not_cover_more_rows_than_were_approved(
    gate: GateProcess, gateway: FakeGateway, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query("DELETE FROM accounts WHERE balance = -7 OR id <= 20"))
        name = held(client)
        with postgres.admin(database) as admin:
            admin.execute("UPDATE accounts SET balance = -7 WHERE id > 4000")
        gateway.decide(name, DANA)
        refused(client)
        assert client.rows("SELECT count(*) FROM accounts") == [(b"5000",)]
    gateway.wait_for(lambda: gateway.phase(name) == "Executed")


def test_a_request_expires_at_the_gate(gate: GateProcess, gateway: FakeGateway, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query("INSERT INTO prod.settings VALUES ('a', 'b')"))
        name = held(client)
        assert "ApprovalExpired" in refused(client)
        assert gateway.phase(name) == "Pending"
        gateway.decide(name, DANA)
        client.send(m.query("INSERT INTO prod.settings VALUES ('a', 'b')"))
        assert held(client) != name
        gateway.decide(list(gateway.objects)[-1], DANA, "Denied")
        refused(client)


def test_a_cancel_withdraws_the_request(gate: GateProcess, gateway: FakeGateway, issuer: Issuer, database: str) -> None:
    psql = start_psql(gate, issuer, database, STATEMENT)
    name = gateway.only()
    gateway.wait_for(lambda: gateway.answered("wait"))
    processes.wait_until(lambda: any(e["event"] == "Held" and e.get("approval") == name for e in events_of(gate)), "the hold")
    psql.send_signal(2)
    _, err = psql.communicate(timeout=30)
    assert psql.returncode != 0, err
    gateway.wait_for(lambda: gateway.phase(name) == "Withdrawn")


def test_the_wrong_authority_is_never_asked(
    tmp_path: Path, gateway: FakeGateway, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    with FakeGateway(tmp_path / "impostor") as impostor:
        impostor.token = gateway.token
        arguments = ["--gateway", impostor.url, "--gateway-token", str(gateway.token_file), "--gateway-ca", str(gateway.ca_file)]
        with (
            running(config_with(postgres, issuer, BIG, role="owner"), arguments=arguments) as gate,
            wire(gate, issuer, database, "owner") as client,
        ):
            client.send(m.query(STATEMENT))
            words = refused(client)
            assert "certificate" in words
            assert str(gateway.ca_file) in words
        assert impostor.requests == []
        assert impostor.objects == {}


@pytest.fixture
def own_gateway(tmp_path: Path) -> Iterator[FakeGateway]:
    """Of one test and its gates alone."""
    with FakeGateway(tmp_path / "gateway") as running_gateway:
        yield running_gateway


def test_the_gate_reports_what_it_enforces_also_before_it_has_a_config_and_when_one_is_refused(
    own_gateway: FakeGateway, postgres: PostgresServer, issuer: Issuer, database: str
) -> None:
    gateway = own_gateway
    config = config_with(postgres, issuer, BIG, role="owner")
    environment = {
        "SIDEGATE_GATEWAY": gateway.url,
        "SIDEGATE_GATEWAY_TOKEN": str(gateway.token_file),
        "SIDEGATE_GATEWAY_CA": str(gateway.ca_file),
        "SIDEGATE_TARGET": "shop/shop-db",
    }
    with running(config, environment=environment) as gate:
        revision = gate.config.revision
        gateway.wait_for(lambda: any(each.revision == revision for each in gateway.reports))
        assert (gateway.reports[-1].version, gateway.reports[-1].problem) == (__version__, None)
        with wire(gate, issuer, database, "owner"):
            gateway.wait_for(lambda: gateway.reports[-1].sessions == 1)
        rewrite(gate, b"{}")
        gateway.wait_for(lambda: gateway.reports[-1].problem)
        assert gateway.reports[-1].revision == revision
        gate.reload(config_with(postgres, issuer, BIG, TWO, role="owner"))
        gateway.wait_for(lambda: gateway.reports[-1].revision == gate.config.revision and not gateway.reports[-1].problem)
        gate.stop()
        assert gateway.reports[-1].is_draining
        gateway.reports.clear()
        gate.config_file.unlink()
        command = ["--config", str(gate.config_file), "--state", str(gate.state), "--listen", f"127.0.0.1:{gate.port}"]
        bare = processes.start(
            [sys.executable, "-m", "sidegate.cli.main", "gate", *command], gate.log, environment={**os.environ, **environment}
        )
        try:
            gateway.wait_for(lambda: gateway.reports, 30)
            assert gateway.reports[0].revision == ""
            assert "can't be read" in (gateway.reports[0].problem or "")
        finally:
            processes.stop(bare, timeout_s=20)


@pytest.mark.parametrize("url", ["http://gateway.example", "https://gateway.example/path", "gateway.example"])
def test_a_gateway_that_is_no_place_is_refused_at_start(tmp_path: Path, url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sidegate.cli.main", "gate", "--config", "x", "--state", str(tmp_path), "--gateway", url],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert url in done.stderr
    assert "https://" in done.stderr


def test_several_workers_share_what_waits_and_take_an_approval_once(
    own_gateway: FakeGateway, postgres: PostgresServer, issuer: Issuer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("", own_gateway.url), ("_TOKEN", str(own_gateway.token_file)), ("_CA", str(own_gateway.ca_file))):
        monkeypatch.setenv(f"SIDEGATE_GATEWAY{name}", value)
    with running_workers(config_with(postgres, issuer, BIG, role="owner"), 2) as gate, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(wire(gate, issuer, database, "owner")) for _ in range(6)]  # the kernel spreads them
        clients[0].send(m.query(STATEMENT))
        request = held(clients[0])
        for each in clients[1:]:
            each.send(m.query(STATEMENT))
            assert held(each) == request
        own_gateway.decide(request, DANA)
        replies = [each.receive_until_ready() for each in clients]
        assert [m.CommandComplete("DELETE 50") in each for each in replies].count(True) == 1
        assert len(own_gateway.objects) == 1
        assert accounts(postgres, database) == 4950
