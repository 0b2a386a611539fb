"""The operator as a process of its own, as it runs in a pod: a service account with exactly its permissions, a log, health and metrics.

    account = OperatorAccount(api_server)                        # its namespace, its service account, its roles
    with RunningOperator(account) as operator:
        operator.wait_until_leading()
        operator.wait_for_line("every kind is listed")           # what it logged
        operator.metric("sidegate_operator_writes_total", how="apply", kind="ConfigMap")

Rules: what it may is what `sidegate_operator.permissions` says, so that a missing right fails a test. It is ended by its own id.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final, Self

from sidegate_operator.permissions import CLUSTER, own_namespace, rules
from tests.support import processes
from tests.support.any_api import AnyApi
from tests.support.cluster_client import ApiError
from tests.support.fault_proxy import FaultProxy

GATE_IMAGE: Final = f"registry.example/gate@sha256:{'0' * 64}"
ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "1"}  # as the chart's Deployment has it
LEASE: Final = "sidegate-operator"
_NUMBERS: Final = itertools.count(1)
_RBAC: Final = "rbac.authorization.k8s.io"


class OperatorAccount:
    """The operator's namespace, with its service account and what that may."""

    def __init__(self, api: AnyApi, namespace: str | None = None, name: str = "operator") -> None:
        """In a namespace of its own, or in one that is there."""
        self.api = api
        self.namespace = namespace or api.create_namespace("sidegate-system")
        self.name = name
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": self.name, "namespace": self.namespace}}
        api.admin.apply(account)
        self.grant()
        subject = {"kind": "ServiceAccount", "name": self.name, "namespace": self.namespace}
        for kind, place in (("ClusterRole", {}), ("Role", {"namespace": self.namespace})):
            api.admin.apply(
                {
                    "apiVersion": f"{_RBAC}/v1",
                    "kind": f"{kind}Binding",
                    "metadata": {"name": self.namespace, **place},
                    "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": self.namespace},
                    "subjects": [subject],
                }
            )

    def grant(self, *, without: str = "") -> None:
        """Its rights; all but those on one kind."""
        permissions = [each for each in CLUSTER if without not in each.resources]
        role = {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": self.namespace}}
        self.api.admin.apply({**role, "rules": rules(permissions)})
        own = {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": {"name": self.namespace, "namespace": self.namespace}}
        self.api.admin.apply({**own, "rules": rules(own_namespace(LEASE))})

    def token(self) -> str:
        return self.api.admin.service_account_token(
            self.name, namespace=self.namespace, audience="https://kubernetes.default.svc", lifetime_s=3600
        )


class RunningOperator:
    def __init__(
        self,
        account: OperatorAccount,
        proxy: FaultProxy | None = None,
        lease_seconds: int = 15,
        options: tuple[str, ...] = (),
        *,
        gate_image: str = GATE_IMAGE,
    ) -> None:
        """Through the proxy, if one is given. `options` are the command's."""
        self._options = options
        self.account = account
        self.log = account.api.directory / f"operator-{next(_NUMBERS)}.log"
        source: AnyApi | FaultProxy = proxy or account.api
        self._kubeconfig = source.kubeconfig_for_token(account.token())
        self._lease_seconds = lease_seconds
        self._gate_image = gate_image
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None

    def __enter__(self) -> Self:
        command: list[str | Path] = [sys.executable, "-m", "sidegate_operator.main", "run", "--gate-image", self._gate_image]
        command += ["--kubeconfig", self._kubeconfig, "--namespace", self.account.namespace, "--log-format", "text"]
        command += ["--health", "127.0.0.1:0", "--lease", LEASE, "--lease-seconds", str(self._lease_seconds), *self._options]
        self._process = processes.start(command, self.log, environment={**os.environ, **ENVIRONMENT})
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    # What it says

    def lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []

    def said(self, *words: str) -> list[str]:
        """The lines that have all of these words."""
        return [line for line in self.lines() if all(word in line for word in words)]

    def wait_for_line(self, *words: str, count: int = 1, timeout_s: float = 60.0) -> str:
        self._wait(lambda: len(self.said(*words)) >= count, f"the operator to say {words}", timeout_s)
        return self.said(*words)[-1]

    def wait_until_leading(self, timeout_s: float = 60.0) -> None:
        self.wait_for_line("every kind is listed", timeout_s=timeout_s)

    def metric(self, name: str, **labels: str) -> float:
        """The sum over the series that have these labels."""
        status, text = self.page("metrics")
        assert status == 200
        total = 0.0
        for line in text.splitlines():
            found = re.fullmatch(rf"{name}(\{{.*\}})? (\S+)", line)
            if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
                total += float(found[2])
        return total

    def page(self, name: str) -> tuple[int, str]:
        """What it answers on its health port."""
        if self._port is None:
            self._port = int(self.wait_for_line("health and metrics on port").split("on port ")[1].split(";")[0])
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{name}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    # How it ends

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        assert self._process is not None
        return self._process.poll() is None

    def kill(self) -> None:
        """As a node that is lost."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self, timeout_s: float = 30.0) -> int:
        """As the kubelet ends it; the exit status."""
        assert self._process is not None
        return processes.stop(self._process, signal.SIGTERM, timeout_s)

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wait_until_ended(self, timeout_s: float = 60.0) -> int:
        assert self._process is not None
        processes.wait_until(lambda: not self.is_running, "the operator to end", timeout_s)
        return int(self._process.returncode)

    def lease(self) -> dict[str, Any]:
        with contextlib.suppress(ApiError):
            found = self.account.api.admin.get("coordination.k8s.io/v1", "Lease", LEASE, namespace=self.account.namespace)
            spec: dict[str, Any] = found["spec"]
            return spec
        return {}

    def _wait(self, condition: Any, what: str, timeout_s: float) -> None:
        def holds() -> bool:
            if condition():
                return True
            if not self.is_running:
                raise processes.ChildError("the operator ended; its log:\n" + "\n".join(self.lines()[-40:]))
            return False

        try:
            processes.wait_until(holds, what, timeout_s)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; its log:\n" + "\n".join(self.lines()[-40:])) from None
