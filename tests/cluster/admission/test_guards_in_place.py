"""Whether the guards stand: as the API server stores them, as the chart has them, and noticed when one is gone or was weakened."""

from __future__ import annotations

from typing import Any

import pytest

from sidegate_operator.resources import Resource
from sidegate_operator.webhook.guards import admission_objects, guard_keys, guards_in_place
from tests.support.admission import NAMESPACE, REGISTRATION, Admission
from tests.support.cluster_client import ApiError
from tests.support.processes import wait_until


def live(admission: Admission) -> list[dict[str, Any] | None]:
    """With the Service that the chart names in place of the tests' URL."""
    services = {
        each["name"]: each["clientConfig"]["service"]
        for wanted in admission_objects(NAMESPACE)
        for each in wanted.get("webhooks", ())
    }
    found = []
    for resource, name in guard_keys(NAMESPACE):
        try:
            document = admission.api.admin.get(REGISTRATION, resource.kind, name)
        except ApiError as error:
            assert error.code == 404
            found.append(None)
            continue
        for each in document.get("webhooks", ()):
            assert each["clientConfig"].pop("url").endswith(services[each["name"]]["path"])
            each["clientConfig"]["service"] = services[each["name"]]
        found.append(document)
    return found


def problems(admission: Admission) -> list[str]:
    return [f"{each.name} {each.field_path}".strip() for each in guards_in_place(live(admission), NAMESPACE)]


def test_all_guards_stand_as_the_api_server_stores_them(admission: Admission) -> None:
    """Every default is written out, so that specs can be compared whole."""
    assert problems(admission) == []


def test_they_stand_as_the_chart_has_them_too(admission: Admission) -> None:
    """With a Service in place of the tests' URL, as far as an API server without a network of pods can be asked."""
    applied = []
    for wanted in admission_objects(NAMESPACE):
        fresh = {**wanted, "metadata": {**wanted["metadata"], "name": f"{wanted['metadata']['name']}-as-delivered"}}
        path = admission.api.admin.path_of(wanted["apiVersion"], wanted["kind"])
        made = admission.api.admin.request("POST", path, fresh, query={"dryRun": "All"})
        applied.append({**made, "metadata": {**made["metadata"], "name": wanted["metadata"]["name"]}})
    assert guards_in_place(applied, NAMESPACE) == ()


@pytest.mark.parametrize(("resource", "name"), guard_keys(NAMESPACE), ids=lambda each: getattr(each, "kind", each))
def test_a_guard_that_is_gone_is_noticed(admission: Admission, resource: Resource, name: str) -> None:
    admission.api.admin.delete(REGISTRATION, resource.kind, name)
    try:
        assert problems(admission) == [f"{resource.kind}/{name}"]
    finally:
        admission.apply_objects()
        wait_until(admission.is_ready, "the webhook to be trusted again", 30)
        admission.wait_until_enforced()
    assert problems(admission) == []


@pytest.mark.parametrize(
    ("kind", "name", "change", "path"),
    [
        ("ValidatingAdmissionPolicy", "sidegate-side-doors", {"spec": {"failurePolicy": "Ignore"}}, "spec.failurePolicy"),
        (
            "ValidatingAdmissionPolicy",
            "sidegate-side-doors",
            {"spec": {"validations": [{"expression": "true"}]}},
            "spec.validations[0].expression",
        ),
        (
            "ValidatingAdmissionPolicy",
            "sidegate-side-doors",
            {"spec": {"matchConditions": [{"name": "never", "expression": "false"}]}},
            "spec.matchConditions",
        ),
        (
            "ValidatingAdmissionPolicyBinding",
            "sidegate-side-doors",
            {"spec": {"validationActions": ["Audit"]}},
            "spec.validationActions[0]",
        ),
        (
            "ValidatingAdmissionPolicyBinding",
            "sidegate-gated-pods",
            {"spec": {"matchResources": {"namespaceSelector": {"matchLabels": {"a": "b"}}}}},
            "spec.matchResources",
        ),
    ],
)
def test_a_guard_that_was_weakened_is_noticed(
    admission: Admission, kind: str, name: str, change: dict[str, Any], path: str
) -> None:
    admin = admission.api.admin
    before = admin.get(REGISTRATION, kind, name)
    admin.merge_patch(REGISTRATION, kind, name, change)
    try:
        assert problems(admission) == [f"{kind}/{name} {path}"]
    finally:
        now = admin.get(REGISTRATION, kind, name)
        admin.replace({**before, "metadata": {**before["metadata"], "resourceVersion": now["metadata"]["resourceVersion"]}})
        admission.wait_until_enforced()
    assert problems(admission) == []
