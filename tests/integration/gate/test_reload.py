"""A new config takes force at once, for open sessions too; one that can't be used changes nothing and is reported."""

from __future__ import annotations

import threading
import urllib.error
from collections.abc import Callable, Iterator

import msgspec
import psycopg
import pytest

from sidegate.policy.config import (
    ApprovalConfig,
    ColumnMatch,
    GateConfig,
    IdentityConfig,
    RuleAction,
    RuleConfig,
    StatementMatch,
    TargetConfig,
    encode_config,
)
from tests.integration.gate.conftest import (
    config_with,
    connect,
    error_in,
    last_words,
    metric,
    replace,
    rewrite,
    running,
    wait_for_event,
    wire,
)
from tests.support import processes
from tests.support import wire_messages as m
from tests.support.gate import GateProcess, gate_config, open_policy, token_for
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer
from tests.support.wire import LoginRefused, WireClient

CARDS = RuleConfig("cards", RuleAction.MASK, columns=(ColumnMatch("card"),))
NO_DELETES = RuleConfig("no-deletes", RuleAction.DENY, statements=StatementMatch(kinds=("Delete",)))
HELD = RuleConfig(
    "held",
    RuleAction.REQUIRE_APPROVAL,
    statements=StatementMatch(kinds=("Delete",)),
    approval=ApprovalConfig(approver_groups=("dba",)),
)


@pytest.fixture
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer)) as gate:
        yield gate


def test_a_lost_grant_ends_the_session(gate: GateProcess, postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    with wire(gate, issuer, shop) as client, wire(gate, issuer, shop) as busy:
        busy.send(m.query("SELECT pg_sleep(60), 'lost grant'"))
        postgres.wait_for_query("lost grant", shop)
        gate.reload(gate_config(postgres, issuer, policies=[open_policy("readonly")]))
        for each in (client, busy):
            error = last_words(each)
            assert error.sqlstate == "57P01"
            assert "SessionEnded" in error.fields["D"]
            assert gate.config.revision in error.message
    postgres.wait_for_sessions(0, shop, "readwrite")  # the statement that ran was cancelled, not left behind
    with pytest.raises(psycopg.OperationalError, match="no policy"):
        connect(gate, issuer, shop)


def test_a_session_that_ends_in_the_middle_of_a_row_says_nothing_inside_of_it(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, shop: str
) -> None:
    with wire(gate, issuer, shop) as client:
        client.send(m.query("SELECT repeat('0123456789', 4000000), 'cut row'"))
        processes.wait_until(
            lambda: any(each.wait_event == "ClientWrite" and "cut row" in each.query for each in postgres.sessions(shop)),
            "the target to wait for the client",
        )
        gate.reload(gate_config(postgres, issuer, policies=[open_policy("readonly")]))
        assert isinstance(client.receive(), m.RowDescription)
        rest = client.read_to_end()
        assert rest.startswith(b"D")
        assert len(rest) < 40_000_000
        assert set(rest[20:]) <= set(b"0123456789")
    postgres.wait_for_sessions(0, shop, "readwrite")


def test_a_mask_and_a_rule_hold_from_the_next_statement_on(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, shop: str
) -> None:
    query = "SELECT card FROM customers WHERE id = 1"
    with connect(gate, issuer, shop) as connection:
        connection.execute("SELECT 1 WHERE false")
        before = connection.execute(query, prepare=True).fetchone()
        assert before is not None
        assert before[0].isdigit()
        gate.reload(config_with(postgres, issuer, CARDS, NO_DELETES))
        assert connection.execute(query, prepare=True).fetchone() == ("[masked]",)
        assert connection.execute(query).fetchone() == ("[masked]",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="a rule denies"):
            connection.execute("DELETE FROM accounts WHERE id = -1")
        gate.reload(config_with(postgres, issuer))
        assert connection.execute(query).fetchone() == before
        connection.execute("DELETE FROM accounts WHERE id = -1")


def test_a_statement_prepared_before_a_rule_is_refused_after_it(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, shop: str
) -> None:
    with wire(gate, issuer, shop) as client:
        client.send(m.parse("DELETE FROM accounts WHERE id = -1", "d"), m.sync())
        client.receive_until_ready()
        gate.reload(config_with(postgres, issuer, NO_DELETES))
        client.send(m.bind(statement="d"), m.execute(), m.sync())
        assert error_in(client.receive_until_ready()).sqlstate == "42501"
        assert client.rows("SELECT 1") == [(b"1",)]


def test_a_held_statement_whose_rule_is_gone_runs_and_one_whose_rule_denies_now_is_refused(
    postgres: PostgresServer, issuer: Issuer, fresh_database: str
) -> None:
    for after, sqlstate in (((), None), ((NO_DELETES,), "42501")):
        with running(config_with(postgres, issuer, HELD)) as gate, wire(gate, issuer, fresh_database) as client:
            client.send(m.query("DELETE FROM orders WHERE id = 1"))
            notice = client.receive()
            assert isinstance(notice, m.NoticeResponse)
            gate.reload(config_with(postgres, issuer, *after))
            replies = client.receive_until_ready()
            if sqlstate is None:
                assert m.CommandComplete("DELETE 1") in replies
            else:
                assert error_in(replies).sqlstate == sqlstate


def test_an_issuer_that_is_trusted_no_longer_takes_its_sessions_with_it(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, shop: str
) -> None:
    with Issuer(now=None) as other, wire(gate, issuer, shop) as client:

        def change(target: TargetConfig) -> TargetConfig:
            return replace(target, identity=IdentityConfig(issuers=(other.config(),)))

        gate.reload(config_with(postgres, issuer, change=change))
        assert last_words(client).sqlstate == "57P01"
        with connect(gate, other, shop) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_session_that_logs_in_while_the_rules_change_is_held_to_the_new_ones(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, shop: str
) -> None:
    with WireClient.tcp("127.0.0.1", gate.port) as client:
        client.send(m.startup({"user": "readwrite", "database": shop}))
        assert isinstance(client.receive(), m.Authentication)
        gate.reload(gate_config(postgres, issuer, policies=[open_policy("readonly")]))
        client.send(m.password(token_for(issuer, "readwrite")))
        error = client.receive()
        assert isinstance(error, m.ErrorResponse)
        assert error.sqlstate == "42501"


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda good: good[: len(good) // 2], id="cut"),
        pytest.param(lambda good: b"", id="empty"),
        pytest.param(lambda good: good.replace(b'{"target"', b'{"format":2,"target"'), id="another format"),
        pytest.param(lambda good: good.replace(b'"readwrite"', b'"postgres"'), id="changed by hand"),
        pytest.param(lambda good: good.replace(b'{"target"', b'{"new_rule":1,"target"'), id="an unknown field"),
    ],
)
def test_a_broken_config_leaves_the_last_good_one_in_force_and_is_reported(
    gate: GateProcess, postgres: PostgresServer, issuer: Issuer, shop: str, broken: Callable[[bytes], bytes]
) -> None:
    good = encode_config(gate.config)
    data = broken(good)
    assert data != good
    with connect(gate, issuer, shop) as connection:
        rewrite(gate, data)
        event = wait_for_event(gate, "ConfigRefused")
        assert event["revision"] == gate.config.revision
        assert event["problem"]
        assert connection.execute("SELECT 1").fetchone() == (1,)
        connect(gate, issuer, shop).close()
        assert "config refused" in gate.read_log()
        assert metric(gate, "sidegate_config_reload_failures_total") == 1
        assert metric(gate, "sidegate_config_info", revision=gate.config.revision) == 1
        assert f"revision {gate.config.revision} stays in force" in gate.page("/ready")
        rewrite(gate, good)
        processes.wait_until(lambda: gate.page("/ready") == "ready\n", "the gate to be content again")


def test_a_config_of_another_target_is_refused(gate: GateProcess, postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    rewrite(gate, encode_config(config_with(postgres, issuer, change=lambda target: replace(target, name="other-db"))))
    assert "other-db" in wait_for_event(gate, "ConfigRefused")["problem"]
    connect(gate, issuer, shop).close()


def test_without_a_config_everyone_is_refused_until_it_comes(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    gate = GateWithoutConfig(config_with(postgres, issuer))
    with gate:
        assert gate.state_of("/ready") == 503
        assert gate.state_of("/started") == 200  # or a missing config would keep the database beside it down
        assert gate.state_of("/live") == 200
        with WireClient.tcp("127.0.0.1", gate.port) as client:
            with pytest.raises(LoginRefused) as found:
                client.log_in("readwrite", shop, "x")
            assert found.value.error.severity == "FATAL"
            assert found.value.error.sqlstate == "57P03"
            assert "ConfigMissing" in found.value.error.fields["D"]
            assert found.value.error.fields["H"]
        gate.reload(gate.config)
        assert gate.state_of("/ready") == 200
        with connect(gate, issuer, shop) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        gate.stop()


class GateWithoutConfig(GateProcess):
    """Starts where no config is."""

    def _write_config(self, config: GateConfig) -> None:
        if self._process is None:
            self._config = config
        else:
            super()._write_config(config)

    def _has_settled(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None or "ready, listening" in self.read_log()

    def state_of(self, page: str) -> int:
        try:
            self.page(page)
        except urllib.error.HTTPError as error:
            return error.code
        return 200


# The token's life


def test_the_end_of_the_token_ends_the_session(postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    def change(target: TargetConfig) -> TargetConfig:
        return replace(target, identity=msgspec.structs.replace(target.identity, clock_skew_s=0))

    with running(config_with(postgres, issuer, change=change)) as gate:
        token = issuer.token("ada", groups=["readwrite"], exp=int(issuer.clock()) + 2)
        with WireClient.tcp("127.0.0.1", gate.port) as client:
            client.log_in("readwrite", shop, token)
            client.send(m.query("SELECT pg_sleep(60), 'outlived'"))
            error = last_words(client)
            assert error.sqlstate == "57P01"
            assert "token's life is over" in error.message
        postgres.wait_for_sessions(0, shop, "readwrite")
        assert wait_for_event(gate, "SessionClosed")["reason"].startswith("SessionEnded")


def test_many_sessions_and_reloads_at_once(gate: GateProcess, postgres: PostgresServer, issuer: Issuer, shop: str) -> None:
    """Whoever works while the rules change sees the old ones or the new ones, never anything else."""
    problems: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        try:
            with connect(gate, issuer, shop) as connection:
                while not stop.is_set():
                    row = connection.execute("SELECT card FROM customers WHERE id = 1").fetchone()
                    assert row is not None
                    assert row[0] == "[masked]" or len(row[0]) in {15, 16}
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for round_ in range(10):
        gate.reload(config_with(postgres, issuer, *((CARDS,) if round_ % 2 == 0 else ())))
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
