"""The chart on a node, as somebody new would use it: helm install, a target and a policy, an annotated pod, psql; and helm uninstall."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from tests.e2e.installations import remove_sidegate
from tests.e2e.shop import GATE, MASK_RULE, POD, Shop, policy
from tests.support.admission import dry_run
from tests.support.chart import NAMESPACE
from tests.support.cluster_authority import Authority
from tests.support.cluster_client import ApiError
from tests.support.cluster_node import ROOT, Cluster, ClusterImage
from tests.support.helm_release import HelmRelease
from tests.support.issuer import Issuer
from tests.support.processes import wait_until

COMPONENTS: Final = ("operator", "webhook")
RESTRICTED: Final = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="module")
def release(
    cluster: Cluster, images: Mapping[str, ClusterImage], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HelmRelease]:
    """Installed, and everything of it gone afterwards, so that no other test meets its guards."""
    cluster.load(images["operator"])
    made = json.loads((ROOT / "build" / "images" / "images.json").read_text())
    by_digest = {name: f"{each['image'].rpartition(':')[0]}@{each['digest']}" for name, each in made.items()}
    remove_sidegate(cluster)
    client = cluster.client
    client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}})
    found = HelmRelease(cluster.kubeconfig, tmp_path_factory.mktemp("helm"))
    found.install({"operator": {"image": by_digest["operator"]}, "gate": {"image": by_digest["gate"]}})
    yield found
    if client.list("apps/v1", "Deployment", namespace=NAMESPACE)["items"]:
        found.uninstall()
    remove_sidegate(cluster)


@pytest.fixture(scope="module")
def sidegate(cluster: Cluster, release: HelmRelease) -> HelmRelease:
    """Both replicas of both are ready: the webhook's, when the API server trusts them."""
    for component in COMPONENTS:
        try:
            cluster.client.wait_for("apps/v1", "Deployment", f"sidegate-{component}", is_ready, namespace=NAMESPACE, timeout_s=90)
        except TimeoutError as error:
            pods = cluster.kubectl("describe", "pods", "--namespace", NAMESPACE).stdout
            logs = cluster.kubectl("logs", "--namespace", NAMESPACE, f"deployment/sidegate-{component}").stdout
            raise TimeoutError(f"{error}\n{pods[-3000:]}\n{logs[-3000:]}") from None
    wait_until(lambda: answers(cluster), "the Service to lead to the webhook", 30, 0.2)
    return release


def answers(cluster: Cluster) -> bool:
    """Ready pods are behind their Service a moment later."""
    unusable = {
        "apiVersion": "sidegate.dev/v1alpha1",
        "kind": "AccessPolicy",
        "metadata": {"name": "none", "namespace": "default"},
    }
    try:
        dry_run(cluster.client, {**unusable, "spec": policy(MASK_RULE)["spec"]})
    except ApiError as error:
        return "failed to call webhook" not in error.message
    return True


def is_ready(deployment: Mapping[str, Any]) -> bool:
    return bool(deployment.get("status", {}).get("readyReplicas", 0) == deployment["spec"]["replicas"])


@pytest.fixture(scope="module")
def shop(cluster: Cluster, images: Mapping[str, ClusterImage], sidegate: HelmRelease) -> Iterator[Shop]:
    """A namespace with a target, a policy, a database's pod without any gate written in it, and a client."""
    name = f"chart-{uuid.uuid4().hex[:8]}"
    client = cluster.client
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    with Issuer(now=None) as issuer:
        issuer.go_down()
        made = Shop(cluster, name, images, issuer, Authority.create("shop"))
        client.wait_for("v1", "ServiceAccount", "default", lambda account: True, namespace=name)
        for wanted in (made._target(), policy(MASK_RULE)):
            client.apply({**wanted, "metadata": {**wanted["metadata"], "namespace": name}})
        for wanted in [made.authority_map(), *made.secrets(), made.client_pod()]:
            client.apply(wanted)
        client.create(asking(made))
        made.wait_until_ready(POD, "client")
        yield made
    client.delete("v1", "Namespace", name)


def asking(shop: Shop) -> dict[str, Any]:
    """The database alone, which asks for the target's gate."""
    pod: dict[str, Any] = shop.database_pod()
    mounted = {each["name"] for each in pod["spec"]["containers"][0]["volumeMounts"]}
    pod["spec"]["volumes"] = [each for each in pod["spec"]["volumes"] if each["name"] in mounted]
    del pod["spec"]["initContainers"]
    pod["metadata"]["annotations"] = {"sidegate.dev/target": POD}
    return pod


def test_nothing_restarts_while_it_comes_up(cluster: Cluster, sidegate: HelmRelease) -> None:
    pods = cluster.client.list("v1", "Pod", namespace=NAMESPACE)["items"]
    restarts = {pod["metadata"]["name"]: [each["restartCount"] for each in pod["status"]["containerStatuses"]] for pod in pods}
    assert len(restarts) == len(COMPONENTS) * 2
    assert all(counts == [0] for counts in restarts.values()), restarts


def test_an_annotated_pod_gets_its_gate_and_psql_gets_masked_rows(shop: Shop) -> None:
    pod = shop.cluster.client.get("v1", "Pod", POD, namespace=shop.namespace)
    assert [each["name"] for each in pod["spec"]["initContainers"]] == [GATE]

    def is_served() -> bool:
        return shop.psql("SELECT 1").returncode == 0

    wait_until(is_served, "the gate to have its config, and the Service its endpoint", timeout_s=100, interval_s=0.5)
    done = shop.psql("SELECT name, ssn FROM customers ORDER BY id")
    assert done.stdout.splitlines()[0].startswith("Ada|")
    assert "078-05-1120" not in done.stdout


def test_an_edited_policy_reaches_the_gate(shop: Shop) -> None:
    refused = shop.psql("DELETE FROM customers WHERE id = 99")
    assert "no-deletes" in refused.stderr
    rules = {"spec": {"rules": [MASK_RULE]}}
    shop.cluster.client.merge_patch("sidegate.dev/v1alpha1", "AccessPolicy", "assistants", rules, namespace=shop.namespace)
    wait_until(
        lambda: shop.psql("DELETE FROM customers WHERE id = 99").returncode == 0, "the new rules", timeout_s=100, interval_s=0.2
    )


def test_after_an_uninstall_pods_start_without_it(shop: Shop, sidegate: HelmRelease) -> None:
    client = shop.cluster.client
    sidegate.uninstall()
    client.delete("v1", "Pod", POD, namespace=shop.namespace, grace_s=0)
    client.wait_until_gone("v1", "Pod", POD, namespace=shop.namespace)

    def is_made() -> bool:
        try:
            client.create(asking(shop))
        except ApiError:
            return False
        return True

    wait_until(is_made, "the API server to ask nobody any more", 30, 0.2)
    (pod,) = shop.wait_until_ready(POD)
    assert "initContainers" not in pod["spec"]


def test_what_people_wrote_is_still_there(shop: Shop) -> None:
    for kind, name in (("ProtectedTarget", POD), ("AccessPolicy", "assistants")):
        assert shop.cluster.client.get("sidegate.dev/v1alpha1", kind, name, namespace=shop.namespace)
