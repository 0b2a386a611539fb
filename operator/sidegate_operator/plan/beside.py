"""What a target has beside its ConfigMap: what clients dial, what stands before a target outside, what the network lets through.

All of it or nothing: with an Error about one of them none is changed, so that clients aren't led to a gate that isn't there.
"""

from __future__ import annotations

from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.plan.deployment import plan_deployment, plan_disruption_budget
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.plan.network_policy import plan_network_policy
from sidegate_operator.plan.reconcile import Beside, Builder
from sidegate_operator.plan.service import plan_service


def beside(settings: GateSettings) -> Builder:
    """What `reconcile` asks for the other objects of a target."""

    def plan(target: ProtectedTarget) -> Beside:
        planned = (
            plan_network_policy(target, settings),
            plan_deployment(target, settings),
            plan_disruption_budget(target),
            plan_service(target, settings),
        )
        wanted = tuple(each.wanted for each in planned if each.wanted is not None)
        return Beside(wanted, tuple(dict.fromkeys(finding for each in planned for finding in each.findings)))

    return plan
