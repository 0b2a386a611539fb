"""What is asked and who asks: a path and a query become a `Route`, a token's review becomes a `Caller`, a pod is a target's gate or isn't.

Rules it keeps:
- Only paths of the protocol are routes; names in them are names of Kubernetes objects before anything is looked up by them.
- Who asks is what the API server says of the token, for our audience, bound to a pod. What the token says of itself counts only for
  how long the answer may be remembered, and for telling nonsense from a token before anybody is asked.
- The pod must exist with that uid, run a gate, and be of the target in the path. One that is being deleted still is: its gate drains.

Left out: asking the API server (`authentication`), HTTP (`server`). Pure.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from sidegate.api.protected_target import ProtectedTarget
from sidegate.gateway.messages import LONGEST_WAIT_S
from sidegate.mask.plain import plain
from sidegate_operator.gateway.problem import Kind, Refusal
from sidegate_operator.plan.gate_container import AUDIENCE, GATE_CONTAINER
from sidegate_operator.plan.pods import KUBE_SYSTEM, SeenPod

MAX_TOKEN: Final = 8 * 1024
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_LABEL: Final = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_NAME: Final = rf"{_LABEL}(?:\.{_LABEL})*"
_PATH: Final = re.compile(
    rf"/v1/targets/(?P<namespace>{_LABEL})/(?P<target>{_NAME})/"
    rf"(?:(?P<report>report)|holds(?:/(?P<name>{_NAME})(?:/(?P<act>claim|withdrawal|outcome))?)?)"
)
_MAX_NAME: Final = 253
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")
_ACCOUNT: Final = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")
_VERSION: Final = re.compile(r"[0-9]{1,20}")
_SECONDS: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3})?")


class Action(enum.Enum):
    REPORT = "report"
    NEW_HOLD = "new-hold"
    FIND_HOLDS = "find-holds"
    LOOK = "look"
    CLAIM = "claim"
    WITHDRAW = "withdrawal"
    OUTCOME = "outcome"


_QUERIES: Final[Mapping[Action, tuple[frozenset[str], frozenset[str]]]] = {  # those that must be there, and those that may
    Action.FIND_HOLDS: (frozenset({"fingerprint", "issuer", "subject"}), frozenset()),
    Action.LOOK: (frozenset(), frozenset({"wait", "version"})),
}


@dataclass(frozen=True, slots=True)
class Route:
    """INVARIANT: `name` is there for LOOK, CLAIM, WITHDRAW and OUTCOME. `version` 0: whatever there is."""

    namespace: str
    target: str
    action: Action
    name: str = ""
    wait_s: float = 0.0
    version: int = 0
    query: Mapping[str, str] = dataclasses.field(default_factory=dict)


def route_of(method: str, path: str, query: Mapping[str, str]) -> Route | Refusal:
    """`path` as it came, still quoted: no name needs quotes."""
    found = _PATH.fullmatch(path)
    if found is None or max(len(found["target"]), len(found["name"] or "")) > _MAX_NAME:
        return Refusal(Kind.NOT_FOUND, "there is nothing at this path", "see docs/gateway.md for the paths")
    action = _action(method, found)
    if action is None:
        return Refusal(Kind.WRONG_METHOD, f"{plain(method)[:16]} isn't done at this path", "see docs/gateway.md for the methods")
    needed, allowed = _QUERIES.get(action, (frozenset(), frozenset()))
    if not needed <= query.keys() <= needed | allowed:
        names = ", ".join(sorted(needed | allowed)) or "none"
        return _malformed(f"the query's parameters at this path are: {names}")
    wait, version = query.get("wait", "0"), query.get("version", "0")
    if not _SECONDS.fullmatch(wait) or not _VERSION.fullmatch(version):
        return _malformed("wait is a number of seconds, and version a resourceVersion")
    name = found["name"] or ""
    wait_s = min(float(wait), float(LONGEST_WAIT_S))
    return Route(found["namespace"], found["target"], action, name, wait_s, int(version), dict(query))


def _action(method: str, found: re.Match[str]) -> Action | None:
    if found["report"]:
        return Action.REPORT if method == "POST" else None
    if found["act"]:
        return Action(found["act"]) if method == "POST" else None
    if found["name"]:
        return Action.LOOK if method == "GET" else None
    return {"POST": Action.NEW_HOLD, "GET": Action.FIND_HOLDS}.get(method)


def _malformed(detail: str) -> Refusal:
    return Refusal(Kind.MALFORMED, detail, "see docs/gateway.md; gate and operator may be of releases too far apart")


# Who asks


@dataclass(frozen=True, slots=True)
class Caller:
    """A pod, by its proven identity."""

    namespace: str
    pod: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}"


def bearer(header: str | None) -> str | Refusal:
    """The token of an `Authorization` header, if it has the form of one."""
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        return _unauthenticated("there is no bearer token", "send the gate's token for the operator")
    if len(token) > MAX_TOKEN or not _TOKEN.fullmatch(token):
        return _unauthenticated("the bearer token isn't a service account's", "send the gate's token for the operator")
    return token


def expiry(token: str) -> float:
    """When a token ends by its own words; 0 when it doesn't say. Its signature must have been verified by somebody else."""
    found = _TOKEN.fullmatch(token)
    payload = found[1] if found is not None else ""
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, ValueError):
        return 0.0


def review_of(token: str) -> dict[str, Any]:
    """The TokenReview to have answered."""
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "metadata": {},
        "spec": {"token": token, "audiences": [AUDIENCE]},
    }


def caller_of(review: Mapping[str, Any]) -> Caller | Refusal:
    """From the answered review."""
    status = review.get("status") or {}
    if status.get("authenticated") is not True:
        said = plain(str(status.get("error") or "no reason given"))[:512]
        return _unauthenticated(f"the API server doesn't know the token: {said}", "send the gate's newest token for the operator")
    if AUDIENCE not in (status.get("audiences") or ()):
        return _unauthenticated(f"the token isn't for the audience `{AUDIENCE}`", "send the gate's token for the operator")
    user = status.get("user") or {}
    account = _ACCOUNT.fullmatch(str(user.get("username", "")))
    names, uids = ((user.get("extra") or {}).get(key) or [] for key in (_POD_NAME, _POD_UID))
    if account is None or len(names) != 1 or len(uids) != 1 or not uids[0]:
        return _unauthenticated("the token isn't bound to a pod", "send the token that the pod's volume sidegate-operator holds")
    return Caller(account[1], str(names[0]), str(uids[0]))


def _unauthenticated(detail: str, way_forward: str) -> Refusal:
    return Refusal(Kind.UNAUTHENTICATED, detail, way_forward)


def not_its_gate(
    caller: Caller,
    route: Route,
    pod: Mapping[str, Any] | None,
    target: ProtectedTarget | None,
    left_out: Collection[str] = (KUBE_SYSTEM,),
) -> Refusal | None:
    """Why the pod has nothing to say about the target of the path; None: it is one of its gates. `pod` is the one of the caller's name,
    `left_out` are the namespaces that admission doesn't look at.
    """
    if caller.namespace != route.namespace:
        return _anothers(f"pod `{caller}` is of another namespace than the target", "ask for the target of the gate's own pod")
    if pod is None or pod["metadata"].get("uid") != caller.uid:
        return _anothers(f"pod `{caller}` with this uid doesn't exist", "nothing: a pod that was made anew has another token")
    if (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}:
        return _anothers(f"pod `{caller}` is over", "nothing: no gate runs in it")
    seen = SeenPod.from_wire(pod, left_out)
    if not seen.has_gate:
        return _anothers(f"pod `{caller}` has no container `{GATE_CONTAINER}`", "have its gate injected: see `sidegate why POD`")
    if target is None:
        return _anothers(f"there is no target `{route.target}` that can be read", "make it, or mend it")
    if not dataclasses.replace(seen, is_over=False).is_of(target):
        return _anothers(f"pod `{caller}` is no pod of the target `{route.target}`", "ask for the target of the gate's own pod")
    if not seen.is_admitted and target.spec.selector is not None:
        return _anothers(
            f"namespace `{caller.namespace}` is left out by admission, so that no gate counts there",
            "run the database in a namespace of its own",
        )
    if not seen.has_gate_of(target):
        return _anothers(
            f"pod `{caller}` didn't ask for the gate of `{route.target}`", "have its gate injected: see `sidegate why POD`"
        )
    return None


def _anothers(detail: str, way_forward: str) -> Refusal:
    return Refusal(Kind.ANOTHERS, detail, way_forward)
