"""Sidegate's admission on a real API server: the objects of the chart, and the webhook as a process of its own on loopback.

    with ApiServer() as api, Admission(api) as admission:
        api.admin.create(pod)                      # through injection, validation and guards
        with admission.webhook_down(): ...         # nobody answers at its port
        admission.restart_webhook("--settle", "1")

The webhook runs with the rights of its own service account and no others. Its configurations name it by URL instead of by a Service,
which an API server without a network of pods couldn't reach; everything else in them is what the chart has.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

from sidegate_operator.permissions import rules
from sidegate_operator.roles import WEBHOOK_CERTIFICATES as SECRET
from sidegate_operator.roles import WEBHOOK_CLUSTER, WEBHOOK_OWN_NAMESPACE
from sidegate_operator.webhook.guards import admission_objects
from tests.support import processes
from tests.support.any_api import AnyApi
from tests.support.cluster_client import ApiError, ClusterClient

NAMESPACE: Final = "sidegate-system"
OPERATOR: Final = f"system:serviceaccount:{NAMESPACE}:sidegate-operator"
CONFIGURATIONS: Final = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
REGISTRATION: Final = "admissionregistration.k8s.io/v1"
_NUMBERS: Final = itertools.count(1)
GATE_IMAGE: Final = f"registry.example/sidegate@sha256:{'0' * 64}"
DEVELOPERS: Final = "developers"
PROTECTED: Final[Mapping[str, str]] = {"sidegate.dev/protected": "true"}
PROBED: Final = "sidegate-probed"
# Passes the CRD's schema; only the compiler finds what is wrong with it.
UNUSABLE_POLICY: Final[Mapping[str, Any]] = {
    "apiVersion": "sidegate.dev/v1alpha1",
    "kind": "AccessPolicy",
    "metadata": {"name": "unusable", "namespace": PROBED},
    "spec": {
        "targets": {"names": ["shop-db"]},
        "subjects": [{"expression": "claims.department =="}],
        "grants": [{"postgres": {"databases": ["shop"], "role": "readonly", "allow": ["Read"]}}],
    },
}


class Admission:
    """Installed and answering once it is made."""

    def __init__(self, api: AnyApi, *options: str) -> None:
        self.api = api
        self.options = options
        self.port = processes.free_port()
        self.log = api.directory / f"webhook-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None
        _make_namespaces(api.admin)
        _grant(api.admin)
        self.kubeconfig = api.kubeconfig_for_token(
            api.admin.service_account_token(
                "sidegate-webhook", namespace=NAMESPACE, audience="https://kubernetes.default.svc", lifetime_s=7200
            )
        )
        api.apply_crds()
        self.apply_objects()
        self.start_webhook()
        self.wait_until_enforced()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def apply_objects(self) -> None:
        for wanted in self.objects():
            self.api.admin.apply(wanted)

    def objects(self) -> list[dict[str, Any]]:
        """As the chart has them, called by URL."""
        return admission_objects(NAMESPACE, self.url)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    # The process

    def command(self, port: int, *options: str) -> list[str]:
        return [
            *(sys.executable, "-m", "sidegate_operator.webhook.command", "--namespace", NAMESPACE, "--name", "127.0.0.1"),
            *(
                "--gate-image",
                GATE_IMAGE,
                "--listen",
                f"127.0.0.1:{port}",
                "--kubeconfig",
                str(self.kubeconfig),
                "--leave",
                "0.2",
                "--interval",
                "0.5",
            ),
            *options,
        ]

    def start_webhook(self, *options: str) -> None:
        self._process = processes.start(self.command(self.port, *(options or self.options)), self.log, environment=_environment())
        processes.wait_until(self.is_ready, f"the webhook to be ready; its log is {self.log}", 30)

    def stop_webhook(self) -> int:
        assert self._process is not None
        return processes.stop(self._process)

    def restart_webhook(self, *options: str) -> None:
        self.stop_webhook()
        self.start_webhook(*options)

    @contextmanager
    def webhook_down(self) -> Iterator[None]:
        self.stop_webhook()
        try:
            yield
        finally:
            self.start_webhook()
            self.wait_until_enforced()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise processes.ChildError(f"the webhook ended with {self._process.returncode}:\n{self.log.read_text()[-4000:]}")
        with suppress(OSError):
            return self.ask("/readyz")[0] == 200
        return False

    def ask(
        self, path: str, body: bytes | None = None, *, port: int = 0, headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Status and text of the webhook itself, as a probe gets them: without verifying the certificate."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port or self.port, timeout=10, context=context)
        try:
            connection.request("GET" if body is None else "POST", path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    # The API server

    def bundles(self) -> list[bytes]:
        """The caBundle of every webhook there is."""
        found = [self.api.admin.get(REGISTRATION, kind, "sidegate") for kind in CONFIGURATIONS]
        return [base64.b64decode(each["clientConfig"].get("caBundle", "")) for one in found for each in one["webhooks"]]

    def secret(self) -> dict[str, bytes]:
        data = self.api.admin.get("v1", "Secret", SECRET, namespace=NAMESPACE)["data"]
        return {name: base64.b64decode(value) for name, value in data.items()}

    def wait_until_enforced(self) -> None:
        """Policies and webhooks reach the API server's admission a moment after they are stored."""
        for name, probe in self.probes().items():
            processes.wait_until(probe, f"the API server to enforce `{name}`", 30)

    def probes(self) -> dict[str, Callable[[], bool]]:
        """For objects that admission consults, a request that each of them refuses."""
        admin = self.api.admin
        operator, eve = admin.acting_as(OPERATOR), admin.acting_as("eve", [DEVELOPERS])
        door = f"/api/v1/namespaces/{PROBED}/pods/nobody/exec"
        return {
            "validate": lambda: refused_with(lambda: dry_run(admin, UNUSABLE_POLICY), "subjects[0].expression"),
            "sidegate-side-doors": lambda: refused_with(lambda: eve.request("POST", door), "past the gate"),
            "sidegate-operator-pods": lambda: refused_with(lambda: dry_run(operator, plain_pod(PROBED)), "the operator neither"),
        }


def refused_with(call: Any, text: str) -> bool:
    """Whether the request is refused in words that contain `text`."""
    try:
        call()
    except ApiError as error:
        return text in error.message
    return False


def dry_run(client: ClusterClient, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Create, through all of admission, and store nothing."""
    path = client.path_of(wanted["apiVersion"], wanted["kind"], namespace=wanted["metadata"].get("namespace"))
    made: dict[str, Any] = client.request("POST", path, wanted, query={"dryRun": "All"})
    return made


def target(namespace: str, **spec: Any) -> dict[str, Any]:
    """The target `shop-db`, gated from inside."""
    return {
        "apiVersion": "sidegate.dev/v1alpha1",
        "kind": "ProtectedTarget",
        "metadata": {"name": "shop-db", "namespace": namespace, "labels": {"team": "shop"}},
        "spec": {
            "protocol": "Postgres",
            "environment": "production",
            "selector": {"matchLabels": {"app": "shop-db"}},
            "port": 5432,
            "tls": {"client": {"secretRef": {"name": "shop-db-gate-tls"}}},
            "identity": {"issuers": [{"url": "https://issuer.example", "audiences": ["shop-db"]}]},
            "credentials": [{"role": "readonly", "secretRef": {"name": "shop-db-readonly", "key": "password"}}],
            **spec,
        },
    }


def policy(namespace: str, name: str = "assistants", role: str = "readonly", **spec: Any) -> dict[str, Any]:
    """Lets assistants read what is in `shop-db`."""
    return {
        "apiVersion": "sidegate.dev/v1alpha1",
        "kind": "AccessPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "targets": {"names": ["shop-db"]},
            "subjects": [{"groups": ["ai-assistants"]}],
            "grants": [{"postgres": {"databases": ["shop"], "role": role, "allow": ["Read"]}}],
            **spec,
        },
    }


REQUESTER = {
    "issuer": "https://id.example",
    "subject": "u-1",
    "username": "ann@example.com",
    "kubernetesUsernames": ["ann-admin"],
}


def in_an_hour() -> str:
    moment = datetime.fromtimestamp(time.time(), UTC) + timedelta(hours=1)  # noqa: TID251 - the webhook reads this clock
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def request_of(namespace: str, **spec: Any) -> dict[str, Any]:
    """An approval request that the group `dba`, the user `chief` and one service account may decide."""
    return {
        "apiVersion": "sidegate.dev/v1alpha1",
        "kind": "ApprovalRequest",
        "metadata": {"name": f"shop-db-{next(_NUMBERS)}", "namespace": namespace},
        "spec": {
            "target": "shop-db",
            "principal": REQUESTER,
            "agent": "cursor",
            "statement": "ALTER TABLE prod.ledger ADD COLUMN note text",
            "fingerprint": "0123456789abcdef0123456789abcdef",
            "rule": {"namespace": namespace, "policy": "ai-assistants", "name": "prod-ddl"},
            "approvers": {"groups": ["dba"], "users": ["chief", "system:serviceaccount:ops:release"]},
            "required": 1,
            "expiresAt": in_an_hour(),
            **spec,
        },
    }


def plain_pod(namespace: str, name: str = "plain", **annotations: str) -> dict[str, Any]:
    """A pod that passes Pod Security `restricted`. Annotations by name, `target` for `sidegate.dev/target`."""
    known = {f"sidegate.dev/{key}": value for key, value in annotations.items()}
    security = {
        "runAsNonRoot": True,
        "runAsUser": 999,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "annotations": known},
        "spec": {"containers": [{"name": "database", "image": "registry.example/postgres:18", "securityContext": security}]},
    }


def _make_namespaces(admin: ClusterClient) -> None:
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PROBED, "labels": dict(PROTECTED)}})
    for namespace in (PROBED, "kube-system"):
        admin.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}})
    for name in ("default", "sidegate-operator", "sidegate-webhook"):
        admin.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}})


def _grant(admin: ClusterClient) -> None:
    subject = {"kind": "ServiceAccount", "name": "sidegate-webhook", "namespace": NAMESPACE}
    group = "rbac.authorization.k8s.io"
    for kind, place, permissions in (
        ("ClusterRole", {"name": "sidegate-webhook"}, WEBHOOK_CLUSTER),
        ("Role", {"name": "sidegate-webhook", "namespace": NAMESPACE}, WEBHOOK_OWN_NAMESPACE),
    ):
        admin.apply({"apiVersion": f"{group}/v1", "kind": kind, "metadata": place, "rules": rules(permissions)})
        reference = {"apiGroup": group, "kind": kind, "name": "sidegate-webhook"}
        binding = {"metadata": place, "roleRef": reference, "subjects": [subject]}
        admin.apply({"apiVersion": f"{group}/v1", "kind": f"{kind}Binding", **binding})
    # The guards hold whatever RBAC grants, so it grants everything but `bypass`: to developers, and to the operator.
    admin.apply(
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "everything-but-bypass"},
            "rules": [
                {"apiGroups": [""], "resources": ["*"], "verbs": ["*"]},
                {
                    "apiGroups": ["sidegate.dev"],
                    "resources": ["*"],
                    "verbs": ["get", "list", "create", "update", "patch", "delete"],
                },
            ],
        }
    )
    admin.apply(
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "everything-but-bypass"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "everything-but-bypass"},
            "subjects": [
                {"kind": "Group", "name": DEVELOPERS, "apiGroup": group},
                {"kind": "ServiceAccount", "name": "sidegate-operator", "namespace": NAMESPACE},
            ],
        }
    )


def _environment() -> dict[str, str]:
    """The same code as the tests run, whatever is installed."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
