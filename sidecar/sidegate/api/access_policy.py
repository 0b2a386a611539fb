"""`AccessPolicy`: who is granted what on which targets, and the rules that take some of it away again.

What isn't granted is denied. Over all policies of a target Deny beats RequireApproval beats Allow, and masks add up, whatever the order
and age of the policies. Each kind of statement is named in `StatementKind`; transactions, harmless settings and cursors come with any
grant, and what can't be classified can't be granted, so those have no name here. `sidegate.policy.compile` makes a gate config of it.
"""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sidegate.api.meta import (
    MAX_BOUND,
    ApiModel,
    ApiVersion,
    Conditions,
    Constraint,
    LabelSelector,
    ObjectMeta,
    ObservedGeneration,
    each_once,
    ordered,
    unique_by,
)
from sidegate.api.names import (
    DatabasePattern,
    OwnFunctionPattern,
    RoleName,
    SchemaPattern,
)
from sidegate.api.rule import (
    MAX_APPROVERS,
    ROW_CHANGING,
    Approval,
    Approvers,
    Budget,
    CallerMatch,
    ColumnUse,
    Detector,
    HoldAt,
    Mask,
    MaskStrategy,
    Match,
    PolicyRule,
    RowsAffected,
    RuleAction,
    StatementKind,
    StatementMatch,
    ValuesMatch,
)
from sidegate.api.text import (
    Days,
    EnvironmentName,
    Label,
    ObjectName,
    TimeOfDay,
    Timestamp,
    TimeZoneName,
)

__all__ = [
    "MAX_APPROVERS",
    "ROW_CHANGING",
    "AccessPolicy",
    "AccessPolicySpec",
    "AccessPolicyStatus",
    "Approval",
    "Approvers",
    "Budget",
    "CallerMatch",
    "ColumnUse",
    "Detector",
    "Finding",
    "FindingSeverity",
    "Grant",
    "HoldAt",
    "Mask",
    "MaskStrategy",
    "Match",
    "PolicyMode",
    "PolicyRule",
    "PostgresGrant",
    "RowsAffected",
    "RuleAction",
    "StatementKind",
    "StatementMatch",
    "Subject",
    "Targets",
    "Validity",
    "ValuesMatch",
    "Window",
]


class PolicyMode(enum.StrEnum):
    """Whether the policy decides, or only records what it would have decided."""

    ENFORCE = "Enforce"
    OBSERVE = "Observe"


class Targets(ApiModel):
    """Which targets of the policy's namespace it is about. Everything given must match."""

    names: Annotated[
        tuple[ObjectName, ...],
        Field(default=(), min_length=1, max_length=64, json_schema_extra=each_once(), description="Targets by name."),
    ]
    selector: Annotated[
        LabelSelector | None, Field(default=None, description="Targets by the labels of their `ProtectedTarget`.")
    ]
    environments: Annotated[
        tuple[EnvironmentName, ...],
        Field(
            default=(), min_length=1, max_length=16, json_schema_extra=each_once(), description="Targets by `spec.environment`."
        ),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="targets-not-empty",
            field="names",
            cel="has(self.names) || has(self.selector) || has(self.environments)",
            holds=lambda self: bool(self.names or self.selector or self.environments),
            problem="the policy names no target",
            way_forward="give names, selector or environments",
        ),
    )


class Subject(ApiModel):
    """Whom a policy is about. One entry matches when everything it names matches; one matching entry is enough."""

    groups: Annotated[
        tuple[Label, ...],
        Field(
            default=(),
            min_length=1,
            max_length=64,
            json_schema_extra=each_once(),
            description="Groups; being in one of them is enough.",
        ),
    ]
    users: Annotated[
        tuple[Label, ...],
        Field(
            default=(),
            min_length=1,
            max_length=64,
            json_schema_extra=each_once(),
            description="Usernames, as the username claim has them.",
        ),
    ]
    agents: Annotated[
        tuple[Label, ...],
        Field(
            default=(),
            min_length=1,
            max_length=64,
            json_schema_extra=each_once(),
            description="Agents that act for the person, as the agent claim has them.",
        ),
    ]
    expression: Annotated[
        str | None,
        Field(
            default=None,
            min_length=1,
            max_length=1024,
            description="CEL that must be true, over `claims`, `username`, `groups`, `agent` and `environment` "
            "(the caller's). An error in it grants nothing.",
        ),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="subject-not-empty",
            field="groups",
            cel="has(self.groups) || has(self.users) || has(self.agents) || has(self.expression)",
            holds=lambda self: bool(self.groups or self.users or self.agents or self.expression),
            problem="an empty subject would be everyone",
            way_forward="give groups, users, agents or an expression",
        ),
    )


class Window(ApiModel):
    """A span of time that comes back every week. One that crosses midnight belongs to the day on which it starts."""

    days: Annotated[
        tuple[Days, ...],
        Field(
            min_length=1,
            max_length=7,
            json_schema_extra=each_once(),
            description="Days, or spans of days, on which the window starts.",
        ),
    ]
    from_: Annotated[TimeOfDay, Field(alias="from", description='When it starts, in quotes: `"08:00"`.')]
    to: Annotated[
        TimeOfDay,
        Field(description='When it ends, exclusive; smaller than `from` when it crosses midnight; `"24:00"` ends the day.'),
    ]
    time_zone: Annotated[TimeZoneName, Field(description="The IANA time zone in which days and times are read.")]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="window-not-empty",
            field="to",
            cel="self.from != self.to",
            holds=lambda self: self.from_ != self.to,
            problem="the window starts and ends at the same time",
            way_forward='for a whole day write from: "00:00" and to: "24:00"',
        ),
        Constraint(
            name="window-starts-in-its-day",
            field="from",
            cel="self.from != '24:00'",
            holds=lambda self: self.from_ != "24:00",
            problem="the window starts when its day is over",
            way_forward='write from: "00:00" and the next day',
        ),
    )


class Validity(ApiModel):
    """When the policy's grants count. Its rules count always: time takes rights away, never limits."""

    not_before: Annotated[Timestamp | None, Field(default=None, description="Before this moment it grants nothing.")]
    not_after: Annotated[Timestamp | None, Field(default=None, description="From this moment on it grants nothing.")]
    windows: Annotated[
        tuple[Window, ...],
        Field(
            default=(),
            min_length=1,
            max_length=16,
            json_schema_extra=ordered(),
            description="It grants inside one of these only.",
        ),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="validity-in-order",
            field="notAfter",
            cel="!has(self.notBefore) || !has(self.notAfter) || self.notBefore < self.notAfter",
            holds=lambda self: (
                self.not_before is None or self.not_after is None or self.not_before.epoch_s < self.not_after.epoch_s
            ),
            problem="notAfter is not later than notBefore, so the policy would never be valid",
            way_forward="exchange them, or leave one out",
        ),
    )


class PostgresGrant(ApiModel):
    """What may be done in which databases, as which role of the target."""

    databases: Annotated[
        tuple[DatabasePattern, ...],
        Field(
            min_length=1,
            max_length=64,
            json_schema_extra=each_once(),
            description="Databases: names or patterns (`shop`, `shop-*`, `*`).",
        ),
    ]
    role: Annotated[
        RoleName, Field(description="The role, among the target's `credentials`, as which the gate logs in for the client.")
    ]
    allow: Annotated[
        tuple[StatementKind, ...],
        Field(
            min_length=1,
            max_length=len(StatementKind),
            json_schema_extra=each_once(),
            description="Kinds of statement that are allowed.",
        ),
    ]
    schemas: Annotated[
        tuple[SchemaPattern, ...],
        Field(
            default=(),
            min_length=1,
            max_length=64,
            json_schema_extra=each_once(),
            description="Schemas: names or patterns. Absent: every schema.",
        ),
    ]
    functions: Annotated[
        tuple[OwnFunctionPattern, ...],
        Field(
            default=(),
            min_length=1,
            max_length=128,
            json_schema_extra=each_once(),
            description="Functions of your own (`schema.name`) that may be called as if known to be free of side effects.",
        ),
    ]


class Grant(ApiModel):
    """One thing that is allowed."""

    postgres: Annotated[PostgresGrant, Field(description="On a target with protocol Postgres.")]


class AccessPolicySpec(ApiModel):
    """Who is granted what on which targets, and what is taken away again."""

    mode: Annotated[
        PolicyMode,
        Field(
            default=PolicyMode.ENFORCE,
            description="`Enforce`, or `Observe`: decide, record what would have happened, and let pass.",
        ),
    ]
    targets: Annotated[Targets, Field(description="The targets that the policy is about.")]
    subjects: Annotated[
        tuple[Subject, ...],
        Field(
            min_length=1,
            max_length=32,
            json_schema_extra=ordered(),
            description="Whom it is about; one matching entry is enough.",
        ),
    ]
    validity: Annotated[Validity | None, Field(default=None, description="When its grants count. Absent: always.")]
    grants: Annotated[
        tuple[Grant, ...],
        Field(
            default=(),
            min_length=1,
            max_length=32,
            json_schema_extra=ordered(),
            description="What is allowed; what nobody grants is denied.",
        ),
    ]
    rules: Annotated[
        tuple[PolicyRule, ...],
        Field(
            default=(),
            min_length=1,
            max_length=64,
            json_schema_extra=unique_by("name"),
            description="What is taken away again. Over all policies Deny beats RequireApproval beats Allow, and masks add up.",
        ),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="policy-not-empty",
            field="grants",
            cel="has(self.grants) || has(self.rules)",
            holds=lambda self: bool(self.grants or self.rules),
            problem="the policy neither grants nor limits anything",
            way_forward="give grants or rules",
        ),
    )


class FindingSeverity(enum.StrEnum):
    """How bad a finding is."""

    ERROR = "Error"
    WARNING = "Warning"
    NOTE = "Note"


class Finding(ApiModel):
    """Something in the policy that isn't as its author may think: an unreachable rule, a conflict, a column that doesn't exist."""

    severity: Annotated[FindingSeverity, Field(description="How bad it is.")]
    path: Annotated[str, Field(max_length=256, description="The field that it is about.")]
    message: Annotated[str, Field(max_length=1024, description="What was found, and the way forward.")]
    target: Annotated[ObjectName | None, Field(default=None, description="The target for which it was found; absent: for all.")]


class AccessPolicyStatus(ApiModel):
    """What the operator observes about the policy."""

    conditions: Conditions
    targets: Annotated[
        tuple[ObjectName, ...],
        Field(
            default=(),
            max_length=MAX_BOUND,
            json_schema_extra=each_once(),
            description=f"Targets bound to it, the first {MAX_BOUND} by name.",
        ),
    ]
    targets_count: Annotated[int, Field(default=0, ge=0, description="How many targets are bound to it.")]
    findings: Annotated[
        tuple[Finding, ...],
        Field(
            default=(),
            max_length=32,
            json_schema_extra=ordered(),
            description="What isn't as its author may think, the worst first.",
        ),
    ]
    findings_count: Annotated[int, Field(default=0, ge=0, description="How many findings there are.")]
    observed_generation: ObservedGeneration


class AccessPolicy(ApiModel):
    """Who is granted what on which targets, and the rules that limit it."""

    api_version: Annotated[ApiVersion, Field(default="sidegate.dev/v1alpha1", description="`sidegate.dev/v1alpha1`.")]
    kind: Annotated[Literal["AccessPolicy"], Field(default="AccessPolicy", description="`AccessPolicy`.")]
    metadata: Annotated[ObjectMeta, Field(description="Kubernetes' own metadata.")]
    spec: Annotated[AccessPolicySpec, Field(description="What is wanted.")]
    status: Annotated[AccessPolicyStatus | None, Field(default=None, description="What is observed; the operator writes it.")]
