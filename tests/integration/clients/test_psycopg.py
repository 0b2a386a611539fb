"""psycopg 3 over libpq 18: server-side parameters, prepared statements, pipelines, COPY, cursors, notifications, cancel; sync and async."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import threading
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row, namedtuple_row
from psycopg.types.json import Jsonb
from psycopg.types.range import Range

from tests.support.endpoint import Endpoint
from tests.support.postgres_server import PostgresServer

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def connection(endpoint: Endpoint, database: str) -> Iterator[Connection]:
    """The `readwrite` role in a database of the test's own, in autocommit mode."""
    with psycopg.connect(endpoint.dsn("readwrite", database), autocommit=True) as connection:
        yield connection


# What psycopg sends as a parameter comes back as the same value: text and binary, both ways.
VALUES: list[tuple[str, object]] = [
    ("bool", True),
    ("int2", -32768),
    ("int4", 2147483647),
    ("int8", -9223372036854775808),
    ("float4", 0.5),
    ("float8", 1e300),
    ("numeric", Decimal("12345678901234567890.000000001")),
    ("text", "quo'te \\ \u017elu\u0165ou\u010dk\u00fd \U0001f418 \n"),
    ("text", ""),
    ("bytea", bytes(range(256))),
    ("date", dt.date(2026, 2, 28)),
    ("time", dt.time(23, 59, 59, 999999)),
    ("timestamp", dt.datetime(1999, 12, 31, 23, 59, 59, 1)),  # noqa: DTZ001 - a type without a zone
    ("timestamptz", dt.datetime(2026, 11, 25, 1, 2, 3, tzinfo=dt.UTC)),
    ("interval", dt.timedelta(days=3, seconds=7, microseconds=9)),
    ("uuid", uuid.UUID("12345678-1234-5678-1234-567812345678")),
    ("inet", ipaddress.ip_interface("10.0.0.1/8")),
    ("jsonb", {"a": [1, None, {"b": "c"}]}),
    ("int4[]", [1, None, 3]),
    ("text[]", ['q"uote', "com,ma", "{brace}", ""]),
    ("numeric[]", [[Decimal("1.1"), Decimal(2)], [Decimal(3), Decimal(4)]]),
    ("int4range", Range(1, 10)),
    ("timestamptz[]", [dt.datetime(2026, 1, 1, tzinfo=dt.UTC)]),
]


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize(("type_name", "value"), VALUES, ids=[f"{name}-{n}" for n, (name, _) in enumerate(VALUES)])
def test_values_come_back_as_they_went(connection: Connection, type_name: str, value: object, binary: bool) -> None:
    form = "%b" if binary else "%t"
    given = Jsonb(value) if type_name == "jsonb" else value
    row = connection.execute(f"SELECT {form}::{type_name}, NULL::{type_name}", [given], binary=binary).fetchone()
    if type_name == "inet":
        assert row == (ipaddress.ip_interface("10.0.0.1/8"), None)
    else:
        assert row == (value, None)


def test_many_parameters_and_columns(connection: Connection) -> None:
    values = list(range(1500))
    query = sql.SQL("SELECT {}").format(sql.SQL(", ").join([sql.SQL("%s::int")] * 1500))
    assert connection.execute(query, values).fetchone() == tuple(values)


def test_a_statement_used_often_is_prepared_and_stays_right(connection: Connection) -> None:
    for n in range(1, 30):
        assert connection.execute("SELECT name FROM customers WHERE id = %s", [n]).fetchone() == (f"Customer {n}",)
    names = connection.execute("SELECT statement FROM pg_prepared_statements").fetchall()
    assert any("FROM customers WHERE id" in name for (name,) in names)
    connection.execute("DEALLOCATE ALL")
    assert connection.execute("SELECT name FROM customers WHERE id = %s", [3]).fetchone() == ("Customer 3",)


def test_a_statement_prepared_at_once(connection: Connection) -> None:
    for expected in (1, 2):
        assert connection.execute("SELECT %s::int", [expected], prepare=True).fetchone() == (expected,)


def test_a_prepared_statement_survives_a_failed_execution(connection: Connection) -> None:
    connection.execute("SELECT 10 / %s::int", [2], prepare=True)
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 10 / %s::int", [0], prepare=True)
    assert connection.execute("SELECT 10 / %s::int", [5], prepare=True).fetchone() == (2,)


def test_transactions_nest_and_roll_back_one_by_one(connection: Connection) -> None:
    with connection.transaction():
        connection.execute("UPDATE accounts SET balance = 1 WHERE id = 1")
        with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
            connection.execute("UPDATE accounts SET balance = 2 WHERE id = 1 RETURNING balance / 0")
        with connection.transaction():
            connection.execute("UPDATE accounts SET balance = balance + 10 WHERE id = 1")
        with connection.transaction(force_rollback=True):
            connection.execute("DELETE FROM accounts")
    assert connection.execute("SELECT balance, (SELECT count(*) FROM accounts) FROM accounts WHERE id = 1").fetchone() == (
        11,
        5000,
    )


def test_isolation_levels_and_read_only_hold(connection: Connection) -> None:
    connection.autocommit = False
    connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    connection.read_only = True
    assert connection.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("DELETE FROM accounts")
    connection.rollback()


def test_an_error_in_a_transaction_fails_what_follows_until_rollback(connection: Connection) -> None:
    connection.autocommit = False
    with pytest.raises(psycopg.errors.UndefinedColumn):
        connection.execute("SELECT nothing FROM customers")
    assert connection.info.transaction_status.name == "INERROR"
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        connection.execute("SELECT 1")
    connection.rollback()
    assert connection.info.transaction_status.name == "IDLE"


def test_errors_carry_all_their_fields(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation) as raised:
        connection.execute("INSERT INTO accounts (id, owner) VALUES (1, 'x')")
    diag = raised.value.diag
    assert (diag.severity_nonlocalized, diag.sqlstate) == ("ERROR", "23505")
    assert diag.message_detail == "Key (id)=(1) already exists."
    assert (diag.schema_name, diag.table_name, diag.constraint_name) == ("public", "accounts", "accounts_pkey")


def test_notices_arrive_with_their_statement(connection: Connection) -> None:
    heard: list[str | None] = []
    connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    connection.execute("SELECT warn(%s)", ["one"])
    connection.execute("SELECT warn('two')")
    assert heard == ["heed: one", "heed: two"]


def test_pipelines_answer_each_statement_in_order(connection: Connection) -> None:
    with connection.pipeline() as pipeline, connection.cursor() as one, connection.cursor() as two, connection.cursor() as three:
        one.execute("SELECT id FROM accounts WHERE id <= %s ORDER BY id", [3])
        two.execute("INSERT INTO audit_trail (what) VALUES (%s) RETURNING what", ["piped"])
        pipeline.sync()
        three.execute("SELECT count(*) FROM audit_trail WHERE what = %s", ["piped"])
        assert one.fetchall() == [(1,), (2,), (3,)]
        assert two.fetchall() == [("piped",)]
        assert three.fetchone() == (1,)


def test_an_error_in_a_pipeline_voids_what_stands_before_the_next_sync(connection: Connection) -> None:
    with connection.pipeline() as pipeline:
        first = connection.execute("INSERT INTO audit_trail (what) VALUES ('before')")
        pipeline.sync()
        bad, void = connection.cursor(), connection.cursor()

        def send() -> None:
            bad.execute("SELECT 1 / %s::int", [0])
            void.execute("INSERT INTO audit_trail (what) VALUES ('after')")
            pipeline.sync()

        with pytest.raises(psycopg.errors.DivisionByZero):  # psycopg may read it before all of this is sent
            send()
        with contextlib.suppress(psycopg.errors.PipelineAborted):
            pipeline.sync()
        after = connection.execute("SELECT array_agg(what) FROM audit_trail")
        assert after.fetchone() == (["before"],)
    assert first.statusmessage == "INSERT 0 1"
    assert bad.statusmessage is None
    assert void.statusmessage is None


def test_a_long_pipeline(connection: Connection) -> None:
    with connection.pipeline():
        cursors = [connection.execute("SELECT %s::int, repeat('x', 1000)", [n]) for n in range(2000)]
    assert [cursor.fetchone()[0] for cursor in cursors] == list(range(2000))  # type: ignore[index]


def test_executemany_counts_and_returns(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO audit_trail (what) VALUES (%s)", [(f"row {n}",) for n in range(500)])
        assert cursor.rowcount == 500
        cursor.executemany("SELECT %s::int", [(1,), (2,)], returning=True)
        assert cursor.fetchall() == [(1,)]
        assert cursor.nextset()
        assert cursor.fetchall() == [(2,)]


def test_copies_rows_in_and_out_as_text_and_binary(connection: Connection) -> None:
    rows = [(n, f"line {n}\t\\ \u017e", None if n % 3 else n * 10) for n in range(9001, 9500)]
    for form in ("text", "binary"):
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE copied (id int4, what text, maybe int8)")
            with cursor.copy(f"COPY copied FROM STDIN (FORMAT {form})") as copy:
                copy.set_types(["int4", "text", "int8"])
                for row in rows:
                    copy.write_row(row)
            assert cursor.rowcount == len(rows)
            with cursor.copy(f"COPY (SELECT * FROM copied ORDER BY id) TO STDOUT (FORMAT {form})") as copy:
                copy.set_types(["int4", "text", "int8"])
                assert list(copy.rows()) == rows
            cursor.execute("DROP TABLE copied")


def test_a_copy_that_the_client_breaks_off_leaves_nothing(connection: Connection) -> None:
    def copy_until_it_breaks() -> None:
        with connection.cursor() as cursor, cursor.copy("COPY audit_trail (what) FROM STDIN") as copy:
            copy.write_row(["one"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        copy_until_it_breaks()
    assert connection.execute("SELECT count(*) FROM audit_trail").fetchone() == (0,)


def test_named_cursors_fetch_scroll_and_hold(connection: Connection) -> None:
    with connection.transaction(), connection.cursor("scrolling", scrollable=True) as cursor:
        cursor.itersize = 100
        cursor.execute("SELECT id FROM accounts ORDER BY id")
        assert cursor.fetchmany(3) == [(1,), (2,), (3,)]
        cursor.scroll(4999, mode="absolute")
        assert cursor.fetchone() == (5000,)
        cursor.scroll(0, mode="absolute")
        assert sum(1 for _ in cursor) == 5000
    with connection.cursor("held", withhold=True) as cursor:
        cursor.execute("SELECT id FROM accounts ORDER BY id")
        assert cursor.fetchone() == (1,)


def test_streams_rows_one_by_one_and_in_chunks(connection: Connection) -> None:
    with connection.cursor() as cursor:
        assert [n for (n,) in cursor.stream("SELECT generate_series(1, %s)", [3000])] == list(range(1, 3001))
        assert sum(1 for _ in cursor.stream("SELECT generate_series(1, 3000)", size=500)) == 3000


def test_several_statements_have_several_results(connection: Connection) -> None:
    cursor = connection.execute("SELECT 1; UPDATE accounts SET balance = 5 WHERE id < 4; SELECT 'x', 2")
    assert cursor.fetchall() == [(1,)]
    assert cursor.nextset()
    assert cursor.rowcount == 3
    assert cursor.nextset()
    assert cursor.fetchall() == [("x", 2)]
    assert not cursor.nextset()


def test_row_factories_see_names_and_types(connection: Connection) -> None:
    with connection.cursor(row_factory=dict_row) as cursor:
        assert cursor.execute('SELECT 1 AS one, 2 AS "Two 2"').fetchone() == {"one": 1, "Two 2": 2}
        assert cursor.description is not None
        assert [(column.name, column.type_code) for column in cursor.description] == [("one", 23), ("Two 2", 23)]
    with connection.cursor(row_factory=namedtuple_row) as named:
        row = named.execute("SELECT total, total_with_tax, status FROM orders WHERE id = 1").fetchone()
        assert row is not None
        assert row._asdict() == {"total": Decimal("1.25"), "total_with_tax": Decimal("1.50"), "status": "paid"}


def test_notifications_reach_whoever_listens(connection: Connection, endpoint: Endpoint, database: str) -> None:
    connection.execute("LISTEN channel")
    with psycopg.connect(endpoint.dsn("app", database), autocommit=True) as other:
        other.execute("SELECT pg_notify('channel', %s)", ["hello"])
        other.execute("NOTIFY channel, 'again'")
    notes = list(connection.notifies(timeout=10, stop_after=2))
    assert [note.payload for note in notes] == ["hello", "again"]
    connection.execute("UNLISTEN *")


def test_large_values_and_large_results(connection: Connection) -> None:
    blob = bytes(range(256)) * 40_000
    row = connection.execute("SELECT %b::bytea, length(%b)", [blob, blob], binary=True).fetchone()
    assert row == (blob, len(blob))
    rows = connection.execute("SELECT n, repeat('x', 100) FROM generate_series(1, 50000) AS n").fetchall()
    assert len(rows) == 50_000
    assert rows[-1] == (50_000, "x" * 100)


def test_cancel_ends_the_statement_and_not_the_session(connection: Connection, postgres: PostgresServer, database: str) -> None:
    def cancel() -> None:
        postgres.wait_for_query("psycopg to be cancelled", database)
        connection.cancel_safe(timeout=10)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(60), 'psycopg to be cancelled'")
    canceller.join()
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_statement_timeout_given_at_start_up_holds(endpoint: Endpoint, shop: str) -> None:
    with (
        psycopg.connect(endpoint.dsn("readonly", shop), options="-c statement_timeout=50") as connection,
        pytest.raises(psycopg.errors.QueryCanceled),
    ):
        connection.execute("SELECT pg_sleep(10)")


def test_session_settings_come_and_go(connection: Connection) -> None:
    connection.execute("SET timezone TO 'Asia/Tokyo'")
    assert connection.info.parameter_status("TimeZone") == "Asia/Tokyo"
    connection.execute("RESET timezone")
    assert connection.info.parameter_status("TimeZone") == "UTC"
    connection.execute("SET application_name TO 'renamed'")
    assert connection.execute("SELECT current_setting('application_name')").fetchone() == ("renamed",)
    connection.execute("DISCARD ALL")
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_protocol_3_2_is_spoken_on_request(endpoint: Endpoint, shop: str) -> None:
    with psycopg.connect(endpoint.dsn("readonly", shop), max_protocol_version="3.2") as connection:
        assert connection.pgconn.full_protocol_version == 30002
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_many_sessions_come_and_go_and_none_stays(endpoint: Endpoint, postgres: PostgresServer, shop: str) -> None:
    for _ in range(10):
        with psycopg.connect(endpoint.dsn("app", shop)) as connection:
            assert connection.execute("SELECT count(*) FROM prod.settings").fetchone() == (20,)
    postgres.wait_for_sessions(0, shop, "app")


def test_a_client_that_vanishes_leaves_no_session_and_no_lock(
    endpoint: Endpoint, postgres: PostgresServer, database: str
) -> None:
    connection = psycopg.connect(endpoint.dsn("app", database))
    connection.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
    with pytest.warns(ResourceWarning):
        del connection  # libpq closes the socket
    postgres.wait_for_sessions(0, database, "app")
    with psycopg.connect(postgres.dsn("readonly", database)) as control:
        assert control.execute("SELECT balance FROM accounts WHERE id = 1").fetchone() == (1000,)


def test_a_deadlock_is_broken_and_told_to_one(endpoint: Endpoint, database: str) -> None:
    with psycopg.connect(endpoint.dsn("app", database)) as one, psycopg.connect(endpoint.dsn("app", database)) as two:
        one.execute("UPDATE accounts SET balance = 1 WHERE id = 1")
        two.execute("UPDATE accounts SET balance = 2 WHERE id = 2")
        failed: list[str | None] = []

        def step(connection: Connection, account: int) -> None:
            try:
                connection.execute("UPDATE accounts SET balance = 3 WHERE id = %s", [account])
            except psycopg.Error as error:
                failed.append(error.sqlstate)
            connection.rollback()

        threads = [threading.Thread(target=step, args=pair) for pair in ((one, 2), (two, 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == ["40P01"]


async def test_async_connections_work_side_by_side(endpoint: Endpoint, shop: str) -> None:
    async def one(number: int) -> int:
        async with await psycopg.AsyncConnection.connect(endpoint.dsn("readonly", shop)) as connection:
            cursor = await connection.execute("SELECT %s::int, pg_sleep(0.05)", [number])
            row = await cursor.fetchone()
            assert row is not None
            return int(row[0])

    assert await asyncio.gather(*(one(n) for n in range(20))) == list(range(20))


async def test_async_pipelines_and_copy(endpoint: Endpoint, database: str) -> None:
    async with await psycopg.AsyncConnection.connect(endpoint.dsn("readwrite", database), autocommit=True) as connection:
        async with connection.pipeline():
            cursors = [await connection.execute("SELECT %s::int", [n]) for n in range(50)]
        assert [await cursor.fetchone() for cursor in cursors] == [(n,) for n in range(50)]
        async with connection.cursor() as cursor:
            async with cursor.copy("COPY audit_trail (what) FROM STDIN") as copy:
                for n in range(100):
                    await copy.write_row((f"async {n}",))
            await cursor.execute("SELECT count(*) FROM audit_trail")
            assert await cursor.fetchone() == (100,)
