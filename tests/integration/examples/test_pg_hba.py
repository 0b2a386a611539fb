"""The examples' lines of pg_hba, in a real PostgreSQL: the gate's roles come in from loopback's own address and from no other.

127.0.0.2 stands for every other address: no line of the examples knows it. What the operators write around the lines is added as they do.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.debian_postgres import DebianPostgres, required_debian_installation
from tests.support.wire import WireClient
from tests.support.wire_messages import Authentication, ErrorResponse, startup

EXAMPLES: Final = Path(__file__).parents[3] / "examples"
# pkg/postgres/configuration.go of CloudNativePG 1.30: first what is for its own roles, last what lets everyone in. Its lines for the socket are
# left out, which would lock the tests' superuser out.
_BEFORE: Final = (
    "hostssl postgres streaming_replica all cert map=cnpg_streaming_replica",
    "hostssl replication streaming_replica all cert map=cnpg_streaming_replica",
    "hostssl all cnpg_pooler_pgbouncer all cert map=cnpg_pooler_pgbouncer",
)
_AFTER: Final = "host all all all scram-sha-256"
GATES_ROLES: Final = {"cloudnative-pg": ("sg_readonly", "sg_readwrite"), "zalando": ("shop_reader_user", "shop_writer_user")}
APPLICATION: Final = {"cloudnative-pg": "shop_app", "zalando": "shop_owner_user"}


def manifest(folder: str, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load((EXAMPLES / folder / name).read_text())["spec"]
    return spec


LINES: Final = {
    "cloudnative-pg": [*_BEFORE, *manifest("cloudnative-pg", "cluster.yaml")["postgresql"]["pg_hba"], _AFTER],
    "zalando": manifest("zalando", "postgresql.yaml")["patroni"]["pg_hba"],
}


@pytest.fixture(scope="module", params=sorted(LINES))
def started(request: pytest.FixtureRequest) -> Iterator[tuple[str, DebianPostgres]]:
    with DebianPostgres(required_debian_installation(), hba=LINES[request.param]) as server:
        with server.admin() as admin:
            admin.execute("CREATE DATABASE shop")
            for role in (*GATES_ROLES[request.param], APPLICATION[request.param]):
                admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        yield request.param, server


def answer(server: DebianPostgres, role: str, source: str, database: str = "shop") -> str:
    """What PostgreSQL says to somebody who comes without TLS: the kind of authentication it asks for, or its refusal."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10, source_address=(source, 0))
    with WireClient(connection) as client:
        client.send(startup({"user": role, "database": database}))
        received = client.receive()
    if isinstance(received, Authentication):
        return f"asks {received.code}"
    assert isinstance(received, ErrorResponse), received
    return received.message


def test_postgresql_understands_every_line(started: tuple[str, DebianPostgres]) -> None:
    folder, server = started
    with server.admin() as admin:
        rows = admin.execute("SELECT line_number, error FROM pg_hba_file_rules ORDER BY line_number").fetchall()
    assert [error for _, error in rows if error] == []
    assert len(rows) >= len(LINES[folder])


def test_the_gates_roles_are_asked_for_scram_from_loopback(started: tuple[str, DebianPostgres]) -> None:
    folder, server = started
    assert [answer(server, role, "127.0.0.1") for role in GATES_ROLES[folder]] == ["asks 10"] * 2  # AuthenticationSASL


def test_the_gates_roles_are_rejected_from_elsewhere(started: tuple[str, DebianPostgres]) -> None:
    folder, server = started
    for role in GATES_ROLES[folder]:
        for database in ("shop", "postgres"):
            assert answer(server, role, "127.0.0.2", database).startswith("pg_hba.conf rejects connection")


def test_the_gates_roles_reach_no_other_database(started: tuple[str, DebianPostgres]) -> None:
    folder, server = started
    for role in GATES_ROLES[folder]:
        assert answer(server, role, "127.0.0.1", "postgres").startswith("pg_hba.conf rejects connection")


def test_the_application_comes_in_as_before(started: tuple[str, DebianPostgres]) -> None:
    """From elsewhere; Spilo refuses whoever comes without TLS."""
    folder, server = started
    heard = answer(server, APPLICATION[folder], "127.0.0.2")
    assert heard == "asks 10" if folder == "cloudnative-pg" else heard.startswith("pg_hba.conf rejects connection")
    assert answer(server, APPLICATION[folder], "127.0.0.1") == "asks 10"
