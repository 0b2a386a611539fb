"""What the operator may do in the cluster, each right with its reason: the one place that the chart's roles and the tests take it from.

Rules it keeps: nothing of `*`; of Secrets only its own certificates', by name, in its own namespace; nothing is deleted that isn't of a
kind that the operator makes. Rights in its own namespace are apart from those in all of them. Left out: the webhook's rights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidegate.api.meta import GROUP
from sidegate_operator.gateway.settings import GATEWAY_SECRET
from sidegate_operator.resources import (
    ADMISSION_POLICIES,
    ADMISSION_POLICY_BINDINGS,
    MUTATING_WEBHOOKS,
    VALIDATING_WEBHOOKS,
    Resource,
)
from sidegate_operator.webhook.guards import guard_keys


@dataclass(frozen=True, slots=True)
class Permission:
    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    reason: str
    names: tuple[str, ...] = ()

    def rule(self) -> dict[str, Any]:
        """As an RBAC rule."""
        made: dict[str, Any] = {"apiGroups": [self.group], "resources": list(self.resources), "verbs": list(self.verbs)}
        return {**made, "resourceNames": list(self.names)} if self.names else made


def _names(*kinds: Resource) -> tuple[str, ...]:
    """Of the guards of these kinds. They are the same in whatever namespace Sidegate lives."""
    return tuple(sorted({name for resource, name in guard_keys("any") if resource in kinds}))


_SEE: Final = ("list", "watch")  # all of a kind: what it knows of one object it has from there, where that is new enough
_MAKE: Final = ("get", *_SEE, "create", "patch", "delete")  # get: whose an object is that has the name of one to be made

CLUSTER: Final = (
    Permission(GROUP, ("protectedtargets", "accesspolicies"), _SEE, "they are what gates' rules are made of"),
    Permission(GROUP, ("protectedtargets/status", "accesspolicies/status"), ("patch",), "what is observed about them"),
    Permission(
        GROUP,
        ("approvalrequests",),
        (*_SEE, "get", "create", "delete"),
        "a gate's hold becomes one; where each stands follows from its decisions; ended ones go; the newest is read after a conflict",
    ),
    Permission(GROUP, ("approvalrequests/status",), ("patch",), "where each stands"),
    Permission(
        "",
        ("pods",),
        (*_SEE, "get", "patch"),
        "whether a gate runs in each; an annotation tells it of a new revision; one that asks may be newer than the watch",
    ),
    Permission("", ("configmaps", "services"), _MAKE, "a gate's config, and the address that clients dial"),
    Permission("apps", ("deployments",), _MAKE, "gates of targets outside the cluster"),
    Permission("policy", ("poddisruptionbudgets",), _MAKE, "those gates stay up while nodes are drained"),
    Permission("networking.k8s.io", ("networkpolicies",), _MAKE, "targets are reached through their gates"),
    Permission("authentication.k8s.io", ("tokenreviews",), ("create",), "which pod a gate's token is bound to"),
    Permission(
        "admissionregistration.k8s.io",
        ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"),
        ("get",),
        "no hold is made unless decisions are guarded",
        _names(MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS),
    ),
    Permission(
        "admissionregistration.k8s.io",
        ("validatingadmissionpolicies", "validatingadmissionpolicybindings"),
        ("get",),
        "no hold is made unless these are as they were installed",
        _names(ADMISSION_POLICIES, ADMISSION_POLICY_BINDINGS),
    ),
    Permission("events.k8s.io", ("events",), ("create",), "people are told of what changed"),
)


def own_namespace(lease: str, certificates: str = GATEWAY_SECRET) -> tuple[Permission, ...]:
    """`create` can't be bound to a name: the object has none yet when it is asked."""
    return (
        Permission("coordination.k8s.io", ("leases",), ("create",), "the first operator makes the Lease"),
        Permission("coordination.k8s.io", ("leases",), ("get", "update"), "one of several operators leads", (lease,)),
        Permission("", ("secrets",), ("create",), "the first operator makes the gateway's certificates"),
        Permission("", ("secrets",), ("get", "update"), "all replicas serve the same certificates", (certificates,)),
    )


def rules(permissions: Sequence[Permission]) -> list[dict[str, Any]]:
    return [each.rule() for each in permissions]
