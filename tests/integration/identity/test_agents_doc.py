"""docs/agents.md is true: its scripts and programs get through a real gate, and its samples are what psql prints."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from psycopg import sql

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.compile import Placement, compile_target
from sidegate.policy.config import GateConfig, PolicyConfig, TargetConfig
from tests.support.gate import GateProcess, gate_config
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

DOC = (Path(__file__).parents[3] / "docs" / "agents.md").read_text("utf-8")
SAMPLES = dict(re.findall(r"^<!-- sample: ([\w-]+) -->\n```console\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL))
PYTHON = re.findall(r"^```python\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)
VARIABLE = (
    (re.compile(r"revision [0-9a-f]{16}"), "revision R"),
    (re.compile(r"ar-\d{8}-\d{6}-\w{4}"), "ar-NAME"),
    (re.compile(r"port \d+ failed"), "port N failed"),
    (re.compile(r"expired \d+ s ago"), "expired N s ago"),
    (re.compile(r"[ \t]+$", re.MULTILINE), ""),
    (re.compile(r"^NOTICE:  still held .*\nDETAIL: .*\nHINT: .*\n", re.MULTILINE), ""),  # as often as the hold lasts
)


def plain(text: str) -> str:
    for pattern, replacement in VARIABLE:
        text = pattern.sub(replacement, text)
    return text.strip()


def script(name: str) -> str:
    """The shell block that speaks of the program `name` in its first lines."""
    (found,) = (block for block in re.findall(r"^```sh\n(#!/bin/sh\n.*?)^```$", DOC, re.MULTILINE | re.DOTALL) if name in block)
    return str(found)


def policies() -> tuple[PolicyConfig, ...]:
    (document,) = (yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL))
    target = ProtectedTarget.model_validate(
        {
            "apiVersion": "sidegate.dev/v1alpha1",
            "kind": "ProtectedTarget",
            "metadata": {"name": "shop-db", "namespace": "shop"},
            "spec": {
                "protocol": "Postgres",
                "environment": "production",
                "endpoint": {"host": "127.0.0.1", "port": 5432},
                "port": 6432,
                "tls": {"client": {"plainText": "LoopbackOnly"}},
                "identity": {"issuers": [{"url": "https://issuer.example", "audiences": ["shop-db"]}]},
                "credentials": [{"role": "readwrite"}],
            },
        }
    )
    compiled = compile_target(target, [AccessPolicy.model_validate(document)], Placement("secrets"))
    assert compiled.config is not None, compiled.findings
    return compiled.config.policies


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer(now=None) as running:
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        database = running.create_database()
        with running.admin() as admin:
            admin.execute(sql.SQL("ALTER DATABASE {} RENAME TO shop").format(sql.Identifier(database)))
        yield running


def config_with(server: PostgresServer, issuer: Issuer, hold_s: float) -> GateConfig:
    def change(target: TargetConfig) -> TargetConfig:
        holds = msgspec.structs.replace(target.holds, timeout_s=hold_s, notice_interval_s=600.0)
        return msgspec.structs.replace(target, holds=holds)

    return gate_config(server, issuer, policies=policies(), change=change)


@pytest.fixture(scope="module")
def gate(server: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with GateProcess(config_with(server, issuer, hold_s=60.0)) as running:
        yield running


class Desk:
    """An assistant's working place: the page's programs on PATH, its settings in the environment."""

    def __init__(self, home: Path, issuer: Issuer, gate: GateProcess, server: PostgresServer) -> None:
        self.gate = gate
        self.bin = home / "bin"
        self.bin.mkdir()
        secret = home / "secret"
        secret.write_text("demo")
        for name in ("gate-psql", "gate-passfile", "gate-mcp"):
            self.install(name, script("psql through" if name == "gate-psql" else name))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SIDEGATE_", "XDG_", "PG", "COLUMNS"))}
        self.environment = kept | {
            "HOME": str(home),
            "PATH": f"{self.bin}:{Path(sys.executable).parent}:{server.installation.binaries}:{os.environ['PATH']}",
            "SIDEGATE_ISSUER": issuer.url,
            "SIDEGATE_CLIENT_ID": "cursor",
            "SIDEGATE_CLIENT_SECRET_FILE": str(secret),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(gate.port),
            "PGUSER": "readwrite",
            "PGDATABASE": "shop",
            "PSQLRC": "/nonexistent",
        }
        # Only the demo issuer takes a user's name; the page's programs don't give one.
        self.install(
            "sidegate", f'#!/bin/sh\nexec {sys.executable} -m sidegate.cli.main "$@" ${{SIDEGATE_AS:+--user $SIDEGATE_AS}}\n'
        )
        self.environment["SIDEGATE_AS"] = "ada"

    def install(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def start(self, command: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["/bin/sh", "-c", command],
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str, **environment: str) -> str:
        printed, _ = self.start(command, **environment).communicate(timeout=60)
        return printed

    def decide(self, verb: str, statement: str, comment: str, issuer: Issuer) -> None:
        """As dana, for the request that waits with this statement."""
        directory = self.gate.state / "approvals"
        options = f"--directory {directory} --config {self.gate.config_file}"
        command = f"{sys.executable} -m sidegate.cli.main"
        name = self.waiting(statement)
        token = issuer.token("dana", "psql", algorithm="ES256")
        printed = self.run(f"{command} {verb} {name} --comment '{comment}' {options}", SIDEGATE_TOKEN=token)
        assert "by dana@example.com" in printed, printed

    def waiting(self, statement: str) -> str:
        command = f"{sys.executable} -m sidegate.cli.main approvals list --directory {self.gate.state / 'approvals'}"
        listed, deadline = "", time.monotonic() + 20
        while time.monotonic() < deadline:
            listed = self.run(command)
            found = re.findall(rf"(ar-\d{{8}}-\d{{6}}-\w{{4}}) +Pending.* {statement}", listed)
            if len(found) == 1:
                return str(found[0])
        raise AssertionError(f"no request, or several, came to wait for `{statement}`:\n{listed}")


@pytest.fixture
def desk(tmp_path: Path, issuer: Issuer, gate: GateProcess, server: PostgresServer) -> Desk:
    return Desk(tmp_path, issuer, gate, server)


def sample(name: str) -> tuple[str, str]:
    command, _, output = SAMPLES[name].partition("\n")
    assert command.startswith("$ ")
    return command[2:], plain(output)


@pytest.mark.parametrize("name", ["masked", "refused", "not-granted", "steering"])
def test_a_sample_is_what_psql_prints(desk: Desk, name: str) -> None:
    command, output = sample(name)
    assert plain(desk.run(command)) == output


def test_the_sample_of_a_denial_is_what_psql_prints(desk: Desk, issuer: Issuer) -> None:
    command, output = sample("denied")
    held = desk.start(command)
    desk.decide("deny", "delete from orders", "archive them first", issuer)
    printed, _ = held.communicate(timeout=60)
    assert plain(printed) == output


def test_a_statement_nobody_decided_in_time_runs_at_once_when_it_is_approved_later(
    desk: Desk, issuer: Issuer, gate: GateProcess, server: PostgresServer
) -> None:
    gate.reload(config_with(server, issuer, hold_s=1.0))
    command, output = sample("undecided")
    assert plain(desk.run(command)) == output
    desk.decide("approve", "delete from orders", "go ahead", issuer)
    command, output = sample("approved-later")
    assert plain(desk.run(command)) == output


def test_the_sample_of_an_expired_token_is_what_psql_prints(desk: Desk, issuer: Issuer) -> None:
    command, output = sample("expired")
    token = issuer.token(exp=int(issuer.clock()) - 90)
    assert plain(desk.run(command.replace("gate-psql", "psql"), PGPASSWORD=token)) == output


def test_every_sample_is_tried() -> None:
    assert set(SAMPLES) == {
        *("masked", "refused", "not-granted", "steering", "denied", "undecided", "approved-later", "expired"),
    }


def test_the_wrapper_gives_up_without_a_token(desk: Desk) -> None:
    printed = desk.run("gate-psql -c 'select 1'; echo status $?", SIDEGATE_CLIENT_ID="nobody")
    assert "sidegate token: " in printed
    assert printed.endswith("status 1\n")


def test_the_password_file_lets_libpq_in(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "pgpass"
    assert desk.run(f"gate-passfile {path}") == ""
    assert path.stat().st_mode & 0o777 == 0o600
    assert desk.run("psql -Atc 'select current_user'", PGPASSFILE=str(path)) == "readwrite\n"


def test_the_mcp_wrapper_gives_the_server_a_connection_that_works(desk: Desk, gate: GateProcess) -> None:
    address = "shop-db.example.com:5432/shop?sslmode=verify-full"
    assert address in script("gate-mcp")
    desk.install("gate-mcp", script("gate-mcp").replace(address, f"127.0.0.1:{gate.port}/shop?sslmode=disable"))
    desk.install("postgres-mcp", "#!/bin/sh\nexec psql \"$DATABASE_URI\" -Atc 'select current_user'\n")
    assert desk.run("gate-mcp") == "readwrite\n"


@pytest.fixture
def environment(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    for name, value in desk.environment.items():
        monkeypatch.setenv(name, value)
    return desk


def program(importing: str) -> dict[str, Any]:
    (source,) = (block for block in PYTHON if f"import {importing}" in block or f"from {importing}" in block)
    namespace: dict[str, Any] = {}
    exec(compile(source, f"docs/agents.md ({importing})", "exec"), namespace)
    return namespace


def test_psycopg_as_on_the_page(environment: Desk) -> None:
    with program("psycopg")["connect"]("") as connection:
        assert connection.execute("select current_user").fetchone() == ("readwrite",)


async def test_asyncpg_as_on_the_page(environment: Desk) -> None:
    connection = await program("asyncpg")["connect"](f"postgresql://readwrite@127.0.0.1:{environment.gate.port}/shop")
    try:
        assert await connection.fetchval("select current_user") == "readwrite"
    finally:
        await connection.close()
        await asyncio.sleep(0)


def test_sqlalchemy_as_on_the_page(environment: Desk) -> None:
    from sqlalchemy import text

    engine = program("sqlalchemy")["engine"](f"postgresql+psycopg://readwrite@127.0.0.1:{environment.gate.port}/shop")
    try:
        for _ in range(2):
            with engine.connect() as connection:
                assert connection.execute(text("select current_user")).scalar() == "readwrite"
    finally:
        engine.dispose()


def test_an_approval_outlives_the_connection(desk: Desk, issuer: Issuer, gate: GateProcess, server: PostgresServer) -> None:
    gate.reload(config_with(server, issuer, hold_s=60.0))
    statement = "delete from customers"
    held = desk.start(f'gate-psql -c "{statement}"')
    desk.waiting(statement)
    os.killpg(held.pid, signal.SIGKILL)
    held.communicate(timeout=20)
    desk.decide("approve", statement, "", issuer)
    assert "DELETE" in desk.run(f'gate-psql -c "{statement}"')
