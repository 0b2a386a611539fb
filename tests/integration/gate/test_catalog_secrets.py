"""pg_dump and psql as a superuser, without a grant of `Server`: catalogs are read, and what is secret in them is masked or refused."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from sidegate.policy.config import ColumnMatch, RuleAction, RuleConfig
from tests.integration.clients.conftest import run_program
from tests.integration.gate.conftest import connect, running
from tests.support.gate import EVERY_KIND, GateProcess, gate_config, open_policy
from tests.support.issuer import Issuer
from tests.support.postgres_server import Installation, PostgresServer, embedded_installation

KINDS = tuple(kind for kind in EVERY_KIND if kind not in ("Server", "Settings", "Replication", "Roles", "Call", "Do", "Lock"))
MASK = RuleConfig("ssn", RuleAction.MASK, columns=(ColumnMatch("ssn"),))
OBJECTS = """
CREATE SUBSCRIPTION sub CONNECTION 'host=elsewhere password=subscribed-secret' PUBLICATION p WITH (connect = false, slot_name = NONE);
CREATE PUBLICATION p FOR ALL TABLES; CREATE TABLE bulk (id int PRIMARY KEY, note text); INSERT INTO bulk VALUES (1, 'a');
CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION ends(); CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
CREATE USER MAPPING FOR owner SERVER s OPTIONS (password 'mapped-secret')
"""
SECRETS = ("subscribed-secret", "mapped-secret", "SCRAM-SHA-256$")
INTROSPECTION = (
    *(
        r"\d",
        r"\d+",
        r"\d bulk",
        r"\d+ bulk",
        r"\df",
        r"\du",
        r"\du+",
        r"\l",
        r"\l+",
        r"\dn+",
        r"\dx",
        r"\dx+",
        r"\dRs",
        r"\dRp+",
    ),
    *(r"\des+", r"\dew+", r"\deu", r"\dp", r"\ddp", r"\dT+", r"\dO+", r"\db+", r"\dy", r"\drds", r"\dS", r"\dl", r"\dC", r"\dL"),
)


@pytest.fixture(scope="module")
def superuser(postgres: PostgresServer) -> Iterator[str]:
    with postgres.admin() as admin:
        admin.execute("ALTER ROLE owner SUPERUSER")
        yield "owner"
        admin.execute("ALTER ROLE owner NOSUPERUSER")


@pytest.fixture(scope="module")
def database(postgres: PostgresServer, superuser: str) -> Iterator[str]:
    name = postgres.create_database(template=None)
    with postgres.admin(name) as admin:
        admin.execute("CREATE FUNCTION ends() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'")
        for statement in OBJECTS.split(";"):
            admin.execute(statement)
    yield name
    with postgres.admin(name) as admin:
        admin.execute("DROP SUBSCRIPTION sub")
    postgres.drop_database(name)


@pytest.fixture(scope="module", params=["unmasked", "masked"])
def gate(request: pytest.FixtureRequest, postgres: PostgresServer, issuer: Issuer, superuser: str) -> Iterator[GateProcess]:
    rules = (MASK,) if request.param == "masked" else ()
    with running(gate_config(postgres, issuer, policies=[open_policy(superuser, rules=rules, kinds=KINDS)])) as gate:
        yield gate


@pytest.fixture(scope="module")
def programs() -> Installation:
    return embedded_installation()


def through(gate: GateProcess, issuer: Issuer, database: str, program: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run_program(program, *options, environment=gate.endpoint(issuer).environment("owner", database), check=False)


@pytest.mark.parametrize("command", INTROSPECTION)
def test_introspection_is_as_without_a_gate(
    gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str, programs: Installation, command: str
) -> None:
    arguments = ("-X", "-P", "pager=off", "-c", command)
    direct = run_program(programs.program("psql"), *arguments, environment=postgres.environment("owner", database), check=False)
    seen = through(gate, issuer, database, programs.program("psql"), *arguments)
    assert (seen.stdout, seen.stderr) == (direct.stdout, direct.stderr)
    assert not any(secret in seen.stdout for secret in SECRETS)


def test_the_connection_string_of_a_subscription_is_masked(
    gate: GateProcess, issuer: Issuer, database: str, programs: Installation
) -> None:
    with connect(gate, issuer, database, "owner") as client:
        for binary in (False, True):
            for text in (
                "SELECT subname, subconninfo FROM pg_subscription", "SELECT * FROM pg_subscription",
                "SELECT s.f FROM pg_subscription s(a, b, c, d, e, f)", "SELECT subconninfo, 1 FROM pg_subscription; SELECT 2",
            )[: 3 if binary else 4]:  # fmt: skip
                rows = client.execute(text, binary=binary).fetchall()
                assert rows
                assert "secret" not in str(rows)
        assert "sub" in str(client.execute("SELECT subname, subconninfo FROM pg_subscription").fetchall())
    shown = through(gate, issuer, database, programs.program("psql"), "-X", "-c", r"\dRs+")
    assert shown.returncode == 0
    assert "sub " in shown.stdout
    assert "secret" not in shown.stdout


@pytest.mark.parametrize(
    "text",
    [
        "SELECT rolpassword FROM pg_authid",
        "TABLE pg_authid",
        "SELECT umoptions FROM pg_user_mapping",
        "SELECT subconninfo || '' FROM pg_subscription",
        "SELECT s FROM pg_subscription s",
        "SELECT 1 FROM pg_subscription WHERE subconninfo LIKE '%secret%'",
        "COPY pg_subscription TO STDOUT",
        "SELECT query FROM pg_stat_activity",
    ],
)
def test_what_cannot_be_masked_is_refused(gate: GateProcess, issuer: Issuer, database: str, text: str) -> None:
    with (
        connect(gate, issuer, database, "owner") as client,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="refused by"),
    ):
        client.execute(text)


@pytest.mark.parametrize(
    "options", ["-s -n public", "-Fp -t bulk", "-a -t bulk", "--inserts -t bulk", "--section=pre-data -n public -E UTF8"]
)
def test_a_superusers_dump_is_the_dump(
    gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str, programs: Installation, options: str
) -> None:
    arguments = ("--restrict-key=fixed", *options.split())
    direct = run_program(programs.program("pg_dump"), *arguments, environment=postgres.environment("owner", database)).stdout
    seen = through(gate, issuer, database, programs.program("pg_dump"), *arguments)
    assert seen.returncode == 0, seen.stderr
    assert seen.stdout == direct


def test_a_whole_dump_keeps_the_secret_and_one_of_roles_is_refused(
    gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str, programs: Installation, tmp_path: Path
) -> None:
    whole = through(gate, issuer, database, programs.program("pg_dump"))
    assert whole.returncode != 0  # options of user mappings
    with postgres.admin(database) as admin:
        admin.execute("DROP USER MAPPING FOR owner SERVER s; DROP SERVER s")
    try:
        whole = through(gate, issuer, database, programs.program("pg_dump"))
        assert whole.returncode == 0, whole.stderr
        assert "CREATE SUBSCRIPTION sub" in whole.stdout
        parallel = through(gate, issuer, database, programs.program("pg_dump"), "-Fd", "-j2", "-f", str(tmp_path / "dump"))
        assert parallel.returncode == 0, parallel.stderr
        roles = through(gate, issuer, database, programs.program("pg_dumpall"), "-g", "-l", database)
        assert roles.returncode != 0
        assert not any(secret in output for secret in SECRETS for output in (whole.stdout, roles.stdout))
    finally:
        with postgres.admin(database) as admin:
            admin.execute("CREATE SERVER s FOREIGN DATA WRAPPER w")
            admin.execute("CREATE USER MAPPING FOR owner SERVER s OPTIONS (password 'mapped-secret')")


def test_a_sequence_shows_where_it_is(gate: GateProcess, issuer: Issuer, database: str) -> None:
    """As pg_dump and psql ask."""
    with connect(gate, issuer, database, "owner") as client, client.transaction(force_rollback=True):
        client.execute("CREATE SEQUENCE numbers START 7")
        assert client.execute("SELECT last_value, is_called FROM public.numbers").fetchall() == [(7, False)]


def test_whoever_is_granted_server_sees_it(postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    with running(gate_config(postgres, issuer)) as gate, connect(gate, issuer, database, "owner") as client:
        assert "subscribed-secret" in str(client.execute("SELECT subconninfo FROM pg_subscription").fetchall())
