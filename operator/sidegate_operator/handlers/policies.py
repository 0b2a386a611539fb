"""Policies: a change of one concerns the targets that it is or was bound to; its status is written once all of them were planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sidegate_operator.apply import Writer
from sidegate_operator.cluster import Cluster, Unreadable, WorkKey
from sidegate_operator.plan.policies import reconcile_policy
from sidegate_operator.plan.reconcile import Plan
from sidegate_operator.resources import ACCESS_POLICIES, PROTECTED_TARGETS
from sidegate_operator.store import Change, Key


def concerned(change: Change, cluster: Cluster) -> Iterator[WorkKey]:
    """Every target that it is bound to now, or was when that target was last planned. One that can't be read may be bound to any."""
    policy = cluster.policies.get(change.key)
    if isinstance(policy, Unreadable):
        keys = set(cluster.targets.store.keys_within(change.key.namespace))
    else:
        keys = {
            *cluster.bound_targets(change.key),
            *(Key(change.key.namespace, name) for name in cluster.reports.about(change.key)),
        }
        if change.before is not None and isinstance(cluster.policies.read(change.before), Unreadable):
            keys |= set(cluster.targets.store.keys_within(change.key.namespace))
    yield from (WorkKey(PROTECTED_TARGETS, key) for key in sorted(keys))
    if policy is not None:
        yield WorkKey(ACCESS_POLICIES, change.key)


@dataclass(frozen=True, slots=True)
class PolicyWork:
    cluster: Cluster
    writer: Writer
    now: Callable[[], float]

    async def reconcile(self, key: Key) -> None:
        plan = self.plan(key)
        if plan is not None:
            await self.writer.carry_out(plan, key.namespace)

    def plan(self, key: Key) -> Plan | None:
        """None: there is nothing to be said yet. Each target that it waits for has it looked at again once it was planned."""
        policy = self.cluster.policies.readable(key)
        if policy is None:
            return None
        bound = [each for each in map(self.cluster.targets.readable, self.cluster.bound_targets(key)) if each is not None]
        names = [str(each.metadata.name) for each in bound if each.metadata.deletion_timestamp is None]
        return reconcile_policy(policy, self.cluster.reports.about(key), names, self.now())
