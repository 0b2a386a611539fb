"""`sidegate local`: the same gate from manifests, which are watched; what can't be used leaves the last good rules in force."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from sidegate.audit.sinks import verify_lines
from tests.integration.gate.conftest import Connection, run_sidegate
from tests.support import processes
from tests.support.gate import SIGNS_OF_TROUBLE, token_for
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer, password_of

TARGET = """
apiVersion: sidegate.dev/v1alpha1
kind: ProtectedTarget
metadata: {{name: shop-db}}
spec:
  protocol: Postgres
  environment: production
  endpoint: {{host: 127.0.0.1, port: 5432}}
  port: {port}
  tls: {{client: {{plainText: LoopbackOnly}}, target: {{mode: Loopback}}}}
  identity:
    issuers: [{{url: "{issuer}", audiences: ["{audience}"], claims: {{username: email, groups: groups}}}}]
  credentials: [{{role: readonly, secretRef: {{name: shop-db-readonly, key: password}}}}]
"""
POLICY = """
apiVersion: sidegate.dev/v1alpha1
kind: AccessPolicy
metadata: {{name: readers}}
spec:
  targets: {{names: [shop-db]}}
  subjects: [{{groups: [readonly]}}]
  grants: [{{postgres: {{databases: ["*"], role: readonly, allow: [Read, Explain]}}}}]
{rules}"""
MASK = "  rules: [{name: cards, match: {columns: [card]}, action: Mask}]\n"


class Local:
    """`sidegate local` over a directory of manifests."""

    def __init__(self, directory: Path, postgres: PostgresServer, issuer: Issuer) -> None:
        self.manifests, self.state, self.log = directory / "manifests", directory / "state", directory / "log"
        secrets = directory / "secrets" / "shop-db-readonly"
        secrets.mkdir(parents=True)
        (secrets / "password").write_text(password_of("readonly"))
        self.manifests.mkdir()
        self.issuer = issuer
        self.port = processes.free_port()
        target = TARGET.format(port=self.port, issuer=issuer.url, audience=issuer.audience)
        (self.manifests / "target.yaml").write_text(target)
        self.write_policy("")
        command: list[str | Path] = [
            sys.executable, "-m", "sidegate.cli.main", "local", "--manifests", self.manifests, "--secrets", directory / "secrets",
            "--state", self.state, "--address", f"shop-db={postgres.directory}:{postgres.port}",
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] = processes.start(command, self.log)
        self.wait_for("ready, listening")

    def write_policy(self, rules: str) -> None:
        fresh = self.manifests / "policy.yaml.new"
        fresh.write_text(POLICY.format(rules=rules))
        fresh.replace(self.manifests / "policy.yaml")

    def read_log(self) -> str:
        return self.log.read_text()

    def wait_for(self, words: str, times: int = 1) -> None:
        def said() -> bool:
            assert self.process.poll() is None, self.read_log()
            return self.read_log().count(words) >= times

        processes.wait_until(said, f"`{words}` in the log", timeout_s=20)

    def poke(self) -> None:
        os.kill(self.process.pid, signal.SIGHUP)

    def connect(self, database: str) -> Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="readonly", dbname=database, password=token_for(self.issuer, "readonly"), autocommit=True
        )  # fmt: skip


@pytest.fixture
def local(tmp_path: Path, postgres: PostgresServer, issuer: Issuer) -> Iterator[Local]:
    running = Local(tmp_path, postgres, issuer)
    yield running
    assert processes.stop(running.process, timeout_s=20) == 0, running.read_log()
    assert [sign for sign in SIGNS_OF_TROUBLE if sign in running.read_log()] == []
    assert verify_lines((running.state / "shop-db" / "audit.jsonl").read_bytes().splitlines(keepends=True)).problems == []
    run_sidegate("recordings", "verify", SIDEGATE_STATE=str(running.state))


def test_changed_manifests_take_force_for_open_sessions(local: Local, shop: str) -> None:
    query = "SELECT card FROM customers WHERE id = 1"
    with local.connect(shop) as connection:
        assert connection.execute(query).fetchone() == ("5555555555554444",)
        local.write_policy(MASK)
        local.poke()
        local.wait_for("is in force", 2)
        assert connection.execute(query).fetchone() == ("[masked]",)


def test_manifests_that_cannot_be_used_change_nothing(local: Local, shop: str, tmp_path: Path) -> None:
    local.write_policy(MASK)
    local.poke()
    local.wait_for("is in force", 2)
    with local.connect(shop) as connection:
        broken: list[Callable[[], object]] = [
            lambda: local.write_policy("  rules: [{name: bad, match: {nothing: 1}, action: Mask}]\n"),
            lambda: (local.manifests / "policy.yaml").write_text("{"),
            lambda: (local.manifests / "target.yaml").unlink(),
            lambda: local.manifests.rename(tmp_path / "elsewhere"),
        ]
        for number, break_it in enumerate(broken, 1):
            break_it()
            local.poke()
            local.wait_for("changed manifests are not used", number)
            assert connection.execute("SELECT card FROM customers WHERE id = 1").fetchone() == ("[masked]",)
        local.connect(shop).close()


def test_a_target_that_comes_or_goes_is_told_of(local: Local, shop: str) -> None:
    text = (local.manifests / "target.yaml").read_text()
    (local.manifests / "more.yaml").write_text(text.replace("name: shop-db}", "name: other-db}"))
    local.poke()
    local.wait_for("target `other-db` is new")
    (local.manifests / "target.yaml").unlink()
    local.poke()
    local.wait_for("target `shop-db` is gone")
    with local.connect(shop) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
