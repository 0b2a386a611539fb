"""The kinds of objects that the operator reads and writes, and the path of each in the API.

Rules it keeps: a name is quoted before it becomes part of a path, so that no object's name reaches another object. Left out: discovery;
these kinds are served at fixed places, and what isn't served is 404.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from sidegate.api.meta import GROUP, VERSION

Object: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind. `group` is empty for Kubernetes' own first group."""

    group: str
    version: str
    plural: str
    kind: str
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Of the list, of one object, or of its subresource. A namespaced kind without a namespace: the list over all of them."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.is_namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join(parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


# Of the key that admission seals decisions with, in Sidegate's own namespace: the Secret, and the ConfigMap that publishes its public half.
DECISION_KEY: Final = "sidegate-decision-key"
DECISION_KEYS: Final = "sidegate-decision-keys"

PROTECTED_TARGETS: Final = Resource(GROUP, VERSION, "protectedtargets", "ProtectedTarget")
ACCESS_POLICIES: Final = Resource(GROUP, VERSION, "accesspolicies", "AccessPolicy")
APPROVAL_REQUESTS: Final = Resource(GROUP, VERSION, "approvalrequests", "ApprovalRequest")
PODS: Final = Resource("", "v1", "pods", "Pod")
NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", is_namespaced=False)
CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
SERVICES: Final = Resource("", "v1", "services", "Service")
DEPLOYMENTS: Final = Resource("apps", "v1", "deployments", "Deployment")
NETWORK_POLICIES: Final = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
DISRUPTION_BUDGETS: Final = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
EVENTS: Final = Resource("events.k8s.io", "v1", "events", "Event")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")
SECRETS: Final = Resource("", "v1", "secrets", "Secret")
TOKEN_REVIEWS: Final = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", is_namespaced=False)
_REGISTRATION: Final = "admissionregistration.k8s.io"
MUTATING_WEBHOOKS: Final = Resource(
    _REGISTRATION, "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", is_namespaced=False
)
VALIDATING_WEBHOOKS: Final = Resource(
    _REGISTRATION, "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", is_namespaced=False
)
ADMISSION_POLICIES: Final = Resource(
    _REGISTRATION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", is_namespaced=False
)
ADMISSION_POLICY_BINDINGS: Final = Resource(
    _REGISTRATION, "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", is_namespaced=False
)

KNOWN: Final = (
    PROTECTED_TARGETS,
    ACCESS_POLICIES,
    APPROVAL_REQUESTS,
    PODS,
    CONFIG_MAPS,
    SERVICES,
    DEPLOYMENTS,
    NETWORK_POLICIES,
    DISRUPTION_BUDGETS,
    EVENTS,
    LEASES,
    SECRETS,
    TOKEN_REVIEWS,
    MUTATING_WEBHOOKS,
    VALIDATING_WEBHOOKS,
    ADMISSION_POLICIES,
    ADMISSION_POLICY_BINDINGS,
)
_BY_KIND: Final = {(each.api_version, each.kind): each for each in KNOWN}


def resource_of(wanted: Object) -> Resource:
    """The kind of an object.

    Raises:
        LookupError: it is of a kind that the operator has nothing to do with.
    """
    found = _BY_KIND.get((wanted["apiVersion"], wanted["kind"]))
    if found is None:
        raise LookupError(f"the operator doesn't know {wanted['kind']} in {wanted['apiVersion']}")
    return found
