"""An ApprovalRequest as the operator's gateway tells of it, compared with what this gate asked for and decided by this gate's own terms.

Rules it keeps: what was asked is known by a digest over the whole of it and by the object's uid, so another request can't take its place
and none of its fields can change; decisions are counted by the gate's terms with their seals verified; what the object says of its own
phase is believed where it takes away, and never makes an approval: the decisions do, also before the phase follows them. What this
version can't read in what was asked or decided is refused.

An approval of an earlier session is compared with what is asked now: all that must be equal when two statements are the same to the
fingerprint. `kubernetesUsernames` may come in addition: they keep people from deciding, and let nobody.

Pure: values in and out, time is an argument.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from sidegate.approval.backend import HoldRequest, Phase, Verdict
from sidegate.approval.document import API_VERSION, KIND, DocumentError, SpecFields, impact_of, new_document, seconds
from sidegate.approval.hold import Choice
from sidegate.gateway.seals import is_sealed
from sidegate.gateway.tally import CLOCK_TOLERANCE_S, Count, Outcome, Question, Vote, count
from sidegate.mask.plain import plain
from sidegate.policy.decision import ApprovalTerms
from sidegate.policy.seal import SealedDecision

MAX_DECISIONS: Final = 64
_BY_PEOPLE: Final = ("decision", "comment", "decisions")


class ChangedError(ValueError):
    """Not what the gate asked for."""


class _Metadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str
    namespace: str
    uid: str
    resource_version: str
    creation_timestamp: str
    deletion_timestamp: str | None = None


class _Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    phase: Phase = Phase.PENDING


class _Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    api_version: str
    kind: str
    metadata: _Metadata
    spec: dict[str, Any]
    status: _Status = _Status()


class DecisionEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One of `spec.decisions`."""

    by: str
    decision: Choice
    at: str
    groups: tuple[str, ...] = ()
    comment: str | None = None
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class HeldObject:
    """The object, read. `digest` is over what was asked; `also_known_as` are the requester's names in the cluster."""

    name: str
    namespace: str
    uid: str
    version: str
    made_at: float
    spec: SpecFields
    digest: str
    phase: Phase
    decisions: tuple[DecisionEntry, ...]
    times: tuple[float, ...]
    also_known_as: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """The approvers of the gate's terms."""

    groups: frozenset[str]
    users: frozenset[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the gate asked for, as it remembers it. `asks` are the requester's names and their agent's."""

    name: str
    namespace: str
    target: str
    uid: str
    fingerprint: str
    digest: str
    asks: tuple[str, ...]
    terms: ApprovalTerms
    expires_at: float
    rows: int | None


class Standing(enum.Enum):
    """Where a request stands for this gate."""

    OPEN = "nobody has decided enough"
    APPROVED = "an approval is there to be taken"
    TAKEN = "its approval is taken"
    ENDED = "it ended without one"
    DOUBTED = "it is said to be approved, and isn't by the decisions"


@dataclass(frozen=True, slots=True)
class Judged:
    """`verdict` is what a session is told; it lets nothing run unless `standing` is APPROVED, or TAKEN by this gate's own claim."""

    standing: Standing
    verdict: Verdict
    doubts: str = ""


def digest_of(spec: SpecFields) -> str:
    """SHA-256 over everything that is asked."""
    fixed = msgspec.structs.replace(spec, decision=None, comment=None)
    return hashlib.sha256(msgspec.json.encode(fixed, order="deterministic")).hexdigest()


def read_object(wire: object) -> HeldObject:
    """The object that plain values describe.

    Raises:
        DocumentError: it isn't an ApprovalRequest, or has more in what was asked and decided than this version knows.
    """
    try:
        whole = msgspec.convert(wire, _Object, strict=True)
        if (whole.api_version, whole.kind) != (API_VERSION, KIND):
            raise DocumentError(f"it is a {whole.kind[:64]} of {whole.api_version[:64]}")
        asked = {name: value for name, value in whole.spec.items() if name not in _BY_PEOPLE}
        also_known_as: tuple[str, ...] = ()
        if isinstance(asked.get("principal"), Mapping):
            asked["principal"] = principal = dict(asked["principal"])
            also_known_as = msgspec.convert(principal.pop("kubernetesUsernames", ()), tuple[str, ...], strict=True)
        spec = msgspec.convert(asked, SpecFields, strict=True)
        decisions = msgspec.convert(whole.spec.get("decisions", ()), tuple[DecisionEntry, ...], strict=True)
    except msgspec.ValidationError as error:
        raise DocumentError(str(error)) from error
    if len(decisions) > MAX_DECISIONS:
        raise DocumentError(f"it has more than {MAX_DECISIONS} decisions")
    metadata = whole.metadata
    if not (metadata.uid and metadata.resource_version):
        raise DocumentError("it has no uid or no version")
    ended_by_deletion = metadata.deletion_timestamp is not None and whole.status.phase in (Phase.PENDING, Phase.APPROVED)
    return HeldObject(
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        version=metadata.resource_version,
        made_at=seconds(metadata.creation_timestamp),
        spec=spec,
        digest=digest_of(spec),
        phase=Phase.WITHDRAWN if ended_by_deletion else whole.status.phase,
        decisions=decisions,
        times=tuple(seconds(each.at) for each in decisions),
        also_known_as=also_known_as,
    )


def asked_for(name: str, request: HoldRequest, spec: SpecFields, held: HeldObject) -> Asked:
    """What a gate remembers of a request it has had made.

    Raises:
        ChangedError: what was made isn't what was asked for.
    """
    rows = None if request.impact is None else request.impact.rows_affected
    asked = _remembered(name, request, digest_of(spec), held.uid, seconds(spec.expires_at), rows)
    check_same(asked, held)
    return asked


def asked_before(request: HoldRequest, held: HeldObject, now: float) -> Asked:
    """What a gate goes by when the object was made for an earlier session: it stands for `request`, which is asked now.

    Raises:
        ChangedError: it is for something else, or under other terms.
        DocumentError: `request` can't be put to approvers.
    """
    wanted = new_document(held.name, request).spec
    for what, mine, theirs in (
        ("target", (request.namespace, wanted.target), (held.namespace, held.spec.target)),
        ("fingerprint", wanted.fingerprint, held.spec.fingerprint),
        ("requester", _who(wanted), _who(held.spec)),
        ("rule", wanted.rule, held.spec.rule),
        ("approvers", (wanted.approvers, wanted.required), (held.spec.approvers, held.spec.required)),
        (
            "role",
            (wanted.database, wanted.role, wanted.current_role),
            (held.spec.database, held.spec.role, held.spec.current_role),
        ),
        ("search path", wanted.search_path, held.spec.search_path),
    ):
        if mine != theirs:
            raise ChangedError(f"its {what} is another")
    expires_at = seconds(held.spec.expires_at)
    if not expires_at <= now + request.terms.expires_after_s + CLOCK_TOLERANCE_S:
        raise ChangedError("it would be usable for longer than the rule allows")
    impact = None if held.spec.impact is None else impact_of(held.spec.impact).rows_affected
    if impact is None and request.impact is not None:
        raise ChangedError("it has no measured rows, which would be the bound of what may change")
    return _remembered(held.name, request, held.digest, held.uid, expires_at, impact)


def check_same(asked: Asked, held: HeldObject) -> None:
    """Raises ChangedError when the object isn't the one that was asked for, as it was asked for."""
    for what, mine, theirs in (
        ("name", (asked.namespace, asked.name), (held.namespace, held.name)),
        ("uid", asked.uid, held.uid),
        ("fingerprint", asked.fingerprint, held.spec.fingerprint),
        ("request", asked.digest, held.digest),
    ):
        if mine != theirs:
            raise ChangedError(f"its {what} isn't what the gate asked for")


def judge(asked: Asked, held: HeldObject, keys: Mapping[str, str], now: float) -> Judged:
    """Where it stands at `now`, by the decisions that count.

    Raises:
        ChangedError: it isn't what was asked for.
    """
    check_same(asked, held)
    found = _count(asked, held, keys, now)
    verdict = _verdict(asked, held, found)
    match held.phase:
        case Phase.EXECUTED:
            standing = Standing.TAKEN if found.outcome is Outcome.APPROVED and now < asked.expires_at else Standing.ENDED
            return Judged(standing, verdict(Phase.EXECUTED), _doubts(held, found))
        case Phase.WITHDRAWN | Phase.EXPIRED | Phase.DENIED:
            return Judged(Standing.ENDED, verdict(held.phase))
    if found.outcome is Outcome.DENIED:
        return Judged(Standing.ENDED, verdict(Phase.DENIED))
    if not now < asked.expires_at:
        return Judged(Standing.ENDED, verdict(Phase.EXPIRED))
    if found.outcome is Outcome.APPROVED:  # in the phase Pending, too: who grants a claim counts, and moves the phase on
        return Judged(Standing.APPROVED, verdict(Phase.APPROVED))
    if held.phase is Phase.APPROVED:
        return Judged(Standing.DOUBTED, verdict(Phase.PENDING), _doubts(held, found) or "there are too few approvals")
    return Judged(Standing.OPEN, verdict(Phase.PENDING))


def approved(judged: Judged) -> Verdict:
    """The verdict of an approval that this gate has taken."""
    return replace(judged.verdict, phase=Phase.APPROVED)


def _remembered(name: str, request: HoldRequest, digest: str, uid: str, expires_at: float, rows: int | None) -> Asked:
    _, _, subject = request.requester_key.partition("#")
    return Asked(
        name=name,
        namespace=request.namespace,
        target=request.target,
        uid=uid,
        fingerprint=request.fingerprint,
        digest=digest,
        asks=tuple(each for each in (request.requester, subject, request.agent) if each),
        terms=request.terms,
        expires_at=expires_at,
        rows=rows,
    )


def _who(spec: SpecFields) -> tuple[str | None, ...]:
    principal = spec.principal
    return principal.issuer, principal.subject, principal.username, principal.environment, spec.agent


def _count(asked: Asked, held: HeldObject, keys: Mapping[str, str], now: float) -> Count:
    terms = asked.terms
    question = Question(
        asks=(*asked.asks, *held.also_known_as),
        approvers=Named(terms.approver_groups, terms.approver_users),
        required=terms.required,
        made_at=held.made_at,
        expires_at=asked.expires_at,
    )
    votes = [
        Vote(each.by, frozenset(each.groups), each.decision is Choice.APPROVED, at)
        for each, at in zip(held.decisions, held.times, strict=True)
    ]
    return count(question, votes, now, lambda place: _is_genuine(asked, held.decisions[place], keys))


def _is_genuine(asked: Asked, entry: DecisionEntry, keys: Mapping[str, str]) -> bool:
    sealed = SealedDecision(
        namespace=asked.namespace,
        name=asked.name,
        uid=asked.uid,
        fingerprint=asked.fingerprint,
        by=entry.by,
        groups=entry.groups,
        decision=entry.decision.value,
        at=entry.at,
        comment=entry.comment or "",
    )
    return is_sealed(sealed.to_bytes(), entry.signature, keys.values())


def _verdict(asked: Asked, held: HeldObject, found: Count) -> Callable[[Phase], Verdict]:
    counted = [held.decisions[place] for place in found.counted]
    decided_at = held.times[found.counted[-1]] if found.counted else held.made_at
    comment = next((plain(each.comment) for each in reversed(counted) if each.comment), "")

    def of(phase: Phase) -> Verdict:
        choice = Choice.DENIED if phase is Phase.DENIED else Choice.APPROVED
        people = tuple(plain(each.by) for each in counted if each.decision is choice)
        return Verdict(phase, asked.name, people, comment, decided_at, asked.expires_at, asked.rows)

    return of


def _doubts(held: HeldObject, found: Count) -> str:
    return ", ".join(
        f"`{plain(held.decisions[place].by)[:64]}` doesn't count ({why.value})" for place, why in found.discounted[:4]
    )
