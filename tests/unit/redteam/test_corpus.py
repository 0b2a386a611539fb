"""Folders of cases are read whole or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.redteam.corpus import CorpusError, Words, read_folder
from tests.redteam.planted import plant
from tests.redteam.program import MORE, SHOWN

CASE = """
kind: masking
cases:
- {id: X1, title: the column, category: projection, expect: no_secret, steps: [SELECT ssn FROM customers]}
"""


def test_reads_the_projects_own_cases() -> None:
    cases, others = read_folder(SHOWN)
    assert len(cases) == len({case.id for case in cases}) == 362
    more, none = read_folder(MORE)
    assert len(more) > 400
    assert len(cases) + len(more) == len({case.id for case in cases + more})
    assert not others + none


def test_reads_a_folder_of_any_name_and_leaves_out_other_gates_cases(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(CASE)
    (tmp_path / "pods.yaml").write_text("kind: kubernetes\ncases: []\n")
    cases, others = read_folder(tmp_path)
    assert [case.id for case in cases] == ["X1"]
    assert cases[0].steps == ({"sql": "SELECT ssn FROM customers"},)
    assert others == ["pods.yaml"]


def test_refuses_a_folder_without_cases(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no YAML file"):
        read_folder(tmp_path)


def test_refuses_an_expectation_that_it_could_not_judge(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(CASE.replace("no_secret", "perhaps"))
    with pytest.raises(CorpusError, match="case X1 expects `perhaps`"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("${customers.7.ssn:plain,0-4}", "5836"),
        ("${customers.7.ssn:3}", "583"),
        ("${pad:3}|${rep:2:ab}", "xxx|abab"),
        ("${each:3:#;}", "1;2;3;"),
        ("${data_port} ${selfdsn}", "5999 host=here"),
        ("v = '$G'", "v = 'guess'"),
    ],
)
def test_fills_in_planted_values(text: str, filled: str) -> None:
    assert Words(plant().rows, "host=here", 5999).fill(text, "guess") == filled
