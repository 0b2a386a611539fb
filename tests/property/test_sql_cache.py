"""The cache answers as the analysis does, whatever was asked before."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.sql import Analysis, ParseProblem, StatementCache, analyse
from tests.unit.sql import generated
from tests.unit.sql.cases import load

CASES = [case.values[0].sql for case in load()]
PATHS = st.sampled_from([("public",), ("app", "public"), (), None, ("public", "pg_catalog")])
CONSTANTS = re.compile(r"'[a-z0-9 ]*'|\b\d+\b")
cache = StatementCache(200)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A case or a random SELECT, with some of its constants made others, or parameters."""
    text = draw(st.one_of(st.sampled_from(CASES), generated.select().map(lambda query: query.sql)))
    others = st.sampled_from(["1", "2", "3", "'a'", "$1", "NULL", "-1", "1.5"])
    text = CONSTANTS.sub(lambda match: draw(others) if draw(st.booleans()) else match.group(), text)
    return draw(
        st.sampled_from(
            [
                "{}",
                "{};",
                " {} ",
                "{} -- x",
                "/* ; */ {}",
                "/* x */ {}",
                "-- x\n{}",
                "\t{}\n;",
                "\u2003{}",
                "{};;",
                "SELECT 1; {}",
            ]
        )
    ).format(text)


def compared(answer: Analysis | ParseProblem) -> object:
    """A statement that was found by its normal form has that as its text."""
    if isinstance(answer, ParseProblem):
        return answer
    return [replace(statement, text="") for statement in answer.statements]


@settings(max_examples=400, deadline=None)
@given(text=texts(), search_path=PATHS)
def test_cached_analysis_is_the_analysis(text: str, search_path: tuple[str, ...] | None) -> None:
    expected = analyse(text, search_path)
    for _ in range(2):
        answer = cache.analyse(text, search_path)
        assert compared(expected) == compared(answer)
        if isinstance(answer, Analysis) and isinstance(expected, Analysis):
            for found, alone in zip(answer.statements, expected.statements, strict=True):
                assert found.text in (alone.text, alone.normalised)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_an_analysis_or_a_problem(text: str) -> None:
    assert isinstance(analyse(text), Analysis | ParseProblem)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([token for text in CASES for token in text.split()]), max_size=12))
def test_any_shuffle_of_known_words_is_an_analysis_or_a_problem(words: list[str]) -> None:
    answer = analyse(" ".join(words), ("public",))
    if isinstance(answer, Analysis):
        for statement in answer.statements:
            assert not any("part of the statement" in what for what in statement.unknown), statement
