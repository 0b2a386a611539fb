"""What stands in the measured cluster: targets, policies and pods, spread evenly over namespaces, and how many of each.

Every target has its own policies, and each namespace one policy that is bound to all of its targets: its edit is the dearest there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.support.admission import plain_pod

Object = dict[str, Any]
VERSION: Final = "sidegate.dev/v1alpha1"
WIDE: Final = "everywhere"
PODS_PER_NODE: Final = 100


@dataclass(frozen=True, slots=True)
class Size:
    """`edits` of a policy and `injections` are how often is measured."""

    namespaces: int
    targets: int
    policies: int
    pods: int
    edits: int
    injections: int

    @property
    def nodes(self) -> int:
        return max(1, -(-self.pods // PODS_PER_NODE))


FULL: Final = Size(namespaces=10, targets=300, policies=2000, pods=1000, edits=20, injections=500)
QUICK: Final = Size(namespaces=3, targets=30, policies=200, pods=100, edits=5, injections=20)


@dataclass(frozen=True, slots=True)
class Population:
    size: Size
    namespaces: tuple[str, ...]

    def namespace_of(self, target: int) -> str:
        return self.namespaces[target % len(self.namespaces)]

    def targets_within(self, namespace: str) -> list[int]:
        return [number for number in range(self.size.targets) if self.namespace_of(number) == namespace]

    def targets(self) -> Iterator[Object]:
        for number in range(self.size.targets):
            spec = {
                "protocol": "Postgres",
                "environment": "production" if number % 2 else "staging",
                "selector": {"matchLabels": {"app": target_name(number)}},
                "port": 5432,
                "tls": {"client": {"secretRef": {"name": "gate-tls"}}, "target": {"mode": "Loopback"}},
                "identity": {"issuers": [{"url": "https://id.example", "audiences": ["sidegate"]}]},
                "credentials": [{"role": "readonly", "secretRef": {"name": "readonly", "key": "password"}}],
            }
            metadata = {
                "name": target_name(number),
                "namespace": self.namespace_of(number),
                "labels": {"team": f"team-{number % 7}"},
            }
            yield {"apiVersion": VERSION, "kind": "ProtectedTarget", "metadata": metadata, "spec": spec}

    def policies(self) -> Iterator[Object]:
        for namespace in self.namespaces:
            yield _policy(namespace, WIDE, {"environments": ["production", "staging"]}, 0)
        for number in range(self.size.policies - len(self.namespaces)):
            target = number % self.size.targets
            yield _policy(self.namespace_of(target), policy_name(number), {"names": [target_name(target)]}, number)

    def pods(self) -> Iterator[Object]:
        """They ask for a gate, and admission gives them one. Each is on a node already, since nothing schedules here."""
        for number in range(self.size.pods):
            target = number % self.size.targets
            yield gated_pod(self.namespace_of(target), f"pod-{number:04}", target_name(target), number % self.size.nodes)

    def pods_of(self, target: int) -> list[str]:
        return [f"pod-{number:04}" for number in range(target, self.size.pods, self.size.targets)]


def target_name(number: int) -> str:
    return f"target-{number:03}"


def policy_name(number: int) -> str:
    return f"policy-{number:04}"


def node_name(number: int) -> str:
    return f"fake-{number}"


def nodes(size: Size) -> Iterator[Object]:
    """As a kubelet would register them; kwok does the rest."""
    amounts = {"cpu": "64", "memory": "256Gi", "pods": "250"}
    for number in range(size.nodes):
        metadata = {
            "name": node_name(number),
            "labels": {"kubernetes.io/hostname": node_name(number), "kubernetes.io/os": "linux"},
        }
        yield {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": {"capacity": amounts, "allocatable": amounts}}


def gated_pod(namespace: str, name: str, target: str, node: int) -> Object:
    made = plain_pod(namespace, name, target=target)
    made["metadata"]["labels"] = {"app": target}
    made["spec"]["nodeName"] = node_name(node)
    return made


def ungated_pod(namespace: str, name: str, node: int) -> Object:
    made = plain_pod(namespace, name)
    made["spec"]["nodeName"] = node_name(node)
    return made


def _policy(namespace: str, name: str, targets: Object, number: int) -> Object:
    spec = {
        "targets": targets,
        "subjects": [{"groups": ["ai-assistants", f"team-{number % 7}"]}],
        "grants": [{"postgres": {"databases": ["shop"], "role": "readonly", "allow": ["Read", "Explain"]}}],
        "rules": [
            {"name": "secrets", "action": "Mask", "match": {"columns": ["password", "customers.ssn"]}},
            {
                "name": "ledger",
                "action": "RequireApproval",
                "match": {"statements": {"kinds": ["DDL"], "schemas": ["prod"]}},
                "approval": {"approvers": {"groups": ["dba"]}, "required": 1},
            },
        ],
    }
    return {"apiVersion": VERSION, "kind": "AccessPolicy", "metadata": {"name": name, "namespace": namespace}, "spec": spec}
