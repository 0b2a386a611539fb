"""What is known of the cluster: a store for each kind, read once into types, what belongs to what, and what earlier plans left to keep.

Rules it keeps: an object is read when it is first asked for at its version, and one that can't be read is said to be so, never left out; of
other people's pods only what plans look at is remembered. Nothing here waits or writes.

Left out: who fills the stores (`watcher.py`, `framework.py`), and what a change leads to (`handlers/`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

from pydantic import ValidationError

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.approval_request import ApprovalRequest
from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.compile import binds
from sidegate_operator.plan.gate_container import GATE_CONTAINER, TARGET_VARIABLE
from sidegate_operator.plan.owned import TARGET_LABEL
from sidegate_operator.plan.pods import SeenPod, left_out_by_admission
from sidegate_operator.plan.reconcile import LastGood, ObjectKey, UnreadablePolicy
from sidegate_operator.plan.status import PolicyReport
from sidegate_operator.probe.schedule import Board
from sidegate_operator.relations import Groups, Relation
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
        "spec": {part: [_slim_container(each) for each in spec.get(part) or []] for part in ("initContainers", "containers")},
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


def _slim_container(container: Object) -> Object:
    """Of its environment no more than whose gate it is: values may be anybody's secrets."""
    (kept,) = _only([container], "name", "image", "restartPolicy")
    if container.get("name") == GATE_CONTAINER:
        kept["env"] = [each for each in container.get("env") or [] if each.get("name") == TARGET_VARIABLE]
    return kept


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


TOLD_WITHIN_S: Final = 60.0  # when a target's plan isn't carried out by then, policies' statuses don't wait for it any longer


class Reports:
    """What each target's last plan said about the policies that are bound to it, and since when there is news of each."""

    def __init__(self) -> None:
        self._by_target: dict[Key, Mapping[str, PolicyReport]] = {}
        self._by_policy: dict[Key, dict[str, PolicyReport]] = {}
        self._changed: set[Key] = set()
        self._news_since: dict[Key, float] = {}

    def keep(self, target: Key, reports: Mapping[str, PolicyReport], now: float, *, is_told: bool = True) -> None:
        """Instead of what was said before. `is_told`: gates needn't be told of anything first; else `gates_told` says when they were."""
        before = self._by_target.get(target, {})
        self._by_target[target] = reports
        for name in before.keys() | reports.keys():
            policy = Key(target.namespace, name)
            if before.get(name) == reports.get(name):
                continue
            self._changed.add(policy)
            self._news_since.setdefault(policy, now if is_told else now + TOLD_WITHIN_S)
            said = self._by_policy.setdefault(policy, {})
            if name in reports:
                said[target.name] = reports[name]
            elif said.pop(target.name, None) is not None and not said:
                del self._by_policy[policy]

    def forget(self, target: Key, now: float) -> None:
        self.keep(target, {}, now)
        del self._by_target[target]

    def gates_told(self, target: Key, now: float) -> None:
        for name in self._by_target.get(target, {}):
            policy = Key(target.namespace, name)
            if self._news_since.get(policy, now) > now:
                self._news_since[policy] = now

    def news_since(self, policy: Key) -> float | None:
        """When gates were told of the first that `told` doesn't know yet, a time to come while they weren't; None: there is no news."""
        return self._news_since.get(policy)

    def told(self, policy: Key) -> None:
        """What is known by now stands in its status."""
        self._news_since.pop(policy, None)

    def about(self, policy: Key) -> Mapping[str, PolicyReport]:
        """By target."""
        return self._by_policy.get(policy, {})

    def take_changed(self) -> list[Key]:
        """Each once."""
        changed = sorted(self._changed)
        self._changed.clear()
        return changed


class Cluster:
    """`own_namespace` is the operator's: no gate counts there, since admission doesn't look there."""

    def __init__(self, own_namespace: str) -> None:
        self.stores: Final = {each.resource: Store(each.resource, each.keep) for each in KINDS}
        self.targets: Final = Typed(self.stores[PROTECTED_TARGETS], ProtectedTarget.from_wire)
        self.policies: Final = Typed(self.stores[ACCESS_POLICIES], AccessPolicy.from_wire)
        self.approvals: Final = Typed(self.stores[APPROVAL_REQUESTS], ApprovalRequest.from_wire)
        self.pods: Final = Typed(self.stores[PODS], partial(SeenPod.from_wire, left_out=left_out_by_admission(own_namespace)))
        self.reports: Final = Reports()
        self.last_good: Final[dict[Key, LastGood]] = {}
        self.doors: Final = Board()
        self._bound: Final = Relation(
            self.policies,
            self.targets,
            binds,
            left_essence=lambda policy: policy.spec.targets,
            right_essence=lambda target: (target.metadata.labels, target.spec.environment),
        )
        self._hosted: Final = Relation(
            self.pods,
            self.targets,
            SeenPod.is_of,
            left_essence=lambda pod: (pod.labels, pod.asks_for, pod.gate_target, pod.is_over, pod.is_of_a_job),
            right_essence=lambda target: (target.spec.selector, target.spec.enforcement.allow_opt_out),
        )
        self._owned: Final = Groups([self.stores[each] for each in OWNED], _target_label)
        self._read_policies = self.policies.store.follow()
        self._unreadable: dict[str, dict[str, UnreadablePolicy]] = {}

    def unreadable_policies(self, namespace: str) -> tuple[UnreadablePolicy, ...]:
        """In the order of their names."""
        while self._read_policies:
            key = self._read_policies.pop()
            found = self.policies.get(key)
            if isinstance(found, Unreadable):
                self._unreadable.setdefault(key.namespace, {})[key.name] = UnreadablePolicy(key.name, found.problem)
            else:
                self._unreadable.get(key.namespace, {}).pop(key.name, None)
        return tuple(each for _, each in sorted(self._unreadable.get(namespace, {}).items()))

    def bound_targets(self, policy: Key) -> list[Key]:
        return self._bound.of_left(policy)

    def bound_policies(self, target: Key) -> Iterator[AccessPolicy]:
        for key in self._bound.of_right(target):
            policy = self.policies.readable(key)
            if policy is not None:
                yield policy

    def pods_of(self, target: Key) -> dict[Key, SeenPod]:
        found = {key: self.pods.readable(key) for key in self._hosted.of_right(target)}
        return {key: pod for key, pod in found.items() if pod is not None}

    def targets_of(self, pod: Key) -> list[Key]:
        return self._hosted.of_left(pod)

    def live(self, target: Key) -> dict[ObjectKey, Object]:
        """What there is that was made for the target."""
        found = {}
        for resource, key in self._owned.members(target.namespace, target.name):
            each = self.stores[resource].get(key)
            if each is not None:
                found[ObjectKey(resource.kind, key.name)] = each
        return found


def _target_label(found: Object) -> str | None:
    label: str | None = (found["metadata"].get("labels") or {}).get(TARGET_LABEL)
    return label
