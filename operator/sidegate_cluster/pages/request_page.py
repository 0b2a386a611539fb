"""An ApprovalRequest of a cluster as the pages of `sidegate.cli.request_view` have it. Pure.

Rules it keeps: nothing of a request goes unshown. What this version doesn't know is no request that it could show, and it says so. The
decisions shown are those that the operator counts. Left out: verifying seals, which gates do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sidegate.api.approval_request import ApprovalRequest
from sidegate.approval.backend import Phase
from sidegate.approval.document import HOLD_UNTIL, ApprovalDocument, DocumentError, from_wire, request_of, seconds
from sidegate.approval.hold import Hold, Vote

_KEPT_METADATA: Final = ("name", "namespace", "creationTimestamp")
# What the file's form has no field for: who stamped what, which the page has in its decisions, and names that are compared by admission.
_LEFT_OUT: Final = ("decisions",)


class UnreadableError(ValueError):
    """Not a request that this version can show whole."""

    way_forward = "use the version of sidegate that is installed in the cluster"


@dataclass(frozen=True, slots=True)
class RequestPage:
    """One request, ready for `request_lines`. `wire` is the object as the API server gave it."""

    wire: Mapping[str, Any]
    hold: Hold
    document: ApprovalDocument

    @property
    def name(self) -> str:
        return self.hold.name

    @property
    def resource_version(self) -> str:
        return str(self.wire["metadata"]["resourceVersion"])

    def asks_the_same(self, other: RequestPage) -> bool:
        """Whether it is the same request with the same content, whatever was decided since."""
        return self.wire["metadata"].get("uid") == other.wire["metadata"].get("uid") and _asked(self.wire) == _asked(other.wire)

    def stamped(self) -> tuple[str, ...]:
        """Who decided, whether or not the operator has counted it."""
        return tuple(each["by"] for each in self.wire["spec"].get("decisions") or ())


def request_page(wire: Mapping[str, Any]) -> RequestPage:
    """The page for a request as the API server gives it.

    Raises:
        UnreadableError: it has something that this version doesn't know, or isn't a request.
    """
    try:
        ApprovalRequest.from_wire(wire)
        document = from_wire(_document(wire))
        request = request_of(document)
        votes = tuple(
            Vote(each.by, each.by, each.decision, seconds(each.at), each.groups, each.comment or "")
            for each in document.status.decisions
        )
    except (DocumentError, ValueError, KeyError, TypeError, AttributeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnreadableError(f"the request can't be shown whole by this version: {first}") from error
    if HOLD_UNTIL not in document.metadata.annotations:
        request = replace(request, hold_until=request.expires_at)  # the gate keeps that to itself: it may still wait
    hold = Hold(document.metadata.name, request, document.status.phase, request.requested_at, votes)
    return RequestPage(wire, hold, document)


def _document(wire: Mapping[str, Any]) -> dict[str, Any]:
    metadata, spec, status = wire["metadata"], wire["spec"], wire.get("status") or {}
    annotations = metadata.get("annotations") or {}
    principal = {name: value for name, value in spec["principal"].items() if name != "kubernetesUsernames"}
    decisions = [{name: value for name, value in each.items() if name != "signature"} for each in status.get("decisions") or ()]
    shown_status: dict[str, Any] = {"phase": status.get("phase") or Phase.PENDING.value, "decisions": decisions}
    for name in ("approvals", "outcome"):
        if status.get(name) is not None:
            shown_status[name] = status[name]
    return {
        "apiVersion": wire["apiVersion"],
        "kind": wire["kind"],
        "metadata": {
            **{name: metadata[name] for name in _KEPT_METADATA},
            "annotations": {name: value for name, value in annotations.items() if name == HOLD_UNTIL},
        },
        "spec": {**{name: value for name, value in spec.items() if name not in _LEFT_OUT}, "principal": principal},
        "status": shown_status,
    }


def _asked(wire: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wire["spec"].items() if name not in ("decision", "comment", "decisions")}
