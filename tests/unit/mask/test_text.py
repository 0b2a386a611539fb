"""Errors, notices, notifications and parameters under masks: a table of messages as PostgreSQL sends them, and real ones from a server."""

from __future__ import annotations

import psycopg
import pytest

from sidegate.mask.text import mask_channel, mask_fields, mask_parameter, mask_payload
from sidegate.policy.decision import ColumnMask, ColumnUse, Masks, MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule
from tests.support.postgres_server import PostgresServer

RULE = PolicyRule("ns", "policy", "rule")
COLUMNS = Masks(columns=(ColumnMask(frozenset({"ssn", "password"}), None, None, MaskStrategy.REDACT, ColumnUse.REFUSED, RULE),))
VALUES = Masks(values=(ValueMask(frozenset({"us-ssn", "email"}), MaskStrategy.REDACT, RULE),))

SECRET = "Otter-q8sW47z8nn"


def error(state: str, message: str, **more: str) -> dict[str, str]:
    return {"S": "ERROR", "V": "ERROR", "C": state, "M": message, "F": "x.c", "L": "1", "R": "r"} | more


def notice(state: str, message: str, routine: str = "exec_stmt_raise", **more: str) -> dict[str, str]:
    return {"S": "NOTICE", "V": "NOTICE", "C": state, "M": message, "F": "x.c", "L": "1", "R": routine} | more


def test_without_masks_nothing_changes() -> None:
    fields = error("22P02", f'invalid input syntax for type integer: "{SECRET}"', D=SECRET)
    assert mask_fields(fields, Masks()) == fields


def test_detectors_look_at_every_text() -> None:
    fields = error(
        "P0001", "ssn 583-68-2629", D="a@example.com", H="b@example.com", W="583-68-2629", q="583-68-2629", c="583-68-2629"
    )
    shown = mask_fields(fields, VALUES)
    assert shown["M"] == "ssn [masked]"
    assert [shown[code] for code in "DHWqc"] == ["[masked]"] * 5
    assert shown["C"] == "P0001"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (error("22P02", f'invalid input syntax for type integer: "{SECRET}"'), "invalid input syntax for type integer: [masked]"),
        (
            error("22P02", f'invalid input value for enum order_status: "{SECRET}"'),
            "invalid input value for enum order_status: [masked]",
        ),
        (
            error("22P02", f'invalid input syntax for type integer: "a"b{SECRET}"c"'),
            "invalid input syntax for type integer: [masked]",
        ),
        (error("22003", "setval: value 4242424242424242 is out of bounds"), "setval: [masked]"),
        (error("2202E", "index 583682629 out of valid range, 0..7"), "index [masked] out of valid range, [masked]"),
        (
            error("54000", "requested character too large for encoding: 583682629"),
            "requested character too large for encoding: [masked]",
        ),
        (
            error("42704", f'unrecognized configuration parameter "no.{SECRET}"'),
            'unrecognized configuration parameter "[masked]"',
        ),
        (error("42P01", f'relation "{SECRET}" does not exist'), 'relation "[masked]" does not exist'),
        (
            error("58P01", f'could not open file "{SECRET}" for reading: No such file'),
            'could not open file "[masked]" for reading: [masked]',
        ),
        (error("P0001", f"customer {SECRET}"), "[masked]"),
        (error("23505", f"customer {SECRET}", R="exec_stmt_raise"), "[masked]"),
        (error("23505", f"customer {SECRET}", F="pl_exec.c"), "[masked]"),
        (error("XX000", f"plv8 says {SECRET}"), "[masked]"),
        (error("38000", f"external {SECRET}"), "[masked]"),
        (error("QQ123", f"own {SECRET}"), "[masked]"),
        (error("", f"own {SECRET}"), "[masked]"),
        (notice("00000", f"saw {SECRET}"), "[masked]"),
        (notice("01000", f"saw {SECRET}"), "[masked]"),
        (notice("00000", f"duration: 1 ms  plan: {SECRET}", "explain_ExecutorEnd"), "[masked]"),
    ],
)
def test_values_are_cut_out_of_messages_while_columns_are_masked(fields: dict[str, str], message: str) -> None:
    shown = mask_fields(fields, COLUMNS)
    assert shown["M"] == message
    assert SECRET not in str(shown)


@pytest.mark.parametrize(
    "fields",
    [
        error("42703", 'column "nmae" does not exist', P="8", H='Perhaps you meant to reference the column "customers.name".'),
        error("22P02", 'invalid input syntax for type integer: "abc"', P="30"),
        error("42601", 'syntax error at or near "selec"', P="1"),
        error("40P01", "deadlock detected", D="Process 12345 waits for ShareLock on transaction 7; blocked by process 23456."),
        error("57014", "canceling statement due to user request"),
        error("26000", 'prepared statement "s1" does not exist'),
        error("25P02", "current transaction is aborted, commands ignored until end of transaction block"),
        notice("42P07", 'relation "t" already exists, skipping', "transformCreateStmt"),
        notice("00000", 'table "t" does not exist, skipping', "DropErrorMsgNonExistent"),
        {**notice("25P01", "there is no transaction in progress", "EndTransactionBlock"), "S": "WARNING", "V": "WARNING"},
    ],
)
def test_messages_that_hold_no_data_stay_readable(fields: dict[str, str]) -> None:
    assert mask_fields(fields, COLUMNS) == fields


def test_a_position_behind_a_function_is_not_trusted() -> None:
    for code in "Wqp":
        fields = error("22P02", f'invalid input syntax for type integer: "{SECRET}"', P="8", **{code: "1"})
        assert SECRET not in mask_fields(fields, COLUMNS)["M"]


def test_constraint_errors_keep_names_and_lose_values() -> None:
    fields = error(
        "23505",
        'duplicate key value violates unique constraint "customers_ssn_key"',
        D=f"Key (ssn)=({SECRET}) already exists.",
        n="customers_ssn_key",
        t="customers",
    )
    shown = mask_fields(fields, COLUMNS)
    assert shown["M"] == fields["M"]
    assert shown["D"] == "Key (ssn)=([masked]) already exists."
    assert shown["n"] == "customers_ssn_key"
    fields["D"] = f"Failing row contains (1, {SECRET})."
    assert mask_fields(fields, COLUMNS)["D"] == "[masked]"


def test_a_raised_error_loses_even_its_name_fields() -> None:
    fields = error("P0001", SECRET, D=SECRET, H=SECRET, c=SECRET, t=SECRET, s=SECRET, n=SECRET, d=SECRET, W=SECRET, q=SECRET)
    shown = mask_fields(fields, COLUMNS)
    assert SECRET not in str(shown)
    assert not set("ctsnd") & shown.keys()
    assert shown["C"] == "P0001"


def test_context_keeps_only_places() -> None:
    context = (
        f'COPY t, line 5, column ssn: "{SECRET}"\n'
        f"SQL statement \"INSERT INTO t VALUES ('{SECRET}')\"\n"
        "PL/pgSQL function public.tell(integer) line 3 at RAISE"
    )
    shown = mask_fields(error("22P02", "bad", W=context), COLUMNS)
    assert shown["W"] == "COPY t, line 5\n[masked]\nPL/pgSQL function public.tell(integer) line 3 at RAISE"


def test_payload_is_hidden_while_columns_are_masked() -> None:
    assert mask_payload(f'{{"password": "{SECRET}"}}', COLUMNS) == "[masked]"
    assert mask_payload("", COLUMNS) == ""
    assert mask_payload("ssn 583-68-2629", VALUES) == "ssn [masked]"
    assert mask_payload("hello", VALUES) == "hello"
    assert mask_channel("583-68-2629", VALUES) == "[masked]"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("client_encoding", "UTF8", "UTF8"),
        ("DateStyle", "ISO, MDY", "ISO, MDY"),
        ("TimeZone", "Europe/Berlin", "Europe/Berlin"),
        ("TimeZone", "UTC", "UTC"),
        ("TimeZone", "America/Argentina/Buenos_Aires", "America/Argentina/Buenos_Aires"),
        ("TimeZone", "Otter8", "[masked]"),
        ("TimeZone", "<583682629>-2", "[masked]"),
        ("server_version", "18.6 (Debian 18.6-1.pgdg13+1)", "18.6 (Debian 18.6-1.pgdg13+1)"),
        ("standard_conforming_strings", "on", "on"),
        ("application_name", SECRET, "[masked]"),
        ("application_name", "", ""),
        ("search_path", SECRET, "[masked]"),
        ("rt.x", SECRET, "[masked]"),
    ],
)
def test_parameters_show_only_values_that_they_can_have(name: str, value: str, shown: str) -> None:
    assert mask_parameter(name, value, COLUMNS) == shown


def test_parameters_are_scanned() -> None:
    assert mask_parameter("application_name", "583-68-2629", VALUES) == "[masked]"
    assert mask_parameter("application_name", "psql", VALUES) == "psql"


# Statements that make a real server speak of the secret. The shop isn't used: the table is the test's own.
LEAKING = [
    "SELECT password::int FROM people",
    "SELECT password::uuid FROM people",
    "SELECT password::regclass FROM people",
    "SELECT password::regtype FROM people",
    "SELECT password::interval FROM people",
    "SELECT password::json FROM people",
    "SELECT password::int[] FROM people",
    "SELECT password::bytea::text::numeric FROM people",
    "SELECT ('{' || password)::text[] FROM people",
    "SELECT to_date(password, 'YYYY') FROM people",
    "SELECT now() AT TIME ZONE password FROM people",
    "SELECT current_setting('no.' || replace(password, '-', '_')) FROM people",
    "SELECT nextval(password) FROM people",
    "SELECT regexp_replace(password, password || '(', 'x') FROM people",
    "SELECT has_table_privilege(password, 'SELECT') FROM people",
    "SELECT pg_read_file(password) FROM people",
    "SELECT decode(password, 'base64') FROM people",
    "SELECT to_tsquery('simple', password || ' & |') FROM people",
    "SELECT chr(number) FROM people",
    "SELECT get_byte('abc', number) FROM people",
    "SELECT setval('tiny', number) FROM people",
    "INSERT INTO people SELECT * FROM people",
    "INSERT INTO checked SELECT password FROM people",
    "INSERT INTO child SELECT password FROM people",
    "UPDATE people SET number = NULL",
    "DO $$ DECLARE v text; BEGIN SELECT password INTO v FROM people; RAISE EXCEPTION '%', v USING DETAIL = v, HINT = v, COLUMN = v; END $$",
    "DO $$ DECLARE v text; BEGIN SELECT password INTO v FROM people; RAISE EXCEPTION '%', v USING ERRCODE = 'unique_violation'; END $$",
    "DO $$ DECLARE v text; BEGIN SELECT password INTO v FROM people; RAISE NOTICE '%', v; RAISE WARNING '%', v; RAISE division_by_zero; END $$",
    "DO $$ DECLARE v text; BEGIN SELECT password INTO v FROM people; EXECUTE 'SELECT ' || quote_literal(v) || '::int'; END $$",
    "DO $$ DECLARE v text; BEGIN SELECT password INTO v FROM people; EXECUTE 'SELECT ' || v; END $$",
    "DO $$ DECLARE v text; BEGIN SELECT password INTO v FROM people; ASSERT false, v; END $$",
]


@pytest.fixture
def people(postgres: PostgresServer) -> psycopg.Connection:
    name = postgres.create_database()
    with postgres.admin(name) as connection:
        connection.execute("CREATE TABLE people (password text PRIMARY KEY, number int NOT NULL)")
        connection.execute("INSERT INTO people VALUES (%s, 583682629)", [SECRET])
        connection.execute("CREATE TABLE checked (v text CHECK (length(v) < 3))")
        connection.execute("CREATE TABLE parent (v text PRIMARY KEY); CREATE TABLE child (v text REFERENCES parent)")
        connection.execute("CREATE SEQUENCE tiny MAXVALUE 100")
        connection.commit()
        yield connection
    postgres.drop_database(name)


def fields_of(diagnostic: psycopg.errors.Diagnostic) -> dict[str, str]:
    names = {
        "S": "severity",
        "V": "severity_nonlocalized",
        "C": "sqlstate",
        "M": "message_primary",
        "D": "message_detail",
        "H": "message_hint",
        "P": "statement_position",
        "p": "internal_position",
        "q": "internal_query",
        "W": "context",
        "s": "schema_name",
        "t": "table_name",
        "c": "column_name",
        "d": "datatype_name",
        "n": "constraint_name",
        "F": "source_file",
        "L": "source_line",
        "R": "source_function",
    }
    found = {code: getattr(diagnostic, name) for code, name in names.items()}
    return {code: text for code, text in found.items() if text is not None}


def test_no_error_or_notice_of_a_real_server_carries_a_masked_column(people: psycopg.Connection) -> None:
    spoken: list[dict[str, str]] = []
    people.add_notice_handler(lambda diagnostic: spoken.append(fields_of(diagnostic)))
    said_it = 0
    for statement in LEAKING:
        with pytest.raises(psycopg.Error) as caught:
            people.execute(statement)
        people.rollback()
        for fields in (fields_of(caught.value.diag), *spoken):
            said_it += "q8sW47z8nn" in str(fields) or "583682629" in str(fields)
            shown = str(mask_fields(fields, COLUMNS))
            for piece in ("q8sW47", "W47z8nn", "q8sw47", "Otter", "583682629"):
                assert piece not in shown, (statement, fields)
        spoken.clear()
    assert said_it > 20  # the server did say it: what passes the loop was really cut out


def test_errors_about_the_statement_itself_stay_readable(people: psycopg.Connection) -> None:
    for statement, state in (
        ("SELECT nope FROM people", "42703"),
        ("SELEC 1", "42601"),
        ("SELECT 'abc'::int", "22P02"),
        ("SELECT * FROM nowhere", "42P01"),
    ):
        with pytest.raises(psycopg.Error) as caught:
            people.execute(statement)
        people.rollback()
        fields = fields_of(caught.value.diag)
        assert fields["C"] == state
        assert mask_fields(fields, COLUMNS) == fields


def test_usual_notices_stay_readable(people: psycopg.Connection) -> None:
    spoken: list[dict[str, str]] = []
    people.add_notice_handler(lambda diagnostic: spoken.append(fields_of(diagnostic)))
    people.execute("DROP TABLE IF EXISTS nowhere")
    people.execute("CREATE TABLE IF NOT EXISTS people (x int)")
    people.execute("CREATE SCHEMA IF NOT EXISTS public")
    people.execute("ALTER TABLE people ADD COLUMN IF NOT EXISTS number int")
    people.execute("CREATE INDEX IF NOT EXISTS people_pkey ON people (number)")
    people.execute("TRUNCATE parent CASCADE")
    people.execute("DROP TABLE parent CASCADE")
    people.commit()
    people.autocommit = True
    for statement in ("COMMIT", "ROLLBACK", "BEGIN", "BEGIN", "ROLLBACK"):
        people.execute(statement)
    assert len(spoken) == 10
    for fields in spoken:
        assert mask_fields(fields, COLUMNS) == fields
