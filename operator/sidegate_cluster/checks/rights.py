"""May the two service accounts do what they have to (SubjectAccessReview). Left out: what they may beyond that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sidegate_cluster.checks.check import APPLY_CHART, Check, Patient, Result, fine, wrong
from sidegate_cluster.checks.installation import LEASE
from sidegate_operator.permissions import CLUSTER, Permission, own_namespace
from sidegate_operator.resources import Resource
from sidegate_operator.roles import WEBHOOK_CLUSTER, WEBHOOK_OWN_NAMESPACE

REVIEWS: Final = Resource("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", is_namespaced=False)
OPERATOR: Final = "sidegate-operator"
WEBHOOK: Final = "sidegate-webhook"


def _of_account(
    patient: Patient, account: str, everywhere: tuple[Permission, ...], at_home: tuple[Permission, ...]
) -> Iterator[Result]:
    user = f"system:serviceaccount:{patient.home}:{account}"
    missing = [
        *(missed for each in everywhere for missed in _missing(patient, user, each, None)),
        *(missed for each in at_home for missed in _missing(patient, user, each, patient.home)),
    ]
    for verb, what, reason in missing:
        yield wrong(f"service account {account} may not {verb} {what} ({reason})", APPLY_CHART)
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


def _operator(patient: Patient) -> Iterator[Result]:
    yield from _of_account(patient, OPERATOR, CLUSTER, own_namespace(LEASE))


def _webhook(patient: Patient) -> Iterator[Result]:
    yield from _of_account(patient, WEBHOOK, WEBHOOK_CLUSTER, WEBHOOK_OWN_NAMESPACE)


CHECKS: Final = (Check("rights", _operator), Check("rights", _webhook))
