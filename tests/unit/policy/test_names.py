"""Patterns that give compare exactly, patterns that take away ignore case, and an unsettled name is settled against the asker."""

from __future__ import annotations

import pytest

from sidegate.policy.names import NamePatterns, QualifiedPattern


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("shop", "shop", True),
        ("shop", "shops", False),
        ("shop*", "shops", True),
        ("*shop", "myshop", True),
        ("a*b", "ab", True),
        ("a*b", "aXb", True),
        ("a*b", "a", False),
        ("aa*aa", "aaa", False),  # prefix and suffix may not share characters
        ("a*b*c", "a1b2c", True),
        ("a*b*c", "acb", False),
        ("*", "", True),
        ("**", "x", True),
        ("a.c", "abc", False),  # no character but * means another
        ("a[bc]", "ab", False),
        ("a?", "ab", False),
    ],
)
def test_star_is_the_only_wildcard(pattern: str, name: str, matches: bool) -> None:
    assert NamePatterns.of([pattern], ignores_case=False).matches(name) is matches


def test_what_gives_keeps_case_and_what_takes_away_ignores_it() -> None:
    assert not NamePatterns.of(["users"], ignores_case=False).matches("Users")
    assert NamePatterns.of(["users"], ignores_case=True).matches("Users")


def test_an_unsettled_schema_is_given_by_star_alone_and_taken_away_by_any() -> None:
    both = frozenset({"app", "other"})
    grant, rule = NamePatterns.of(["app"], ignores_case=False), NamePatterns.of(["app"], ignores_case=True)
    assert [grant.matches_all(schemas) for schemas in (frozenset({"app"}), both, None)] == [True, False, False]
    assert [rule.matches_any(schemas) for schemas in (frozenset({"app"}), both, None)] == [True, True, True]
    assert NamePatterns.of(["*"], ignores_case=False).matches_all(None)


def test_a_function_is_given_with_its_schema_or_not_at_all() -> None:
    grant = QualifiedPattern.of("app.total*", ignores_case=False)
    assert grant.must_match("total_of", frozenset({"app"}))
    for name, schemas in (
        ("total_of", frozenset({"app", "evil"})),
        ("total_of", frozenset({"evil"})),
        ("total_of", frozenset()),
        ("total_of", None),
        ("other", frozenset({"app"})),
    ):
        assert not grant.must_match(name, schemas)
    assert not QualifiedPattern.of("total_of", ignores_case=False).must_match("total_of", frozenset({"app"}))


def test_a_table_without_settled_schema_may_be_the_one_that_a_rule_names() -> None:
    rule = QualifiedPattern.of("app.users", ignores_case=True)
    assert rule.may_match("users", None)
    assert rule.may_match("users", frozenset())
    assert rule.may_match("Users", frozenset({"App", "public"}))
    assert not rule.may_match("users", frozenset({"public"}))
    assert QualifiedPattern.of("users", ignores_case=True).may_match("users", frozenset({"anything"}))


def test_matching_stays_linear_against_patterns_made_to_backtrack() -> None:
    pattern = NamePatterns.of(["*a" * 30 + "b"], ignores_case=False)
    assert not pattern.matches("a" * 100_000)
