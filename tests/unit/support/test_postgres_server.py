"""The servers that the other tests ride on: they start, keep roles apart, crash and come back."""

from __future__ import annotations

import ssl
import time

import psycopg
import pytest

from tests.support.debian_postgres import DebianPostgres
from tests.support.endpoint import Transport
from tests.support.postgres_server import ROLES, PostgresServer


@pytest.mark.parametrize("via", ["tcp", "unix"])
@pytest.mark.parametrize("role", ROLES)
def test_each_role_logs_in_with_its_password_and_not_without(
    postgres: PostgresServer, shop: str, role: str, via: Transport
) -> None:
    with psycopg.connect(postgres.dsn(role, shop, via)) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (role,)
    parameters = {**postgres.parameters(role, shop, via), "password": "wrong"}
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(**parameters)  # type: ignore[arg-type]


def test_databases_are_copies_of_the_shop_that_do_not_see_each_other(postgres: PostgresServer) -> None:
    first, second = postgres.create_database(), postgres.create_database()
    with psycopg.connect(postgres.dsn("readwrite", first), autocommit=True) as connection:
        connection.execute("DELETE FROM accounts")
    with psycopg.connect(postgres.dsn("readonly", second)) as connection:
        assert connection.execute("SELECT count(*) FROM accounts").fetchone() == (5000,)
    postgres.drop_database(first)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(postgres.dsn("readonly", first))


def test_the_readonly_role_can_not_write(postgres: PostgresServer, shop: str) -> None:
    with psycopg.connect(postgres.dsn("readonly", shop)) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("DELETE FROM accounts")


def test_sessions_are_seen_and_waited_for(postgres: PostgresServer, database: str) -> None:
    with psycopg.connect(postgres.dsn("app", database), application_name="seen"):
        (session,) = postgres.wait_for_sessions(1, database, "app")
        assert (session.usename, session.datname, session.application_name) == ("app", database, "seen")
    assert postgres.wait_for_sessions(0, database) == []


def test_a_killed_server_is_gone_at_once_and_starts_again_on_its_port() -> None:
    with PostgresServer() as server:
        name = server.create_database()
        port = server.port
        client = psycopg.connect(server.dsn("readwrite", name), autocommit=True)
        client.execute("UPDATE accounts SET balance = 7 WHERE id = 1")
        began = time.monotonic()
        server.kill()
        assert time.monotonic() - began < 5
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")
        client.close()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.dsn("readwrite", name))
        server.start()
        assert server.port == port
        with psycopg.connect(server.dsn("readwrite", name)) as again:
            assert again.execute("SELECT balance FROM accounts WHERE id = 1").fetchone() == (7,)
        directory = server.directory
    assert not directory.exists()


@pytest.mark.debian
def test_the_server_of_debian_speaks_tls_with_channel_binding(debian_postgres: DebianPostgres) -> None:
    name = debian_postgres.create_database()
    parameters = debian_postgres.parameters("readonly", name)
    ca = str(debian_postgres.ca_file)
    with psycopg.connect(**parameters, sslmode="verify-full", sslrootcert=ca, channel_binding="require") as connection:  # type: ignore[arg-type]
        assert connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
        assert connection.pgconn.ssl_in_use
    assert ssl.create_default_context(cafile=ca).get_ca_certs()


@pytest.mark.debian
def test_the_server_of_debian_counts_statements(debian_postgres: DebianPostgres) -> None:
    name = debian_postgres.create_database()
    with debian_postgres.admin(name) as admin:
        admin.execute("CREATE EXTENSION pg_stat_statements")
        with psycopg.connect(debian_postgres.dsn("readonly", name)) as connection:
            connection.execute("SELECT count(*) FROM prod.settings")
        found = admin.execute("SELECT calls FROM pg_stat_statements WHERE query = 'SELECT count(*) FROM prod.settings'")
        assert found.fetchall() == [(1,)]
