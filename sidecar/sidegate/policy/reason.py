"""The closed list of reasons. A refusal, an audit event and a finding name one of these and nothing else; docs/reasons.md is made from it."""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """CamelCase as Kubernetes conditions write them; `meaning` has the sentence for a person, `way_forward` what to do next."""

    GRANTED = "Granted"
    OBSERVED = "Observed"
    NO_GRANT = "NoGrant"
    NO_POLICY = "NoPolicy"
    OUTSIDE_VALIDITY = "OutsideValidity"
    DENIED_BY_RULE = "DeniedByRule"
    APPROVAL_REQUIRED = "ApprovalRequired"
    APPROVAL_DENIED = "ApprovalDenied"
    APPROVAL_EXPIRED = "ApprovalExpired"
    APPROVAL_WITHDRAWN = "ApprovalWithdrawn"
    APPROVAL_UNAVAILABLE = "ApprovalUnavailable"
    TOO_MANY_APPROVALS = "TooManyApprovals"
    IMPACT_EXCEEDS_APPROVAL = "ImpactExceedsApproval"
    IMPACT_NOT_MEASURABLE = "ImpactNotMeasurable"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    STATEMENT_UNPARSABLE = "StatementUnparsable"
    STATEMENT_UNKNOWN = "StatementUnknown"
    STATEMENT_TOO_LARGE = "StatementTooLarge"
    MASKED_COLUMN_STEERS = "MaskedColumnSteers"
    MASKED_COLUMN_COPIED = "MaskedColumnCopied"
    MASK_NOT_PROVABLE = "MaskNotProvable"
    SETTING_REFUSED = "SettingRefused"
    PROTOCOL_REFUSED = "ProtocolRefused"
    EXPRESSION_ERROR = "ExpressionError"
    RECORDING_UNAVAILABLE = "RecordingUnavailable"
    CONFIG_MISSING = "ConfigMissing"
    IDENTITY_REFUSED = "IdentityRefused"
    SESSION_ENDED = "SessionEnded"
    TARGET_UNAVAILABLE = "TargetUnavailable"

    @property
    def meaning(self) -> str:
        return MEANINGS[self][0]

    @property
    def way_forward(self) -> str:
        return MEANINGS[self][1]


MEANINGS: dict[Reason, tuple[str, str]] = {
    Reason.GRANTED: ("a grant allows the statement and no rule takes it away", ""),
    Reason.OBSERVED: (
        "the policy is in Observe mode: it would have been refused or held, and passed",
        "set spec.mode to Enforce",
    ),
    Reason.NO_GRANT: (
        "no grant covers the statement",
        "ask for a grant that lists its kind, database and schema in an AccessPolicy that names you",
    ),
    Reason.NO_POLICY: (
        "no AccessPolicy applies to you on this target",
        "ask for an AccessPolicy whose subjects include you or one of your groups",
    ),
    Reason.OUTSIDE_VALIDITY: (
        "the policies that would allow it aren't valid at this time",
        "try again inside the policy's window, or ask for a longer one",
    ),
    Reason.DENIED_BY_RULE: (
        "a rule denies the statement",
        "change the statement so that the rule doesn't match, or ask the policy's owner",
    ),
    Reason.APPROVAL_REQUIRED: (
        "a rule lets the statement run only after approval",
        "wait for an approver, or come back and send the same statement again once it is approved",
    ),
    Reason.APPROVAL_DENIED: (
        "an approver denied the statement",
        "read the comment, change the statement, and ask again",
    ),
    Reason.APPROVAL_EXPIRED: (
        "nobody decided in time",
        "send the statement again when an approver is at hand; an approval that comes later still counts until it expires",
    ),
    Reason.APPROVAL_WITHDRAWN: ("the request was withdrawn", "send the statement again if it is still wanted"),
    Reason.APPROVAL_UNAVAILABLE: (
        "approval is required and can't be asked for now",
        "ask the gate's operator to mend the approval back end",
    ),
    Reason.TOO_MANY_APPROVALS: (
        "too many approvals are pending, or were asked for of late",
        "wait as long as the message says, or have an approver decide on what is pending; the same statement joins its request",
    ),
    Reason.IMPACT_EXCEEDS_APPROVAL: (
        "the statement would now change more than was approved",
        "narrow the statement, or ask for approval again",
    ),
    Reason.IMPACT_NOT_MEASURABLE: (
        "a limit on rows applies and the statement's effect can't be measured",
        "send the statement alone, outside of multi-statement strings and pipelines",
    ),
    Reason.BUDGET_EXHAUSTED: (
        "the session has used up a budget",
        "go on with what was returned so far, ask for less, or ask the policy's owner for a larger budget",
    ),
    Reason.STATEMENT_UNPARSABLE: (
        "PostgreSQL's grammar doesn't accept the statement",
        "correct the syntax at the position given",
    ),
    Reason.STATEMENT_UNKNOWN: (
        "part of the statement couldn't be classified",
        "write it in a plainer form, or report it as a gap",
    ),
    Reason.STATEMENT_TOO_LARGE: ("the statement is over a limit of the gate", "split it, or use COPY"),
    Reason.MASKED_COLUMN_STEERS: (
        "a masked column would steer what is returned, which reveals its values",
        "leave the column out of predicates, joins, ordering and such expressions, or ask for another `use` on the mask rule: `Equality` "
        "for `column = $1`, `Aggregate` for sums over groups, `Allowed` for everything",
    ),
    Reason.MASKED_COLUMN_COPIED: ("a masked column would be copied to where no mask follows", "leave the column out"),
    Reason.MASK_NOT_PROVABLE: (
        "it can't be shown that masked values stay out of the result",
        "select plain columns, or leave out what the message names",
    ),
    Reason.SETTING_REFUSED: (
        "the setting would change how statements are read or checked",
        "leave the setting as it is",
    ),
    Reason.PROTOCOL_REFUSED: (
        "the protocol message isn't let through",
        "use a client feature that the gate supports: docs/coverage/postgres.md",
    ),
    Reason.EXPRESSION_ERROR: (
        "a policy expression failed, so nothing it guards is allowed",
        "have the policy's owner mend the expression",
    ),
    Reason.RECORDING_UNAVAILABLE: (
        "the session can't be recorded, and recording is required",
        "ask the gate's operator to free the recording volume",
    ),
    Reason.CONFIG_MISSING: (
        "the gate has no valid configuration",
        "ask the gate's operator; until then everything is refused",
    ),
    Reason.IDENTITY_REFUSED: (
        "the token wasn't accepted",
        "get a new token for this gate's audience and connect again",
    ),
    Reason.SESSION_ENDED: ("the session's right to be open ended", "connect again with a fresh token"),
    Reason.TARGET_UNAVAILABLE: (
        "the target can't be reached or refused the gate",
        "try again later, or ask the gate's operator",
    ),
}
