"""Code that is stored to run later, by people whose columns are masked: a person reads it first, or it isn't stored."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from sidegate.policy.config import ApprovalConfig, ColumnMatch, RuleAction, RuleConfig, StatementMatch
from tests.integration.gate.conftest import connect, error_in, run_sidegate, running, wire
from tests.integration.gate.test_holds import decide, held
from tests.support import wire_messages as m
from tests.support.gate import GateProcess, gate_config, open_policy
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

KINDS = ("Read", "Insert", "Update", "Delete", "DDL", "Session", "Transaction")
RULES = (
    RuleConfig("names", RuleAction.MASK, columns=(ColumnMatch("email"),)),
    RuleConfig("keys", RuleAction.MASK, detectors=("pem-private-key", "payment-card")),
    RuleConfig(
        "prod-ddl",
        RuleAction.REQUIRE_APPROVAL,
        statements=StatementMatch(kinds=("DDL",), schemas=("prod",)),
        approval=ApprovalConfig(approver_groups=("dba",)),
    ),
)
FUNCTION = "CREATE FUNCTION public.noted() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'noted'; END $$"
DEFAULT = "CREATE TABLE public.notes (id int, note text); ALTER TABLE public.notes ALTER note SET DEFAULT public.noted()"


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(gate_config(postgres, issuer, policies=[open_policy("owner", rules=RULES, kinds=KINDS)])) as gate:
        yield gate


@pytest.fixture
def database(fresh_database: str, postgres: PostgresServer) -> str:
    with postgres.admin(fresh_database) as admin:
        admin.execute("GRANT CREATE ON SCHEMA public TO owner; CREATE SCHEMA IF NOT EXISTS prod AUTHORIZATION owner")
    return fresh_database


def test_code_in_another_schema_is_held_whole_and_says_what_it_may_do(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query(f"{FUNCTION}; {DEFAULT}"))
        name = held(client)
        shown = run_sidegate("approvals", "show", name, SIDEGATE_STATE=str(gate.state), COLUMNS="200").stdout
        assert "RETURN 'noted'" in shown
        assert "it stores a function, which may do whatever role `owner` may once it runs" in " ".join(shown.split())
        decide(gate, issuer, "approve", name)
        tags = [reply.tag for reply in client.receive_until_ready() if isinstance(reply, m.CommandComplete)]
        assert tags == ["CREATE FUNCTION", "CREATE TABLE", "ALTER TABLE"]
        client.send(m.query("INSERT INTO public.notes (id) VALUES (1)"))
        assert m.CommandComplete("INSERT 0 1") in client.receive_until_ready()
        client.send(m.query("SELECT public.noted()"))  # approved to be stored, not to be called
        assert "`Call` is not granted" in error_in(client.receive_until_ready()).message
        client.send(m.query(f"CREATE OR REPLACE {FUNCTION.removeprefix('CREATE ')}"))
        assert held(client) != name  # another text, so another question


def test_what_nobody_approved_stores_nothing_of_its_string(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query(f"CREATE TABLE public.before (id int); {FUNCTION}"))
        decide(gate, issuer, "deny", held(client))
        error_in(client.receive_until_ready())
        query = "SELECT count(*) FROM pg_catalog.pg_class WHERE relname = 'before'"
        assert client.rows(query) == [(b"0",)]


def test_an_approval_is_for_every_letter_of_the_code(gate: GateProcess, issuer: Issuer, database: str) -> None:
    """Its text is a constant: blanks and case in it are the code's own."""
    texts = [FUNCTION.replace("'noted'", replaced) for replaced in ("'x'", "'X'", " 'x'")]
    names = []
    for text in texts:
        with wire(gate, issuer, database, "owner") as client:
            client.send(m.query(text))
            names.append(held(client))
    assert len(set(names)) == len(texts)
    decide(gate, issuer, "approve", names[0])
    with wire(gate, issuer, database, "owner") as client:
        client.send(m.query(texts[1]))
        assert held(client) == names[1]


@pytest.mark.parametrize(
    "hidden",
    [
        "/* -----BEGIN PRIVATE KEY----- */ PERFORM set_config('x.y', 'z', false); /* -----END PRIVATE KEY----- */",
        "-- 4111 1111 1111 1111\n",
    ],
)
def test_code_that_a_mask_would_hide_from_its_approvers_is_refused(
    gate: GateProcess, issuer: Issuer, database: str, hidden: str
) -> None:
    with connect(gate, issuer, database, "owner") as client, pytest.raises(psycopg.errors.InsufficientPrivilege) as error:
        client.execute(FUNCTION.replace("BEGIN", f"BEGIN {hidden}"))
    assert "would hide a part of this from them" in str(error.value)


def test_what_stores_no_code_runs_at_once(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("CREATE TABLE public.plain (id int DEFAULT 1, at timestamptz DEFAULT now(), CHECK (id > 0))")
        client.execute("DROP TABLE public.plain")
