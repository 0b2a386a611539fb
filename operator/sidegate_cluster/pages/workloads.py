"""What makes pods: where each kind keeps the annotations of its pods, and how their rollout stands. Pure.

Rules it keeps: a kind is named as kubectl names it; what a database's own operator makes pods of is asked through that operator's
resource, never through what it makes, which it would write over. Left out: kinds whose pods are never made again (Jobs, bare pods).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sidegate_operator.plan.owned import TARGET_LABEL
from sidegate_operator.resources import DEPLOYMENTS, Resource

Wire: TypeAlias = "Mapping[str, Any]"

STATEFUL_SETS: Final = Resource("apps", "v1", "statefulsets", "StatefulSet")
REPLICA_SETS: Final = Resource("apps", "v1", "replicasets", "ReplicaSet")
DAEMON_SETS: Final = Resource("apps", "v1", "daemonsets", "DaemonSet")
CLOUD_NATIVE_PG: Final = Resource("postgresql.cnpg.io", "v1", "clusters", "Cluster")
ZALANDO: Final = Resource("acid.zalan.do", "v1", "postgresqls", "postgresql")

_TEMPLATE: Final = ("spec", "template", "metadata", "annotations")


@dataclass(frozen=True, slots=True)
class WorkloadKind:
    """`words` are what a person may type; `path` leads to the annotations that its pods get; `pod_labels`: the label that names it on
    pods, where its template doesn't say.
    """

    resource: Resource
    words: tuple[str, ...]
    path: tuple[str, ...]
    pod_label: str | None = None
    note: str = ""

    @property
    def kind(self) -> str:
        return self.resource.kind

    def annotations(self, workload: Wire) -> Mapping[str, str]:
        found: Any = workload
        for part in self.path:
            found = (found or {}).get(part)
        return found or {}

    def target(self, workload: Wire) -> str | None:
        """The target that its pods ask for."""
        return self.annotations(workload).get(TARGET_LABEL)

    def patch(self, target: str | None) -> dict[str, Any]:
        """A merge patch that makes its pods ask for a target; None: for none."""
        patch: Any = {TARGET_LABEL: target}
        for part in reversed(self.path):
            patch = {part: patch}
        made: dict[str, Any] = patch
        return made

    def how_rolled_out(self, workload: Wire) -> str:
        """How its pods come to be made again, once it was changed; empty: by themselves."""
        name = str(workload["metadata"]["name"])
        if self.note:
            return self.note.replace("NAME", name)
        spec = workload.get("spec") or {}
        strategy = spec.get("updateStrategy") or {}
        if strategy.get("type") == "OnDelete":
            return "its updateStrategy is OnDelete: delete its pods one by one, and they are made again"
        if (strategy.get("rollingUpdate") or {}).get("partition"):
            return "its updateStrategy has a partition: pods below that number aren't made again until it is lowered"
        if spec.get("paused"):
            return f"it is paused: kubectl rollout resume {self.words[0]}/{name}"
        return ""

    def pod_labels(self, workload: Wire) -> Mapping[str, str]:
        """Labels that its pods are known to have."""
        if self.pod_label is not None:
            return {self.pod_label: workload["metadata"]["name"]}
        template = (workload.get("spec") or {}).get("template") or {}
        return (template.get("metadata") or {}).get("labels") or {}

    def template_pod(self, workload: Wire) -> dict[str, Any] | None:
        """A pod as it makes them; None where that can't be told from it."""
        template = (workload.get("spec") or {}).get("template")
        if self.pod_label is not None or not template:
            return None
        metadata = {**(template.get("metadata") or {}), "namespace": workload["metadata"]["namespace"]}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": workload["metadata"]["name"], **metadata},
            "spec": template["spec"],
        }


STATEFUL_SET: Final = WorkloadKind(STATEFUL_SETS, ("statefulset", "statefulsets", "sts"), _TEMPLATE)
DEPLOYMENT: Final = WorkloadKind(DEPLOYMENTS, ("deployment", "deployments", "deploy"), _TEMPLATE)
DAEMON_SET: Final = WorkloadKind(DAEMON_SETS, ("daemonset", "daemonsets", "ds"), _TEMPLATE)
REPLICA_SET: Final = WorkloadKind(REPLICA_SETS, ("replicaset", "replicasets", "rs"), _TEMPLATE)
CLUSTER: Final = WorkloadKind(
    CLOUD_NATIVE_PG,
    ("cluster", "clusters", "clusters.postgresql.cnpg.io"),
    ("spec", "inheritedMetadata", "annotations"),
    pod_label="cnpg.io/cluster",
    # Its own restart may leave the primary's pod as it is (primaryUpdateMethod: restart), and a gate comes with a new pod alone.
    note="CloudNativePG annotates the pods that run, and makes none again: delete the replicas of NAME one by one, then "
    "`kubectl cnpg promote NAME REPLICA`, then delete the old primary",
)
POSTGRESQL: Final = WorkloadKind(
    ZALANDO,
    ("postgresql", "postgresqls", "postgresqls.acid.zalan.do"),
    ("spec", "podAnnotations"),
    pod_label="cluster-name",
    # A change of podAnnotations replaces its StatefulSet, whose pods it makes again for other changes only.
    note="Zalando's operator annotates the pods that run, and makes none again until it is told: kubectl annotate pods "
    "-l cluster-name=NAME zalando-postgres-operator-rolling-update-required=true; it does so at its next sync, the primary last",
)
KINDS: Final = (STATEFUL_SET, DEPLOYMENT, DAEMON_SET, REPLICA_SET, CLUSTER, POSTGRESQL)
PROTECTABLE: Final = (STATEFUL_SET, DEPLOYMENT, DAEMON_SET, CLUSTER, POSTGRESQL)


def named(word: str) -> WorkloadKind | None:
    """The kind that a person means."""
    return next((each for each in KINDS if word.lower() in each.words), None)


def of_owner(owner: Wire) -> WorkloadKind | None:
    """The kind of an entry of ownerReferences."""
    group = str(owner.get("apiVersion", "")).partition("/")[0]
    return next((each for each in KINDS if (each.resource.group, each.kind) == (group, owner.get("kind"))), None)


def controller(wire: Wire) -> Wire | None:
    """The owner that made it."""
    return next((each for each in wire["metadata"].get("ownerReferences") or () if each.get("controller") is True), None)
