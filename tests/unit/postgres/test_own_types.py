"""Casts to enums of the target's own."""

from __future__ import annotations

import pytest

from sidegate.policy.statement import SqlStatement, StatementKind
from sidegate.postgres.own_types import ENUMS_QUERY, without_casts
from sidegate.sql import Analysis, analyse
from tests.support.postgres_server import PostgresServer

K = StatementKind
ENUMS = frozenset({"mood"})
TYPES = """
CREATE SCHEMA enums; CREATE SCHEMA beside; SET search_path = enums;
CREATE TYPE plain_mood AS ENUM ('sad', 'ok');
CREATE TYPE cast_mood AS ENUM ('sad', 'ok');
CREATE FUNCTION to_mood(int) RETURNS cast_mood LANGUAGE sql AS $$ SELECT 'ok'::enums.cast_mood $$;
CREATE CAST (int AS cast_mood) WITH FUNCTION to_mood(int);
CREATE TYPE text_mood AS ENUM ('sad', 'ok');
CREATE CAST (text AS text_mood) WITH INOUT;
CREATE TYPE array_mood AS ENUM ('sad', 'ok');
CREATE FUNCTION to_moods(int) RETURNS array_mood[] LANGUAGE sql AS $$ SELECT '{ok}'::enums.array_mood[] $$;
CREATE CAST (int AS array_mood[]) WITH FUNCTION to_moods(int);
CREATE TYPE called_mood AS ENUM ('sad', 'ok');
CREATE FUNCTION beside.called_mood(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TYPE domain_mood AS ENUM ('sad', 'ok');
CREATE DOMAIN beside.domain_mood AS text CHECK (length(VALUE) > 1);
CREATE TYPE twice_mood AS ENUM ('sad'); CREATE TYPE beside.twice_mood AS ENUM ('ok');
CREATE TYPE beside.other_mood AS ENUM ('ok'); CREATE TYPE other_mood AS (a int)
"""


def one(text: str) -> SqlStatement:
    analysis = analyse(text, ("public",))
    assert isinstance(analysis, Analysis)
    return analysis.statements[0]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("SELECT 'ok'::mood", {K.READ}),
        ("SELECT $1::public.mood[]", {K.READ}),
        ("INSERT INTO t VALUES (1, 'ok'::mood)", {K.INSERT}),
        ("SELECT 'ok'::mood, nextval('s')", {K.READ, K.UPDATE}),
        ("SELECT 'ok'::mood, length('x')", {K.READ}),
        ("SELECT 'ok'::mood, purge()", {K.READ, K.CALL}),
        ("SELECT 'ok'::mood, public.nextval('s')", {K.READ, K.CALL, K.UPDATE}),
        ("SELECT 'ok'::mood, query_to_xml('SELECT 1', true, true, '')", {K.READ, K.CALL, K.SERVER}),
        ("SELECT 'ok'::other", {K.READ, K.CALL}),
        ("SELECT 'ok'::mood OPERATOR(public.=) 'ok'", {K.READ, K.CALL}),
    ],
)
def test_a_cast_to_a_known_enum_calls_nothing_and_what_else_is_called_stays_a_call(text: str, kinds: set[StatementKind]) -> None:
    assert without_casts(one(text), ENUMS).kinds == kinds


def test_only_enums_without_casts_and_namesakes_are_known(postgres: PostgresServer) -> None:
    with postgres.admin() as connection:
        connection.execute("BEGIN")
        connection.execute(TYPES.encode())
        found = {name for (name,) in connection.execute(ENUMS_QUERY.encode()).fetchall()}
        connection.execute("ROLLBACK")
    assert {name for name in found if name.endswith("_mood")} == {"plain_mood", "twice_mood"}
