"""Operator, webhook and guards as the chart installs them do their work together, each with its own rights and with no more.

One story is played; the API server's audit log says who did what. So a right that is missing fails here, and so does one that nobody needs.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import pytest

from sidegate_operator.permissions import Permission
from sidegate_operator.plan.gate_container import AUDIENCE
from sidegate_operator.roles import ROLES
from tests.cluster.gateway.conftest import RULE, new_hold
from tests.support.admission import PROTECTED, policy, target
from tests.support.api_server import ApiServer
from tests.support.chart import GATE_IMAGE, NAMESPACE
from tests.support.cluster_client import ApiError, ClusterClient
from tests.support.gate_client import GateClient
from tests.support.installed import Installed
from tests.support.processes import wait_until

SIDEGATE: Final = "sidegate.dev/v1alpha1"
# What was asked for stays eleven minutes at least; `tests/cluster/running/test_approvals.py` has it removed with the operator's rights. A pod is
# read by its name only when its gate asks before the watch has it.
SELDOM: Final = {("sidegate.dev", "approvalrequests", "delete", ""), ("", "pods", "get", "")}
MANAGED: Final = {"app.kubernetes.io/managed-by": "sidegate", "sidegate.dev/target": "shop-db"}


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    with ApiServer(audit=True) as api, Installed(api) as running:
        running.start()
        yield running


@pytest.fixture(scope="module")
def api(installed: Installed) -> ApiServer:
    return installed.api


@pytest.fixture(scope="module")
def story(installed: Installed, api: ApiServer) -> str:
    """The namespace that all of it happened in."""
    admin = api.admin
    shop = api.create_namespace("shop", {**PROTECTED, "pod-security.kubernetes.io/enforce": "restricted"})
    _bind(admin, shop, "sidegate-editor", "owners")
    _bind(admin, shop, "sidegate-approver", "dba")
    owner = admin.acting_as("olga", ["owners"])
    owner.create(target(shop))
    owner.create(policy(shop, rules=[RULE]))
    _settled(lambda: _has(admin, "v1", "ConfigMap", "sidegate-shop-db", shop), "the gate's config")
    pod = admin.create(asking(shop))
    _settled(lambda: "sidegate.dev/revision" in _annotations(admin, shop), "the gate to be told of its revision")
    owner.create(outside(shop))
    for version, kind in (("apps/v1", "Deployment"), ("policy/v1", "PodDisruptionBudget")):
        _settled(
            lambda version=version, kind=kind: _has(admin, version, kind, "orders-gate", shop), f"the {kind} of a gate outside"
        )
    _leave_strays(admin, shop)
    _hold_and_decide(installed, pod)
    _renew_keys(installed)
    return shop


def asking(namespace: str) -> dict[str, Any]:
    security = {
        "runAsNonRoot": True,
        "runAsUser": 999,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    metadata = {"name": "shop-db-0", "namespace": namespace, "labels": {"app": "shop-db"}}
    metadata["annotations"] = {"sidegate.dev/target": "shop-db"}
    containers = [{"name": "database", "image": "registry.example/postgres:18", "securityContext": security}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers}}


def outside(namespace: str) -> dict[str, Any]:
    made = target(namespace, endpoint={"host": "db.example", "port": 5432})
    made["metadata"]["name"] = "orders"
    made["spec"]["tls"] = {"client": {"secretRef": {"name": "orders-tls"}}, "target": {"mode": "VerifyFull"}}
    del made["spec"]["selector"]
    return made


def _leave_strays(admin: ClusterClient, shop: str) -> None:
    """Objects that an older version made for the target, and that are wanted no more: they go."""
    uid = admin.get(SIDEGATE, "ProtectedTarget", "shop-db", namespace=shop)["metadata"]["uid"]
    owner = {"apiVersion": SIDEGATE, "kind": "ProtectedTarget", "name": "shop-db", "uid": uid, "controller": True}
    pod = {"metadata": {"labels": {"app": "old"}}, "spec": {"containers": [{"name": "old", "image": "registry.example/old"}]}}
    strays: list[tuple[str, str, dict[str, Any]]] = [
        ("v1", "ConfigMap", {"data": {}}),
        ("v1", "Service", {"spec": {"ports": [{"port": 5432}]}}),
        ("apps/v1", "Deployment", {"spec": {"selector": {"matchLabels": {"app": "old"}}, "template": pod}}),
        ("policy/v1", "PodDisruptionBudget", {"spec": {"minAvailable": 1}}),
        ("networking.k8s.io/v1", "NetworkPolicy", {"spec": {"podSelector": {}}}),
    ]
    for version, kind, content in strays:
        metadata = {"name": "old", "namespace": shop, "labels": dict(MANAGED), "ownerReferences": [owner]}
        admin.create({"apiVersion": version, "kind": kind, "metadata": metadata, **content})
    for version, kind, _ in strays:
        _settled(lambda version=version, kind=kind: not _has(admin, version, kind, "old", shop), f"the old {kind} to be removed")


def _hold_and_decide(installed: Installed, pod: dict[str, Any]) -> None:
    """As a gate does it, with the token of its pod; and as a person does."""
    admin, shop = installed.api.admin, pod["metadata"]["namespace"]
    authority = admin.get("v1", "Secret", "sidegate-gateway-certificates", namespace=NAMESPACE)["data"]["ca.crt"]
    token = admin.service_account_token("default", namespace=shop, audience=AUDIENCE, pod=pod)
    gate = GateClient(installed.gateway_port, shop, "shop-db", token, base64.b64decode(authority).decode())
    assert gate.get("holds/ar-20260101-000000-none").status == 404
    held = new_hold(shop)
    _settled(lambda: gate.post("holds", held).status in {200, 201}, "decisions to be guarded, and the hold to be taken")
    _settled(lambda: _phase(admin, shop, held["name"]) == "Pending", "the request to be pending")
    dora = admin.acting_as("dora", ["dba"])
    dora.merge_patch(SIDEGATE, "ApprovalRequest", held["name"], {"spec": {"decision": "Approved"}}, namespace=shop)
    _settled(lambda: _phase(admin, shop, held["name"]) == "Approved", "the approval to count")


def _renew_keys(installed: Installed) -> None:
    """Another key for decisions, and certificates for a name more."""
    admin = installed.api.admin
    keys = admin.get("v1", "ConfigMap", "sidegate-decision-keys", namespace=NAMESPACE)["data"]
    admin.delete("v1", "Secret", "sidegate-decision-key", namespace=NAMESPACE)

    def published() -> dict[str, str]:
        found: dict[str, str] = admin.get("v1", "ConfigMap", "sidegate-decision-keys", namespace=NAMESPACE)["data"]
        return found

    _settled(lambda: len(published()) > len(keys), "the next key to be published")
    assert keys.items() <= published().items()  # what the old one signed still counts
    installed.restart_webhook("--name", "localhost")
    installed.restart_operator()  # whose gateway has the chart's name now


def _bind(admin: ClusterClient, namespace: str, role: str, group: str) -> None:
    rbac = "rbac.authorization.k8s.io"
    admin.apply(
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": group, "namespace": namespace},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "Group", "name": group, "apiGroup": rbac}],
        }
    )


def _settled(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, what, 30, 0.05)


def _has(admin: ClusterClient, version: str, kind: str, name: str, namespace: str) -> bool:
    try:
        admin.get(version, kind, name, namespace=namespace)
    except ApiError as error:
        if error.code != 404:
            raise
        return False
    return True


def _annotations(admin: ClusterClient, namespace: str) -> Mapping[str, str]:
    found: Mapping[str, str] = admin.get("v1", "Pod", "shop-db-0", namespace=namespace)["metadata"]["annotations"]
    return found


def _phase(admin: ClusterClient, namespace: str, name: str) -> str | None:
    phase: str | None = admin.get(SIDEGATE, "ApprovalRequest", name, namespace=namespace).get("status", {}).get("phase")
    return phase


# What came of it


def test_a_pod_got_the_charts_gate(api: ApiServer, story: str) -> None:
    pod = api.admin.get("v1", "Pod", "shop-db-0", namespace=story)
    (gate,) = pod["spec"]["initContainers"]
    assert (gate["name"], gate["image"]) == ("sidegate-gate", GATE_IMAGE)
    assert {"name": "SIDEGATE_GATEWAY", "value": f"https://sidegate-gateway.{NAMESPACE}.svc:8444"} in gate["env"]


def test_the_approvers_decision_is_stamped_and_sealed(api: ApiServer, story: str) -> None:
    (approved,) = (each for each in api.admin.list(SIDEGATE, "ApprovalRequest", namespace=story)["items"])
    (decision,) = approved["spec"]["decisions"]
    assert (decision["by"], decision["decision"], bool(decision["signature"])) == ("dora", "Approved", True)


@pytest.mark.parametrize("component", ["operator", "webhook"])
def test_nothing_was_forbidden(installed: Installed, api: ApiServer, story: str, component: str) -> None:
    process = getattr(installed, component)
    refused = [
        (event["verb"], event["objectRef"], event["responseStatus"]["code"])
        for event in api.audited(process.account)
        if event.get("responseStatus", {}).get("code") in {401, 403}
    ]
    assert refused == []
    assert [line for line in process.lines() if "orbidden" in line or "Traceback" in line] == []


@pytest.mark.parametrize("component", ["operator", "webhook"])
def test_every_right_was_used(installed: Installed, api: ApiServer, story: str, component: str) -> None:
    account = f"sidegate-{component}"
    user = getattr(installed, component).account
    granted = {
        right for role in ROLES if role.account == account for permission in role.permissions for right in _rights(permission)
    }

    def unused() -> set[Right]:
        return granted - SELDOM - {used for event in api.audited(user) for used in _used(event)}

    with suppress(TimeoutError):  # a Lease is renewed in its own time
        wait_until(lambda: not unused(), "every right to be used", 15, 0.5)
    assert unused() == set()


Right = tuple[str, str, str, str]


def _rights(permission: Permission) -> Iterator[Right]:
    """Each verb on each resource, on one object where it is limited to names."""
    for resource in permission.resources:
        for verb in permission.verbs:
            for name in permission.names or ("",):
                yield permission.group, resource, verb, name


def _used(event: Mapping[str, Any]) -> Iterator[Right]:
    found = event.get("objectRef")
    if found is None or "resource" not in found:
        return
    resource = "/".join(filter(None, (found["resource"], found.get("subresource"))))
    verbs = [event["verb"]]
    if event["verb"] == "patch" and event.get("responseStatus", {}).get("code") == 201:
        verbs.append("create")  # server-side apply of what wasn't there needs both
    for verb in verbs:
        for name in ("", found.get("name", "")):
            yield found.get("apiGroup", ""), resource, verb, name


# What people may do by the chart's roles


def test_owners_of_a_database_write_policies_and_approvers_do_not(api: ApiServer, story: str) -> None:
    olga, dora = (api.admin.acting_as(name, [group]) for name, group in (("olga", "owners"), ("dora", "dba")))
    olga.merge_patch(SIDEGATE, "AccessPolicy", "assistants", {"spec": {"mode": "Observe"}}, namespace=story)
    olga.merge_patch(SIDEGATE, "AccessPolicy", "assistants", {"spec": {"mode": "Enforce"}}, namespace=story)
    with pytest.raises(ApiError) as caught:
        dora.merge_patch(SIDEGATE, "AccessPolicy", "assistants", {"spec": {"mode": "Observe"}}, namespace=story)
    assert caught.value.code == 403
    with pytest.raises(ApiError) as caught:
        olga.list(SIDEGATE, "ApprovalRequest", namespace=story)
    assert caught.value.code == 403


def test_side_doors_open_for_whom_bypass_is_bound(api: ApiServer, story: str) -> None:
    door = f"/api/v1/namespaces/{story}/pods/shop-db-0/exec"
    eve = api.admin.acting_as("eve", ["doors"])
    with pytest.raises(ApiError) as caught:
        eve.request("POST", door)
    assert "past the gate" in caught.value.message
    _bind(api.admin, story, "sidegate-bypass", "firefighters")
    fred = api.admin.acting_as("fred", ["doors", "firefighters"])

    def is_open() -> bool:
        try:
            fred.request("POST", door)
        except ApiError as error:
            return "past the gate" not in error.message  # no node runs the pod here
        return True

    _settled(is_open, "the binding to count")
