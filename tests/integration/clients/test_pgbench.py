"""pgbench: its own workloads in each protocol mode, with every transaction accounted for. Speed is tests/bench's business."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.integration.clients.conftest import Run
from tests.support.endpoint import Endpoint
from tests.support.postgres_server import Installation, PostgresServer

CLIENTS, TRANSACTIONS = 4, 25
LOAD = (f"--client={CLIENTS}", "--jobs=1", f"--transactions={TRANSACTIONS}", "--no-vacuum")


@pytest.fixture
def bank(run: Run, embedded: Installation, postgres: PostgresServer) -> Iterator[str]:
    """A database with pgbench's tables, made directly."""
    name = postgres.create_database(template=None)
    with postgres.admin(name) as admin:
        admin.execute("ALTER SCHEMA public OWNER TO owner")
    run(embedded.program("pgbench"), "-i", "-q", "-s", "1", environment=postgres.environment("owner", name))
    yield name
    postgres.drop_database(name)


def assert_all_done(output: str) -> None:
    assert f"number of transactions actually processed: {CLIENTS * TRANSACTIONS}/{CLIENTS * TRANSACTIONS}" in output
    assert re.search(r"number of failed transactions: 0 ", output)


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
@pytest.mark.parametrize("workload", ["select-only", "simple-update", "tpcb-like"])
def test_every_transaction_is_done(
    run: Run, embedded: Installation, endpoint: Endpoint, bank: str, workload: str, protocol: str
) -> None:
    arguments = (*LOAD, f"--builtin={workload}", f"--protocol={protocol}")
    done = run(embedded.program("pgbench"), *arguments, environment=endpoint.environment("owner", bank))
    assert_all_done(done.stdout)


def test_balances_add_up_after_concurrent_transfers(
    run: Run, embedded: Installation, endpoint: Endpoint, postgres: PostgresServer, bank: str
) -> None:
    run(embedded.program("pgbench"), *LOAD, "--protocol=prepared", environment=endpoint.environment("owner", bank))
    with psycopg.connect(postgres.dsn("owner", bank)) as connection:
        row = connection.execute(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), "
            "(SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history), (SELECT count(*) FROM pgbench_history)"
        ).fetchone()
    assert row is not None
    *sums, count = row
    assert len(set(sums)) == 1
    assert count == CLIENTS * TRANSACTIONS


def test_pipelines_of_statements(run: Run, embedded: Installation, endpoint: Endpoint, bank: str, tmp_path: Path) -> None:
    script = tmp_path / "pipeline.sql"
    script.write_text(
        "\\set aid random(1, 100000)\n\\startpipeline\n"
        + "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n" * 5
        + "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n\\endpipeline\n"
    )
    arguments = (*LOAD, "--protocol=extended", f"--file={script}")
    assert_all_done(run(embedded.program("pgbench"), *arguments, environment=endpoint.environment("owner", bank)).stdout)


def test_connects_anew_for_every_transaction(run: Run, embedded: Installation, endpoint: Endpoint, bank: str) -> None:
    arguments = ("--connect", "--client=2", "--transactions=5", "--no-vacuum", "--select-only")
    done = run(embedded.program("pgbench"), *arguments, environment=endpoint.environment("owner", bank))
    assert "number of transactions actually processed: 10/10" in done.stdout


def test_makes_its_tables_and_fills_them(
    run: Run, embedded: Installation, endpoint: Endpoint, postgres: PostgresServer, bank: str
) -> None:
    arguments = ("-i", "-q", "-s", "1", "--foreign-keys", "--partitions=2")
    run(embedded.program("pgbench"), *arguments, environment=endpoint.environment("owner", bank))
    with psycopg.connect(postgres.dsn("owner", bank)) as connection:
        assert connection.execute("SELECT count(*) FROM pgbench_accounts").fetchone() == (100_000,)
