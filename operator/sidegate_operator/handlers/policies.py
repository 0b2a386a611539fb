"""Policies: a change of one concerns the targets that it is or was bound to; one that is bound to none says so in its own status."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sidegate_operator.apply import Writer
from sidegate_operator.cluster import Cluster, Unreadable, WorkKey
from sidegate_operator.plan.reconcile import ObjectKey, StatusPatch
from sidegate_operator.plan.status import policy_status, status_patch
from sidegate_operator.resources import ACCESS_POLICIES, PROTECTED_TARGETS
from sidegate_operator.store import Change, Key


def concerned(change: Change, cluster: Cluster) -> Iterator[WorkKey]:
    """Every target that it is bound to now, or was when that target was last planned. One that can't be read may be bound to any."""
    policy = cluster.policies.get(change.key)
    if isinstance(policy, Unreadable):
        keys = set(cluster.targets.store.keys_within(change.key.namespace))
    else:
        keys = {*cluster.reported_by(change.key), *(cluster.bound_targets(policy) if policy is not None else ())}
        keys |= {Key(change.key.namespace, str(name)) for name in (policy.status.targets if policy and policy.status else ())}
        if policy is not None and not cluster.bound_targets(policy):
            yield WorkKey(ACCESS_POLICIES, change.key)
        if change.before is not None and isinstance(cluster.policies.read(change.before), Unreadable):
            keys |= set(cluster.targets.store.keys_within(change.key.namespace))
    yield from (WorkKey(PROTECTED_TARGETS, key) for key in sorted(keys))


def status_writers(policy: Key, cluster: Cluster) -> Iterator[WorkKey]:
    """Whose plan writes the policy's status: one target that it is bound to, else its own."""
    found = cluster.policies.readable(policy)
    if found is not None:
        bound = cluster.bound_targets(found)
        yield WorkKey(PROTECTED_TARGETS, bound[0]) if bound else WorkKey(ACCESS_POLICIES, policy)


@dataclass(frozen=True, slots=True)
class PolicyWork:
    cluster: Cluster
    writer: Writer
    now: Callable[[], float]

    async def reconcile(self, key: Key) -> None:
        policy = self.cluster.policies.readable(key)
        if policy is None or self.cluster.bound_targets(policy):
            return  # the plans of its targets write its status
        patch = status_patch(policy, policy_status(policy, (), self.now()))
        if patch is not None:
            status = StatusPatch(ObjectKey(policy.kind, key.name), policy.metadata.resource_version, patch)
            await self.writer.patch_status(status, key.namespace)
