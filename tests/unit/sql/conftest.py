"""A database with the tables that the cases speak of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.postgres_server import PostgresServer

SCHEMA = Path(__file__).with_name("schema.sql")


@pytest.fixture(scope="session")
def case_database(postgres: PostgresServer) -> str:
    name = postgres.create_database(template=None)
    with postgres.admin(name) as connection:
        connection.execute(SCHEMA.read_text().encode())
    return name


@pytest.fixture
def target(postgres: PostgresServer, case_database: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """The superuser's connection, in a transaction that is rolled back."""
    connection = psycopg.connect(postgres.dsn("postgres", case_database, "unix"))
    yield connection
    connection.rollback()
    connection.close()
