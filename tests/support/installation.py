"""All of Sidegate on an API server without nodes: admission, guards, and the operator as a process, in one namespace as the chart has them.

    with ApiServer() as api, Installation(api) as installed:
        installed.sidegate("status", "-n", namespace, as_user="dana")       # the real command, with a kubeconfig of that user

Rules: the operator runs with exactly its permissions, under the service account that the guards know. Left out: nodes, so no pod runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from click.testing import CliRunner, Result

from sidegate.cli.main import main
from sidegate_operator.permissions import CLUSTER, own_namespace, rules
from tests.support.admission import DEVELOPERS, NAMESPACE, Admission
from tests.support.api_server import ApiServer
from tests.support.running_operator import LEASE, RunningOperator

_RBAC: Final = "rbac.authorization.k8s.io"
_ACCOUNT: Final = "sidegate-operator"


class InstalledAccount:
    """The operator's own account, with what the operator's table of permissions says."""

    def __init__(self, api: ApiServer) -> None:
        self.api, self.namespace = api, NAMESPACE
        subject = {"kind": "ServiceAccount", "name": _ACCOUNT, "namespace": NAMESPACE}
        for kind, place, permissions in (
            ("ClusterRole", {}, CLUSTER),
            ("Role", {"namespace": NAMESPACE}, own_namespace(LEASE)),
        ):
            metadata = {"name": _ACCOUNT, **place}
            api.admin.apply({"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": metadata, "rules": rules(permissions)})
            reference = {"apiGroup": _RBAC, "kind": kind, "name": _ACCOUNT}
            binding = {"metadata": metadata, "roleRef": reference, "subjects": [subject]}
            api.admin.apply({"apiVersion": f"{_RBAC}/v1", "kind": f"{kind}Binding", **binding})

    def token(self) -> str:
        return self.api.admin.service_account_token(
            _ACCOUNT, namespace=NAMESPACE, audience="https://kubernetes.default.svc", lifetime_s=7200
        )


class Installation:
    """Installed once it is entered: the webhook answers, the operator leads."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self.admission = Admission(api)
        self.operator = RunningOperator(InstalledAccount(api))  # type: ignore[arg-type]
        self._kubeconfigs: dict[tuple[str, tuple[str, ...]], Path] = {}

    def __enter__(self) -> Self:
        self.operator.__enter__()
        self.operator.wait_until_leading()
        return self

    def __exit__(self, *_: object) -> None:
        self.operator.__exit__()
        self.admission.__exit__()

    def kubeconfig(self, user: str, groups: Sequence[str] = (DEVELOPERS,)) -> Path:
        """Of somebody with these groups; RBAC lets developers read and write everything that is Sidegate's."""
        key = (user, tuple(groups))
        if key not in self._kubeconfigs:
            self._kubeconfigs[key] = self.api.kubeconfig_for(user, groups)
        return self._kubeconfigs[key]

    def sidegate(
        self, *arguments: str, user: str | None = None, groups: Sequence[str] = (), columns: int = 160, stdin: str | None = None
    ) -> Result:
        """The command as it is typed, with the kubeconfig of a cluster administrator or of `user`."""
        kubeconfig = self.api.kubeconfig if user is None else self.kubeconfig(user, (*groups, DEVELOPERS))
        environment = {"KUBECONFIG": str(kubeconfig), "COLUMNS": str(columns), "SIDEGATE_STATE": None}
        return CliRunner(env=environment).invoke(main, list(arguments), input=stdin, catch_exceptions=False)
