"""The keys that admission seals decisions with, as the store has them, and whether a decision is sealed with one.

A decision counts when its seal verifies with a key that admission publishes. No key, no seal, a seal of another key: it doesn't count.
Left out: making keys and sealing (`webhook/decision_key.py`).
"""

from __future__ import annotations

from sidegate.api.approval_request import ApprovalRequest, Decision
from sidegate.gateway.seals import is_sealed
from sidegate_operator.cluster import Cluster
from sidegate_operator.plan.approval import sealed
from sidegate_operator.resources import CONFIG_MAPS, DECISION_KEYS
from sidegate_operator.store import Key


def published_keys(cluster: Cluster, namespace: str) -> dict[str, str]:
    """id -> base64, as published. `namespace`: the operator's."""
    published = cluster.stores[CONFIG_MAPS].get(Key(namespace, DECISION_KEYS))
    data = published.get("data") if published is not None else None
    return {str(name): str(text) for name, text in (data or {}).items()}


def is_genuine(request: ApprovalRequest, decision: Decision, cluster: Cluster, namespace: str) -> bool:
    """`namespace`: the operator's."""
    return is_sealed(sealed(request, decision), decision.signature, published_keys(cluster, namespace).values())
