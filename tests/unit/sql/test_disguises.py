"""Which functions could take a value past a detector, and which answer with no table's value."""

from __future__ import annotations

import pytest

from sidegate.policy.statement import SqlStatement
from sidegate.sql import Analysis, analyse, may_disguise, shows_values
from sidegate.sql.builtins import CATALOG_FUNCTIONS
from sidegate.sql.disguises import DISGUISING


def statement(sql: str) -> SqlStatement:
    analysis = analyse(sql, ("public",))
    assert isinstance(analysis, Analysis)
    (only,) = analysis.statements
    return only


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT left(payment_ref, 8), substr(payment_ref, 9) FROM orders",
        "SELECT substring(payment_ref FROM 1 FOR 8) FROM orders",
        "SELECT pg_catalog.to_hex(payment_ref::bigint) FROM orders",
        "SELECT a FROM (SELECT encode(payment_ref::bytea, 'hex') AS a FROM orders) q",
        "WITH q AS (SELECT split_part(secret, 'x', 2) AS a FROM api_keys) SELECT a FROM q",
        "SELECT string_agg(chr(ascii(c) + 1), '') FROM orders, regexp_split_to_table(payment_ref, '') c",
        "COPY (SELECT overlay(payment_ref placing '/' from 3) FROM orders) TO STDOUT",
        "SELECT left(o::text, 12) FROM orders o",
    ],
)
def test_text_of_a_table_that_is_cut_or_recoded_may_be_disguised(sql: str) -> None:
    assert may_disguise(statement(sql))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT payment_ref, upper(note), count(*), date_trunc('month', placed_at) FROM orders GROUP BY 1, 2, 4",
        "SELECT name || ' <' || email || '>' FROM customers",
        "SELECT left('some text', 4)",
        "SELECT substring(pg_catalog.quote_ident(c.relname), 1, 3) FROM pg_catalog.pg_class c",
        "SELECT replace(column_default, 'x', 'y') FROM information_schema.columns",
    ],
)
def test_whole_values_constants_and_catalogs_are_not_disguised(sql: str) -> None:
    assert not may_disguise(statement(sql))


def test_disguising_functions_are_the_catalogs() -> None:
    assert DISGUISING <= CATALOG_FUNCTIONS


@pytest.mark.parametrize(
    "call", ["nextval('s')", "set_config('jit', 'off', false)", "pg_notify('c', 'x')", "count(*)", "pg_try_advisory_lock(1)"]
)
def test_functions_that_only_act_show_no_values(call: str) -> None:
    assert not any(map(shows_values, statement(f"SELECT {call}").functions))


@pytest.mark.parametrize(
    "call", ["my_function()", "app.nextval('s')", "query_to_xml('select 1', true, true, '')", "pg_read_file('x')", "lo_get(1)"]
)
def test_functions_that_reach_elsewhere_may_show_values(call: str) -> None:
    assert any(map(shows_values, statement(f"SELECT {call}").functions))
