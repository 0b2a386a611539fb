"""May the service accounts do what they have to (SubjectAccessReview): all that `roles` gives them.

Left out: what they may beyond that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sidegate_cluster.checks.check import APPLY_CHART, Check, Patient, Result, fine, wrong
from sidegate_operator.permissions import Permission
from sidegate_operator.resources import Resource
from sidegate_operator.roles import ROLES, Scope

REVIEWS: Final = Resource("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", is_namespaced=False)


def _accounts(patient: Patient) -> Iterator[Result]:
    for account in dict.fromkeys(each.account for each in ROLES if each.account is not None):
        yield from _of_account(patient, account)


def _of_account(patient: Patient, account: str) -> Iterator[Result]:
    user = f"system:serviceaccount:{patient.home}:{account}"
    missing: dict[tuple[str, str], list[str]] = {}  # what it is about and why -> verbs
    for role in ROLES:
        if role.account != account:
            continue
        namespace = patient.home if role.scope is Scope.OWN_NAMESPACE else None
        for each in role.permissions:
            for verb, what, reason in _missing(patient, user, each, namespace):
                missing.setdefault((what, reason), []).append(verb)
    for (what, reason), verbs in missing.items():
        yield wrong(f"service account {account} may not {', '.join(dict.fromkeys(verbs))} {what} ({reason})", APPLY_CHART)
    if not missing:
        yield fine(f"service account {account} may do what it has to")


def _missing(patient: Patient, user: str, permission: Permission, namespace: str | None) -> Iterator[tuple[str, str, str]]:
    for resource in permission.resources:
        for verb in permission.verbs:
            for name in permission.names or ("",):
                if not _may(patient, user, permission.group, resource, verb, name, namespace):
                    where = f"{resource}.{permission.group}" if permission.group else resource
                    yield verb, f"{where} {name}".rstrip(), permission.reason


def _may(patient: Patient, user: str, group: str, resource: str, verb: str, name: str, namespace: str | None) -> bool:
    plain, _, subresource = resource.partition("/")
    asked: dict[str, Any] = {"group": group, "resource": plain, "subresource": subresource, "verb": verb, "name": name}
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{patient.home}", "system:authenticated"]
    review = {
        "apiVersion": REVIEWS.api_version,
        "kind": REVIEWS.kind,
        "spec": {"user": user, "groups": groups, "resourceAttributes": {**asked, "namespace": namespace or ""}},
    }
    return bool((patient.cluster.create(REVIEWS, review).get("status") or {}).get("allowed"))


CHECKS: Final = (Check("rights", _accounts),)
