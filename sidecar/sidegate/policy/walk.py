"""The walk of one statement through the policies: builtins, grants, denials, masks, row limits, approvals.

Rules it keeps:
- The answer is the strictest that any part gives: Deny over RequireApproval over Measure over Allow. Masks add up.
- What a rule can't see into, it holds for: an anonymous block or an unnamed function may do whatever the rule is about.
- Code that is stored may later do anything, in any schema: a rule that holds DDL somewhere holds it everywhere. People read it, so it needs
  no more than the grant of DDL, and masks don't refuse it; without such a rule both do what they do.
- A rule that holds at the COMMIT lets run what can be taken back and counted. What calls, defines, empties or can't be seen into is held
  before it runs.
- What drops tables is a deletion to row limits, whether `Delete` is granted or not; to grants and other rules it is what it is.
- With a trace every step is written down; the answer is the same without.

Order matters for the message alone: a denial is a denial wherever it comes from, and the first is the one that is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from sidegate.policy.catalog_secrets import with_catalog_masks
from sidegate.policy.config import RuleAction
from sidegate.policy.coverage import IMPLICIT_KINDS, covering_grant, opaque_part
from sidegate.policy.decision import Allow, ApprovalTerms, Decision, Deny, Masks, Measure, Permit, RequireApproval
from sidegate.policy.facts import Facts, RuleSet
from sidegate.policy.masked import mask_refusal
from sidegate.policy.prepared import Rule
from sidegate.policy.pseudonyms import pseudonym_refusal
from sidegate.policy.reason import Reason
from sidegate.policy.settings import IDENTITY_SETTINGS, setting_refusal
from sidegate.policy.source import Builtin, Source
from sidegate.policy.statement import Impact, SqlStatement, StatementContext, StatementKind
from sidegate.policy.trace import Trace

DEFAULT_DENY: Final = Builtin("default-deny")
MOST_DETAILS: Final = 8  # of the statements of one string, for their approvers
# What can be taken back whole, and whose rows the target counts: of this a rule may hold the COMMIT. All else it holds before it runs.
MAY_AWAIT_COMMIT: Final = IMPLICIT_KINDS | {
    *(StatementKind.READ, StatementKind.EXPLAIN, StatementKind.SELECT_FOR_UPDATE),
    *(StatementKind.INSERT, StatementKind.UPDATE, StatementKind.DELETE, StatementKind.MERGE, StatementKind.COPY_IN),
}
_UNKNOWN_STATEMENT: Final = Builtin("unknown-statement")
_GUARDED_SETTINGS: Final = Builtin("guarded-settings")
_APPROVED_IMPACT: Final = Builtin("approved-impact")
# Kinds that can reach tables without naming them: DROP SCHEMA, GRANT ... ON ALL TABLES, a bare VACUUM.
_UNLISTED_REACH: Final = frozenset(
    {StatementKind.DDL, StatementKind.ROLES, StatementKind.MAINTENANCE, StatementKind.SERVER, StatementKind.REPLICATION}
)


class Asked(NamedTuple):
    """What is asked: the argument of every rule."""

    statement: SqlStatement
    context: StatementContext
    impact: Impact | None
    can_measure: bool


def walk(
    facts: Facts,
    statement: SqlStatement,
    context: StatementContext,
    impact: Impact | None,
    *,
    is_measurable: bool = True,
    trace: Trace | None = None,
) -> Decision:
    """The decision for one statement. `is_measurable` false: it stands among others that no savepoint can hold."""
    decision = _decide(facts, statement, context, impact, is_measurable, trace)
    return with_catalog_masks(facts, (statement,), decision) if statement.secrets_output else decision


def _decide(
    facts: Facts,
    statement: SqlStatement,
    context: StatementContext,
    impact: Impact | None,
    is_measurable: bool,
    trace: Trace | None,
) -> Decision:
    refused = _builtin_refusal(facts, statement)
    if refused is not None:
        return _told(refused, trace)
    if not facts.has_policy:
        return _told(Deny(Reason.NO_POLICY, DEFAULT_DENY, facts.revision, "no policy of this target names you"), trace)
    grant = covering_grant(facts, statement)
    observed: Deny | RequireApproval | None = None
    if isinstance(grant, str) and statement.kinds_of_code and is_watched(facts, facts.enforced, statement):
        without_code = covering_grant(facts, replace(statement, kinds=statement.kinds - statement.kinds_of_code))
        grant = grant if isinstance(without_code, str) else without_code
    if isinstance(grant, str):
        ungranted = _ungranted(facts, statement, grant)
        if facts.lets_ungranted_pass is None:
            return _told(ungranted, trace)
        observed, grant = ungranted, facts.lets_ungranted_pass
    if trace is not None:
        trace.add(
            "grants",
            "cover the statement" if observed is None else f"don't cover it, and pass it in Observe mode: {observed.detail}",
            grant,
        )
    permit = facts.permits[grant]
    changes_rows = statement.affects_rows or statement.drops_tables is not None
    can_measure = is_measurable and changes_rows and not statement.controls_transaction
    asked = Asked(statement, context, impact, can_measure)
    answer = _restrict(facts, facts.enforced, permit, asked, trace)
    if answer is not None:
        return answer
    if facts.observed is not None and observed is None:
        would_be = _restrict(facts, facts.observed, permit, asked, trace)
        observed = None if isinstance(would_be, Measure) else would_be
    if trace is not None:
        trace.add("decision", "allowed", grant)
    if observed is not None:
        return Allow(permit, facts.masks, grant, facts.revision, Reason.OBSERVED, observed)
    return Allow(permit, facts.masks, grant, facts.revision)


def _told(answer: Deny, trace: Trace | None) -> Deny:
    if trace is not None:
        trace.add("decision", f"denied: {answer.detail}", answer.source)
    return answer


def _builtin_refusal(facts: Facts, statement: SqlStatement) -> Deny | None:
    """What no policy can take away: unknown statements, and settings that would make gate and target disagree."""
    if StatementKind.UNKNOWN in statement.kinds or not statement.kinds:
        what = ", ".join(f"`{part}`" for part in statement.unknown[:3]) or "the statement"
        return Deny(Reason.STATEMENT_UNKNOWN, _UNKNOWN_STATEMENT, facts.revision, f"{what} couldn't be classified")
    for name, value in statement.settings:
        why = setting_refusal(name, value)
        if why is None and name.lower() in IDENTITY_SETTINGS and StatementKind.ROLES not in facts.kinds:
            why = "changing who the session is needs a grant of `Roles`"
        if why is not None:
            return Deny(Reason.SETTING_REFUSED, _GUARDED_SETTINGS, facts.revision, f"setting `{name}` may not be changed: {why}")
    return None


def _ungranted(facts: Facts, statement: SqlStatement, problem: str) -> Deny:
    if facts.lapsed:
        required = statement.kinds - IMPLICIT_KINDS
        for grant in facts.lapsed:
            if required <= grant.kinds | facts.kinds:
                return Deny(
                    Reason.OUTSIDE_VALIDITY,
                    grant.source,
                    facts.revision,
                    f"{problem}, and the policy that grants it isn't valid at this time",
                )
    return Deny(Reason.NO_GRANT, DEFAULT_DENY, facts.revision, problem)


def _restrict(
    facts: Facts, rules: RuleSet, permit: Permit, asked: Asked, trace: Trace | None
) -> Deny | RequireApproval | Measure | None:
    """What the rules take away of a statement that is granted."""
    statement, context, impact, can_measure = asked
    code = stored_code(facts, statement)
    watched = code is not None and is_watched(facts, rules, statement)
    opaque = None if watched else opaque_part(facts, statement)  # whoever approves it sees into it
    for rule in rules.deny:
        if rule_matches(rule, statement, opaque):
            return _told(_denied(facts, rule, Reason.DENIED_BY_RULE, _why(rule, statement, opaque)), trace)
        if trace is not None:
            trace.add(f"deny rule `{rule.source.rule}`", "doesn't match", rule.source)
    if rules.guarded_columns:
        refusal = mask_refusal(rules.guarded_columns, statement, opaque, is_watched=watched) or pseudonym_refusal(
            rules.guarded_columns, statement
        )
        if refusal is not None:
            return _told(Deny(refusal.reason, refusal.source, facts.revision, refusal.detail), trace)
        if trace is not None:
            trace.add("masked columns", "can be kept masked")
    has_approval = context.approved_fingerprint is not None
    held: list[tuple[Rule, str]] = []
    lowest: int | None = None
    if has_approval and context.approved_rows is not None:
        over = _over_approval(facts, context.approved_rows, impact, can_measure)
        if over is not None:
            return _told(over, trace)
        if impact is None:
            lowest = context.approved_rows
    deletion = replace(statement, kinds=frozenset({StatementKind.DELETE})) if statement.drops_tables is not None else None
    for rule in rules.limit_rows:
        is_matched = rule_matches(rule, statement, opaque)
        if not is_matched and (deletion is None or not rule_matches(rule, deletion, opaque)):
            continue
        limit = rule.rows_more_than
        assert limit is not None
        if not can_measure or (is_matched and not statement.affects_rows):
            detail = f"the limit of {limit} rows applies, and what {opaque or 'the statement'} changes can't be measured here"
            if rule.action is RuleAction.DENY:
                return _told(_denied(facts, rule, Reason.IMPACT_NOT_MEASURABLE, detail), trace)
            if not has_approval:
                held.append((rule, detail))
        elif impact is None:
            lowest = limit if lowest is None else min(lowest, limit)
        elif context.rows_so_far + impact.rows_affected > limit:
            detail = (
                f"it changes {impact.rows_affected} rows" if impact.is_counted else "it may empty tables, which isn't counted"
            )
            detail += f", after {context.rows_so_far} earlier in this session, " if context.rows_so_far else ", "
            detail += f"and the limit is {limit}"
            if rule.action is RuleAction.DENY:
                return _told(_denied(facts, rule, Reason.DENIED_BY_RULE, detail), trace)
            if not has_approval or context.approved_rows is None:
                held.append((rule, detail))
        elif trace is not None:
            trace.add(
                f"row limit `{rule.source.rule}`",
                f"{context.rows_so_far + impact.rows_affected} rows are within {limit}",
                rule.source,
            )
    later: list[tuple[Rule, str]] = []
    if not statement.kinds <= IMPLICIT_KINDS:
        may_wait = statement.kinds <= MAY_AWAIT_COMMIT and opaque is None and code is None
        for rule in rules.approve:
            waits = rule.holds_at_commit and may_wait
            if context.waits_for_commit if waits else has_approval:
                continue
            if rule_matches(rule, statement, opaque) or (code is not None and holds_code(rule)):
                (later if waits else held).append((rule, _why(rule, statement, opaque)))
            elif trace is not None:
                trace.add(f"approval rule `{rule.source.rule}`", "doesn't match", rule.source)
    if held:
        return _hold(
            facts, permit, held if code is None else [(rule, f"{_of_code(facts, code)}; {why}") for rule, why in held], trace
        )
    if later:
        hold = _hold(facts, permit, [(rule, f"at its COMMIT, because {why}") for rule, why in later], trace)
        return replace(hold, reason=Reason.AWAITS_COMMIT, at_commit=True)
    if lowest is not None:
        if trace is not None:
            trace.add("decision", f"its impact must be measured: the limit is {lowest} rows", permit.source)
        return Measure(lowest, permit, facts.masks, permit.source, facts.revision)
    return None


def stored_code(facts: Facts, statement: SqlStatement) -> str | None:
    """What the statement stores to run later, for a message. None: nothing, or nothing but calls of functions that grants name."""
    if statement.stores_code is not None:
        return statement.stores_code
    opaque = opaque_part(facts, statement) if StatementKind.CALL in statement.kinds_of_code else None
    return f"an expression that calls {opaque}" if opaque is not None else None


def holds_code(rule: Rule) -> bool:
    """Whether the rule is about DDL somewhere, be it on some schemas or tables only: what is stored may reach those."""
    return not rule.functions and (not rule.kinds or StatementKind.DDL in rule.kinds)


def is_watched(facts: Facts, rules: RuleSet, statement: SqlStatement) -> bool:
    """Whether a rule puts what the statement stores before people. INVARIANT: then it doesn't run without an approval."""
    return stored_code(facts, statement) is not None and any(map(holds_code, rules.approve))


def _of_code(facts: Facts, code: str) -> str:
    return (
        f"it stores {code}, which may do whatever role `{facts.role}` may once it runs: neither rules nor masks see what it does"
    )


def _over_approval(facts: Facts, approved_rows: int, impact: Impact | None, can_measure: bool) -> Deny | None:
    if not can_measure:
        detail = f"{approved_rows} rows were approved, and what the statement changes can't be measured here"
        return Deny(Reason.IMPACT_NOT_MEASURABLE, _APPROVED_IMPACT, facts.revision, detail)
    if impact is not None and impact.rows_affected > approved_rows:
        detail = f"it changes {impact.rows_affected} rows now, and {approved_rows} were approved"
        return Deny(Reason.IMPACT_EXCEEDS_APPROVAL, _APPROVED_IMPACT, facts.revision, detail)
    return None


def rule_matches(rule: Rule, statement: SqlStatement, opaque: str | None) -> bool:
    """Whether the rule is about the statement, or may be. Its caller and databases were judged when the facts were gathered."""
    if not rule.limits_statements or opaque is not None:
        return True
    if rule.kinds and rule.kinds.isdisjoint(statement.kinds):
        return False
    if rule.schemas is not None and not rule.schemas.matches_any(statement.schemas):
        return False
    if rule.tables and not _touches_table(rule, statement):
        return False
    return not rule.functions or any(
        pattern.may_match(function.name, function.schemas) for function in statement.functions for pattern in rule.functions
    )


def _touches_table(rule: Rule, statement: SqlStatement) -> bool:
    if statement.cascade is not None:
        return True  # what goes with it could be any table
    relations = statement.reads | statement.writes | statement.creates
    if not relations and not statement.kinds.isdisjoint(_UNLISTED_REACH):
        return any(pattern.schema is None or pattern.schema.matches_any(statement.schemas) for pattern in rule.tables)
    return any(pattern.may_match(relation.name, relation.schemas) for relation in relations for pattern in rule.tables)


def _why(rule: Rule, statement: SqlStatement, opaque: str | None) -> str:
    if not rule.limits_statements:
        return "the rule holds for whatever you ask from where you are"
    if opaque is not None:
        return f"what {opaque} does can't be seen, so it may be what the rule is about"
    kinds = rule.kinds & statement.kinds or statement.kinds
    return f"the statement is {' and '.join(f'`{kind.value}`' for kind in sorted(kinds))}"


def _denied(facts: Facts, rule: Rule, reason: Reason, detail: str) -> Deny:
    return Deny(reason, rule.source, facts.revision, detail, rule.message)


def _hold(facts: Facts, permit: Permit, held: list[tuple[Rule, str]], trace: Trace | None) -> RequireApproval:
    """One hold for all rules that ask for it: the strictest rule's approvers, and the shortest life of any."""
    rule, detail = min(held, key=lambda entry: approval_order(entry[0].terms, entry[0].source))
    terms = rule.terms
    shortest = min(entry.terms.expires_after_s for entry, _ in held)
    if shortest < terms.expires_after_s:
        terms = ApprovalTerms(terms.approver_groups, terms.approver_users, terms.required, shortest)
    if trace is not None:
        for other, why in held:
            trace.add(f"approval rule `{other.source.rule}`", f"matches: {why}", other.source)
        trace.add("decision", f"approval is required: {detail}", rule.source)
    return RequireApproval(
        terms, permit, facts.masks, rule.source, facts.revision, f"{detail}: {rule.message}" if rule.message else detail
    )


def approval_order(terms: ApprovalTerms, source: Source) -> tuple[int, int, int, str]:
    """Strictest first: most approvals, then no group among the approvers, then the fewest names, then by name."""
    return (-terms.required, len(terms.approver_groups), len(terms.approver_users), str(source))


def walk_all(
    facts: Facts, statements: Sequence[SqlStatement], context: StatementContext, impact: Impact | None, trace: Trace | None = None
) -> Decision:
    """INVARIANT: as strict as the strictest part. An empty string asks for nothing, and needs a grant that counts all the same."""
    if not statements:
        return _decide_nothing(facts)
    return with_catalog_masks(facts, statements, _strictest(facts, statements, context, impact, trace))


def _strictest(
    facts: Facts, statements: Sequence[SqlStatement], context: StatementContext, impact: Impact | None, trace: Trace | None
) -> Decision:
    is_measurable = len(statements) == 1 or not any(statement.controls_transaction for statement in statements)
    decisions = [walk(facts, statement, context, impact, is_measurable=is_measurable, trace=trace) for statement in statements]
    for decision in decisions:
        if isinstance(decision, Deny):
            return decision
    holds = [decision for decision in decisions if isinstance(decision, RequireApproval)]
    if holds:
        return _strictest_hold(holds)
    measures = [decision for decision in decisions if isinstance(decision, Measure)]
    if measures:
        return min(measures, key=lambda decision: decision.more_than)
    allows = [decision for decision in decisions if isinstance(decision, Allow)]
    return next((allow for allow in allows if allow.observed is not None), allows[0])


def _decide_nothing(facts: Facts) -> Decision:
    if not facts.has_policy:
        return Deny(Reason.NO_POLICY, DEFAULT_DENY, facts.revision, "no policy of this target names you")
    if not facts.grants:
        return Deny(Reason.NO_GRANT, DEFAULT_DENY, facts.revision, f"no grant as role `{facts.role}` counts now")
    source = facts.grants[0].source
    return Allow(facts.permits[source], Masks(), source, facts.revision)


def _strictest_hold(holds: list[RequireApproval]) -> RequireApproval:
    """What is held before it runs is held first; what waits for its COMMIT is asked about once that is approved."""
    holds = [hold for hold in holds if not hold.at_commit] or holds
    strictest = min(holds, key=lambda hold: approval_order(hold.terms, hold.source))
    shortest = min(hold.terms.expires_after_s for hold in holds)
    details = list(dict.fromkeys([strictest.detail, *(hold.detail for hold in holds)]))
    more = f"; and {len(details) - MOST_DETAILS} more reasons" if len(details) > MOST_DETAILS else ""
    detail = "; ".join(details[:MOST_DETAILS]) + more
    return replace(strictest, terms=replace(strictest.terms, expires_after_s=shortest), detail=detail)
