"""The fake target against the real PostgreSQL: random scripts are answered alike, message by message."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.support import wire_messages as m
from tests.support.fake_target import FakeTarget
from tests.support.fake_target_scripts import name_script, script
from tests.support.postgres_server import PostgresServer
from tests.support.wire import WireClient

END = "the end"
TABLES = (
    "create table notes (id int primary key, secret text); insert into notes values (1, 's-1'), (2, 's-2'), (3, 's-3');"
    "create table other (id int primary key, secret text); insert into other values (7, 'plain')"
)


def decoded(data: bytes) -> list[m.Reply]:
    replies: list[m.Reply] = []
    while data:
        length = 1 + int.from_bytes(data[1:5], "big")
        replies.append(m.decode(data[:1], data[5:length]))
        data = data[length:]
    return replies


def comparable(replies: list[m.Reply]) -> list[object]:
    """Types, SQLSTATEs, tags, columns without their OIDs, values, transaction status."""
    found: list[object] = []
    for reply in replies:
        match reply:
            case m.ErrorResponse() | m.NoticeResponse():
                found.append((type(reply).__name__, reply.severity, reply.sqlstate))
            case m.RowDescription():
                found.append(tuple((f.name, f.attnum, f.type_oid, f.type_size, f.format) for f in reply.fields))
            case _:
                found.append(reply)
    return found


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    name = postgres.create_database()
    with WireClient.unix(postgres.directory, postgres.port) as client:
        client.log_in("postgres", name)
        client.ask("drop schema public cascade; create schema public")
    yield name
    postgres.drop_database(name)


def fresh(client: WireClient) -> None:
    replies = client.ask("drop schema public cascade; create schema public; set search_path = public;" + TABLES)
    assert not any(isinstance(reply, m.ErrorResponse) for reply in replies), replies


@pytest.mark.timeout(600)
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(messages=st.one_of(script, name_script))
def test_any_script_is_answered_as_by_postgresql(postgres: PostgresServer, database: str, messages: list[bytes]) -> None:
    data = b"".join(messages) + m.copy_fail("over") + m.sync() + m.query("rollback") + m.query(f"select '{END}'")
    note(repr(messages))
    with WireClient.unix(postgres.directory, postgres.port) as client:
        client.log_in("postgres", database, client_min_messages="warning")
        fresh(client)
        client.send(data)
        expected: list[m.Reply] = []
        while m.DataRow((END.encode(),)) not in expected[-3:]:
            expected += client.receive_until_ready()
    found = decoded(FakeTarget().feed(data))
    assert comparable(found) == comparable(expected)
