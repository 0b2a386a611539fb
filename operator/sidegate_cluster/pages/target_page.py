"""What a cluster says of its targets: a row for each, or all that is known of one. Pure.

Rules it keeps:
- A condition that was observed for an older version of the target is no news of this one, and is said to be old.
- Words are the operator's own: the page orders them and leaves nothing out. What others wrote goes through `plain`.
- What couldn't be read is `?`, never none.

Left out: what the operator observes (`sidegate_operator.plan.status`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sidegate.mask.plain import plain

Wire: TypeAlias = "Mapping[str, Any]"

CONDITIONS: Final = ("Accepted", "Compiled", "Synced", "Enforced", "Ready")
_REVISION: Final = 12
_FIX: Final = "; fix: "
_OPEN: Final = ("Pending",)


@dataclass(frozen=True, slots=True)
class TargetView:
    """A target with what is beside it. `policies` and `requests` are those of its namespace; None: they couldn't be read."""

    target: Wire
    policies: Sequence[Wire] | None
    requests: Sequence[Wire] | None

    @property
    def name(self) -> str:
        return str(self.target["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.target["metadata"]["namespace"])

    @property
    def status(self) -> Wire:
        found: Wire = self.target.get("status") or {}
        return found

    @property
    def is_current(self) -> bool:
        """Whether the operator has seen this version of the target."""
        return bool(self.status.get("observedGeneration") == self.target["metadata"].get("generation"))

    def condition(self, name: str) -> Wire:
        """Unknown when it isn't there."""
        found = [each for each in self.status.get("conditions") or () if each.get("type") == name]
        return (
            found[0]
            if found
            else {"type": name, "status": "Unknown", "reason": "NotObserved", "message": "nobody observed it yet"}
        )

    def holds(self, name: str) -> bool:
        """Whether the condition is True of the target as it is now."""
        return self.is_current and self.condition(name)["status"] == "True"

    @property
    def pending(self) -> list[Wire] | None:
        if self.requests is None:
            return None
        mine = [each for each in self.requests if each["spec"].get("target") == self.name]
        return [each for each in mine if ((each.get("status") or {}).get("phase") or "Pending") in _OPEN]

    @property
    def findings(self) -> list[tuple[str, Wire]] | None:
        """Policy and finding, of the policies that are bound to it."""
        if self.policies is None:
            return None
        found = []
        for policy in self.policies:
            status = policy.get("status") or {}
            if self.name in (status.get("targets") or ()):
                found += [
                    (str(policy["metadata"]["name"]), each)
                    for each in status.get("findings") or ()
                    if each.get("target") in {None, self.name}
                ]
        return found


def heads(with_namespace: bool) -> tuple[str, ...]:
    named = ("NAMESPACE", "TARGET") if with_namespace else ("TARGET",)
    return (*named, "READY", "GATES", "REVISION", "PENDING", "FINDINGS", "NOT TRUE")


def row(view: TargetView, with_namespace: bool) -> tuple[str, ...]:
    """GATES: ready, synced and total."""
    gates = view.status.get("gates") or {}
    counted = "/".join(str(gates.get(name, 0)) for name in ("ready", "synced", "total")) if view.status else "-"
    named = (view.namespace, view.name) if with_namespace else (view.name,)
    cells = (
        *named,
        view.condition("Ready")["status"] if view.is_current else "Unknown",
        counted,
        _revision(view),
        "?" if view.pending is None else str(len(view.pending)),
        _counted(view.findings),
        _not_true(view),
    )
    return tuple(plain(str(each)) for each in cells)


def page(view: TargetView, ago: Mapping[str, str]) -> Iterator[str]:
    """All of one target, a line each; long lines are left to be broken. `ago`: how long ago each condition's status changed."""
    spec, status = view.target["spec"], view.status
    ready = view.condition("Ready")
    yield plain(f"{view.namespace}/{view.name}  ready: {ready['status']} ({ready['reason']})")
    if not view.is_current:
        yield _fact(
            "outdated", "the operator hasn't seen the newest version of this target: what follows is of an older one, if any"
        )
        yield _fact("fix", "see whether it runs: `sidegate doctor`")
    yield _fact("target", f"{spec.get('protocol')}, port {spec.get('port')}, environment {spec.get('environment')}{_place(spec)}")
    gates = status.get("gates") or {}
    yield _fact(
        "gates",
        f"{gates.get('total', 0)} there should be, {gates.get('ready', 0)} serve clients, "
        f"{gates.get('synced', 0)} enforce the newest revision",
    )
    yield _fact("revision", status.get("revision") or "none was ever published")
    for name in CONDITIONS:
        yield from _condition(view.condition(name), ago.get(name, ""))
    yield _fact("policies", _named(status.get("policies") or (), status.get("policiesCount", 0)))
    without = status.get("podsWithoutGate") or ()
    if without:
        yield _fact("no gate in", _named(without, status.get("podsWithoutGateCount", 0)))
        yield _fact("fix", f"`sidegate why POD -n {view.namespace}` says why, for each")
    yield from _findings(view)
    yield from _pending(view)


def _condition(condition: Wire, ago: str) -> Iterator[str]:
    message, _, way_forward = str(condition.get("message") or "").partition(_FIX)
    since = f", for {ago}" if ago else ""
    yield _fact(str(condition["type"]), f"{condition['status']} ({condition['reason']}){since}: {message}")
    if way_forward:
        yield _fact("fix", way_forward)


def _findings(view: TargetView) -> Iterator[str]:
    if view.findings is None:
        yield _fact("findings", "? (you may not read AccessPolicies)")
    for policy, each in view.findings or ():
        message, _, way_forward = str(each.get("message") or "").partition(_FIX)
        yield _fact(str(each.get("severity", "")).lower(), f"policy {policy}: {each.get('path')}: {message}")
        if way_forward:
            yield _fact("fix", way_forward)


def _pending(view: TargetView) -> Iterator[str]:
    if view.pending is None:
        yield _fact("pending", "? (you may not read ApprovalRequests)")
    for each in view.pending or ():
        spec = each["spec"]
        asked = (
            f"{each['metadata']['name']} by {spec['principal'].get('username')}: {spec.get('summary') or spec.get('statement')}"
        )
        yield _fact("pending", asked)


def _fact(label: str, text: str) -> str:
    indent = "" if label != "fix" else "  "
    return f"  {label:<10} {indent}{plain(text)}" if label != "fix" else f"  {'':<10} fix: {plain(text)}"


def _place(spec: Wire) -> str:
    endpoint = spec.get("endpoint")
    return f", at {endpoint.get('host')}:{endpoint.get('port')}" if endpoint else ""


def _named(names: Sequence[str], count: int) -> str:
    if not names:
        return "none"
    more = f" and {count - len(names)} more" if count > len(names) else ""
    return ", ".join(names) + more


def _revision(view: TargetView) -> str:
    return str(view.status.get("revision") or "-")[:_REVISION]


def _counted(findings: Sequence[tuple[str, Wire]] | None) -> str:
    if findings is None:
        return "?"
    severities = [str(each.get("severity")) for _, each in findings]
    parts = []
    for severity, word in (("Error", "error"), ("Warning", "warning"), ("Note", "note")):
        count = severities.count(severity)
        if count:
            parts.append(f"{count} {word}{'s' if count > 1 else ''}")
    return ", ".join(parts) or "-"


def _not_true(view: TargetView) -> str:
    if not view.is_current:
        return "not observed yet"
    conditions = [view.condition(name) for name in CONDITIONS if name != "Ready"]
    return ", ".join(f"{each['type']}: {each['reason']}" for each in conditions if each["status"] != "True") or "-"
