"""pg_dump and pg_restore: a dump through a gate is the dump, to the byte, and restores through one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.clients.conftest import Run
from tests.support.endpoint import Endpoint
from tests.support.postgres_server import Installation, PostgresServer

FIXED_KEY = "--restrict-key=fixed"  # pg_dump makes a random one otherwise


def dump(run: Run, embedded: Installation, endpoint: Endpoint, role: str, database: str, *options: str) -> str:
    return run(embedded.program("pg_dump"), FIXED_KEY, *options, environment=endpoint.environment(role, database)).stdout


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="everything"),
        pytest.param(("--schema-only",), id="schema"),
        pytest.param(("--data-only",), id="data"),
        pytest.param(("--inserts", "--table=prod.*", "--table=customers"), id="inserts"),
        pytest.param(("--column-inserts", "--rows-per-insert=50", "--table=accounts"), id="column inserts"),
        pytest.param(("--serializable-deferrable", "--table=orders"), id="deferrable"),
        pytest.param(("--clean", "--if-exists", "--create", "--no-owner"), id="clean"),
        pytest.param(("--statistics-only",), id="statistics"),
    ],
)
def test_dumps_are_equal_to_the_byte(
    run: Run, embedded: Installation, endpoint: Endpoint, postgres: PostgresServer, shop: str, options: tuple[str, ...]
) -> None:
    expected = dump(run, embedded, postgres.endpoint, "owner", shop, *options)
    assert dump(run, embedded, endpoint, "owner", shop, *options) == expected
    assert len(expected) > 1000


def test_a_dump_restores_into_an_empty_database(
    run: Run, embedded: Installation, endpoint: Endpoint, postgres: PostgresServer, shop: str
) -> None:
    expected = dump(run, embedded, postgres.endpoint, "owner", shop)
    empty = postgres.create_database(template=None)
    with postgres.admin(empty) as admin:
        admin.execute("ALTER SCHEMA public OWNER TO owner")
    try:
        script = dump(run, embedded, endpoint, "owner", shop)
        psql = embedded.program("psql")
        run(psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", environment=endpoint.environment("owner", empty), stdin=script)
        assert dump(run, embedded, postgres.endpoint, "owner", empty) == expected
    finally:
        postgres.drop_database(empty)


def test_dumps_in_parallel_from_one_snapshot_and_restores(
    run: Run, embedded: Installation, endpoint: Endpoint, postgres: PostgresServer, shop: str, tmp_path: Path
) -> None:
    directory = str(tmp_path / "dump")
    arguments = ("--format=directory", "--jobs=2", f"--file={directory}")
    run(embedded.program("pg_dump"), *arguments, environment=endpoint.environment("owner", shop))
    expected = dump(run, embedded, postgres.endpoint, "owner", shop)
    restored = run(embedded.program("pg_restore"), FIXED_KEY, "--file=-", directory, environment={}).stdout
    assert without_versions(restored) == without_versions(expected)
    empty = postgres.create_database(template=None)
    with postgres.admin(empty) as admin:
        admin.execute("ALTER SCHEMA public OWNER TO owner")
    try:
        restoring = ("--exit-on-error", "--jobs=2", f"--dbname={empty}", directory)
        run(embedded.program("pg_restore"), *restoring, environment=endpoint.environment("owner", empty))
        assert dump(run, embedded, postgres.endpoint, "owner", empty) == expected
    finally:
        postgres.drop_database(empty)


def without_versions(script: str) -> list[str]:
    """pg_restore says the same thing with other comments at the top."""
    return [line for line in script.splitlines() if not line.startswith("-- Dumped")]
