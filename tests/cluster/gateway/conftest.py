"""The whole of admission, two replicas of the operator with their gateways, and targets with gates that ask them."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from sidegate_operator.plan.gate_container import AUDIENCE
from tests.support import processes
from tests.support.admission import NAMESPACE, Admission, in_an_hour, plain_pod, policy, target
from tests.support.api_server import ApiServer
from tests.support.cluster_client import ApiError
from tests.support.gate_client import GateClient
from tests.support.processes import wait_until
from tests.support.running_operator import OperatorAccount, RunningOperator

VERSION: Final = "sidegate.dev/v1alpha1"
GATEWAY_URL: Final = "https://127.0.0.1:8444"
APPROVERS: Final = {"groups": ["dba"], "users": ["chief"]}
RULE: Final = {
    "name": "ddl",
    "match": {"statements": {"kinds": ["DDL"]}},
    "action": "RequireApproval",
    "approval": {"approvers": APPROVERS, "expiresAfter": "2h"},
}
_NUMBERS: Final = itertools.count(1)


@dataclass
class Replica:
    operator: RunningOperator
    port: int


@dataclass
class Gateways:
    """Two replicas, and who asks them."""

    admission: Admission
    replicas: list[Replica] = field(default_factory=list)

    @property
    def api(self) -> ApiServer:
        return self.admission.api

    def authority(self) -> str:
        secret = self.api.admin.get("v1", "Secret", "sidegate-gateway-certificates", namespace=NAMESPACE)
        return base64.b64decode(secret["data"]["ca.crt"]).decode()

    def token(self, pod: dict[str, Any], audience: str = AUDIENCE) -> str:
        namespace = pod["metadata"]["namespace"]
        return self.api.admin.service_account_token("default", namespace=namespace, audience=audience, pod=pod)

    def client(self, pod: dict[str, Any], target_name: str = "shop-db", replica: int = 0, **token: str) -> GateClient:
        return GateClient(
            self.replicas[replica].port,
            pod["metadata"]["namespace"],
            target_name,
            self.token(pod, **token),
            self.authority(),
        )


def start_replica(admission: Admission, account: OperatorAccount, *options: str, lease_seconds: int = 6) -> Replica:
    port = processes.free_port()
    given = ("--gateway", f"127.0.0.1:{port}", "--gateway-url", GATEWAY_URL, "--webhook-url", admission.url)
    operator = RunningOperator(
        account, lease_seconds=lease_seconds, options=(*given, "--guards-every", "0.3", "--certificates-every", "0.5", *options)
    )
    operator.__enter__()
    return Replica(operator, port)


def wait_until_serving(replica: Replica) -> None:
    replica.operator.wait_for_line("gateway on port")
    wait_until(lambda: replica.operator.page("readyz")[0] == 200, "the replica to be ready", 30)
    wait_until(lambda: replica.operator.metric("sidegate_operator_guarded") == 1, "decisions to be guarded", 30)


@pytest.fixture(scope="session")
def gateways() -> Iterator[Gateways]:
    with ApiServer() as api, Admission(api, "--gateway-url", GATEWAY_URL) as admission:
        account = OperatorAccount(api, NAMESPACE, "sidegate-operator")
        made = Gateways(admission, [start_replica(admission, account) for _ in range(2)])
        try:
            for each in made.replicas:
                wait_until_serving(each)
            wait_until(lambda: any(each.operator.said("every kind is listed") for each in made.replicas), "one to lead", 30)
            yield made
        finally:
            for each in made.replicas:
                each.operator.__exit__()


def gate_pod(namespace: str, name: str = "shop-db-0", target_name: str = "shop-db") -> dict[str, Any]:
    """Admission adds the gate."""
    pod = plain_pod(namespace, name, target=target_name)
    pod["metadata"]["labels"] = {"app": target_name}
    return pod


@pytest.fixture
def shop(gateways: Gateways) -> str:
    """A namespace with the target `shop-db`, whose rules are published."""
    namespace = gateways.api.create_namespace()
    gateways.api.admin.create(target(namespace))
    gateways.api.admin.create(policy(namespace, rules=[RULE]))

    def is_published() -> bool:
        try:
            found = gateways.api.admin.get("v1", "ConfigMap", "sidegate-shop-db", namespace=namespace)
        except ApiError:
            return False
        return "assistants" in found["data"]["gate.json"]

    wait_until(is_published, "the rules to be published", 30, 0.05)
    return namespace


@pytest.fixture
def pod(gateways: Gateways, shop: str) -> dict[str, Any]:
    return gateways.api.admin.create(gate_pod(shop))


def new_hold(namespace: str, **spec: Any) -> dict[str, Any]:
    """What a gate sends; `spec` replaces fields of its spec."""
    wanted = {
        "target": "shop-db",
        "principal": {"issuer": "https://id.example", "subject": "u-1", "username": "ann@example.com"},
        "agent": "cursor",
        "statement": "ALTER TABLE prod.ledger ADD COLUMN note text",
        "fingerprint": "0123456789abcdef0123456789abcdef",
        "rule": {"namespace": namespace, "policy": "assistants", "name": "ddl"},
        "approvers": APPROVERS,
        "required": 1,
        "expiresAt": in_an_hour(),
        **spec,
    }
    return {"name": f"ar-{next(_NUMBERS)}", "holdUntil": in_an_hour(), "spec": wanted}
