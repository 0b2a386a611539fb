"""Every case of tests/conformance/engine: resources and a question in, the answer that is expected out.

The same files are asked by `sidegate policy explain --check tests/conformance/engine`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import yaml

from sidegate.policy.cases import CaseError, CaseFile, Outcome, read_cases, run_cases
from sidegate.policy.engine import SessionGrant, decide_all
from sidegate.policy.explain import as_json, as_text, spent_of_all, summary
from sidegate.policy.reason import Reason
from sidegate.policy.statement import SqlStatement, StatementContext
from sidegate.sql import Analysis, analyse

PLACE = Path(__file__).parent / "engine"
FILES = sorted(PLACE.glob("*.yaml"))


def classify(text: str, search_path: tuple[str, ...] | None) -> Sequence[SqlStatement] | str:
    analysis = analyse(text, search_path)
    return analysis.statements if isinstance(analysis, Analysis) else analysis.message


@functools.cache
def read(file: Path) -> CaseFile:
    return read_cases(yaml.safe_load(file.read_text()))


@functools.cache
def outcomes(file: Path) -> tuple[Outcome, ...]:
    return run_cases(read(file), classify)


CASES = [(file, index) for file in FILES for index in range(len(read(file).cases))]


@pytest.mark.parametrize(("file", "index"), CASES, ids=[f"{file.stem}: {read(file).cases[index].name}" for file, index in CASES])
def test_the_engine_answers_as_expected(file: Path, index: int) -> None:
    outcome = outcomes(file)[index]
    assert not outcome.differences, "\n".join([*outcome.differences, as_text(outcome.explanation)])


@pytest.mark.parametrize(("file", "index"), CASES, ids=[f"{file.stem}: {read(file).cases[index].name}" for file, index in CASES])
def test_an_explanation_is_the_engines_own_answer(file: Path, index: int) -> None:
    explanation = outcomes(file)[index].explanation
    question = explanation.question
    assert explanation.steps
    assert as_json(explanation)["decision"] in as_text(explanation)
    if question.statements is None or explanation.role is None or isinstance(explanation.answer, SessionGrant):
        return
    context = StatementContext(
        question.database,
        explanation.role,
        approved_fingerprint=question.approved_fingerprint,
        approved_rows=question.approved_rows,
        rows_so_far=question.rows_so_far,
        spent=spent_of_all(explanation.config, question.spent),
        renews_budgets=question.approved_fingerprint is not None,
    )
    answer = decide_all(explanation.config, question.principal, question.statements, context, question.now, question.impact)
    assert summary(answer) == summary(explanation.answer)


def test_names_of_cases_are_unique_in_their_file() -> None:
    for file in FILES:
        names = [case.name for case in read(file).cases]
        assert len(names) == len(set(names))


def test_the_cases_reach_every_reason_that_the_engine_gives() -> None:
    reached = {summary(outcome.explanation.answer).get("reason") for file in FILES for outcome in outcomes(file)}
    engine = {
        Reason.GRANTED,
        Reason.OBSERVED,
        Reason.NO_GRANT,
        Reason.NO_POLICY,
        Reason.OUTSIDE_VALIDITY,
        Reason.DENIED_BY_RULE,
        Reason.APPROVAL_REQUIRED,
        Reason.IMPACT_EXCEEDS_APPROVAL,
        Reason.IMPACT_NOT_MEASURABLE,
        Reason.BUDGET_EXHAUSTED,
        Reason.STATEMENT_UNPARSABLE,
        Reason.STATEMENT_UNKNOWN,
        Reason.MASKED_COLUMN_STEERS,
        Reason.MASKED_COLUMN_COPIED,
        Reason.MASK_NOT_PROVABLE,
        Reason.SETTING_REFUSED,
        Reason.SESSION_ENDED,
    }
    assert {reason.value for reason in engine} <= reached


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("decision", "Measure"),
        ("reason", "NoPolicy"),
        ("source", "builtin/nothing"),
        ("detail", "not in it"),
        ("masks", {"columns": ["never"]}),
        ("observed", "NoGrant"),
    ],
)
def test_a_wrong_expectation_is_told(field: str, wrong: object) -> None:
    file = read(PLACE / "grants.yaml")
    expected = {"decision": "Allow"} if field in {"masks", "observed"} else {"decision": "Deny"}
    case = next(case for case in file.cases if case.expect.decision == expected["decision"] and case.sql)
    wrong_case = msgspec.structs.replace(case, expect=msgspec.convert({**expected, field: wrong}, type(case.expect)))
    (outcome,) = run_cases(msgspec.structs.replace(file, cases=(wrong_case,)), classify)
    assert len(outcome.differences) == 1
    assert outcome.differences[0].startswith(field)


@pytest.mark.parametrize(
    "change",
    [
        {"cases": [{"name": "x", "expect": {"decision": "Perhaps"}}]},
        {"cases": [{"name": "x", "expect": {"decision": "Allow", "resaon": "Granted"}}]},
        {"cases": [{"name": "x", "sqll": "select 1", "expect": {"decision": "Allow"}}]},
        {"cases": [{"name": "x"}]},
        {"resources": []},
        {"defaults": {}},
        {"defaults": {"database": "shop", "at": "2026-11-25T10:00:00"}},
        {"unknown": 1},
    ],
)
def test_a_file_of_cases_that_is_wrong_itself_is_an_error(change: dict[str, object]) -> None:
    document = yaml.safe_load((PLACE / "grants.yaml").read_text())
    with pytest.raises(CaseError):
        run_cases(read_cases({**document, **change}), classify)
