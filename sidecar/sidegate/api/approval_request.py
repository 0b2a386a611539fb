"""`ApprovalRequest`: one statement that waits for people, and what they decided. Gates have it made; people write `decision` and `comment`.

All of `spec` but those two is frozen once made. In a cluster admission turns the two into an entry of `spec.decisions` that says who
decided, and empties them, so that the next person can write the same; what wasn't stamped is never stored, and no entry is changed or
taken away. The status lists the decisions that count. Without a cluster the local back end writes the same object as a YAML file, with
decisions in its status alone. The phase moves along `NEXT_PHASES` only.
"""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from sidegate.api.meta import (
    ApiModel,
    ApiVersion,
    ChangeConstraint,
    Conditions,
    Constraint,
    ObjectMeta,
    ObservedGeneration,
    each_once,
    ordered,
    unique_by,
)
from sidegate.api.rule import MAX_APPROVERS, Approvers
from sidegate.api.text import Label, LabelName, ObjectName, Timestamp

# What a person can be shown of one statement, in characters. What is longer is refused by the gate: nobody approves what they can't see.
MAX_STATEMENT: Final = 16384
MAX_VALUE: Final = 4096
MAX_PARAMETERS: Final = 256
MAX_BESIDE: Final = 16  # other statements that one leads to
MAX_BESIDE_PARAMETERS: Final = 64
MAX_SHOWN: Final = 65536  # all texts of a request together
MAX_SCHEMAS: Final = 64
MAX_HIDDEN: Final = 64


class Verdict(enum.StrEnum):
    """What a person decides."""

    APPROVED = "Approved"
    DENIED = "Denied"


class Phase(enum.StrEnum):
    """Where a request stands."""

    PENDING = "Pending"
    APPROVED = "Approved"
    DENIED = "Denied"
    EXPIRED = "Expired"
    WITHDRAWN = "Withdrawn"
    EXECUTED = "Executed"


NEXT_PHASES: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.PENDING: frozenset({Phase.APPROVED, Phase.DENIED, Phase.EXPIRED, Phase.WITHDRAWN}),
    Phase.APPROVED: frozenset({Phase.EXECUTED, Phase.EXPIRED, Phase.WITHDRAWN}),
    Phase.DENIED: frozenset(),
    Phase.EXPIRED: frozenset(),
    Phase.WITHDRAWN: frozenset(),
    Phase.EXECUTED: frozenset(),
}


class Requester(ApiModel):
    """The verified identity that asks."""

    issuer: Annotated[str, Field(min_length=1, max_length=512, description="The token's `iss`.")]
    subject: Annotated[str, Field(min_length=1, max_length=512, description="The token's `sub`.")]
    username: Annotated[Label, Field(description="The username, by the target's username claim.")]
    groups: Annotated[
        tuple[Label, ...],
        Field(default=(), max_length=256, json_schema_extra=each_once(), description="The groups, by the target's groups claim."),
    ]
    environment: Annotated[
        str | None, Field(default=None, max_length=63, description="The environment the caller is in, if known.")
    ]
    source_address: Annotated[str | None, Field(default=None, max_length=64, description="The client's IP address, or `unix`.")]
    kubernetes_usernames: Annotated[
        tuple[Label, ...],
        Field(
            default=(),
            max_length=16,
            json_schema_extra=each_once(),
            description="How the cluster's API server may know them, as far as their username and subject don't say it.",
        ),
    ]


class RuleReference(ApiModel):
    """The rule that holds the statement."""

    namespace: Annotated[LabelName, Field(description="The policy's namespace.")]
    policy: Annotated[ObjectName, Field(description="The policy's name.")]
    name: Annotated[LabelName, Field(description="The rule's name.")]


class TableImpact(ApiModel):
    """Rows of one table, as measured."""

    relation: Annotated[str, Field(min_length=1, max_length=256, description="`schema.table`.")]
    inserted: Annotated[int, Field(default=0, ge=0, description="Rows inserted.")]
    updated: Annotated[int, Field(default=0, ge=0, description="Rows updated.")]
    deleted: Annotated[int, Field(default=0, ge=0, description="Rows deleted.")]


class Impact(ApiModel):
    """What the statement would do, measured by running it and taking it back."""

    rows: Annotated[int, Field(ge=0, description="Rows affected, by the command tag.")]
    tables: Annotated[
        tuple[TableImpact, ...],
        Field(
            default=(),
            max_length=64,
            json_schema_extra=unique_by("relation"),
            description="Rows per table, cascades and triggers counted. Of more than 64 tables, those with most rows.",
        ),
    ]
    is_truncation: Annotated[bool, Field(default=False, description="Whether a table is emptied as a whole.")]


class ValueFormat(enum.StrEnum):
    """How the client sent a value."""

    TEXT = "Text"
    BINARY = "Binary"


class Parameter(ApiModel):
    """One value that the client bound to the statement."""

    name: Annotated[
        str, Field(pattern=r"^\$[1-9][0-9]{0,4}$", min_length=2, max_length=6, description="As the statement names it: `$1`.")
    ]
    type: Annotated[
        str | None,
        Field(default=None, max_length=63, description="The type that the client gave. Absent: it left that to the target."),
    ]
    format: Annotated[ValueFormat, Field(default=ValueFormat.TEXT, description="How the client sent it.")]
    text: Annotated[
        str | None,
        Field(
            default=None,
            max_length=MAX_VALUE,
            description="The value, even an empty one, sensitive parts masked. A statement with a value of more than "
            f"{MAX_VALUE} characters is refused.",
        ),
    ]
    hexadecimal: Annotated[
        str | None,
        Field(
            default=None,
            pattern=r"^([0-9a-f]{2})*$",
            max_length=MAX_VALUE,
            description="The value's bytes, when its text can't be told. As long as `text` may be.",
        ),
    ]
    is_null: Annotated[bool, Field(default=False, description="Whether it is NULL.")]
    is_masked: Annotated[bool, Field(default=False, description="Whether a part of the value is masked.")]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="one-value",
            field="",
            cel="[has(self.text), has(self.hexadecimal), self.isNull].filter(given, given).size() == 1",
            holds=lambda self: [self.text is not None, self.hexadecimal is not None, self.is_null].count(True) == 1,
            problem="a parameter has one value",
            way_forward="write one of text, hexadecimal and isNull",
        ),
    )


class StatementBeside(ApiModel):
    """Another statement that the one that is asked for leads to."""

    statement: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_STATEMENT,
            description=f"Its text, sensitive values masked. What has more than {MAX_STATEMENT} characters is refused.",
        ),
    ]
    parameters: Annotated[
        tuple[Parameter, ...],
        Field(
            default=(),
            max_length=MAX_BESIDE_PARAMETERS,
            json_schema_extra=unique_by("name"),
            description=f"The values bound to it. What has more than {MAX_BESIDE_PARAMETERS} is refused.",
        ),
    ]


class Decision(ApiModel):
    """What one person decided."""

    by: Annotated[Label, Field(description="Who decided.")]
    groups: Annotated[
        tuple[Label, ...],
        Field(
            default=(),
            max_length=32,
            json_schema_extra=each_once(),
            description="Those of their groups that made them an approver.",
        ),
    ]
    decision: Annotated[Verdict, Field(description="What they decided.")]
    at: Annotated[Timestamp, Field(description="When.")]
    comment: Annotated[str | None, Field(default=None, max_length=1024, description="Their comment.")]
    signature: Annotated[
        str | None,
        Field(
            default=None,
            pattern=r"^[0-9A-Za-z+/=_-]+$",
            max_length=256,
            description="Ed25519 over fingerprint, decider and time; the gate verifies it.",
        ),
    ]


_FROZEN_NEEDED: Final = ("target", "principal", "statement", "fingerprint", "rule", "approvers", "required", "expiresAt")
_FROZEN_OPTIONAL: Final = (
    "agent", "reason", "impact", "database", "role", "sessionId", "revision", "summary",
    "parameters", "runs", "alternatives", "hiddenCharacters", "searchPath", "currentRole",
)  # fmt: skip


def _frozen_cel() -> str:
    needed = [f"self.{name} == oldSelf.{name}" for name in _FROZEN_NEEDED]
    optional = [
        f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
        for name in _FROZEN_OPTIONAL
    ]
    return " && ".join([*needed, *optional])


class ApprovalRequestSpec(ApiModel):
    """What is asked, by whom, and who may decide."""

    target: Annotated[ObjectName, Field(description="The `ProtectedTarget` that the statement is for.")]
    principal: Annotated[Requester, Field(description="Who asks.")]
    agent: Annotated[Label | None, Field(default=None, description="The agent that acts for them.")]
    reason: Annotated[
        str | None, Field(default=None, max_length=1024, description="Why the statement is held, with the policy's own message.")
    ]
    statement: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_STATEMENT,
            description="The statement as the client sent it, its sensitive values masked, and nothing else: what it leads to and what is "
            f"bound to it have fields of their own. One of more than {MAX_STATEMENT} characters is refused, and so is one that has "
            f"more than {MAX_SHOWN} with all that is beside it.",
        ),
    ]
    parameters: Annotated[
        tuple[Parameter, ...],
        Field(
            default=(),
            max_length=MAX_PARAMETERS,
            json_schema_extra=unique_by("name"),
            description=f"The values bound to it. A statement with more than {MAX_PARAMETERS} is refused.",
        ),
    ]
    runs: Annotated[
        tuple[StatementBeside, ...],
        Field(
            default=(),
            max_length=MAX_BESIDE,
            json_schema_extra=ordered(),
            description="What an EXECUTE or FETCH in it runs. A statement that leads to more than "
            f"{MAX_BESIDE} others is refused.",
        ),
    ]
    alternatives: Annotated[
        tuple[StatementBeside, ...],
        Field(
            default=(),
            max_length=MAX_BESIDE,
            json_schema_extra=ordered(),
            description="What runs in its place should the target refuse the newest statement of its name: an approval covers these too. "
            f"A statement with more than {MAX_BESIDE} is refused.",
        ),
    ]
    hidden_characters: Annotated[
        tuple[Annotated[str, Field(pattern=r"^U\+[0-9A-F]{4,6}$", max_length=8)], ...],
        Field(
            default=(),
            max_length=MAX_HIDDEN,
            json_schema_extra=each_once(),
            description="Characters of the texts above that can't be seen or that steer a terminal. In the texts they stand as escapes, "
            "as in `\\u202e`; where this is absent, what looks like an escape was typed. "
            f"Of more than {MAX_HIDDEN} kinds the first are listed.",
        ),
    ]
    summary: Annotated[
        str | None,
        Field(
            default=None, max_length=80, description="The statement's beginning, on one line, for lists; the rest is left out."
        ),
    ]
    database: Annotated[str | None, Field(default=None, max_length=512, description="The database it is for.")]
    role: Annotated[str | None, Field(default=None, max_length=512, description="The target's role that the gate logged in as.")]
    current_role: Annotated[
        str | None,
        Field(
            default=None,
            max_length=512,
            description="The role that it runs as: `role`, unless SET ROLE made it another. Absent: the gate doesn't know.",
        ),
    ]
    search_path: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=512)], ...],
        Field(
            default=(),
            max_length=MAX_SCHEMAS,
            json_schema_extra=ordered(),
            description="The schemas that unqualified names are looked for in, in this order. Absent: the gate doesn't know it. "
            f"A statement under more than {MAX_SCHEMAS} is refused.",
        ),
    ]
    fingerprint: Annotated[
        str,
        Field(
            pattern=r"^[0-9A-Za-z:+/=_-]{16,128}$",
            max_length=128,
            description="Hash of principal, target, database, roles, search path, every statement and value above, and the rule with its "
            "terms: what an approval is bound to.",
        ),
    ]
    impact: Annotated[Impact | None, Field(default=None, description="What the statement would do, if it was measured.")]
    rule: Annotated[RuleReference, Field(description="The rule that holds it.")]
    approvers: Annotated[Approvers, Field(description="Who may decide.")]
    required: Annotated[int, Field(default=1, ge=1, le=MAX_APPROVERS, description="How many different people must approve.")]
    expires_at: Annotated[Timestamp, Field(description="When the request, or the approval it got, is no longer usable.")]
    session_id: Annotated[str | None, Field(default=None, max_length=64, description="The session that asks.")]
    revision: Annotated[str | None, Field(default=None, max_length=64, description="The gate config's revision that holds it.")]
    decision: Annotated[
        Verdict | None,
        Field(
            default=None,
            description="Your decision: `Approved` or `Denied`. Admission moves it to `decisions`, with who you are, and empties it.",
        ),
    ]
    comment: Annotated[
        str | None, Field(default=None, max_length=1024, description="Your comment, which the one who asks will see.")
    ]
    decisions: Annotated[
        tuple[Decision, ...],
        Field(
            default=(),
            max_length=MAX_APPROVERS,
            json_schema_extra=unique_by("by"),
            description="What was decided, one entry a person. Admission alone writes it.",
        ),
    ]
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="comment-with-decision",
            field="comment",
            cel="!has(self.comment) || has(self.decision)",
            holds=lambda self: self.comment is None or self.decision is not None,
            problem="a comment goes with a decision",
            way_forward="write decision: Approved or decision: Denied beside it",
        ),
    )
    change_constraints: ClassVar[tuple[ChangeConstraint, ...]] = (
        ChangeConstraint(
            name="request-immutable",
            field="",
            cel=_frozen_cel(),
            holds=lambda old, new: _asked(old) == _asked(new),
            problem="only decision and comment of a request can be changed",
            way_forward="leave the rest as it is; whoever wants something else sends another statement",
        ),
        ChangeConstraint(
            name="decision-stamped",
            field="decision",
            cel="!has(self.decision) || (has(oldSelf.decision) && self.decision == oldSelf.decision)",
            holds=lambda old, new: new.decision is None or new.decision is old.decision,
            problem="nobody stamped who decided, so it would count for nobody",
            way_forward="have the cluster's administrator see to Sidegate's admission webhook, and decide again",
        ),
        ChangeConstraint(
            name="decisions-final",
            field="decisions",
            cel="!has(oldSelf.decisions) || (has(self.decisions) && "
            "oldSelf.decisions.all(before, self.decisions.exists(after, after == before)))",
            holds=lambda old, new: set(old.decisions) <= set(new.decisions),
            problem="a decision can't be changed or taken back",
            way_forward="have the statement sent again, and decide on the new request",
        ),
        ChangeConstraint(
            name="decisions-one-by-one",
            field="decisions",
            cel="(has(self.decisions) ? size(self.decisions) : 0) <= (has(oldSelf.decisions) ? size(oldSelf.decisions) : 0) + 1",
            holds=lambda old, new: len(new.decisions) <= len(old.decisions) + 1,
            problem="nobody decides for others",
            way_forward="write decision: Approved or decision: Denied, each approver by themselves",
        ),
    )


def _asked(spec: ApprovalRequestSpec) -> ApprovalRequestSpec:
    return spec.model_copy(update={"decision": None, "comment": None, "decisions": ()})


class OutcomeResult(enum.StrEnum):
    """How the statement ended at the target."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Outcome(ApiModel):
    """What became of the approved statement."""

    result: Annotated[OutcomeResult, Field(description="How it ended.")]
    at: Annotated[Timestamp, Field(description="When.")]
    rows: Annotated[int | None, Field(default=None, ge=0, description="Rows affected.")]
    sqlstate: Annotated[
        str | None, Field(default=None, pattern=r"^[0-9A-Z]{5}$", max_length=5, description="PostgreSQL's error code.")
    ]
    message: Annotated[str | None, Field(default=None, max_length=1024, description="The target's message, masked.")]


def _phase_cel() -> str:
    allowed = [
        f"(oldSelf.phase == '{phase.value}' && self.phase in [{', '.join(repr(after.value) for after in sorted({phase, *then}))}])"
        for phase, then in NEXT_PHASES.items()
    ]
    return " || ".join(allowed)


class ApprovalRequestStatus(ApiModel):
    """Where the request stands."""

    phase: Annotated[Phase, Field(default=Phase.PENDING, description="Where it stands.")]
    decisions: Annotated[
        tuple[Decision, ...],
        Field(
            default=(),
            max_length=MAX_APPROVERS,
            json_schema_extra=unique_by("by"),
            description="The decisions that count, one entry a person.",
        ),
    ]
    approvals: Annotated[
        str | None, Field(default=None, max_length=8, description="Approvals there are and are needed, as in `1/2`.")
    ]
    conditions: Conditions
    outcome: Annotated[Outcome | None, Field(default=None, description="What became of the approved statement.")]
    observed_generation: ObservedGeneration
    constraints: ClassVar[tuple[Constraint, ...]] = (
        Constraint(
            name="outcome-when-executed",
            field="outcome",
            cel="!has(self.outcome) || self.phase == 'Executed'",
            holds=lambda self: self.outcome is None or self.phase is Phase.EXECUTED,
            problem="only what was executed has an outcome",
            way_forward="write phase: Executed with it",
        ),
    )
    change_constraints: ClassVar[tuple[ChangeConstraint, ...]] = (
        ChangeConstraint(
            name="phase-forward",
            field="phase",
            cel=_phase_cel(),
            holds=lambda old, new: new.phase is old.phase or new.phase in NEXT_PHASES[old.phase],
            problem="a request doesn't go back to an earlier phase",
            way_forward="make a new request",
        ),
    )


class ApprovalRequest(ApiModel):
    """One statement that waits for people, and what they decided."""

    api_version: Annotated[ApiVersion, Field(default="sidegate.dev/v1alpha1", description="`sidegate.dev/v1alpha1`.")]
    kind: Annotated[Literal["ApprovalRequest"], Field(default="ApprovalRequest", description="`ApprovalRequest`.")]
    metadata: Annotated[ObjectMeta, Field(description="Kubernetes' own metadata.")]
    spec: Annotated[ApprovalRequestSpec, Field(description="What is asked; people write decision and comment, and nothing else.")]
    status: Annotated[
        ApprovalRequestStatus | None,
        Field(default=None, description="Where it stands; the operator or the local back end writes it."),
    ]
