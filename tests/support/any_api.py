"""What Sidegate's own processes need of an API server in tests, whichever it is: the bare one of `api_server`, or that of a cluster with a node."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import yaml

from tests.support.api_server import CRDS
from tests.support.cluster_client import ClusterClient
from tests.support.cluster_node import Cluster


class AnyApi(Protocol):
    """`admin` may do everything; in `directory` processes leave their logs."""

    @property
    def admin(self) -> ClusterClient: ...

    @property
    def directory(self) -> Path: ...

    def kubeconfig_for_token(self, token: str) -> Path: ...

    def apply_crds(self) -> list[str]: ...

    def create_namespace(self, prefix: str = "test", labels: Mapping[str, str] | None = None) -> str: ...


class NodeApi:
    """The API server of a cluster with a node, which calls webhooks of this machine by URL: so it has to run on this machine."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.admin = cluster.client
        self.directory = Path(tempfile.mkdtemp(prefix="sidegate-node-api-"))

    def kubeconfig_for_token(self, token: str) -> Path:
        document = yaml.safe_load(self.cluster.kubeconfig.read_text())
        document["users"] = [{"name": each["name"], "user": {"token": token}} for each in document["users"]]
        file = self.directory / f"kubeconfig-{len(list(self.directory.glob('kubeconfig-*')))}"
        file.touch(mode=0o600)
        file.write_text(yaml.safe_dump(document))
        return file

    def apply_crds(self) -> list[str]:
        documents = [yaml.safe_load(file.read_text()) for file in sorted(CRDS.glob("*.yaml"))]
        names = [str(document["metadata"]["name"]) for document in documents]
        for document in documents:
            self.admin.apply(document)
        for name in names:
            done = self.cluster.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")
            assert done.returncode == 0, done.stderr
        return names

    def create_namespace(self, prefix: str = "test", labels: Mapping[str, str] | None = None) -> str:
        metadata = {"name": prefix, "labels": dict(labels or {})}
        self.admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        done = self.cluster.kubectl("wait", "--namespace", prefix, "--for=create", "serviceaccount/default", "--timeout=30s")
        assert done.returncode == 0, done.stderr
        return prefix
