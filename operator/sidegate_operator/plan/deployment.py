"""The gate of a target that is gated from outside: a Deployment of the same container that joins pods, and its PodDisruptionBudget.

Rules it keeps:
- The pods carry no `sidegate.dev/target`: they are no database, and admission must not look for a gate to put in.
- A gate that isn't ready gets no clients, and one that ends is out of the Service before it stops listening. Its sessions get the time
  that the gate takes to end them.
- No Kubernetes credentials, no environment of other Services, restricted Pod Security as a pod too.
- A claim for recordings may be for one node only (ReadWriteOnce): then there is one gate, and it ends before the next begins.

It leaves out the Service (`service`) and the ConfigMap (`config_map`).
"""

from __future__ import annotations

from typing import Final

from sidegate.api.protected_target import ProtectedTarget
from sidegate.policy.finding import error, name_of
from sidegate_operator.plan.gate_container import GATE_CONTAINER, GATE_UID, GateSettings, gate_parts, http_get
from sidegate_operator.plan.injection import DEFAULT_CONTAINER_ANNOTATION, INJECTED_ANNOTATION, injected_note
from sidegate_operator.plan.owned import Object, Planned, gate_name, metadata, outside_gate_labels

LEAVE_SERVICE_S: Final = 5  # until every node has heard that the pod is no endpoint any more
# A gate gives statements 15 s for their answers, sessions 20 s to end, and 20 s for what they leave to be written.
GRACE_S: Final = LEAVE_SERVICE_S + 15 + 20 + 20


def plan_deployment(target: ProtectedTarget, settings: GateSettings) -> Planned:
    """The Deployment wanted; none for a target whose gate joins its pods."""
    endpoint = target.spec.endpoint
    if endpoint is None:
        return Planned(None)
    if endpoint.host.is_local:
        problem = error(
            name_of(target),
            "spec.endpoint.host",
            f"`{endpoint.host}` is the gate's own pod, where no target listens",
            "name a host that pods can reach, or give the target a selector so that the gate joins its pods",
        )
        return Planned(None, (problem,))
    has_claim = _has_claim(target)
    one_after_another: Object = {"type": "Recreate"}
    rolling: Object = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    spec = {
        "replicas": 1 if has_claim else settings.replicas,
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": outside_gate_labels(target)},
        "strategy": one_after_another if has_claim else rolling,
        "template": _pod_template(target, settings),
    }
    described = metadata(target, gate_name(target))
    return Planned({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": described, "spec": spec})


def plan_disruption_budget(target: ProtectedTarget) -> Planned:
    """One gate at a time may be evicted; one that is broken may always be, lest it keep a node from being drained."""
    if target.spec.endpoint is None or target.spec.endpoint.host.is_local:
        return Planned(None)
    spec = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": outside_gate_labels(target)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    described = metadata(target, gate_name(target))
    return Planned({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": described, "spec": spec})


def _pod_template(target: ProtectedTarget, settings: GateSettings) -> Object:
    readiness = {**http_get("/ready", settings), "periodSeconds": 2, "failureThreshold": 2, "timeoutSeconds": 2}
    leave = {"preStop": {"sleep": {"seconds": LEAVE_SERVICE_S}}}
    parts = gate_parts(target, settings, {"readinessProbe": readiness, "lifecycle": leave})
    described = {
        "labels": {"app.kubernetes.io/managed-by": "sidegate", **outside_gate_labels(target)},
        "annotations": {
            INJECTED_ANNOTATION: injected_note(target, settings, parts),
            DEFAULT_CONTAINER_ANNOTATION: GATE_CONTAINER,
        },
    }
    apart = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": outside_gate_labels(target)},
    }
    return {
        "metadata": described,
        "spec": {
            "automountServiceAccountToken": False,
            "containers": [parts.container],
            "enableServiceLinks": False,
            "securityContext": {
                "fsGroup": GATE_UID,  # so that it may write to a claim
                "runAsGroup": GATE_UID,
                "runAsNonRoot": True,
                "runAsUser": GATE_UID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationGracePeriodSeconds": GRACE_S,
            "topologySpreadConstraints": [apart],
            "volumes": list(parts.volumes),
        },
    }


def _has_claim(target: ProtectedTarget) -> bool:
    store = target.spec.recording.store
    return store is not None and store.volume.claim_name is not None
