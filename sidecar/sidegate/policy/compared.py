"""What changes between two answers to one statement: who is let through, who is held, and what is shown. Pure: values in, groups out.

Rules it keeps:
- What would run now and didn't, and what would be shown now and wasn't, are groups of their own: nothing else about a statement hides them.
- Masks are compared by what they do to the columns that the statement shows, as far as its text tells; a mask that could cover a column
  counts as covering it, on both sides alike.

Left out: what only the target's catalog tells, and the terms of an approval (who, how many), which a recording doesn't have.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from sidegate.policy.decision import (
    STRICTEST_FIRST,
    ColumnMask,
    ColumnUse,
    Masks,
    MaskStrategy,
    strictest,
)
from sidegate.policy.masked import ANY_COLUMN, may_be_masked
from sidegate.policy.statement import ColumnRef, SqlStatement, StatementKind, columns_reaching


class Fate(enum.StrEnum):
    """What becomes of a statement. MEASURE: it runs where it can be taken back, and how many rows it changes isn't known."""

    ALLOW = "Allow"
    DENY = "Deny"
    HOLD = "RequireApproval"
    MEASURE = "Measure"


class Group(enum.StrEnum):
    """Kinds of change, what matters most for security first. The values are those of `--fail-on` and of the JSON form."""

    ALLOWED = "allowed"
    UNMASKED = "unmasked"
    DENIED = "denied"
    HELD = "held"
    MASKED = "masked"
    RULE = "rule"


@dataclass(frozen=True, slots=True)
class Answer:
    """One decision, as far as two of them are compared."""

    fate: Fate
    reason: str
    source: str
    detail: str = ""


# What is masked in what a statement shows: a label for a person, and how.
Effects: TypeAlias = Mapping[str, MaskStrategy]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`groups` is empty when nothing changed. `less` and `more` are labels of what is masked less or more."""

    groups: frozenset[Group]
    less: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


_SHOWING: Final = frozenset(
    {StatementKind.READ, StatementKind.EXPLAIN, StatementKind.COPY_OUT, StatementKind.CURSOR, StatementKind.CALL}
)
_RUNS: Final = frozenset({Fate.ALLOW, Fate.MEASURE})


def compare(was: Answer, now: Answer, was_masked: Effects | None, now_masked: Effects, lost: Iterable[str] = ()) -> Comparison:
    """`was_masked` None: not known. `lost` names rules that masked something then and that nothing stands for now."""
    groups: set[Group] = set()
    if now.fate is not was.fate:
        if now.fate is Fate.DENY:
            groups.add(Group.DENIED)
        elif now.fate is Fate.HOLD:
            groups.add(Group.HELD)
        elif was.fate not in _RUNS:
            groups.add(Group.ALLOWED)
    less: list[str] = []
    more: list[str] = []
    if Fate.DENY not in (was.fate, now.fate):
        less = [f"what {name} masked" for name in lost]
        if was_masked is not None:
            for label in sorted({*was_masked, *now_masked}):
                change = _strictness(now_masked.get(label)) - _strictness(was_masked.get(label))
                if change:
                    (more if change > 0 else less).append(f"{label} {_told(was_masked.get(label), now_masked.get(label))}")
    if less:
        groups.add(Group.UNMASKED)
    if more:
        groups.add(Group.MASKED)
    if not groups and (was.source, was.reason) != (now.source, now.reason):
        groups.add(Group.RULE)
    return Comparison(frozenset(groups), tuple(less), tuple(more))


def _strictness(strategy: MaskStrategy | None) -> int:
    """0: shown as it is."""
    return 0 if strategy is None else len(STRICTEST_FIRST) - STRICTEST_FIRST.index(strategy)


def _told(was: MaskStrategy | None, now: MaskStrategy | None) -> str:
    return f"({was.value if was is not None else 'shown'} -> {now.value if now is not None else 'shown'})"


def effects_of(masks: Masks, statements: Sequence[SqlStatement]) -> dict[str, MaskStrategy]:
    """What these masks do to what the statements show."""
    found: dict[str, list[MaskStrategy]] = {}
    for statement in statements:
        for mask in masks.columns:
            for column in shown_columns(mask, statement):
                where = f"{column.relation.name}." if column.relation is not None else ""
                names = mask.names if column.name == ANY_COLUMN else {column.name.lower()}
                for name in names:
                    found.setdefault(f"{where}{name}", []).append(mask.strategy)
        if statement.columns_output or not statement.kinds.isdisjoint(_SHOWING):
            for value in masks.values:
                for detector in value.detectors:
                    found.setdefault(f"values of {detector}", []).append(value.strategy)
    return {label: strictest(strategies) for label, strategies in found.items()}


def shown_columns(mask: ColumnMask, statement: SqlStatement) -> Iterable[ColumnRef]:
    """Columns under the mask that the statement may show, plainly or, where the rule lets them be used, in what is made of them."""
    columns = columns_reaching(statement)
    if mask.use is ColumnUse.ALLOWED:
        columns = columns | statement.columns_steering
    return (column for column in columns if may_be_masked(mask, column))


def uncovered(before: Masks, after: Masks) -> Masks:
    """The masks of `before` for which nothing in `after` stands: as wide, and showing as little."""
    return Masks(
        tuple(mask for mask in before.columns if not all(_is_covered(mask, name, after.columns) for name in mask.names)),
        tuple(
            mask
            for mask in before.values
            if not all(
                any(
                    detector in other.detectors and _strictness(other.strategy) >= _strictness(mask.strategy)
                    for other in after.values
                )
                for detector in mask.detectors
            )
        ),
    )


def _is_covered(mask: ColumnMask, name: str, others: Iterable[ColumnMask]) -> bool:
    return any(
        (name in other.names or ANY_COLUMN in other.names)
        and _includes(other.schemas, mask.schemas)
        and _includes(other.tables, mask.tables)
        and _strictness(other.strategy) >= _strictness(mask.strategy)
        and _opens_no_more(other, mask)
        for other in others
    )


def _opens_no_more(other: ColumnMask, mask: ColumnMask) -> bool:
    if other.use is ColumnUse.AGGREGATE and mask.use is ColumnUse.AGGREGATE:
        return other.min_group_size >= mask.min_group_size
    return other.use in (ColumnUse.REFUSED, mask.use) or mask.use is ColumnUse.ALLOWED


def _includes(wide: frozenset[str] | None, narrow: frozenset[str] | None) -> bool:
    return wide is None or (narrow is not None and narrow <= wide)
