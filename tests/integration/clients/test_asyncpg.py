"""asyncpg: a driver with a protocol implementation of its own, binary throughout, that prepares everything and asks the catalog for types."""

# mypy: disable-error-code="import-untyped, no-any-return"
from __future__ import annotations

import asyncio
import datetime as dt
import io
import json
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from tests.support.endpoint import Endpoint
from tests.support.postgres_server import PostgresServer


def arguments(endpoint: Endpoint, role: str, database: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = dict(endpoint.parameters(role, database))
    found["database"] = found.pop("dbname")
    return {**found, **more}


@pytest.fixture
async def connection(endpoint: Endpoint, database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(**arguments(endpoint, "readwrite", database))
    yield connection
    await connection.close()


VALUES: list[tuple[str, object]] = [
    ("bool", False),
    ("int2", 7),
    ("int8", 2**62),
    ("float8", -0.25),
    ("numeric", Decimal("-1.5e20")),
    ("text", "ž\n'"),
    ("bytea", b"\0\xff"),
    ("date", dt.date(1970, 1, 1)),
    ("timestamptz", dt.datetime(2026, 11, 25, tzinfo=dt.UTC)),
    ("interval", dt.timedelta(days=40, seconds=1)),
    ("uuid", uuid.UUID(int=5)),
    ("jsonb", '{"a": [1, 2]}'),
    ("int4[]", [1, None, 3]),
    ("text[]", [["a", "b"], ["c", None]]),
    ("point", asyncpg.Point(1.5, 2.5)),
    ("int8range", asyncpg.Range(1, 9)),
    ("order_status", "paid"),
    ("order_status[]", ["new", "paid"]),
    ("email_address", "a@b.example"),
    ("bit varying", asyncpg.BitString("1011")),
]


@pytest.mark.parametrize(("type_name", "value"), VALUES, ids=[name for name, _ in VALUES])
async def test_values_come_back_as_they_went(connection: asyncpg.Connection, type_name: str, value: object) -> None:
    assert tuple(await connection.fetchrow(f"SELECT $1::{type_name}, NULL::{type_name}", value)) == (value, None)


async def test_composite_types_are_looked_up_and_decoded(connection: asyncpg.Connection) -> None:
    row = await connection.fetchval("SELECT accounts FROM accounts WHERE id = 1")
    assert dict(row) == {"id": 1, "owner": "owner1", "balance": 1000}
    rows = await connection.fetchval("SELECT array_agg(s ORDER BY key) FROM prod.settings AS s WHERE key < 'key11'")
    assert [record["value"] for record in rows] == ["value1", "value10"]


async def test_type_codecs_replace_the_builtin_ones(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    assert await connection.fetchval("SELECT $1::jsonb || '{\"b\": 2}'", {"a": 1}) == {"a": 1, "b": 2}


async def test_prepared_statements_describe_explain_and_run_often(connection: asyncpg.Connection) -> None:
    statement = await connection.prepare("SELECT id, name FROM customers WHERE id = $1")
    assert [attribute.name for attribute in statement.get_attributes()] == ["id", "name"]
    assert [parameter.name for parameter in statement.get_parameters()] == ["int4"]
    for n in range(1, 50):
        assert tuple(await statement.fetchrow(n)) == (n, f"Customer {n}")
    plan = await statement.explain(1, analyze=True)
    assert plan[0]["Plan"]["Node Type"]


async def test_executemany_is_all_or_nothing(connection: asyncpg.Connection) -> None:
    await connection.executemany("INSERT INTO accounts (id, owner) VALUES ($1, $2)", [(n, "many") for n in range(6000, 6300)])
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.executemany("INSERT INTO accounts (id, owner) VALUES ($1, $2)", [(7000, "x"), (6000, "x"), (7001, "x")])
    assert await connection.fetchval("SELECT count(*) FROM accounts WHERE id >= 6000") == 300


async def test_transactions_nest_and_cursors_walk(connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with connection.transaction():
                await connection.execute("UPDATE accounts SET balance = 1 WHERE id = 1 RETURNING 1/0")
        seen = [
            row["id"] async for row in connection.cursor("SELECT id FROM accounts WHERE id <= $1 ORDER BY id", 120, prefetch=50)
        ]
        assert seen == list(range(1, 121))
        cursor = await connection.cursor("SELECT id FROM accounts ORDER BY id")
        assert await cursor.forward(10) == 10
        assert (await cursor.fetchrow())["id"] == 11
        assert [row["id"] for row in await cursor.fetch(2)] == [12, 13]


async def test_copies_tables_records_and_queries(connection: asyncpg.Connection) -> None:
    records = [(n, f"owner {n}", n * 2) for n in range(10_000, 10_500)]
    assert await connection.copy_records_to_table("accounts", records=records) == "COPY 500"
    out = io.BytesIO()
    query = "SELECT id, owner, balance FROM accounts WHERE id >= $1 ORDER BY id"
    assert await connection.copy_from_query(query, 10_000, output=out, format="csv") == "COPY 500"
    assert out.getvalue().decode().splitlines()[-1] == "10499,owner 10499,20998"
    await connection.execute("DELETE FROM accounts WHERE id >= 10000")
    assert await connection.copy_to_table("accounts", source=io.BytesIO(out.getvalue()), format="csv") == "COPY 500"
    whole = io.BytesIO()
    assert await connection.copy_from_table("accounts", output=whole, format="binary") == "COPY 5500"
    assert whole.getvalue().startswith(b"PGCOPY\n\xff\r\n\0")


async def test_notices_and_notifications(connection: asyncpg.Connection, endpoint: Endpoint, database: str) -> None:
    notices: list[str] = []
    heard: asyncio.Queue[str] = asyncio.Queue()
    connection.add_log_listener(lambda _, message: notices.append(message.message))
    await connection.add_listener("channel", lambda _connection, _pid, _channel, payload: heard.put_nowait(payload))
    await connection.execute("SELECT warn('asyncpg')")
    other = await asyncpg.connect(**arguments(endpoint, "app", database))
    await other.execute("SELECT pg_notify('channel', 'hello')")
    await other.close()
    assert await asyncio.wait_for(heard.get(), 10) == "hello"
    await connection.remove_listener("channel", lambda *_: None)
    assert "heed: asyncpg" in notices
    await connection.reset()
    connection.remove_log_listener(lambda *_: None)


async def test_a_timeout_cancels_the_statement_and_not_the_session(
    connection: asyncpg.Connection, postgres: PostgresServer, database: str
) -> None:
    with pytest.raises(TimeoutError):
        await connection.fetchval("SELECT pg_sleep(60)", timeout=0.2)
    assert await connection.fetchval("SELECT 1") == 1
    assert [s.state for s in postgres.sessions(database, "readwrite")] == ["idle"]


async def test_a_changed_table_makes_it_prepare_again(connection: asyncpg.Connection, endpoint: Endpoint, database: str) -> None:
    assert len(await connection.fetchrow("SELECT * FROM accounts WHERE id = $1", 1)) == 3
    other = await asyncpg.connect(**arguments(endpoint, "owner", database))
    await other.execute("ALTER TABLE accounts ADD COLUMN added text DEFAULT 'new'")
    await other.close()
    assert (await connection.fetchrow("SELECT * FROM accounts WHERE id = $1", 1))["added"] == "new"


async def test_a_pool_resets_its_sessions(endpoint: Endpoint, shop: str) -> None:
    async with asyncpg.create_pool(**arguments(endpoint, "readonly", shop, min_size=2, max_size=5)) as pool:

        async def one(n: int) -> int:
            async with pool.acquire() as connection:
                await connection.execute("SET statement_timeout TO 4000")
                value: int = await connection.fetchval("SELECT $1::int", n)
                return value

        assert await asyncio.gather(*(one(n) for n in range(40))) == list(range(40))
        async with pool.acquire() as connection:
            assert await connection.fetchval("SHOW statement_timeout") == "0"


async def test_errors_have_their_class_and_their_fields(connection: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as raised:
        await connection.execute("UPDATE orders SET total = -1 WHERE id = 1")
    assert raised.value.constraint_name == "orders_total_check"
    assert raised.value.table_name == "orders"
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await connection.fetch("SELEC 1")
    assert await connection.fetchval("SELECT 1") == 1


async def test_large_results_stream(connection: asyncpg.Connection) -> None:
    rows = await connection.fetch("SELECT n, repeat('x', 50) AS x FROM generate_series(1, 30000) AS n")
    assert (len(rows), rows[-1]["n"]) == (30_000, 30_000)
    blob = b"\1" * 5_000_000
    assert await connection.fetchval("SELECT $1::bytea", blob) == blob
