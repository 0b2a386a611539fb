"""Budgets: what one session may use up before a rule denies or holds what it is about. The last step of a decision.

Rules it keeps:
- The strictest wins: a denial over a hold, and of several holds the strictest terms. A decision is never made looser.
- What is counted and what is refused is the same: statements that the rule matches, or may match. Transactions, settings that come with
  any grant, and a cursor's own statements are neither: what a FETCH brings counts for the query behind it.
- An approval answers a budget only when its request said that the budget is used up.

It leaves out the counting itself: a session does that (sidegate.postgres.spending) and tells it in `StatementContext.spent`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from sidegate.policy.config import BudgetConfig, RuleAction
from sidegate.policy.coverage import IMPLICIT_KINDS, opaque_part
from sidegate.policy.decision import Allow, ApprovalTerms, Decision, Deny, Measure, RequireApproval
from sidegate.policy.facts import Facts
from sidegate.policy.prepared import Rule
from sidegate.policy.reason import Reason
from sidegate.policy.source import Source
from sidegate.policy.statement import NOTHING_SPENT, Spent, SqlStatement, StatementContext
from sidegate.policy.trace import Trace
from sidegate.policy.walk import approval_order, rule_matches


class Metered(NamedTuple):
    """A rule whose budget some statements use up, and how many of them it is about."""

    rule: Rule
    statements: int


def metered(facts: Facts, statements: Sequence[SqlStatement]) -> tuple[Metered, ...]:
    """Whose budgets these statements use up, by rules that only observe too."""
    if not facts.budgets:
        return ()
    found: list[Metered] = []
    asked = [(each, opaque_part(facts, each)) for each in statements if not each.kinds <= IMPLICIT_KINDS]
    for rule in facts.budgets:
        count = sum(rule_matches(rule, statement, opaque) for statement, opaque in asked)
        if count:
            found.append(Metered(rule, count))
    return tuple(found)


def within_budgets(
    facts: Facts,
    statements: Sequence[SqlStatement],
    context: StatementContext,
    decision: Decision,
    trace: Trace | None = None,
) -> Decision:
    """`decision`, or what a budget that is used up makes of it."""
    if isinstance(decision, Deny):
        return decision
    held: list[tuple[Rule, str]] = []
    observed: Deny | RequireApproval | None = None
    for rule, count in metered(facts, statements):
        spent = context.spent.get(rule.source, NOTHING_SPENT)
        assert rule.budget is not None
        detail = used_up(rule.budget, spent, count)
        if trace is not None:
            trace.add(f"budget `{rule.source.rule}`", detail or _standing(rule.budget, spent), rule.source)
        if detail is None:
            continue
        if rule.is_observed:
            observed = observed or _answer(facts, rule, detail, decision)
        elif rule.action is RuleAction.DENY:
            return _told(budget_denial(rule, facts.revision, detail), trace)
        elif not context.renews_budgets:
            held.append((rule, detail))
    if held:
        return _told(_hold(facts, held, decision), trace)
    if observed is not None and isinstance(decision, Allow) and decision.observed is None:
        return replace(decision, reason=Reason.OBSERVED, observed=observed)
    return decision


def used_up(budget: BudgetConfig, spent: Spent, statements: int) -> str | None:
    """What the session has used all of, when it asks for so many statements more. None: there is some of everything left."""
    if budget.statements is not None and spent.statements + statements > budget.statements:
        more = f", and {statements} more are asked for" if statements > 1 else ""
        return f"{spent.statements} of {budget.statements} statements have run in this session{more}"
    if budget.rows is not None and spent.rows >= budget.rows:
        return f"{budget.rows} of {budget.rows} rows were returned in this session"
    if budget.masked_values is not None and spent.masked_values >= budget.masked_values:
        return f"{budget.masked_values} of {budget.masked_values} masked values were returned in this session"
    return None


def budget_denial(rule: Rule, revision: str, detail: str) -> Deny:
    return Deny(Reason.BUDGET_EXHAUSTED, rule.source, revision, detail, rule.message)


def whole_budget(budget: BudgetConfig) -> str:
    """All that a fresh budget gives."""
    parts = ((budget.statements, "statements"), (budget.rows, "rows"), (budget.masked_values, "masked values"))
    return ", ".join(f"{limit} {noun}" for limit, noun in parts if limit is not None)


def _standing(budget: BudgetConfig, spent: Spent) -> str:
    parts = (
        (budget.statements, spent.statements, "statements"),
        (budget.rows, spent.rows, "rows"),
        (budget.masked_values, spent.masked_values, "masked values"),
    )
    return "used up so far: " + ", ".join(f"{used} of {limit} {noun}" for limit, used, noun in parts if limit is not None)


def _answer(facts: Facts, rule: Rule, detail: str, decision: Allow | RequireApproval | Measure) -> Deny | RequireApproval:
    if rule.action is RuleAction.DENY:
        return budget_denial(rule, facts.revision, detail)
    return _hold(facts, [(rule, detail)], decision)


def _hold(facts: Facts, held: list[tuple[Rule, str]], decision: Allow | RequireApproval | Measure) -> RequireApproval:
    """One hold for all that ask for it, whose request names every budget that an approval gives anew: see `Reason` in the fingerprint."""
    all_terms: dict[Source, ApprovalTerms] = {rule.source: rule.terms for rule, _ in held}
    whys = [_said(rule, detail) for rule, detail in held]
    if isinstance(decision, RequireApproval):
        all_terms[decision.source] = decision.terms
        whys.insert(0, decision.detail)
    strictest = min(all_terms, key=lambda source: approval_order(all_terms[source], source))
    chosen = all_terms[strictest]
    shortest = min(each.expires_after_s for each in all_terms.values())
    return RequireApproval(
        replace(chosen, expires_after_s=shortest), decision.permit, decision.masks, strictest, facts.revision, "; ".join(whys),
        Reason.BUDGET_EXHAUSTED,
    )  # fmt: skip


def _said(rule: Rule, detail: str) -> str:
    assert rule.budget is not None
    said = f"{detail}, and an approval gives it {whole_budget(rule.budget)} anew by {rule.source}"
    return f"{said}: {rule.message}" if rule.message else said


def _told(answer: Deny | RequireApproval, trace: Trace | None) -> Deny | RequireApproval:
    if trace is not None:
        what = "denied" if isinstance(answer, Deny) else "approval is required"
        trace.add("decision", f"{what}: {answer.detail}", answer.source)
    return answer
