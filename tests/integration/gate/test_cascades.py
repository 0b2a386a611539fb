"""CASCADE under a rule on one schema: what would go with it is asked of the target, and anything of that schema brings the rule to bear."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest

from sidegate.policy.config import (
    ApprovalConfig,
    GrantConfig,
    PolicyConfig,
    RuleAction,
    RuleConfig,
    StatementMatch,
    SubjectConfig,
)
from tests.integration.gate.conftest import config_with, connect, error_in, run_sidegate, running, wire
from tests.support import processes
from tests.support import wire_messages as m
from tests.support.gate import GateProcess, gate_config
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

GUARDED = StatementMatch(kinds=("DDL", "Truncate"), schemas=("prod",))
RULE = RuleConfig("prod", RuleAction.DENY, statements=GUARDED)
OBJECTS = """
CREATE SCHEMA prod AUTHORIZATION owner; CREATE SCHEMA lab AUTHORIZATION owner; CREATE SCHEMA crowd AUTHORIZATION owner;
CREATE SCHEMA alone AUTHORIZATION owner; SET ROLE owner;
CREATE TABLE lab.seen (id int PRIMARY KEY, kept int); CREATE VIEW prod.seen AS SELECT id FROM lab.seen;
CREATE TABLE lab.chain (id int); CREATE VIEW lab.one AS SELECT id FROM lab.chain; CREATE VIEW lab.two AS SELECT id FROM lab.one;
CREATE MATERIALIZED VIEW prod.three AS SELECT id FROM lab.two;
CREATE TABLE lab.referred (id int PRIMARY KEY, other int CONSTRAINT others UNIQUE);
CREATE TABLE prod.referring (id int REFERENCES lab.referred, other int REFERENCES lab.referred (other));
CREATE TABLE lab.middle (id int PRIMARY KEY REFERENCES lab.referred); CREATE TABLE prod.last (id int REFERENCES lab.middle);
CREATE SEQUENCE lab.numbers; CREATE TABLE prod.numbered (id int DEFAULT nextval('lab.numbers'), name text);
CREATE TYPE lab.mood AS ENUM ('good'); CREATE TABLE prod.moody (id int, mood lab.mood);
CREATE DOMAIN lab.positive AS int CHECK (VALUE > 0); CREATE TYPE prod.pair AS (a lab.positive);
CREATE TYPE lab.point AS (x int, y int); CREATE TABLE prod.points OF lab.point;
CREATE FUNCTION lab.trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER fires BEFORE INSERT ON prod.numbered FOR EACH ROW EXECUTE FUNCTION lab.trigger();
CREATE FUNCTION lab.half(int) RETURNS int IMMUTABLE LANGUAGE sql RETURN $1 / 2; CREATE INDEX halves ON prod.numbered (lab.half(id));
CREATE FUNCTION lab.doubled(int) RETURNS int IMMUTABLE LANGUAGE sql RETURN $1 * 2;
CREATE FUNCTION prod.fourfold(int) RETURNS int IMMUTABLE LANGUAGE sql RETURN lab.doubled(lab.doubled($1));
CREATE TABLE lab.parted (id int) PARTITION BY RANGE (id); CREATE TABLE prod.part PARTITION OF lab.parted FOR VALUES FROM (0) TO (9);
CREATE TABLE lab.mother (id int, name text, CONSTRAINT named CHECK (id > 0)); CREATE TABLE prod.daughter () INHERITS (lab.mother);
CREATE TABLE lab.ruled (id int); CREATE RULE copied AS ON INSERT TO prod.numbered WHERE NEW.id < 0 DO ALSO INSERT INTO lab.ruled VALUES (1);
CREATE TABLE lab.watched (id int); ALTER TABLE prod.numbered ENABLE ROW LEVEL SECURITY;
CREATE POLICY known ON prod.numbered USING (EXISTS (SELECT FROM lab.watched w WHERE w.id = numbered.id));
CREATE TABLE crowd.base (id int); CREATE VIEW prod.crowded AS SELECT id FROM crowd.base;
CREATE TABLE prod.target (id int PRIMARY KEY);
CREATE TABLE lab.own (id int PRIMARY KEY, kept int CHECK (kept > 0), of int REFERENCES prod.target, gone serial);
CREATE TABLE lab.own_child (id int REFERENCES lab.own); CREATE VIEW lab.own_view AS SELECT id, kept FROM lab.own;
CREATE TABLE lab.own_parted (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
CREATE TABLE lab.own_part PARTITION OF lab.own_parted FOR VALUES FROM (0) TO (9); CREATE INDEX ON lab.own_parted (name);
CREATE TYPE lab.own_type AS ENUM ('a'); CREATE TABLE lab.own_typed (id int, kind lab.own_type);
CREATE FUNCTION lab.own_function(int) RETURNS int IMMUTABLE LANGUAGE sql RETURN $1; CREATE INDEX ON lab.own (lab.own_function(id));
CREATE TRIGGER own AFTER INSERT ON lab.own FOR EACH ROW EXECUTE FUNCTION lab.trigger();
CREATE TABLE alone.a (id int PRIMARY KEY, note text); CREATE TABLE alone.b (id int REFERENCES alone.a); CREATE TYPE alone.c AS (x int);
CREATE FUNCTION alone.d(alone.c) RETURNS int LANGUAGE sql RETURN 1; CREATE VIEW alone.e AS SELECT * FROM alone.a;
CREATE TABLE lab."odd = name" (id int); CREATE VIEW prod.odd AS SELECT id FROM lab."odd = name";
"""
REACHES = (
    "DROP TABLE lab.seen CASCADE",
    "ALTER TABLE lab.seen DROP COLUMN id CASCADE",
    "ALTER TABLE lab.seen DROP COLUMN kept, DROP COLUMN id CASCADE",
    "DROP TABLE IF EXISTS lab.absent, lab.own_typed, lab.seen CASCADE",
    "DROP TABLE lab.chain CASCADE",
    "DROP VIEW lab.one CASCADE",
    "DROP TABLE lab.referred CASCADE",
    "ALTER TABLE lab.referred DROP CONSTRAINT others CASCADE",
    "ALTER TABLE lab.referred DROP COLUMN other CASCADE",
    "DROP SEQUENCE lab.numbers CASCADE",
    "DROP TYPE lab.mood CASCADE",
    "DROP DOMAIN lab.positive CASCADE",
    "DROP TYPE lab.point CASCADE",
    "ALTER TYPE lab.point DROP ATTRIBUTE y CASCADE",
    "DROP FUNCTION lab.trigger CASCADE",
    "DROP FUNCTION lab.half(int) CASCADE",
    "DROP ROUTINE lab.doubled CASCADE",
    "DROP TABLE lab.parted CASCADE",
    "ALTER TABLE lab.mother DROP COLUMN name CASCADE",
    "ALTER TABLE lab.mother DROP CONSTRAINT named CASCADE",
    "DROP TABLE lab.mother CASCADE",
    "DROP TABLE lab.ruled CASCADE",
    "DROP TABLE lab.watched CASCADE",
    "DROP SCHEMA crowd CASCADE",
    "DROP SCHEMA alone, crowd CASCADE",
    "DROP OWNED BY owner CASCADE",
    "TRUNCATE lab.referred CASCADE",
    "TRUNCATE lab.middle CASCADE",
    "TRUNCATE lab.parted CASCADE",
    'DROP TABLE lab."odd = name" CASCADE',
    "SET search_path = lab; DROP TABLE seen CASCADE",
    "DROP TABLE lab.own CASCADE; DROP TABLE lab.seen CASCADE",
    "CREATE VIEW lab.later AS SELECT 1; DROP TABLE lab.chain CASCADE",
)
STAYS = (
    "DROP TABLE lab.own CASCADE",
    "ALTER TABLE lab.own DROP COLUMN kept CASCADE",
    "ALTER TABLE lab.own DROP COLUMN id CASCADE",
    "ALTER TABLE lab.own DROP CONSTRAINT own_pkey CASCADE",
    "ALTER TABLE lab.own DROP CONSTRAINT own_of_fkey CASCADE",
    "DROP VIEW lab.own_view CASCADE",
    "DROP TABLE IF EXISTS lab.absent CASCADE",
    "DROP TABLE IF EXISTS lab.absent, lab.own_view_absent, lab.own CASCADE",
    "DROP TABLE lab.own_parted CASCADE",
    "DROP TABLE lab.own_part CASCADE",
    "ALTER TABLE lab.own_parted DROP COLUMN name CASCADE",
    "DROP TYPE lab.own_type CASCADE",
    "DROP FUNCTION lab.own_function CASCADE",
    "DROP SCHEMA alone CASCADE",
    "DROP SCHEMA IF EXISTS absent, alone CASCADE",
    "DROP TABLE alone.a CASCADE; DROP TYPE alone.c CASCADE",
    "TRUNCATE lab.own CASCADE",
    "TRUNCATE lab.own, lab.own_parted RESTART IDENTITY CASCADE",
    "TRUNCATE lab.own_typed CASCADE",
    "DROP MATERIALIZED VIEW IF EXISTS lab.absent CASCADE",
)
EVERYTHING = """
SELECT pg_catalog.pg_identify_object(classid, objid, objsubid)::text FROM pg_catalog.pg_depend WHERE objid >= 16384
UNION SELECT attrelid::regclass || '.' || attname FROM pg_catalog.pg_attribute WHERE attrelid >= 16384 AND NOT attisdropped
"""


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, RULE, role="owner")) as gate:
        yield gate


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    name = postgres.create_database(template=None)
    with postgres.admin(name) as admin:
        admin.execute(OBJECTS)
    yield name
    postgres.drop_database(name)


def everything(postgres: PostgresServer, database: str) -> set[str]:
    with postgres.admin(database) as admin:
        return {name for (name,) in admin.execute(EVERYTHING).fetchall()}


@pytest.mark.parametrize("statement", REACHES)
def test_what_would_take_something_of_the_schema_is_refused(
    gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str, statement: str
) -> None:
    before = everything(postgres, database)
    with connect(gate, issuer, database, "owner") as client:
        for transaction in ("", "BEGIN"):
            if transaction:
                client.execute(transaction)
            *settings, last = statement.split("; ") if statement.startswith("SET") else [statement]
            for setting in settings:
                client.execute(setting)
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="refused by sidegate"):
                client.execute(last)
            client.execute("ROLLBACK") if transaction else client.execute("SELECT 1")
    assert everything(postgres, database) == before


@pytest.mark.parametrize("statement", STAYS)
def test_what_takes_nothing_of_the_schema_runs_as_without_a_gate(
    gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str, statement: str
) -> None:
    with postgres.admin(database) as admin:
        admin.execute("BEGIN")
        admin.execute(statement)
        expected = {name for (name,) in admin.execute(EVERYTHING).fetchall()}
        admin.execute("ROLLBACK")
    with connect(gate, issuer, database, "owner") as client:
        with client.transaction(force_rollback=True):
            client.execute(statement)
            client.execute("SELECT 1")
        client.execute(statement)
    assert everything(postgres, database) == expected


def refused(client: psycopg.Connection[tuple[object, ...]], statement: str, why: str, *, prepare: bool = False) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=why):
        client.execute(statement, prepare=prepare)


def test_what_is_found_is_told(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with connect(gate, issuer, database, "owner") as client:
        refused(client, "DROP TABLE lab.chain CASCADE", "its CASCADE reaches `prod.three`, `lab.one`, `lab.two`")
        refused(
            client,
            "TRUNCATE lab.referred CASCADE",
            "its CASCADE reaches `prod.last`, `prod.referring`, `lab.middle`",
            prepare=True,
        )


def test_names_are_the_targets_to_resolve(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("CREATE TEMP TABLE chain (id int); CREATE TEMP VIEW seen_now AS SELECT id FROM chain")
        client.execute("SET search_path = alone, lab")
        refused(client, "DROP TABLE seen CASCADE", "`prod.seen`", prepare=True)
        refused(client, "ALTER TABLE seen DROP COLUMN id CASCADE", "`prod.seen`")
        client.execute("DROP TABLE pg_temp.chain CASCADE")
        refused(client, "DROP TABLE chain CASCADE", "`prod.three`")
        client.execute("ALTER TABLE seen DROP COLUMN kept CASCADE", prepare=True)


def test_operators_of_the_search_path_do_not_answer(
    gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str
) -> None:
    with postgres.admin(database) as admin:
        for kind in ("oid", "name", "int4", "text", '"char"'):
            admin.execute(f"CREATE FUNCTION lab.never({kind}, {kind}) RETURNS bool LANGUAGE sql RETURN false")
            admin.execute(f"CREATE OPERATOR lab.= (LEFTARG = {kind}, RIGHTARG = {kind}, FUNCTION = lab.never)")
    with connect(gate, issuer, database, "owner") as client:
        client.execute("SET search_path = lab, pg_catalog")
        refused(client, "DROP TABLE seen CASCADE", "`prod.seen`")
        refused(client, "TRUNCATE referred CASCADE", "`prod.referring`")
        client.execute("DROP TABLE own CASCADE")


def test_an_older_snapshot_tells_nothing(gate: GateProcess, issuer: Issuer, database: str) -> None:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        refused(client, "DROP TABLE lab.own CASCADE", "refused by sidegate")
        client.execute("ROLLBACK")


def test_what_the_own_transaction_made_is_found(postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    rule = RuleConfig("prod", RuleAction.DENY, statements=StatementMatch(kinds=("Truncate",), schemas=("prod",)))
    with running(config_with(postgres, issuer, rule, role="owner")) as gate, connect(gate, issuer, database, "owner") as client:
        client.execute("BEGIN")
        client.execute("TRUNCATE lab.own CASCADE")
        client.execute("CREATE TABLE prod.fresh (id int REFERENCES lab.own)")
        refused(client, "TRUNCATE lab.own CASCADE", "`prod.fresh`")


@pytest.mark.parametrize("statement", ["DROP TABLE lab.own CASCADE", "ALTER TABLE lab.own DROP COLUMN kept CASCADE"])
@pytest.mark.parametrize("in_transaction", [False, True])
def test_what_comes_between_question_and_statement_is_noticed(
    gate: GateProcess, issuer: Issuer, postgres: PostgresServer, database: str, statement: str, in_transaction: bool
) -> None:
    errors: list[psycopg.Error] = []

    def drop() -> None:
        with connect(gate, issuer, database, "owner") as client:
            if in_transaction:
                client.execute("BEGIN")
            try:
                client.execute(statement)
            except psycopg.Error as error:
                errors.append(error)
            client.execute("COMMIT")

    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    with postgres.admin(database) as admin, postgres.admin(database) as watcher:
        admin.execute("BEGIN")  # what isn't committed isn't found; the statement waits for it, and finds it
        admin.execute("CREATE VIEW prod.between AS SELECT id, kept FROM lab.own")
        thread = threading.Thread(target=drop)
        thread.start()
        processes.wait_until(lambda: watcher.execute(waits, [database]).fetchall() == [(1,)], "the statement to wait")
        admin.execute("COMMIT")
        thread.join()
        assert [type(error) for error in errors] == [psycopg.errors.InsufficientPrivilege]
        assert watcher.execute("SELECT to_regclass('prod.between') IS NOT NULL, count(*) FROM lab.own").fetchall() == [(True, 0)]


def test_a_rule_on_tables_sees_them_too(postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    rule = RuleConfig("seen", RuleAction.DENY, statements=StatementMatch(kinds=("DDL",), tables=("prod.seen",)))
    with running(config_with(postgres, issuer, rule, role="owner")) as gate, connect(gate, issuer, database, "owner") as client:
        refused(client, "DROP TABLE lab.seen CASCADE", "`prod.seen`")
        client.execute("DROP TABLE lab.chain CASCADE")


def test_a_grant_for_some_schemas_covers_what_stays_in_them(postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    grants = (GrantConfig(databases=("*",), role="owner", allow=("DDL", "Read", "Transaction"), schemas=("lab",)),)
    policy = PolicyConfig("shop", "lab", subjects=(SubjectConfig(groups=("owner",)),), grants=grants)
    with running(gate_config(postgres, issuer, policies=[policy])) as gate, connect(gate, issuer, database, "owner") as client:
        refused(client, "DROP TABLE lab.seen CASCADE", "refused by sidegate")
        client.execute("DROP TABLE lab.own CASCADE")


def test_rows_are_counted_of_what_is_emptied_with_it(postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    limit = RuleConfig("few", RuleAction.DENY, statements=StatementMatch(kinds=("Delete", "Truncate"), rows_more_than=3))
    with postgres.admin(database) as admin:
        admin.execute("INSERT INTO lab.own VALUES (1, 1), (2, 2); INSERT INTO lab.own_child VALUES (1)")
    with running(config_with(postgres, issuer, limit, role="owner")) as gate:
        with connect(gate, issuer, database, "owner") as client:
            client.execute("TRUNCATE lab.own CASCADE")
        with postgres.admin(database) as admin:
            admin.execute("INSERT INTO lab.own VALUES (1, 1), (2, 2); INSERT INTO lab.own_child VALUES (1), (2)")
        with connect(gate, issuer, database, "owner") as client:
            refused(client, "TRUNCATE lab.own CASCADE", "refused by sidegate")
            refused(client, "DROP TABLE lab.own, lab.own_child CASCADE", "it changes|it may empty")
            client.execute("DROP TABLE lab.own CASCADE")


def test_an_approval_is_bound_to_what_goes_with_it(postgres: PostgresServer, issuer: Issuer, database: str) -> None:
    approval = ApprovalConfig(approver_groups=("dba",))
    rule = RuleConfig("prod", RuleAction.REQUIRE_APPROVAL, statements=GUARDED, approval=approval)
    token = issuer.token("dana", groups=["dba"])

    def decide(name: str) -> None:
        run_sidegate("approve", name, "--config", gate.config_file, SIDEGATE_STATE=str(gate.state), SIDEGATE_TOKEN=token)

    with (
        running(config_with(postgres, issuer, rule, role="owner")) as gate,
        wire(gate, issuer, database, "owner") as client,
        postgres.admin(database) as admin,
    ):
        for number, extra in enumerate(("CREATE VIEW lab.more AS SELECT id FROM lab.seen", "SELECT 1")):
            client.send(m.query("DROP TABLE lab.seen CASCADE"))
            notice = client.receive_until(m.NoticeResponse)[-1]
            assert isinstance(notice, m.NoticeResponse)
            name = next(word for word in notice.message.split() if word.startswith("ar-"))
            shown = run_sidegate("approvals", "show", name, SIDEGATE_STATE=str(gate.state)).stdout
            assert "`prod.seen`" in shown
            assert ("`lab.more`" in shown) == bool(number)
            admin.execute(extra)
            decide(name)
            replies = client.receive_until_ready()
            if number:
                assert m.CommandComplete("DROP TABLE") in replies
            else:
                assert "more would go with it" in error_in(replies).message
        assert admin.execute("SELECT to_regclass('prod.seen'), to_regclass('lab.more')").fetchall() == [(None, None)]
