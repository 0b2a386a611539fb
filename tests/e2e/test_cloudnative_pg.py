"""The example for CloudNativePG, with CloudNativePG itself: its instances get gates, replicate and change roles, and it leaves them alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping

import pytest

from tests.e2e.gated_cluster import GATE, NAMESPACE, GatedCluster, gated_cluster
from tests.support import cloudnative_pg, requirements
from tests.support.cluster_node import ROOT, STATE, Cluster, ClusterImage
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def gated(
    cluster: Cluster, images: Mapping[str, ClusterImage], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatedCluster]:
    if cluster.kubeconfig != STATE / "admin.conf":
        requirements.absent("an API server on this machine, which reaches a webhook here", "unset KUBECONFIG")
    operator = cloudnative_pg.required_cloudnative_pg(tmp_path_factory.mktemp("image"))
    cluster.load(operator.image)
    made = json.loads((ROOT / "build" / "images" / "images.json").read_text())["gate"]
    gate_image = f"{made['image'].rpartition(':')[0]}@{made['digest']}"
    with gated_cluster(cluster, images, gate_image, operator, tmp_path_factory.mktemp("cnpg")) as running:
        yield running


def test_each_instance_comes_up_with_a_gate(gated: GatedCluster) -> None:
    gated.wait_until_healthy()
    pods = gated.pods()
    assert [pod["metadata"]["name"] for pod in pods] == ["shop-db-1", "shop-db-2"]
    for pod in pods:
        assert [each["name"] for each in pod["spec"]["initContainers"]] == [GATE, "bootstrap-controller"]
        assert all(count == 0 for count in gated.identities()[pod["metadata"]["name"]][1].values())


def test_secrets_are_masked_through_the_gates_service(gated: GatedCluster) -> None:
    wait_until(lambda: gated.psql("SELECT 1").returncode == 0, "the primary's gate to serve", timeout_s=100, interval_s=1.0)
    for host in ("shop-db-gate", "shop-db-gate-primary"):
        done = gated.psql("SELECT name, ssn FROM customers ORDER BY id", host=host)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("Ines Berg|")
        assert "219-09-9999" not in done.stdout


def test_what_the_primary_is_told_the_replicas_gate_shows(gated: GatedCluster) -> None:
    inserted = gated.psql("INSERT INTO orders (customer_id, total) VALUES (1, 4711)", user="readwrite")
    assert inserted.returncode == 0, inserted.stderr
    replica = next(pod for pod in gated.pods() if pod["metadata"]["labels"]["cnpg.io/instanceRole"] == "replica")
    settings = {"PGHOSTADDR": replica["status"]["podIP"], "PGPORT": "6432"}

    def read() -> str:
        return gated.psql("SELECT count(*) FROM orders WHERE total = 4711", host="shop-db-gate", **settings).stdout.strip()

    wait_until(lambda: read() == "1", "the row to be on the replica", timeout_s=60, interval_s=0.5)
    refused = gated.psql(
        "INSERT INTO orders (customer_id, total) VALUES (1, 1)", host="shop-db-gate", user="readwrite", **settings
    )
    assert "read-only transaction" in refused.stderr


def test_the_gates_roles_come_in_from_nowhere_else(gated: GatedCluster) -> None:
    password = gated.secret("shop-db-readonly")
    refused = gated.psql(
        "SELECT 1", host="shop-db-rw", user="sg_readonly", password=password, PGSSLMODE="require", PGSSLROOTCERT="/none"
    )
    assert "pg_hba.conf rejects connection" in refused.stderr
    application = gated.psql(
        "SELECT count(*) FROM customers",
        host="shop-db-rw",
        user="shop_app",
        password=gated.secret("shop-db-app"),
        PGSSLMODE="require",
        PGSSLROOTCERT="/none",
    )
    assert application.stdout.strip() == "3", application.stderr


def test_cloudnative_pg_may_enter_an_instance_and_a_developer_may_not(gated: GatedCluster) -> None:
    def enter(*who: str) -> subprocess.CompletedProcess[str]:
        command = ("exec", "--namespace", NAMESPACE, "shop-db-1", "--container", "postgres", *who, "--", "true")
        return gated.cluster.kubectl(*command)

    allowed = enter("--as", "system:serviceaccount:cnpg-system:cnpg-manager")
    assert allowed.returncode == 0, allowed.stderr
    refused = enter("--as", "dev", "--as-group", "developers")  # who has every right on pods, see tests.support.admission
    assert "leads past the gate" in refused.stderr


def test_a_switchover_moves_the_primarys_service(gated: GatedCluster) -> None:
    before = gated.identities()
    # what `kubectl cnpg promote shop-db shop-db-2` writes
    promotion = {
        "targetPrimary": "shop-db-2",
        "targetPrimaryTimestamp": "2026-01-01T00:00:00.000000Z",
        "phase": "Switchover in progress",
    }
    gated.cluster.client.merge_patch(
        "postgresql.cnpg.io/v1", "Cluster", "shop-db", {"status": promotion}, namespace=NAMESPACE, subresource="status"
    )
    gated.wait_until_healthy("shop-db-2")
    insert = "INSERT INTO orders (customer_id, total) VALUES (2, 4712)"
    wait_until(
        lambda: gated.psql(insert, user="readwrite").returncode == 0,
        "the new primary's gate to serve",
        timeout_s=60,
        interval_s=1.0,
    )
    assert {name: uid for name, (uid, _) in gated.identities().items()} == {name: uid for name, (uid, _) in before.items()}


def test_an_instance_that_is_deleted_comes_back_with_its_gate(gated: GatedCluster) -> None:
    gone = gated.identities()["shop-db-1"][0]
    gated.cluster.client.delete("v1", "Pod", "shop-db-1", namespace=NAMESPACE)
    wait_until(
        lambda: gated.identities().get("shop-db-1", (gone,))[0] != gone,
        "the instance to be made again",
        timeout_s=60,
        interval_s=0.5,
    )
    gated.wait_until_healthy("shop-db-2")
    pod = gated.pods()[0]
    assert pod["spec"]["initContainers"][0]["name"] == GATE


def test_cloudnative_pg_leaves_the_gated_pods_alone(gated: GatedCluster) -> None:
    """It looks at every pod anew whenever the cluster changes, and restarts those that aren't as it wants them."""
    before = gated.identities()
    changes = iter(range(1000))

    def look_again() -> bool:
        patch = {"metadata": {"annotations": {"example.com/look-again": str(next(changes))}}}
        gated.cluster.client.merge_patch("postgresql.cnpg.io/v1", "Cluster", "shop-db", patch, namespace=NAMESPACE)
        assert gated.identities() == before
        return False

    with pytest.raises(TimeoutError):
        wait_until(look_again, "the pods to change", timeout_s=60, interval_s=2.0)
    gated.wait_until_healthy("shop-db-2")
    log = gated.cluster.kubectl("logs", "--namespace", "cnpg-system", "deployment/cnpg-controller-manager").stdout
    assert "PodSpec differ" not in log
