"""Catalogs whose secrets are in columns of their own: the other columns are plain reading, and whatever could reach those is `Server`."""

from __future__ import annotations

import pytest

from sidegate.policy.statement import ColumnRef, RelationRef, SqlStatement, StatementKind
from sidegate.sql import Analysis, analyse
from sidegate.sql.functions import LEAKY_RELATIONS, SECRET_COLUMNS
from tests.support.postgres_server import PostgresServer

REACHES = (
    "SELECT rolpassword FROM pg_authid",
    "SELECT * FROM pg_authid",
    "TABLE pg_authid",
    "SELECT a FROM pg_authid a",
    "SELECT a.* FROM pg_authid a",
    "SELECT pg_authid FROM pg_authid",
    "SELECT pg_authid::text FROM pg_authid",
    "SELECT (a).rolpassword FROM pg_authid a",
    "SELECT (a.*).rolpassword FROM pg_authid a",
    "SELECT rolpassword(a) FROM pg_authid a",
    "SELECT upper(rolpassword) FROM pg_authid",
    "SELECT max(rolpassword) AS x FROM pg_authid",
    "SELECT rolpassword FROM pg_authid UNION ALL SELECT rolname FROM pg_authid",
    "SELECT 1 FROM pg_authid WHERE rolpassword = $1",
    "SELECT rolname FROM pg_authid ORDER BY rolpassword",
    "SELECT a.x FROM pg_authid a(a1,a2,a3,a4,a5,a6,a7,a8,a9,a10,x)",
    "SELECT x FROM pg_authid AS a(a1,a2,a3,a4,a5,a6,a7,a8,a9,a10,x)",
    "SELECT a9 FROM pg_authid AS a(a1,a2,a3,a4,a5,a6,a7,a8,a9,a10,x) ORDER BY x",
    "SELECT x FROM (SELECT rolpassword AS x FROM pg_authid) q",
    "SELECT q.x FROM (SELECT * FROM pg_authid) q(a1,a2,a3,a4,a5,a6,a7,a8,a9,a10,x)",
    "WITH q AS (SELECT * FROM pg_authid) SELECT rolpassword FROM q",
    "WITH q(a1,a2,a3,a4,a5,a6,a7,a8,a9,a10,x) AS (TABLE pg_authid) SELECT x FROM q",
    "SELECT rolname FROM pg_authid WHERE rolpassword LIKE 'S%'",
    "SELECT rolname FROM pg_authid ORDER BY rolpassword",
    "SELECT rolname FROM pg_authid GROUP BY rolname, rolpassword",
    "SELECT rolname FROM pg_authid a ORDER BY a",
    "SELECT count(DISTINCT a) FROM pg_authid a",
    "SELECT 1 FROM pg_authid NATURAL JOIN pg_roles",
    "SELECT 1 FROM pg_authid NATURAL JOIN (SELECT 'x' AS rolpassword) q",
    "SELECT 1 FROM pg_authid JOIN (SELECT 'x' AS rolpassword) q USING (rolpassword)",
    "SELECT to_jsonb(a) FROM pg_authid a",
    "SELECT row_to_json(a.*) FROM pg_authid a",
    "SELECT xmlforest(a.rolpassword) FROM pg_authid a",
    "SELECT array_agg(a) FROM pg_authid a",
    "SELECT a = a FROM pg_authid a",
    "SELECT ROW(a.*) FROM pg_authid a",
    "SELECT ARRAY(SELECT rolpassword FROM pg_authid)",
    "SELECT EXISTS (SELECT 1 FROM pg_authid WHERE rolpassword > 'a')",
    "SELECT rolname FROM pg_authid UNION SELECT rolpassword FROM pg_authid",
    "SELECT rolname FROM pg_authid UNION ALL SELECT passwd FROM pg_shadow",
    "SELECT (SELECT rolpassword FROM pg_authid LIMIT 1)",
    "SELECT l.* FROM pg_authid a, LATERAL (SELECT a.rolpassword) l",
    "SELECT l.x FROM pg_authid a, LATERAL (SELECT a AS x) l",
    "SELECT * FROM pg_authid a JOIN pg_roles r ON r.oid = a.oid",
    "SELECT r.* , a.* FROM pg_authid a JOIN pg_roles r ON r.oid = a.oid",
    "SELECT coalesce(rolpassword) FROM pg_authid",
    "SELECT rolname FROM pg_authid FETCH FIRST (SELECT length(rolpassword) FROM pg_authid LIMIT 1) ROWS ONLY",
    "SELECT rank() OVER (ORDER BY rolpassword) FROM pg_authid",
    "SELECT rolname FROM pg_authid FOR UPDATE",
    "COPY pg_authid TO STDOUT",
    "COPY pg_authid (rolpassword) TO STDOUT",
    "COPY (SELECT rolname FROM pg_authid) TO STDOUT",
    "CREATE TABLE x AS SELECT rolname FROM pg_authid",
    "CREATE VIEW x AS SELECT rolname FROM pg_authid",
    "INSERT INTO t SELECT rolname FROM pg_authid",
    "INSERT INTO t VALUES (1) RETURNING (SELECT rolpassword FROM pg_authid LIMIT 1)",
    "DECLARE c CURSOR FOR SELECT rolname FROM pg_authid",
    "PREPARE p AS SELECT rolpassword FROM pg_authid",
    "EXPLAIN SELECT rolname FROM pg_authid WHERE rolpassword = 'x'",
    "SELECT umoptions FROM pg_user_mapping",
    "SELECT array_to_string(umoptions, ',') FROM pg_user_mappings",
    "SELECT subconninfo || 'x' FROM pg_subscription",
    "SELECT s FROM pg_subscription s",
    "SELECT (s).subconninfo FROM pg_subscription s",
    "SELECT max(subconninfo) FROM pg_subscription",
    "SELECT x FROM (SELECT subconninfo || '' AS x FROM pg_subscription) q",
    "SELECT subname FROM pg_subscription WHERE subconninfo LIKE '%a%'",
    "SELECT DISTINCT subconninfo FROM pg_subscription ORDER BY 1",
    "COPY pg_subscription TO STDOUT",
    "SELECT subconninfo FROM pg_subscription FOR SHARE",
    "CREATE TABLE x AS SELECT subconninfo FROM pg_subscription",
    "SELECT query FROM pg_stat_activity",
    "SELECT left(query, 10) FROM pg_stat_activity",
    "SELECT * FROM pg_stat_activity",
)
PLAIN = (
    "SELECT rolname FROM pg_authid",
    "SELECT count(*) FROM pg_authid",
    "SELECT oid, rolname FROM pg_catalog.pg_authid WHERE rolsuper ORDER BY 2",
    "SELECT c.relname, a.rolname FROM pg_class c JOIN pg_authid a ON a.oid = c.relowner",
    "SELECT subname, subenabled FROM pg_subscription ORDER BY 1",
    "SELECT umuser FROM pg_user_mapping",
    "SELECT srvname, usename FROM pg_user_mappings",
    "SELECT count(*), state FROM pg_stat_activity GROUP BY state",
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
)
SHOWN = (
    "SELECT s.tableoid, s.subconninfo FROM pg_subscription s WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = 'x')",
    "SELECT * FROM pg_subscription",
    "SELECT x FROM (SELECT subconninfo AS x FROM pg_subscription) q",
    "SELECT s.x FROM pg_subscription s(a, b, c, d, e, x)",
)
READ = frozenset({StatementKind.READ})


def statement(text: str) -> SqlStatement:
    analysis = analyse(text, ("public",))
    assert isinstance(analysis, Analysis)
    (found,) = analysis.statements
    return found


@pytest.mark.parametrize("text", REACHES)
def test_what_could_reach_a_secret_is_server(text: str) -> None:
    found = statement(text)
    assert StatementKind.SERVER in found.kinds
    assert not found.secrets_output


@pytest.mark.parametrize("text", PLAIN)
def test_other_columns_are_plain_reading(text: str) -> None:
    found = statement(text)
    assert (found.kinds, found.dangers, found.secrets_output) == (READ, (), frozenset())


@pytest.mark.parametrize("text", SHOWN)
def test_a_connection_string_that_stands_plainly_is_told_to_be_masked(text: str) -> None:
    found = statement(text)
    assert found.kinds == READ
    assert found.secrets_output == {ColumnRef("subconninfo", RelationRef("pg_subscription", frozenset({"pg_catalog"})))}


def test_secret_columns_are_columns_of_leaky_catalogs(postgres: PostgresServer) -> None:
    assert SECRET_COLUMNS.keys() <= LEAKY_RELATIONS.keys()
    with postgres.admin() as admin:
        for name, secret in SECRET_COLUMNS.items():
            rows = admin.execute("SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass", [f"pg_catalog.{name}"])
            assert secret.names <= {row[0] for row in rows.fetchall()}


def test_what_postgresql_keeps_from_others_column_by_column_is_secret(postgres: PostgresServer) -> None:
    """pg_subscription is the only catalog with rights on columns; a new column that others may not read would be missed by the table."""
    query = """SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'v') AND has_any_column_privilege('readonly', c.oid, 'SELECT')
        AND NOT has_column_privilege('readonly', c.oid, a.attnum, 'SELECT')"""
    with postgres.admin() as admin:
        kept = set(admin.execute(query).fetchall())
    assert ("pg_subscription", "subconninfo") in kept
    harmless = {("pg_subscription", "subskiplsn")}  # a position
    assert kept - harmless <= {(name, column) for name, secret in SECRET_COLUMNS.items() for column in secret.names}


def test_a_table_of_that_name_elsewhere_is_somebodys_own() -> None:
    assert statement("SELECT rolpassword FROM public.pg_authid").kinds == READ


@pytest.mark.parametrize("path", [("public",), ("public", "pg_toast")])
def test_where_long_values_are_kept_is_for_servers_alone(path: tuple[str, ...]) -> None:
    """A rule on the table knows nothing of it."""
    name = "pg_toast_1262" if "pg_toast" in path else "pg_toast.pg_toast_1262"
    analysis = analyse(f"SELECT chunk_data FROM {name}", path)
    assert isinstance(analysis, Analysis)
    assert StatementKind.SERVER in analysis.statements[0].kinds
