"""Comparing two answers: what opens up is never hidden, and what is the same is never called a change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidegate.policy.compared import Answer, Fate, Group, compare, effects_of, uncovered
from sidegate.policy.decision import STRICTEST_FIRST, ColumnMask, ColumnUse, Masks, MaskStrategy
from sidegate.policy.source import PolicyRule
from sidegate.policy.statement import ColumnRef, RelationRef, SqlStatement, StatementKind

NAMES = ("id", "ssn", "card")
answers = st.builds(Answer, st.sampled_from(Fate), st.sampled_from(("Granted", "NoGrant")), st.sampled_from(("a", "b")))
effects = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(MaskStrategy))
optional_names = st.none() | st.frozensets(st.sampled_from(("users", "orders")), min_size=1)
column_masks = st.builds(
    ColumnMask,
    st.frozensets(st.sampled_from((*NAMES, "*")), min_size=1),
    st.none() | st.just(frozenset({"public"})),
    optional_names,
    st.sampled_from(MaskStrategy),
    st.sampled_from(ColumnUse),
    st.just(PolicyRule("shop", "p", "r")),
)
masks = st.builds(Masks, st.lists(column_masks, max_size=3).map(tuple))
columns = st.builds(
    ColumnRef,
    st.sampled_from((*NAMES, "*")),
    st.none() | st.builds(RelationRef, st.sampled_from(("users", "orders")), st.none() | st.just(frozenset({"public"}))),
)
statements = st.builds(
    SqlStatement,
    st.just(""),
    st.just(frozenset({StatementKind.READ})),
    columns_output=st.frozensets(columns, max_size=3),
    columns_steering=st.frozensets(columns, max_size=2),
)


@given(answers, effects)
def test_the_same_answer_is_no_change(answer: Answer, masked: dict[str, MaskStrategy]) -> None:
    assert not compare(answer, answer, masked, masked).groups


@given(answers, answers, effects, effects)
def test_what_runs_now_and_did_not_is_always_told(
    was: Answer, now: Answer, was_masked: dict[str, MaskStrategy], now_masked: dict[str, MaskStrategy]
) -> None:
    groups = compare(was, now, was_masked, now_masked).groups
    opens = was.fate in (Fate.DENY, Fate.HOLD) and now.fate in (Fate.ALLOW, Fate.MEASURE)
    assert (Group.ALLOWED in groups) == opens
    assert (Group.DENIED in groups) == (now.fate is Fate.DENY and was.fate is not Fate.DENY)
    assert (Group.HELD in groups) == (now.fate is Fate.HOLD and was.fate is not Fate.HOLD)
    assert Group.RULE not in groups or len(groups) == 1


@given(answers, answers, effects, effects)
def test_what_shows_more_is_always_told_unless_somebody_is_refused(
    was: Answer, now: Answer, was_masked: dict[str, MaskStrategy], now_masked: dict[str, MaskStrategy]
) -> None:
    def strictness(masked: dict[str, MaskStrategy], name: str) -> int:
        return len(STRICTEST_FIRST) - STRICTEST_FIRST.index(masked[name]) if name in masked else 0

    found = compare(was, now, was_masked, now_masked)
    shows = [name for name in NAMES if strictness(now_masked, name) < strictness(was_masked, name)]
    hides = [name for name in NAMES if strictness(now_masked, name) > strictness(was_masked, name)]
    runs = Fate.DENY not in (was.fate, now.fate)
    assert (Group.UNMASKED in found.groups) == (runs and bool(shows))
    assert (Group.MASKED in found.groups) == (runs and bool(hides))


@given(masks, masks, statements)
def test_masks_that_are_covered_never_show_more(before: Masks, after: Masks, statement: SqlStatement) -> None:
    if uncovered(before, after):
        return
    answer = Answer(Fate.ALLOW, "Granted", "a")
    found = compare(answer, answer, effects_of(before, [statement]), effects_of(after, [statement]))
    # A column used under `use: Allowed` counts where the mask says so; the other use is refused and shows nothing at all
    plain = {column.name for column in statement.columns_output}
    assert not [label for label in found.less if label.rpartition(".")[2].partition(" ")[0] in plain - {"*"}]


@given(masks)
def test_masks_cover_themselves(some: Masks) -> None:
    assert not uncovered(some, some)


@given(masks)
def test_nothing_covers_a_mask_that_is_gone(some: Masks) -> None:
    assert uncovered(some, Masks()) == some
