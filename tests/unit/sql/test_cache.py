from __future__ import annotations

from dataclasses import replace

import pytest

from sidegate.policy.statement import StatementKind
from sidegate.sql import Analysis, ParseProblem, StatementCache, analyse

PATH = ("public",)


def test_other_constants_are_answered_from_the_normal_form() -> None:
    cache = StatementCache(100)
    cache.analyse("SELECT a FROM t WHERE b = 1", PATH)
    answer = cache.analyse("SELECT a FROM t WHERE b = 'x'", PATH)

    assert (cache.misses, cache.normal_hits, cache.exact_hits) == (1, 1, 0)
    assert isinstance(answer, Analysis)
    assert answer.statements[0].text == "SELECT a FROM t WHERE b = $1"
    alone = analyse("SELECT a FROM t WHERE b = 'x'", PATH)
    assert isinstance(alone, Analysis)
    assert answer.statements == (replace(alone.statements[0], text=alone.statements[0].normalised),)
    assert (
        cache.analyse("SELECT a FROM t WHERE b = 2", PATH) is answer
    )  # one object, so that what is decided for it can be kept by it


@pytest.mark.parametrize("blank", ["\u2003", "\xa0", "\x85", "\u3000", "\x1c"])
@pytest.mark.parametrize("form", ["{1}{0}", "{0}{1}", "{0}{1};", "{0} {1}"])
def test_a_blank_of_unicode_is_part_of_a_name_as_the_target_has_it(form: str, blank: str) -> None:
    cache = StatementCache(100)
    plain = "SELECT a FROM t"
    cache.analyse(plain, PATH)
    text = form.format(plain, blank)
    answer, alone = cache.analyse(text, PATH), analyse(text, PATH)
    if isinstance(alone, ParseProblem):
        assert answer == alone
        return
    assert isinstance(answer, Analysis)
    assert (answer.statements[0].reads, answer.statements[0].text) == (alone.statements[0].reads, alone.statements[0].text)
    assert blank in answer.statements[0].text


def test_same_text_is_answered_as_it_was() -> None:
    cache = StatementCache(100)
    first = cache.analyse("SET search_path = app", PATH)
    assert cache.analyse("SET search_path = app", PATH) is first
    assert cache.exact_hits == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("SELECT id, ssn FROM users ORDER BY 1", "SELECT id, ssn FROM users ORDER BY 2"),
        ("SELECT DISTINCT ON ($1) id, ssn FROM users", "SELECT DISTINCT ON (2) id, ssn FROM users"),
        ("SELECT id, ssn FROM users GROUP BY ROLLUP ($1, $2)", "SELECT id, ssn FROM users GROUP BY ROLLUP (1, 2)"),
        ("SELECT set_config('work_mem', '1', true)", "SELECT set_config('role', '1', true)"),
        ("SELECT nextval('a.s')", "SELECT nextval('b.s')"),
        ("EXPLAIN (ANALYZE 0) DELETE FROM t", "EXPLAIN (ANALYZE 1) DELETE FROM t"),
        ("COPY t TO STDOUT (DELIMITER ',')", "COPY t TO STDOUT (DELIMITER '|')"),
        ("SET statement_timeout = 1", "SET statement_timeout = 2"),
        ("EXECUTE p(1)", "EXECUTE p(2)"),
    ],
)
def test_constants_that_matter_are_never_taken_for_each_other(first: str, second: str) -> None:
    cache = StatementCache(100)
    for _ in range(2):
        cache.analyse(first, PATH)
        cache.analyse(second, PATH)
    assert cache.normal_hits == 0


def test_search_paths_do_not_share_answers() -> None:
    cache = StatementCache(100)
    for path in (("a",), ("b",), None):
        answer = cache.analyse("SELECT 1 FROM t", path)
        assert isinstance(answer, Analysis)
        (relation,) = answer.statements[0].reads
        assert relation.schemas == (frozenset(path) if path else None)
    assert cache.misses == 3


def test_size_is_bounded_and_what_is_used_stays() -> None:
    cache = StatementCache(10)
    used = "SELECT used FROM t WHERE x = 1"
    for number in range(200):
        cache.analyse(used, PATH)
        cache.analyse(f"SELECT c{number} FROM t", PATH)
        assert len(cache) <= 20  # two tables of at most ten
    assert cache.exact_hits == 199


def test_problems_are_kept_too_and_long_texts_are_not() -> None:
    cache = StatementCache(10)
    assert isinstance(cache.analyse("SELEC 1", PATH), ParseProblem)
    cache.analyse("SELEC 1", PATH)
    assert cache.exact_hits == 1
    long = "SELECT '" + "x" * 20_000 + "'"
    cache.analyse(long, PATH)
    cache.analyse(long, PATH)
    assert cache.misses == 3


def test_many_search_paths_do_not_grow_it() -> None:
    cache = StatementCache(10)
    for number in range(500):
        cache.analyse("SELECT 1", (f"s{number}",))
    assert len(cache) <= 20


def test_unknown_statement_stays_unknown_from_the_cache() -> None:
    cache = StatementCache(10)
    for _ in range(2):
        answer = cache.analyse("SELECT set_config(name, 'x', true) FROM t", PATH)
        assert isinstance(answer, Analysis)
        assert StatementKind.UNKNOWN in answer.statements[0].kinds


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("SELECT 1 FROM t WHERE a = $1", "SELECT 1 FROM t WHERE a = 'x'"),
        ("SELECT 1 FROM t WHERE a = $1 AND b = 'x'", "SELECT 1 FROM t WHERE a = $1 AND b = $2"),
        ("SELECT substring(a, 1) FROM t", "SELECT substring(a, '(b+)+$') FROM t"),
        ("SELECT substring(a, 1) FROM t", "SELECT substring(a, '(b+)+') FROM t"),
        ("SELECT left(a, 1) FROM t", "SELECT left(a, $1) FROM t"),
        ("SELECT sum(a) FROM t HAVING count(a) >= 9", "SELECT sum(a) FROM t HAVING count(a) >= 1"),
    ],
)
def test_what_depends_on_a_constant_is_never_taken_for_another(first: str, second: str) -> None:
    for one, other in ((first, second), (second, first)):
        cache = StatementCache(10)
        cache.analyse(one, ("public",))
        assert cache.analyse(other, ("public",)) == analyse(other, ("public",))
