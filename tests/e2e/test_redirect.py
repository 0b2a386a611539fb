"""Redirection on a node: whoever dials the database reaches its gate, from outside and from inside, and the gate alone reaches the database."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.plan.gate_container import REDIRECT_CONTAINER, GateSettings
from sidegate_operator.plan.redirect import redirect_rules
from sidegate_operator.plan.service import plan_service
from tests.e2e.shop import CLIENT, CONFINED, GATE, GATE_PORT, GATE_USER, MASK_RULE, POD, Shop, policy
from tests.e2e.test_planned_pod import planned_pod, target_of
from tests.support.cluster_authority import Authority
from tests.support.cluster_client import ApiError, Object
from tests.support.cluster_node import ROOT, Cluster, ClusterImage
from tests.support.issuer import Issuer
from tests.support.processes import wait_until
from tests.unit.api.crd_rules import merged

# What answers a StartupMessage without TLS: PostgreSQL asks for a password, the gate refuses to take a token that way.
_ASKS = """\
import socket, struct, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as connection:
    body = b"\\0\\3\\0\\0user\\0postgres\\0database\\0shop\\0\\0"
    connection.sendall(struct.pack("!I", len(body) + 4) + body)
    print(connection.recv(4096))
"""


@dataclass(frozen=True, slots=True)
class Redirected:
    shop: Shop
    address: str

    def answer(self, pod: str, host: str, port: int = 5432, *, container: str | None = None) -> str:
        """What whoever listens there says to a StartupMessage without TLS."""
        command = ["python3", "-c", _ASKS, host, str(port)]
        done = self.shop.cluster.exec(self.shop.namespace, pod, command, container=container)
        assert done.returncode == 0, done.stderr
        return done.stdout


def is_the_databases(answer: str) -> bool:
    """AuthenticationSASL: PostgreSQL asks for a password."""
    return "SCRAM-SHA-256" in answer


def is_the_gates(answer: str) -> bool:
    """Whatever else it says: to a stranger it says no, and who it is."""
    return "refused by sidegate" in answer


@pytest.fixture(scope="module")
def settings(images: Mapping[str, ClusterImage]) -> GateSettings:
    made = json.loads((ROOT / "build" / "images" / "images.json").read_text())
    pinned = {name: f"{each['image'].rpartition(':')[0]}@{each['digest']}" for name, each in made.items()}
    return GateSettings(pinned["gate"], "0.1.0", redirect_image=pinned["redirect"])


def redirecting(shop: Shop) -> ProtectedTarget:
    return ProtectedTarget.from_wire(merged(target_of(shop).to_wire(), {"spec": {"enforcement": {"mode": "Redirect"}}}))


def pod_of(shop: Shop, settings: GateSettings) -> dict[str, Any]:
    """The database's pod, with a container that runs as root and has none of root's capabilities: what port-forward is inside of a pod."""
    pod = planned_pod(shop, redirecting(shop), settings)
    roots = {**CONFINED, "runAsNonRoot": False, "runAsUser": 0}
    image = shop.images["postgres"].name
    command = ["sleep", "infinity"]
    root = {"name": "root", "image": image, "imagePullPolicy": "Never", "command": command, "securityContext": roots}
    pod["spec"]["containers"].append(root)
    pod["spec"]["terminationGracePeriodSeconds"] = 1
    return pod


@pytest.fixture(scope="module")
def redirected(
    cluster: Cluster, images: Mapping[str, ClusterImage], settings: GateSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Redirected]:
    name = f"redirected-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    cluster.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    with Issuer(now=None) as issuer:
        issuer.go_down()
        shop = Shop(cluster, name, images, issuer, Authority.create("shop"))
        cluster.client.wait_for("v1", "ServiceAccount", "default", lambda account: True, namespace=name)
        service = plan_service(redirecting(shop), settings).wanted
        assert service is not None
        config = shop.render(tmp_path_factory.mktemp("manifests"), policy(MASK_RULE))
        for wanted in [config, shop.authority_map(), *shop.secrets(), service, pod_of(shop, settings), shop.client_pod()]:
            cluster.client.apply(wanted)
        pod, _ = shop.wait_until_ready(POD, CLIENT)
        yield Redirected(shop, pod["status"]["podIP"])
    cluster.client.delete("v1", "Namespace", name)


def test_whoever_dials_the_database_from_another_pod_is_asked_for_a_token(redirected: Redirected) -> None:
    answer = redirected.answer(CLIENT, redirected.address)
    assert is_the_gates(answer), answer
    at_the_databases_port = {"PGPORT": "5432", "PGSSLMODE": "verify-ca"}
    refused = redirected.shop.psql("SELECT 1", token="no token", host=redirected.address, settings=at_the_databases_port)
    assert refused.returncode != 0
    assert "token" in refused.stderr

    def ask() -> subprocess.CompletedProcess[str]:
        sql = "SELECT name, ssn FROM customers ORDER BY id"
        return redirected.shop.psql(sql, host=redirected.address, settings=at_the_databases_port)

    wait_until(lambda: ask().returncode == 0, "the database to listen", 60, 0.5)
    served = ask()
    assert served.stdout.splitlines()[0].startswith("Ada|")
    assert "078-05-1120" not in served.stdout


def test_the_gates_own_port_is_as_ever(redirected: Redirected) -> None:
    assert is_the_gates(redirected.answer(CLIENT, redirected.address, GATE_PORT))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "podIP"])
@pytest.mark.parametrize("container", ["root", "postgres"])
def test_nobody_else_in_the_pod_reaches_the_database(redirected: Redirected, container: str, host: str) -> None:
    """Not by loopback, nor by the pod's own address. IPv6 leads to the gate's port too, where a gate on IPv4 doesn't listen."""
    if host == "::1":
        with pytest.raises(AssertionError, match=r"refused|Cannot assign"):
            redirected.answer(POD, host, container=container)
        return
    answer = redirected.answer(POD, redirected.address if host == "podIP" else host, container=container)
    assert is_the_gates(answer), answer


def test_the_gate_reaches_the_database(redirected: Redirected) -> None:
    assert is_the_databases(redirected.answer(POD, "127.0.0.1", container=GATE))
    assert is_the_databases(redirected.answer(POD, redirected.address, container=GATE))


def test_port_forward_leads_to_the_gate(redirected: Redirected) -> None:
    """The container runtime connects inside of the pod, as the node's root."""
    cluster = redirected.shop.cluster
    start = [str(cluster.kubectl_program), "--kubeconfig", str(cluster.kubeconfig), "--namespace", redirected.shop.namespace]
    with subprocess.Popen([*start, "port-forward", f"pod/{POD}", ":5432"], stdout=subprocess.PIPE, text=True) as forwarding:
        assert forwarding.stdout is not None
        port = int(forwarding.stdout.readline().split("->")[0].rpartition(":")[2])
        done = subprocess.run(["python3", "-c", _ASKS, "127.0.0.1", str(port)], capture_output=True, text=True, check=False)
        forwarding.terminate()
    assert is_the_gates(done.stdout), done.stderr


def test_the_rules_are_replaced_and_not_added_to(redirected: Redirected, images: Mapping[str, ClusterImage]) -> None:
    """As when the pod's network outlives a container, or the kubelet runs init containers again; nft sees what the rules came to."""
    list_rules = "nft list table inet sidegate"
    twice = f'nft "$0" && {list_rules} >/tmp/one && nft "$0" && {list_rules} >/tmp/two && cmp /tmp/one /tmp/two && cat /tmp/two'
    security = {"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "runAsUser": 0, "allowPrivilegeEscalation": False}
    container = {
        "name": "nft",
        "image": images["redirect"].name,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", twice, redirect_rules(5432, GATE_PORT)],
        "securityContext": security,
    }
    namespace = redirected.shop.namespace
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
    client = redirected.shop.cluster.client
    client.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "nft", "namespace": namespace}, "spec": spec})
    ended = client.wait_for(
        "v1", "Pod", "nft", lambda pod: pod["status"].get("phase") in {"Succeeded", "Failed"}, namespace=namespace
    )
    said = redirected.shop.cluster.kubectl("logs", "--namespace", namespace, "nft").stdout
    assert ended["status"]["phase"] == "Succeeded", said
    assert said.count("tcp dport 5432") == 4
    assert said.count(f"meta skuid != {GATE_USER}") == 2


def test_a_gate_that_restarts_finds_the_rules_in_force(redirected: Redirected) -> None:
    client, namespace = redirected.shop.cluster.client, redirected.shop.namespace

    def gate() -> Object:
        pod = client.get("v1", "Pod", POD, namespace=namespace)
        (found,) = [each for each in pod["status"]["initContainerStatuses"] if each["name"] == GATE]
        return dict(found)

    before = gate()["restartCount"]
    redirected.shop.in_gate("python3", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")
    wait_until(lambda: gate()["restartCount"] > before and gate()["ready"], "the gate to be back", timeout_s=90, interval_s=0.2)
    assert is_the_gates(redirected.answer(CLIENT, redirected.address))
    assert is_the_databases(redirected.answer(POD, "127.0.0.1", container=GATE))


@pytest.mark.parametrize("level", ["restricted", "baseline"])
def test_pod_security_refuses_redirection_and_names_what_it_refuses(
    redirected: Redirected, settings: GateSettings, level: str
) -> None:
    name = f"{level}-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": level}
    client = redirected.shop.cluster.client
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    try:
        client.wait_for("v1", "ServiceAccount", "default", lambda account: True, namespace=name)
        pod = pod_of(redirected.shop, settings)
        pod["metadata"]["namespace"] = name
        with pytest.raises(ApiError, match="violates PodSecurity") as refused:
            client.create(pod)
        assert REDIRECT_CONTAINER in str(refused.value)
        assert "NET_ADMIN" in str(refused.value)
    finally:
        client.delete("v1", "Namespace", name)
