"""What an API server says instead of doing it, in words for a person: what is wrong, and the way forward.

Rules it keeps: the words of Sidegate's own admission are passed on whole, without what the API server puts around them; what comes from
Kubernetes is told by its code and text, and what isn't known is passed on as it is. Pure.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, Self

_WEBHOOK_DENIED: Final = re.compile(
    r'^admission webhook "(?P<name>[^"]+)" denied the request(?: without explanation|: )', re.DOTALL
)
_GUARD_DENIED: Final = re.compile(r"ValidatingAdmissionPolicy '(?P<name>[^']+)' with binding '[^']+' denied request: ", re.DOTALL)
_WEBHOOK_FAILED: Final = re.compile(r'failed calling webhook "(?P<name>[^"]+)": (?P<cause>.*)', re.DOTALL)
_RULE_BROKEN: Final = re.compile(r"^\S+\.sidegate\.dev \"[^\"]*\" is invalid: (?P<rest>.*)", re.DOTALL)
_INVALID_VALUE: Final = re.compile(r'^\[?\S+: Invalid value: (?:(?:"(?:[^"\\]|\\.)*"|null|true|false|[0-9]+): )?')
_FIX: Final = "; fix: "

# For a webhook of Sidegate's that doesn't answer: what waits for it, and what to do.
_WITHOUT_WEBHOOK: Final = {
    "decide.sidegate.dev": "nobody can decide while Sidegate's webhook doesn't answer",
    "inject.sidegate.dev": "no pod that asks for a gate can be made while Sidegate's webhook doesn't answer",
    "validate.sidegate.dev": "targets and policies can't be changed while Sidegate's webhook doesn't answer",
}


@dataclass(frozen=True, slots=True)
class Told:
    problem: str
    way_forward: str


class CallError(Exception):
    """An API server's answer: `code` is HTTP's, 0 when there was none; `reason` and `message` are the Status's."""

    def __init__(self, code: int, reason: str, message: str, causes: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.causes = code, reason, message, causes

    @property
    def is_kind_unknown(self) -> bool:
        """The cluster serves no such kind; of a group that it doesn't serve at all it says so without a Status."""
        return self.code == 404 and self.message in {"the server could not find the requested resource", "404 page not found"}

    @classmethod
    def from_answer(cls, code: int, content: bytes) -> Self:
        try:
            status: Any = json.loads(content)
        except ValueError:
            status = None
        if not isinstance(status, dict) or status.get("kind") != "Status":
            return cls(code, "", content[:500].decode("utf-8", "replace").strip())
        causes = ((status.get("details") or {}).get("causes")) or ()
        pairs = tuple((str(each.get("field") or ""), str(each.get("message") or "")) for each in causes)
        return cls(code, str(status.get("reason") or ""), str(status.get("message") or ""), pairs)


def guard_that_denied(error: CallError) -> str | None:
    """The name of the ValidatingAdmissionPolicy that refused; None: it was something else."""
    denied = _GUARD_DENIED.search(error.message)
    return f"guard {denied['name']}" if denied is not None else None


def told(error: CallError) -> Told:
    """The error for a person."""
    failed = _WEBHOOK_FAILED.search(error.message)
    if failed is not None:
        what = _WITHOUT_WEBHOOK.get(failed["name"], f"the webhook {failed['name']} doesn't answer")
        return Told(
            f"{what}: {_short(failed['cause'])}",
            "see to it: kubectl -n sidegate-system get pods; `sidegate doctor` says what is wrong",
        )
    denied = _GUARD_DENIED.search(error.message) or _WEBHOOK_DENIED.match(error.message)
    if denied is not None:
        return _split(error.message[denied.end() :] or f"{denied['name']} refused it")
    broken = _RULE_BROKEN.match(error.message)
    if broken is not None:
        return _split(_INVALID_VALUE.sub("", broken["rest"]).rstrip("]"))
    return _of_kubernetes(error)


def _of_kubernetes(error: CallError) -> Told:
    match error.code:
        case 0:
            return Told(error.message, "see whether kubectl reaches it, and choose another with --context")
        case 401:
            return Told("the API server doesn't know you: your credentials aren't valid any more", "log in to the cluster again")
        case 403:
            return Told(error.message, "have the cluster's administrator grant you that, or choose another --context")
        case 404 if error.is_kind_unknown:
            return Told(
                "Sidegate isn't installed in this cluster: it doesn't serve its resources",
                "install it (docs/install.md), or choose another --context; `sidegate doctor` says what is there",
            )
        case 404:
            return Told(error.message, "see which there are: list them, or give another --namespace")
        case 409:
            return Told(error.message, "look at it again, and try again")
        case 429 | 500 | 502 | 503 | 504:
            return Told(f"the API server can't do it now: {error.message}", "try again in a moment")
        case _:
            return Told(error.message or f"the API server answered {error.code}", "see what kubectl says to the same")


def _split(text: str) -> Told:
    problem, _, way_forward = text.partition(_FIX)
    return Told(problem, way_forward or "see docs/admission.md")


def _short(cause: str) -> str:
    """Without the URL, which says nothing to who doesn't run the webhook: the innermost cause comes last."""
    return cause.rpartition(": ")[2] if "\n" not in cause else cause.splitlines()[0]
