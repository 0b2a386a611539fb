"""examples/compose.yaml, followed as its page says: a gate, a database and an identity provider come up, and psql on this machine uses them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.cluster_node import ROOT, made_images
from tests.support.debian_postgres import required_debian_installation
from tests.support.docker import Docker, running_docker
from tests.support.processes import wait_until

EXAMPLES = ROOT / "examples"


@dataclass(frozen=True, slots=True)
class Composed:
    docker: Docker
    environment: dict[str, str]
    psql: Path
    authority: Path

    def compose(self, *arguments: str) -> str:
        done = self.docker("compose", "--file", "compose.yaml", *arguments, environment=self.environment, cwd=EXAMPLES)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def token(self, user: str) -> str:
        client = ("--client-id", "cursor", "--client-secret-file", "/opt/demo/cursor-secret")
        asked = ("sidegate", "token", "--issuer", "http://127.0.0.1:8790", *client, "--user", user, "--no-cache")
        return self.compose("exec", "-T", "issuer", *asked).strip()

    def psql_command(self, *settings: str) -> list[str]:
        place = ["host=localhost", "port=6432", "dbname=shop", "user=readwrite", "sslmode=verify-full", *settings]
        return [str(self.psql), "--no-psqlrc", " ".join([*place, f"sslrootcert={self.authority}"])]

    def run(self, sql: str, user: str = "ada") -> str:
        done = self.start(sql, user)
        output, _ = done.communicate(timeout=60)
        return output

    def start(self, sql: str, user: str = "ada") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.psql_command(), "--command", sql],
            env={"PGPASSWORD": self.token(user)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def composed() -> Iterator[Composed]:
    images = made_images()
    directory = Path(tempfile.mkdtemp(prefix="sg-docker-", dir="/var/tmp"))  # overlayfs won't lie on what /tmp may be
    try:
        with running_docker(directory) as docker:
            for name in ("operator", "postgres"):
                loaded = docker("load", "--input", str(images[name].archive))
                assert loaded.returncode == 0, loaded.stderr
            environment = {"SIDEGATE_IMAGE": images["operator"].name, "POSTGRES_IMAGE": images["postgres"].name}
            psql = required_debian_installation().program("psql")
            composed = Composed(docker, environment, psql, directory / "ca.crt")
            try:
                composed.compose("up", "--detach", "--pull", "never")
                composed.compose("cp", "postgres:/certificate/ca.crt", str(composed.authority))
                wait_until(lambda: "3 rows" in composed.run("SELECT id FROM customers"), "the database to be made", timeout_s=60)
                yield composed
            finally:
                composed.compose("down", "--volumes", "--timeout", "5")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def test_an_assistant_sees_names_and_no_secrets(composed: Composed) -> None:
    output = composed.run("SELECT name, password, ssn, note FROM customers")
    assert "Ines Berg" in output
    assert "[masked]" in output
    for secret in ("correct horse", "219-09-9999", "4111 1111 1111 1111"):
        assert secret not in output


def test_a_large_delete_waits_for_a_person_and_then_runs(composed: Composed) -> None:
    with composed.start("DELETE FROM orders") as psql:
        assert psql.stdout is not None
        found = next(filter(None, (re.search(r"approval request (ar-[-a-z0-9]+)", line) for line in psql.stdout)))
        assert found[1] in composed.compose("exec", "-T", "gate", "sidegate", "approvals", "list")
        approve = ("--env", f"SIDEGATE_TOKEN={composed.token('dana')}", "gate", "sidegate", "approve", found[1])
        composed.compose("exec", "-T", *approve)
        assert "DELETE 5000" in psql.stdout.read()


@pytest.mark.parametrize("command", [("cat", "/proc/net/tcp"), ("cat", "/proc/net/tcp6")])
def test_the_database_listens_on_loopback_alone(composed: Composed, command: Sequence[str]) -> None:
    """Seen from inside, in the one network namespace that all three share (proc_net(5))."""
    table = composed.compose("exec", "-T", "postgres", *command)
    listening = [line.split()[1] for line in table.splitlines()[1:] if line.split()[3] == "0A"]
    database = [each for each in listening if each.endswith(":1538")]  # 5432
    assert all(each == "0100007F:1538" for each in database)
    assert ("tcp6" in command[1]) or database


def test_the_gates_secrets_are_its_own(composed: Composed) -> None:
    assert composed.compose("exec", "-T", "gate", "stat", "--format=%a %u", "/run/sidegate/secrets/shop-db-gate-tls/tls.key") == (
        "400 64802\n"
    )
    refused = composed.docker(
        "compose", "exec", "-T", "issuer", "ls", "/run/sidegate/secrets", environment=composed.environment, cwd=EXAMPLES
    )
    assert refused.returncode != 0


def test_starting_it_again_keeps_what_setup_made(composed: Composed) -> None:
    before = composed.authority.read_bytes()
    composed.compose("up", "--detach", "--pull", "never")
    composed.compose("cp", "postgres:/certificate/ca.crt", str(composed.authority))
    assert composed.authority.read_bytes() == before
    wait_until(lambda: "3 rows" in composed.run("SELECT id FROM customers"), "the gate to serve again", timeout_s=60)
