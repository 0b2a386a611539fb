"""The managed NetworkPolicy on a node whose network enforces it: clients reach the gate and nothing else, and the cluster's own work goes on."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.plan.network_policy import plan_network_policy
from sidegate_operator.plan.service import plan_service
from tests.e2e.shop import CLIENT, GATE, GATE_PORT, HEALTH_PORT, MASK_RULE, POD, Shop, conditions_of_start, policy
from tests.e2e.test_planned_pod import planned_pod, target_of
from tests.support.cluster_authority import Authority
from tests.support.cluster_client import ApiError, Object
from tests.support.cluster_node import ROOT, Cluster, ClusterImage
from tests.support.issuer import Issuer
from tests.support.processes import wait_until

MEMBERS = (f"{POD}-0", f"{POD}-1")
CONNECT_S = 3  # a packet that a policy refuses is dropped, so the client waits
_CONNECTS = f"""\
import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2])), {CONNECT_S}).close()
"""


@dataclass(frozen=True, slots=True)
class Guarded:
    """A StatefulSet of two databases, each with its gate; a client beside it, another one in the namespace of the scraper."""

    shop: Shop
    scraper: str
    policy: Object

    @property
    def cluster(self) -> Cluster:
        return self.shop.cluster

    def pod(self, name: str, namespace: str = "") -> Object:
        found: Object = self.cluster.client.get("v1", "Pod", name, namespace=namespace or self.shop.namespace)
        return found

    def address(self, name: str = MEMBERS[0]) -> str:
        address: str = self.pod(name)["status"]["podIP"]
        return address

    def connects(self, pod: str, host: str, port: int, *, namespace: str = "", container: str | None = None) -> bool:
        """Whether a TCP connection from the pod is made at all."""
        command = ["python3", "-c", _CONNECTS, host, str(port)]
        done = self.cluster.exec(namespace or self.shop.namespace, pod, command, container=container)
        assert done.returncode == 0 or "timed out" in done.stderr or "refused" in done.stderr, done.stderr
        return done.returncode == 0

    def in_database(self, pod: str, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self.cluster.exec(self.shop.namespace, pod, command, container="postgres", stdin=stdin)


@pytest.fixture(scope="module")
def settings(images: Mapping[str, ClusterImage]) -> GateSettings:
    made = json.loads((ROOT / "build" / "images" / "images.json").read_text())["gate"]
    return GateSettings(f"{made['image'].rpartition(':')[0]}@{made['digest']}", "0.1.0")


@pytest.fixture(scope="module")
def guarded(
    cluster: Cluster, images: Mapping[str, ClusterImage], settings: GateSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    suffix = uuid.uuid4().hex[:8]
    name, scraper = f"guarded-{suffix}", f"scraper-{suffix}"
    for each in (name, scraper):
        cluster.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": each}})
    with Issuer(now=None) as issuer:
        issuer.go_down()
        shop = Shop(cluster, name, images, issuer, Authority.create("shop"))
        for each in (name, scraper):
            cluster.client.wait_for("v1", "ServiceAccount", "default", lambda account: True, namespace=each)
        target = target_of(shop)
        service = plan_service(target, settings).wanted
        wanted_policy = plan_network_policy(target, replace(settings, scrapers=(scraper,))).wanted
        assert service is not None
        assert wanted_policy is not None
        config = shop.render(tmp_path_factory.mktemp("manifests"), policy(MASK_RULE))
        outsider = shop.client_pod()
        outsider["metadata"]["namespace"] = scraper
        del outsider["spec"]["volumes"], outsider["spec"]["containers"][0]["volumeMounts"]
        members = stateful_set(planned_pod(shop, target, settings))
        for wanted in [config, shop.authority_map(), *shop.secrets(), service, members, shop.client_pod(), outsider]:
            cluster.client.apply(wanted)
        shop.wait_until_ready(*MEMBERS, CLIENT)
        made = Guarded(shop, scraper, wanted_policy)
        cluster.client.wait_for("v1", "Pod", CLIENT, is_running, namespace=scraper)
        yield made
    for each in (name, scraper):
        cluster.client.delete("v1", "Namespace", each)


def is_running(pod: Object) -> bool:
    return bool(pod["status"].get("phase") == "Running" and pod["status"].get("podIP"))


def stateful_set(pod: dict[str, Any]) -> Object:
    template = {"metadata": {key: pod["metadata"][key] for key in ("labels", "annotations")}, "spec": pod["spec"]}
    spec = {
        "replicas": len(MEMBERS),
        "serviceName": POD,
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": {"app": POD}},
        "template": template,
    }
    metadata = {"name": POD, "namespace": pod["metadata"]["namespace"]}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module")
def enforced(guarded: Guarded) -> Guarded:
    """With the policy in force. Before it every way is open, or the tests below would prove nothing."""
    for port in (5432, GATE_PORT, HEALTH_PORT):
        assert guarded.connects(CLIENT, guarded.address(), port)
        assert guarded.connects(CLIENT, guarded.address(), port, namespace=guarded.scraper)
    guarded.cluster.client.apply(guarded.policy)
    wait_until(lambda: not guarded.connects(CLIENT, guarded.address(), 5432), "the network to enforce the policy", timeout_s=30)
    return guarded


def test_a_client_reaches_no_database_but_through_its_gate(enforced: Guarded) -> None:
    for member in MEMBERS:
        direct = enforced.shop.psql("SELECT 1", host=enforced.address(member), settings=plain_settings())
        assert direct.returncode != 0
        assert "timeout expired" in direct.stderr
    assert not enforced.connects(CLIENT, enforced.address(), 5432, namespace=enforced.scraper)
    through = enforced.shop.psql("SELECT name, ssn FROM customers ORDER BY id")
    assert through.returncode == 0, through.stderr
    assert through.stdout.splitlines()[0].startswith("Ada|")
    assert "078-05-1120" not in through.stdout


def plain_settings() -> dict[str, str]:
    """Of a client that goes straight to the database."""
    return {"PGPORT": "5432", "PGSSLMODE": "disable", "PGUSER": "sg_readonly", "PGCONNECT_TIMEOUT": str(CONNECT_S)}


def test_the_gate_reaches_the_database_at_loopback(enforced: Guarded) -> None:
    assert enforced.connects(MEMBERS[0], "127.0.0.1", 5432, container=GATE)


def test_members_replicate_from_one_another(enforced: Guarded) -> None:
    allow = (
        'echo "host replication all all scram-sha-256" >>"$PGDATA/pg_hba.conf" && psql -U postgres -c "SELECT pg_reload_conf()"'
    )
    allowed = enforced.in_database(MEMBERS[0], "sh", "-c", allow)
    assert allowed.returncode == 0, allowed.stderr
    copy = (
        'PGPASSWORD=$POSTGRES_PASSWORD exec pg_basebackup -h "$0" -U postgres -D /tmp/copy --wal-method=stream --checkpoint=fast'
    )
    copied = enforced.in_database(MEMBERS[1], "sh", "-c", copy, enforced.address(MEMBERS[0]))
    assert copied.returncode == 0, copied.stderr
    assert enforced.in_database(MEMBERS[1], "cat", "/tmp/copy/PG_VERSION").stdout.strip() != ""


def test_metrics_are_for_the_scrapers_namespace_alone(enforced: Guarded) -> None:
    assert enforced.connects(CLIENT, enforced.address(), HEALTH_PORT, namespace=enforced.scraper)
    assert not enforced.connects(CLIENT, enforced.address(), HEALTH_PORT)


def test_ports_that_are_none_of_ours_stay_open(enforced: Guarded) -> None:
    """Such as the REST API of what runs the databases: nothing listens here, so the answer is a refusal and no silence."""
    done = enforced.cluster.exec(enforced.shop.namespace, CLIENT, ["python3", "-c", _CONNECTS, enforced.address(), "8008"])
    assert "refused" in done.stderr


def test_the_kubelets_probes_pass(enforced: Guarded) -> None:
    """A gate that comes up under the policy passes the startup probe, and nobody was restarted for a failed liveness probe."""

    def is_anew() -> bool:
        try:
            pod = enforced.pod(MEMBERS[1])
        except ApiError:
            return False  # between the old one and the new
        ready = [each for each in pod["status"].get("conditions", []) if each["type"] == "Ready" and each["status"] == "True"]
        return pod["metadata"]["uid"] != before and bool(ready)

    before = enforced.pod(MEMBERS[1])["metadata"]["uid"]
    enforced.cluster.client.delete("v1", "Pod", MEMBERS[1], namespace=enforced.shop.namespace)
    wait_until(is_anew, "the member to be ready again", timeout_s=90, interval_s=0.2)
    for member in MEMBERS:
        assert {each["restartCount"] for each in conditions_of_start(enforced.pod(member)).values()} == {0}
    wait_until(
        lambda: not enforced.connects(CLIENT, enforced.address(MEMBERS[1]), 5432),
        "the policy to hold for the new pod",
        timeout_s=30,
    )
