"""A gate config made ready for matching: patterns split, kinds as sets, sources built once. Nothing is decided here.

Rules it keeps:
- What this version can't read never widens: an unknown kind in a grant gives nothing, in a rule it makes the rule hold for every kind.
- Preparing is a pure function of the config. The last few results are kept by the config's identity, so that `decide` costs what it should.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sidegate.policy.config import (
    ApprovalConfig,
    BudgetConfig,
    CallerMatch,
    GateConfig,
    GrantConfig,
    HoldAt,
    PolicyConfig,
    PolicyMode,
    RuleAction,
    RuleConfig,
    SubjectConfig,
)
from sidegate.policy.decision import ApprovalTerms, ColumnMask, ColumnUse, MaskStrategy, ValueMask
from sidegate.policy.names import NamePatterns, QualifiedPattern
from sidegate.policy.principal import Principal
from sidegate.policy.source import PolicyGrant, PolicyRule
from sidegate.policy.statement import StatementKind

_KINDS: Final[dict[str, StatementKind]] = {kind.value: kind for kind in StatementKind}
MAX_PREPARED: Final = 8


@dataclass(frozen=True, slots=True)
class Subject:
    groups: frozenset[str]
    users: frozenset[str]
    agents: frozenset[str]
    expression: str | None

    @property
    def is_empty(self) -> bool:
        return not (self.groups or self.users or self.agents or self.expression is not None)


@dataclass(frozen=True, slots=True)
class Grant:
    source: PolicyGrant
    role: str
    databases: NamePatterns
    kinds: frozenset[StatementKind]
    schemas: NamePatterns | None  # None: every schema
    functions: tuple[QualifiedPattern, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """`limits_statements` is false for a rule that holds for whatever the caller asks."""

    source: PolicyRule
    action: RuleAction
    limits_statements: bool
    kinds: frozenset[StatementKind]
    databases: NamePatterns | None
    schemas: NamePatterns | None
    tables: tuple[QualifiedPattern, ...]
    functions: tuple[QualifiedPattern, ...]
    rows_more_than: int | None
    budget: BudgetConfig | None
    caller: CallerMatch | None
    terms: ApprovalTerms
    column_masks: tuple[ColumnMask, ...]
    value_masks: tuple[ValueMask, ...]
    message: str
    is_observed: bool
    holds_at_commit: bool


@dataclass(frozen=True, slots=True)
class Policy:
    config: PolicyConfig
    subjects: tuple[Subject, ...]
    grants: tuple[Grant, ...]
    rules: tuple[Rule, ...]
    is_observed: bool

    @property
    def name(self) -> str:
        return f"{self.config.namespace}/{self.config.name}"


@dataclass(frozen=True, slots=True)
class Prepared:
    """`recent` is the room in which `facts` remembers what it gathered last."""

    config: GateConfig
    policies: tuple[Policy, ...]
    recent: dict[tuple[int, str, str], tuple[Principal, object]] = field(default_factory=dict, compare=False)


def prepare(config: GateConfig) -> Prepared:
    """The config ready for matching. INVARIANT: an entry keeps its config alive, so an id in use never names another config."""
    entry = _recent.get(id(config))
    if entry is not None and entry.config is config:
        return entry
    prepared = Prepared(config, tuple(sorted(map(_prepare_policy, config.policies), key=lambda p: p.name)))
    if len(_recent) >= MAX_PREPARED:
        _recent.clear()
    _recent[id(config)] = prepared
    return prepared


_recent: dict[int, Prepared] = {}


def _prepare_policy(policy: PolicyConfig) -> Policy:
    is_observed = policy.mode is PolicyMode.OBSERVE
    return Policy(
        config=policy,
        subjects=tuple(map(_prepare_subject, policy.subjects)),
        grants=tuple(_prepare_grant(policy, index, grant) for index, grant in enumerate(policy.grants)),
        rules=tuple(_prepare_rule(policy, rule, is_observed) for rule in policy.rules),
        is_observed=is_observed,
    )


def _prepare_subject(subject: SubjectConfig) -> Subject:
    return Subject(frozenset(subject.groups), frozenset(subject.users), frozenset(subject.agents), subject.expression)


def _prepare_grant(policy: PolicyConfig, index: int, grant: GrantConfig) -> Grant:
    return Grant(
        source=PolicyGrant(policy.namespace, policy.name, index),
        role=grant.role,
        databases=NamePatterns.of(grant.databases, ignores_case=False),
        kinds=frozenset(_KINDS[kind] for kind in grant.allow if kind in _KINDS) - {StatementKind.UNKNOWN},
        schemas=NamePatterns.of(grant.schemas, ignores_case=False) if grant.schemas else None,
        functions=tuple(QualifiedPattern.of(function, ignores_case=False) for function in grant.functions),
    )


def _prepare_rule(policy: PolicyConfig, rule: RuleConfig, is_observed: bool) -> Rule:
    source = PolicyRule(policy.namespace, policy.name, rule.name)
    match = rule.statements
    kinds = match.kinds if match else ()
    has_unknown_kind = any(kind not in _KINDS for kind in kinds)
    return Rule(
        source=source,
        action=rule.action,
        limits_statements=match is not None,
        kinds=frozenset() if has_unknown_kind else frozenset(_KINDS[kind] for kind in kinds),
        databases=NamePatterns.of(match.databases, ignores_case=True) if match and match.databases else None,
        schemas=NamePatterns.of(match.schemas, ignores_case=True) if match and match.schemas else None,
        tables=tuple(QualifiedPattern.of(table, ignores_case=True) for table in match.tables) if match else (),
        functions=tuple(QualifiedPattern.of(function, ignores_case=True) for function in match.functions) if match else (),
        rows_more_than=match.rows_more_than if match else None,
        budget=rule.budget,
        caller=rule.caller,
        terms=_terms(rule.approval),
        column_masks=_column_masks(rule, source),
        value_masks=(ValueMask(frozenset(rule.detectors), _for_values(rule.strategy), source),) if rule.detectors else (),
        message=rule.message,
        is_observed=is_observed,
        holds_at_commit=rule.approval is not None and rule.approval.hold_at is HoldAt.COMMIT,
    )


def _terms(approval: ApprovalConfig | None) -> ApprovalTerms:
    """Without terms nobody can approve: a missing section must not mean that anybody may."""
    if approval is None:
        return ApprovalTerms(frozenset(), frozenset(), 1, 3600.0)
    return ApprovalTerms(
        frozenset(approval.approver_groups),
        frozenset(approval.approver_users),
        max(1, approval.required),
        approval.expires_after_s,
    )


def _for_values(strategy: MaskStrategy) -> MaskStrategy:
    """What a detector finds may be a client's own guess (`SELECT '583-68-2629'`), whose pseudonym would tell where else it is."""
    return MaskStrategy.REDACT if strategy is MaskStrategy.PSEUDONYM else strategy


def _column_masks(rule: RuleConfig, source: PolicyRule) -> tuple[ColumnMask, ...]:
    """One mask for each table and schema named. Names are lower case on both sides: who masks `ssn` means `"SSN"` too."""
    names: dict[tuple[str | None, str | None], set[str]] = {}
    for column in rule.columns:
        place = (column.schema.lower() if column.schema else None, column.table.lower() if column.table else None)
        names.setdefault(place, set()).add(column.column.lower())
    return tuple(
        ColumnMask(
            frozenset(columns),
            frozenset({schema}) if schema is not None else None,
            frozenset({table}) if table is not None else None,
            rule.strategy,
            # A pseudonym stands for its value in comparisons; the value itself may not be compared with beside it
            ColumnUse.REFUSED if rule.strategy is MaskStrategy.PSEUDONYM else rule.use,
            source,
            rule.min_group_size,
        )
        for (schema, table), columns in sorted(names.items(), key=lambda item: (item[0][0] or "", item[0][1] or ""))
    )
