"""The ConfigMap that holds one gate's config, from the target and the policies that were seen.

Rules it keeps:
- The same objects give the same ConfigMap, byte for byte: applying it again changes nothing.
- No ConfigMap rather than a guessed one: with an Error among the findings a gate keeps the config it has.
- It belongs to its target (ownerReference), so that deleting the target removes it.

It leaves out applying it, and telling gates about a new revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from sidegate.api.access_policy import AccessPolicy, FindingSeverity
from sidegate.api.meta import API_VERSION
from sidegate.api.protected_target import ProtectedTarget
from sidegate.mask.detectors import DETECTOR_NAMES
from sidegate.policy.compile import Placement, compile_target
from sidegate.policy.config import encode_config
from sidegate.policy.finding import Finding, error, name_of

CONFIG_KEY: Final = "gate.json"
SECRETS_DIR: Final = "/run/sidegate/secrets"
REVISION_ANNOTATION: Final = "sidegate.dev/revision"
TARGET_LABEL: Final = "sidegate.dev/target"
# The API server takes objects of up to 1 MiB (etcd's limit is 1.5 MiB); metadata needs some of it.
MAX_CONFIG_BYTES: Final = 1000 * 1024

Object: TypeAlias = "dict[str, object]"


@dataclass(frozen=True, slots=True)
class PlannedConfig:
    """INVARIANT: `config_map` is None exactly when a finding is an Error. `is_too_large`: that is the error, and the only one."""

    config_map: Object | None
    revision: str | None
    findings: tuple[Finding, ...]
    is_too_large: bool = False


def plan_gate_config(target: ProtectedTarget, policies: Sequence[AccessPolicy]) -> PlannedConfig:
    """The ConfigMap wanted for the target, and what there is to say about it and its policies."""
    compiled = compile_target(target, policies, Placement(SECRETS_DIR), DETECTOR_NAMES)
    if compiled.config is None:
        return PlannedConfig(None, None, compiled.findings)
    data = encode_config(compiled.config)
    if len(data) > MAX_CONFIG_BYTES:
        problem = error(
            name_of(target),
            "spec",
            f"the gate config has {len(data)} bytes, and a ConfigMap holds {MAX_CONFIG_BYTES}",
            "bind fewer policies to the target, or use patterns instead of long lists",
        )
        return PlannedConfig(None, None, (problem, *compiled.findings), is_too_large=True)
    return PlannedConfig(config_map_of(target, data, compiled.config.revision), compiled.config.revision, compiled.findings)


def config_map_name(target: ProtectedTarget) -> str:
    return f"sidegate-{target.metadata.name}"


def has_errors(planned: PlannedConfig) -> bool:
    return any(finding.severity is FindingSeverity.ERROR for finding in planned.findings)


def config_map_of(target: ProtectedTarget, data: bytes, revision: str) -> Object:
    """The ConfigMap for an encoded gate config of the target."""
    metadata: Object = {
        "name": config_map_name(target),
        "namespace": str(target.metadata.namespace),
        "labels": {"app.kubernetes.io/managed-by": "sidegate", TARGET_LABEL: str(target.metadata.name)},
        "annotations": {REVISION_ANNOTATION: revision},
    }
    if target.metadata.uid is not None:
        metadata["ownerReferences"] = [
            {
                "apiVersion": API_VERSION,
                "kind": target.kind,
                "name": str(target.metadata.name),
                "uid": target.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {CONFIG_KEY: data.decode()}}
