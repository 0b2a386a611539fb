"""The ConfigMap that holds one gate's config, from the target and the policies that were seen.

Rules it keeps:
- The same objects give the same ConfigMap, byte for byte, in whatever order they come.
- No ConfigMap rather than a guessed one: with an Error among the findings a gate keeps the config it has.

It leaves out applying it, and telling gates about a new revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sidegate.api.access_policy import AccessPolicy, FindingSeverity
from sidegate.api.protected_target import ProtectedTarget
from sidegate.mask.detectors import DETECTOR_NAMES
from sidegate.policy.compile import Placement, compile_target
from sidegate.policy.finding import Finding
from sidegate_operator.plan.config_map import MAX_CONFIG_BYTES, plan_config_map
from sidegate_operator.plan.gate_container import CONFIG_KEY, SECRETS_DIR
from sidegate_operator.plan.owned import REVISION_ANNOTATION, TARGET_LABEL, Object, config_map_name

__all__ = [
    "CONFIG_KEY",
    "MAX_CONFIG_BYTES",
    "REVISION_ANNOTATION",
    "SECRETS_DIR",
    "TARGET_LABEL",
    "Object",
    "PlannedConfig",
    "config_map_name",
    "has_errors",
    "plan_gate_config",
]


@dataclass(frozen=True, slots=True)
class PlannedConfig:
    """INVARIANT: `config_map` is None exactly when a finding is an Error. `is_too_large`: that is the error, and the only one."""

    config_map: Object | None
    revision: str | None
    findings: tuple[Finding, ...]
    is_too_large: bool = False


def plan_gate_config(target: ProtectedTarget, policies: Sequence[AccessPolicy], authority: str = "") -> PlannedConfig:
    """The ConfigMap wanted for the target, and what there is to say about it and its policies."""
    compiled = compile_target(target, policies, Placement(SECRETS_DIR), DETECTOR_NAMES)
    if compiled.config is None:
        return PlannedConfig(None, None, compiled.findings)
    planned = plan_config_map(target, compiled.config, authority)
    if planned.wanted is None:
        return PlannedConfig(None, None, (*planned.findings, *compiled.findings), is_too_large=True)
    return PlannedConfig(planned.wanted, compiled.config.revision, compiled.findings)


def has_errors(planned: PlannedConfig) -> bool:
    return any(finding.severity is FindingSeverity.ERROR for finding in planned.findings)
