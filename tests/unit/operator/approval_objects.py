"""An ApprovalRequest as the API server has it, and the updates that people make of it."""

from __future__ import annotations

import copy
from typing import Any

from sidegate.api.text import Timestamp

NOW = 1_795_600_000.0  # 2026-11-25T09:46:40Z
MADE_AT = NOW - 60
EXPIRES_AT = NOW + 3600
OPERATOR = "system:serviceaccount:sidegate-system:sidegate-operator"
OPERATORS = frozenset({OPERATOR})


def stored_request(name: str = "ar-1", **changes: Any) -> dict[str, Any]:
    """Held for ann, who uses cursor; `dba` and dora may decide. `changes` replace whole fields of spec, or `status` and `metadata`."""
    wire: dict[str, Any] = {
        "apiVersion": "sidegate.dev/v1alpha1",
        "kind": "ApprovalRequest",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-of-{name}",
            "generation": 1,
            "resourceVersion": "10",
            "creationTimestamp": str(Timestamp.from_epoch(MADE_AT)),
            "labels": {"sidegate.dev/target": "shop-db"},
            "managedFields": [{"manager": "sidegate-operator", "operation": "Apply"}],
            **changes.pop("metadata", {}),
        },
        "spec": {
            "target": "shop-db",
            "principal": {
                "issuer": "https://id.example",
                "subject": "u-1",
                "username": "ann@example.com",
                "groups": ["ai-assistants"],
                "kubernetesUsernames": ["kubernetes-ann"],
            },
            "agent": "cursor",
            "statement": "ALTER TABLE prod.ledger ADD COLUMN note text",
            "fingerprint": "0123456789abcdef0123456789abcdef",
            "rule": {"namespace": "shop", "policy": "ai-assistants", "name": "prod-ddl"},
            "approvers": {"groups": ["dba"], "users": ["dora@example.com"]},
            "required": 1,
            "expiresAt": str(Timestamp.from_epoch(EXPIRES_AT)),
        },
        "status": changes.pop("status", {"phase": "Pending"}),
    }
    wire["spec"].update(changes)
    return wire


def decided(wire: dict[str, Any], decision: Any = "Approved", comment: Any = None) -> dict[str, Any]:
    """What `kubectl patch -p '{"spec":{"decision":...}}'` makes of it."""
    new = copy.deepcopy(wire)
    new["spec"]["decision"] = decision
    if comment is not None:
        new["spec"]["comment"] = comment
    new["metadata"]["managedFields"] = [*new["metadata"].get("managedFields", []), {"manager": "kubectl-patch"}]
    return new


def entry(by: str, decision: str = "Approved", at: float = NOW, **more: Any) -> dict[str, Any]:
    """An entry of spec.decisions, of a member of `dba`."""
    return {
        "by": by,
        "groups": ["dba"],
        "decision": decision,
        "at": str(Timestamp.from_epoch(at)),
        "signature": "c2VhbGVk",
        **more,
    }
