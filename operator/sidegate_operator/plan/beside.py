"""What a target has besides its gate config: Service, NetworkPolicy, and for a gate outside its pods Deployment and PodDisruptionBudget.

Rules it keeps: an object that can't be made is a finding and stands in nobody's way, the rules' least of all. Left out: how each is made
(`service`, `deployment`, `network_policy`), and applying them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.finding import Finding
from sidegate_operator.plan.deployment import plan_deployment, plan_disruption_budget
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.plan.network_policy import plan_network_policy
from sidegate_operator.plan.owned import Object
from sidegate_operator.plan.service import plan_service


@dataclass(frozen=True, slots=True)
class Beside:
    """With an Error among the findings, what is there already stays."""

    objects: tuple[Object, ...] = ()
    findings: tuple[Finding, ...] = ()


Builder: TypeAlias = "Callable[[ProtectedTarget], Beside]"


def nothing_beside(target: ProtectedTarget) -> Beside:
    return Beside()


def objects_beside(settings: GateSettings) -> Builder:
    """Plans them with the operator's settings."""

    def plan(target: ProtectedTarget) -> Beside:
        planned = (
            plan_service(target, settings),
            plan_deployment(target, settings),
            plan_disruption_budget(target),
            plan_network_policy(target, settings),
        )
        objects = tuple(each.wanted for each in planned if each.wanted is not None)
        return Beside(objects, tuple(finding for each in planned for finding in each.findings))

    return plan
