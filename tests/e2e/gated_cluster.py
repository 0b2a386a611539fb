"""Sidegate installed on a node, its webhook and its operator as processes of this machine, and CloudNativePG's cluster of the example behind gates.

What is applied is the example as it is, and over it, by kustomize as a user would, what this place needs: the tests' issuer, the project's own
PostgreSQL (of Debian, so another user than CloudNativePG's images have), small volumes of this machine. `secrets.sh` is run as the page says.
The client is `psql` in a pod of another namespace. Everything that this installs for the whole cluster is removed again.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.e2e.installations import remove_sidegate
from tests.e2e.shop import CONFINED
from tests.support import cloudnative_pg
from tests.support.admission import PROBED, Admission
from tests.support.any_api import NodeApi
from tests.support.cloudnative_pg import CloudNativePg
from tests.support.cluster_client import Object
from tests.support.cluster_node import ROOT, Cluster, ClusterImage
from tests.support.issuer import Issuer
from tests.support.running_operator import OperatorAccount, RunningOperator

EXAMPLE: Final = ROOT / "examples" / "cloudnative-pg"
NAMESPACE: Final = "shop"
NAME: Final = "shop-db"
GATE: Final = "sidegate-gate"
CLIENTS: Final = "assistants"
API: Final = "postgresql.cnpg.io/v1"
INSTANCES: Final = 2
_STORAGE: Final = "by-hand"
_TIMEOUT_S: Final = 180.0


@dataclass(frozen=True, slots=True)
class GatedCluster:
    cluster: Cluster
    issuer: Issuer
    operator: RunningOperator

    # What there is

    def pods(self) -> list[Object]:
        """The instances, in the order of their names."""
        found = self.cluster.client.list(
            "v1", "Pod", namespace=NAMESPACE, labelSelector=f"cnpg.io/cluster={NAME},cnpg.io/podRole=instance"
        )
        pods: list[Object] = sorted(found["items"], key=lambda pod: str(pod["metadata"]["name"]))
        return pods

    def identities(self) -> dict[str, tuple[str, Mapping[str, int]]]:
        """Of each instance, which pod it is, and how often each of its containers was started again."""
        found: dict[str, tuple[str, Mapping[str, int]]] = {}
        for pod in self.pods():
            states = [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]
            found[pod["metadata"]["name"]] = (pod["metadata"]["uid"], {each["name"]: each["restartCount"] for each in states})
        return found

    def status(self) -> Object:
        status: Object = self.cluster.client.get(API, "Cluster", NAME, namespace=NAMESPACE).get("status", {})
        return status

    def wait_until_healthy(self, primary: str | None = None) -> Object:
        def is_healthy(found: Object) -> bool:
            status = found.get("status", {})
            return bool(
                status.get("readyInstances") == INSTANCES
                and status.get("phase") == "Cluster in healthy state"
                and status.get("currentPrimary") == (primary or status.get("targetPrimary"))
            )

        return self.cluster.client.wait_for(API, "Cluster", NAME, is_healthy, namespace=NAMESPACE, timeout_s=_TIMEOUT_S)

    def secret(self, name: str, key: str = "password") -> str:
        data = self.cluster.client.get("v1", "Secret", name, namespace=NAMESPACE)["data"]
        return base64.b64decode(data[key]).decode()

    # What is asked

    def psql(
        self,
        sql: str,
        *,
        host: str = f"{NAME}-gate-primary",
        user: str = "readonly",
        password: str | None = None,
        **settings: str,
    ) -> subprocess.CompletedProcess[str]:
        """A statement by psql in the client's pod; with the token of an assistant unless a password is given."""
        environment = {
            "PGHOST": f"{host}.{NAMESPACE}.svc",
            "PGDATABASE": "shop",
            "PGUSER": user,
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": "/ca/ca.crt",
            "PGCONNECT_TIMEOUT": "10",
            **settings,
        }
        names = [f"{name}={value}" for name, value in environment.items()]
        script = 'IFS= read -r PGPASSWORD; export PGPASSWORD; exec env "$@"'
        command = ["sh", "-c", script, "sh", *names, "psql", "--no-psqlrc", "--no-align", "--tuples-only", "--command", sql]
        return self.cluster.exec(CLIENTS, "client", command, stdin=(password or self.issuer.token("ada")) + "\n")


@contextmanager
def gated_cluster(
    cluster: Cluster, images: Mapping[str, ClusterImage], gate_image: str, database_operator: CloudNativePg, folder: Path
) -> Iterator[GatedCluster]:
    with ExitStack() as stack:
        remove_sidegate(cluster)
        stack.callback(_remove_webhooks, cluster)
        issuer = stack.enter_context(Issuer(now=None))
        issuer.go_down()  # the target has its keys
        api = NodeApi(cluster)
        stack.callback(shutil.rmtree, api.directory, ignore_errors=True)
        admission = Admission(api, "--gate-image", gate_image)
        stack.callback(_remove_sidegate, cluster)
        stack.enter_context(admission)
        account = OperatorAccount(api, name="sidegate-operator")
        operator = stack.enter_context(RunningOperator(account, gate_image=gate_image))
        operator.wait_until_leading()
        stack.callback(_remove, cluster, database_operator.manifests)
        _kubectl(cluster, "apply", "--server-side", "--filename", "-", stdin=database_operator.manifests)
        stack.callback(_remove_example, cluster)
        _make_client(cluster, images["postgres"])
        owner = cluster.exec(CLIENTS, "client", ["id", "-u", "postgres"]).stdout.strip()
        version = cluster.exec(CLIENTS, "client", ["sh", "-c", "echo /usr/lib/postgresql/*/bin"]).stdout.strip()
        environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
        environment["PATH"] = f"{cluster.kubectl_program.parent}:{environment['PATH']}"
        subprocess.run(["sh", str(EXAMPLE / "secrets.sh")], env=environment, check=True, capture_output=True)
        _give_authority(cluster)
        cluster.kubectl(
            "wait", "--namespace", cloudnative_pg.NAMESPACE, "--for=condition=Available", "deployment/cnpg-controller-manager",
            "--timeout=120s", timeout_s=130,
        )  # fmt: skip
        for number in range(1, INSTANCES + 1):
            cluster.client.apply(_volume(folder / f"volume-{number}", number, int(owner)))
        overlay = _overlay(folder / "overlay", images["postgres"].name, version, int(owner), issuer)
        _kubectl(cluster, "apply", "--kustomize", str(overlay))
        made = GatedCluster(cluster, issuer, operator)
        yield made


def _overlay(folder: Path, image: str, binaries: str, owner: int, issuer: Issuer) -> Path:
    """The example, and what this place needs."""
    shutil.copytree(EXAMPLE, folder.parent / "example")
    folder.mkdir()
    major = int(binaries.split("/")[-2])
    catalog = {
        "apiVersion": API,
        "kind": "ImageCatalog",
        "metadata": {"name": "debian", "namespace": NAMESPACE},
        "spec": {"images": [{"image": image, "major": major}]},
    }
    (folder / "catalog.yaml").write_text(yaml.safe_dump(catalog))
    cluster = {
        "imageCatalogRef": {"apiGroup": "postgresql.cnpg.io", "kind": "ImageCatalog", "name": "debian", "major": major},
        "imagePullPolicy": "IfNotPresent",
        "postgresUID": owner,
        "postgresGID": owner,
        # Debian keeps them by version, off the search path
        "env": [{"name": "PATH", "value": f"{binaries}:/usr/local/bin:/usr/bin:/bin"}],
        "storage": {"size": "1Gi", "storageClass": _STORAGE},
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
    }
    keys = {"url": issuer.url, "audiences": [issuer.audience], "jwks": json.dumps(issuer.core.jwks())}
    patches = [
        {"target": {"kind": "Cluster"}, "patch": json.dumps({**_named("Cluster", API), "spec": cluster})},
        {
            "target": {"kind": "ProtectedTarget"},
            "patch": json.dumps(
                [
                    {"op": "replace", "path": f"/spec/identity/issuers/0/{key}", "value": value}
                    for key, value in keys.items()
                    if key != "jwks"
                ]
                + [{"op": "add", "path": "/spec/identity/issuers/0/jwks", "value": keys["jwks"]}]
                + [{"op": "add", "path": "/spec/gate", "value": {"resources": {"cpu": "200m", "memory": "192Mi"}}}]
            ),
        },
    ]
    kustomization = {"resources": ["../example", "catalog.yaml"], "patches": patches}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


def _named(kind: str, version: str) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": NAME}}


def _volume(folder: Path, number: int, owner: int) -> Object:
    folder.mkdir(parents=True)
    os.chown(folder, owner, owner)
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": _STORAGE,
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(folder)},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{NAME}-{number}"}, "spec": spec}


def _make_client(cluster: Cluster, image: ClusterImage) -> None:
    cluster.client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": CLIENTS}})
    _kubectl(cluster, "wait", "--namespace", CLIENTS, "--for=create", "serviceaccount/default", "--timeout=30s")
    container = {
        "name": "psql",
        "image": image.name,
        "imagePullPolicy": "Never",
        "command": ["sleep", "infinity"],
        "securityContext": CONFINED,
        "volumeMounts": [{"name": "ca", "mountPath": "/ca", "readOnly": True}],
    }
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "volumes": [{"name": "ca", "configMap": {"name": "shop-db-gate-ca", "optional": True}}],
    }
    cluster.client.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client", "namespace": CLIENTS}, "spec": spec})
    cluster.client.wait_for("v1", "Pod", "client", lambda pod: pod["status"].get("phase") == "Running", namespace=CLIENTS)


def _give_authority(cluster: Cluster) -> None:
    """The authority, where the client is: it is no secret."""
    made = cluster.client.get("v1", "ConfigMap", "shop-db-gate-ca", namespace=NAMESPACE)
    metadata = {"name": "shop-db-gate-ca", "namespace": CLIENTS}
    cluster.client.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": made["data"]})
    cluster.client.merge_patch("v1", "Pod", "client", {"metadata": {"annotations": {"ca": "there"}}}, namespace=CLIENTS)


def _kubectl(cluster: Cluster, *arguments: str, stdin: str = "") -> None:
    done = cluster.kubectl(*arguments, stdin=stdin, timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr


# What is removed again, so that other tests have the cluster as it was


def _remove_example(cluster: Cluster) -> None:
    """While Sidegate and CloudNativePG still run, and may have something to undo."""
    cluster.kubectl(
        "delete",
        "--namespace",
        NAMESPACE,
        f"clusters.postgresql.cnpg.io/{NAME}",
        "--ignore-not-found",
        "--timeout=60s",
        timeout_s=90,
    )
    names = [f"persistentvolume/{NAME}-{number}" for number in range(1, INSTANCES + 1)]
    _delete_and_wait(cluster, f"namespace/{NAMESPACE}", f"namespace/{CLIENTS}", *names)


def _remove(cluster: Cluster, manifests: str) -> None:
    cluster.kubectl("delete", "--filename", "-", "--ignore-not-found", "--wait=false", stdin=manifests, timeout_s=120)


def _remove_sidegate(cluster: Cluster) -> None:
    _delete_and_wait(cluster, f"namespace/{PROBED}")
    remove_sidegate(cluster)


def _remove_webhooks(cluster: Cluster) -> None:
    """Nobody answers them any more."""
    for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"):
        cluster.kubectl("delete", kind, "sidegate", "--ignore-not-found")


def _delete_and_wait(cluster: Cluster, *names: str) -> None:
    """Until they are gone, since other tests use these names, too."""
    cluster.kubectl("delete", *names, "--ignore-not-found", "--timeout=90s", timeout_s=100)
