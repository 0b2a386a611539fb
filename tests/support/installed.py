"""Sidegate installed by its chart on a real API server, with the real operator and webhook beside it.

    with ApiServer(audit=True) as api, Installed(api) as installed:
        installed.start()                          # both processes, and all of admission enforced
        installed.operator.wait_until_leading()

Every object is as Helm made it. The processes run with the arguments of their Deployments, and with the tokens of their service accounts:
so they have the rights that the chart gives them and no others. Two things differ from a cluster with nodes: they listen on loopback and
are called by that address, and the webhook's configurations name it by URL.
"""

from __future__ import annotations

import http.client
import itertools
import os
import ssl
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from tests.support import processes
from tests.support.admission import OPERATOR, PROBED, PROTECTED, UNUSABLE_POLICY, dry_run, plain_pod, refused_with
from tests.support.api_server import ApiServer
from tests.support.chart import CHART, NAMESPACE
from tests.support.helm_release import HelmRelease

REGISTRATION: Final = "admissionregistration.k8s.io/v1"
CONFIGURATIONS: Final = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
_NUMBERS: Final = itertools.count(1)
_RESTRICTED: Final[Mapping[str, str]] = {"pod-security.kubernetes.io/enforce": "restricted"}


class Process:
    """One of the two, as its Deployment says, but on loopback."""

    def __init__(self, api: ApiServer, component: str, *options: str) -> None:
        self.api = api
        self.account = f"system:serviceaccount:{NAMESPACE}:sidegate-{component}"
        self.log = api.directory / f"{component}-{next(_NUMBERS)}.log"
        deployment = api.admin.get("apps/v1", "Deployment", f"sidegate-{component}", namespace=NAMESPACE)
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        token = api.admin.service_account_token(
            deployment["spec"]["template"]["spec"]["serviceAccountName"],
            namespace=NAMESPACE,
            audience="https://kubernetes.default.svc",
            lifetime_s=3600,
        )
        command = [sys.executable, "-m", "sidegate_operator.main", *container["args"], *options]
        command += ["--kubeconfig", str(api.kubeconfig_for_token(token)), "--namespace", NAMESPACE]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
        self.process: subprocess.Popen[bytes] = processes.start(command, self.log, environment=environment)

    def lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()

    def wait_for_line(self, words: str, timeout_s: float = 60.0) -> None:
        def said() -> bool:
            if self.process.poll() is not None:
                raise processes.ChildError(f"it ended with {self.process.returncode}:\n" + "\n".join(self.lines()[-40:]))
            return any(words in line for line in self.lines())

        processes.wait_until(said, f"`{words}` in {self.log}", timeout_s)

    def stop(self) -> int:
        return processes.stop(self.process)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Installed:
    def __init__(self, api: ApiServer, chart: Path = CHART, values: Mapping[str, Any] | None = None) -> None:
        """By `helm install`, into a namespace that enforces Pod Security `restricted`."""
        self.api = api
        self.release = HelmRelease(api.kubeconfig, api.directory, chart)
        self.port = processes.free_port()
        self.gateway_port = processes.free_port()
        self._running: list[Process] = []
        self._make_namespaces()
        self.release.install(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._running:
            each.kill()

    def start(self) -> None:
        self.call_by_url()
        self.start_webhook()
        self.start_operator("--gateway-url", "https://127.0.0.1:8444")
        self.wait_until_enforced()

    def start_operator(self, *options: str) -> None:
        loopback = ("--health", "127.0.0.1:0", "--gateway", f"127.0.0.1:{self.gateway_port}")
        guards = ("--webhook-url", f"https://127.0.0.1:{self.port}", "--guards-every", "0.5")
        self.operator = Process(self.api, "operator", *loopback, *guards, *options)
        self._running.append(self.operator)
        self.operator.wait_for_line("every target is planned")

    def restart_operator(self, *options: str) -> None:
        self.operator.stop()
        self.start_operator(*options)

    def start_webhook(self, *options: str) -> None:
        loopback = ("--listen", f"127.0.0.1:{self.port}", "--name", "127.0.0.1", "--interval", "0.5", "--leave", "0.2")
        self.webhook = Process(self.api, "webhook", *loopback, *options)
        self._running.append(self.webhook)
        processes.wait_until(self._is_ready, f"the webhook to be ready; its log is {self.webhook.log}", 30)

    def restart_webhook(self, *options: str) -> None:
        self.webhook.stop()
        self.start_webhook(*options)
        self.wait_until_enforced()

    def call_by_url(self) -> None:
        """An API server without a network of pods reaches no Service."""
        for kind in CONFIGURATIONS:
            found = self.api.admin.get(REGISTRATION, kind, "sidegate")
            for webhook in found["webhooks"]:
                service = webhook["clientConfig"].pop("service", None)
                if service is not None:
                    webhook["clientConfig"]["url"] = f"https://127.0.0.1:{self.port}{service['path']}"
            self.api.admin.replace(found)

    def call_by_service(self) -> None:
        """As Helm wrote it, with what the webhook has written since."""
        for kind in CONFIGURATIONS:
            found = self.api.admin.get(REGISTRATION, kind, "sidegate")
            for webhook in found["webhooks"]:
                url = webhook["clientConfig"].pop("url", None)
                if url is not None:
                    path = f"/{url.rpartition('/')[2]}"
                    webhook["clientConfig"]["service"] = {"namespace": NAMESPACE, "name": "sidegate-webhook", "path": path}
            self.api.admin.replace(found)

    def wait_until_enforced(self) -> None:
        """Guards and webhooks reach the API server's admission a moment after they are stored."""
        admin = self.api.admin
        operator = admin.acting_as(OPERATOR, ["system:masters"])
        door = f"/api/v1/namespaces/{PROBED}/pods/nobody/exec"
        nobody = admin.acting_as("eve", ["doors"])
        probes = {
            "validate": lambda: refused_with(lambda: dry_run(admin, UNUSABLE_POLICY), "subjects[0].expression"),
            "sidegate-operator-pods": lambda: refused_with(lambda: dry_run(operator, plain_pod(PROBED)), "the operator neither"),
            "sidegate-side-doors": lambda: refused_with(lambda: nobody.request("POST", door), "past the gate"),
        }
        for name, probe in probes.items():
            processes.wait_until(probe, f"the API server to enforce `{name}`", 30)

    def _is_ready(self) -> bool:
        if self.webhook.process.poll() is not None:
            raise processes.ChildError("the webhook ended:\n" + "\n".join(self.webhook.lines()[-40:]))
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=context)
        with suppress(OSError):
            try:
                connection.request("GET", "/readyz")
                return connection.getresponse().status == 200
            finally:
                connection.close()
        return False

    def _make_namespaces(self) -> None:
        admin = self.api.admin
        for name, labels in ((NAMESPACE, _RESTRICTED), (PROBED, PROTECTED)):
            admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}})
            admin.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}})
        group = "rbac.authorization.k8s.io"
        doors = {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]}
        admin.apply({"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": "doors"}, "rules": [doors]})
        admin.apply(
            {
                "apiVersion": f"{group}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "doors"},
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "doors"},
                "subjects": [{"kind": "Group", "name": "doors", "apiGroup": group}],
            }
        )
