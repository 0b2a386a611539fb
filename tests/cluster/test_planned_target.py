"""What others do to a target's objects, on a real API server: ours are put right, theirs are left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.meta import API_VERSION
from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.plan.beside import objects_beside
from sidegate_operator.plan.pods import SeenPod
from sidegate_operator.plan.reconcile import LastGood, ObjectKey, Plan, Snapshot, reconcile
from tests.support.api_server import ApiServer
from tests.support.cluster_client import Object
from tests.support.operator_samples import SETTINGS, injected, outside_target, sample, sample_target
from tests.unit.api.crd_rules import merged
from tests.unit.operator.snapshots import NOW, policy

KINDS = {
    "ConfigMap": "v1",
    "Service": "v1",
    "Deployment": "apps/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
}
CONFIG_MAP = ObjectKey("ConfigMap", "sidegate-shop-db")
AUTHORITY = "-----BEGIN CERTIFICATE-----\n"


@dataclass
class Cluster:
    """One target in a namespace of its own. `run` reads everything anew, plans, and does what the plan says, in its order."""

    api: ApiServer
    namespace: str
    last_good: LastGood | None = None
    enforced: dict[str, str] = field(default_factory=dict)
    now: float = NOW

    def create(self, document: Mapping[str, Any]) -> Object:
        metadata = {"name": document["metadata"]["name"], "labels": document["metadata"].get("labels", {})}
        metadata["annotations"] = document["metadata"].get("annotations", {})
        return self.api.admin.create({**document, "metadata": {**metadata, "namespace": self.namespace}})

    def all(self, version: str, kind: str) -> list[Object]:
        items = self.api.admin.list(version, kind, namespace=self.namespace)["items"]
        return [{"apiVersion": version, "kind": kind, **each} for each in items]

    @property
    def live(self) -> dict[ObjectKey, Object]:
        return {ObjectKey.of(each): each for kind, version in KINDS.items() for each in self.all(version, kind)}

    @property
    def target(self) -> ProtectedTarget:
        return ProtectedTarget.from_wire(self.api.admin.get(API_VERSION, "ProtectedTarget", "shop-db", namespace=self.namespace))

    def conditions(self) -> dict[str, tuple[str, str]]:
        status = self.target.status
        assert status is not None
        return {each.type: (each.status.value, each.reason) for each in status.conditions}

    def plan(self) -> Plan:
        snapshot = Snapshot(
            target=self.target,
            policies=tuple(map(AccessPolicy.from_wire, self.all(API_VERSION, "AccessPolicy"))),
            pods=tuple(map(SeenPod.from_wire, self.all("v1", "Pod"))),
            enforced=self.enforced,
            live=self.live,
            last_good=self.last_good,
            authority=AUTHORITY,
        )
        return reconcile(snapshot, self.now, objects_beside(SETTINGS))

    def run(self) -> Plan:
        plan, admin = self.plan(), self.api.admin
        for wanted in plan.apply:
            admin.apply(wanted, field_manager="sidegate-operator")
        for key in plan.remove:
            admin.delete(KINDS[key.kind], key.kind, key.name, namespace=self.namespace)
        for each in plan.annotate:
            described = {"metadata": {"uid": each.uid, "annotations": dict(each.annotations)}}
            admin.merge_patch("v1", "Pod", each.pod, described, namespace=self.namespace)
        for status in plan.statuses:
            patch = {**status.patch, "metadata": {"resourceVersion": status.resource_version}}
            admin.merge_patch(
                API_VERSION, status.key.kind, status.key.name, patch, namespace=self.namespace, subresource="status"
            )
        self.last_good = plan.last_good
        return plan

    def gates_report(self) -> None:
        revision = self.live[CONFIG_MAP]["metadata"]["annotations"]["sidegate.dev/revision"]
        self.enforced = {each["metadata"]["uid"]: revision for each in self.all("v1", "Pod")}

    def settle(self) -> None:
        self.run()
        self.gates_report()
        self.run()
        assert self.plan().is_empty


@pytest.fixture
def cluster(api_server: ApiServer, namespace: str) -> Cluster:
    """With a target that is gated from inside, its policy, and one pod with its gate."""
    made = Cluster(api_server, namespace)
    made.create(sample_target().to_wire())
    made.create(policy())
    made.create(injected(merged(sample("plain.in"), {"metadata": {"namespace": namespace}}), sample_target()))
    return made


def test_a_gate_outside_that_somebody_switched_off_is_switched_on_again(api_server: ApiServer, namespace: str) -> None:
    cluster = Cluster(api_server, namespace)
    cluster.create(outside_target().to_wire())
    cluster.settle()
    assert {key.kind for key in cluster.live} == KINDS.keys()
    cluster.api.admin.merge_patch("apps/v1", "Deployment", "shop-db-gate", {"spec": {"replicas": 0}}, namespace=namespace)
    assert [ObjectKey.of(each).kind for each in cluster.run().apply] == ["Deployment"]
    assert cluster.live[ObjectKey("Deployment", "shop-db-gate")]["spec"]["replicas"] == SETTINGS.replicas


def test_the_last_good_rules_are_put_back_after_a_restart_while_a_policy_is_bad(cluster: Cluster) -> None:
    cluster.settle()
    good = cluster.live[CONFIG_MAP]["data"]
    cluster.create(policy("bad", role="nobody"))
    cluster.last_good = None  # what a new process knows
    cluster.run()
    assert cluster.conditions()["Compiled"] == ("False", "PolicyInvalid")
    cluster.api.admin.merge_patch("v1", "ConfigMap", CONFIG_MAP.name, {"data": {"gate.json": "{}"}}, namespace=cluster.namespace)
    cluster.run()
    assert cluster.live[CONFIG_MAP]["data"] == good
    cluster.api.admin.delete("v1", "ConfigMap", CONFIG_MAP.name, namespace=cluster.namespace)
    cluster.run()
    assert cluster.live[CONFIG_MAP]["data"] == good


def test_a_network_policy_that_is_no_longer_managed_is_removed(cluster: Cluster) -> None:
    cluster.settle()
    spec = {"spec": {"enforcement": {"networkPolicy": "None"}}}
    cluster.api.admin.merge_patch(API_VERSION, "ProtectedTarget", "shop-db", spec, namespace=cluster.namespace)
    cluster.settle()
    assert {key.kind for key in cluster.live} == {"ConfigMap", "Service"}


@pytest.mark.parametrize(("kind", "name"), [("ConfigMap", "sidegate-shop-db"), ("Service", "shop-db-gate")])
def test_nobody_elses_object_is_overwritten_by_making_a_target(cluster: Cluster, kind: str, name: str) -> None:
    content = {"ConfigMap": {"data": {"theirs": "1"}}, "Service": {"spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}}}
    before = cluster.create({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **content[kind]})
    cluster.run()
    assert cluster.live[ObjectKey(kind, name)]["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert cluster.conditions()["Accepted"] == ("False", "Invalid")
    cluster.api.admin.delete("v1", kind, name, namespace=cluster.namespace)
    cluster.settle()
    assert cluster.conditions()["Ready"] == ("True", "ReadyUnprobed")
