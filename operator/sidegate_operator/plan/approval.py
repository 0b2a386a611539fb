"""Who may decide on an ApprovalRequest, and what admission makes of an update of one: a stamped patch, leave, or a refusal.

Rules it keeps:
- Who decided is what the API server says of the one who asks it, never what the object says. People write `spec.decision`; it becomes an
  entry of `spec.decisions` with their name, their groups that count, the time and a seal, and is emptied for the next person.
- A deciding update changes nothing else. The decision must be for a request that is open, by an approver whom the request names, who is
  not the one who asks and hasn't decided: whatever else they may do in the cluster.
- The one who asks is known by more names than one: an API server puts a prefix before an issuer's names. A name that ends in the other
  one after `:`, `#`, `/`, `|` or `\\` is the same person, in any case of letters; further names are in the request. To keep someone from
  deciding, names match generously; to let someone decide, exactly.
- Names that start with `system:` belong to no person. They decide only where `approvers.users` names them.
- What can't be read is refused. The operator itself decides nothing.

Left out: signing (the seal is an argument), admission reviews, and what follows from decisions (`approval_lifecycle`). An API server shows
whom an impersonating client impersonates, and nobody can tell from here.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from pydantic import ValidationError

from sidegate.api.approval_request import ApprovalRequest, ApprovalRequestSpec, Decision, Phase, Verdict
from sidegate.api.rule import Approvers
from sidegate.api.text import Label, Timestamp
from sidegate.gateway.people import approver_groups, is_one_of, is_person, is_same_person
from sidegate.mask.plain import plain
from sidegate.policy.seal import SealedDecision

Wire: TypeAlias = "Mapping[str, Any]"
Seal: TypeAlias = "Callable[[bytes], str]"

MAX_COMMENT: Final = 1024
OWN_PREFIX: Final = "sidegate.dev/"
_WRITTEN_BY_PEOPLE: Final = ("decision", "comment")
_SERVERS_OWN: Final = frozenset({"resourceVersion", "managedFields", "generation"})  # metadata that changes with every update


class RefusalReason(enum.StrEnum):
    """Why an update isn't let through."""

    UNREADABLE = "Unreadable"
    STATUS_FORGED = "StatusForged"
    DECISIONS_EDITED = "DecisionsEdited"
    REQUEST_EDITED = "RequestEdited"
    METADATA_EDITED = "MetadataEdited"
    UNSTAMPED = "Unstamped"
    DECISION_UNKNOWN = "DecisionUnknown"
    COMMENT_UNUSABLE = "CommentUnusable"
    REQUEST_ENDED = "RequestEnded"
    REQUEST_EXPIRED = "RequestExpired"
    NAME_UNUSABLE = "NameUnusable"
    REQUESTER = "Requester"
    ALREADY_DECIDED = "AlreadyDecided"
    NOT_A_PERSON = "NotAPerson"
    NOT_AN_APPROVER = "NotAnApprover"


@dataclass(frozen=True, slots=True)
class Decider:
    """Who asks the API server, by its own authentication."""

    username: str
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Refused:
    """The update isn't let through."""

    reason: RefusalReason
    problem: str
    way_forward: str

    @property
    def message(self) -> str:
        return f"{self.problem}; fix: {self.way_forward}"


@dataclass(frozen=True, slots=True)
class Undecided:
    """The update decides nothing and may pass as it is."""


@dataclass(frozen=True, slots=True)
class Stamped:
    """The update decides. `patch` (JSON Patch, RFC 6902) makes `stamped` of the object as it came."""

    decision: Decision
    patch: tuple[dict[str, Any], ...]
    stamped: dict[str, Any]


def judge_update(
    old: Wire, new: Wire, who: Decider, now: float, operators: frozenset[str], seal: Seal
) -> Stamped | Undecided | Refused:
    """An update of the request itself, as the API server has it before (`old`) and as `who` wants it (`new`)."""
    try:
        request = ApprovalRequest.from_wire(old)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"]) or "metadata"
        return _unreadable(f"the request that is stored doesn't fit its type at `{plain(field)[:64]}`")
    if not request.metadata.uid:
        return _unreadable("the request that is stored has no uid, by which a decision is bound to it")
    spec = new.get("spec")
    metadata = new.get("metadata")
    if not (isinstance(spec, Mapping) and isinstance(metadata, Mapping)):
        return _unreadable("it has no spec or no metadata")
    edited = _edited(old, new, who, operators)
    if edited is not None:
        return edited
    if all(name not in spec for name in _WRITTEN_BY_PEOPLE):
        return Undecided()
    intent = _intent(spec)
    if isinstance(intent, Refused):
        return intent
    verdict, comment = intent
    groups = _may_decide(request, who, now)
    if isinstance(groups, Refused):
        return groups
    return _stamp(request, new, _Entry(Label(who.username), groups, verdict, Timestamp.from_epoch(now), comment), seal)


def is_requester(spec: ApprovalRequestSpec, username: str) -> bool:
    """Whether `username` may be the one who asks, or the agent that acts for them."""
    return is_one_of(asks(spec), username)


def asks(spec: ApprovalRequestSpec) -> tuple[str, ...]:
    """All names of the one who asks, and of the agent that acts for them."""
    principal = spec.principal
    return (principal.username, principal.subject, *principal.kubernetes_usernames, *filter(None, [spec.agent]))


def sealed(request: ApprovalRequest, decision: Decision) -> bytes:
    """What the decision's signature covers."""
    return SealedDecision(
        namespace=str(request.metadata.namespace),
        name=str(request.metadata.name),
        uid=request.metadata.uid or "",
        fingerprint=request.spec.fingerprint,
        by=str(decision.by),
        groups=tuple(map(str, decision.groups)),
        decision=decision.decision.value,
        at=str(decision.at),
        comment=decision.comment or "",
    ).to_bytes()


@dataclass(frozen=True, slots=True)
class _Entry:
    by: Label
    groups: tuple[str, ...]
    verdict: Verdict
    at: Timestamp
    comment: str | None


def _edited(old: Wire, new: Wire, who: Decider, operators: frozenset[str]) -> Refused | None:
    """What the update changes that it may not: everything but decision and comment, and beside these everything."""
    before, after = old["spec"], new["spec"]
    if any(name in before for name in _WRITTEN_BY_PEOPLE):
        return Refused(
            RefusalReason.UNSTAMPED,
            "the request holds a decision that nobody stamped, so it can't be told whose it is",
            "have the statement sent again, and decide on the new request",
        )
    if before.get("decisions") != after.get("decisions"):
        return Refused(
            RefusalReason.DECISIONS_EDITED,
            "spec.decisions is written by admission, which knows who decides",
            "write spec.decision: Approved or spec.decision: Denied, and leave the list as it is",
        )
    if before != {name: value for name, value in after.items() if name not in _WRITTEN_BY_PEOPLE}:
        changed = sorted(n for n in {*before, *after} - {*_WRITTEN_BY_PEOPLE} if before.get(n, _ABSENT) != after.get(n, _ABSENT))
        return Refused(
            RefusalReason.REQUEST_EDITED,
            f"what is asked can't be changed: {', '.join(f'`spec.{plain(name)[:64]}`' for name in changed[:8])}",
            "leave it as it is; whoever wants something else sends another statement",
        )
    if new.get("status") not in (None, old.get("status")):  # what isn't sent is kept as it is by the API server
        return _forged_status(who)
    if any(old.get(name) != new.get(name) for name in {*old, *new} - {"spec", "status", "metadata"}):
        return _unreadable("it is of another kind than the one that is stored")
    decides = any(name in after for name in _WRITTEN_BY_PEOPLE)
    fields = _edited_metadata(old["metadata"], new["metadata"], may_label=not decides)
    if not fields or (who.username in operators and not decides):
        return None
    return Refused(
        RefusalReason.METADATA_EDITED,
        f"{'a decision changes nothing else, and ' if decides else ''}{', '.join(fields)} would change",
        "decide in an update of its own" if decides else "leave it as it is: the operator keeps it",
    )


_ABSENT: Final = object()


def _edited_metadata(before: Wire, after: Wire, *, may_label: bool) -> list[str]:
    fields = []
    for name in sorted({*before, *after} - _SERVERS_OWN):
        was, is_now = before.get(name, _ABSENT), after.get(name, _ABSENT)
        if name in {"labels", "annotations"} and may_label:
            was, is_now = _own(was), _own(is_now)
        if was != is_now:
            fields.append(f"`metadata.{plain(name)[:64]}`")
    return fields


def _own(entries: object) -> object:
    """Labels and annotations that the operator keeps; others are everybody's."""
    if entries is _ABSENT or entries is None:
        return {}
    return {k: v for k, v in entries.items() if OWN_PREFIX in k} if isinstance(entries, Mapping) else entries


def _intent(spec: Wire) -> tuple[Verdict, str | None] | Refused:
    written = spec.get("decision")
    if not isinstance(written, str) or written not in set(Verdict):
        shown = f"`{plain(str(written))[:64]}` is no decision" if "decision" in spec else "a comment goes with a decision"
        return Refused(RefusalReason.DECISION_UNKNOWN, shown, "write spec.decision: Approved or spec.decision: Denied")
    comment = spec.get("comment")
    if comment is None:
        return Verdict(written), None
    if not isinstance(comment, str) or len(plain(comment)) > MAX_COMMENT:
        return Refused(
            RefusalReason.COMMENT_UNUSABLE,
            f"the comment isn't a text of at most {MAX_COMMENT} characters, escapes of those that can't be seen counted",
            "shorten it",
        )
    return Verdict(written), plain(comment) or None


def _may_decide(request: ApprovalRequest, who: Decider, now: float) -> tuple[str, ...] | Refused:
    """The groups that make `who` an approver of this request at this moment."""
    spec, name = request.spec, f"`{request.metadata.name}`"
    me = f"`{plain(who.username)[:256]}`"
    ended = _ended(request)
    if ended is not None:
        return Refused(
            RefusalReason.REQUEST_ENDED,
            f"{name} is {ended} already",
            "a decision is final: have the statement sent again for a new request",
        )
    if now >= spec.expires_at.epoch_s:
        return Refused(
            RefusalReason.REQUEST_EXPIRED,
            f"{name} expired at {spec.expires_at}",
            "have the statement sent again for a new request",
        )
    try:
        Label(who.username)
    except ValueError:
        return Refused(
            RefusalReason.NAME_UNUSABLE,
            f"{me} can't be written down as a decider: it has control characters, blanks around it, or more than 256 characters",
            "have another approver decide",
        )
    if is_requester(spec, who.username):
        return Refused(RefusalReason.REQUESTER, f"{me} asked for it and can't decide on it", f"ask {whom(spec.approvers)}")
    if any(is_same_person(who.username, each.by) for each in spec.decisions):
        return Refused(RefusalReason.ALREADY_DECIDED, f"{me} has decided on {name} already", "have another approver decide")
    if not is_person(who.username, spec.approvers):
        return Refused(RefusalReason.NOT_A_PERSON, f"{me} is no person's name", f"ask {whom(spec.approvers)}")
    groups = approver_groups(spec.approvers, who.username, who.groups)
    if groups is None:
        return Refused(RefusalReason.NOT_AN_APPROVER, f"{me} is not an approver of {name}", f"ask {whom(spec.approvers)}")
    return groups


def whom(approvers: Approvers) -> str:
    """Whom to ask, in words."""
    people = [*(f"`{each}`" for each in approvers.users), *(f"a member of `{each}`" for each in approvers.groups)]
    more = f", or one of {len(people) - 8} others" if len(people) > 8 else ""
    return " or ".join(people[:8]) + more


def _ended(request: ApprovalRequest) -> str | None:
    """The phase it ended in, by its status or by its decisions: the status follows them, and may not have yet."""
    if request.metadata.deletion_timestamp is not None:
        return "being deleted"
    if request.status is not None and request.status.phase is not Phase.PENDING:
        return request.status.phase.value
    decided = [each.decision for each in request.spec.decisions]
    if Verdict.DENIED in decided:
        return Phase.DENIED.value
    return Phase.APPROVED.value if decided.count(Verdict.APPROVED) >= request.spec.required else None


def _stamp(request: ApprovalRequest, new: Wire, entry: _Entry, seal: Seal) -> Stamped:
    unsealed = Decision(
        by=entry.by,
        groups=tuple(map(Label, entry.groups)),
        decision=entry.verdict,
        at=entry.at,
        comment=entry.comment,
        signature=None,
    )
    decision = unsealed.model_copy(update={"signature": seal(sealed(request, unsealed))})
    stamped = copy.deepcopy(dict(new))
    spec = stamped["spec"]
    patch: list[dict[str, Any]] = []
    for name in _WRITTEN_BY_PEOPLE:
        if name in spec:
            del spec[name]
            patch.append({"op": "remove", "path": f"/spec/{name}"})
    wire = decision.to_wire()
    if spec.get("decisions"):
        patch.append({"op": "add", "path": "/spec/decisions/-", "value": wire})
    else:
        patch.append({"op": "add", "path": "/spec/decisions", "value": [wire]})
    spec["decisions"] = [*(spec.get("decisions") or []), wire]
    return Stamped(decision, tuple(patch), stamped)


def _forged_status(who: Decider) -> Refused:
    return Refused(
        RefusalReason.STATUS_FORGED,
        f"`{plain(who.username)[:256]}` can't write the status: where a request stands follows from its decisions",
        "write spec.decision: Approved or spec.decision: Denied",
    )


def _unreadable(problem: str) -> Refused:
    return Refused(
        RefusalReason.UNREADABLE, f"the update can't be read: {problem}", "apply the custom resource definitions of this version"
    )
