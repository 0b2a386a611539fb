"""Tests that need a node, where the project's own images run: `make test-e2e`. One cluster, one process."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.shop import MASK_RULE, Shop, policy
from tests.support.cluster_authority import Authority
from tests.support.cluster_node import ROOT, Cluster, ClusterImage, made_images, running_cluster
from tests.support.issuer import Issuer

FIGURES = ROOT / "build" / "e2e.json"


@pytest.fixture(scope="session")
def figures() -> Iterator[dict[str, float]]:
    """What was measured on the way, for build/e2e.json; no test passes or fails by it."""
    found: dict[str, float] = {}
    yield found
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps(found, indent=2) + "\n")
    print("\n" + "\n".join(f"{name} {value}" for name, value in found.items()))


@pytest.fixture(scope="session")
def cluster(figures: dict[str, float]) -> Iterator[Cluster]:
    began = time.monotonic()
    with running_cluster() as running:
        figures["cluster_up_s"] = round(time.monotonic() - began, 1)
        yield running


@pytest.fixture(scope="session")
def images(cluster: Cluster, figures: dict[str, float]) -> Mapping[str, ClusterImage]:
    """The images of this source tree; those that join a database are in the cluster."""
    began = time.monotonic()
    made = made_images()
    figures["images_made_s"] = round(time.monotonic() - began, 1)
    began = time.monotonic()
    for name in ("gate", "redirect", "postgres"):
        cluster.load(made[name])
    figures["images_loaded_s"] = round(time.monotonic() - began, 1)
    return made


@pytest.fixture(scope="session")
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace that refuses pods which Pod Security `restricted` doesn't allow."""
    name = f"shop-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "latest"}
    cluster.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    cluster.client.delete("v1", "Namespace", name)


@pytest.fixture(scope="session")
def shop(
    cluster: Cluster,
    namespace: str,
    images: Mapping[str, ClusterImage],
    figures: dict[str, float],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shop]:
    """A gated database with a rule that masks `ssn` and one that denies deletes. Its issuer is down: the keys are in the manifest."""
    with Issuer(now=None) as issuer:
        issuer.go_down()
        made = Shop(cluster, namespace, images, issuer, Authority.create("shop"))
        cluster.client.wait_for("v1", "ServiceAccount", "default", lambda account: True, namespace=namespace)
        config = made.render(tmp_path_factory.mktemp("manifests"), policy(MASK_RULE))
        began = time.monotonic()
        for wanted in [config, made.authority_map(), *made.secrets(), made.service(), made.database_pod(), made.client_pod()]:
            cluster.client.apply(wanted)
        made.wait_until_ready("shop-db", "client")
        figures["pods_ready_s"] = round(time.monotonic() - began, 1)
        yield made


def pytest_report_header() -> str:
    return f"figures: {FIGURES.relative_to(Path(ROOT))}"
