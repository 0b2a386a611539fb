"""Who may decide, and what comes after what."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.api import approval_request as api
from sidegate.approval.backend import HoldRequest, Phase
from sidegate.approval.hold import (
    TRANSITIONS,
    Approver,
    Choice,
    Hold,
    Vote,
    VoteProblem,
    execute,
    opened,
    replay,
    settle,
    verdict,
    vote,
    withdraw,
)
from sidegate.policy.decision import ApprovalTerms

NOW = 1_795_516_530.25
BOB = Approver("bob@example.com", "https://idp.example#u-bob", frozenset({"dba", "staff"}))
CAROL = Approver("carol@example.com", "https://idp.example#u-carol")
EVE = Approver("eve@example.com", "https://idp.example#u-eve", frozenset({"staff"}))


def _needs(request: HoldRequest, required: int) -> HoldRequest:
    return replace(request, terms=replace(request.terms, required=required))


def _problem(found: Hold | VoteProblem) -> str:
    assert isinstance(found, VoteProblem)
    assert found.way_forward
    return found.problem


def _hold(found: Hold | VoteProblem) -> Hold:
    assert isinstance(found, Hold)
    return found


def test_phases_and_transitions_are_those_of_the_resource() -> None:
    assert {str(phase): {str(after) for after in then} for phase, then in TRANSITIONS.items()} == {
        str(phase): {str(after) for after in then} for phase, then in api.NEXT_PHASES.items()
    }
    assert {str(choice) for choice in Choice} == {str(choice) for choice in api.Verdict}


@pytest.mark.parametrize("approver", [BOB, CAROL])
def test_an_approver_by_group_or_by_name_approves(request_of_ada: HoldRequest, approver: Approver) -> None:
    hold = _hold(vote(opened("ar-1", request_of_ada), approver, Choice.APPROVED, "fine", NOW + 5))
    assert hold.phase is Phase.APPROVED
    found = verdict(hold)
    assert (found.approvers, found.comment, found.decided_at, found.usable_until) == (
        (approver.username,),
        "fine",
        NOW + 5,
        NOW + 3600,
    )


def test_only_the_groups_that_made_them_an_approver_are_kept(request_of_ada: HoldRequest) -> None:
    hold = _hold(vote(opened("ar-1", request_of_ada), BOB, Choice.APPROVED, "", NOW))
    assert hold.votes[0].groups == ("dba",)


def test_somebody_who_is_no_approver_is_refused_and_told_whom_to_ask(request_of_ada: HoldRequest) -> None:
    found = vote(opened("ar-1", request_of_ada), EVE, Choice.APPROVED, "", NOW)
    assert _problem(found) == "`eve@example.com` is not an approver of `ar-1`"
    assert isinstance(found, VoteProblem)
    assert found.way_forward == "ask `carol@example.com` or a member of `dba`"


@pytest.mark.parametrize(
    "approver",
    [
        Approver("ada@example.com", "https://idp.example#u-ada", frozenset({"dba"})),
        Approver("ada-admin@example.com", "https://idp.example#u-ada", frozenset({"dba"})),  # another claim of the same person
        Approver("Ada@Example.com", "https://other.example#77", frozenset({"dba"})),  # another issuer's account of the same name
    ],
)
@pytest.mark.parametrize("choice", Choice)
def test_the_one_who_asks_never_decides(request_of_ada: HoldRequest, approver: Approver, choice: Choice) -> None:
    assert "can't decide on it" in _problem(vote(opened("ar-1", request_of_ada), approver, choice, "", NOW))


def test_without_named_approvers_nobody_can_approve(request_of_ada: HoldRequest) -> None:
    request = replace(request_of_ada, terms=ApprovalTerms(frozenset(), frozenset(), 1, 3600.0))
    assert "not an approver" in _problem(vote(opened("ar-1", request), BOB, Choice.APPROVED, "", NOW))


def test_two_different_people_are_needed_when_two_are_required(request_of_ada: HoldRequest) -> None:
    hold = _hold(vote(opened("ar-1", _needs(request_of_ada, 2)), BOB, Choice.APPROVED, "", NOW))
    assert hold.phase is Phase.PENDING
    assert "has decided" in _problem(vote(hold, BOB, Choice.APPROVED, "", NOW))
    assert "has decided" in _problem(vote(hold, replace(BOB, username="bob-admin"), Choice.APPROVED, "", NOW))
    assert "has decided" in _problem(vote(hold, replace(BOB, key="https://other.example#1"), Choice.APPROVED, "", NOW))
    assert _hold(vote(hold, CAROL, Choice.APPROVED, "", NOW + 9)).phase is Phase.APPROVED


@pytest.mark.parametrize("required", [0, -1])
def test_at_least_one_approval_is_needed_whatever_the_terms_say(request_of_ada: HoldRequest, required: int) -> None:
    hold = opened("ar-1", _needs(request_of_ada, required))
    assert replay("ar-1", hold.request, (), None, NOW).phase is Phase.PENDING


def test_one_denial_is_final(request_of_ada: HoldRequest) -> None:
    hold = _hold(vote(opened("ar-1", _needs(request_of_ada, 3)), BOB, Choice.APPROVED, "", NOW))
    hold = _hold(vote(hold, CAROL, Choice.DENIED, "no", NOW + 1))
    assert (hold.phase, verdict(hold).approvers, verdict(hold).comment) == (Phase.DENIED, ("carol@example.com",), "no")
    third = Approver("dan@example.com", "https://idp.example#u-dan", frozenset({"dba"}))
    assert _problem(vote(hold, third, Choice.APPROVED, "", NOW + 2)) == "`ar-1` is Denied already"


def test_a_second_thought_is_refused(request_of_ada: HoldRequest) -> None:
    hold = _hold(vote(opened("ar-1", request_of_ada), BOB, Choice.APPROVED, "", NOW))
    assert _problem(vote(hold, BOB, Choice.DENIED, "", NOW)) == "`ar-1` is Approved already"


def test_time_ends_what_is_pending_and_what_is_approved_and_unused(request_of_ada: HoldRequest) -> None:
    pending = opened("ar-1", request_of_ada)
    assert settle(pending, NOW + 3599.9).phase is Phase.PENDING
    assert settle(pending, NOW + 3600).phase is Phase.EXPIRED
    approved = _hold(vote(pending, BOB, Choice.APPROVED, "", NOW + 3599))
    assert execute(approved, NOW + 3600) is None
    assert "Expired" in _problem(vote(pending, BOB, Choice.APPROVED, "", NOW + 3600))


def test_an_approval_is_used_once(request_of_ada: HoldRequest) -> None:
    approved = _hold(vote(opened("ar-1", request_of_ada), BOB, Choice.APPROVED, "", NOW))
    used = execute(approved, NOW + 1)
    assert used is not None
    assert used.phase is Phase.EXECUTED
    assert execute(used, NOW + 2) is None


def test_what_has_ended_is_not_withdrawn(request_of_ada: HoldRequest) -> None:
    denied = _hold(vote(opened("ar-1", request_of_ada), BOB, Choice.DENIED, "", NOW))
    assert withdraw(denied, NOW + 1) is denied
    assert withdraw(opened("ar-1", request_of_ada), NOW + 1).phase is Phase.WITHDRAWN


@pytest.mark.parametrize(("phase", "then"), [(a, b) for a, b in product(Phase, Phase) if b not in TRANSITIONS[a]])
def test_nothing_moves_but_along_the_table(request_of_ada: HoldRequest, phase: Phase, then: Phase) -> None:
    hold = replace(opened("ar-1", request_of_ada), phase=phase)
    reached = {settle(hold, NOW + 9999).phase, withdraw(hold, NOW).phase, (execute(hold, NOW) or hold).phase} - {phase}
    assert then not in reached


def _vote(approver: Approver, choice: Choice = Choice.APPROVED, at: float = NOW + 1, groups: tuple[str, ...] = ("dba",)) -> Vote:
    return Vote(approver.username, approver.key, choice, at, groups)


def test_votes_read_back_are_checked_again(request_of_ada: HoldRequest) -> None:
    def phase(*votes: Vote, ended: Phase | None = None, now: float = NOW + 10) -> Phase:
        return replay("ar-1", request_of_ada, votes, ended, now).phase

    assert phase(_vote(BOB)) is Phase.APPROVED
    assert phase(_vote(EVE, groups=("staff",))) is Phase.PENDING
    assert phase(_vote(Approver("ada@example.com", "x#y"))) is Phase.PENDING
    assert phase(_vote(Approver("x", request_of_ada.requester_key))) is Phase.PENDING
    assert phase(_vote(BOB, at=NOW - 1)) is Phase.PENDING
    assert phase(_vote(BOB, at=NOW + 100)) is Phase.PENDING
    assert phase(_vote(BOB, at=NOW + 3600), now=NOW + 3600) is Phase.EXPIRED
    assert phase(_vote(BOB), now=NOW + 3601) is Phase.EXPIRED
    assert phase(_vote(BOB), ended=Phase.EXECUTED) is Phase.EXECUTED
    assert phase(_vote(BOB), ended=Phase.WITHDRAWN) is Phase.WITHDRAWN
    assert phase(ended=Phase.APPROVED) is Phase.PENDING
    assert phase(_vote(BOB, Choice.DENIED), _vote(CAROL)) is Phase.DENIED


@given(
    st.lists(st.tuples(st.sampled_from([BOB, CAROL, EVE]), st.sampled_from(Choice)), max_size=6),
    st.integers(1, 3),
)
def test_approved_means_enough_different_approvers_and_no_denial(votes: list[tuple[Approver, Choice]], required: int) -> None:
    terms = ApprovalTerms(frozenset({"dba"}), frozenset({"carol@example.com"}), required, 3600.0)
    request = HoldRequest("t", "n", "s", "i#a", "ada", None, "", "", "", "x", "f", None, terms, NOW, NOW)
    hold = replay("ar", request, [_vote(a, c, NOW + i, tuple(a.groups)) for i, (a, c) in enumerate(votes)], None, NOW + 50)
    if hold.phase is Phase.APPROVED:
        people = {each.key for each in hold.votes}
        assert len(people) == len(hold.votes) == required
        assert people <= {BOB.key, CAROL.key}
        assert all(each.choice is Choice.APPROVED for each in hold.votes)
