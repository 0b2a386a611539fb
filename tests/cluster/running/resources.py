"""Targets and policies that the tests of the running operator apply, and what they look for afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sidegate.policy.config import GateConfig, decode_config
from tests.support.api_server import ApiServer
from tests.support.cluster_client import ApiError
from tests.support.processes import wait_until

VERSION = "sidegate.dev/v1alpha1"


def target(namespace: str, name: str = "shop", **spec: Any) -> dict[str, Any]:
    issuers = [{"url": "https://id.example", "audiences": ["sidegate"]}]
    wanted = {
        "protocol": "Postgres",
        "environment": "production",
        "selector": {"matchLabels": {"app": name}},
        "port": 5432,
        "tls": {"client": {"secretRef": {"name": "shop-tls"}}, "target": {"mode": "Loopback"}},
        "identity": {"issuers": issuers},
        "credentials": [{"role": "readonly", "secretRef": {"name": "readonly", "key": "password"}}],
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": VERSION, "kind": "ProtectedTarget", "metadata": metadata, "spec": {**wanted, **spec}}


def policy(namespace: str, name: str = "read", targets: tuple[str, ...] = ("shop",), **spec: Any) -> dict[str, Any]:
    wanted = {
        "targets": {"names": list(targets)},
        "subjects": [{"groups": ["ai-assistants"]}],
        "grants": [{"postgres": {"databases": ["shop"], "role": "readonly", "allow": ["Read"]}}],
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": VERSION, "kind": "AccessPolicy", "metadata": metadata, "spec": {**wanted, **spec}}


def pod(namespace: str, name: str = "shop-0", app: str = "shop", *, gate: bool = True) -> dict[str, Any]:
    """As the API server stores it; nothing runs it here."""
    container = {"image": "registry.example/x", "name": "postgres"}
    mine = [{"name": "SIDEGATE_TARGET", "value": f"{namespace}/{app}"}]
    sidecar = [{"image": "registry.example/gate", "name": "sidegate-gate", "restartPolicy": "Always", "env": mine}]
    metadata = {"name": name, "namespace": namespace, "labels": {"app": app, "sidegate.dev/target": app}}
    spec = {"containers": [container], "initContainers": sidecar if gate else []}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def gate_config(api: ApiServer, namespace: str, name: str = "shop") -> GateConfig | None:
    """What is published for a target; None: nothing."""
    try:
        found = api.admin.get("v1", "ConfigMap", f"sidegate-{name}", namespace=namespace)
    except ApiError as error:
        if error.code == 404:
            return None
        raise
    return decode_config(found["data"]["gate.json"].encode())


def policies_of(api: ApiServer, namespace: str, name: str = "shop") -> set[str] | None:
    """Names of the policies in a target's published config."""
    config = gate_config(api, namespace, name)
    return {each.name for each in config.policies} if config is not None else None


def wait_for_policies(api: ApiServer, namespace: str, names: set[str], name: str = "shop", timeout_s: float = 30.0) -> None:
    wait_until(
        lambda: policies_of(api, namespace, name) == names, f"{name}'s gate config to have the policies {names}", timeout_s, 0.05
    )


def conditions(api: ApiServer, kind: str, namespace: str, name: str) -> Mapping[str, Mapping[str, Any]]:
    status = api.admin.get(VERSION, kind, name, namespace=namespace).get("status", {})
    return {each["type"]: each for each in status.get("conditions", [])}


def wait_for_reason(
    api: ApiServer, kind: str, namespace: str, name: str, condition: str, reason: str, timeout_s: float = 30.0
) -> Mapping[str, Any]:
    def found() -> bool:
        return conditions(api, kind, namespace, name).get(condition, {}).get("reason") == reason

    try:
        wait_until(found, f"{kind} {name}: {condition} to be {reason}", timeout_s, 0.05)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; conditions: {dict(conditions(api, kind, namespace, name))}") from None
    return conditions(api, kind, namespace, name)[condition]


def settled(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    wait_until(condition, what, timeout_s, 0.05)
