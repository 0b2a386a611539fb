"""Pods: a change that plans look at concerns the targets that the pod is or was of."""

from __future__ import annotations

from collections.abc import Iterator

from sidegate_operator.cluster import Cluster, Unreadable, WorkKey
from sidegate_operator.plan.pods import SeenPod
from sidegate_operator.resources import PROTECTED_TARGETS, Object
from sidegate_operator.store import Change


def concerned(change: Change, cluster: Cluster) -> Iterator[WorkKey]:
    before, after = _seen(change.before, cluster), _seen(change.after, cluster)
    if before == after:
        return  # a pod's status moves all the time
    for key, target in cluster.targets.readable_within(change.key.namespace):
        if any(pod is not None and pod.is_of(target) for pod in (before, after)):
            yield WorkKey(PROTECTED_TARGETS, key)


def _seen(found: Object | None, cluster: Cluster) -> SeenPod | None:
    pod = cluster.pods.read(found) if found is not None else None
    return None if isinstance(pod, Unreadable) else pod
