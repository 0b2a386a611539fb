"""One rule of an `AccessPolicy`: what it matches, what it does, how it masks, who may approve.

Each kind of statement is named in `StatementKind`; transactions, harmless settings and cursors come with any grant, and what can't be
classified can't be granted, so those have no name here. What belongs to one action only is refused with the others.
"""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from sidegate.api.meta import (
    ApiModel,
    Constraint,
    each_once,
)
from sidegate.api.names import (
    ColumnName,
    DatabasePattern,
    FunctionPattern,
    SchemaPattern,
    TablePattern,
)
from sidegate.api.text import (
    AtMost,
    Duration,
    EnvironmentName,
    Label,
    LabelName,
    Sentence,
)

MAX_APPROVERS: Final = 10


class RuleAction(enum.StrEnum):
    """What a rule does with what it matches."""

    DENY = "Deny"
    REQUIRE_APPROVAL = "RequireApproval"
    MASK = "Mask"


class HoldAt(enum.StrEnum):
    """What waits for the approval."""

    STATEMENT = "Statement"
    COMMIT = "Commit"


class MaskStrategy(enum.StrEnum):
    """What a client sees instead of a masked value."""

    REDACT = "Redact"
    NULL = "Null"
    PARTIAL = "Partial"
    FIXED_LENGTH = "FixedLength"
    HASH = "Hash"
    PSEUDONYM = "Pseudonym"


class ColumnUse(enum.StrEnum):
    """Whether a masked column may stand elsewhere than in the output."""

    REFUSED = "Refused"
    EQUALITY = "Equality"
    AGGREGATE = "Aggregate"
    ALLOWED = "Allowed"


class Detector(enum.StrEnum):
    """A content pattern with its check digit that finds sensitive values."""

    PAYMENT_CARD = "payment-card"
    US_SSN = "us-ssn"
    EMAIL = "email"
    IBAN = "iban"
    AWS_ACCESS_KEY = "aws-access-key"
    GITHUB_TOKEN = "github-token"  # noqa: S105 - a word for it, no secret
    SLACK_TOKEN = "slack-token"  # noqa: S105 - a word for it, no secret
    STRIPE_KEY = "stripe-key"
    GOOGLE_API_KEY = "google-api-key"
    JWT = "jwt"
    PEM_PRIVATE_KEY = "pem-private-key"


class StatementKind(enum.StrEnum):
    """What a statement does, by its parse tree. One statement may be of several kinds, and a grant must cover them all."""

    READ = "Read"
    EXPLAIN = "Explain"
    INSERT = "Insert"
    UPDATE = "Update"
    DELETE = "Delete"
    MERGE = "Merge"
    TRUNCATE = "Truncate"
    COPY_IN = "CopyIn"
    COPY_OUT = "CopyOut"
    CALL = "Call"
    DO = "Do"
    DDL = "DDL"
    ROLES = "Roles"
    MAINTENANCE = "Maintenance"
    LOCK = "Lock"
    SELECT_FOR_UPDATE = "SelectForUpdate"
    LISTEN = "Listen"
    NOTIFY = "Notify"
    SETTINGS = "Settings"
    SERVER = "Server"
    REPLICATION = "Replication"


ROW_CHANGING: Final = (
    StatementKind.INSERT,
    StatementKind.UPDATE,
    StatementKind.DELETE,
    StatementKind.MERGE,
    StatementKind.TRUNCATE,
    StatementKind.COPY_IN,
)
_ROW_CHANGING_CEL: Final = "[" + ", ".join(f"'{kind.value}'" for kind in ROW_CHANGING) + "]"


class RowsAffected(ApiModel):
    """How many rows a statement changes, measured by running it and taking it back; cascades and triggers count."""

    more_than: Annotated[int, Field(ge=0, le=2**53, description="The rule matches when more rows than this would change.")]


class StatementMatch(ApiModel):
    """Which statements a rule is about. Everything given must match; inside one list one entry is enough."""

    kinds: Annotated[
        tuple[StatementKind, ...],
        Field(
            default=(),
            min_length=1,
            max_length=len(StatementKind),
            json_schema_extra=each_once(),
            description="Kinds of statement.",
        ),
    ]
    databases: Annotated[
        tuple[DatabasePattern, ...],
        Field(
            default=(), min_length=1, max_length=64, json_schema_extra=each_once(), description="Databases: names or patterns."
        ),
    ]
    schemas: Annotated[
        tuple[SchemaPattern, ...],
        Field(
            default=(),
            min_length=1,
            max_length=64,
            json_schema_extra=each_once(),
            description="Schemas that it touches: names or patterns.",
        ),
    ]
    tables: Annotated[
        tuple[TablePattern, ...],
        Field(
            default=(),
            min_length=1,
            max_length=128,
            json_schema_extra=each_once(),
            description="Tables and views that it touches: `table` or `schema.table`, names or patterns.",
        ),
    ]
    functions: Annotated[
        tuple[FunctionPattern, ...],
        Field(
            default=(),
            min_length=1,
            max_length=128,
            json_schema_extra=each_once(),
            description="Functions that it calls: `function` or `schema.function`, names or patterns.",
        ),
    ]
    rows_affected: Annotated[RowsAffected | None, Field(default=None, description="How many rows it changes.")]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="statements-not-empty",
            field="kinds",
            cel="has(self.kinds) || has(self.databases) || has(self.schemas) || has(self.tables) || has(self.functions)",
            holds=lambda self: bool(self.kinds or self.databases or self.schemas or self.tables or self.functions),
            problem="the match says nothing about the statement",
            way_forward="give kinds, databases, schemas, tables or functions; every kind and database is `databases: ['*']`",
        ),
        Constraint(
            name="rows-need-kinds",
            field="rowsAffected",
            cel=f"!has(self.rowsAffected) || (has(self.kinds) && self.kinds.all(kind, kind in {_ROW_CHANGING_CEL}))",
            holds=lambda self: (
                self.rows_affected is None or (bool(self.kinds) and all(kind in ROW_CHANGING for kind in self.kinds))
            ),
            problem="rowsAffected can only be measured for statements that change rows",
            way_forward=f"list kinds beside it, from {', '.join(ROW_CHANGING)}, and put other kinds into a rule of their own",
        ),
    )


class ValuesMatch(ApiModel):
    """Values that are found by what they look like, in any column, message or error."""

    detectors: Annotated[
        tuple[Detector, ...],
        Field(min_length=1, max_length=len(Detector), json_schema_extra=each_once(), description="What to look for."),
    ]


class CallerMatch(ApiModel):
    """From where a statement is asked: the caller's environment, by a claim or the network. A caller without one is in none."""

    environments: Annotated[
        tuple[EnvironmentName, ...],
        Field(
            default=(), min_length=1, max_length=16, json_schema_extra=each_once(), description="The caller is in one of these."
        ),
    ]
    not_environments: Annotated[
        tuple[EnvironmentName, ...],
        Field(
            default=(), min_length=1, max_length=16, json_schema_extra=each_once(), description="The caller is in none of these."
        ),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="caller-one-list",
            field="environments",
            cel="has(self.environments) != has(self.notEnvironments)",
            holds=lambda self: bool(self.environments) != bool(self.not_environments),
            problem="a caller is matched by being in environments or by being in none of them",
            way_forward="give exactly one of environments and notEnvironments",
        ),
    )


class Budget(ApiModel):
    """What one session may use up. Once it has used all of one of these, the rule matches; what is not given is not limited."""

    statements: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=2**53,
            description="Statements that run; each one of a string that is sent together counts. Refused ones, transactions and cursors' "
            "own statements don't.",
        ),
    ]
    rows: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=2**53,
            description="Rows that are returned, in whatever way: results, `RETURNING`, `FETCH`, `COPY TO STDOUT`. A result that would go "
            "over is cut there, with an error.",
        ),
    ]
    masked_values: Annotated[
        int | None,
        Field(
            default=None,
            ge=1,
            le=2**53,
            description="Masked values that are returned: each cell of a masked column, and each value that a detector finds, of which one "
            "cell may have many. A result that would go over is cut before that row.",
        ),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="budget-not-empty",
            field="rows",
            cel="has(self.statements) || has(self.rows) || has(self.maskedValues)",
            holds=lambda self: not (self.statements is None and self.rows is None and self.masked_values is None),
            problem="the budget limits nothing",
            way_forward="give statements, rows or maskedValues",
        ),
    )


class Match(ApiModel):
    """What a rule is about: statements, callers and budgets for Deny and RequireApproval, columns or values for Mask."""

    statements: Annotated[StatementMatch | None, Field(default=None, description="Statements, with Deny and RequireApproval.")]
    columns: Annotated[
        tuple[ColumnName, ...],
        Field(
            default=(),
            min_length=1,
            max_length=256,
            json_schema_extra=each_once(),
            description="Columns, with Mask: `column` (in every table), `table.column` or `schema.table.column`.",
        ),
    ]
    values: Annotated[ValuesMatch | None, Field(default=None, description="Values, with Mask.")]
    caller: Annotated[CallerMatch | None, Field(default=None, description="Callers, with Deny and RequireApproval.")]
    budget: Annotated[
        Budget | None,
        Field(
            default=None,
            description="With Deny and RequireApproval: the rule matches once the session has used up as much by the statements that it is "
            "about. An approval gives the session the budget anew.",
        ),
    ]


class Mask(ApiModel):
    """How values are masked."""

    strategy: Annotated[
        MaskStrategy,
        Field(
            default=MaskStrategy.REDACT,
            description="What is seen instead: a fixed word (`Redact`), nothing (`Null`), all but the last four "
            "characters hidden (`Partial`), "
            "eight asterisks (`FixedLength`), a keyed hash that keeps equal values equal (`Hash`), or another value of the same form "
            "that keeps equal values equal within a session, and by which statements may ask for rows (`Pseudonym`, for columns "
            "alone). A type that can't hold it gets NULL.",
        ),
    ]
    use: Annotated[
        ColumnUse,
        Field(
            default=ColumnUse.REFUSED,
            description="Whether a masked column may stand in predicates, joins, ordering and expressions, which can reveal its values: "
            "nowhere (`Refused`), in `column = $1` with a bound parameter (`Equality`), in sums, averages and counts over groups of at "
            "least `minGroupSize` rows of one table (`Aggregate`), or anywhere (`Allowed`).",
        ),
    ]
    min_group_size: Annotated[
        int | None,
        Field(
            default=None,
            ge=2,
            le=1_000_000,
            description="With `use: Aggregate`, how many values a group has at least. Default: 5.",
        ),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="group-size-with-aggregate",
            field="minGroupSize",
            cel="!has(self.minGroupSize) || self.use == 'Aggregate'",
            holds=lambda self: self.min_group_size is None or self.use is ColumnUse.AGGREGATE,
            problem="minGroupSize is about use: Aggregate",
            way_forward="say use: Aggregate, or leave minGroupSize out",
        ),
        Constraint(
            name="pseudonym-without-use",
            field="use",
            cel="self.strategy != 'Pseudonym' || self.use == 'Refused'",
            holds=lambda self: self.strategy is not MaskStrategy.PSEUDONYM or self.use is ColumnUse.REFUSED,
            problem="a pseudonym stands for its value wherever a statement compares with it, so the value itself may not be used beside it",
            way_forward="leave use out: columns with pseudonyms may be compared with pseudonyms",
        ),
    )


class Approvers(ApiModel):
    """Who may approve. The one who asks never may."""

    groups: Annotated[
        tuple[Label, ...],
        Field(default=(), min_length=1, max_length=32, json_schema_extra=each_once(), description="Members of these groups."),
    ]
    users: Annotated[
        tuple[Label, ...],
        Field(default=(), min_length=1, max_length=32, json_schema_extra=each_once(), description="These people, by username."),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="approvers-not-empty",
            field="groups",
            cel="has(self.groups) || has(self.users)",
            holds=lambda self: bool(self.groups or self.users),
            problem="nobody could approve",
            way_forward="give groups or users",
        ),
    )


class Approval(ApiModel):
    """What it takes to let a held statement run."""

    approvers: Annotated[Approvers, Field(description="Who may approve.")]
    required: Annotated[int, Field(default=1, ge=1, le=MAX_APPROVERS, description="How many different people must approve.")]
    expires_after: Annotated[
        Duration,
        AtMost("30d"),
        Field(
            default=Duration("1h"),
            description="How long a decision may take, and how long an approval stays usable; at most 30d.",
        ),
    ]
    hold_at: Annotated[
        HoldAt,
        Field(
            default=HoldAt.STATEMENT,
            description="What waits: the statement, before it runs (`Statement`), or the end of its transaction (`Commit`): it runs, the "
            "approver sees the rows that the transaction changed in each table, and it is committed or rolled back. Its locks are kept "
            "meanwhile, so what isn't decided within `holds.inTransactionTimeout` of the target is rolled back.",
        ),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="approvers-enough",
            field="required",
            cel="has(self.approvers.groups) || !has(self.approvers.users) || size(self.approvers.users) >= self.required",
            holds=lambda self: bool(self.approvers.groups) or len(self.approvers.users) >= self.required,
            problem="more approvals are required than there are approvers",
            way_forward="lower required, or name more users or a group",
        ),
    )


AWAITING_COMMIT: Final = tuple(kind for kind in ROW_CHANGING if kind is not StatementKind.TRUNCATE)
_AWAITING_COMMIT_CEL: Final = "[" + ", ".join(f"'{kind.value}'" for kind in AWAITING_COMMIT) + "]"


def _may_await_commit(match: Match) -> bool:
    statements = match.statements
    if statements is None or statements.rows_affected is not None or match.budget is not None:
        return False
    return bool(statements.kinds) and all(kind in AWAITING_COMMIT for kind in statements.kinds)


def _is(action: RuleAction) -> str:
    return f"self.action == '{action.value}'"


class PolicyRule(ApiModel):
    """Something that is taken away again, whichever policy granted it."""

    name: Annotated[LabelName, Field(description="The rule's name, unique in its policy; refusals and records show it.")]
    match: Annotated[Match, Field(description="What it is about.")]
    action: Annotated[RuleAction, Field(description="What happens to it.")]
    mask: Annotated[Mask | None, Field(default=None, description="With Mask: how. Absent: Redact.")]
    approval: Annotated[Approval | None, Field(default=None, description="With RequireApproval: who must approve.")]
    message: Annotated[
        Sentence | None,
        Field(default=None, description="Your own words for whoever is refused or held: why, and whom to ask."),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="mask-needs-columns-or-values",
            field="match",
            cel=f"!({_is(RuleAction.MASK)}) || (has(self.match.columns) != has(self.match.values))",
            holds=lambda self: (
                self.action is not RuleAction.MASK or (bool(self.match.columns) != (self.match.values is not None))
            ),
            problem="a Mask rule masks columns or values",
            way_forward="give exactly one of match.columns and match.values; for both write two rules",
        ),
        Constraint(
            name="mask-takes-no-statements",
            field="match",
            cel=f"!({_is(RuleAction.MASK)}) || (!has(self.match.statements) && !has(self.match.caller))",
            holds=lambda self: (
                self.action is not RuleAction.MASK or (self.match.statements is None and self.match.caller is None)
            ),
            problem="a Mask rule masks in every statement and for every caller of the policy",
            way_forward="leave out match.statements and match.caller; for some callers only, write a policy with a subject expression",
        ),
        Constraint(
            name="statement-rule-needs-statements-or-caller",
            field="match",
            cel=f"{_is(RuleAction.MASK)} || has(self.match.statements) || has(self.match.caller) || has(self.match.budget)",
            holds=lambda self: (
                self.action is RuleAction.MASK
                or self.match.statements is not None
                or self.match.caller is not None
                or self.match.budget is not None
            ),
            problem="a Deny or RequireApproval rule is about statements, callers or a budget",
            way_forward="give match.statements, match.caller, match.budget or several of them",
        ),
        Constraint(
            name="mask-takes-no-budget",
            field="match.budget",
            cel=f"!({_is(RuleAction.MASK)}) || !has(self.match.budget)",
            holds=lambda self: self.action is not RuleAction.MASK or self.match.budget is None,
            problem="a Mask rule masks always, whatever was used up",
            way_forward="leave match.budget out, or write a Deny or RequireApproval rule with it",
        ),
        Constraint(
            name="budget-without-rows-affected",
            field="match.budget",
            cel="!has(self.match.budget) || !has(self.match.statements) || !has(self.match.statements.rowsAffected)",
            holds=lambda self: (
                self.match.budget is None or self.match.statements is None or self.match.statements.rows_affected is None
            ),
            problem="rowsAffected counts rows that change and a budget rows that are returned: one rule can't mean both",
            way_forward="write two rules",
        ),
        Constraint(
            name="statement-rule-takes-no-columns",
            field="match",
            cel=f"{_is(RuleAction.MASK)} || (!has(self.match.columns) && !has(self.match.values))",
            holds=lambda self: self.action is RuleAction.MASK or (not self.match.columns and self.match.values is None),
            problem="match.columns and match.values are for Mask rules",
            way_forward="leave them out, or write action: Mask",
        ),
        Constraint(
            name="mask-only-with-mask",
            field="mask",
            cel=f"!has(self.mask) || {_is(RuleAction.MASK)}",
            holds=lambda self: self.mask is None or self.action is RuleAction.MASK,
            problem="mask is for Mask rules",
            way_forward="leave mask out, or write action: Mask",
        ),
        Constraint(
            name="use-only-with-columns",
            field="mask.use",
            cel="!has(self.mask) || self.mask.use == 'Refused' || has(self.match.columns)",
            holds=lambda self: self.mask is None or self.mask.use is ColumnUse.REFUSED or bool(self.match.columns),
            problem="use is about columns",
            way_forward="leave use out, or mask by match.columns",
        ),
        Constraint(
            name="pseudonym-only-with-columns",
            field="mask.strategy",
            cel="!has(self.mask) || self.mask.strategy != 'Pseudonym' || has(self.match.columns)",
            holds=lambda self: self.mask is None or self.mask.strategy is not MaskStrategy.PSEUDONYM or bool(self.match.columns),
            problem="a pseudonym of what a detector finds would tell whoever guesses a value where it stands",
            way_forward="mask by match.columns, or use another strategy",
        ),
        Constraint(
            name="approval-needed",
            field="approval",
            cel=f"!({_is(RuleAction.REQUIRE_APPROVAL)}) || has(self.approval)",
            holds=lambda self: self.action is not RuleAction.REQUIRE_APPROVAL or self.approval is not None,
            problem="a RequireApproval rule must say who approves",
            way_forward="give approval.approvers.groups or approval.approvers.users",
        ),
        Constraint(
            name="hold-at-commit-needs-kinds",
            field="approval.holdAt",
            cel="!has(self.approval) || self.approval.holdAt != 'Commit' || (has(self.match.statements) && has(self.match.statements.kinds)"
            f" && self.match.statements.kinds.all(kind, kind in {_AWAITING_COMMIT_CEL})"
            " && !has(self.match.statements.rowsAffected) && !has(self.match.budget))",
            holds=lambda self: (
                self.approval is None or self.approval.hold_at is not HoldAt.COMMIT or _may_await_commit(self.match)
            ),
            problem="only statements that change rows can wait for their COMMIT, without a limit on rows or a budget",
            way_forward=f"give match.statements.kinds, from {', '.join(AWAITING_COMMIT)}; put rowsAffected, a budget and other kinds into "
            "rules of their own",
        ),
        Constraint(
            name="approval-only-with-require-approval",
            field="approval",
            cel=f"!has(self.approval) || {_is(RuleAction.REQUIRE_APPROVAL)}",
            holds=lambda self: self.approval is None or self.action is RuleAction.REQUIRE_APPROVAL,
            problem="approval is for RequireApproval rules",
            way_forward="leave approval out, or write action: RequireApproval",
        ),
    )
