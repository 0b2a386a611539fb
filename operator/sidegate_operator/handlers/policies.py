"""Policies: a change of one concerns the targets that it is or was bound to; its status is written once all of them were planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from sidegate.api.meta import ConditionStatus
from sidegate_operator.apply import Writer
from sidegate_operator.cluster import TOLD_WITHIN_S, Cluster, Unreadable, WorkKey
from sidegate_operator.plan.policies import reconcile_policy
from sidegate_operator.plan.reconcile import Pace, Plan
from sidegate_operator.resources import ACCESS_POLICIES, PROTECTED_TARGETS
from sidegate_operator.store import Change, Key

GATES_REPORT_WITHIN_S: Final = Pace().first_s  # whoever takes longer is late
_FALSE: Final = ConditionStatus.FALSE


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

    async def reconcile(self, key: Key) -> float | None:
        """Seconds after which to look again: gates that were told just now get a moment to report, so that a status is written once."""
        reports = self.cluster.reports
        plan, since = self.plan(key), reports.news_since(key)
        if plan is None:
            return None
        if since is not None and any(each.is_compiled and each.synced is _FALSE for each in reports.about(key).values()):
            left_s = since + GATES_REPORT_WITHIN_S - self.now()
            if 0 < left_s <= 2 * TOLD_WITHIN_S:  # more: the clock was set back
                return min(left_s, GATES_REPORT_WITHIN_S)
        reports.told(key)
        await self.writer.carry_out(plan, key.namespace)
        return None

    def plan(self, key: Key) -> Plan | None:
        """None: there is nothing to be said yet. Each target that it waits for has it looked at again once it was planned."""
        policy = self.cluster.policies.readable(key)
        if policy is None:
            return None
        bound = [each for each in map(self.cluster.targets.readable, self.cluster.bound_targets(key)) if each is not None]
        names = [str(each.metadata.name) for each in bound if each.metadata.deletion_timestamp is None]
        return reconcile_policy(policy, self.cluster.reports.about(key), names, self.now())
