"""The red-team database: Debian's PostgreSQL with schema.sql and the planted rows, made like new whenever a case may have written.

Rules: whoever reaches it directly is trusted, and the gate's own role is a superuser: the worst that a gate may be given. A reset drops the
database under everybody's feet (DROP ... WITH FORCE) and takes back what cases do to the whole server: roles, settings, slots, files that
are called /tmp/rt_*. One run at a time: these files have fixed names.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.redteam import snapshot
from tests.redteam.planted import Planted
from tests.redteam.snapshot import Snapshot
from tests.support.postgres_server import SUPERUSER, Installation, PostgresServer

DATABASE: Final = "shop"
PRISTINE: Final = "shop_pristine"
GATE_ROLE: Final = "rt_gate"
GATE_PASSWORD: Final = "rt-gate-pw"
SCHEMA: Final = Path(__file__).with_name("schema.sql")
TRUST: Final = ("host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust")
SETTINGS: Final = {"max_prepared_transactions": "10", "max_wal_senders": "10"}
LIKE_NEW: Final = """
ALTER ROLE rt_app NOSUPERUSER NOBYPASSRLS; ALTER ROLE rt_app RESET ALL;
ALTER ROLE rt_reader NOLOGIN NOSUPERUSER; ALTER ROLE rt_reader RESET ALL;
REVOKE pg_read_server_files, pg_execute_server_program, rt_admin FROM rt_reader;
ALTER ROLE rt_victim NOSUPERUSER PASSWORD 'rt-victim-pw'; ALTER ROLE rt_victim RESET ALL
"""


class RedTeamTarget:
    def __init__(self, installation: Installation, planted: Planted) -> None:
        has_statements = (installation.binaries.parent / "lib" / "pg_stat_statements.so").exists()
        preload = {"shared_preload_libraries": "pg_stat_statements"} if has_statements else {}
        self.server = PostgresServer(installation, settings={**SETTINGS, **preload}, hba=TRUST)
        self._admin: psycopg.Connection[Any] | None = None
        try:
            self._load(planted)
        except BaseException:
            self.close()
            raise
        self.version = int(self.query("SHOW server_version_num")[0][0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._hang_up()
        self.server.close()

    def _load(self, planted: Planted) -> None:
        shutil.copy(SCHEMA, self.server.directory)
        (self.server.directory / "data.sql").write_text(planted.sql)
        command = [str(self.server.installation.program("psql")), "-qX", "-v", "ON_ERROR_STOP=1", "-f", SCHEMA.name]
        environment = self.server.environment(SUPERUSER, "postgres", "unix")
        done = subprocess.run(
            command, cwd=self.server.directory, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"the schema wasn't loaded: {done.stderr.strip()}")

    # Ways in

    @property
    def admin_dsn(self) -> str:
        return self.dsn(SUPERUSER)

    def dsn(self, role: str, database: str = DATABASE) -> str:
        """Straight to the database over TCP, as the server reaches itself too."""
        return make_conninfo(
            "", host="127.0.0.1", port=self.server.port, user=role, password=GATE_PASSWORD, dbname=database, sslmode="disable"
        )

    def query(self, text: str, parameters: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        """As the superuser, outside a transaction. The connection may have been ended by what a case did: then once again."""
        for may_try_again in (True, False):
            try:
                cursor = self._connected().execute(text, parameters)
                return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                self._hang_up()
                if not may_try_again:
                    raise
        raise AssertionError("the second try returns or raises")

    def snapshot(self) -> Snapshot:
        return snapshot.take(self._connected())

    def connect(self, name: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.admin_dsn, autocommit=True, application_name=name)

    def _connected(self) -> psycopg.Connection[Any]:
        if self._admin is None or self._admin.closed:
            self._admin = self.connect("rt_runner")
        return self._admin

    def _hang_up(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    # Like new

    def reset(self) -> None:
        self._hang_up()
        with psycopg.connect(self.dsn(SUPERUSER, "postgres"), autocommit=True) as admin:
            self._drop_database(admin)
            admin.execute("ALTER SYSTEM RESET ALL")
            admin.execute("SELECT pg_reload_conf()")
            for (role,) in admin.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'rtx%'").fetchall():
                for command in ("REASSIGN OWNED BY {} TO rt_app", "DROP OWNED BY {}", "DROP ROLE {}"):
                    admin.execute(sql.SQL(command).format(sql.Identifier(role)))
            admin.execute(LIKE_NEW)
            admin.execute("COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; rm -rf /tmp/rt_*'")

    def _drop_database(self, admin: psycopg.Connection[Any]) -> None:
        with psycopg.connect(self.admin_dsn, autocommit=True) as inside:
            for (name,) in inside.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall():
                inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(name)))
            for (name,) in inside.execute("SELECT subname FROM pg_subscription").fetchall():
                for command in (
                    "ALTER SUBSCRIPTION {} DISABLE",
                    "ALTER SUBSCRIPTION {} SET (slot_name = NONE)",
                    "DROP SUBSCRIPTION {}",
                ):
                    inside.execute(sql.SQL(command).format(sql.Identifier(name)))
        for (slot,) in admin.execute("SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'rt%'").fetchall():
            _drop_slot(admin, slot)
        for (name,) in admin.execute("SELECT datname FROM pg_database WHERE datname LIKE 'rtx%'").fetchall():
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(DATABASE)))
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER rt_app").format(sql.Identifier(DATABASE), sql.Identifier(PRISTINE))
        )


def _drop_slot(admin: psycopg.Connection[Any], slot: str) -> None:
    """Whoever reads it may still be going."""
    for _ in range(20):
        with suppress(psycopg.Error):
            admin.execute("SELECT pg_drop_replication_slot(%s)", [slot])
            return
        time.sleep(0.1)
