"""Plans carried out on a real API server: what it hands back is what was wanted, so that the next plan has nothing to do."""

from __future__ import annotations

from typing import Any

import pytest

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.approval_request import ApprovalRequest, Phase
from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.plan.approval import Decider, Stamped, judge_update
from sidegate_operator.plan.approval_lifecycle import plan_lifecycle
from sidegate_operator.plan.beside import objects_beside
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.plan.pods import SeenPod
from sidegate_operator.plan.reconcile import ObjectKey, Plan, Snapshot, reconcile
from tests.support.api_server import ApiServer
from tests.support.cluster_client import ApiError
from tests.unit.operator.approval_objects import NOW, OPERATORS, stored_request
from tests.unit.operator.snapshots import policy, target

VERSION = "sidegate.dev/v1alpha1"
SETTINGS = GateSettings(image=f"registry.example/gate@sha256:{'0' * 64}", version="0.1.0", scrapers=("monitoring",))
MADE = {
    "ConfigMap": "v1",
    "Service": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "Deployment": "apps/v1",
    "PodDisruptionBudget": "policy/v1",
}
OUTSIDE = {
    "endpoint": {"host": "db.example", "port": 5432},
    "tls": {"client": {"secretRef": {"name": "t"}}, "target": {"mode": "VerifyFull"}},
    "selector": None,
}


@pytest.fixture
def namespace(api_server: ApiServer) -> str:
    return api_server.create_namespace("plan")


def create(api_server: ApiServer, namespace: str, wire: dict[str, Any]) -> dict[str, Any]:
    spec = {name: value for name, value in wire["spec"].items() if value is not None}
    metadata = {"name": wire["metadata"]["name"], "namespace": namespace}
    return api_server.admin.create({**wire, "metadata": metadata, "spec": spec})


def snapshot(api_server: ApiServer, namespace: str, reported: str | None) -> Snapshot:
    api = api_server.admin
    pods = tuple(SeenPod.from_wire(each) for each in api.list("v1", "Pod", namespace=namespace)["items"])
    live = {}
    for kind, version in MADE.items():
        for each in api.list(version, kind, namespace=namespace)["items"]:
            whole = {"apiVersion": version, "kind": kind, **each}
            live[ObjectKey.of(whole)] = whole
    return Snapshot(
        target=ProtectedTarget.from_wire(api.get(VERSION, "ProtectedTarget", "shop-db", namespace=namespace)),
        policies=tuple(
            AccessPolicy.from_wire({"apiVersion": VERSION, "kind": "AccessPolicy", **each})
            for each in api.list(VERSION, "AccessPolicy", namespace=namespace)["items"]
        ),
        pods=pods,
        enforced={each.uid: reported for each in pods} if reported is not None else {},
        live=live,
    )


def carry_out(api_server: ApiServer, namespace: str, plan: Plan) -> None:
    api = api_server.admin
    for wanted in plan.apply:
        api.apply(wanted, field_manager="sidegate-operator")
    for key in plan.remove:
        api.delete(MADE[key.kind], key.kind, key.name, namespace=namespace)
    for each in plan.annotate:
        patch = {"metadata": {"uid": each.uid, "annotations": dict(each.annotations)}}
        api.merge_patch("v1", "Pod", each.pod, patch, namespace=namespace)
    for status in plan.statuses:
        api.merge_patch(VERSION, status.key.kind, status.key.name, status.patch, namespace=namespace, subresource="status")


@pytest.mark.parametrize("spec", [{}, OUTSIDE], ids=["inside", "outside"])
def test_a_plan_that_is_carried_out_leaves_nothing_to_do(api_server: ApiServer, namespace: str, spec: dict[str, Any]) -> None:
    create(api_server, namespace, target(**spec))
    create(api_server, namespace, policy())
    labels = {"app": "shop-db"} if not spec else {"sidegate.dev/gate-for": "shop-db"}
    gate = {"name": "sidegate-gate", "image": "gate"}
    containers = {"containers": [{"name": "postgres", "image": "postgres"}, *([gate] if spec else [])]}
    inside = {} if spec else {"initContainers": [{**gate, "restartPolicy": "Always"}]}
    asks = {} if spec else {"annotations": {"sidegate.dev/target": "shop-db"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop-db-0", "namespace": namespace, "labels": labels, **asks}}
    api_server.admin.create({**pod, "spec": {**containers, **inside, "automountServiceAccountToken": False}})

    beside = objects_beside(SETTINGS)
    first = reconcile(snapshot(api_server, namespace, None), NOW, beside)
    assert len(first.apply) == (5 if spec else 3)
    assert [each.pod for each in first.annotate] == ["shop-db-0"]
    carry_out(api_server, namespace, first)
    assert reconcile(snapshot(api_server, namespace, None), NOW, beside).is_empty

    assert first.last_good is not None
    second = reconcile(snapshot(api_server, namespace, first.last_good.revision), NOW + 1, beside)
    assert (second.apply, second.remove, second.annotate) == ((), (), ())
    carry_out(api_server, namespace, second)
    assert reconcile(snapshot(api_server, namespace, first.last_good.revision), NOW + 100, beside).is_empty
    shown = api_server.kubectl("get", "protectedtargets,accesspolicies", "--namespace", namespace)
    assert "1/1" in shown.stdout
    stored = snapshot(api_server, namespace, None).target.status
    assert stored is not None
    assert {each.type: each.reason for each in stored.conditions}["Ready"] == "ReadyUnprobed"


def test_decisions_are_stored_stamped_and_only_so(api_server: ApiServer, namespace: str) -> None:
    api = api_server.admin
    wire = stored_request(required=2, expiresAt="2099-01-01T00:00:00Z")  # the API server's clock is the real one
    made = create(api_server, namespace, wire)

    def stored() -> ApprovalRequest:
        return ApprovalRequest.from_wire(api.get(VERSION, "ApprovalRequest", "ar-1", namespace=namespace))

    created = stored().metadata.creation_timestamp
    assert created is not None
    now = created.epoch_s
    with pytest.raises(ApiError, match="nobody stamped who decided"):
        api.merge_patch(VERSION, "ApprovalRequest", "ar-1", {"spec": {"decision": "Approved"}}, namespace=namespace)
    for name in ("dana@example.com", "dan@example.com"):
        old = api.get(VERSION, "ApprovalRequest", "ar-1", namespace=namespace)
        new = {**old, "spec": {**old["spec"], "decision": "Approved", "comment": "fine"}}
        judged = judge_update(old, new, Decider(name, frozenset({"dba"})), now, OPERATORS, lambda data: "c2VhbGVk")
        assert isinstance(judged, Stamped)
        api.replace(judged.stamped)
    for change in ({"decisions": []}, {"decisions": None}):
        with pytest.raises(ApiError, match="can't be changed or taken back"):
            api.merge_patch(VERSION, "ApprovalRequest", "ar-1", {"spec": change}, namespace=namespace)

    plan = plan_lifecycle(stored(), now, lambda request, decision: True)
    assert plan.status.phase is Phase.APPROVED
    assert plan.patch is not None
    api.merge_patch(VERSION, "ApprovalRequest", "ar-1", plan.patch, namespace=namespace, subresource="status")
    assert plan_lifecycle(stored(), now + 1, lambda request, decision: True).patch is None
    assert "2/2" in api_server.kubectl("get", "approvalrequests", "--namespace", namespace).stdout
    assert made["metadata"]["uid"] == stored().metadata.uid
