"""The pod as the operator plans it, on a node: it starts before its config is there, takes it up, serves psql, and keeps its own to itself."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.plan.service import plan_service
from tests.e2e.shop import DEFAULT_TOKEN, GATE, MASK_RULE, POD, REVISION, STATE, Shop, conditions_of_start, policy
from tests.support.cluster_authority import Authority
from tests.support.cluster_node import ROOT, Cluster, ClusterImage
from tests.support.issuer import Issuer
from tests.support.operator_samples import injected
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def settings(images: Mapping[str, ClusterImage]) -> GateSettings:
    """The gate's image by its digest, under which the archive has it too."""
    made = json.loads((ROOT / "build" / "images" / "images.json").read_text())["gate"]
    return GateSettings(f"{made['image'].rpartition(':')[0]}@{made['digest']}", "0.1.0")


@pytest.fixture(scope="module")
def planned(
    cluster: Cluster, images: Mapping[str, ClusterImage], settings: GateSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A namespace of its own, where the database's pod is planned. Its ConfigMap comes only when everything runs."""
    name = f"planned-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    with Issuer(now=None) as issuer:
        issuer.go_down()
        shop = Shop(cluster, name, images, issuer, Authority.create("shop"))
        cluster.client.wait_for("v1", "ServiceAccount", "default", lambda account: True, namespace=name)
        target = target_of(shop)
        service = plan_service(target, settings).wanted
        assert service is not None
        for wanted in [shop.authority_map(), *shop.secrets(), service, planned_pod(shop, target, settings), shop.client_pod()]:
            cluster.client.apply(wanted)
        shop.wait_until_ready(POD, "client")
        yield shop
    cluster.client.delete("v1", "Namespace", name)


def target_of(shop: Shop) -> ProtectedTarget:
    document: dict[str, Any] = shop._target()
    document["metadata"]["namespace"] = shop.namespace
    return ProtectedTarget.from_wire(document)


def planned_pod(shop: Shop, target: ProtectedTarget, settings: GateSettings) -> dict[str, Any]:
    """The database alone, and what the plan makes of it."""
    pod = shop.database_pod()
    mounted = {each["name"] for each in pod["spec"]["containers"][0]["volumeMounts"]}
    pod["spec"]["volumes"] = [each for each in pod["spec"]["volumes"] if each["name"] in mounted]
    del pod["spec"]["initContainers"]
    pod["metadata"]["annotations"] = {"sidegate.dev/target": POD}
    return injected(pod, target, settings)


def test_the_database_starts_although_its_gates_config_is_missing(planned: Shop) -> None:
    (pod,) = planned.wait_until_ready(POD)
    assert {name: (each["ready"], each["restartCount"]) for name, each in conditions_of_start(pod).items()} == {
        GATE: (True, 0),
        "postgres": (True, 0),
    }
    refused = planned.psql("SELECT 1", settings={"PGSSLMODE": "disable"})
    assert refused.returncode != 0
    assert "config" in refused.stderr


def test_the_gate_takes_up_its_config_and_serves(planned: Shop, tmp_path_factory: pytest.TempPathFactory) -> None:
    config_map = planned.render(tmp_path_factory.mktemp("manifests"), policy(MASK_RULE))
    planned.cluster.client.apply(config_map)
    revision = config_map["metadata"]["annotations"][REVISION]
    bump = {"metadata": {"annotations": {REVISION: revision}}}
    planned.cluster.client.merge_patch("v1", "Pod", POD, bump, namespace=planned.namespace)
    wait_until(lambda: revision in planned.page("/metrics"), "the gate to have its config", timeout_s=100, interval_s=0.2)
    done = planned.psql("SELECT name, ssn FROM customers ORDER BY id")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("Ada|")
    assert "078-05-1120" not in done.stdout
    recordings = planned.in_gate("find", f"{STATE}/recordings", "-name", "*.sgrec")
    assert recordings.stdout.strip() != "", recordings.stderr


def test_the_gate_has_its_own_token_and_not_the_pods(planned: Shop) -> None:
    assert planned.in_gate("ls", "-A", DEFAULT_TOKEN).stdout == ""
    token = planned.in_gate("cat", "/run/sidegate/operator/token").stdout
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "metadata": {},
        "spec": {"token": token, "audiences": ["sidegate-operator"]},
    }
    status = planned.cluster.client.create(review)["status"]
    assert status["authenticated"] is True
    (pod,) = planned.wait_until_ready(POD)
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-uid"] == [pod["metadata"]["uid"]]


def test_the_gate_writes_its_state_to_memory_and_nothing_anywhere_else(planned: Shop) -> None:
    mounts = {line.split()[1]: line.split()[2:4] for line in planned.in_gate("cat", "/proc/mounts").stdout.splitlines()}
    kind, options = mounts[STATE]
    assert kind == "tmpfs"
    assert f"size={32 * 1024}k" in options
    assert mounts["/"][1].startswith("ro")
    for path in (
        "/etc/sidegate",
        "/run/sidegate/secrets",
        "/run/sidegate/operator",
        DEFAULT_TOKEN,
        DEFAULT_TOKEN.removeprefix("/var"),
    ):
        assert mounts.get(path, [None, "ro"])[1].startswith("ro")
    assert planned.in_gate("touch", "/etc/sidegate/x").returncode != 0


def test_the_database_sees_nothing_of_the_gates(planned: Shop) -> None:
    listed = planned.cluster.exec(
        planned.namespace,
        POD,
        ["sh", "-c", "ls -d /etc/sidegate /run/sidegate /var/lib/sidegate; ls /proc | grep -c '^[0-9]'"],
        container="postgres",
    )
    assert "/sidegate\n" not in listed.stdout
    commands = planned.cluster.exec(planned.namespace, POD, ["sh", "-c", "cat /proc/[0-9]*/cmdline"], container="postgres").stdout
    assert "postgres" in commands
    assert "--metrics" not in commands
