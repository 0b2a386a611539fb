"""The PostgreSQL server, asked and changed by its superuser over psycopg: facts, roles, rules.

Rules it keeps: what is asked needs no extension; each connection is closed when its question is answered; statements that change roles
run in one transaction; what a statement holds of a password is a verifier. libpq reads the rest of the way in from its own environment
(PGHOST, PGUSER, PGPASSFILE, PGSSLMODE ...).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import psycopg
from psycopg import conninfo

from sidegate.setup.host_rules import HostRule
from sidegate.setup.review import OUTGOING, DatabaseFacts, ServerFacts
from sidegate.setup.roles import RoleFacts, Statement

CONNECT_TIMEOUT_S: Final = 10
OLDEST: Final = 140000
# In the order of the files: a line that waits for TLS has no rule number, and is in force all the same.
_RULES: Final = """
    SELECT type, database, user_name, auth_method, address, netmask, options, {file}, line_number, error
    FROM pg_hba_file_rules() WITH ORDINALITY ORDER BY ordinality"""
_ROLES: Final = """
    WITH RECURSIVE member(role, held) AS (
        SELECT oid, oid FROM pg_authid
        UNION SELECT member.role, given.roleid FROM member JOIN pg_auth_members given ON given.member = member.held)
    SELECT role.rolname, role.rolcanlogin, role.rolsuper, role.rolbypassrls, role.rolreplication, role.rolcreaterole, role.rolpassword,
        array_agg(held.rolname::text)
    FROM pg_authid role JOIN member ON member.role = role.oid JOIN pg_authid held ON held.oid = member.held
    GROUP BY role.oid, role.rolname, role.rolcanlogin, role.rolsuper, role.rolbypassrls, role.rolreplication, role.rolcreaterole,
        role.rolpassword"""
_DATABASES: Final = """
    SELECT datname, NOT datistemplate AND EXISTS (
        SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE grantee = 0 AND privilege_type = 'CONNECT')
    FROM pg_database WHERE datallowconn ORDER BY datname"""
_EXTENSIONS: Final = (
    "SELECT extname FROM pg_extension WHERE extname = ANY (%s) UNION SELECT lanname FROM pg_language WHERE lanname = ANY (%s)"
)
_WAY_IN: Final = (
    "check --url (or PGHOST and its kin) and the password; by `peer` only the server's own user comes in: run this as that user"
)
# A verifier isn't a password, but whoever reads logs needn't have it either.
_QUIET: Final = {"log_statement": "none", "log_min_duration_statement": "-1", "log_min_error_statement": "panic"}
_STALE: Final = "SELECT bool_or((pg_stat_file(name)).modification > pg_conf_load_time()) FROM unnest(%s::text[]) AS name"


class ServerProblem(Exception):  # noqa: N818 - a state of the server
    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


class Server:
    """`url` is a connection string of libpq's, or empty; `password` goes beside it, or is None: libpq finds one."""

    def __init__(self, url: str, password: str | None) -> None:
        try:
            self._parameters = conninfo.conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise ServerProblem(f"`--url` can't be read: {error}", "write postgresql://USER@HOST:PORT/postgres") from None
        if self._parameters.get("password"):
            raise ServerProblem(
                "the URL has a password, which every process list shows", "give it by --password-file or PGPASSWORD"
            )
        if password is not None:
            self._parameters["password"] = password
        self._parameters.setdefault("dbname", "postgres")
        self._parameters.setdefault("application_name", "sidegate setup")
        self._parameters.setdefault("connect_timeout", CONNECT_TIMEOUT_S)

    @contextmanager
    def connected(self, database: str | None = None) -> Iterator[psycopg.Connection[Any]]:
        parameters = {**self._parameters, **({"dbname": database} if database is not None else {})}
        try:
            connection = psycopg.connect(**cast("Any", parameters), autocommit=True)
        except psycopg.Error as error:
            raise ServerProblem(f"the server lets nobody in: {_first_line(error)}", _WAY_IN) from error
        try:
            with connection:
                yield connection
        except psycopg.Error as error:
            raise ServerProblem(f"the server refused: {_first_line(error)}", "connect as a superuser") from error
        finally:
            connection.close()

    # Asking

    def facts(self) -> ServerFacts:
        """All that a review needs.

        Raises:
            ServerProblem: it can't be reached, is too old, or the role isn't a superuser.
        """
        with self.connected() as connection:
            version = connection.info.server_version
            if version < OLDEST:
                raise ServerProblem(f"PostgreSQL {version // 10000} is too old", f"upgrade to {OLDEST // 10000} or newer")
            if _value(connection, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is not True:
                raise ServerProblem("the role isn't a superuser, and can't see passwords' kinds and host rules", "connect as one")
            rules = _rules(connection, version)
            roles = [_role(row) for row in connection.execute(_ROLES).fetchall()]
            files = sorted({str(_value(connection, "SHOW hba_file")), *(each.file for each in rules if each.file)})
            facts = ServerFacts(
                rules=rules,
                roles={each.name: each for each in roles},
                password_encryption=str(_value(connection, "SHOW password_encryption")),
                scram_iterations=int(
                    str(_value(connection, "SELECT coalesce(current_setting('scram_iterations', true), '4096')"))
                ),
                is_stale=bool(_value(connection, _STALE, [files])),
                hba_file=str(_value(connection, "SHOW hba_file")),
            )
            named = connection.execute(_DATABASES).fetchall()
        databases = tuple(self._database(str(name), bool(is_open)) for name, is_open in named)
        return ServerFacts(**{**{name: getattr(facts, name) for name in ServerFacts.__slots__}, "databases": databases})

    def _database(self, name: str, is_open: bool) -> DatabaseFacts:
        try:
            with self.connected(name) as connection:
                wanted = sorted(OUTGOING)
                found = frozenset(str(row[0]) for row in connection.execute(_EXTENSIONS, [wanted, wanted]).fetchall())
        except ServerProblem:
            return DatabaseFacts(name, is_open, None)
        return DatabaseFacts(name, is_open, found)

    def rules(self) -> tuple[HostRule, ...]:
        """As the files have them now, loaded or not."""
        with self.connected() as connection:
            return _rules(connection, connection.info.server_version)

    def hba_file(self) -> tuple[str, bytes]:
        """Path and content of the main file, as the server sees it."""
        with self.connected() as connection:
            path = str(_value(connection, "SHOW hba_file"))
            return path, bytes(cast("bytes", _value(connection, "SELECT pg_read_binary_file(%s)", [path])))

    def loaded_at(self) -> object:
        """When the files were read last. Asked over a new connection, which tells the server's own time, not its session's."""
        with self.connected() as connection:
            return _value(connection, "SELECT pg_conf_load_time()")

    # Changing

    def reload(self) -> None:
        with self.connected() as connection:
            connection.execute("SELECT pg_reload_conf()")

    def run(self, statements: Sequence[Statement]) -> None:
        with self.connected() as connection, connection.transaction():
            for name, value in _QUIET.items():
                connection.execute("SELECT set_config(%s, %s, true)", [name, value])
            for each in statements:
                connection.execute(each.text)  # identifiers are quoted, verifiers are base64 (`roles`)


def _rules(connection: psycopg.Connection[Any], version: int) -> tuple[HostRule, ...]:
    query = _RULES.format(file="file_name" if version >= 160000 else "''")
    return tuple(_rule(row) for row in connection.execute(query).fetchall())


def _rule(row: Sequence[Any]) -> HostRule:
    kind, databases, roles, method, address, netmask, options, file, line, error = row
    return HostRule(
        kind or "",
        tuple(databases or ()),
        tuple(roles or ()),
        method or "",
        address,
        netmask,
        tuple(options or ()),
        file,
        line,
        error,
    )


def _role(row: Sequence[Any]) -> RoleFacts:
    name, logs_in, is_superuser, bypasses_rls, replicates, creates_roles, secret, groups = row
    return RoleFacts(name, logs_in, is_superuser, bypasses_rls, replicates, creates_roles, secret, frozenset(groups))


def _value(connection: psycopg.Connection[Any], query: str, parameters: Sequence[object] | None = None) -> object:
    row = connection.execute(query, parameters).fetchone()
    return row[0] if row is not None else None


def _first_line(error: Exception) -> str:
    """What libpq says, without what it repeats. It never repeats a password."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
