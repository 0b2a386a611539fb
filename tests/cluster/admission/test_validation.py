"""AccessPolicies and ProtectedTargets through real admission: errors refuse with field and fix, advice arrives as a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.admission import NAMESPACE, Admission, policy, target
from tests.support.cluster_client import ApiError

MANIFESTS = Path(__file__).resolve().parents[3] / "examples" / "manifests"


def warnings_of(admission: Admission, document: dict[str, Any] | str) -> str:
    """What kubectl shows beside the result of applying a document, or the text of several."""
    text = document if isinstance(document, str) else yaml.safe_dump(document)
    said = admission.api.kubectl("apply", "-f", "-", stdin=text)
    assert said.returncode == 0, said.stderr
    return said.stderr


def test_takes_a_target_and_a_policy_without_a_word(admission: Admission, namespace: str) -> None:
    admission.api.admin.create(target(namespace))
    assert warnings_of(admission, policy(namespace)) == ""


def test_takes_every_manifest_of_the_examples_in_whatever_order(admission: Admission, namespace: str) -> None:
    for file in sorted(MANIFESTS.glob("*.yaml")):
        warnings_of(admission, file.read_text().replace("namespace: shop\n", f"namespace: {namespace}\n"))
    taken = admission.api.admin.list("sidegate.dev/v1alpha1", "AccessPolicy", namespace=namespace)["items"]
    assert len(taken) >= 5


def test_refuses_an_expression_that_does_not_compile_with_field_and_fix(admission: Admission, namespace: str) -> None:
    with pytest.raises(ApiError) as caught:
        admission.api.admin.create(policy(namespace, subjects=[{"expression": "claims.department =="}]))
    assert caught.value.code == 422
    assert "spec.subjects[0].expression: " in caught.value.message
    assert "; fix: " in caught.value.message
    assert [each["field"] for each in caught.value.causes] == ["spec.subjects[0].expression"]


def test_refuses_a_role_that_the_target_has_no_credential_for(admission: Admission, namespace: str) -> None:
    admission.api.admin.create(target(namespace))
    with pytest.raises(ApiError) as caught:
        admission.api.admin.create(policy(namespace, role="owner"))
    assert "spec.grants[0].postgres.role: target `shop-db` has no credential for role `owner`; fix: " in caught.value.message


def test_warns_of_a_target_that_leaves_policies_in_error_and_takes_it(admission: Admission, namespace: str) -> None:
    """The order in which objects are applied may not lock their author out."""
    admission.api.admin.create(policy(namespace, role="owner"))
    said = warnings_of(admission, target(namespace))
    assert f"Warning: error: AccessPolicy/{namespace}/assistants: spec.grants[0].postgres.role: target `shop-db` has no" in said


def test_findings_arrive_as_warnings_with_field_and_fix(admission: Admission, namespace: str) -> None:
    said = warnings_of(admission, policy(namespace, validity={"notAfter": "2020-01-01T00:00:00Z"}))
    assert "Warning: spec.targets: the policy is about no target; fix: " in said
    assert "Warning: spec.validity.notAfter: the policy grants nothing any more; fix: delete it, or set a later notAfter" in said


def test_refuses_an_update_that_breaks_the_policy_and_takes_one_of_its_metadata(admission: Admission, namespace: str) -> None:
    admin = admission.api.admin
    admin.create(policy(namespace))
    broken = {"spec": {"subjects": [{"expression": "claims.department =="}]}}
    with pytest.raises(ApiError) as caught:
        admin.merge_patch("sidegate.dev/v1alpha1", "AccessPolicy", "assistants", broken, namespace=namespace)
    assert "spec.subjects[0].expression" in caught.value.message
    noted = {"metadata": {"annotations": {"note": "reviewed"}}}
    admin.merge_patch("sidegate.dev/v1alpha1", "AccessPolicy", "assistants", noted, namespace=namespace)


def test_policies_wait_while_the_webhook_is_down_and_pods_do_not(admission: Admission, namespace: str) -> None:
    with admission.webhook_down():
        with pytest.raises(ApiError) as caught:
            admission.api.admin.create(policy(namespace))
        assert caught.value.code == 500
        assert "validate.sidegate.dev" in caught.value.message
    admission.api.admin.create(policy(namespace))


@pytest.mark.parametrize("place", ["kube-system", NAMESPACE])
def test_refuses_a_target_whose_pods_admission_leaves_out(admission: Admission, place: str) -> None:
    """Nothing would put a gate in there, and nothing could tell one from what only bears its name."""
    with pytest.raises(ApiError) as caught:
        admission.api.admin.create(target(place))
    assert caught.value.code == 422
    assert f"spec.selector: pods of namespace `{place}` never get a gate: admission leaves it out; fix: run the database in" in (
        caught.value.message
    )
    tls = {"client": {"secretRef": {"name": "shop-db-gate-tls"}}, "target": {"mode": "VerifyFull"}}
    outside = target(place, endpoint={"host": "db.example", "port": 5432}, tls=tls)
    del outside["spec"]["selector"]
    admission.api.admin.create(outside)
    admission.api.admin.delete("sidegate.dev/v1alpha1", "ProtectedTarget", "shop-db", namespace=place)
