"""Which comparisons are translated, what else stays steering, and texts with values in place of pseudonyms."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.policy.statement import ColumnRef
from sidegate.sql.pseudonyms import Comparisons, comparisons, translated

PATH = ("public",)


def covers(columns: Collection[ColumnRef]) -> bool:
    return all(column.name == "ssn" for column in columns)


def found(text: str) -> Comparisons | None:
    return comparisons(text, PATH, covers)


def steering(text: str) -> set[str]:
    answer = found(text)
    assert answer is not None
    return {column.name for column in answer.statement.columns_steering}


def value_of(pseudonym: bytes) -> bytes | None:
    """Stands for decryption: a value for everything but what has a question mark."""
    if b"?" in pseudonym:
        return None
    return (
        pseudonym.translate(bytes.maketrans(b"123456789", b"987654321"))
        if pseudonym.strip(b"-").isdigit()
        else b"<" + pseudonym + b">"
    )


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("select id from people where ssn = 'ab'", "select id from people where ssn = '<ab>'"),
        ("select id from people p where 'ab' = p.ssn", "select id from people p where '<ab>' = p.ssn"),
        ("select id from people where ssn='a''b'and id=1", "select id from people where ssn='<a''b>'and id=1"),
        ("select id from people where ssn='?'and id=1", "select id from people where ssn= NULL and id=1"),
        ("select id from people where ssn in ('a', '?', null, 'é')", "select id from people where ssn in ('<a>',  NULL , null, '<é>')"),
        ("select 'é' from people where ssn = E'a\\\\b' -- x", "select 'é' from people where ssn = '<a\\b>' -- x"),
        ("select id from people where ssn = $$a$$ for update", "select id from people where ssn = '<a>' for update"),
        ("select id from people where ssn = any (array['a', 'b'])", "select id from people where ssn = any (array['<a>', '<b>'])"),
        ("select id from people where ssn = 'a'::text or ssn = cast('b' as varchar)", "select id from people where ssn = '<a>'::text or ssn = cast('<b>' as varchar)"),
        ("select id from people where ssn = 1234567 or ssn = - 12345678901", "select id from people where ssn = 9876543 or ssn = -98765432109"),
        ("select id from people where ssn = 'a'\n'b'", "select id from people where ssn = '<ab>'"),
        ("with t as (select ssn as s, id from people) select id from t where s = 'a'", "with t as (select ssn as s, id from people) select id from t where s = '<a>'"),
        ("select p.id from people p join pay y on y.ssn = 'a' and p.ssn = 'a'", "select p.id from people p join pay y on y.ssn = '<a>' and p.ssn = '<a>'"),
        ("select count(*) from people where not ssn operator(pg_catalog.=) 'a'", "select count(*) from people where not ssn operator(pg_catalog.=) '<a>'"),
        ("select id from people where ssn = ''", "select id from people where ssn = '<>'"),
    ],
)  # fmt: skip
def test_constants_of_comparisons_are_translated_in_place(text: str, sent: str) -> None:
    answer = found(text)
    assert answer is not None
    assert "ssn" not in {column.name for column in answer.statement.columns_steering}
    assert translated(text, answer, value_of) == sent


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("select id from people where ssn = $1", {1: False}),
        ("select id from people where $2 = ssn and id = $1", {2: False}),
        ("select id from people where ssn in ($1, 'a', $2::text)", {1: False, 2: False}),
        ("select id from people where ssn = any ($1)", {1: True}),
        ("select id from people where ssn = any ($1::text[])", {1: True}),
        ("select id from people where ssn = any (array[$1, $2])", {1: False, 2: False}),
        ("select a.id from people a, people b where a.ssn = $1 and b.ssn = $1", {1: False}),
    ],
)
def test_parameters_of_comparisons_are_told(text: str, parameters: dict[int, bool]) -> None:
    answer = found(text)
    assert answer is not None
    assert {number: parameter.is_array for number, parameter in answer.parameters.items()} == parameters
    assert "ssn" not in {column.name for column in answer.statement.columns_steering}


@pytest.mark.parametrize(
    "rest",
    [
        "ssn like 'b'", "ssn < 'b'", "ssn <> 'b'", "ssn = id", "ssn = lower('b')", "ssn = 'b' || ''", "ssn is not distinct from 'b'", "ssn = 'b'::varchar(1)",
        "ssn = 'b'::name[]", "lower(ssn) = 'b'", "ssn::text = 'b'", "ssn || '' = 'b'", "(ssn, id) = ('b', 1)", "ssn not in ('b')",
        "ssn in (select 'b')", "ssn = (select 'b')", "ssn = any (select 'b')", "ssn = any ('{b}')", "ssn = all (array['b'])", "ssn <> all (array['b'])",
        "ssn in ('b', name)", "ssn between 'b' and 'c'", "ssn = true", "ssn = B'1'", "case ssn when 'b' then true end",
        "(people).ssn = 'b'", "nullif(ssn, 'b') is null", "ssn ~ 'b'", "ssn = current_user", "ssn = 'b' collate \"C\"",
    ],
)  # fmt: skip
def test_any_other_use_of_the_column_still_steers(rest: str) -> None:
    assert steering(f"select id from people where ssn = 'a' and {rest}") & {"ssn", "*"}


@pytest.mark.parametrize(
    "text",
    [
        "select id from people where ssn = $1 and $1 = '583-68-2629'",
        "select $1, id from people where ssn = $1",
        "select id from people where ssn = $1 limit length($1)",
        "select id from people where ssn = $1 and name = $1",
        "select id from people where ssn = $1 and ssn like $1",
        "select current_query() from people where ssn = 'a'",
        "select id from people where ssn = 'a' and exists (select 1 from pg_prepared_statements)",
        "select id from people, pg_cursor() where ssn = 'a'",
        "select mine(id) from people where ssn = 'a'",
        "select id from people where ssn = 'a' and dblink('x', 'y') is null",
        "explain select id from people where ssn = 'a'",
        "explain analyze select id from people where ssn = 'a'",
        "prepare q as select id from people where ssn = 'a'",
        "declare c cursor for select id from people where ssn = 'a'",
        "create view v as select id from people where ssn = 'a'",
        "create table t as select id from people where ssn = 'a'",
        "select id into t from people where ssn = 'a'",
        "insert into t select id from people where ssn = 'a'",
        "update people set name = 'x' where ssn = 'a'",
        "delete from people where ssn = 'a'",
        "with d as (delete from t returning id) select id from people where ssn = 'a'",
        "copy (select id from people where ssn = 'a') to stdout",
        "select 1; select id from people where ssn = 'a'",
        "select id from people where name = 'a'",
        "select id from people where ssn = 'a' and ssn = 'b'::people",
        "select id from people where ssn = 'a' and ssn operator(public.=) 'b'",
        "select id from people where ssn = $1 and ssn = any ($1)",
        "select id from people where ssn = other.ssn",
        "select id from people where ssn = any ($1) and ssn = $1 and 'x' = any ($1)",
        "select id from",
    ],
)
def test_what_could_show_the_value_is_not_translated_at_all(text: str) -> None:
    assert found(text) is None


def test_a_column_must_be_one_for_sure() -> None:
    asked: list[Collection[ColumnRef]] = []

    def record(columns: Collection[ColumnRef]) -> bool:
        asked.append(columns)
        return False

    assert comparisons("select id from people, pay where ssn = 'a'", PATH, record) is None
    assert [{(column.name, column.relation and column.relation.name) for column in columns} for columns in asked] == [
        {("ssn", None)}
    ]
    for text in (
        "select id from (select ssn from people union select name from people) t where ssn = 'a'",
        "select id from (select lower(ssn) as ssn from people) t where ssn = 'a'",
        "select id from people as ssn where ssn = 'a'",
        "select id from people p join pay y using (ssn) where ssn = 'a' and p.id = 1 and y.ssn = 'a'",
    ):
        answer = found(text)
        assert answer is None or "ssn" in {column.name for column in answer.statement.columns_steering}, text


@pytest.mark.parametrize(
    "inner",
    [
        "json_each_text('{\"x\": \"a guess\"}') where ssn = 'a'",
        "json_each_text('{\"x\": \"a guess\"}') e where ssn = 'a'",
        "unnest(array['a guess']) ssn where ssn = 'a'",
        "unnest(array['a guess']) as u (ssn) where ssn = 'a'",
        "(values ('a guess')) v (ssn) where ssn = 'a'",
        "(select case when true then 'a guess' end) x where ssn = 'a'",
        "xmltable('/a' passing '<a/>' columns ssn text path '.') where ssn = 'a'",
        "(select 'a guess' as ssn) x where ssn = 'a'",
        "(select 'a guess' as ssn) x where x.ssn = 'a'",
        "(select p.*, case when true then 'a guess' end from people p) x where x.ssn = 'a'",
        "people p (ssn) where p.ssn = 'a'",
        "(select (json_each_text('{\"x\": \"a guess\"}')).*) x where ssn = 'a'",
        "(select (json_each_text('{\"x\": \"a guess\"}')).*, id from people) x where ssn = 'a'",
    ],
)
def test_a_guess_is_never_taken_for_a_column_around_it(inner: str) -> None:
    """Compared with the value of a pseudonym it would be answered."""
    answer = found(f"select id from people where exists (select 1 from {inner})")
    assert answer is None


def test_a_text_is_refused_where_the_new_one_does_not_read_the_same() -> None:
    for text in (
        "select id from people where ssn = U&'a'",
        "select id from people where ssn = U&'a!0041' uescape '!'",
        "select id from people where ssn = text'?'",
    ):
        answer = found(text)
        assert answer is not None
        assert translated(text, answer, value_of) is None


@given(st.text(max_size=30), st.text(max_size=30).filter(lambda text: "\0" not in text))
def test_no_value_leaves_its_literal(pseudonym: str, value: str) -> None:
    """Whatever the value is: another tree than the client's, but for the one constant, is no answer."""
    quoted = pseudonym.replace("\0", "").replace("'", "''")
    text = f"select 'ü', id from people where ssn = '{quoted}' and id = 1"
    answer = found(text)
    assert answer is not None
    data = value.encode("utf-8", "surrogatepass")
    sent = translated(text, answer, lambda _: data)
    assert sent is not None
    again = found(sent)
    assert again is not None
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        assert " NULL " in sent
    else:
        assert [constant.value for constant in again.constants] == [data]
