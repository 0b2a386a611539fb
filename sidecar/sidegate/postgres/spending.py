"""What one session has used up of its budgets, and how much of them one statement may still use. Pure.

Rules it keeps:
- What is counted has gone to the client, whatever becomes of the statement: rows of one that fails or is rolled back were seen.
- The rules that only observe are counted too, and limit nothing.
- A budget belongs to a rule by its name: a new revision of the rule goes on with what was used up.

It leaves out what happens when there is nothing left: the engine answers before a statement, `TargetSide` within a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sidegate.policy.budgets import Metered, budget_denial, used_up
from sidegate.policy.config import RuleAction
from sidegate.policy.decision import Deny
from sidegate.policy.prepared import Rule
from sidegate.policy.source import PolicyRule
from sidegate.policy.statement import NOTHING_SPENT, Spent
from sidegate.postgres.frames import count_run, skip_frames

UNLIMITED: Final = 2**62
HELD_NEXT_TIME: Final = "send the statement again: it is held then, and an approval gives the session the budget anew"

_COPY_TRAILER: Final = b"d\0\0\0\6\xff\xff"


class Spending:
    """`spent` is what the engine is told, and always the same dict."""

    __slots__ = ("spent",)

    def __init__(self) -> None:
        self.spent: dict[PolicyRule, Spent] = {}

    def add(self, rule: Rule, *, statements: int = 0, rows: int = 0, masked_values: int = 0) -> None:
        old = self.spent.get(rule.source, NOTHING_SPENT)
        self.spent[rule.source] = Spent(old.statements + statements, old.rows + rows, old.masked_values + masked_values)

    def renew(self, found: Sequence[Metered]) -> None:
        """An approver gave anew what is used up."""
        for rule, count in found:
            assert rule.budget is not None
            spent = self.spent.get(rule.source, NOTHING_SPENT)
            if rule.action is RuleAction.REQUIRE_APPROVAL and used_up(rule.budget, spent, count) is not None:
                del self.spent[rule.source]

    def ran(self, found: Sequence[Metered]) -> None:
        for rule, count in found:
            self.add(rule, statements=count)


class Meter:
    """Of one statement that runs: what it may still return, and what it did. `limits` false: it is counted, and never cut."""

    __slots__ = ("_rules", "_spending", "has_copy_header", "limits", "limits_values", "rows", "values_before")

    def __init__(self, spending: Spending, found: Sequence[Metered], *, has_copy_header: bool = False) -> None:
        self._spending = spending
        self._rules = [rule for rule, _ in found if rule.budget is not None]
        binding = [rule.budget for rule in self._rules if rule.budget is not None and not rule.is_observed]
        self.limits_values = any(budget.masked_values is not None for budget in binding)
        self.limits = self.limits_values or any(budget.rows is not None for budget in binding)
        self.has_copy_header = has_copy_header
        self.rows = 0
        self.values_before = 0

    def rows_left(self) -> int:
        return min((self._left(rule)[0] for rule in self._rules), default=UNLIMITED)

    def values_left(self) -> int:
        return min((self._left(rule)[1] for rule in self._rules), default=UNLIMITED)

    def _left(self, rule: Rule) -> tuple[int, int]:
        budget, spent = rule.budget, self._spending.spent.get(rule.source, NOTHING_SPENT)
        if budget is None or rule.is_observed:
            return UNLIMITED, UNLIMITED
        rows = UNLIMITED if budget.rows is None else max(0, budget.rows - spent.rows)
        values = UNLIMITED if budget.masked_values is None else max(0, budget.masked_values - spent.masked_values)
        return rows, values

    def take(self, rows: int, values: int) -> None:
        """They go to the client."""
        self.rows += rows
        if rows or values:
            for rule in self._rules:
                self._spending.add(rule, rows=rows, masked_values=values)

    def refusal(self, revision: str, rows: int, values: int) -> Deny | None:
        """What to say when so many more are to go out; None: they may. The rule that is told is one that denies, if any does."""
        over = [rule for rule in self._rules if rows > self._left(rule)[0] or values > self._left(rule)[1]]
        if not over:
            return None
        rule = min(over, key=lambda each: (each.action is not RuleAction.DENY, self._left(each), str(each.source)))
        budget = rule.budget
        assert budget is not None
        if rows > self._left(rule)[0]:
            detail = f"all of {budget.rows} rows were returned in this session, and this result has more"
        else:
            left = self._left(rule)[1]
            detail = f"{left} of {budget.masked_values} masked values were left to this session, and the next row of this result has more"
        for each in over:
            self._use_up_values(each, values)
        if rule.action is RuleAction.DENY:
            return budget_denial(rule, revision, detail)
        denial = budget_denial(rule, revision, detail)
        way = f"{rule.message}; {HELD_NEXT_TIME}" if rule.message else HELD_NEXT_TIME
        return Deny(denial.reason, denial.source, denial.revision, denial.detail, way)

    def _use_up_values(self, rule: Rule, values: int) -> None:
        """What is left of it is less than one row has: it is as good as used up, and the next statement is told so."""
        left = self._left(rule)[1]
        if 0 < left < values:
            self._spending.add(rule, masked_values=left)

    def rows_in(self, data: bytes, at: int, stop: int, *, is_copy: bool) -> int:
        """How many rows these frames are. COPY sends a message for each row (PostgreSQL documentation, "COPY Operations"), one more
        for the header line, and one for the end of the binary format.
        """
        rows = count_run(data, at, stop)
        if is_copy and data[max(at, stop - len(_COPY_TRAILER)) : stop] == _COPY_TRAILER:
            rows -= skip_frames(data, at, stop, rows - 1) == stop - len(_COPY_TRAILER)
        return rows - 1 if is_copy and self.has_copy_header and rows else rows
