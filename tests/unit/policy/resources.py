"""A target and policies for tests of the policy package, as the API's own types."""

from __future__ import annotations

import copy
from typing import Any

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.protected_target import ProtectedTarget

TARGET: dict[str, Any] = {
    "apiVersion": "sidegate.dev/v1alpha1",
    "kind": "ProtectedTarget",
    "metadata": {"name": "shop-db", "namespace": "shop", "labels": {"tier": "gold"}},
    "spec": {
        "protocol": "Postgres",
        "environment": "production",
        "endpoint": {"host": "db.example", "port": 5433},
        "port": 5432,
        "tls": {
            "client": {"secretRef": {"name": "gate-tls"}},
            "target": {"mode": "VerifyFull", "caRef": {"name": "db-ca", "key": "ca.crt"}},
        },
        "identity": {
            "issuers": [
                {
                    "url": "https://issuer.example",
                    "audiences": ["shop-db"],
                    "claims": {"username": "email", "agent": "azp", "environment": "env"},
                }
            ],
        },
        "credentials": [
            {"role": "readonly", "secretRef": {"name": "readonly", "key": "password"}},
            {"role": "readwrite", "username": "rw", "secretRef": {"name": "readwrite", "key": "password"}},
        ],
    },
}


def target(**spec: Any) -> ProtectedTarget:
    document = copy.deepcopy(TARGET)
    document["spec"].update(spec)
    return ProtectedTarget.from_wire(
        {**document, "spec": {name: value for name, value in document["spec"].items() if value is not None}}
    )


def policy(name: str = "readers", **spec: Any) -> AccessPolicy:
    wanted = {
        "targets": {"names": ["shop-db"]},
        "subjects": [{"groups": ["ai-assistants"]}],
        "grants": [{"postgres": {"databases": ["shop"], "role": "readonly", "allow": ["Read", "Delete", "DDL"]}}],
        **spec,
    }
    return AccessPolicy.from_wire(
        {
            "apiVersion": "sidegate.dev/v1alpha1",
            "kind": "AccessPolicy",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {key: value for key, value in wanted.items() if value is not None},
        }
    )
