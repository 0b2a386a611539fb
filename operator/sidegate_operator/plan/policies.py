"""One policy, and what its targets report -> its status, and what people are told.

Rules it keeps: nothing is said before each of its targets was planned with the policy as it is now, since an older report may claim what no
longer holds; so the status is written once for all of them, however many there are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sidegate.api.access_policy import AccessPolicy
from sidegate_operator.plan.reconcile import Plan, condition_events, patch_of
from sidegate_operator.plan.status import PolicyReport, policy_status


def reconcile_policy(
    policy: AccessPolicy, reports: Mapping[str, PolicyReport], bound: Collection[str], now: float
) -> Plan | None:
    """`reports`: by target. `bound`: the targets that it is bound to. None: not all of them were planned since it changed."""
    generation = policy.metadata.generation
    if any(name not in reports or reports[name].generation != generation for name in bound):
        return None
    status = policy_status(policy, [reports[name] for name in sorted(bound)], now)
    return Plan(statuses=patch_of(policy, status), events=condition_events(policy, status))
