"""Every role that an installation has, each right with its reason: the one place that the chart, docs/rbac.md and the tests take them from.

Rules it keeps: nothing of `*`; nobody may bind, escalate or impersonate; Secrets are read by name alone, and only by who made them. What
a process may do everywhere is apart from what it may do in its own namespace. Roles for people are bound by nobody here: whoever runs
the cluster says who views, writes policies, approves or passes the gates by.

Left out: the operator's own rights (`permissions`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from sidegate.api.meta import GROUP
from sidegate_operator.permissions import CLUSTER, Permission, own_namespace
from sidegate_operator.resources import DECISION_KEY, DECISION_KEYS

LEASE: Final = "sidegate-operator"
WEBHOOK_CERTIFICATES: Final = "sidegate-webhook-certificates"
WEBHOOK_CONFIGURATIONS: Final = "sidegate"  # the name of both
_SEE: Final = ("get", "list", "watch")


class Scope(enum.Enum):
    """Where a role holds; the value is what people are told."""

    CLUSTER = "everywhere"
    OWN_NAMESPACE = "its own namespace"
    WHERE_BOUND = "where it is bound"


@dataclass(frozen=True, slots=True)
class Role:
    """`account` is the service account that it is bound to; None: people bind it. `aggregate_to` is the role of Kubernetes that can
    have it too."""

    name: str
    scope: Scope
    permissions: tuple[Permission, ...]
    account: str | None = None
    aggregate_to: str | None = None


WEBHOOK_CLUSTER: Final = (
    Permission(
        "admissionregistration.k8s.io",
        ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"),
        ("get", "update"),
        "writes the caBundle into the configurations that call it, and is ready when they have it",
        (WEBHOOK_CONFIGURATIONS,),
    ),
    Permission(
        GROUP, ("protectedtargets",), ("get", "list"), "a pod gets what its target says; a policy is judged with its targets"
    ),
    Permission(GROUP, ("accesspolicies",), ("list",), "a target is judged together with the policies that bind it"),
)
WEBHOOK_OWN_NAMESPACE: Final = (
    Permission("", ("secrets", "configmaps"), ("create",), "the first replica makes the three objects below"),
    Permission(
        "", ("secrets",), ("get", "update"), "its certificates, which all replicas share and renew", (WEBHOOK_CERTIFICATES,)
    ),
    Permission("", ("secrets",), ("get",), "the key that it signs decisions with", (DECISION_KEY,)),
    Permission("", ("configmaps",), ("get", "update"), "the public half of that key, which gates verify with", (DECISION_KEYS,)),
)
VIEWER: Final = (
    Permission(
        GROUP, ("protectedtargets", "accesspolicies"), _SEE, "sees what is protected, by which rules, and how that stands"
    ),
)
EDITOR: Final = (
    Permission(
        GROUP,
        ("protectedtargets", "accesspolicies"),
        (*_SEE, "create", "update", "patch", "delete"),
        "says what is protected, and who may do what there: for whom the database belongs to",
    ),
)
APPROVER: Final = (
    Permission(
        GROUP,
        ("approvalrequests",),
        (*_SEE, "patch"),
        "reads what is asked, and decides it; which requests are one's own to decide is said by each",
    ),
)
BYPASS: Final = (
    Permission(
        GROUP,
        ("protectedtargets",),
        ("bypass",),
        "passes gates by, or starts pods without one, in a protected namespace: for emergencies",
    ),
)

ROLES: Final = (
    Role("sidegate-operator", Scope.CLUSTER, CLUSTER, account="sidegate-operator"),
    Role("sidegate-operator", Scope.OWN_NAMESPACE, own_namespace(LEASE), account="sidegate-operator"),
    Role("sidegate-webhook", Scope.CLUSTER, WEBHOOK_CLUSTER, account="sidegate-webhook"),
    Role("sidegate-webhook", Scope.OWN_NAMESPACE, WEBHOOK_OWN_NAMESPACE, account="sidegate-webhook"),
    Role("sidegate-viewer", Scope.WHERE_BOUND, VIEWER, aggregate_to="view"),
    Role("sidegate-editor", Scope.WHERE_BOUND, EDITOR, aggregate_to="admin"),
    Role("sidegate-approver", Scope.WHERE_BOUND, APPROVER),
    Role("sidegate-bypass", Scope.WHERE_BOUND, BYPASS),
)
