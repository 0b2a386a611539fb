"""Masked results decode in asyncpg, which takes nearly every type in binary format: a relay in this test rewrites the rows by a plan."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator

import asyncpg
import pytest

from sidegate.mask.detectors import DETECTOR_NAMES
from sidegate.policy.decision import ColumnMask, ColumnUse, Masks, MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule
from sidegate.postgres.messages import decode_bind, decode_named
from sidegate.postgres.results import ColumnOrigin, FieldDescription, Reach, ResultPlan, decode_row_description, plan_result
from sidegate.postgres.rows import rewrite_rows
from tests.support.postgres_server import PostgresServer

RULE = PolicyRule("ns", "policy", "rule")


class NoCatalog:
    def origin(self, table_oid: int, attnum: int) -> ColumnOrigin | None:
        return ColumnOrigin("s", "t", "c")

    def is_own(self, table_oid: int, attnum: int) -> bool:
        return not self.is_tainted(table_oid, attnum)

    def is_tainted(self, table_oid: int, attnum: int) -> bool:
        return False


class Relay:
    """Between one asyncpg connection and the server: every DataRow is rewritten by its statement's description and the Bind before it.

    asyncpg sends one Bind at a time, and asks the server about types between describing a statement and running it.
    """

    def __init__(self, socket: str, masks: Masks) -> None:
        self._socket = socket
        self._masks = masks
        self._fields: tuple[FieldDescription, ...] = ()
        self._formats: tuple[int, ...] = ()
        self._described: dict[str, tuple[FieldDescription, ...]] = {}
        self._asked: deque[str] = deque()
        self.rewritten = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        target, to_target = await asyncio.open_unix_connection(self._socket)
        length = await client.readexactly(4)
        to_target.write(length + await client.readexactly(int.from_bytes(length, "big") - 4))
        self._tasks = [
            asyncio.create_task(self._pump(client, to_target, self._from_client)),
            asyncio.create_task(self._pump(target, to_client, self._from_target)),
        ]
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        to_target.close()
        to_client.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, treat: object) -> None:
        try:
            while True:
                head = await reader.readexactly(5)
                body = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
                writer.write(treat(head, body))  # type: ignore[operator]
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    def _from_client(self, head: bytes, body: bytes) -> bytes:
        if head[:1] == b"D":
            self._asked.append(decode_named(body).name)
        if head[:1] == b"B":
            bind = decode_bind(body)
            self._formats = bind.result_formats
            self._fields = self._described.get(bind.statement, ())
        return head + body

    def _from_target(self, head: bytes, body: bytes) -> bytes:
        if head[:1] == b"T" and self._asked:
            self._described[self._asked.popleft()] = decode_row_description(body)
        if head[:1] == b"n" and self._asked:
            self._asked.popleft()
        if head[:1] != b"D" or not any(field.name.startswith(("masked", "found", "kept")) for field in self._fields):
            return head + body
        plan = plan_result(self._fields, self._formats, self._masks, NoCatalog(), (Reach.NONE,) * len(self._fields))
        assert isinstance(plan, ResultPlan)
        row = head + body
        self.rewritten += 1
        return rewrite_rows(row, 0, len(row), plan)


MASKS = Masks(
    (ColumnMask(frozenset({"masked"}), None, None, MaskStrategy.REDACT, ColumnUse.REFUSED, RULE),),
    (ValueMask(DETECTOR_NAMES, MaskStrategy.REDACT, RULE),),
)


@pytest.fixture
async def masked(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[asyncpg.Connection, Relay]]:
    parameters = postgres.parameters("postgres", "postgres", "unix")
    relay = Relay(f"{parameters['host']}/.s.PGSQL.{parameters['port']}", MASKS)
    folder = tmp_path_factory.mktemp("s")
    server = await asyncio.start_unix_server(relay.serve, path=folder / ".s.PGSQL.1")
    connection = await asyncpg.connect(host=str(folder), port=1, user="postgres", database="postgres", ssl=False)
    yield connection, relay
    await connection.close()
    server.close()


# Each type with a value that holds a card number, and what the client reads.
FOUND = [
    ("'pay 4242 4242 4242 4242'::text", "pay [masked]"),
    ("'4242424242424242'::varchar", "[masked]"),
    ("4242424242424242::int8", None),
    ("4242424242424242::numeric", None),
    ("4242424242424242::float8", None),
    ("'4242424242424242'::bytea", b"[masked]"),
    ('\'{"pan": 4242424242424242, "n": 1}\'::jsonb', {"pan": "[masked]", "n": 1}),
    ('\'{"pan": "4242424242424242"}\'::json', {"pan": "[masked]"}),
    ("ARRAY['4242424242424242']", ["[masked]"]),
    ("ARRAY[4242424242424242]", [None]),
    ("ARRAY[4242424242424242::numeric]", [None]),
    ("ROW(1, 4242424242424242::int8)", (1, None)),
    ("int8range(1, 4242424242424242)", None),
    ("numrange(1, 4242424242424242)", None),
]
KEPT = [
    "'nothing'::text",
    "1234567890::int8",
    "12.5::numeric",
    "0.4242424242424242::float8",
    "'{\"a\": [1]}'::jsonb",
    "ARRAY['a', NULL]",
    "ROW(1, 'x'::text)",
    "int8range(1, 10)",
    "now()",
    "'d290f1ee-6c54-4b01-90e6-d701748f0851'::uuid",
    "'\\x00ff'::bytea",
    "true",
    "'1 day'::interval",
    "'10.0.0.1'::inet",
]


async def test_finds_in_every_type_decode(masked: tuple[asyncpg.Connection, Relay]) -> None:
    connection, relay = masked
    for expression, expected in FOUND:
        value = await connection.fetchval(f"SELECT {expression} AS found")
        assert (json.loads(value) if "json" in expression else value) == expected, expression
    assert relay.rewritten == len(FOUND)


async def test_masked_columns_of_every_type_decode(masked: tuple[asyncpg.Connection, Relay]) -> None:
    connection, relay = masked
    for expression, _ in FOUND:
        value = await connection.fetchval(f"SELECT {expression} AS masked")
        if "json" in expression:
            assert json.loads(value) == "[masked]"
        else:
            assert value in (None, "[masked]", b"[masked]"), expression
    for expression in KEPT:
        await connection.fetchval(f"SELECT {expression} AS masked")
    assert relay.rewritten == len(FOUND) + len(KEPT)


async def test_what_holds_nothing_is_what_the_server_says(
    masked: tuple[asyncpg.Connection, Relay],
) -> None:
    connection, _ = masked
    for expression in KEPT:
        if expression == "now()":
            continue
        through = await connection.fetchval(f"SELECT {expression} AS kept")
        assert through == await connection.fetchval(f"SELECT {expression} AS direct"), expression
