"""Targets: everything about one is gathered, `plan.reconcile` decides, the writer carries it out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

from sidegate.api.meta import ConditionStatus
from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.api_client import NotFound
from sidegate_operator.apply import Writer
from sidegate_operator.clock import now
from sidegate_operator.cluster import Cluster, Unreadable, WorkKey
from sidegate_operator.plan.beside import Builder, nothing_beside
from sidegate_operator.plan.conditions import ConditionType
from sidegate_operator.plan.gate_container import AUTHORITY_KEY, GateSettings
from sidegate_operator.plan.owned import TARGET_LABEL, config_map_name
from sidegate_operator.plan.pods import SeenPod
from sidegate_operator.plan.reconcile import ObjectKey, Pace, Plan, Snapshot, reconcile
from sidegate_operator.plan.status import condition_status
from sidegate_operator.plan.upgrade import Upgrade, plan_upgrade
from sidegate_operator.probe.schedule import aim_at
from sidegate_operator.resources import ACCESS_POLICIES, CONFIG_MAPS, PROTECTED_TARGETS, Object, resource_of
from sidegate_operator.store import Change, Key


class UnreadableTarget(Exception):  # noqa: N818 - a state of the world
    def __init__(self, problem: str) -> None:
        super().__init__(f"it can't be read: {problem}")
        self.way_forward = "mend it, or apply the CRDs of this release; its gates keep the rules that they have"


def concerned(change: Change, cluster: Cluster) -> Iterator[WorkKey]:
    """The target itself; when it goes, the policies that it was bound to; and targets that share pods with it."""
    yield WorkKey(PROTECTED_TARGETS, change.key)
    if change.after is None:
        cluster.last_good.pop(change.key, None)
        cluster.reports.forget(change.key, now())
        yield from (WorkKey(ACCESS_POLICIES, key) for key in cluster.reports.take_changed())
    states = [cluster.targets.read(each) for each in (change.before, change.after) if each is not None]
    known = [each for each in states if isinstance(each, ProtectedTarget)]
    if len(known) == 2 and known[0].spec == known[1].spec:
        return
    others = [(key, each) for key, each in cluster.targets.readable_within(change.key.namespace) if key != change.key]
    for _, pod in cluster.pods.readable_within(change.key.namespace):
        if any(pod.is_of(each) for each in known):
            yield from (WorkKey(PROTECTED_TARGETS, key) for key, other in others if pod.is_of(other))


def owners(change: Change, cluster: Cluster) -> Iterator[WorkKey]:
    """Of an object that was made for a target: somebody changed or deleted it."""
    for each in (change.before, change.after):
        name = (each["metadata"].get("labels") or {}).get(TARGET_LABEL) if each is not None else None
        if name is not None:
            yield WorkKey(PROTECTED_TARGETS, Key(change.key.namespace, name))


class Gates(Protocol):
    """What gates say, and what they are to trust."""

    def enforced(self, target: Key) -> dict[str, str]:
        """Pod uid -> the revision that its gate says it enforces."""

    def problems(self, target: Key) -> dict[str, str]:
        """Pod uid -> why its gate says that it enforces no newer revision; of those that say so."""

    def is_young(self) -> bool:
        """Whether not every gate can have been heard of yet."""

    def authority(self) -> str:
        """PEM; empty while it isn't known."""

    def unguarded(self) -> str | None:
        """Why decisions aren't guarded; empty when they are, None where nobody looks."""


class NoGates:
    """Where no gateway runs."""

    def enforced(self, target: Key) -> dict[str, str]:
        return {}

    def problems(self, target: Key) -> dict[str, str]:
        return {}

    def is_young(self) -> bool:
        return False

    def authority(self) -> str:
        return ""

    def unguarded(self) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class TargetWork:
    """`upgrades`: what gates are made with, None where they aren't exchanged in place."""

    cluster: Cluster
    writer: Writer
    now: Callable[[], float]
    beside: Builder = nothing_beside
    pace: Pace = field(default_factory=Pace)
    gates: Gates = field(default_factory=NoGates)
    upgrades: GateSettings | None = None
    later: Callable[[WorkKey], None] = lambda _key: None

    async def reconcile(self, key: Key) -> float | None:
        """Seconds after which to look again, when time alone changes something.

        Raises:
            UnreadableTarget: this version can't read it.
            ApiError: not all of it could be written.
        """
        try:
            plan = self.plan(key)
            strangers = await self._strangers(plan, key) if plan is not None else {}
            if strangers:
                plan = self.plan(key, strangers)
            if plan is None:
                return None
            await self.writer.carry_out(plan, key.namespace)
        finally:  # also of what couldn't be carried out: nothing else would have these policies looked at
            self.cluster.reports.gates_told(key, self.now())
            for policy in self.cluster.reports.take_changed():
                self.later(WorkKey(ACCESS_POLICIES, policy))
        upgrade = self._upgrade(key)
        if upgrade.exchange is not None:
            await self.writer.exchange_gate(upgrade.exchange, key.namespace)
        looks = [each for each in (plan.look_again_at, upgrade.look_again_at) if each is not None]
        return max(0.0, min(looks) - self.now()) if looks else None

    def _upgrade(self, key: Key) -> Upgrade:
        """After everything else: what gates enforce is never held up by an upgrade. Without reports nobody could tell how it goes."""
        target = self.cluster.targets.readable(key)
        if target is None or target.metadata.deletion_timestamp is not None or self.upgrades is None or self.gates.is_young():
            return Upgrade()
        pods = list(self.cluster.pods_of(key).values())
        return plan_upgrade(target, pods, self.gates.enforced(key), self.upgrades, self.now())

    async def _strangers(self, plan: Plan, key: Key) -> dict[ObjectKey, Object]:
        """Objects of the names that are about to be made. They aren't labelled as ours, so they aren't in a store."""
        found, live = {}, self.cluster.live(key)
        for wanted in plan.apply:
            named = ObjectKey.of(wanted)
            if named not in live:
                with suppress(NotFound):
                    found[named] = await self.writer.client.get(resource_of(wanted), key.namespace, named.name)
        return found

    def plan(self, key: Key, strangers: Mapping[ObjectKey, Object] = MappingProxyType({})) -> Plan | None:
        """INVARIANT: from gathering to keeping the reports nothing waits, so what is kept is of one moment."""
        target = self.cluster.targets.get(key)
        if target is None:
            return None
        if isinstance(target, Unreadable):
            raise UnreadableTarget(target.problem)
        snapshot = self._snapshot(key, target, strangers)
        known = self.cluster.doors.note(key, aim_at(target, snapshot.policies, snapshot.pods))
        plan = reconcile(replace(snapshot, probe=known), self.now(), self.beside, self.pace)
        self.cluster.reports.keep(key, plan.reports, self.now(), is_told=not plan.annotate)
        if plan.last_good is not None:
            self.cluster.last_good[key] = plan.last_good
        return plan

    def _snapshot(self, key: Key, target: ProtectedTarget, strangers: Mapping[ObjectKey, Object]) -> Snapshot:
        cluster, live = self.cluster, self.cluster.live(key)
        pods = cluster.pods_of(key)
        sharers = sorted({other for pod in pods for other in cluster.targets_of(pod)} - {key})
        return Snapshot(
            target=target,
            policies=tuple(cluster.bound_policies(key)),
            unreadable=cluster.unreadable_policies(key.namespace),
            neighbours=tuple(each for each in map(cluster.targets.readable, sharers) if each is not None),
            pods=tuple(pods.values()),
            enforced={**self._assumed(target, pods.values()), **self.gates.enforced(key)},
            problems=self.gates.problems(key),
            live={**strangers, **live},
            last_good=cluster.last_good.get(key),
            authority=self.gates.authority() or _authority_in(live, target),
            unguarded=self.gates.unguarded(),
        )

    def _assumed(self, target: ProtectedTarget, pods: Iterable[SeenPod]) -> dict[str, str]:
        """While gates can't have reported yet: what the last leader wrote down, so that a new one calls no gate late that isn't."""
        status = target.status
        if status is None or status.revision is None or not self.gates.is_young():
            return {}
        if condition_status(status.conditions, ConditionType.SYNCED) is not ConditionStatus.TRUE:
            return {}
        return {each.uid: status.revision for each in pods if each.has_gate_of(target)}


def _authority_in(live: Mapping[ObjectKey, Object], target: ProtectedTarget) -> str:
    """What is published stays while the authority isn't known."""
    found = live.get(ObjectKey(CONFIG_MAPS.kind, config_map_name(target)))
    return str((found.get("data") or {}).get(AUTHORITY_KEY, "")) if found is not None else ""
