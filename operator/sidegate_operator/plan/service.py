"""The Service that clients dial: the target's port, answered by a gate.

Rules it keeps:
- Its name is its own (`TARGET-gate`): what the database's owner made stays as it is, and the application goes on as before.
- It sends to gates only. A pod of the target without a gate has nothing that listens at the gate's port, so it refuses.
- A client's connections go to one gate: a CancelRequest comes on a connection of its own, and only its session's gate knows the key.

It leaves out DNS and load balancers: whoever wants one points it here.
"""

from __future__ import annotations

from typing import Final

from sidegate.api.meta import LabelSelector, SelectorOperator
from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.finding import error, name_of
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.plan.owned import Planned, gate_name, gate_name_problem, metadata, outside_gate_labels

AFFINITY_SECONDS: Final = 10_800  # the API server's default, written out


def plan_service(target: ProtectedTarget, settings: GateSettings) -> Planned:
    """The Service wanted for the target's gates, inside or outside its pods."""
    problem = gate_name_problem(target)
    if problem is not None:
        return Planned(None, (problem,))
    selected = _selected(target)
    if selected is None:
        problem = error(
            name_of(target),
            "spec.selector.matchExpressions",
            "a Service can't select pods by these, so clients get none",
            "select the pods by matchLabels, or by `In` with a single value",
        )
        return Planned(None, (problem,))
    port = {
        "name": target.spec.protocol.value.lower(),
        "port": target.spec.port,
        "protocol": "TCP",
        "targetPort": settings.gate_port,
    }
    spec = {
        "type": "ClusterIP",
        "selector": selected,
        "ports": [port],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}},
    }
    return Planned({"apiVersion": "v1", "kind": "Service", "metadata": metadata(target, gate_name(target)), "spec": spec})


def _selected(target: ProtectedTarget) -> dict[str, str] | None:
    """The labels of the pods that a gate of the target is in; None when no labels say exactly that."""
    selector = target.spec.selector
    return outside_gate_labels(target) if selector is None else labels_of(selector)


def labels_of(selector: LabelSelector) -> dict[str, str] | None:
    """A selector as labels alone, which is all that a Service takes; None when it says more, or contradicts itself."""
    labels = {str(key): str(value) for key, value in (selector.match_labels or {}).items()}
    for each in selector.match_expressions:
        if each.operator is not SelectorOperator.IN or len(each.values) != 1:
            return None
        if labels.setdefault(str(each.key), str(each.values[0])) != each.values[0]:
            return None
    return labels
