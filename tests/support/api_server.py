"""A real Kubernetes API server for tests: etcd and kube-apiserver on loopback ports, no root, no node, ready in some 3 seconds.

    with ApiServer() as api:
        api.apply_crds()
        namespace = api.create_namespace()
        api.admin.create({...})                             # cluster-admin
        api.client_for("ada", ["dba"]).get(...)             # somebody else; `kubeconfig_for` for programs
        with api.paused(): ...                              # it answers nothing, and nobody is told
        api.restart()                                       # as after a crash; `graceful=True` as at an upgrade
        api.compact()                                       # whoever watches from before now gets 410

TLS and RBAC are on, auditing is off unless asked for (then `audited` tells what service accounts did), service accounts get real signed tokens. A webhook is reached by `url:` with a certificate that
`authority` issues. Rules: nothing is left behind, not even when the test run is killed; nothing is synced to disk.

Left out: controllers. Pods never run, namespaces never finish being deleted, owners' objects aren't collected, the
cluster roles view, edit and admin are empty, a namespace has no ConfigMap `kube-root-ca.crt`. `create_namespace` makes the service account
`default`, which admission of pods wants. tests/e2e has the rest.
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support import processes
from tests.support.cluster_authority import Authority, private_pem
from tests.support.cluster_client import ApiError, ClusterClient
from tests.support.cluster_programs import required_control_plane

CRDS: Final = Path(__file__).resolve().parents[2] / "crds"
ADMIN_GROUP: Final = "system:masters"
# What service accounts do: who, which verb, on what, and the answer's code.
AUDIT_POLICY: Final = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ["system:serviceaccounts"]}
- {level: None}
"""
START_TRIES: Final = 5
START_TIMEOUT_S: Final = 60.0


class ApiServer:
    """etcd and kube-apiserver. `admin` is a client of the group system:masters, `kubeconfig` the same for programs."""

    def __init__(self, programs: Path | None = None, *, audit: bool = False) -> None:
        """Start both. `programs` is the folder of the built programs; without it, the test ends where they aren't built."""
        self._audit = audit
        self.programs = programs or required_control_plane()
        self.directory = Path(tempfile.mkdtemp(prefix="sidegate-api-"))
        self.log = self.directory / "kube-apiserver.log"
        self.authority = Authority.create("sidegate-tests")
        self._names = itertools.count(1)
        self._kinds: set[tuple[str, str]] = set()
        self._etcd: subprocess.Popen[bytes] | None = None
        self._api: subprocess.Popen[bytes] | None = None
        self._write_keys()
        try:
            self._start_on_free_ports()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End both and remove everything."""
        for process in (self._api, self._etcd):
            if process is not None and process.poll() is None:
                process.kill()  # nothing of it is kept, and a graceful end takes seconds
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    # Who talks to it

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig whose client certificate names this user and these groups."""
        pair = self.authority.issue_for_user(user, groups)
        credentials = {
            "client-certificate-data": base64.b64encode(pair.certificate).decode(),
            "client-key-data": base64.b64encode(pair.key).decode(),
        }
        return self._write_kubeconfig(user, credentials)

    def kubeconfig_for_token(self, token: str) -> Path:
        """A kubeconfig with a bearer token, as `admin.service_account_token` gives one."""
        return self._write_kubeconfig("token", {"token": token})

    def client_for(self, user: str, groups: Sequence[str] = ()) -> ClusterClient:
        return ClusterClient.from_kubeconfig(self.kubeconfig_for(user, groups))

    def kubectl(self, *arguments: str, kubeconfig: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """What the real kubectl says, whatever its exit code."""
        command = [str(self.programs / "kubectl"), f"--kubeconfig={kubeconfig or self.kubeconfig}", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)

    def processor_seconds(self) -> float:
        """What both have taken so far, user and kernel."""
        pids = [each.pid for each in (self._api, self._etcd) if each is not None]
        files = [task for pid in pids for task in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        return sum(int(file.read_text().split()[0]) for file in files) / 1e9

    # What is in it

    def create_namespace(self, prefix: str = "test", labels: Mapping[str, str] | None = None) -> str:
        """A namespace of its own for one test, with the service account that pods need."""
        name = f"{prefix}-{next(self._names)}"
        self.admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}})
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
        self.admin.create(account)
        return name

    def apply_crds(self, folder: Path = CRDS) -> list[str]:
        """Apply the custom resource definitions of a folder and wait until their resources are served; their names."""
        documents = [yaml.safe_load(file.read_text()) for file in sorted(folder.glob("*.yaml"))]
        names = []
        for document in documents:
            self.admin.apply(document)
            names.append(document["metadata"]["name"])
        for name in names:
            self.admin.wait_for("apiextensions.k8s.io/v1", "CustomResourceDefinition", name, _is_established)
        self._kinds |= {
            (f"{document['spec']['group']}/{version['name']}", document["spec"]["names"]["kind"])
            for document in documents
            for version in document["spec"]["versions"]
        }
        self._wait_until_kinds_are_served()
        return names

    def audited(self, user: str) -> list[dict[str, Any]]:
        """The audit events of this user's requests. Each is written before it is answered; a watch has one at its start, another at its end."""
        lines = (self.directory / "audit.log").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["user"]["username"] == user]

    # What befalls it

    def restart(self, *, graceful: bool = False) -> None:
        """End the API server, etcd stays, and start it on the same port. Without `graceful` it is killed."""
        self.stop(graceful=graceful)
        self.start()

    def stop(self, *, graceful: bool = False) -> None:
        assert self._api is not None
        processes.stop(self._api, signal.SIGTERM if graceful else signal.SIGKILL, timeout_s=60)

    def start(self) -> None:
        """Start the API server again after `stop`, and wait until it is ready and serves our resources."""
        self._api = self._start_api_server()
        self._wait_until_ready()
        self._wait_until_kinds_are_served()

    def pause(self) -> None:
        """Freeze the API server: connections stay open, connects succeed, nothing is answered."""
        assert self._api is not None
        self._api.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._api is not None
        self._api.send_signal(signal.SIGCONT)
        self._wait_until_ready()

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def compact(self) -> None:
        """Forget all history: a watch or a list from an older resource version is answered with 410.

        etcd is compacted, and the API server is restarted, since its watch cache would go on to serve from memory what etcd has forgotten.
        """
        revision = self._ask_etcd("maintenance/status", {})["header"]["revision"]
        self._ask_etcd("kv/compaction", {"revision": revision, "physical": True})
        self.restart()

    # How it is started

    def _start_on_free_ports(self) -> None:
        for attempt in range(1, START_TRIES + 1):
            self.port, self._etcd_port, self._peer_port = (processes.free_port() for _ in range(3))
            self.kubeconfig = self.kubeconfig_for("admin", [ADMIN_GROUP])
            self.admin = ClusterClient.from_kubeconfig(self.kubeconfig)
            self._etcd, self._api = self._start_etcd(), self._start_api_server()
            try:
                self._wait_until_ready()
            except processes.ChildError:
                if attempt == START_TRIES or "address already in use" not in self._logs():
                    raise
                for process in (self._api, self._etcd):
                    process.kill()
                    process.wait()
                shutil.rmtree(self.directory / "etcd")
            else:
                return

    def _start_etcd(self) -> subprocess.Popen[bytes]:
        clients, peers = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        command = (
            *(self.programs / "etcd", "--data-dir", self.directory / "etcd", "--unsafe-no-fsync", "--log-level", "warn"),
            *("--listen-client-urls", clients, "--advertise-client-urls", clients),
            *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"),
        )
        return processes.start(command, self.directory / "etcd.log")

    def _start_api_server(self) -> subprocess.Popen[bytes]:
        pki = self.directory
        command = (
            *(self.programs / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{self._etcd_port}"),
            *(f"--secure-port={self.port}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"),
            *(f"--tls-cert-file={pki}/tls.crt", f"--tls-private-key-file={pki}/tls.key", f"--client-ca-file={pki}/ca.crt"),
            *(f"--service-account-key-file={pki}/accounts.pub", f"--service-account-signing-key-file={pki}/accounts.key"),
            *("--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/16"),
            *("--authorization-mode=RBAC", "--endpoint-reconciler-type=none", "--allow-privileged=true"),
            *((f"--audit-policy-file={pki}/audit.yaml", f"--audit-log-path={pki}/audit.log") if self._audit else ()),
        )
        return processes.start(command, self.log)

    def _wait_until_ready(self) -> None:
        processes.wait_until(self._is_ready, "the API server to be ready", START_TIMEOUT_S)

    def _is_ready(self) -> bool:
        for name, process in (("etcd", self._etcd), ("kube-apiserver", self._api)):
            assert process is not None
            if process.poll() is not None:
                raise processes.ChildError(f"{name} ended with {process.returncode}; logs:\n{self._logs()[-4000:]}")
        with suppress(OSError, ApiError):
            return bool(self.admin.request("GET", "/readyz", timeout_s=5) == "ok")
        return False

    def _wait_until_kinds_are_served(self) -> None:
        """A custom resource is 404 or 429 (`storage is (re)initializing`) for a moment after its definition is established or it is ready."""
        processes.wait_until(lambda: all(self._is_served(*kind) for kind in self._kinds), "custom resources to be served", 30)

    def _is_served(self, version: str, kind: str) -> bool:
        try:
            self.admin.list(version, kind)
        except (ApiError, LookupError):
            return False
        return True

    def _logs(self) -> str:
        files = (self.directory / "etcd.log", self.log)
        return "\n".join(file.read_text(errors="replace") for file in files if file.exists())

    def _ask_etcd(self, call: str, body: Mapping[str, Any]) -> Any:
        """etcd's own JSON form of its gRPC calls."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._etcd_port}/v3/{call}", json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def _write_keys(self) -> None:
        pair = self.authority.issue_for_host("127.0.0.1", "localhost", "kubernetes.default.svc", "10.96.0.1")
        accounts = ec.generate_private_key(ec.SECP256R1())
        public = accounts.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        files = {
            "ca.crt": self.authority.pem,
            "tls.crt": pair.certificate,
            "tls.key": pair.key,
            "accounts.key": private_pem(accounts),
            "accounts.pub": public,
            "audit.yaml": AUDIT_POLICY.encode(),
        }
        for name, content in files.items():
            (self.directory / name).write_bytes(content)

    def _write_kubeconfig(self, user: str, credentials: Mapping[str, str]) -> Path:
        cluster = {"server": self.url, "certificate-authority-data": base64.b64encode(self.authority.pem).decode()}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": user, "user": dict(credentials)}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": user}}],
        }
        file = self.directory / f"kubeconfig-{next(self._names)}"
        file.touch(mode=0o600)
        file.write_text(yaml.safe_dump(document))
        return file


def _is_established(definition: Mapping[str, Any]) -> bool:
    conditions = definition.get("status", {}).get("conditions") or []  # null before the first
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)
