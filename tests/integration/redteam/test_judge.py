"""The judge is judged: through gates that do nothing no attack succeeds, and through one that lets everything pass attacks do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.redteam.corpus import Case, read_folder
from tests.redteam.judge import Judge, Verdict
from tests.redteam.program import SHOWN, bench, play
from tests.redteam.stand_in_gate import Manner, StandInGate
from tests.redteam.tee import Tee
from tests.support import requirements
from tests.support.debian_postgres import debian_installation

# One of each way to be judged, and nothing slow.
ATTACKS = ("M001", "M011", "B001", "B111", "B143", "B167")
MUST_BE_ANSWERED = ("M001", "B237", "B245")
pytestmark = pytest.mark.debian


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """In front of nothing yet: tests put their own gate there."""
    if debian_installation() is None:
        requirements.absent("Debian's PostgreSQL", "apt-get install postgresql, or run the tests as root on Debian")
    with bench(gate_port=1, answer_s=0.5) as made:
        yield made


def verdicts(judge: Judge, gate: StandInGate, ids: tuple[str, ...]) -> dict[str, Verdict]:
    cases: dict[str, Case] = {case.id: case for case in read_folder(SHOWN)[0]}
    judge.is_dirty = True
    with gate, Tee(gate.port) as tee:
        judge.tee = tee
        return {result.case.id: result.judgement.verdict for result in play(judge, [cases[each] for each in ids])}


@pytest.mark.parametrize("manner", [Manner.DENY, Manner.HANG, Manner.DROP])
def test_no_attack_succeeds_through_a_gate_that_answers_nothing(judge: Judge, manner: Manner) -> None:
    found = verdicts(judge, StandInGate(manner), ATTACKS)
    assert not set(found.values()) & {Verdict.LEAK, Verdict.ORACLE, Verdict.EFFECT, Verdict.ERROR}
    held_or_denied = {Verdict.HELD} if manner is Manner.HANG else {Verdict.DENIED}
    assert {verdict for case, verdict in found.items() if case not in MUST_BE_ANSWERED} == held_or_denied


@pytest.mark.parametrize(
    ("manner", "verdict"), [(Manner.DENY, Verdict.OVERBLOCKED), (Manner.HANG, Verdict.HANG), (Manner.DROP, Verdict.LOST)]
)
def test_what_must_be_answered_fails_through_a_gate_that_answers_nothing(judge: Judge, manner: Manner, verdict: Verdict) -> None:
    assert set(verdicts(judge, StandInGate(manner), MUST_BE_ANSWERED).values()) == {verdict}


def test_attacks_succeed_and_what_is_allowed_passes_where_nothing_guards(judge: Judge) -> None:
    gate = StandInGate(Manner.RELAY, judge.target.server.port)
    found = verdicts(judge, gate, (*ATTACKS, "B237", "B245"))
    expected = {"M001": Verdict.LEAK, "M011": Verdict.LEAK, "B237": Verdict.OK, "B245": Verdict.OK}
    assert found == {case: expected.get(case, Verdict.EFFECT) for case in found}
