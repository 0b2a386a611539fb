"""Every statement of the case files is classified as its entry says, whole: a field that isn't written is empty."""

from __future__ import annotations

import pytest

from sidegate.sql import Analysis, StatementCache, analyse
from tests.unit.sql.cases import SEARCH_PATH, Case, load
from tests.unit.sql.shown import shown

CASES = load()


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 300


@pytest.mark.parametrize("case", CASES)
def test_statement_is_classified_as_written(case: Case) -> None:
    analysis = analyse(case.sql, SEARCH_PATH)

    assert isinstance(analysis, Analysis)
    (statement,) = analysis.statements
    assert case.expected == shown(statement)


@pytest.mark.parametrize("case", CASES)
def test_cache_answers_as_the_analysis_does(case: Case) -> None:
    cache = StatementCache(10)
    for _ in range(2):
        assert analyse(case.sql, SEARCH_PATH) == cache.analyse(case.sql, SEARCH_PATH)
    padded = f"  {case.sql} ; "
    assert analyse(padded, SEARCH_PATH) == cache.analyse(padded, SEARCH_PATH)


@pytest.mark.parametrize("case", CASES)
def test_unknown_search_path_never_settles_an_unqualified_name(case: Case) -> None:
    known = analyse(case.sql, SEARCH_PATH)
    unknown = analyse(case.sql, None)

    assert isinstance(known, Analysis)
    assert isinstance(unknown, Analysis)
    for with_path, without in zip(known.statements, unknown.statements, strict=True):
        assert with_path.kinds <= without.kinds
        for relation in without.reads | without.writes:
            assert relation.schemas is None or len(relation.schemas) == 1
        if "public" in (with_path.schemas or ()) and "public." not in case.sql:
            assert without.schemas is None
