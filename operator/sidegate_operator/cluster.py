"""What is known of the cluster: a store for each kind, read once into types, and what earlier plans left to keep.

Rules it keeps: an object is read when it is first asked for at its version, and one that can't be read is said to be so, never left out; of
other people's pods only what plans look at is remembered. Nothing here waits or writes.

Left out: who fills the stores (`watcher.py`, `framework.py`), and what a change leads to (`handlers/`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pydantic import ValidationError

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.approval_request import ApprovalRequest
from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.compile import binds
from sidegate_operator.plan.owned import TARGET_LABEL
from sidegate_operator.plan.pods import SeenPod
from sidegate_operator.plan.reconcile import LastGood, ObjectKey, UnreadablePolicy
from sidegate_operator.plan.status import PolicyReport
from sidegate_operator.probe.schedule import Board
from sidegate_operator.resources import (
    ACCESS_POLICIES,
    APPROVAL_REQUESTS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    NETWORK_POLICIES,
    PODS,
    PROTECTED_TARGETS,
    SERVICES,
    Object,
    Resource,
)
from sidegate_operator.store import Key, Store, trimmed

OURS: Final = "app.kubernetes.io/managed-by=sidegate"
OWNED: Final = (CONFIG_MAPS, SERVICES, DEPLOYMENTS, NETWORK_POLICIES, DISRUPTION_BUDGETS)
_OWN_PREFIX: Final = "sidegate.dev/"

T = TypeVar("T")


class WorkKey(NamedTuple):
    """What is reconciled: one target, one approval request, or one policy that is bound to no target."""

    resource: Resource
    key: Key

    def __str__(self) -> str:
        return f"{self.resource.kind} {self.key}"


@dataclass(frozen=True, slots=True)
class Unreadable:
    problem: str


class Typed(Generic[T]):
    """The objects of a store, read."""

    def __init__(self, store: Store, read: Callable[[Object], T]) -> None:
        self.store: Final = store
        self._read = read
        self._known: dict[Key, tuple[Object, T | Unreadable]] = {}

    def get(self, key: Key) -> T | Unreadable | None:
        found = self.store.get(key)
        if found is None:
            self._known.pop(key, None)
            return None
        known = self._known.get(key)
        if known is None or known[0] is not found:
            known = self._known[key] = found, self.read(found)
        return known[1]

    def read(self, found: Object) -> T | Unreadable:
        try:
            return self._read(found)
        except ValidationError as problem:
            first = problem.errors(include_url=False, include_input=False)[0]
            return Unreadable(f"{'.'.join(map(str, first['loc'])) or 'the object'}: {first['msg']}")

    def readable(self, key: Key) -> T | None:
        found = self.get(key)
        return None if isinstance(found, Unreadable) else found

    def within(self, namespace: str) -> Iterator[tuple[Key, T | Unreadable]]:
        for key in self.store.keys_within(namespace):
            found = self.get(key)
            if found is not None:
                yield key, found

    def readable_within(self, namespace: str) -> Iterator[tuple[Key, T]]:
        for key, found in self.within(namespace):
            if not isinstance(found, Unreadable):
                yield key, found


def slim_pod(pod: Object) -> Object:
    """What plans look at: a cluster's pods are many, and other people's."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    kept = {name: metadata[name] for name in _POD_METADATA if name in metadata}
    kept["annotations"] = {k: v for k, v in (metadata.get("annotations") or {}).items() if k.startswith(_OWN_PREFIX)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": kept,
        "spec": {part: _only(spec.get(part), "name", "image", "restartPolicy") for part in ("initContainers", "containers")},
        "status": {
            "phase": status.get("phase"),
            "podIP": status.get("podIP"),
            "podIPs": _only(status.get("podIPs"), "ip"),
            **{
                part: _only(status.get(part), "name", "ready", "containerID")
                for part in ("initContainerStatuses", "containerStatuses")
            },
        },
    }


_POD_METADATA: Final = ("name", "namespace", "uid", "resourceVersion", "labels", "ownerReferences", "deletionTimestamp")


def _only(entries: Any, *names: str) -> list[Object]:
    return [{name: each[name] for name in names if name in each} for each in entries or []]


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind is watched, and what of its objects is remembered."""

    resource: Resource
    keep: Callable[[Object], Object] = trimmed
    selectors: Mapping[str, str] = field(default_factory=dict)


KINDS: Final = (
    Kind(PROTECTED_TARGETS),
    Kind(ACCESS_POLICIES),
    Kind(APPROVAL_REQUESTS),
    Kind(PODS, slim_pod),
    *(Kind(each, selectors={"labelSelector": OURS}) for each in OWNED),
)


class Cluster:
    def __init__(self) -> None:
        self.stores: Final = {each.resource: Store(each.resource, each.keep) for each in KINDS}
        self.targets: Final = Typed(self.stores[PROTECTED_TARGETS], ProtectedTarget.from_wire)
        self.policies: Final = Typed(self.stores[ACCESS_POLICIES], AccessPolicy.from_wire)
        self.approvals: Final = Typed(self.stores[APPROVAL_REQUESTS], ApprovalRequest.from_wire)
        self.pods: Final = Typed(self.stores[PODS], SeenPod.from_wire)
        self.reports: Final[dict[Key, Mapping[str, PolicyReport]]] = {}  # of each target's last plan
        self.last_good: Final[dict[Key, LastGood]] = {}
        self.doors: Final = Board()

    def unreadable_policies(self, namespace: str) -> tuple[UnreadablePolicy, ...]:
        found = self.policies.within(namespace)
        return tuple(UnreadablePolicy(key.name, each.problem) for key, each in found if isinstance(each, Unreadable))

    def bound_targets(self, policy: AccessPolicy) -> list[Key]:
        return [key for key, each in self.targets.readable_within(str(policy.metadata.namespace)) if binds(policy, each)]

    def reported_by(self, policy: Key) -> list[Key]:
        """Targets whose last plan was about the policy."""
        return [key for key, found in self.reports.items() if key.namespace == policy.namespace and policy.name in found]

    def elsewhere(self, target: Key) -> dict[str, tuple[PolicyReport, ...]]:
        """What the other targets of its namespace report, by policy."""
        found: dict[str, list[PolicyReport]] = {}
        for key, reports in self.reports.items():
            if key.namespace == target.namespace and key != target:
                for name, report in reports.items():
                    found.setdefault(name, []).append(report)
        return {name: tuple(reports) for name, reports in found.items()}

    def live(self, target: Key) -> dict[ObjectKey, Object]:
        """What there is that was made for the target."""
        found = {}
        for resource in OWNED:
            store = self.stores[resource]
            for key in store.keys_within(target.namespace):
                each = store.get(key)
                if each is not None and (each["metadata"].get("labels") or {}).get(TARGET_LABEL) == target.name:
                    found[ObjectKey(resource.kind, key.name)] = each
        return found
