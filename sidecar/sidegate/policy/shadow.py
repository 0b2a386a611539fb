"""Whether one rule takes away all that another could: conservative, by the words of the rules. A yes is sure, a no isn't."""

from __future__ import annotations

from collections.abc import Iterable

from sidegate.api.rule import Budget, CallerMatch, PolicyRule, RowsAffected, RuleAction, StatementMatch


def shadows(broad: PolicyRule, narrow: PolicyRule) -> bool:
    """True when whatever `narrow` matches is matched by `broad` too. Masks aren't compared: they add up."""
    if RuleAction.MASK in (broad.action, narrow.action):
        return False
    if not _budgets_include(broad.match.budget, narrow.match.budget):
        return False
    return _callers_include(broad.match.caller, narrow.match.caller) and _statements_include(
        broad.match.statements, narrow.match.statements
    )


def _budgets_include(broad: Budget | None, narrow: Budget | None) -> bool:
    """Whoever has used up the narrow one has used up the broad one, which more statements count for."""
    if broad is None:
        return True
    if narrow is None:
        return False
    pairs = ((broad.statements, narrow.statements), (broad.rows, narrow.rows), (broad.masked_values, narrow.masked_values))
    return all(small is None or (large is not None and large <= small) for large, small in pairs)


def _callers_include(broad: CallerMatch | None, narrow: CallerMatch | None) -> bool:
    if broad is None:
        return True
    if narrow is None:
        return False
    if broad.environments:
        return bool(narrow.environments) and set(narrow.environments) <= set(broad.environments)
    if narrow.environments:
        return set(narrow.environments).isdisjoint(broad.not_environments)
    return set(broad.not_environments) <= set(narrow.not_environments)


def _statements_include(broad: StatementMatch | None, narrow: StatementMatch | None) -> bool:
    if broad is None:
        return True
    if narrow is None or not _rows_include(broad.rows_affected, narrow.rows_affected):
        return False
    return (
        _includes((kind.value for kind in broad.kinds), (kind.value for kind in narrow.kinds))
        and _includes((name.folded for name in broad.databases), (name.folded for name in narrow.databases))
        and _includes((name.folded for name in broad.schemas), (name.folded for name in narrow.schemas))
        and _includes((name.folded for name in broad.tables), (name.folded for name in narrow.tables))
        and _includes((name.folded for name in broad.functions), (name.folded for name in narrow.functions))
    )


def _rows_include(broad: RowsAffected | None, narrow: RowsAffected | None) -> bool:
    return broad is None or (narrow is not None and broad.more_than <= narrow.more_than)


def _includes(broad: Iterable[str], narrow: Iterable[str]) -> bool:
    """An empty list is every value; so is `*`. Patterns are compared as text: two that overlap aren't found to."""
    wide, small = set(broad), set(narrow)
    return not wide or "*" in wide or (bool(small) and small <= wide)
