"""The keys that admission seals decisions with, as the store has them, and whether a decision is sealed with one.

A decision counts when its seal verifies with a key that admission publishes. No key, no seal, a seal of another key: it doesn't count.
Left out: making keys and sealing (`webhook/decision_key.py`).
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sidegate.api.approval_request import ApprovalRequest, Decision
from sidegate_operator.cluster import Cluster
from sidegate_operator.plan.approval import sealed
from sidegate_operator.resources import CONFIG_MAPS
from sidegate_operator.store import Key

DECISION_KEYS: Final = (
    "sidegate-decision-keys"  # the ConfigMap, in the operator's namespace, that admission publishes its keys in
)


def published_keys(cluster: Cluster, namespace: str) -> dict[str, str]:
    """id -> base64, as published. `namespace`: the operator's."""
    published = cluster.stores[CONFIG_MAPS].get(Key(namespace, DECISION_KEYS))
    data = published.get("data") if published is not None else None
    return {str(name): str(text) for name, text in (data or {}).items()}


def is_genuine(request: ApprovalRequest, decision: Decision, cluster: Cluster, namespace: str) -> bool:
    """`namespace`: the operator's."""
    try:
        signature = base64.b64decode(decision.signature or "", validate=True)
    except (binascii.Error, ValueError):
        return False
    content = sealed(request, decision)
    return any(_verifies(text, signature, content) for text in published_keys(cluster, namespace).values())


def _verifies(key: str, signature: bytes, content: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True)).verify(signature, content)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
