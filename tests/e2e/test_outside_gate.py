"""A target outside: the operator makes gates of their own before it, and people reach it through their Service, whatever becomes of one gate.

The operator is a process of its own with its own rights. The database is in another namespace, behind a Service, with a certificate that the
gate checks.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from tests.e2e.shop import CLIENT, MASK_RULE, POD, Shop, policy
from tests.support.any_api import NodeApi
from tests.support.cluster_authority import Authority
from tests.support.cluster_client import ApiError, Object
from tests.support.cluster_node import ROOT, Cluster, ClusterImage
from tests.support.issuer import Issuer
from tests.support.processes import wait_until
from tests.support.running_operator import OperatorAccount, RunningOperator
from tests.unit.api.crd_rules import merged

GATES = f"{POD}-gate"  # Service, Deployment and PodDisruptionBudget are called so
_GATE_FOR = "sidegate.dev/gate-for"


@dataclass(frozen=True, slots=True)
class Outside:
    """A shop whose database is elsewhere, and the operator that looks after its gates."""

    shop: Shop
    operator: RunningOperator

    def seen(self, version: str, kind: str) -> Object:
        return dict(self.shop.cluster.client.get(version, kind, GATES, namespace=self.shop.namespace))

    def gates(self) -> list[Object]:
        """The pods of gates that serve."""
        found = self.shop.cluster.client.list("v1", "Pod", namespace=self.shop.namespace, labelSelector=f"{_GATE_FOR}={POD}")
        return [each for each in found["items"] if is_ready(each) and "deletionTimestamp" not in each["metadata"]]

    def evict(self, pod: str) -> None:
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": self.shop.namespace}}
        self.shop.cluster.client.request("POST", f"/api/v1/namespaces/{self.shop.namespace}/pods/{pod}/eviction", body)


def is_ready(pod: Object) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))


def database(elsewhere: Shop, authority: Authority) -> list[Object]:
    """PostgreSQL with TLS, and a Service before it."""
    certificate = authority.issue_for_host(host_of(elsewhere))
    content = {"tls.crt": certificate.certificate, "tls.key": certificate.key}
    pod = elsewhere.database_pod()
    del pod["spec"]["initContainers"]
    postgres = pod["spec"]["containers"][0]
    mounted = {each["name"] for each in postgres["volumeMounts"]}
    pod["spec"]["volumes"] = [each for each in pod["spec"]["volumes"] if each["name"] in mounted]
    pod["spec"]["volumes"].append({"name": "tls", "secret": {"secretName": "db-tls", "defaultMode": 0o440}})
    pod["spec"]["securityContext"] = {"fsGroup": 64900}
    postgres["volumeMounts"].append({"name": "tls", "mountPath": "/tls", "readOnly": True})
    postgres["args"] += ["-c", "ssl=on", "-c", "ssl_cert_file=/tls/tls.crt", "-c", "ssl_key_file=/tls/tls.key"]
    metadata = {"name": "db", "namespace": elsewhere.namespace}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata}
    spec = {"selector": {"app": POD}, "ports": [{"port": 5433, "targetPort": 5432}]}
    return [elsewhere._secret("db-tls", content, "kubernetes.io/tls"), {**service, "spec": spec}, pod]


def host_of(elsewhere: Shop) -> str:
    return f"db.{elsewhere.namespace}.svc"


def target(shop: Shop, elsewhere: Shop, memory: str) -> Object:
    tls = {"target": {"mode": "VerifyFull", "caRef": {"name": "shop-db-ca", "key": "ca.crt"}}}
    spec = {
        "selector": None,
        "endpoint": {"host": host_of(elsewhere), "port": 5433},
        "tls": tls,
        "gate": {"resources": {"cpu": "100m", "memory": memory}},
    }
    wanted: Object = merged(shop._target(), {"metadata": {"namespace": shop.namespace}, "spec": spec})
    return wanted


@pytest.fixture(scope="module")
def parts(cluster: Cluster, images: Mapping[str, ClusterImage]) -> Iterator[tuple[Shop, Shop, OperatorAccount]]:
    api, suffix = NodeApi(cluster), uuid.uuid4().hex[:8]
    api.apply_crds()
    with Issuer(now=None) as issuer:
        issuer.go_down()
        authority, of_database = Authority.create("shop"), Authority.create("elsewhere")
        shop = Shop(cluster, api.create_namespace(f"outside-{suffix}"), images, issuer, authority)
        elsewhere = Shop(cluster, api.create_namespace(f"elsewhere-{suffix}"), images, issuer, of_database)
        secrets = shop.secrets()
        theirs = [merged(each, {"metadata": {"namespace": elsewhere.namespace}}) for each in secrets]
        ca = shop._secret("shop-db-ca", {"ca.crt": of_database.pem})
        for wanted in [shop.authority_map(), *secrets, ca, shop.client_pod(), *theirs, *database(elsewhere, of_database)]:
            cluster.client.apply(wanted)
        account = OperatorAccount(api)
        yield shop, elsewhere, account
    for name in (shop.namespace, elsewhere.namespace, account.namespace):
        cluster.client.delete("v1", "Namespace", name)
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        cluster.client.delete("rbac.authorization.k8s.io/v1", kind, account.namespace)


@pytest.fixture(scope="module")
def outside(parts: tuple[Shop, Shop, OperatorAccount]) -> Iterator[Outside]:
    shop, elsewhere, account = parts
    made = json.loads((ROOT / "build" / "images" / "images.json").read_text())["gate"]
    image = f"{made['image'].rpartition(':')[0]}@{made['digest']}"
    with RunningOperator(account, gate_image=image) as operator:
        operator.wait_until_leading()
        elsewhere.wait_until_ready(POD)
        shop.wait_until_ready(CLIENT)
        wanted_policy = merged(policy(MASK_RULE), {"metadata": {"namespace": shop.namespace}})
        for wanted in (wanted_policy, target(shop, elsewhere, "128Mi")):
            shop.cluster.client.apply(wanted)
        found = Outside(shop, operator)
        shop.cluster.client.wait_for(
            "apps/v1", "Deployment", GATES, lambda it: it["status"].get("availableReplicas") == 2, namespace=shop.namespace
        )
        yield found


def rows(outside: Outside) -> str:
    done = outside.shop.psql("SELECT name, ssn FROM customers ORDER BY id")
    assert done.returncode == 0, done.stderr + "\n".join(outside.operator.lines()[-10:])
    return done.stdout


def test_people_reach_the_database_through_the_gates_service(outside: Outside) -> None:
    answer = rows(outside)
    assert answer.splitlines()[0].startswith("Ada|")
    assert "078-05-1120" not in answer
    refused = outside.shop.psql("DELETE FROM customers")
    assert refused.returncode != 0
    assert "no-deletes" in refused.stderr


def test_the_gates_are_reached_at_their_port_alone(outside: Outside) -> None:
    client, namespace = outside.shop.cluster.client, outside.shop.namespace
    wanted = client.get("networking.k8s.io/v1", "NetworkPolicy", f"sidegate-{POD}", namespace=namespace)["spec"]
    assert wanted["podSelector"] == {"matchLabels": {_GATE_FOR: POD}}
    assert wanted["ingress"] == [{"ports": [{"port": 6432, "protocol": "TCP"}]}]


def test_one_gate_may_be_evicted_and_not_both(outside: Outside) -> None:
    budget = outside.shop.cluster.client.wait_for(
        "policy/v1",
        "PodDisruptionBudget",
        GATES,
        lambda it: it.get("status", {}).get("disruptionsAllowed") == 1,
        namespace=outside.shop.namespace,
    )
    assert budget["status"]["desiredHealthy"] == 1
    one, other = (each["metadata"]["name"] for each in outside.gates())
    outside.evict(one)
    with pytest.raises(ApiError, match="disruption budget") as refused:
        outside.evict(other)
    assert refused.value.code == 429
    rows(outside)
    wait_until(lambda: len(outside.gates()) == 2, "the evicted gate's successor", timeout_s=90, interval_s=0.2)


def test_while_gates_are_replaced_everybody_is_served(outside: Outside, parts: tuple[Shop, Shop, OperatorAccount]) -> None:
    """From before the target changes until no old gate is left, one connection after the other."""
    shop, elsewhere, _ = parts
    before = {each["metadata"]["uid"] for each in outside.gates()}
    shop.cluster.client.apply(target(shop, elsewhere, "160Mi"))
    served, fewest = 0, len(before)
    while True:
        rows(outside)
        served += 1
        now = outside.gates()
        fewest = min(fewest, len(now))
        if len(now) == 2 and not before & {each["metadata"]["uid"] for each in now}:
            break
        assert served < 300, "the gates aren't replaced"
    assert fewest >= 2, "a gate was ended before its successor served"
    assert served > 1
    (memory,) = {each["spec"]["containers"][0]["resources"]["limits"]["memory"] for each in outside.gates()}
    assert memory == "160Mi"


def test_what_somebody_else_changes_is_put_back(outside: Outside) -> None:
    before = outside.seen("v1", "Service")["spec"]["ports"]
    redirected = {"spec": {"ports": [{**before[0], "targetPort": 1}]}}
    client, namespace = outside.shop.cluster.client, outside.shop.namespace
    client.merge_patch("v1", "Service", GATES, redirected, namespace=namespace)
    client.wait_for("v1", "Service", GATES, lambda it: it["spec"]["ports"] == before, namespace=namespace)
    rows(outside)


def test_the_gates_go_with_their_target(outside: Outside) -> None:
    """Last: by their owner, and without a finalizer of ours that could keep it."""
    client, namespace = outside.shop.cluster.client, outside.shop.namespace
    seen = client.get("sidegate.dev/v1alpha1", "ProtectedTarget", POD, namespace=namespace)
    assert "finalizers" not in seen["metadata"]
    client.delete("sidegate.dev/v1alpha1", "ProtectedTarget", POD, namespace=namespace)
    for version, kind in (("apps/v1", "Deployment"), ("v1", "Service"), ("policy/v1", "PodDisruptionBudget")):
        client.wait_until_gone(version, kind, GATES, namespace=namespace)
