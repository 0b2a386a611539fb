"""What is measured against what: PostgreSQL itself, pgbouncer in session mode, and gates that do more and more.

All of them answer on loopback TCP and reach PostgreSQL over its Unix socket (the direct client too is measured over TCP, as its
clients would come). Every gate records every session; what differs is the role a client logs in with, and so the policy.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from sidegate.policy.config import ColumnMatch, GateConfig, PassthroughConfig, RuleAction, RuleConfig, TargetConfig
from tests.support import processes
from tests.support.endpoint import Endpoint
from tests.support.gate import GateProcess, gate_config, open_policy
from tests.support.issuer import Issuer
from tests.support.postgres_server import ROLES, PostgresServer, password_of

PEOPLE: Final = 20_000
QUIET_QUERY: Final = "SELECT id, name, address, password, note FROM people"
FINDS_QUERY: Final = "SELECT id, name, email, password, note FROM people"  # the same width, with an e-mail address in every row
# A role each: what its policy obliges the gate to do.
PLAIN_ROLE, MASKED_ROLE, DETECTED_ROLE, PASSTHROUGH_ROLE = "readonly", "readwrite", "app", "owner"
MASKED, DETECTED = "masked_column", "five_detectors"
DETECTORS: Final = ("payment-card", "us-ssn", "email", "aws-access-key", "jwt")


@dataclass(frozen=True, slots=True)
class Contender:
    """`pid` is what processor time is read from; None: nothing stands between."""

    name: str
    endpoint: Endpoint
    role: str
    pid: int | None = None


def prepare_database(server: PostgresServer, pgbench: Path) -> str:
    """pgbench's tables and 20,000 people, readable for every role. Only the column `email` holds what a detector finds."""
    name = server.create_database(template=None)
    environment = server.environment("postgres", name, "unix")
    subprocess.run(
        [str(pgbench), "-i", "-q", "-s", "2"], env={"PATH": "/usr/bin:/bin", **environment}, check=True, capture_output=True
    )
    with server.admin(name) as admin:
        admin.execute("CREATE TABLE people (id int PRIMARY KEY, name text, email text, address text, password text, note text)")
        admin.execute(
            "INSERT INTO people SELECT n, 'Person ' || n, 'person' || n || '@shop.example', 'street' || n || ', the village', "
            "md5(n::text), 'note number ' || n "
            f"FROM generate_series(1, {PEOPLE}) AS n"
        )
        admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC")
        admin.execute("VACUUM (ANALYZE)")
    return name


def bench_config(server: PostgresServer, issuer: Issuer) -> GateConfig:
    """One gate for all contenders: the role decides what is done."""
    column = RuleConfig("password", RuleAction.MASK, columns=(ColumnMatch("password", table="people"),))
    values = RuleConfig("values", RuleAction.MASK, detectors=DETECTORS)

    def let_pass(target: TargetConfig) -> TargetConfig:
        passthrough = PassthroughConfig("owner", roles=(PASSTHROUGH_ROLE,), networks=("127.0.0.0/8",))
        return msgspec.structs.replace(target, passthrough=(passthrough,))

    policies = [open_policy(PLAIN_ROLE), open_policy(MASKED_ROLE, rules=[column]), open_policy(DETECTED_ROLE, rules=[values])]
    return gate_config(server, issuer, policies=policies, change=let_pass)


def passthrough_endpoint(gate: GateProcess) -> Endpoint:
    """Clients that come in without OIDC, by the role's own password: relayed and recorded, not decided."""
    return Endpoint("passthrough", gate.port, gate.directory, password_of)


class PgBouncer:
    """pgbouncer in session mode, SCRAM on both sides. Use as a context manager."""

    def __init__(self, program: Path, server: PostgresServer) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sidegate-pgbouncer-"))
        self.directory.chmod(0o755)
        self.port = processes.free_port()
        users = "".join(f'"{role}" "{password_of(role)}"\n' for role in ROLES)
        (self.directory / "users").write_text(users)
        (self.directory / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={server.directory} port={server.port}\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={self.port}\n"
            f"unix_socket_dir=\nauth_type=scram-sha-256\nauth_file={self.directory}/users\npool_mode=session\nmax_client_conn=500\n"
            "default_pool_size=250\nlog_connections=0\nlog_disconnections=0\nignore_startup_parameters=extra_float_digits\n"
        )
        user = processes.unprivileged_user()
        if user:
            for path in (self.directory, *self.directory.iterdir()):
                shutil.chown(path, user, "nogroup")
        log = self.directory / "log"
        self.process = processes.start([program, self.directory / "pgbouncer.ini"], log, user=user)
        processes.wait_until(lambda: "process up" in log.read_text() or self.process.poll() is not None, "pgbouncer to be ready")
        if self.process.poll() is not None:
            raise processes.ChildError(f"pgbouncer ended with {self.process.returncode}: {log.read_text()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        processes.stop(self.process)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("pgbouncer", self.port, self.directory, password_of)


def program_version(program: Path) -> str:
    return subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
