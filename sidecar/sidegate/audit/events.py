"""The vocabulary of the audit log: every fact that a gate states about itself, as one frozen struct, encoded as one JSON line.

Rules: the vocabulary is closed (`AuditEvent` lists it; docs/audit.md says each, and a test holds the two together). An event about a
session carries that session whole, so that a line can be read alone. Statement text is never raw: the gate hands over the normalised
form (constants replaced) or the masked text, with the fingerprint that ties it to its recording and its approval. Tokens, passwords and
result values have no field here. Where text comes from a client it is cut at `MAX_TEXT_CHARACTERS`.

Field names are camelCase in JSON; a field at its default is left out. Times are RFC 3339 in UTC (`at` makes them from `now`).

Pure: no clock, no I/O. Writing is `sinks`, linking is `chain`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeAlias

import msgspec

from sidegate.policy.decision import Allow, Decision, Deny, RequireApproval
from sidegate.policy.principal import Principal

MAX_TEXT_CHARACTERS: Final = 8192


def at(now: float) -> datetime:
    """`now` (seconds since the epoch) as events carry it."""
    return datetime.fromtimestamp(now, UTC)


def cut(text: str) -> str:
    """`text`, at most `MAX_TEXT_CHARACTERS` long, saying so where something was left out."""
    if len(text) <= MAX_TEXT_CHARACTERS:
        return text
    return f"{text[:MAX_TEXT_CHARACTERS]}... ({len(text) - MAX_TEXT_CHARACTERS} more characters)"


class _Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    pass


class PrincipalFields(_Part, frozen=True, kw_only=True):
    """The verified identity; `groups` are sorted. A passthrough session has no principal, but the name of what let it in."""

    username: str
    subject: str
    issuer: str
    agent: str | None = None
    groups: tuple[str, ...] = ()
    environment: str | None = None

    @classmethod
    def of(cls, principal: Principal) -> PrincipalFields:
        return cls(
            username=principal.username,
            subject=principal.subject,
            issuer=principal.issuer,
            agent=principal.agent,
            groups=tuple(sorted(principal.groups)),
            environment=principal.environment,
        )


class SessionFields(_Part, frozen=True, kw_only=True):
    """What every event about a session carries. Made once, when the session is open; `target` is `namespace/name`."""

    id: str
    target: str
    source_address: str
    database: str
    role: str
    principal: PrincipalFields | None = None
    passthrough: str | None = None


class DecisionFacts(NamedTuple):
    """A decision as words, for events and recordings alike. `observed` is `Deny` or `RequireApproval` with its source and reason."""

    decision: str
    reason: str
    source: str
    detail: str
    revision: str
    observed: str

    @classmethod
    def of(cls, decision: Decision) -> DecisionFacts:
        observed = ""
        match decision:
            case Allow():
                reason, detail = decision.reason.value, ""
                if decision.observed is not None:
                    seen = decision.observed
                    observed = f"{type(seen).__name__} by {seen.source}: {seen.reason.value}"
            case Deny() | RequireApproval():
                reason, detail = decision.reason.value, decision.detail
            case _:  # Measure: the question isn't answered yet
                reason, detail = "", f"rows are measured against a limit of {decision.more_than}"
                if decision.asks_reach:
                    detail = "it runs where it can be taken back, should its CASCADE reach further than was found"
        return cls(type(decision).__name__, reason, str(decision.source), detail, decision.revision, observed)


class _Event(_Part, frozen=True, kw_only=True, tag_field="event"):
    time: datetime


class _SessionEvent(_Event, frozen=True, kw_only=True):
    session: SessionFields


class GateStarted(_Event, frozen=True, kw_only=True, tag=True):
    """A gate process is up and about to listen."""

    version: str
    target: str = ""
    revision: str = ""
    listen: tuple[str, ...] = ()


class GateStopped(_Event, frozen=True, kw_only=True, tag=True):
    """A gate process ends in order. A start that follows a start without this one tells of a crash."""

    target: str = ""
    reason: str = ""


class ConfigLoaded(_Event, frozen=True, kw_only=True, tag=True):
    """A gate config is enforced from now on."""

    target: str
    revision: str
    previous_revision: str = ""


class ConfigRefused(_Event, frozen=True, kw_only=True, tag=True):
    """A gate config was not taken. `revision` is the one that stays in force; empty: none, and everything is refused."""

    problem: str
    target: str = ""
    revision: str = ""


class LoginRefused(_Event, frozen=True, kw_only=True, tag=True):
    """A client was not let in. `username`, `subject` and `issuer` are claims that may be unverified: they are what the client said."""

    target: str
    source_address: str
    reason: str
    detail: str = ""
    source: str = ""
    username: str = ""
    subject: str = ""
    issuer: str = ""
    agent: str | None = None
    database: str = ""
    role: str = ""
    revision: str = ""


class SessionOpened(_SessionEvent, frozen=True, kw_only=True, tag=True):
    """A principal, or a passthrough, has a session on the target. `recording` is the file's name, empty when there is none."""

    revision: str
    recording: str = ""
    application_name: str = ""
    client_encrypted: bool = False


class SessionClosed(_SessionEvent, frozen=True, kw_only=True, tag=True):
    """A session ended. `recording_link` is the last link of its recording's chain, in hexadecimal: the anchor outside of the file."""

    reason: str
    duration_s: float
    statements: int = 0
    denied: int = 0
    rows: int = 0
    recording: str = ""
    recording_link: str = ""
    detail: str = ""


class StatementDecided(_SessionEvent, frozen=True, kw_only=True, tag=True):
    """The engine answered for one statement. Written before anything of it is sent to the target."""

    statement: int
    decision: str
    reason: str
    source: str
    revision: str
    detail: str = ""
    observed: str = ""
    kinds: tuple[str, ...] = ()
    text: str = ""
    fingerprint: str = ""
    rows_measured: int | None = None

    @classmethod
    def of(
        cls,
        time: datetime,
        session: SessionFields,
        statement: int,
        decision: Decision,
        *,
        text: str = "",
        fingerprint: str = "",
        kinds: tuple[str, ...] = (),
        rows_measured: int | None = None,
    ) -> StatementDecided:
        """From a decision. `text` is normalised or masked, never raw; it is cut here."""
        facts = DecisionFacts.of(decision)
        return cls(
            time=time,
            session=session,
            statement=statement,
            decision=facts.decision,
            reason=facts.reason,
            source=facts.source,
            revision=facts.revision,
            detail=facts.detail,
            observed=facts.observed,
            kinds=kinds,
            text=cut(text),
            fingerprint=fingerprint,
            rows_measured=rows_measured,
        )


class StatementExecuted(_SessionEvent, frozen=True, kw_only=True, tag=True):
    """The target answered. `outcome` is its command tag, or its SQLSTATE when `failed`; `rows` is what the tag counted."""

    statement: int
    outcome: str
    rows: int | None = None
    failed: bool = False
    duration_s: float | None = None
    approval: str = ""


class Held(_SessionEvent, frozen=True, kw_only=True, tag=True):
    """A statement waits for a person. `approval` names the ApprovalRequest; `joined` when an earlier one was still pending."""

    statement: int
    approval: str
    source: str
    reason: str
    detail: str = ""
    fingerprint: str = ""
    rows_measured: int | None = None
    hold_until: datetime | None = None
    joined: bool = False


class ApprovalDecided(_SessionEvent, frozen=True, kw_only=True, tag=True):
    """A request ended: `phase` is Approved, Denied, Expired or Withdrawn. `as_grant`: the client had left, and came back to use it."""

    statement: int
    approval: str
    phase: str
    approvers: tuple[str, ...] = ()
    comment: str = ""
    as_grant: bool = False


class HoldEnded(_SessionEvent, frozen=True, kw_only=True, tag=True):
    """The statement waits no longer. `outcome` is Approved, Denied, Expired, Withdrawn, TimedOut, ClientLeft or Failed."""

    statement: int
    approval: str
    outcome: str
    waited_s: float
    detail: str = ""


class Masked(_SessionEvent, frozen=True, kw_only=True, tag=True):
    """Values were masked in what the client saw: how many, by the rule or detector that asked for it."""

    statement: int
    cells: dict[str, int]


class CancelReceived(_Event, frozen=True, kw_only=True, tag=True):
    """A cancel came in, which nobody needs to prove a right for. `session` is absent when its key named none."""

    source_address: str
    target: str
    session: SessionFields | None = None
    withdrew: str = ""


class ProtocolRefused(_Event, frozen=True, kw_only=True, tag=True):
    """Bytes that the gate doesn't let through: an unknown message, a wrong length, a feature that is closed."""

    target: str
    source_address: str
    detail: str
    message: str = ""
    session: SessionFields | None = None


class RecordingFailed(_Event, frozen=True, kw_only=True, tag=True):
    """A session can't be recorded (any longer). `consequence` is what the recording mode made of it: Refused or Unrecorded."""

    target: str
    problem: str
    consequence: str
    session: SessionFields | None = None
    recording: str = ""


AuditEvent: TypeAlias = (
    GateStarted
    | GateStopped
    | ConfigLoaded
    | ConfigRefused
    | LoginRefused
    | SessionOpened
    | SessionClosed
    | StatementDecided
    | StatementExecuted
    | Held
    | ApprovalDecided
    | HoldEnded
    | Masked
    | CancelReceived
    | ProtocolRefused
    | RecordingFailed
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AuditEvent] = msgspec.json.Decoder(AuditEvent)


def encode_event(event: AuditEvent) -> bytes:
    """One JSON object on one line, without the line's end. JSON escapes every control character, so no text can start a line."""
    return _encoder.encode(event)


def decode_event(line: bytes) -> AuditEvent:
    """The event of a line; what a sink added to it (`writer`, `sequence`, `link`) is left aside.

    Raises:
        msgspec.DecodeError: not an event of this vocabulary.
    """
    return _decoder.decode(line)
