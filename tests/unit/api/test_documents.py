"""YAML text to plain documents: places, YAML 1.1's traps, and files made to hurt."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sidegate.api.documents import MAX_CHARACTERS, MAX_PROBLEMS, Place, path_text, read_documents


def value_of(text: str) -> Any:
    documents, problems = read_documents("f.yaml", text)
    assert problems == []
    (document,) = documents
    return document.value


def problem_of(text: str) -> str:
    _, problems = read_documents("f.yaml", text)
    assert len(problems) == 1, problems
    return str(problems[0])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 22:00", "22:00"),  # base 60 to YAML 1.1, 1320 for a careless reader
        ("a: 06:00:00", "06:00:00"),
        ("a: 2026-01-01", "2026-01-01"),
        ("a: 2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("a: 'no'", "no"),
        ("a: \"on\"", "on"),
        ("a: true", True),
        ("a: 5432", 5432),
        ("a: -1", -1),
        ("a: 0", 0),
        ("a: 10Gi", "10Gi"),
        ("a: 90d", "90d"),
        ("a: '5432'", "5432"),
        ("a: !!str 22:00", "22:00"),
        ("a: 1.2.3.4", "1.2.3.4"),
        ("a: 10.0.0.0/8", "10.0.0.0/8"),
        ("a: None", "None"),
        ("a: []", []),
        ("a: {}", {}),
    ],
)  # fmt: skip
def test_keeps_what_its_author_sees(text: str, value: object) -> None:
    assert value_of(text) == {"a": value}
    assert type(value_of(text)["a"]) is type(value)


@pytest.mark.parametrize("text", ["no", "NO", "yes", "on", "Off", "True", "FALSE", "Yes"])
def test_refuses_a_word_that_yaml_reads_as_a_truth_value(text: str) -> None:
    assert (
        problem_of(f"a: {text}")
        == f'f.yaml:1: a: `{text}` is read as a truth value; fix: put it in quotes ("{text}") for text, or write true or false'
    )


@pytest.mark.parametrize("text", ["010", "0x10", "1_000", "0b1", "+5", "1234567890123456789012"])
def test_refuses_a_number_that_readers_read_differently(text: str) -> None:
    assert "can be read as several numbers" in problem_of(f"a: {text}")


@pytest.mark.parametrize("text", ["1.5", ".5", "1e3", ".inf", ".nan", "1_0.5", "-.INF"])
def test_refuses_fractions(text: str) -> None:
    loaded = yaml.safe_load(f"a: {text}")["a"]
    if isinstance(loaded, float):
        assert "is a fraction" in problem_of(f"a: {text}")
    else:
        assert value_of(f"a: {text}") == {"a": text}


@pytest.mark.parametrize("text", ["a:", "a: null", "a: ~", "a: [b, null]", "a: {b: }"])
def test_refuses_empty_values(text: str) -> None:
    assert "the value is empty; fix: give a value, or leave the field out" in problem_of(text)


def test_takes_what_generators_write_into_metadata() -> None:
    assert value_of("metadata: {creationTimestamp: null}") == {"metadata": {"creationTimestamp": None}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3", "f.yaml:3: a: the field stands twice, first in line 1"),
        ("s:\n  x: {y: 1, y: 2}", "f.yaml:2: s.x.y: the field stands twice, first in line 2"),
        ("on: 1", "f.yaml:1: `on` isn't read as a field's name"),
        ("1: a", "f.yaml:1: `1` isn't read as a field's name"),
        ("b: &b {x: 1}\na:\n  <<: *b", "f.yaml:3: a: `<<` isn't read as a field's name"),
        ("? [a, b]\n: c", "isn't read as a field's name"),
        ("a: !!python/object/apply:os.system [id]", "f.yaml:1: a: tag `tag:yaml.org,2002:python/object/apply:os.system` isn't read"),
        ("a: !secret x", "f.yaml:1: a: tag `!secret` isn't read"),
        ("a: !!binary aGk=", "isn't read"),
        ("a: !!set {b}", "isn't read"),
        ("a: [1, 2\nb: 3", "can't be read as YAML"),
        ("a: b: c", "f.yaml:1: can't be read as YAML: mapping values are not allowed here"),
        ("\ta: 1", "can't be read as YAML"),
        ("a: *missing", "can't be read as YAML: found undefined alias"),
        ("x: 1\ny: \x07", "f.yaml:2: the file has a character that YAML doesn't allow: U+0007"),
        ("a: \"\\ud800\"", "half a surrogate pair"),
        ("a: &a [*a]", "anchors and aliases make the file too large or endless"),
    ],
)  # fmt: skip
def test_refuses(text: str, problem: str) -> None:
    assert problem in problem_of(text)


def test_an_alias_that_is_small_is_followed() -> None:
    assert value_of("a: &x [1]\nb: *x") == {"a": [1], "b": [1]}


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
    )
    # expanded it would be 9**10 values, which no machine finishes
    assert "anchors and aliases make the file too large or endless" in problem_of(text)


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "{a: " * 50_000, "- " * 50_000, "[" * 40 + "]" * 40], ids=["lists", "maps", "dashes", "closed"]
)
def test_deep_nesting_is_refused_without_exhausting_the_stack(text: str) -> None:
    assert "nested deeper than" in problem_of(text) or "anchors and aliases" in problem_of(text)


def test_a_file_over_the_limit_is_not_even_parsed() -> None:
    assert "larger than 1024 KiB" in problem_of("# " + "x" * MAX_CHARACTERS)


def test_problems_are_counted_only_so_far() -> None:
    _, problems = read_documents("f.yaml", "\n".join(f"k{index}: no" for index in range(MAX_PROBLEMS * 3)))
    assert len(problems) == MAX_PROBLEMS


def test_every_value_has_its_place() -> None:
    documents, _ = read_documents(
        "f.yaml", "\n---\nspec:\n  rules:\n  - name: a\n    action: Deny\n  - {name: b, action: Mask}\n"
    )
    (document,) = documents
    places = {path_text(path): place for path, place in document.places.items()}
    assert places == {
        "": Place(3, 1),
        "spec": Place(3, 1),
        "spec.rules": Place(4, 3),
        "spec.rules[0]": Place(5, 5),
        "spec.rules[0].name": Place(5, 5),
        "spec.rules[0].action": Place(6, 5),
        "spec.rules[1]": Place(7, 5),
        "spec.rules[1].name": Place(7, 6),
        "spec.rules[1].action": Place(7, 15),
    }


def test_empty_documents_are_passed_over() -> None:
    documents, problems = read_documents("f.yaml", "---\n---\n# only a comment\n---\na: 1\n")
    assert ([document.value for document in documents], problems) == ([{"a": 1}], [])


@given(st.text(max_size=300))
def test_no_text_whatever_raises(text: str) -> None:
    documents, problems = read_documents("f.yaml", text)
    assert isinstance(documents, list)
    for problem in problems:
        assert problem.line >= 1
        assert problem.way_forward


json_values = st.recursive(
    st.booleans() | st.integers(-(10**15), 10**15) | st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Co", "Cn")), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet="abcxyz-._/", min_size=1, max_size=8), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(st.text(alphabet="abcxyz", min_size=1, max_size=5), json_values, min_size=1, max_size=4))
def test_what_pyyaml_writes_is_read_back_the_same(value: dict[str, Any]) -> None:
    assert value_of(yaml.safe_dump(value, allow_unicode=True)) == value
