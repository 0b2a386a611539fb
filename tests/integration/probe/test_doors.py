"""The probe against PostgreSQL itself, from an address that host rules can tell from the gate's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from sidegate.probe.answer import Door, DoorState
from sidegate.probe.postgres import probe_postgres
from tests.support.debian_postgres import DebianPostgres
from tests.support.host_rules import STRANGER_ADDRESS, host_rules
from tests.support.postgres_server import PostgresServer
from tests.support.processes import free_port

GATE = "readonly"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


async def probe(server: PostgresServer, *databases: str, local_address: str = STRANGER_ADDRESS) -> tuple[Door, ...]:
    return await probe_postgres(
        "127.0.0.1", server.port, [GATE], databases=databases or ("postgres",), local_address=local_address
    )


def states(doors: tuple[Door, ...], role: str | None = GATE) -> set[DoorState]:
    return {each.state for each in doors if each.role == role and not each.over_tls}


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("host all all all trust", DoorState.WIDE_OPEN),
        ("host all all all scram-sha-256", DoorState.ASKS),
        ("host all all all md5", DoorState.ASKS),
        ("host all all all password", DoorState.ASKS),
        ("host all all all reject", DoorState.REJECTED),
        ("host all all 127.0.0.1/32 trust", DoorState.REJECTED),
        ("host all +readonly all trust", DoorState.WIDE_OPEN),
        ("host samerole all all trust", DoorState.REJECTED),
        ("host all /^read all scram-sha-256", DoorState.ASKS),
        ("host all all samenet trust", DoorState.WIDE_OPEN),
        ("host replication all all trust", DoorState.REJECTED),
    ],
)
async def test_finds_what_the_host_rules_leave_open(server: PostgresServer, line: str, state: DoorState) -> None:
    with host_rules(server, [line]):
        assert states(await probe(server)) == {state}


async def test_a_door_may_be_closed_to_the_gates_role_and_open_to_others(server: PostgresServer) -> None:
    with host_rules(server, [f"host all {GATE} all reject", "host all all all scram-sha-256"]):
        doors = await probe(server)
    assert states(doors) == {DoorState.REJECTED}
    assert states(doors, None) == {DoorState.ASKS}


async def test_a_door_into_one_database_alone_is_found_there(server: PostgresServer) -> None:
    with host_rules(server, ["host shop all all md5"]):
        doors = await probe(server, "postgres", "shop")
    assert {each.database for each in doors if each.is_open} == {"shop"}


async def test_loopback_isnt_outside(server: PostgresServer) -> None:
    with host_rules(server, ["host all all 127.0.0.1/32 scram-sha-256", "host all all all reject"]):
        assert states(await probe(server, local_address="127.0.0.1")) == {DoorState.ASKS}
        assert states(await probe(server)) == {DoorState.REJECTED}


@pytest.mark.debian
async def test_a_door_with_tls_alone_is_found(debian_postgres: DebianPostgres) -> None:
    with host_rules(debian_postgres, ["hostssl all all all scram-sha-256", "host all all all reject"]):
        doors = await probe(debian_postgres)
    assert {(each.over_tls, each.state) for each in doors} == {(False, DoorState.REJECTED), (True, DoorState.ASKS)}


@pytest.mark.debian
async def test_a_door_for_whoever_has_a_certificate_is_open(debian_postgres: DebianPostgres) -> None:
    with host_rules(debian_postgres, ["hostssl all all all cert", "host all all all reject"]):
        doors = await probe(debian_postgres)
    assert {each.state for each in doors if each.over_tls} <= {DoorState.ASKS, DoorState.UNCLEAR}


async def test_where_nothing_listens_one_closed_door_is_told() -> None:
    (door,) = await probe_postgres("127.0.0.1", free_port(), [GATE])
    assert door.state is DoorState.SILENT
    assert not door.is_open


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"E\x00\x00\x00\x05\x00", b"R\xff\xff\xff\xff", b"SSSSSSSSSSSSSSS"]
)
async def test_what_isnt_postgresql_is_never_closed(answer: bytes) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        doors = await probe_postgres("127.0.0.1", port, [GATE], timeout_s=2.0)
    assert doors
    assert all(each.is_unclear for each in doors)
    assert all(door.detail.isprintable() for door in doors)


async def test_who_listens_and_never_answers_isnt_closed() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        doors = await probe_postgres("127.0.0.1", listening.sockets[0].getsockname()[1], [GATE], timeout_s=0.2)
    assert all(each.is_unclear for each in doors)
