"""Reads what makes pods, as far as one may: the owner of a pod, a workload by name, what it says about pods it couldn't make."""

from __future__ import annotations

from typing import Final

from sidegate_cluster.connection import Cluster
from sidegate_cluster.pages.refusals import CallError
from sidegate_cluster.pages.workloads import DEPLOYMENT, KINDS, REPLICA_SETS, WorkloadKind, controller, of_owner
from sidegate_operator.resources import PODS, Object, Resource

_OWNERS: Final = 4  # pod, ReplicaSet, Deployment, and one more
CORE_EVENTS: Final = Resource("", "v1", "events", "Event")


def readable(cluster: Cluster, kind: Resource, name: str, namespace: str | None) -> Object | None:
    """None: there is none, its kind isn't installed, or one may not read it."""
    try:
        return cluster.get(kind, name, namespace)
    except CallError as error:
        if error.code in {403, 404}:
            return None
        raise


def owner_of(cluster: Cluster, wire: Object) -> tuple[WorkloadKind, Object] | None:
    """What a person would edit to change the pod: the last of its owners that is of a known kind."""
    found: tuple[WorkloadKind, Object] | None = None
    for _ in range(_OWNERS):
        owner = controller(wire)
        kind = of_owner(owner) if owner is not None else None
        if owner is None or kind is None:
            return found
        made_by = readable(cluster, kind.resource, owner["name"], wire["metadata"].get("namespace"))
        if made_by is None:
            return found
        wire, found = made_by, (kind, made_by)
    return found


def maker_of(cluster: Cluster, pod: str, namespace: str) -> tuple[WorkloadKind, Object] | None:
    """What would make a pod of this name: workloads name their pods after themselves."""
    name = pod
    while "-" in name:
        name = name.rpartition("-")[0]
        for kind in KINDS:
            found = readable(cluster, kind.resource, name, namespace)
            if found is not None:
                return (kind, found) if controller(found) is None else owner_of_itself(cluster, kind, found)
    return None


def owner_of_itself(cluster: Cluster, kind: WorkloadKind, wire: Object) -> tuple[WorkloadKind, Object]:
    return owner_of(cluster, wire) or (kind, wire)


def failed_creation(cluster: Cluster, workload: Object, namespace: str) -> str | None:
    """What its controller last said about a pod that it couldn't make."""
    query = {"fieldSelector": f"involvedObject.name={workload['metadata']['name']},reason=FailedCreate"}
    try:
        events = cluster.list(CORE_EVENTS, namespace, **query)
    except CallError as error:
        if error.code == 403:
            return None
        raise
    events.sort(key=lambda each: str(each.get("lastTimestamp") or each.get("eventTime") or ""))
    return str(events[-1].get("message")) if events else None


def pods_of(cluster: Cluster, kind: WorkloadKind, workload: Object) -> list[Object]:
    """The pods that it made: by their owner, which labels can't feign; those of other operators' kinds by the label these give them."""
    namespace, uid = workload["metadata"]["namespace"], workload["metadata"]["uid"]
    labels = kind.pod_labels(workload)
    query = {"labelSelector": ",".join(f"{key}={value}" for key, value in sorted(labels.items()))} if labels else {}
    pods = cluster.list(PODS, namespace, **query)
    if kind.pod_label is not None:
        return pods
    makers = {uid}
    if kind is DEPLOYMENT:
        sets = cluster.list(REPLICA_SETS, namespace, **query)
        makers |= {each["metadata"]["uid"] for each in sets if (controller(each) or {}).get("uid") == uid}
    return [each for each in pods if (controller(each) or {}).get("uid") in makers]
