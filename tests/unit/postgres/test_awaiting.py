"""What waits for a COMMIT, by statements as the classifier sees them. Sessions are in tests/integration/gate/test_at_commit.py."""

from __future__ import annotations

import pytest

from sidegate.policy.decision import ENGINE_SEAL, ApprovalTerms, Deny, Masks, Permit, RequireApproval
from sidegate.policy.reason import Reason
from sidegate.policy.source import PolicyRule
from sidegate.policy.statement import SqlStatement
from sidegate.postgres.awaiting import LONGEST, MOST_SHOWN, Awaiting
from sidegate.postgres.pipeline import Answer
from sidegate.postgres.statements import BoundText, Work
from sidegate.sql import Analysis, analyse


def read(text: str) -> tuple[SqlStatement, ...]:
    analysis = analyse(text, ("public",))
    assert isinstance(analysis, Analysis)
    return analysis.statements


def work(text: str) -> Work:
    return Work(1, text, read(text), is_simple=True)


def hold(rule: str = "r", required: int = 1, expires_after_s: float = 60) -> RequireApproval:
    source = PolicyRule("shop", "p", rule)
    terms = ApprovalTerms(frozenset({"dba"}), frozenset(), required, expires_after_s)
    permit = Permit(ENGINE_SEAL, "test", source, "1")
    return RequireApproval(terms, permit, Masks(), source, "1", "why", Reason.AWAITS_COMMIT, at_commit=True)


def waiting(*texts: str) -> Awaiting:
    awaiting = Awaiting()
    for text in texts or ("update t set a = 1",):
        assert awaiting.note(work(text), hold())
    return awaiting


@pytest.mark.parametrize("text", ["commit", "end", "COMMIT WORK AND NO CHAIN"])
def test_a_plain_commit_is_held(text: str) -> None:
    answer = waiting("update t set a = 1", "update t set a = 2").at_end(read(text), "1")
    assert isinstance(answer, RequireApproval)
    assert answer.at_commit
    assert answer.detail == "2 statements wait for this COMMIT; why"
    assert Awaiting().at_end(read(text), "1") is None


@pytest.mark.parametrize(
    "text", ["rollback", "abort", "savepoint s", "rollback to s", "release s", "begin", "select 1", "select 1; select 2"]
)
def test_what_commits_nothing_is_free(text: str) -> None:
    assert waiting().at_end(read(text), "1") is None


@pytest.mark.parametrize(
    "text",
    [
        "commit and chain", "rollback and chain", "prepare transaction 'x'", "commit prepared 'x'", "commit; select 1", "select 1; end",
        "rollback; commit", "commit; commit", "rollback; begin",
    ],
)  # fmt: skip
def test_any_other_end_is_refused(text: str) -> None:
    answer = waiting().at_end(read(text), "1")
    assert isinstance(answer, Deny)
    assert answer.reason is Reason.AWAITS_COMMIT


def test_of_several_rules_the_strictest_approvers_are_asked_for_the_shortest_time() -> None:
    awaiting = Awaiting()
    for held in (hold("a", 1, 60), hold("b", 2, 600), hold("c", 1, 30)):
        awaiting.note(work("update t set a = 1"), held)
    assert awaiting.held is not None
    assert (awaiting.held.source.rule, awaiting.held.terms.required, awaiting.held.terms.expires_after_s) == ("b", 2, 30)  # type: ignore[union-attr]


def test_the_end_forgets_everything() -> None:
    awaiting = waiting()
    awaiting.began(Answer())
    awaiting.ended()
    assert awaiting.held is None
    assert awaiting.baseline is None
    assert awaiting.texts() == ()


@pytest.mark.parametrize(
    ("sent", "was_seen"),
    [
        (("begin",), True),
        (("start transaction isolation level serializable", "set transaction read write", "set statement_timeout = 5"), True),
        (("begin", "insert into t values (1)"), False),
        (("begin; insert into t values (1)",), False),
        (("insert into t values (1)", "begin"), False),
        (("insert into t values (1)", "savepoint s"), False),
        (("begin", "select 1", "savepoint s"), False),
        ((), False),
    ],
)
def test_only_a_transaction_seen_from_its_beginning_can_be_counted(sent: tuple[str, ...], was_seen: bool) -> None:
    awaiting = Awaiting()
    for text in sent:
        awaiting.sent(read(text))
    assert awaiting.began_alone is was_seen
    awaiting.ended()
    assert not awaiting.began_alone


def test_many_alike_are_shown_once_without_their_constants() -> None:
    few = waiting(*(f"update t set a = {number}" for number in range(MOST_SHOWN)))
    assert few.texts()[3] == BoundText("update t set a = 3")
    assert few.note(work("update t set a = 99"), hold())
    assert few.texts() == (BoundText("update t set a = $1"),)


def test_what_approvers_could_not_be_shown_does_not_wait() -> None:
    awaiting = waiting(*(f"update t{number} set a = 1" for number in range(MOST_SHOWN)))
    assert not awaiting.note(work("update other set a = 1"), hold())
    assert awaiting.note(work("update t1 set a = 2"), hold())
    assert not Awaiting().note(work(f"update t set {', '.join(f'column_{n} = 1' for n in range(1000))}"), hold())
    long_value = waiting(f"update t set a = '{'x' * LONGEST}'")
    assert long_value.texts() == (BoundText("update t set a = $1"),)
