"""What frames tell, as typed values: one struct for each kind of frame, JSON in the file, camelCase, defaults left out.

SECURITY: a recording holds what a client typed. Whoever makes these values hands over text and parameters **already masked** where value
masks apply (`mask.text`), and results as the client saw them. A secret that no detector knows, typed by a client into a statement, is in
the recording: its directory is 0700 and its files 0600 for that reason. Tokens, passwords of logins and cancel keys have no field here.

Text that isn't Unicode (a lone surrogate) is kept as its escape, never refused: what a client sends must not stop its own recording.

Pure. `.entry()` encodes, `decode_entry` decodes strictly.
"""

from __future__ import annotations

from typing import ClassVar, TypeAlias

import msgspec

from sidegate.audit.events import DecisionFacts, SessionFields
from sidegate.policy.decision import MIN_GROUP_SIZE, ColumnMask, ColumnUse, Decision, Masks, MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule
from sidegate.policy.statement import Impact
from sidegate.record.frame import RecordEntry, RecordKind


class _Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel", forbid_unknown_fields=True):
    pass


class _Record(_Part, frozen=True, kw_only=True):
    KIND: ClassVar[RecordKind]

    def entry(self) -> RecordEntry:
        try:
            payload = _encoder.encode(self)
        except UnicodeEncodeError:
            payload = _encoder.encode(_escaped(msgspec.to_builtins(self)))
        return RecordEntry(self.KIND, payload)


def _escaped(value: object) -> object:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_escaped(key): _escaped(item) for key, item in value.items()}
        case list() | tuple():
            return [_escaped(item) for item in value]
        case _:
            return value


class Parameter(_Part, frozen=True, kw_only=True):
    """A bound value: `text`, or `binary` (base64 in JSON), or NULL when neither is there. `masked`: what masked it."""

    text: str | None = None
    binary: bytes | None = None
    masked: str = ""


class TableImpactFields(_Part, frozen=True, kw_only=True):
    """Rows of one table."""

    relation: str
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


class ImpactFields(_Part, frozen=True, kw_only=True):
    """A measured impact."""

    rows: int
    tables: tuple[TableImpactFields, ...] = ()
    is_truncation: bool = False

    @classmethod
    def of(cls, impact: Impact) -> ImpactFields:
        tables = tuple(
            TableImpactFields(relation=t.relation, inserted=t.inserted, updated=t.updated, deleted=t.deleted)
            for t in impact.tables
        )
        return cls(rows=impact.rows, tables=tables, is_truncation=impact.is_truncation)


class RuleFields(_Part, frozen=True, kw_only=True):
    """The rule that a mask comes from."""

    namespace: str
    policy: str
    rule: str

    @classmethod
    def of(cls, source: PolicyRule) -> RuleFields:
        return cls(namespace=source.namespace, policy=source.policy, rule=source.rule)

    def source(self) -> PolicyRule:
        return PolicyRule(self.namespace, self.policy, self.rule)


class ColumnMaskFields(_Part, frozen=True, kw_only=True):
    """Columns that are masked; `schemas` and `tables` None: in every one."""

    names: tuple[str, ...]
    schemas: tuple[str, ...] | None = None
    tables: tuple[str, ...] | None = None
    strategy: MaskStrategy
    use: ColumnUse = ColumnUse.REFUSED
    min_group_size: int = MIN_GROUP_SIZE
    rule: RuleFields


class ValueMaskFields(_Part, frozen=True, kw_only=True):
    """Detectors whose finds are masked."""

    detectors: tuple[str, ...]
    strategy: MaskStrategy
    rule: RuleFields


class MasksFields(_Part, frozen=True, kw_only=True):
    """Every mask that holds for a session: they depend on who has it and on the rules, never on a statement."""

    columns: tuple[ColumnMaskFields, ...] = ()
    values: tuple[ValueMaskFields, ...] = ()

    @classmethod
    def of(cls, masks: Masks) -> MasksFields:
        return cls(
            columns=tuple(
                ColumnMaskFields(
                    names=tuple(sorted(each.names)),
                    schemas=None if each.schemas is None else tuple(sorted(each.schemas)),
                    tables=None if each.tables is None else tuple(sorted(each.tables)),
                    strategy=each.strategy,
                    use=each.use,
                    min_group_size=each.min_group_size,
                    rule=RuleFields.of(each.source),
                )
                for each in masks.columns
            ),
            values=tuple(
                ValueMaskFields(detectors=tuple(sorted(each.detectors)), strategy=each.strategy, rule=RuleFields.of(each.source))
                for each in masks.values
            ),
        )

    def masks(self) -> Masks:
        """As the engine has them."""
        return Masks(
            tuple(
                ColumnMask(
                    frozenset(each.names),
                    None if each.schemas is None else frozenset(each.schemas),
                    None if each.tables is None else frozenset(each.tables),
                    each.strategy,
                    each.use,
                    each.rule.source(),
                    each.min_group_size,
                )
                for each in self.columns
            ),
            tuple(ValueMask(frozenset(each.detectors), each.strategy, each.rule.source()) for each in self.values),
        )


class OpenedRecord(_Record, frozen=True, kw_only=True):
    """Who has the session, on what, under which rules. The first frame of every recording. `masks` None: not recorded, by a gate from
    before they were, or of a session that no policy is asked about.
    """

    KIND = RecordKind.SESSION_OPENED
    session: SessionFields
    environment: str
    revision: str
    gate_version: str
    application_name: str = ""
    masks: MasksFields | None = None


class StatementBeside(_Part, frozen=True, kw_only=True):
    """Another statement that the client's leads to."""

    text: str
    parameters: tuple[Parameter, ...] = ()


class StatementRecord(_Record, frozen=True, kw_only=True):
    """What the client asked for. `via` is `simple` or `extended`; `name` the portal's, None for the unnamed one. `runs` is what an EXECUTE
    or FETCH in it runs; `alternatives` what it is instead should the target have refused the newest statement of its name.
    `asked` is what the client wrote where `text`, which is what was sent, says something else.
    `search_path` is what names were looked up in from this statement on (None: not known); UNSET: as for the statement before.
    """

    KIND = RecordKind.CLIENT_STATEMENT
    statement: int
    text: str
    asked: str | None = None
    via: str = "simple"
    name: str | None = None
    parameters: tuple[Parameter, ...] = ()
    masked: tuple[str, ...] = ()
    runs: tuple[StatementBeside, ...] = ()
    alternatives: tuple[StatementBeside, ...] = ()
    search_path: tuple[str, ...] | msgspec.UnsetType | None = msgspec.UNSET


class DecisionRecord(_Record, frozen=True, kw_only=True):
    """What the engine answered. Stands in front of whatever is sent to the target because of it."""

    KIND = RecordKind.DECISION
    statement: int
    decision: str
    reason: str = ""
    source: str = ""
    detail: str = ""
    revision: str = ""
    observed: str = ""
    way_forward: str = ""
    fingerprint: str = ""
    kinds: tuple[str, ...] = ()
    impact: ImpactFields | None = None

    @classmethod
    def of(
        cls,
        statement: int,
        decision: Decision,
        *,
        fingerprint: str = "",
        kinds: tuple[str, ...] = (),
        impact: Impact | None = None,
    ) -> DecisionRecord:
        facts = DecisionFacts.of(decision)
        return cls(
            statement=statement,
            decision=facts.decision,
            reason=facts.reason,
            source=facts.source,
            detail=facts.detail,
            revision=facts.revision,
            observed=facts.observed,
            fingerprint=fingerprint,
            kinds=kinds,
            impact=None if impact is None else ImpactFields.of(impact),
        )


class HoldRecord(_Record, frozen=True, kw_only=True):
    """The statement waits for a person. `hold_until`: seconds since the epoch, when the gate stops waiting."""

    KIND = RecordKind.HOLD
    statement: int
    approval: str
    hold_until: float
    joined: bool = False


class ApprovalRecord(_Record, frozen=True, kw_only=True):
    """The hold ended. `outcome` is one of the audit event `HoldEnded`. `as_grant`: approved after an earlier client had left."""

    KIND = RecordKind.APPROVAL_DECIDED
    statement: int
    approval: str
    outcome: str
    approvers: tuple[str, ...] = ()
    comment: str = ""
    as_grant: bool = False


class TruncationRecord(_Record, frozen=True, kw_only=True):
    """More came than is recorded for one statement: how much was left out, and its SHA-256 in hexadecimal."""

    KIND = RecordKind.RESULT_TRUNCATED
    statement: int
    rows: int
    bytes: int
    sha256: str


class OutcomeRecord(_Record, frozen=True, kw_only=True):
    """How the statement ended: `tag` of the target, or `sqlstate` and `message` when it failed. `masked`: values masked, by source."""

    KIND = RecordKind.OUTCOME
    statement: int
    tag: str = ""
    sqlstate: str = ""
    message: str = ""
    rows: int | None = None
    masked: dict[str, int] = {}  # msgspec makes a new one each time


class NoticeRecord(_Record, frozen=True, kw_only=True):
    """Something the gate told the client, or that happened to the session: a cancel, a failed check, a message out of turn."""

    KIND = RecordKind.NOTICE
    text: str
    statement: int | None = None


class ConfigRecord(_Record, frozen=True, kw_only=True):
    """Other rules are in force from here on. `masks` as in OpenedRecord."""

    KIND = RecordKind.CONFIG
    revision: str
    previous_revision: str = ""
    masks: MasksFields | None = None


class ClosedRecord(_Record, frozen=True, kw_only=True):
    """The session ended in order; the last frame. `frames` counts those before it, `link` is the last one's, in hexadecimal."""

    KIND = RecordKind.SESSION_CLOSED
    reason: str
    frames: int
    statements: int
    bytes: int
    link: str
    detail: str = ""


Record: TypeAlias = (
    OpenedRecord
    | StatementRecord
    | DecisionRecord
    | HoldRecord
    | ApprovalRecord
    | TruncationRecord
    | OutcomeRecord
    | NoticeRecord
    | ConfigRecord
    | ClosedRecord
)

_encoder = msgspec.json.Encoder()
_decoders: dict[RecordKind, msgspec.json.Decoder[Record]] = {
    record.KIND: msgspec.json.Decoder(record)
    for record in (
        OpenedRecord,
        StatementRecord,
        DecisionRecord,
        HoldRecord,
        ApprovalRecord,
        TruncationRecord,
        OutcomeRecord,
        NoticeRecord,
        ConfigRecord,
        ClosedRecord,
    )
}


def decode_entry(kind: RecordKind, payload: bytes) -> Record:
    """The value of a frame of any kind but RESULT_BYTES.

    Raises:
        msgspec.DecodeError: not JSON, or not the fields of that kind.
        KeyError: RESULT_BYTES, which `frame.decode_result` reads.
    """
    try:
        return _decoders[kind].decode(payload)
    except UnicodeDecodeError as error:  # of a field's name; elsewhere it is a DecodeError already
        raise msgspec.DecodeError(str(error)) from error
