"""An approval request as an `ApprovalRequest` object: the same shape that a cluster has, so that the same eyes and tools read it.

Structs here mirror the resource, because a gate's data path doesn't load the API types; a test holds the two together. What the
resource has no field for stands in annotations: who a decider is by issuer and subject (usernames can be mapped differently for
two tokens of one person), until when the gate holds the statement, why a request was withdrawn.

Rules: reading is strict, what doesn't fit is a `DocumentError`; `digest` covers all that must never change after the request is made.
What can't be seen in a text is written as its escape here already, and named in `hiddenCharacters`: these objects are read with many
tools, and not all of them keep a text from steering the terminal.

Pure: plain dicts in and out; YAML is `files`' business.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from sidegate.approval.backend import HoldRequest, Phase, ShownStatement
from sidegate.approval.hold import Choice, Hold, Vote
from sidegate.approval.shown import MAX_NAME, ParameterFields, Shown, StatementFields, TooMuchError, parameters_of
from sidegate.mask.plain import plain
from sidegate.policy.decision import ApprovalTerms
from sidegate.policy.statement import Impact, TableImpact

API_VERSION: Final = "sidegate.dev/v1alpha1"
KIND: Final = "ApprovalRequest"
MAX_COMMENT: Final = 1024
_MAX_GROUPS: Final = 256
_MAX_LABEL: Final = 256
_MAX_TABLES: Final = 64
_SUMMARY: Final = 80
_ALPHABET: Final = (
    "bcdfghjkmnpqrstvwxz2456789"  # as Kubernetes' generated names: no vowels, nothing that reads like something else
)
_SQLSTATE: Final = re.compile(r"(?=.*[0-9])[0-9A-Z]{5}", re.ASCII)
_ROWS: Final = re.compile(r"[A-Z ]+? (?:[0-9]+ )?([0-9]+)", re.ASCII)

DECIDERS: Final = "sidegate.dev/deciders"
HOLD_UNTIL: Final = "sidegate.dev/hold-until"
WITHDRAWN: Final = "sidegate.dev/withdrawn-because"


class DocumentError(ValueError):
    """Not an approval request."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel", forbid_unknown_fields=True):
    pass


class MetadataFields(_Part, frozen=True, kw_only=True):
    name: str
    namespace: str
    creation_timestamp: str
    annotations: dict[str, str] = {}


class PrincipalFields(_Part, frozen=True, kw_only=True):
    issuer: str
    subject: str
    username: str
    groups: tuple[str, ...] = ()
    environment: str | None = None
    source_address: str | None = None


class RuleFields(_Part, frozen=True, kw_only=True):
    namespace: str
    policy: str
    name: str


class TableImpactFields(_Part, frozen=True, kw_only=True):
    relation: str
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


class ImpactFields(_Part, frozen=True, kw_only=True):
    rows: int
    tables: tuple[TableImpactFields, ...] = ()
    is_truncation: bool = False


class ApproversFields(_Part, frozen=True, kw_only=True):
    groups: tuple[str, ...] = ()
    users: tuple[str, ...] = ()


class SpecFields(_Part, frozen=True, kw_only=True):
    target: str
    principal: PrincipalFields
    agent: str | None = None
    reason: str | None = None
    statement: str
    parameters: tuple[ParameterFields, ...] = ()
    runs: tuple[StatementFields, ...] = ()
    alternatives: tuple[StatementFields, ...] = ()
    hidden_characters: tuple[str, ...] = ()
    summary: str | None = None
    database: str | None = None
    role: str | None = None
    current_role: str | None = None
    search_path: tuple[str, ...] = ()
    fingerprint: str
    impact: ImpactFields | None = None
    rule: RuleFields
    approvers: ApproversFields
    required: int = 1
    expires_at: str
    session_id: str | None = None
    revision: str | None = None
    decision: Choice | None = None
    comment: str | None = None


class DecisionFields(_Part, frozen=True, kw_only=True):
    by: str
    groups: tuple[str, ...] = ()
    decision: Choice
    at: str
    comment: str | None = None


class OutcomeFields(_Part, frozen=True, kw_only=True):
    result: str
    at: str
    rows: int | None = None
    sqlstate: str | None = None
    message: str | None = None


class StatusFields(_Part, frozen=True, kw_only=True):
    phase: Phase
    decisions: tuple[DecisionFields, ...] = ()
    approvals: str | None = None
    outcome: OutcomeFields | None = None


class ApprovalDocument(_Part, frozen=True, kw_only=True):
    """A whole object."""

    api_version: str
    kind: str
    metadata: MetadataFields
    spec: SpecFields
    status: StatusFields


def new_name(now: float, random: bytes) -> str:
    """A request's name: when it was made, and a letter for each byte."""
    letters = "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in random)
    return f"ar-{datetime.fromtimestamp(now, UTC):%Y%m%d-%H%M%S}-{letters}"


def outcome_of(outcome: str, now: float) -> OutcomeFields:
    """What became of a statement, of the target's command tag or the SQLSTATE of its error."""
    rows = _ROWS.fullmatch(outcome)
    is_error = _SQLSTATE.fullmatch(outcome) is not None
    return OutcomeFields(
        result="Failed" if is_error else "Succeeded",
        at=timestamp(now),
        rows=int(rows[1]) if rows else None,
        sqlstate=outcome if is_error else None,
        message=None if is_error else outcome[:1024] or None,
    )


def timestamp(now: float) -> str:
    """RFC 3339 in UTC, to the microsecond, so that no expiry moves by being written down."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def seconds(text: str) -> float:
    """Seconds since the epoch of a timestamp.

    Raises:
        DocumentError: not a moment with its offset from UTC.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise DocumentError(f"`{text[:40]}` is not a moment") from error
    if moment.tzinfo is None:
        raise DocumentError(f"`{text[:40]}` has no offset from UTC")
    return moment.timestamp()


def new_document(name: str, request: HoldRequest) -> ApprovalDocument:
    """The object for a new request.

    Raises:
        DocumentError: the statement can't be shown whole, or its source isn't a rule.
    """
    try:
        shown = Shown(request)
    except TooMuchError as error:
        raise DocumentError(f"{error} that approvers can be shown") from error
    namespace, _, rest = request.source.partition("/")
    policy, _, rule = rest.partition("#")
    if not (namespace and policy and rule):
        raise DocumentError(f"its source `{request.source}` isn't a rule")
    issuer, _, subject = request.requester_key.partition("#")
    words = f"{request.reason}: {request.detail}" if request.detail else request.reason
    spec = SpecFields(
        target=request.target,
        principal=PrincipalFields(
            issuer=issuer,
            subject=subject,
            username=request.requester,
            groups=tuple(group for group in sorted(set(request.groups)) if len(group) <= _MAX_LABEL)[:_MAX_GROUPS],
            environment=request.environment,
            source_address=request.source_address,
        ),
        agent=request.agent,
        reason=plain(words)[:MAX_COMMENT] or None,
        statement=shown.statement,
        parameters=shown.parameters,
        runs=shown.runs,
        alternatives=shown.alternatives,
        hidden_characters=shown.hidden_characters,
        summary=plain(" ".join(request.statement.split()))[:_SUMMARY] or None,
        database=plain(request.database)[:MAX_NAME] or None,
        role=plain(request.role)[:MAX_NAME] or None,
        current_role=None if request.current_role is None else plain(request.current_role)[:MAX_NAME],
        search_path=shown.search_path,
        fingerprint=request.fingerprint,
        impact=None if request.impact is None else _impact_fields(request.impact),
        rule=RuleFields(namespace=namespace, policy=policy, name=rule),
        approvers=ApproversFields(
            groups=tuple(sorted(request.terms.approver_groups)), users=tuple(sorted(request.terms.approver_users))
        ),
        required=max(1, request.terms.required),
        expires_at=timestamp(request.expires_at),
        session_id=request.session_id or None,
        revision=request.revision or None,
    )
    metadata = MetadataFields(
        name=name,
        namespace=request.namespace,
        creation_timestamp=timestamp(request.requested_at),
        annotations={HOLD_UNTIL: timestamp(request.hold_until)},
    )
    return ApprovalDocument(
        api_version=API_VERSION,
        kind=KIND,
        metadata=metadata,
        spec=spec,
        status=StatusFields(phase=Phase.PENDING, approvals=f"0/{spec.required}"),
    )


def to_wire(document: ApprovalDocument) -> dict[str, Any]:
    """Plain dicts, lists and strings."""
    wire: dict[str, Any] = msgspec.to_builtins(document)
    return wire


def from_wire(wire: object) -> ApprovalDocument:
    """Strictly read plain values.

    Raises:
        DocumentError: anything that isn't exactly an object as written here.
    """
    try:
        document = msgspec.convert(wire, ApprovalDocument, strict=True)
    except msgspec.ValidationError as error:
        raise DocumentError(str(error)) from error
    if (document.api_version, document.kind) != (API_VERSION, KIND):
        raise DocumentError(f"it is a {document.kind} of {document.api_version}")
    return document


def digest(document: ApprovalDocument) -> str:
    """SHA-256 over everything that is fixed once the request is made: all but decisions, comments and the status."""
    spec = msgspec.structs.replace(document.spec, decision=None, comment=None)
    metadata = document.metadata
    fixed = (metadata.name, metadata.namespace, metadata.creation_timestamp, metadata.annotations.get(HOLD_UNTIL), spec)
    return hashlib.sha256(msgspec.json.encode(fixed, order="deterministic")).hexdigest()


def request_of(document: ApprovalDocument) -> HoldRequest:
    """The request that a document holds.

    Raises:
        DocumentError: a time in it isn't one.
    """
    spec, metadata = document.spec, document.metadata
    requested_at = seconds(metadata.creation_timestamp)
    terms = ApprovalTerms(
        approver_groups=frozenset(spec.approvers.groups),
        approver_users=frozenset(spec.approvers.users),
        required=spec.required,
        expires_after_s=seconds(spec.expires_at) - requested_at,
    )
    reason, _, detail = (spec.reason or "").partition(": ")
    return HoldRequest(
        target=spec.target,
        namespace=metadata.namespace,
        session_id=spec.session_id or "",
        requester_key=f"{spec.principal.issuer}#{spec.principal.subject}",
        requester=spec.principal.username,
        agent=spec.agent,
        reason=reason,
        source=f"{spec.rule.namespace}/{spec.rule.policy}#{spec.rule.name}",
        detail=detail,
        statement=spec.statement,
        parameters=parameters_of(spec.parameters),
        runs=tuple(ShownStatement(each.statement, parameters_of(each.parameters)) for each in spec.runs),
        alternatives=tuple(ShownStatement(each.statement, parameters_of(each.parameters)) for each in spec.alternatives),
        search_path=spec.search_path or None,
        current_role=spec.current_role,
        fingerprint=spec.fingerprint,
        impact=None if spec.impact is None else impact_of(spec.impact),
        terms=terms,
        requested_at=requested_at,
        hold_until=seconds(metadata.annotations.get(HOLD_UNTIL, metadata.creation_timestamp)),
        groups=spec.principal.groups,
        environment=spec.principal.environment,
        source_address=spec.principal.source_address,
        database=spec.database or "",
        role=spec.role or "",
        revision=spec.revision or "",
    )


def votes_of(document: ApprovalDocument) -> tuple[Vote, ...]:
    """What was decided, by whom. A decision without its decider's key is left out: it can't be told from the requester's own.

    Raises:
        DocumentError: a time, or the list of deciders, isn't one.
    """
    try:
        keys = msgspec.json.decode(document.metadata.annotations.get(DECIDERS, "{}"), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise DocumentError(f"annotation {DECIDERS} can't be read: {error}") from error
    return tuple(
        Vote(each.by, keys[each.by], each.decision, seconds(each.at), each.groups, each.comment or "")
        for each in document.status.decisions
        if each.by in keys
    )


def with_hold(document: ApprovalDocument, hold: Hold, **annotations: str) -> ApprovalDocument:
    """The document with the votes and the phase of `hold`."""
    decisions = tuple(
        DecisionFields(
            by=each.by,
            groups=each.groups,
            decision=each.choice,
            at=timestamp(each.at),
            comment=plain(each.comment)[:MAX_COMMENT] or None,
        )
        for each in hold.votes
    )
    notes = dict(document.metadata.annotations)
    if hold.votes:
        notes[DECIDERS] = msgspec.json.encode({each.by: each.key for each in hold.votes}).decode()
    notes.update(annotations)
    status = msgspec.structs.replace(
        document.status, phase=hold.phase, decisions=decisions, approvals=f"{hold.approvals}/{hold.required}"
    )
    metadata = msgspec.structs.replace(document.metadata, annotations=notes)
    return msgspec.structs.replace(document, metadata=metadata, status=status)


def _impact_fields(impact: Impact) -> ImpactFields:
    largest = sorted(impact.tables, key=lambda t: -(t.inserted + t.updated + t.deleted))[:_MAX_TABLES]
    return ImpactFields(
        rows=impact.rows,
        tables=tuple(
            TableImpactFields(relation=t.relation, inserted=t.inserted, updated=t.updated, deleted=t.deleted) for t in largest
        ),
        is_truncation=impact.is_truncation,
    )


def impact_of(fields: ImpactFields) -> Impact:
    """The impact as it was measured, of the tables that the request shows."""
    tables = tuple(TableImpact(t.relation, t.inserted, t.updated, t.deleted) for t in fields.tables)
    return Impact(fields.rows, tables, fields.is_truncation)
