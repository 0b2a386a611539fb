"""psql, of two versions: what people and assistants type."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.clients.conftest import Psql
from tests.support import processes
from tests.support.endpoint import Endpoint, Transport
from tests.support.postgres_server import PostgresServer

PLAIN = ("-A", "-t", "-q")


@pytest.mark.parametrize("via", ["tcp", "unix"])
def test_answers_a_query_over_each_transport(psql: Psql, endpoint: Endpoint, shop: str, via: Transport) -> None:
    done = psql(endpoint, "readonly", shop, "SELECT id, name FROM customers ORDER BY id LIMIT 2", *PLAIN, via=via)
    assert done.stdout == "1|Customer 1\n2|Customer 2\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command",
    [r"\l", r"\d", r"\d customers", r"\d+ orders", r"\dt prod.*", r"\d+ customer_contacts", r"\di+", r"\ds", r"\dv", r"\dm", r"\df+ discount", r"\dn+",
     r"\dT+", r"\dD", r"\dp customers", r"\du", r"\dx", r"\dy", r"\dRp", r"\sf discount", r"\sv customer_contacts", r"\d events",
     r"\dP+", r"\dew", r"\dO", r"\dc", r"\dC int4", r"\do+ ||", r"\da sum", r"\dF", r"\drds", r"\dd", r"\dL", r"\dg readonly", r"\ddp"],
)  # fmt: skip
def test_describes_the_schema_as_the_target_does(
    psql: Psql, endpoint: Endpoint, postgres: PostgresServer, shop: str, command: str
) -> None:
    expected = psql(postgres.endpoint, "readonly", shop, command + "\n", check=False)
    found = psql(endpoint, "readonly", shop, command + "\n", check=False)
    assert (found.returncode, found.stdout, found.stderr) == (expected.returncode, expected.stdout, expected.stderr)


def test_runs_a_transaction_with_savepoints_and_an_error_inside(psql: Psql, endpoint: Endpoint, database: str) -> None:
    script = r"""
        \set ON_ERROR_STOP off
        BEGIN;
        UPDATE accounts SET balance = 1 WHERE id = 1;
        SAVEPOINT a;
        UPDATE accounts SET balance = 2 WHERE id = 1;
        SELECT 1/0;
        SELECT 'never';
        ROLLBACK TO a;
        SELECT balance FROM accounts WHERE id = 1;
        COMMIT;
        SELECT balance FROM accounts WHERE id = 1;
    """
    done = psql(endpoint, "readwrite", database, script, *PLAIN)
    assert done.stdout == "1\n1\n"
    assert [line.split("ERROR:  ")[1] for line in done.stderr.splitlines() if "ERROR" in line] == [
        "division by zero",
        "current transaction is aborted, commands ignored until end of transaction block",
    ]


def test_rolls_back_single_statements_on_request(psql: Psql, endpoint: Endpoint, database: str) -> None:
    script = r"""
        \set ON_ERROR_STOP off
        \set ON_ERROR_ROLLBACK on
        BEGIN;
        UPDATE accounts SET balance = 3 WHERE id = 1;
        SELECT nothing;
        COMMIT;
        SELECT balance FROM accounts WHERE id = 1;
    """
    assert psql(endpoint, "readwrite", database, script, *PLAIN).stdout == "3\n"


def test_stops_at_an_error_with_its_sqlstate_and_position(psql: Psql, endpoint: Endpoint, shop: str) -> None:
    script = "\\set VERBOSITY verbose\nSELECT 1;\nSELECT nothing FROM customers;\nSELECT 2;\n"
    done = psql(endpoint, "readonly", shop, script, *PLAIN, check=False)
    assert done.returncode == 3
    assert done.stdout == "1\n"
    assert (
        'ERROR:  42703: column "nothing" does not exist\nLINE 1: SELECT nothing FROM customers;\n               ^' in done.stderr
    )


def test_a_string_of_statements_is_one_transaction(psql: Psql, endpoint: Endpoint, database: str) -> None:
    done = psql(
        endpoint, "readwrite", database, "", *PLAIN, "-c", "UPDATE accounts SET balance = 9 WHERE id = 1; SELECT 1/0", check=False
    )
    assert done.returncode == 1
    assert psql(endpoint, "readwrite", database, "SELECT balance FROM accounts WHERE id = 1", *PLAIN).stdout == "1000\n"


def test_copies_out_and_in_again(psql: Psql, endpoint: Endpoint, database: str, tmp_path: Path) -> None:
    file = tmp_path / "customers.csv"
    psql(endpoint, "readwrite", database, rf"\copy (SELECT * FROM customers ORDER BY id) TO '{file}' WITH (FORMAT csv, HEADER)")
    assert len(file.read_text().splitlines()) == 201
    script = rf"""
        BEGIN;
        DELETE FROM customers;
        \copy customers FROM '{file}' WITH (FORMAT csv, HEADER)
        COMMIT;
        SELECT count(*), md5(string_agg(customers::text, '' ORDER BY id)) FROM customers;
    """
    before = psql(
        endpoint, "readwrite", database, "SELECT md5(string_agg(customers::text, '' ORDER BY id)) FROM customers", *PLAIN
    ).stdout
    after = psql(endpoint, "readwrite", database, script, *PLAIN).stdout
    assert after == f"200|{before}"


def test_a_bad_line_fails_a_copy_and_the_session_lives_on(psql: Psql, endpoint: Endpoint, database: str) -> None:
    script = "\\set ON_ERROR_STOP off\nCOPY accounts FROM STDIN;\nnot a number\tx\t1\n\\.\nSELECT count(*) FROM accounts;\n"
    done = psql(endpoint, "readwrite", database, script, *PLAIN)
    assert done.stdout == "5000\n"
    assert 'invalid input syntax for type integer: "not a number"' in done.stderr
    assert "COPY accounts, line 1, column id" in done.stderr


def test_shows_notices_warnings_and_notifications(psql: Psql, endpoint: Endpoint, shop: str) -> None:
    script = "SELECT warn('x');\nROLLBACK;\nLISTEN a;\nNOTIFY a, 'payload';\nSELECT 1;\n"
    done = psql(endpoint, "readonly", shop, script, *PLAIN)
    assert "NOTICE:  heed: x" in done.stderr
    assert "WARNING:  there is no transaction in progress" in done.stderr
    assert 'Asynchronous notification "a" with payload "payload" received from server process' in done.stdout


def test_fetches_in_batches(psql: Psql, endpoint: Endpoint, shop: str) -> None:
    done = psql(endpoint, "readonly", shop, "\\set FETCH_COUNT 700\nSELECT id FROM accounts ORDER BY id;\n", *PLAIN)
    assert done.stdout.split() == [str(n) for n in range(1, 5001)]


def test_stores_results_in_variables_and_runs_what_it_selects(psql: Psql, endpoint: Endpoint, shop: str) -> None:
    script = "SELECT 7 AS seven \\gset\nSELECT :seven + 1;\nSELECT 'SELECT ' || n FROM generate_series(1, 2) AS n \\gexec\nSELECT 1, 2 \\gdesc\n"
    assert psql(endpoint, "readonly", shop, script, *PLAIN).stdout == "8\n1\n2\n?column?|integer\n?column?|integer\n"


def test_passes_large_values_both_ways(psql: Psql, endpoint: Endpoint, shop: str) -> None:
    text = "x" * 4_000_000
    done = psql(endpoint, "readonly", shop, f"SELECT length('{text}'), repeat('y', 4000000);\n", *PLAIN)
    assert done.stdout == f"4000000|{'y' * 4_000_000}\n"


def test_shows_binary_and_unicode(psql: Psql, endpoint: Endpoint, shop: str) -> None:
    done = psql(
        endpoint,
        "readonly",
        shop,
        r"SELECT '\x00ff'::bytea, 'žluťoučký 🐘', E'tab\tand\\backslash', NULL;",
        *PLAIN,
        "-P",
        "null=∅",
    )
    assert done.stdout == "\\x00ff|žluťoučký 🐘|tab\tand\\backslash|∅\n"


def test_changes_to_another_database_and_back(psql: Psql, endpoint: Endpoint, shop: str, database: str) -> None:
    script = f"SELECT current_database();\n\\c {shop}\nSELECT current_database();\n\\c {database}\nSELECT current_database();\n"
    done = psql(endpoint, "readonly", database, script, *PLAIN)
    assert done.stdout.split() == [database, shop, database]


def test_control_c_cancels_the_statement(psql_program: Path, endpoint: Endpoint, postgres: PostgresServer, shop: str) -> None:
    environment = {**os.environ, **endpoint.environment("readonly", shop)}
    command = [str(psql_program), "-X", "-c", "SELECT pg_sleep(60), 'psql to be cancelled'"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        postgres.wait_for_query("psql to be cancelled", shop)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert "ERROR:  canceling statement due to user request" in errors
    assert process.returncode == 1
    processes.wait_until(
        lambda: not [s for s in postgres.sessions(shop) if "psql to be cancelled" in s.query], "the session to end"
    )


def test_binds_parameters_and_pipelines(psql: Psql, psql_program: Path, endpoint: Endpoint, shop: str) -> None:
    if "(PostgreSQL) 18" not in subprocess.run([psql_program, "--version"], capture_output=True, text=True, check=True).stdout:
        assert (
            "invalid command \\bind"
            in psql(endpoint, "readonly", shop, "SELECT $1::int \\bind 1 \\g\n", *PLAIN, check=False).stderr
        )
        return
    script = (
        "SELECT $1::int + $2 \\bind 1 2 \\g\n"
        "SELECT name FROM customers WHERE id = $1 \\parse by_id\n"
        "\\bind_named by_id 7 \\g\n"
        "\\startpipeline\n\\bind_named by_id 8 \\sendpipeline\n\\bind_named by_id 9 \\sendpipeline\n\\endpipeline\n"
        "\\close_prepared by_id\n"
    )
    assert psql(endpoint, "readonly", shop, script, *PLAIN).stdout == "3\nCustomer 7\nCustomer 8\nCustomer 9\n"


def test_reports_the_connection(psql: Psql, endpoint: Endpoint, shop: str) -> None:
    done = psql(
        endpoint, "readonly", shop, "\\echo :SERVER_VERSION_NUM :ENCODING :USER :DBNAME\nSHOW server_version_num;\n", *PLAIN
    )
    echoed, shown = done.stdout.splitlines()
    assert echoed.split() == [shown, "UTF8", "readonly", shop]


def test_a_wrong_password_is_refused(psql: Psql, endpoint: Endpoint, shop: str) -> None:
    wrong = Endpoint(endpoint.name, endpoint.port, endpoint.socket_directory, lambda role: "wrong")
    done = psql(wrong, "readonly", shop, "SELECT 1", check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "FATAL:" in done.stderr
