"""A shop's database in a pod, with the gate beside it as a native sidecar, written out by hand as the operator is to inject it; and a client.

The target and the policies are our own resources, compiled by `sidegate-operator render`; the database's image is PostgreSQL's alone. Both
containers fit Pod Security `restricted` and have a read-only root. The gate gets the target's credentials, its certificate and its config by
mounts; the pod's own token is hidden from it by an empty folder. The client is `psql` in a pod of its own, which knows the gate's Service
name, the certificate authority and a token, and nothing else.
"""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.cluster_authority import Authority
from tests.support.cluster_client import Object
from tests.support.cluster_node import Cluster, ClusterImage
from tests.support.issuer import Issuer

POD: Final = "shop-db"
GATE: Final = "sidegate-gate"
CLIENT: Final = "client"
CONFIG_MAP: Final = "sidegate-shop-db"
REVISION: Final = "sidegate.dev/revision"
GATE_PORT, HEALTH_PORT = 6432, 6480
STATE: Final = "/var/lib/sidegate"
DEFAULT_TOKEN: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
GATE_USER: Final = 64801
# What Pod Security `restricted` asks for, and a root that nobody writes to.
CONFINED: Final[Mapping[str, Any]] = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
MASK_RULE: Final = {"name": "personal", "match": {"columns": ["ssn"]}, "action": "Mask", "mask": {"strategy": "Redact"}}
_API: Final = "sidegate.dev/v1alpha1"
_SQL: Final = """\
CREATE ROLE sg_readonly LOGIN PASSWORD '{password}';
CREATE TABLE customers (id integer PRIMARY KEY, name text NOT NULL, ssn text NOT NULL);
INSERT INTO customers VALUES (1, 'Ada', '078-05-1120'), (2, 'Ben', '219-09-9999');
GRANT SELECT, DELETE ON customers TO sg_readonly;
"""


def policy(*rules: Mapping[str, Any]) -> Object:
    """Assistants may read, and delete; less what the rules take away."""
    return {
        "apiVersion": _API,
        "kind": "AccessPolicy",
        "metadata": {"name": "assistants"},
        "spec": {
            "targets": {"names": [POD]},
            "subjects": [{"groups": ["ai-assistants"]}],
            "grants": [{"postgres": {"databases": ["shop"], "role": "readonly", "allow": ["Read", "Delete"]}}],
            "rules": [*rules, {"name": "no-deletes", "match": {"statements": {"kinds": ["Delete"]}}, "action": "Deny"}],
        },
    }


@dataclass(frozen=True, slots=True)
class Shop:
    """A namespace of the cluster with the database, its gate and a client in it."""

    cluster: Cluster
    namespace: str
    images: Mapping[str, ClusterImage]
    issuer: Issuer
    authority: Authority

    @property
    def host(self) -> str:
        return f"shop-db-gate.{self.namespace}.svc"

    # What is applied

    def render(self, directory: Path, *policies: Object) -> Object:
        """The ConfigMap of the gate's config, from what `sidegate-operator render` says for the target and these policies."""
        documents = [self._target(), *policies]
        for document in documents:
            document["metadata"]["namespace"] = self.namespace
        directory.mkdir(exist_ok=True)
        (directory / "all.yaml").write_text(yaml.safe_dump_all(documents))
        command = [sys.executable, "-m", "sidegate_operator.main", "render", "--manifests", str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found: Object = yaml.safe_load(done.stdout)
        return found

    def _target(self) -> Object:
        issuer = {
            "url": self.issuer.url,
            "audiences": [self.issuer.audience],
            "claims": {"username": "email", "groups": "groups", "agent": "azp"},
            "jwks": json.dumps(self.issuer.core.jwks()),
        }
        return {
            "apiVersion": _API,
            "kind": "ProtectedTarget",
            "metadata": {"name": POD},
            "spec": {
                "protocol": "Postgres",
                "environment": "production",
                "selector": {"matchLabels": {"app": POD}},
                "port": 5432,
                "tls": {"client": {"secretRef": {"name": "shop-db-gate-tls"}}, "target": {"mode": "Loopback"}},
                "identity": {"issuers": [issuer]},
                "credentials": [
                    {"role": "readonly", "username": "sg_readonly", "secretRef": {"name": "shop-db-readonly", "key": "password"}}
                ],
                "recording": {"mode": "Required", "retention": "7d", "maxBytes": "1Gi"},
            },
        }

    def secrets(self) -> list[Object]:
        password = secrets.token_urlsafe()
        certificate = self.authority.issue_for_host(self.host)
        return [
            self._secret("shop-db-readonly", {"password": password.encode()}),
            self._secret("shop-db-superuser", {"password": secrets.token_urlsafe().encode()}),
            self._secret("shop-db-sql", {"shop.sql": _SQL.format(password=password).encode()}),
            self._secret(
                "shop-db-gate-tls", {"tls.crt": certificate.certificate, "tls.key": certificate.key}, "kubernetes.io/tls"
            ),
        ]

    def _secret(self, name: str, content: Mapping[str, bytes], kind: str = "Opaque") -> Object:
        data = {key: base64.b64encode(value).decode() for key, value in content.items()}
        metadata = {"name": name, "namespace": self.namespace}
        return {"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": metadata, "data": data}

    def service(self) -> Object:
        ports = [{"port": 5432, "targetPort": GATE_PORT}]
        spec = {"selector": {"app": POD}, "ports": ports}
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "shop-db-gate", "namespace": self.namespace},
            "spec": spec,
        }

    def authority_map(self) -> Object:
        metadata = {"name": "gate-ca", "namespace": self.namespace}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"ca.crt": self.authority.pem.decode()}}

    def database_pod(self, name: str = POD, *, config_map: str = CONFIG_MAP) -> Object:
        volumes = [
            {"name": "config", "configMap": {"name": config_map, "optional": True}},
            {"name": "password", "secret": {"secretName": "shop-db-readonly"}},
            {"name": "certificate", "secret": {"secretName": "shop-db-gate-tls"}},
            {"name": "sql", "secret": {"secretName": "shop-db-sql"}},
            *({"name": each, "emptyDir": {}} for each in ("state", "no-token", "data", "run", "tmp")),
        ]
        spec = {"initContainers": [self._gate()], "containers": [self._database()], "volumes": volumes}
        metadata = {"name": name, "namespace": self.namespace, "labels": {"app": name}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    def _gate(self) -> Object:
        options = {
            "--config": "/run/sidegate/config/gate.json",
            "--state": STATE,
            "--listen": f"0.0.0.0:{GATE_PORT}",
            "--metrics": f"0.0.0.0:{HEALTH_PORT}",
            "--log-format": "json",
        }
        mounts = {
            "config": "/run/sidegate/config",
            "password": "/run/sidegate/secrets/shop-db-readonly",
            "certificate": "/run/sidegate/secrets/shop-db-gate-tls",
            "no-token": DEFAULT_TOKEN,
        }
        size = {"cpu": "250m", "memory": "192Mi"}  # several of them share a node of 2 cores
        return {
            **self._container(GATE, "gate"),
            "restartPolicy": "Always",
            "args": ["gate", *(part for pair in options.items() for part in pair)],
            "ports": [{"name": "gate", "containerPort": GATE_PORT}, {"name": "health", "containerPort": HEALTH_PORT}],
            "startupProbe": {"tcpSocket": {"port": "gate"}, "periodSeconds": 1, "failureThreshold": 30},
            "livenessProbe": {"httpGet": {"path": "/live", "port": "health"}},
            "resources": {"requests": size, "limits": size},
            "volumeMounts": [
                *({"name": name, "mountPath": path, "readOnly": True} for name, path in mounts.items()),
                {"name": "state", "mountPath": STATE},
            ],
        }

    def _database(self) -> Object:
        mounts = {"data": "/var/lib/postgresql/data", "run": "/run/postgresql", "tmp": "/tmp"}
        password = {"secretKeyRef": {"name": "shop-db-superuser", "key": "password"}}
        return {
            **self._container("postgres", "postgres"),
            "args": ["-c", "fsync=off"],
            "env": [{"name": "POSTGRES_DB", "value": "shop"}, {"name": "POSTGRES_PASSWORD", "valueFrom": password}],
            "readinessProbe": {"exec": {"command": ["pg_isready", "--host=127.0.0.1"]}, "periodSeconds": 1},
            "volumeMounts": [
                *({"name": name, "mountPath": path} for name, path in mounts.items()),
                {"name": "sql", "mountPath": "/docker-entrypoint-initdb.d", "readOnly": True},
            ],
        }

    def client_pod(self) -> Object:
        container = self._container("psql", "postgres")
        mount = {"name": "ca", "mountPath": "/ca", "readOnly": True}
        spec = {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [{**container, "command": ["sleep", "infinity"], "volumeMounts": [mount]}],
            "volumes": [{"name": "ca", "configMap": {"name": "gate-ca"}}],
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": CLIENT, "namespace": self.namespace}, "spec": spec}

    def _container(self, name: str, image: str) -> Object:
        user = {"runAsUser": GATE_USER, "runAsGroup": GATE_USER} if image == "gate" else {}
        security = {**CONFINED, **user}
        return {"name": name, "image": self.images[image].name, "imagePullPolicy": "Never", "securityContext": security}

    # What is asked

    def token(self, **claims: Any) -> str:
        return self.issuer.token("ada", **claims)

    def psql(
        self, *statements: str, token: str | None = None, host: str | None = None, settings: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run statements in one session of a real psql through the gate; whether they passed is for the caller to look at."""
        given = [part for statement in statements for part in ("--command", statement)]
        command = [*self._psql(host, settings or {}), *given]
        return self.cluster.exec(self.namespace, CLIENT, command, stdin=(token or self.token()) + "\n")

    @contextmanager
    def open_psql(self, host: str, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
        """A psql that reads statements from its standard input until that is closed."""
        start = ["exec", "--stdin", "--namespace", self.namespace, CLIENT, "--", *self._psql(host, settings)]
        command = [str(self.cluster.kubectl_program), "--kubeconfig", str(self.cluster.kubeconfig), *start]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        ) as running:
            assert running.stdin is not None
            running.stdin.write(self.token() + "\n")
            try:
                yield running
            finally:
                running.kill()

    def _psql(self, host: str | None, settings: Mapping[str, str]) -> list[str]:
        """The command in the client's pod; the first line of its input is the token."""
        environment = {
            "PGHOST": host or self.host,
            "PGPORT": "5432" if host is None else str(GATE_PORT),
            "PGDATABASE": "shop",
            "PGUSER": "readonly",
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": "/ca/ca.crt",
            "PGCONNECT_TIMEOUT": "10",
            **settings,
        }
        script = 'IFS= read -r PGPASSWORD; export PGPASSWORD; exec env "$@"'  # a token among the arguments would be seen by all
        names = [f"{name}={value}" for name, value in environment.items()]
        return ["sh", "-c", script, "sh", *names, "psql", "--no-psqlrc", "--no-align", "--tuples-only"]

    def in_gate(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self.cluster.exec(self.namespace, POD, command, container=GATE)

    def page(self, path: str, pod: str = POD) -> str:
        """A page of the gate's health port, through the API server."""
        text: str = self.cluster.client.request(
            "GET", f"/api/v1/namespaces/{self.namespace}/pods/{pod}:{HEALTH_PORT}/proxy{path}"
        )
        return text

    def wait_until_ready(self, *pods: str) -> Sequence[Object]:
        """Each pod as it is once all its containers are ready."""

        def is_ready(pod: Object) -> bool:
            return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))

        return [self.cluster.client.wait_for("v1", "Pod", name, is_ready, namespace=self.namespace) for name in pods]


def conditions_of_start(pod: Object) -> Mapping[str, Any]:
    """The states of all containers, init containers among them, by name."""
    status = pod["status"]
    return {each["name"]: each for each in [*status["initContainerStatuses"], *status["containerStatuses"]]}
