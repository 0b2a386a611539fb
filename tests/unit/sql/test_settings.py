from __future__ import annotations

import pytest

from sidegate.policy.settings import GUARDED_SETTINGS
from sidegate.policy.statement import SqlStatement, StatementKind
from sidegate.sql import Analysis, analyse
from sidegate.sql.settings import HARMLESS
from tests.support.postgres_server import PostgresServer

K = StatementKind


def one(text: str) -> SqlStatement:
    analysis = analyse(text, ("public",))
    assert isinstance(analysis, Analysis)
    return analysis.statements[0]


@pytest.mark.parametrize(
    ("text", "kinds", "settings"),
    [
        ("SET search_path = a, \"B c\", '$user'", {K.SESSION}, (("search_path", 'a, "B c", "$user"'),)),
        ("SET search_path = 'a, b'", {K.SESSION}, (("search_path", '"a, b"'),)),
        ("SET SEARCH_PATH TO ''", {K.SESSION}, (("search_path", '""'),)),
        ("SET search_path FROM CURRENT", {K.SESSION}, (("search_path", None),)),
        ("SET statement_timeout = 5000", {K.SESSION}, (("statement_timeout", "5000"),)),
        ("SET extra_float_digits = -1", {K.SESSION}, (("extra_float_digits", "-1"),)),
        ("SET seed TO 0.5", {K.SESSION}, (("seed", "0.5"),)),
        ("SET TIME ZONE INTERVAL '1' HOUR TO MINUTE", {K.SESSION}, (("timezone", None),)),
        ("SET XML OPTION DOCUMENT", {K.SESSION}, (("xmloption", "DOCUMENT"),)),
        ("SET client_encoding TO utf8", {K.SESSION}, (("client_encoding", "utf8"),)),
        ("SET client_encoding TO DEFAULT", {K.SETTINGS}, (("client_encoding", None),)),
        ("SET default_tablespace = ''", {K.SESSION}, (("default_tablespace", ""),)),
        ("SET default_tablespace = fast", {K.SETTINGS}, (("default_tablespace", "fast"),)),
        ("SET default_table_access_method = heap", {K.SESSION}, (("default_table_access_method", "heap"),)),
        ("SET LOCAL ROLE bob", {K.ROLES}, (("role", "bob"),)),
        ("RESET ROLE", {K.ROLES}, (("role", None),)),
        ("SET \"ROLE\" = 'bob'", {K.ROLES}, (("role", "bob"),)),
        ("SET SESSION AUTHORIZATION 'bob'", {K.ROLES}, (("session_authorization", "bob"),)),
        ("SET enable_seqscan = off", {K.SETTINGS}, (("enable_seqscan", "off"),)),
        ("SET session_replication_role = replica", {K.SETTINGS}, (("session_replication_role", "replica"),)),
        ("SET TRANSACTION SNAPSHOT '0-1'", {K.SESSION}, (("transaction_snapshot", "0-1"),)),
        (
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, DEFERRABLE",
            {K.SESSION},
            (("transaction_isolation", "read committed"), ("transaction_deferrable", "on")),
        ),
    ],
)
def test_setting_is_told_with_its_value(
    text: str, kinds: set[StatementKind], settings: tuple[tuple[str, str | None], ...]
) -> None:
    statement = one(text)
    assert (kinds, settings) == (statement.kinds, statement.settings)


def test_value_of_search_path_is_what_the_target_stores(postgres: PostgresServer) -> None:
    for text in (
        "SET search_path = a, \"B c\", '$user'",
        "SET search_path = 'a, b'",
        'SET search_path = "x""y"',
        "SET search_path TO ''",
    ):
        with postgres.admin() as connection:
            connection.execute(text.encode())
            row = connection.execute("SHOW search_path").fetchone()
        assert row == (one(text).settings[0][1],)


def test_no_guarded_setting_is_harmless() -> None:
    assert HARMLESS.isdisjoint(GUARDED_SETTINGS)


def test_every_harmless_setting_exists_and_is_for_a_session_to_set(postgres: PostgresServer) -> None:
    with postgres.admin() as connection:
        contexts = {
            name.lower(): context for name, context in connection.execute("SELECT name, context FROM pg_settings").fetchall()
        }
    hidden = {
        "seed",
        "transaction_snapshot",
    }  # SET SEED is a function's state, SET TRANSACTION SNAPSHOT the transaction's: not in the view
    assert {contexts[name] for name in HARMLESS - hidden} <= {"user", "superuser"}
    assert hidden.isdisjoint(contexts)


def test_function_and_role_settings_are_told_too() -> None:
    assert one("CREATE FUNCTION f() RETURNS int LANGUAGE sql SET role = 'x' AS 'select 1'").settings == (("role", "x"),)
    assert K.ROLES in one("ALTER FUNCTION f() SET role = 'x'").kinds
    assert one("ALTER ROLE bob SET standard_conforming_strings = off").settings == (("standard_conforming_strings", "off"),)
