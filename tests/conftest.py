"""Fixtures that every test may use: real servers, one of each kind for a worker, started when the first test asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.debian_postgres import DebianPostgres, required_debian_installation
from tests.support.postgres_server import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """PostgreSQL 18 of the wheel: no TLS. Don't stop it: make a `PostgresServer` of your own for that."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def debian_postgres() -> Iterator[DebianPostgres]:
    """Debian's PostgreSQL with TLS and pg_stat_statements. Don't stop it."""
    with DebianPostgres(required_debian_installation()) as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """A copy of the shop that this test alone uses, in `postgres`."""
    name = postgres.create_database()
    yield name
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def shop(postgres: PostgresServer) -> str:
    """A copy of the shop in `postgres` for tests that only read."""
    return postgres.create_database()
