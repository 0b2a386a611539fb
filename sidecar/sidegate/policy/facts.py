"""What holds for one principal, database and role between two edges of validity: everything the walk needs, found once.

Rules it keeps:
- A policy's grants count when a subject matches without error and the policy is valid. Its rules count when a subject matches **or can't
  be judged**, and always: time takes rights away, never limits. So an error never widens, and neither does a narrower validity.
- Policies are walked by namespace and name, whatever order the config has them in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sidegate.policy.config import CallerMatch, RuleAction
from sidegate.policy.decision import ENGINE_SEAL, ColumnMask, Masks, Permit
from sidegate.policy.expression import Outcome, evaluate
from sidegate.policy.prepared import Grant, Policy, Prepared, Rule, Subject
from sidegate.policy.principal import Principal
from sidegate.policy.source import PolicyGrant
from sidegate.policy.statement import StatementKind
from sidegate.policy.trace import Trace
from sidegate.policy.validity import valid_for

MAX_RECENT_FACTS: Final = 64


@dataclass(frozen=True, slots=True)
class Applicable:
    """One policy as it stands to a principal now."""

    policy: Policy
    may_grant: bool  # a subject matches, without error
    is_valid: bool
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules that count, in the order in which they're asked: whole denials, row limits, approvals; and the masks and budgets."""

    deny: tuple[Rule, ...]
    approve: tuple[Rule, ...]
    limit_rows: tuple[Rule, ...]
    guarded_columns: tuple[ColumnMask, ...]
    budgets: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """INVARIANT: a fact depends on the config, the principal, the database, the role and the span of time, never on a statement."""

    database: str
    role: str
    revision: str
    has_policy: bool
    grants: tuple[Grant, ...]
    grants_elsewhere: tuple[Grant, ...]  # valid, but for another role or database: for the message
    lapsed: tuple[Grant, ...]  # would count if their policies were valid
    kinds_everywhere: frozenset[StatementKind]  # granted for every schema
    kinds: frozenset[StatementKind]  # granted for some schema
    lets_ungranted_pass: PolicyGrant | None  # every policy that names the principal only observes, and this grant of one counts
    enforced: RuleSet
    observed: RuleSet | None  # with the rules of observing policies as if they were enforced; None: the same
    masks: Masks
    budgets: tuple[Rule, ...]  # those of observing policies too
    permits: dict[PolicyGrant, Permit]
    since: float
    until: float

    def holds_at(self, now: float) -> bool:
        return self.since <= now < self.until


def applicable(prepared: Prepared, principal: Principal, now: float, trace: Trace | None = None) -> tuple[Applicable, ...]:
    """Every policy that names the principal, or of which that can't be ruled out."""
    found: list[Applicable] = []
    for policy in prepared.policies:
        outcome, cause = _subjects_outcome(policy.subjects, principal)
        if trace is not None:
            trace.add(f"subjects of {policy.name}", _SUBJECT_OUTCOMES[outcome] + (f": {cause}" if cause else ""))
        if outcome is Outcome.FALSE:
            continue
        validity = valid_for(policy.config.validity, now)
        if trace is not None and policy.grants:
            trace.add(f"validity of {policy.name}", validity.standing.value)
        found.append(Applicable(policy, outcome is Outcome.TRUE, validity.is_valid, validity.since, validity.until))
    return tuple(found)


_SUBJECT_OUTCOMES = {
    Outcome.TRUE: "name the principal",
    Outcome.FALSE: "don't name the principal",
    Outcome.ERROR: "can't be judged: its grants don't count, its rules do",
}


def _subjects_outcome(subjects: tuple[Subject, ...], principal: Principal) -> tuple[Outcome, str]:
    """One matching entry is enough. Otherwise one that can't be judged makes the whole an error; so does a policy without subjects."""
    if not subjects:
        return Outcome.ERROR, "the policy names no subjects"
    failed: str | None = None
    for subject in subjects:
        outcome, cause = _subject_outcome(subject, principal)
        if outcome is Outcome.TRUE:
            return Outcome.TRUE, ""
        if outcome is Outcome.ERROR and failed is None:
            failed = cause
    return (Outcome.FALSE, "") if failed is None else (Outcome.ERROR, failed)


def _subject_outcome(subject: Subject, principal: Principal) -> tuple[Outcome, str]:
    if subject.is_empty:
        return Outcome.ERROR, "an entry names nobody"
    if subject.groups and subject.groups.isdisjoint(principal.groups):
        return Outcome.FALSE, ""
    if subject.users and principal.username not in subject.users:
        return Outcome.FALSE, ""
    if subject.agents and (principal.agent is None or principal.agent not in subject.agents):
        return Outcome.FALSE, ""
    if subject.expression is not None:
        return evaluate(subject.expression, principal)
    return Outcome.TRUE, ""


def caller_matches(caller: CallerMatch | None, principal: Principal) -> bool:
    """A caller without an environment is in none: `environments` doesn't match it, `notEnvironments` does."""
    if caller is None:
        return True
    environment = principal.environment
    if caller.environments and (environment is None or environment not in caller.environments):
        return False
    return not (caller.not_environments and environment is not None and environment in caller.not_environments)


def facts_for(prepared: Prepared, principal: Principal, database: str, role: str, now: float) -> Facts:
    """As `gather`, remembering the last few. INVARIANT: an entry keeps its principal alive, so an id in use never names another one."""
    key = (id(principal), database, role)
    entry = prepared.recent.get(key)
    if entry is not None and entry[0] is principal and isinstance(entry[1], Facts) and entry[1].holds_at(now):
        return entry[1]
    facts = gather(prepared, principal, database, role, now)
    if len(prepared.recent) >= MAX_RECENT_FACTS:
        prepared.recent.clear()
    prepared.recent[key] = (principal, facts)
    return facts


def gather(
    prepared: Prepared, principal: Principal, database: str, role: str, now: float, *, trace: Trace | None = None
) -> Facts:
    """The facts at `now`, and the span for which they stand."""
    policies = applicable(prepared, principal, now, trace)
    grants: list[Grant] = []
    elsewhere: list[Grant] = []
    lapsed: list[Grant] = []
    enforced: list[Rule] = []
    every: list[Rule] = []
    observing: PolicyGrant | None = None
    is_enforced = False
    since, until = -math.inf, math.inf
    for entry in policies:
        since, until = max(since, entry.since), min(until, entry.until)
        policy = entry.policy
        is_enforced = is_enforced or not policy.is_observed
        if entry.may_grant:
            for grant in policy.grants:
                if grant.role != role or not grant.databases.matches(database):
                    elsewhere.append(grant)
                elif not entry.is_valid:
                    lapsed.append(grant)
                else:
                    grants.append(grant)
                    if policy.is_observed and observing is None:
                        observing = grant.source
        rules = [rule for rule in policy.rules if _rule_counts(rule, principal, database)]
        every.extend(rules)
        if not policy.is_observed:
            enforced.extend(rules)
    masks = Masks(
        tuple(mask for rule in every for mask in rule.column_masks), tuple(mask for rule in every for mask in rule.value_masks)
    )
    revision = prepared.config.revision
    return Facts(
        database=database,
        role=role,
        revision=revision,
        has_policy=bool(policies),
        grants=tuple(grants),
        grants_elsewhere=tuple(elsewhere),
        lapsed=tuple(lapsed),
        kinds_everywhere=frozenset().union(*(grant.kinds for grant in grants if grant.schemas is None)),
        kinds=frozenset().union(*(grant.kinds for grant in grants)),
        lets_ungranted_pass=None if is_enforced else observing,
        enforced=_rule_set(enforced),
        observed=_rule_set(every) if len(every) > len(enforced) else None,
        masks=masks,
        budgets=tuple(rule for rule in every if rule.action is not RuleAction.MASK and rule.budget is not None),
        permits={
            grant.source: Permit(ENGINE_SEAL, f"statements as {role} on {database}", grant.source, revision) for grant in grants
        },
        since=since,
        until=until,
    )


def _rule_counts(rule: Rule, principal: Principal, database: str) -> bool:
    if rule.action is RuleAction.MASK:
        return True  # whatever else it says: a mask with a condition that this version doesn't know still masks
    return caller_matches(rule.caller, principal) and (rule.databases is None or rule.databases.matches(database))


def _rule_set(rules: Iterable[Rule]) -> RuleSet:
    ordered = list(rules)
    whole = [rule for rule in ordered if rule.rows_more_than is None and rule.budget is None]
    return RuleSet(
        deny=tuple(rule for rule in whole if rule.action is RuleAction.DENY),
        approve=tuple(rule for rule in whole if rule.action is RuleAction.REQUIRE_APPROVAL),
        limit_rows=tuple(rule for rule in ordered if rule.action is not RuleAction.MASK and rule.rows_more_than is not None),
        guarded_columns=tuple(mask for rule in ordered for mask in rule.column_masks),
        budgets=tuple(rule for rule in ordered if rule.action is not RuleAction.MASK and rule.budget is not None),
    )
