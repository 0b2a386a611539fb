"""Targets: everything about one is gathered, `plan.reconcile` decides, the writer carries it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType

from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.api_client import NotFound
from sidegate_operator.apply import Writer
from sidegate_operator.cluster import Cluster, Unreadable, WorkKey
from sidegate_operator.plan.beside import Builder, nothing_beside
from sidegate_operator.plan.owned import TARGET_LABEL
from sidegate_operator.plan.reconcile import ObjectKey, Pace, Plan, Snapshot, reconcile
from sidegate_operator.resources import ACCESS_POLICIES, PROTECTED_TARGETS, Object, resource_of
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
        cluster.reports.forget(change.key)
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


@dataclass(frozen=True, slots=True)
class TargetWork:
    cluster: Cluster
    writer: Writer
    now: Callable[[], float]
    beside: Builder = nothing_beside
    pace: Pace = field(default_factory=Pace)
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
            for policy in self.cluster.reports.take_changed():
                self.later(WorkKey(ACCESS_POLICIES, policy))
        return max(0.0, plan.look_again_at - self.now()) if plan.look_again_at is not None else None

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
        plan = reconcile(self._snapshot(key, target, strangers), self.now(), self.beside, self.pace)
        self.cluster.reports.keep(key, plan.reports)
        if plan.last_good is not None:
            self.cluster.last_good[key] = plan.last_good
        return plan

    def _snapshot(self, key: Key, target: ProtectedTarget, strangers: Mapping[ObjectKey, Object]) -> Snapshot:
        cluster = self.cluster
        pods = cluster.pods_of(key)
        sharers = sorted({other for pod in pods for other in cluster.targets_of(pod)} - {key})
        return Snapshot(
            target=target,
            policies=tuple(cluster.bound_policies(key)),
            unreadable=cluster.unreadable_policies(key.namespace),
            neighbours=tuple(each for each in map(cluster.targets.readable, sharers) if each is not None),
            pods=tuple(pods.values()),
            live={**strangers, **cluster.live(key)},
            last_good=cluster.last_good.get(key),
        )
