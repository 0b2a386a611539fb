"""The managed NetworkPolicy: of a target's pods, clients reach the gate's port and not the target's.

Rules it keeps:
- What clients may reach is the gate. The target's own port is for the target's pods among themselves: replication goes on.
- The database owner's other ports (health, metrics, the REST API of a cluster) stay as they were, or its operator would lose sight of
  it. Whoever needs the target's port from elsewhere adds a NetworkPolicy of their own: they add up.
- The gate's health port is for the kubelet, which no NetworkPolicy keeps out, and for the namespaces that scrape metrics.

It is one net of several: port-forward, exec, pods on the node's network and clusters whose network enforces nothing pass it by.
It leaves out what a gate may connect to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidegate.api.protected_target import NetworkPolicyMode, ProtectedTarget
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.plan.owned import Object, Planned, config_map_name, metadata, outside_gate_labels

_LAST_PORT: Final = 65535


def plan_network_policy(target: ProtectedTarget, settings: GateSettings) -> Planned:
    """The NetworkPolicy wanted; none where the target's author keeps their own."""
    if target.spec.enforcement.network_policy is NetworkPolicyMode.NONE:
        return Planned(None)
    selector = target.spec.selector
    gate: Object = {"ports": [{"port": settings.gate_port, "protocol": "TCP"}]}
    ingress = [gate]
    if settings.scrapers:
        namespaces = [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": sorted(settings.scrapers)}]
        health = {"port": settings.health_port, "protocol": "TCP"}
        ingress.append({"from": [{"namespaceSelector": {"matchExpressions": namespaces}}], "ports": [health]})
    if selector is None:
        chosen: Object = {"matchLabels": outside_gate_labels(target)}
    else:
        chosen = selector.to_wire()
        ingress.append({"from": [{"podSelector": selector.to_wire()}]})
        kept = {target.spec.port, settings.gate_port, settings.health_port}
        tcp = [_range("TCP", first, last) for first, last in _ranges_without(kept)]
        ingress.append({"ports": [*tcp, _range("UDP", 1, _LAST_PORT), _range("SCTP", 1, _LAST_PORT)]})
    spec = {"podSelector": chosen, "policyTypes": ["Ingress"], "ingress": ingress}
    described = metadata(target, config_map_name(target))
    return Planned({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": described, "spec": spec})


def _ranges_without(ports: set[int]) -> Iterator[tuple[int, int]]:
    """All ports but these, as first and last of each run."""
    first = 1
    for port in sorted(ports):
        if first < port:
            yield first, port - 1
        first = port + 1
    if first <= _LAST_PORT:
        yield first, _LAST_PORT


def _range(protocol: str, first: int, last: int) -> Object:
    return {"port": first, "protocol": protocol} if first == last else {"port": first, "endPort": last, "protocol": protocol}
