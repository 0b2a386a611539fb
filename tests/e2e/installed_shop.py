"""Sidegate installed by its chart on a node, and a shop's database behind it as a StatefulSet of two pods in a protected namespace.

    with installed_shop(cluster, images, folder) as shop:
        shop.psql("SELECT 1", pod=0)
        with shop.held("DELETE FROM customers", pod=0) as psql:
            shop.decide(psql.request)
            psql.finish()

Deletes are held for the group `dba`; dana is in it. Everything is removed at the end, so that no other test meets Sidegate's guards.
"""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.e2e.installations import remove_sidegate
from tests.e2e.shop import CLIENT, GATE, POD, Shop
from tests.support.admission import dry_run
from tests.support.chart import NAMESPACE as SIDEGATE
from tests.support.cluster_authority import Authority
from tests.support.cluster_client import ApiError, Object
from tests.support.cluster_node import ROOT, Cluster, ClusterImage
from tests.support.helm_release import HelmRelease
from tests.support.issuer import Issuer
from tests.support.processes import wait_until

API: Final = "sidegate.dev/v1alpha1"
RESTRICTED: Final = {"pod-security.kubernetes.io/enforce": "restricted"}
PROTECTED: Final = {"sidegate.dev/protected": "true"}
COMPONENTS: Final = ("operator", "webhook")
PODS: Final = (f"{POD}-0", f"{POD}-1")
_LEASE_S: Final = 5  # the shortest wait for another leader
_HELD: Final = re.compile(r"approval request (ar-[-a-z0-9]+)")


def digest_name(name: str) -> str:
    """An image of this source tree, by digest, under which its archive has it too."""
    made = json.loads((ROOT / "build" / "images" / "images.json").read_text())[name]
    return f"{made['image'].rpartition(':')[0]}@{made['digest']}"


@dataclass(slots=True)
class HeldPsql:
    """A psql whose statement is held."""

    request: str
    process: subprocess.Popen[str]
    lines: list[str]

    def finish(self, timeout_s: float = 60.0) -> str:
        """All that it said, once it has ended."""
        rest, _ = self.process.communicate(timeout=timeout_s)
        return "".join(self.lines) + rest


@dataclass(slots=True)
class InstalledShop:
    cluster: Cluster
    release: HelmRelease
    shop: Shop
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.shop.namespace

    # What there is

    def pod(self, number: int = 0) -> Object:
        return self.cluster.client.get("v1", "Pod", f"{POD}-{number}", namespace=self.namespace)

    def target(self) -> Object:
        return self.cluster.client.get(API, "ProtectedTarget", POD, namespace=self.namespace)

    def condition(self, name: str) -> Mapping[str, Any]:
        conditions = self.target().get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == name), {})

    def wait_for_condition(self, name: str, status: str = "True", timeout_s: float = 120.0) -> Mapping[str, Any]:
        try:
            wait_until(lambda: self.condition(name).get("status") == status, f"{name} to be {status}", timeout_s, 0.2)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{json.dumps(self.target().get('status'), indent=1)}\n{self.logs()}") from None
        return self.condition(name)

    def pods_of(self, component: str) -> list[Object]:
        selector = f"app.kubernetes.io/component={component}"
        found: list[Object] = self.cluster.client.list("v1", "Pod", namespace=SIDEGATE, labelSelector=selector)["items"]
        return found

    def leader(self) -> str:
        lease = self.cluster.client.get("coordination.k8s.io/v1", "Lease", "sidegate-operator", namespace=SIDEGATE)
        return str(lease["spec"].get("holderIdentity") or "")

    def logs(self) -> str:
        told = []
        for component in COMPONENTS:
            selector = f"--selector=app.kubernetes.io/component={component}"
            told.append(self.cluster.kubectl("logs", "--namespace", SIDEGATE, selector, "--tail=40", "--prefix").stdout)
        return "\n".join(told)

    def wait_until_running(self, *components: str) -> None:
        """Every replica of them is ready, and none is left of before."""
        for component in components:
            name = f"deployment/sidegate-{component}"
            arguments = ("rollout", "status", "--namespace", SIDEGATE, name, "--timeout=120s")
            done = self.cluster.kubectl(*arguments, timeout_s=130)
            assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.logs()}"

    def scale(self, component: str, replicas: int) -> None:
        spec = {"spec": {"replicas": replicas}}
        self.cluster.client.merge_patch("apps/v1", "Deployment", f"sidegate-{component}", spec, namespace=SIDEGATE)

    # What is asked

    def host(self, number: int) -> Mapping[str, str]:
        """The settings that lead to the gate of one pod, under the name that its certificate has."""
        return {"PGHOSTADDR": str(self.pod(number)["status"]["podIP"]), "PGPORT": "6432"}

    def psql(self, *statements: str, pod: int = 0) -> subprocess.CompletedProcess[str]:
        return self.shop.psql(*statements, settings=self.host(pod))

    def start_psql(self, statement: str, pod: int = 0) -> subprocess.Popen[str]:
        command = [*self.shop._psql(None, self.host(pod)), "--command", statement]
        start = ["exec", "--stdin", "--namespace", self.namespace, CLIENT, "--", *command]
        process = subprocess.Popen(
            [str(self.cluster.kubectl_program), "--kubeconfig", str(self.cluster.kubeconfig), *start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(self.shop.token() + "\n")
        process.stdin.close()
        process.stdin = None  # communicate() would flush it
        return process

    @contextmanager
    def held(self, statement: str, pod: int = 0) -> Iterator[HeldPsql]:
        with self.start_psql(statement, pod) as process:
            try:
                assert process.stdout is not None
                lines: list[str] = []
                for line in process.stdout:
                    lines.append(line)
                    found = _HELD.search(line)
                    if found:
                        yield HeldPsql(found[1], process, lines)
                        return
                raise AssertionError("it wasn't held:\n" + "".join(lines))
            finally:
                process.kill()

    def decide(self, request: str, decision: str = "Approved", by: str = "dana") -> None:
        person = self.cluster.client.acting_as(by, ["dba"])
        person.merge_patch(API, "ApprovalRequest", request, {"spec": {"decision": decision}}, namespace=self.namespace)

    def phase(self, request: str) -> str:
        found = self.cluster.client.get(API, "ApprovalRequest", request, namespace=self.namespace)
        return str(found.get("status", {}).get("phase", ""))


@contextmanager
def installed_shop(cluster: Cluster, images: Mapping[str, ClusterImage], folder: Path) -> Iterator[InstalledShop]:
    cluster.load(images["operator"])
    client = cluster.client
    with ExitStack() as stack:
        remove_sidegate(cluster)
        client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SIDEGATE, "labels": RESTRICTED}})
        release = HelmRelease(cluster.kubeconfig, folder)
        values = {
            "operator": {"image": digest_name("operator"), "leaseSeconds": _LEASE_S, "logFormat": "text"},
            "gate": {"image": digest_name("gate")},
        }
        stack.callback(remove_sidegate, cluster)
        release.install(values)
        stack.callback(release.uninstall)
        name = f"installed-{uuid.uuid4().hex[:8]}"
        client.create(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {**RESTRICTED, **PROTECTED}}}
        )
        stack.callback(_remove_namespace, cluster, name)
        issuer = stack.enter_context(Issuer(now=None))
        issuer.go_down()  # the target has its keys
        made = InstalledShop(cluster, release, Shop(cluster, name, images, issuer, Authority.create("shop")), values)
        made.wait_until_running(*COMPONENTS)
        _apply(made)
        made.shop.wait_until_ready(CLIENT)
        for pod in PODS:
            made.cluster.client.wait_for("v1", "Pod", pod, _is_ready, namespace=name, timeout_s=120)
        made.wait_for_condition("Synced")
        yield made


def _apply(made: InstalledShop) -> None:
    client, shop, name = made.cluster.client, made.shop, made.namespace
    client.wait_for("v1", "ServiceAccount", "default", lambda account: True, namespace=name)
    rules = [{**each, "metadata": {**each["metadata"], "namespace": name}} for each in (shop._target(), _policy())]

    def is_validated() -> bool:
        try:
            dry_run(client, rules[0])
        except ApiError:
            return False
        return True

    wait_until(is_validated, "the node to lead the API server to the webhook, which is ready", 30, 0.2)
    for wanted in rules:
        client.apply(wanted)
    for wanted in [shop.authority_map(), *shop.secrets(), shop.client_pod(), *_approvers(name), stateful_set(shop)]:
        client.apply(wanted)


def _policy() -> Object:
    """Assistants may read and delete, and for each deletion somebody is asked."""
    held = {
        "name": "deletes",
        "match": {"statements": {"kinds": ["Delete"]}},
        "action": "RequireApproval",
        "approval": {"approvers": {"groups": ["dba"]}, "expiresAfter": "1h"},
    }
    return {
        "apiVersion": API,
        "kind": "AccessPolicy",
        "metadata": {"name": "assistants"},
        "spec": {
            "targets": {"names": [POD]},
            "subjects": [{"groups": ["ai-assistants"]}],
            "grants": [{"postgres": {"databases": ["shop"], "role": "readonly", "allow": ["Read", "Delete"]}}],
            "rules": [held],
        },
    }


def _approvers(namespace: str) -> list[Object]:
    group = "rbac.authorization.k8s.io"
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "dba", "namespace": namespace},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "sidegate-approver"},
            "subjects": [{"kind": "Group", "name": "dba", "apiGroup": group}],
        }
    ]


def stateful_set(shop: Shop) -> Object:
    """Databases alone, whose template asks for the target's gate."""
    pod: dict[str, Any] = shop.database_pod()
    mounted = {each["name"] for each in pod["spec"]["containers"][0]["volumeMounts"]}
    template = {
        "metadata": {"labels": {"app": POD}, "annotations": {"sidegate.dev/target": POD}},
        "spec": {
            "containers": pod["spec"]["containers"],
            "volumes": [each for each in pod["spec"]["volumes"] if each["name"] in mounted],
        },
    }
    spec = {
        "serviceName": POD,
        "replicas": len(PODS),
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": {"app": POD}},
        "template": template,
    }
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": POD, "namespace": shop.namespace}, "spec": spec}


def _is_ready(pod: Object) -> bool:
    states = {each["name"]: each for each in pod["status"].get("initContainerStatuses", [])}
    is_up = any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))
    return is_up and GATE in states


def _remove_namespace(cluster: Cluster, name: str) -> None:
    """While Sidegate still runs."""
    cluster.kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=100s", timeout_s=110)
