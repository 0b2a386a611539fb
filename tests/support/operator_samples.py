"""Targets and pods that tests of the operator's plan share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.plan.injection import PodPatch
from sidegate_operator.plan.sidecar import plan_sidecar
from tests.support.json_patch import patched
from tests.unit.api.crd_rules import merged

SAMPLES: Final = Path(__file__).resolve().parents[1] / "unit" / "operator" / "sidecar"
SETTINGS: Final = GateSettings(
    image=f"registry.example/sidegate/gate@sha256:{'1' * 64}",
    version="0.1.0",
    gateway="https://sidegate-gateway.sidegate-system.svc:8443",
    redirect_image=f"registry.example/sidegate/redirect@sha256:{'2' * 64}",
)


def sample(name: str) -> dict[str, Any]:
    """A document of tests/unit/operator/sidecar."""
    document: dict[str, Any] = yaml.safe_load((SAMPLES / f"{name}.yaml").read_text())
    return document


def sample_target(change: object = None) -> ProtectedTarget:
    """The target of the sample pods, after a merge patch."""
    return ProtectedTarget.from_wire(merged(sample("target"), change or {}))


def injected(pod: dict[str, Any], target: ProtectedTarget, settings: GateSettings = SETTINGS) -> dict[str, Any]:
    """The pod with its gate; it must be one that gets a gate."""
    planned = plan_sidecar(pod, target, settings)
    assert isinstance(planned, PodPatch), planned
    return patched(pod, planned.operations)


def outside_target(change: object = None) -> ProtectedTarget:
    """The sample target, gated from outside its pods instead."""
    endpoint = {"host": "db.example.com", "port": 5433}
    tls = {"target": {"mode": "VerifyFull", "caRef": {"name": "shop-db-ca", "key": "ca.crt"}}}
    outside = merged(sample("target"), {"spec": {"selector": None, "endpoint": endpoint, "tls": tls}})
    return ProtectedTarget.from_wire(merged(outside, change or {}))
