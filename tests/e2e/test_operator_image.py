"""The operator's image does its work confined, and says the same as the source tree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from tests.e2e.shop import CONFINED, MASK_RULE, Shop, policy
from tests.support.cluster_node import ClusterImage


def test_renders_in_a_pod_what_it_renders_here(shop: Shop, images: Mapping[str, ClusterImage], tmp_path: Path) -> None:
    expected = shop.render(tmp_path, policy(MASK_RULE))
    shop.cluster.load(images["operator"])
    metadata = {"name": "manifests", "namespace": shop.namespace}
    manifests = {"all.yaml": (tmp_path / "all.yaml").read_text()}
    shop.cluster.client.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": manifests})
    container = {
        "name": "operator",
        "image": images["operator"].name,
        "imagePullPolicy": "Never",
        "args": ["render", "--manifests", "/manifests/all.yaml"],
        "securityContext": CONFINED,
        "volumeMounts": [{"name": "manifests", "mountPath": "/manifests", "readOnly": True}],
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": [{"name": "manifests", "configMap": {"name": "manifests"}}],
    }
    metadata = {"name": "render", "namespace": shop.namespace}
    shop.cluster.client.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    pod = shop.cluster.client.wait_for(
        "v1", "Pod", "render", lambda pod: pod["status"].get("phase") in {"Succeeded", "Failed"}, namespace=shop.namespace
    )
    said = shop.cluster.kubectl("logs", "--namespace", shop.namespace, "render").stdout
    assert pod["status"]["phase"] == "Succeeded", said
    assert yaml.safe_load(said) == expected
