"""AdmissionReview (admission.k8s.io/v1) as typed values: what the API server asks, and what it is answered. Pure.

Rules it keeps:
- Strict: another version, a missing field, a value of another type, an operation that doesn't exist, an object that the operation can't
  be without: `ReviewError`, and the API server, with failurePolicy Fail, refuses the request.
- Only an explicit `allow` allows. A refusal always has a reason and a sentence with the way forward.
- What is answered fits: warnings stay under the total that the API server would cut them at, and say how many are left out.

Left out: what is decided (`inject`, `validate`, `decide_approval`), and how it travels (`server`).
"""

from __future__ import annotations

import base64
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgspec

Json: TypeAlias = "Mapping[str, Any]"
PatchOperation: TypeAlias = "Mapping[str, object]"

VERSION: Final = "admission.k8s.io/v1"
KIND: Final = "AdmissionReview"
# The API server cuts warnings off where all of them together have 4096 characters
# (apiserver/pkg/endpoints/filters/warning.go, truncateAtTotalRunes).
MAX_WARNINGS_LENGTH: Final = 3800
MAX_WARNING_LENGTH: Final = 1000
MAX_MESSAGE_LENGTH: Final = 16_000


class ReviewError(Exception):
    """The request can't be read as an AdmissionReview. Nothing is decided about it."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.way_forward = "send AdmissionReview of admission.k8s.io/v1, as the API server does"


class Operation(enum.StrEnum):
    CREATE = "CREATE"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    CONNECT = "CONNECT"


class ResourceName(msgspec.Struct, frozen=True):
    """`group/version` and the plural."""

    resource: str
    version: str
    group: str = ""


class User(msgspec.Struct, frozen=True):
    """Who asks the API server, by its own authentication. With impersonation: who is impersonated."""

    username: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, tuple[str, ...]] = {}


@dataclass(frozen=True, slots=True)
class Review:
    """One question. INVARIANT: `new` is there on CREATE and UPDATE, `old` on UPDATE and DELETE."""

    uid: str
    resource: ResourceName
    subresource: str
    operation: Operation
    namespace: str
    name: str
    user: User
    new: Json | None
    old: Json | None
    is_dry_run: bool


class Reason(enum.StrEnum):
    """Why admission refuses, as one word: `status.reason`, the audit annotation and the label of the metric. Injection and decisions have
    closed lists of their own beside it.
    """

    NOT_OURS = "NotOurs"
    INVALID = "Invalid"
    NEIGHBOURS_UNKNOWN = "NeighboursUnknown"
    KEY_UNKNOWN = "KeyUnknown"
    TARGET_UNKNOWN = "TargetUnknown"
    TARGET_UNREADABLE = "TargetUnreadable"
    TIMEOUT = "Timeout"
    INTERNAL_ERROR = "InternalError"


@dataclass(frozen=True, slots=True)
class Refusal:
    """`message` is what kubectl prints; `causes` are (field path, sentence)."""

    reason: enum.StrEnum
    message: str
    code: int = 403
    causes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """INVARIANT: a refusal changes nothing: no patch goes with it. `audit` goes to the audit log, its keys under the webhook's name."""

    refusal: Refusal | None = None
    patch: tuple[PatchOperation, ...] = ()
    warnings: tuple[str, ...] = ()
    audit: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.refusal is not None and self.patch:
            raise ValueError("a refusal carries no patch")


def allow(patch: Sequence[PatchOperation] = (), warnings: Sequence[str] = (), audit: Mapping[str, str] | None = None) -> Answer:
    return Answer(None, tuple(patch), tuple(warnings), dict(audit or {}))


def refuse(
    reason: enum.StrEnum,
    message: str,
    *,
    code: int = 403,
    causes: Sequence[tuple[str, str]] = (),
    warnings: Sequence[str] = (),
) -> Answer:
    return Answer(Refusal(reason, message, code, tuple(causes)), (), tuple(warnings), {"refused": reason.value})


class _Request(msgspec.Struct, frozen=True, rename="camel"):
    uid: str
    resource: ResourceName
    operation: Operation
    user_info: User
    kind: dict[str, str]
    sub_resource: str = ""
    name: str = ""
    namespace: str = ""
    object: dict[str, Any] | None = None
    old_object: dict[str, Any] | None = None
    dry_run: bool | None = None


class _Review(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    request: _Request


_DECODER: Final = msgspec.json.Decoder(_Review)


def decode_review(body: bytes) -> Review:
    """The question in a request's body.

    Raises:
        ReviewError: it isn't one.
    """
    try:
        read = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReviewError(f"the body can't be read: {str(error)[:300]}") from error
    if read.api_version != VERSION or read.kind != KIND:
        raise ReviewError(f"`{read.kind[:80]}` of `{read.api_version[:80]}` is not {KIND} of {VERSION}")
    request = read.request
    if not request.uid or not request.resource.resource:
        raise ReviewError("a review needs request.uid and request.resource")
    if request.operation in {Operation.CREATE, Operation.UPDATE} and request.object is None:
        raise ReviewError(f"{request.operation.value} needs request.object")
    if request.operation in {Operation.UPDATE, Operation.DELETE} and request.old_object is None:
        raise ReviewError(f"{request.operation.value} needs request.oldObject")
    return Review(
        uid=request.uid,
        resource=request.resource,
        subresource=request.sub_resource,
        operation=request.operation,
        namespace=request.namespace,
        name=request.name,
        user=request.user_info,
        new=request.object,
        old=request.old_object,
        is_dry_run=bool(request.dry_run),
    )


def encode_answer(uid: str, answer: Answer) -> bytes:
    """The body of the response to the review with this uid."""
    response: dict[str, object] = {"uid": uid, "allowed": answer.refusal is None}
    if answer.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(msgspec.json.encode(answer.patch)).decode("ascii")
    if answer.refusal is not None:
        response["status"] = _status(answer.refusal)
    if answer.warnings:
        response["warnings"] = fitting_warnings(answer.warnings)
    if answer.audit:
        response["auditAnnotations"] = dict(answer.audit)
    return msgspec.json.encode({"apiVersion": VERSION, "kind": KIND, "response": response})


def fitting_warnings(warnings: Sequence[str]) -> list[str]:
    """Each once and on one line, as many as the API server passes on whole; the last says how many are left out."""
    kept: list[str] = []
    length = 0
    lines = list(dict.fromkeys(" ".join(each.split()) for each in warnings))
    for index, line in enumerate(lines):
        shown = line if len(line) <= MAX_WARNING_LENGTH else f"{line[: MAX_WARNING_LENGTH - 4]} ..."
        length += len(shown)
        if length > MAX_WARNINGS_LENGTH:
            return [*kept, f"{len(lines) - index} more; `sidegate policy lint` lists all"]
        kept.append(shown)
    return kept


def _status(refusal: Refusal) -> dict[str, object]:
    message = refusal.message
    status: dict[str, object] = {
        "status": "Failure",
        "code": refusal.code,
        "reason": refusal.reason.value,
        "message": message if len(message) <= MAX_MESSAGE_LENGTH else f"{message[: MAX_MESSAGE_LENGTH - 4]} ...",
    }
    if refusal.causes:
        causes = [{"reason": "FieldValueInvalid", "field": path, "message": text} for path, text in refusal.causes[:50]]
        status["details"] = {"causes": causes}
    return status
