"""What real clients see when a statement is refused or a value masked: their usual exception, and a session that goes on in step."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest
import sqlalchemy as sa

from sidegate.policy.config import ColumnMatch, RuleAction, RuleConfig, StatementMatch
from tests.integration.clients.conftest import Psql
from tests.support import wire_messages as m
from tests.support.endpoint import Endpoint
from tests.support.gate import GateProcess, gate_config, open_policy
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer
from tests.support.wire import WireClient

KINDS = ("Read", "Explain", "Insert", "Update", "Delete", "CopyIn", "CopyOut", "Transaction", "Session", "Cursor", "Call")
MASK = "[masked]"
CARDS = RuleConfig("cards", RuleAction.MASK, columns=(ColumnMatch("card", table="customers"),))
NO_DELETES = RuleConfig(
    "no-deletes",
    RuleAction.DENY,
    statements=StatementMatch(kinds=("Delete",), tables=("accounts",)),
    message="ask the bank instead",
)


@dataclass(frozen=True, slots=True)
class Guarded:
    """A gate that denies and masks, and a database of the test's own behind it."""

    endpoint: Endpoint
    database: str

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.endpoint.dsn("readwrite", self.database), autocommit=True)


@pytest.fixture(scope="module")
def guarding_gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    policies = [open_policy("readwrite", kinds=KINDS, rules=[CARDS, NO_DELETES])]
    with GateProcess(gate_config(postgres, issuer, policies=policies)) as gate:
        yield gate


@pytest.fixture
def guarded(guarding_gate: GateProcess, issuer: Issuer, database: str) -> Iterator[Guarded]:
    log_before = len(guarding_gate.read_log())
    yield Guarded(guarding_gate.endpoint(issuer), database)
    guarding_gate.assert_no_trouble(since=log_before)


def test_psql_shows_what_where_and_what_to_do_and_goes_on(psql: Psql, guarded: Guarded) -> None:
    script = "\\set ON_ERROR_STOP off\n\\set VERBOSITY verbose\nDELETE FROM accounts;\nSELECT count(*) FROM accounts;\n"
    done = psql(guarded.endpoint, "readwrite", guarded.database, script, "-A", "-t", "-q")
    assert done.stdout == "5000\n"
    assert "ERROR:  42501: refused by sidegate" in done.stderr
    assert "shop/open-readwrite#no-deletes" in done.stderr
    assert "HINT:  ask the bank instead" in done.stderr


def test_psql_keeps_a_transaction_with_savepoints_in_step(psql: Psql, guarded: Guarded) -> None:
    script = """
        \\set ON_ERROR_STOP off
        BEGIN;
        UPDATE accounts SET balance = 1 WHERE id = 1;
        SAVEPOINT a;
        DELETE FROM accounts;
        SELECT 'void';
        ROLLBACK TO a;
        SELECT balance FROM accounts WHERE id = 1;
        COMMIT;
        SELECT balance FROM accounts WHERE id = 1;
    """
    done = psql(guarded.endpoint, "readwrite", guarded.database, script, "-A", "-t", "-q")
    assert done.stdout == "1\n1\n"
    assert done.stderr.count("ERROR:") == 2
    assert "current transaction is aborted" in done.stderr


def test_psycopg_raises_insufficient_privilege_with_detail_and_hint(guarded: Guarded) -> None:
    with guarded.connect() as connection:
        for statement in ("DROP TABLE accounts", "DELETE FROM accounts WHERE id = 1"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as raised:
                connection.execute(statement)
            assert raised.value.diag.severity_nonlocalized == "ERROR"
            assert raised.value.diag.message_detail
            assert raised.value.diag.message_hint
            assert connection.execute("SELECT count(*) FROM accounts WHERE id = %s", [1]).fetchone() == (1,)


def test_a_refusal_in_a_pipeline_voids_what_stands_before_the_next_sync(guarded: Guarded) -> None:
    with guarded.connect() as connection:
        with connection.pipeline() as pipeline:
            connection.execute("INSERT INTO audit_trail (what) VALUES ('before')")
            pipeline.sync()
            connection.execute("INSERT INTO audit_trail (what) VALUES ('with it')")
            connection.execute("DELETE FROM accounts WHERE id = %s", [1])
            connection.execute("INSERT INTO audit_trail (what) VALUES ('after')")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                pipeline.sync()
            rows = connection.execute("SELECT array_agg(what) FROM audit_trail").fetchone()
        assert rows == (["before"],)
        assert connection.execute("SELECT count(*) FROM accounts").fetchone() == (5000,)


def test_a_prepared_statement_is_refused_and_another_takes_its_place(guarded: Guarded) -> None:
    with guarded.connect() as connection:
        for _ in range(2):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("DELETE FROM accounts WHERE id = %s", [1], prepare=True)
        assert connection.execute("SELECT owner FROM accounts WHERE id = %s", [1], prepare=True).fetchone() == ("owner1",)


def test_one_refused_statement_refuses_the_string_it_is_in(guarded: Guarded) -> None:
    with guarded.connect() as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE accounts SET balance = 5 WHERE id = 1; DELETE FROM accounts WHERE id = 2")
        assert connection.execute("SELECT balance FROM accounts WHERE id = 1").fetchone() == (1000,)


@pytest.mark.parametrize(
    "statement",
    [
        "COPY accounts TO PROGRAM 'cat'",
        "COPY accounts FROM '/etc/passwd'",
        "COPY prod.settings TO '/tmp/x'",
        "COPY accounts FROM PROGRAM 'true'",
    ],
)
def test_a_refused_copy_never_begins(guarded: Guarded, statement: str) -> None:
    with guarded.connect() as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="refused by sidegate"):
            connection.execute(statement)
        assert connection.execute("SELECT 1").fetchone() == (1,)


async def test_asyncpg_is_refused_while_preparing_and_goes_on(guarded: Guarded) -> None:
    parameters = guarded.endpoint.parameters("readwrite", guarded.database)
    connection = await asyncpg.connect(
        host="127.0.0.1", port=guarded.endpoint.port, user="readwrite", password=parameters["password"], database=guarded.database
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError) as raised:
        await connection.fetch("DELETE FROM accounts WHERE id = $1", 1)
    assert raised.value.hint == "ask the bank instead"
    async with connection.transaction():
        await connection.execute("UPDATE accounts SET balance = 3 WHERE id = 1")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with connection.transaction():
                await connection.execute("DROP TABLE accounts")
    assert await connection.fetchval("SELECT balance FROM accounts WHERE id = 1") == 3
    assert await connection.fetchval("SELECT card FROM customers WHERE id = $1", 1) == MASK
    await connection.close()


def test_sqlalchemy_rolls_back_and_goes_on(guarded: Guarded) -> None:
    parameters = guarded.endpoint.parameters("readwrite", guarded.database)
    url = sa.URL.create(
        "postgresql+psycopg", "readwrite", parameters["password"], "127.0.0.1", guarded.endpoint.port, guarded.database
    )
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        connection.execute(sa.text("UPDATE accounts SET balance = 8 WHERE id = 1"))
        with pytest.raises(sa.exc.ProgrammingError, match="refused by sidegate"), connection.begin_nested():
            connection.execute(sa.text("DELETE FROM accounts"))
        connection.commit()
        assert connection.scalar(sa.text("SELECT balance FROM accounts WHERE id = 1")) == 8
    engine.dispose()


def test_the_fast_path_of_function_calls_is_refused_and_the_session_lives(guarded: Guarded) -> None:
    with WireClient.tcp("127.0.0.1", guarded.endpoint.port) as client:
        client.log_in("readwrite", guarded.database, guarded.endpoint.password("readwrite"))
        client.send(m.function_call(1598))
        error = client.receive_until_ready()[0]
        assert isinstance(error, m.ErrorResponse)
        assert (error.severity, error.sqlstate) == ("ERROR", "0A000")
        assert client.rows("SELECT 1") == [(b"1",)]


# Masked values, by every way that rows take to a client.


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT id, card FROM customers WHERE id = 1",
        "SELECT id, card AS anything FROM customers WHERE id = 1",
        "SELECT c.id, c.card FROM customers AS c JOIN orders AS o ON o.customer_id = c.id WHERE c.id = 1 LIMIT 1",
        "WITH w AS (SELECT id, card FROM customers) SELECT id, card FROM w WHERE id = 1",
        "UPDATE customers SET name = name WHERE id = 1 RETURNING id, card",
    ],
)
def test_a_masked_column_is_masked_however_it_is_named(guarded: Guarded, query: str, binary: bool) -> None:
    with guarded.connect() as connection:
        assert connection.execute(query, binary=binary).fetchone() == (1, MASK)
        assert connection.execute(query, binary=binary, prepare=True).fetchone() == (1, MASK)


def test_a_masked_column_under_a_view_is_masked_or_the_statement_refused(guarded: Guarded) -> None:
    with guarded.connect() as connection:
        try:
            assert connection.execute("SELECT id, payment FROM customer_contacts WHERE id = 1").fetchone() == (1, MASK)
        except psycopg.errors.InsufficientPrivilege as refused:
            assert "payment" in str(refused) or "card" in str(refused) or "customer_contacts" in str(refused)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_masked_rows_come_by_cursor_stream_and_pipeline(guarded: Guarded) -> None:
    query = "SELECT card FROM customers"
    with guarded.connect() as connection:
        with connection.transaction(), connection.cursor("walk") as cursor:
            cursor.execute(query)
            assert set(cursor.fetchall()) == {(MASK,)}
        with connection.cursor() as cursor:
            assert set(cursor.stream(query)) == {(MASK,)}
    with guarded.connect() as connection:  # psycopg 3.3 can't pipeline after a stream
        with connection.pipeline():
            cursors = [connection.execute(query) for _ in range(3)]
        assert {row for found in cursors for row in found.fetchall()} == {(MASK,)}


@pytest.mark.parametrize("form", ["text", "csv", "binary"])
def test_a_copy_out_of_a_masked_column_is_masked_or_refused(guarded: Guarded, form: str) -> None:
    out = io.BytesIO()
    with guarded.connect() as connection:
        try:
            with (
                connection.cursor() as cursor,
                cursor.copy(f"COPY (SELECT id, card FROM customers) TO STDOUT (FORMAT {form})") as copy,
            ):
                for chunk in copy:
                    out.write(bytes(chunk))
        except psycopg.errors.InsufficientPrivilege:
            pass
        assert connection.execute("SELECT 1").fetchone() == (1,)
    for card in (b"4111111111111111", b"5555555555554444", b"378282246310005"):
        assert card not in out.getvalue()


def test_psql_copies_and_describes_no_card(psql: Psql, guarded: Guarded, tmp_path: Path) -> None:
    file = tmp_path / "out"
    script = f"\\set ON_ERROR_STOP off\nTABLE customers;\nSELECT customers FROM customers;\n\\copy customers TO '{file}'\nSELECT row_to_json(c) FROM customers AS c;\n"
    done = psql(guarded.endpoint, "readwrite", guarded.database, script)
    seen = done.stdout + done.stderr + (file.read_text() if file.exists() else "")
    assert "4111111111111111" not in seen
    assert MASK in seen
