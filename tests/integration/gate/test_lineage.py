"""What is made of masked columns, and what masked columns decide on, through a real gate: masked, run on masks, granted, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from sidegate.policy.config import ColumnMatch, RuleAction, RuleConfig
from sidegate.policy.decision import ColumnUse
from tests.integration.gate.conftest import config_with, connect, running
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

TABLES = """
CREATE SCHEMA staff AUTHORIZATION owner; SET ROLE owner; SET search_path = staff;
CREATE TABLE people (id int PRIMARY KEY, team text, active bool, ssn text, badge text, salary int);
INSERT INTO people SELECT n, CASE WHEN n < 8 THEN 'big' ELSE 'small' END, n % 2 = 0,
  CASE WHEN n = 3 THEN NULL ELSE 'planted-' || (20 - n) END, 'badge-' || n, 1000 + n FROM generate_series(1, 10) n;
CREATE TABLE teams (team text, size int); INSERT INTO teams VALUES ('big', 7);
CREATE VIEW summary AS SELECT id, upper(ssn) AS label, team FROM people;
CREATE VIEW pairs AS SELECT p.id, p.salary FROM people p, people q;
CREATE FUNCTION nine_times(people) RETURNS SETOF int LANGUAGE sql AS 'SELECT 0 FROM generate_series(1, 9)';
"""
RULES = (
    RuleConfig("ssn", RuleAction.MASK, columns=(ColumnMatch("ssn"),)),
    RuleConfig("badge", RuleAction.MASK, columns=(ColumnMatch("badge"),), use=ColumnUse.EQUALITY),
    RuleConfig("salary", RuleAction.MASK, columns=(ColumnMatch("salary"),), use=ColumnUse.AGGREGATE, min_group_size=5),
)
M = "[masked]"
# Every value masked, a NULL and what is made of it too; what isn't made of it shown.
ANSWERED = {
    "SELECT upper(ssn), id FROM people WHERE id IN (2, 3) ORDER BY id": [(M, 2), (M, 3)],
    "SELECT team || ': ' || ssn, team FROM people WHERE id = 1": [(M, "big")],
    "SELECT coalesce(ssn, 'none') FROM people WHERE id IN (1, 3)": [(M,), (M,)],
    "SELECT max(ssn), count(*) FROM people": [(M, 10)],
    "SELECT count(ssn) AS n, count(*) FROM people": [(None, 10)],
    "SELECT CASE WHEN active THEN ssn ELSE 'idle' END FROM people WHERE id IN (1, 2)": [(M,), (M,)],
    "SELECT (SELECT ssn FROM people p WHERE p.id = q.id), id FROM people q WHERE id = 4": [(M, 4)],
    "SELECT ssn FROM people WHERE id = 1 UNION ALL SELECT team FROM people WHERE id = 9": [(M,), (M,)],
    "SELECT s.x, s.id FROM (SELECT left(ssn, 3) AS x, id FROM people) s WHERE id = 5": [(M, 5)],
    "WITH w AS (SELECT md5(ssn) AS digest, team FROM people WHERE id = 1) SELECT * FROM w": [(M, "big")],
    "SELECT label, team FROM summary WHERE id = 1": [(M, "big")],
    "SELECT * FROM (SELECT team, size FROM teams) t JOIN (SELECT upper(ssn) AS x, team FROM people WHERE id = 1) q USING (team)": [
        ("big", 7, M)
    ],
}
REFUSED = (
    "SELECT * FROM teams t JOIN (SELECT upper(ssn) AS x, team FROM people WHERE id = 1) q USING (team)",
    "SELECT id FROM people WHERE ssn = 'planted-19'",
    "SELECT nullif(ssn, 'planted-19') FROM people",
    f"SELECT {'replace(' * 3}ssn, '9', '{'x' * 2000}'), 'x', '{'x' * 2000}'), 'x', '{'x' * 2000}') FROM people WHERE id = 1",
    "SELECT CASE WHEN ssn > 'planted-1' THEN 1 ELSE 0 END FROM people",
    "SELECT ssn::int FROM people",
    "SELECT greatest(ssn, 'planted-15') FROM people",
    "SELECT replace(replace(ssn, 'planted-19', rpad('', 9999, '!')), '!', 'x') FROM people",
    "SELECT max(replace(ssn, 'planted-19', 'x')) FROM people, generate_series(1, 10000000)",
    "SELECT sum(x) FROM (SELECT salary AS x FROM people WHERE id = 7 UNION ALL SELECT 10::numeric ^ 131071) q",
    "SELECT sum(q.x) FROM (VALUES ((SELECT salary FROM people WHERE id = 7)), (10::numeric ^ 131071)) q(x)",
    "SELECT substring(ssn FROM '(p+)+$') FROM people",
    "SELECT substr(ssn, id, -1) FROM people",
    "SELECT count(*) FILTER (WHERE ssn LIKE 'planted-1%') FROM people",
    "SELECT id, row_number() OVER (ORDER BY ssn) FROM people",
    "SELECT u FROM (SELECT upper(ssn) AS u FROM people) q WHERE u LIKE 'P%'",
    "SELECT id FROM people LIMIT (SELECT length(ssn) FROM people WHERE id = 1)",
    "SELECT generate_series(1, length(ssn)) FROM people",
    "SELECT ssn FROM people UNION SELECT 'planted-19'",
    "INSERT INTO people (id, team) SELECT 99, upper(ssn) FROM people WHERE id = 1",
    "CREATE TEMP TABLE taken AS SELECT upper(ssn) AS harmless FROM people",
    "SELECT id FROM people WHERE badge = 'badge-4'",
    "SELECT id FROM people WHERE badge > 'badge-4'",
    "SELECT id FROM people WHERE salary > 1005",
    "SELECT team FROM people GROUP BY team HAVING sum(salary) > 5",
)


@pytest.fixture(scope="module")
def gate(postgres: PostgresServer, issuer: Issuer) -> Iterator[GateProcess]:
    with running(config_with(postgres, issuer, *RULES, role="owner")) as gate:
        yield gate


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> str:
    name = postgres.create_database()
    with postgres.admin(name) as admin:
        admin.execute(TABLES)
    return name


@pytest.fixture
def client(gate: GateProcess, issuer: Issuer, database: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with connect(gate, issuer, database, "owner") as client:
        client.execute("SET search_path = staff")
        yield client


Client = psycopg.Connection[tuple[object, ...]]
GUIDE = Path(__file__).parents[3] / "docs" / "masking.md"


def guide() -> list[tuple[str, str]]:
    """Statements of the guide's table, and what it says of each."""
    rows = GUIDE.read_text().split("### Statement by statement")[1].split("###")[0].splitlines()
    cells = [row.replace("\\|", "\0").split("|") for row in rows if row.startswith("| `")]
    return [(row[1].strip(" `").replace("\0", "|"), row[2].strip()) for row in cells]


def test_the_guide_has_enough_examples() -> None:
    assert len(guide()) > 20


@pytest.mark.parametrize(("statement", "answer"), guide())
def test_the_guide_says_what_the_gate_does(client: Client, statement: str, answer: str) -> None:
    notices: list[str] = []
    client.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    if answer == "refused":
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            client.execute(statement.encode())
        return
    found = client.execute(statement.encode()).fetchall()
    assert found
    assert "planted" not in str(found)
    wanted = {"masked": [], "on masks": ["masked columns sort"], "large groups": ["groups of fewer"]}[answer]
    assert [notice[: len(start)] for notice, start in zip(notices, wanted, strict=True)] == wanted


@pytest.mark.parametrize("statement", ANSWERED)
@pytest.mark.parametrize("binary", [False, True])
def test_what_is_made_of_a_masked_column_is_masked(client: Client, statement: str, binary: bool) -> None:
    assert client.execute(statement.encode(), binary=binary).fetchall() == ANSWERED[statement]


def test_copy_hides_a_null_that_was_computed(client: Client) -> None:
    query = "SELECT upper(ssn), id FROM people WHERE id IN (2, 3) ORDER BY id"
    for options, line in (("", b"[masked]\t3\n"), (" WITH (FORMAT csv)", b"[masked],3\n")):
        with client.cursor().copy(f"COPY ({query}) TO STDOUT{options}".encode()) as copy:
            assert b"".join(map(bytes, copy)).endswith(line)


@pytest.mark.parametrize("statement", REFUSED)
def test_what_could_tell_of_a_value_is_refused(client: Client, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        client.execute(statement.encode())


@pytest.mark.parametrize(
    "statements",
    [
        ("ALTER VIEW summary RENAME TO other; SELECT lower(label) FROM other", "ALTER VIEW other RENAME TO summary"),
        ("BEGIN; ALTER VIEW summary RENAME TO other", "SELECT lower(label) FROM other", "ROLLBACK"),
        ("BEGIN; ALTER VIEW summary SET SCHEMA public", "SELECT lower(label) FROM public.summary", "ROLLBACK"),
    ],
)
def test_a_name_given_anew_stands_for_what_it_was(client: Client, statements: tuple[str, ...]) -> None:
    for statement in statements:
        cursor = client.execute(statement.encode())
        while True:
            if cursor.description:
                assert {row[0] for row in cursor.fetchall()} == {M}
            if not cursor.nextset():
                break


def test_what_is_made_of_a_temporary_table_is_shown(client: Client) -> None:
    client.execute("CREATE TEMP TABLE own (i int); INSERT INTO own VALUES (1), (2)")
    for _ in range(2):
        assert client.execute("SELECT sum(i), max(i) FROM own").fetchall() == [(3, 2)]
    with client.transaction():
        client.execute("CREATE TEMP TABLE inner_one ON COMMIT DROP AS SELECT 7 AS i")
        assert client.execute("SELECT sum(i) FROM inner_one").fetchall() == [(7,)]


SHOWN = {
    "WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT sum(n), max(id) FROM t, people": [
        (150, 10)
    ],
    "SELECT p.id, i + 1 AS next FROM people p, generate_series(1, p.id) i WHERE p.id = 1": [(1, 2)],
    "SELECT p.id + 1, size FROM people p JOIN teams USING (team) WHERE p.id = 1": [(2, 7)],
}


@pytest.mark.parametrize("statement", SHOWN)
def test_what_no_masked_column_reaches_is_shown(client: Client, statement: str) -> None:
    assert client.execute(statement.encode()).fetchall() == SHOWN[statement]


def test_a_call_that_reads_like_a_column_is_masked(client: Client, postgres: PostgresServer, database: str) -> None:
    with postgres.admin(database) as admin:
        admin.execute("CREATE FUNCTION staff.told(staff.people) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1.ssn'")
    assert client.execute("SELECT lower(p.told), upper(p.told || '') FROM people p WHERE id = 1").fetchall() == [(M, M)]


def test_a_view_made_past_the_gate_is_looked_up_before_anything_is_made_of_it(
    client: Client, postgres: PostgresServer, database: str
) -> None:
    assert client.execute("SELECT max(id) FROM people").fetchall() == [(10,)]  # the catalog is read by now
    with postgres.admin(database) as admin:
        admin.execute("CREATE VIEW staff.fresh AS SELECT ssn AS x FROM staff.people; GRANT SELECT ON staff.fresh TO owner")
    assert client.execute("SELECT upper(x) FROM fresh LIMIT 1").fetchall() == [(M,)]


class TestByWhatIsShown:
    def test_sorts_by_the_mask(self, client: Client) -> None:
        notices: list[str] = []
        client.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        found = client.execute("SELECT id, ssn FROM people WHERE id IN (1, 2, 4) ORDER BY ssn, id DESC").fetchall()
        assert found == [(4, M), (2, M), (1, M)]
        found = client.execute("SELECT id, ssn FROM people WHERE id IN (1, 2, 4) ORDER BY ssn, id").fetchall()
        assert found == [(1, M), (2, M), (4, M)]
        assert notices == ["masked columns sort, group and join by what is shown: `badge`, `salary`, `ssn`"] * 2

    def test_groups_by_the_mask(self, client: Client) -> None:
        statement = "SELECT team, ssn, count(*) FROM people GROUP BY GROUPING SETS ((team, ssn), ()) ORDER BY 3, 1"
        assert client.execute(statement).fetchall() == [("small", M, 3), ("big", M, 7), (None, None, 10)]
        assert client.execute("SELECT DISTINCT ssn, team FROM people ORDER BY team").fetchall() == [(M, "big"), (M, "small")]

    def test_joins_by_what_is_left(self, client: Client) -> None:
        statement = "SELECT id, ssn FROM people NATURAL JOIN (SELECT id, ssn FROM staff.people) q ORDER BY id LIMIT 2"
        assert client.execute(statement).fetchall() == [(1, M), (2, M)]

    def test_does_so_for_prepared_statements_with_parameters(self, client: Client) -> None:
        for least in (9, 8):
            found = client.execute("SELECT id FROM people p WHERE id >= %s ORDER BY p.ssn, id", (least,), prepare=True).fetchall()
            assert found == [(number,) for number in range(least, 11)]

    def test_a_predicate_beside_is_refused(self, client: Client) -> None:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            client.execute("SELECT id FROM people WHERE ssn > '1' ORDER BY ssn")


class TestEquality:
    def test_a_bound_parameter_may_be_compared(self, client: Client) -> None:
        assert client.execute("SELECT id, badge FROM people WHERE badge = %s", ("badge-4",)).fetchall() == [(4, M)]

    def test_nothing_else_may(self, client: Client) -> None:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            client.execute("SELECT id FROM people WHERE badge = %s OR badge = %s", ("badge-4", "badge-5"))
        for statement in (
            "SELECT id FROM people WHERE badge > %s",
            "SELECT id FROM people WHERE badge LIKE %s",
            "SELECT id FROM people WHERE left(badge, 3) = %s",
            "SELECT id FROM people WHERE ssn = %s",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                client.execute(statement.encode(), ("badge-4",))


class TestAggregates:
    def test_large_groups_are_shown_and_small_ones_left_out(self, client: Client) -> None:
        notices: list[str] = []
        client.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        assert client.execute("SELECT team, sum(salary) FROM people GROUP BY team").fetchall() == [("big", 7028)]
        assert client.execute("SELECT sum(salary) FROM people WHERE id = 7").fetchall() == []
        assert notices == ["groups of fewer than 5 values are left out"] * 2

    def test_a_comment_at_the_end_is_no_place_for_a_condition(self, client: Client) -> None:
        assert client.execute("SELECT team, sum(salary) FROM people GROUP BY team -- by team").fetchall() == [("big", 7028)]

    def test_what_the_client_asks_for_itself_is_enough(self, client: Client) -> None:
        statement = "SELECT team, sum(p.salary) FROM people p GROUP BY team HAVING count(p.salary) >= 6 AND count(*) > 1"
        assert client.execute(statement).fetchall() == [("big", 7028)]

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT sum(salary) FROM people, generate_series(1, 9) WHERE id = 7 HAVING count(salary) >= 5",
            "SELECT sum(salary) FROM people WHERE id = 7 GROUP BY generate_series(1, 9) * 0 HAVING count(salary) >= 5",
            "SELECT generate_series(1, 9) * 0 AS g, sum(salary) FROM people WHERE id = 7 GROUP BY g HAVING count(salary) >= 5",
            "WITH w AS (SELECT salary FROM people, generate_series(1, 9) WHERE id = 7)"
            " SELECT sum(salary) FROM w HAVING count(salary) >= 5",
            "WITH w AS (SELECT salary FROM people, generate_series(1, 9) WHERE id = 7)"
            " SELECT * FROM (SELECT sum(salary) FROM w HAVING count(salary) >= 5) q",
            "SELECT sum(salary) FROM pairs WHERE id = 7",
            "SELECT sum(salary) FROM pairs WHERE id = 7 HAVING count(salary) >= 5",
            "SELECT sum(salary) FROM people p WHERE id = 7 GROUP BY p.nine_times",
            "SELECT sum(salary) FROM people p WHERE id = 7 GROUP BY p.nine_times HAVING count(salary) >= 5",
            "SELECT sum(salary) FROM people HAVING count(salary) >= 5 OR true",
            "SELECT max(salary) FROM people HAVING count(salary) >= 5",
            "SELECT sum(salary) FILTER (WHERE id = 7) FROM people HAVING count(salary) >= 5",
        ],
    )
    def test_groups_that_are_made_large_are_masked_or_refused(self, client: Client, statement: str) -> None:
        try:
            found = client.execute(statement.encode()).fetchall()
        except psycopg.errors.InsufficientPrivilege:
            return
        assert all(value in (None, 0) for row in found for value in row)
