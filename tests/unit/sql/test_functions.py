from __future__ import annotations

import pytest

from sidegate.policy.statement import SqlStatement, StatementKind
from sidegate.sql import Analysis, analyse, builtins
from sidegate.sql.functions import DANGEROUS, LEAKY_RELATIONS, SAFE, SAFE_VOLATILE
from tests.support.postgres_server import PostgresServer


def one(text: str, path: tuple[str, ...] | None = ("public",)) -> SqlStatement:
    analysis = analyse(text, path)
    assert isinstance(analysis, Analysis)
    return analysis.statements[0]


@pytest.fixture(scope="module")
def catalog(postgres: PostgresServer) -> dict[str, tuple[bool, bool]]:
    """Functions of pg_catalog: whether any overload is volatile, and whether SQL can call any of them."""
    with postgres.admin() as connection:
        rows = connection.execute(
            """SELECT proname, bool_or(provolatile = 'v'), bool_or(NOT 'internal'::regtype = ANY (proargtypes))
            FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace GROUP BY proname"""
        ).fetchall()
    return {name: (is_volatile, is_callable) for name, is_volatile, is_callable in rows}


def test_every_function_of_the_catalog_is_known(catalog: dict[str, tuple[bool, bool]]) -> None:
    assert set(catalog) <= builtins.CATALOG_FUNCTIONS


def test_a_volatile_function_is_safe_only_where_a_table_says_so(catalog: dict[str, tuple[bool, bool]]) -> None:
    volatile = {name for name, (is_volatile, _) in catalog.items() if is_volatile}
    assert volatile & SAFE <= SAFE_VOLATILE
    assert builtins.SAFE_BY_KIND.isdisjoint(volatile)


def test_no_name_is_both_safe_and_dangerous() -> None:
    assert SAFE.isdisjoint(DANGEROUS)
    assert SAFE_VOLATILE.isdisjoint(DANGEROUS)


def test_every_relation_of_the_catalog_is_known(postgres: PostgresServer) -> None:
    with postgres.admin() as connection:
        query = "SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')"
        names = {row[0] for row in connection.execute(query).fetchall()}
    assert names == builtins.CATALOG_RELATIONS | builtins.NEWER_CATALOG_RELATIONS


def test_relations_that_only_superusers_may_read_are_leaky_or_harmless(postgres: PostgresServer) -> None:
    """PostgreSQL itself keeps these from others: each is in the table, or stands here with its reason."""
    harmless = {
        "pg_aios", "pg_backend_memory_contexts", "pg_config", "pg_shmem_allocations", "pg_shmem_allocations_numa",  # memory
        "pg_replication_origin_status",  # positions
        "pg_attrdef", "pg_statistic_ext",
    }  # fmt: skip
    with postgres.admin() as connection:
        rows = connection.execute(
            """SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')
            AND NOT has_table_privilege('readonly', oid, 'SELECT') AND NOT has_any_column_privilege('readonly', oid, 'SELECT')"""
        ).fetchall()
    assert {row[0] for row in rows} <= LEAKY_RELATIONS.keys() | harmless


def test_functions_that_only_superusers_may_run_are_not_safe(postgres: PostgresServer) -> None:
    harmless = {
        "pg_get_backend_memory_contexts", "pg_get_shmem_allocations", "pg_get_shmem_allocations_numa", "pg_get_aios", "pg_config",
        "pg_replication_origin_oid", "pg_stat_have_stats",
    }  # fmt: skip
    with postgres.admin() as connection:
        rows = connection.execute(
            """SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
            AND NOT has_function_privilege('readonly', oid, 'EXECUTE')"""
        ).fetchall()
    assert {row[0] for row in rows} & SAFE <= harmless


def test_safe_functions_take_no_table_or_statement_as_text(catalog: dict[str, tuple[bool, bool]]) -> None:
    assert not {name for name in SAFE if name.endswith(("_to_xml", "_to_xmlschema", "_and_xmlschema"))}


@pytest.mark.parametrize("name", sorted(DANGEROUS))
def test_dangerous_function_is_never_known_safe_in_any_schema(name: str) -> None:
    for schema in ("", "pg_catalog.", "public.", "ext."):
        statement = one(f"SELECT {schema}{name}(1)")
        assert all(not function.is_known_safe for function in statement.functions if function.name == name)
        assert statement.kinds - {StatementKind.READ} or name == "pg_export_snapshot"


@pytest.mark.parametrize("path", [None, ("public", "pg_catalog"), ("app", "pg_catalog", "public")])
def test_unqualified_builtin_is_not_known_safe_when_another_schema_may_come_first(path: tuple[str, ...] | None) -> None:
    statement = one("SELECT count(*), lower('A') || 'b'", path)
    assert StatementKind.CALL in statement.kinds
    assert not any(function.is_known_safe for function in statement.functions)
    assert one("SELECT pg_catalog.count(*)", path).kinds == {StatementKind.READ}


def test_pg_catalog_first_in_the_path_is_as_if_it_were_not_named() -> None:
    assert one("SELECT count(*)", ("pg_catalog", "public")).kinds == {StatementKind.READ}


def test_somebodys_function_with_a_builtins_name_is_not_the_builtin() -> None:
    statement = one("SELECT public.count(1)")
    assert StatementKind.CALL in statement.kinds


def test_leaky_relation_counts_in_the_catalog_and_not_as_somebodys_table() -> None:
    assert StatementKind.SERVER in one("SELECT * FROM pg_stats").kinds
    assert StatementKind.SERVER in one("SELECT * FROM pg_catalog.pg_stats").kinds
    assert StatementKind.SERVER in one("SELECT * FROM pg_stats", None).kinds
    assert StatementKind.SERVER not in one("SELECT * FROM app.pg_stats").kinds
    assert StatementKind.SERVER in one("SELECT * FROM ext.pg_stat_statements").kinds


@pytest.mark.parametrize("call", ["pg_catalog.set_config($1, 'x', true)", "set_config(name, 'x', true)"])
def test_setting_of_unknown_name_is_unknown(call: str) -> None:
    assert StatementKind.UNKNOWN in one(f"SELECT {call} FROM users").kinds


def test_psql_and_pg_dump_like_introspection_is_plain_reading() -> None:
    for text in (
        """SELECT n.nspname, c.relname, CASE c.relkind WHEN 'r' THEN 'table' END, pg_catalog.pg_get_userbyid(c.relowner)
        FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r','p','') AND n.nspname !~ '^pg_toast' AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 1,2""",
        "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute a WHERE a.attrelid = '1'",
        "SELECT current_schema(), current_setting('server_version_num'), version(), pg_backend_pid()",
        "SELECT pg_catalog.pg_relation_size('users'), pg_size_pretty(pg_database_size(current_database()))",
        "SELECT (information_schema._pg_expandarray(i.indkey)).n FROM pg_catalog.pg_index i",
    ):
        assert one(text).kinds == {StatementKind.READ}, text
