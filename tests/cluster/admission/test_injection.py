"""Injection through real admission: who gets a gate, who is refused, and that nobody else notices Sidegate at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sidegate_operator.plan.gate_container import DEFAULT_TOKEN_DIR, GATE_UID
from tests.support.admission import GATE_IMAGE, NAMESPACE, PROTECTED, Admission, plain_pod, refused_with, target
from tests.support.cluster_client import ApiError

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "latest"}


def asking(namespace: str, name: str = "shop-db-0", **spec: Any) -> dict[str, Any]:
    """A pod of the target `shop-db`."""
    pod = plain_pod(namespace, name, target="shop-db")
    pod["metadata"]["labels"] = {"app": "shop-db"}
    pod["spec"] |= spec
    return pod


def labelled(namespace: str) -> dict[str, Any]:
    pod = plain_pod(namespace, "shop-db-0")
    pod["metadata"]["labels"] = {"app": "shop-db", "sidegate.dev/target": "shop-db"}
    return pod


@pytest.fixture
def shop(admission: Admission) -> str:
    """A protected namespace under Pod Security `restricted`, with the target `shop-db`."""
    namespace = admission.api.create_namespace(labels={**RESTRICTED, **PROTECTED})
    admission.api.admin.create(target(namespace))
    return namespace


def gate_of(pod: dict[str, Any]) -> dict[str, Any]:
    (gate,) = (each for each in pod["spec"].get("initContainers", []) if each["name"] == "sidegate-gate")
    return dict(gate)


@pytest.mark.parametrize("make", [asking, labelled], ids=["annotation", "label"])
def test_a_pod_that_asks_gets_a_gate_and_passes_pod_security(
    admission: Admission, shop: str, make: Callable[[str], dict[str, Any]]
) -> None:
    made = admission.api.admin.create(make(shop))
    gate = gate_of(made)
    assert made["spec"]["initContainers"][0] == gate
    assert (gate["image"], gate["restartPolicy"], gate["securityContext"]["runAsUser"]) == (GATE_IMAGE, "Always", GATE_UID)
    assert gate["resources"]["requests"] == gate["resources"]["limits"]
    assert json.loads(made["metadata"]["annotations"]["sidegate.dev/injected"])["target"] == "shop-db"


def test_the_gate_is_the_one_container_without_the_pods_token(admission: Admission, shop: str) -> None:
    """The API server mounts it into each container that has nothing at its place, also into those that webhooks add."""
    made = admission.api.admin.create(asking(shop))
    mounts = {
        each["name"]: {mount["mountPath"]: mount["name"] for mount in each["volumeMounts"]} for each in pod_containers(made)
    }
    assert mounts["database"][DEFAULT_TOKEN_DIR].startswith("kube-api-access-")
    assert mounts["sidegate-gate"][DEFAULT_TOKEN_DIR] == "sidegate-no-token"
    assert not any(name.startswith("kube-api-access-") for name in mounts["sidegate-gate"].values())


def pod_containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def test_a_pod_that_is_made_again_as_it_came_back_has_one_gate(admission: Admission, shop: str) -> None:
    """As restores and copies do it; the same answer as when the API server calls the webhook a second time."""
    made = admission.api.admin.create(asking(shop))
    again = {**made, "metadata": {**made["metadata"], "name": "shop-db-1"}}
    for name in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
        again["metadata"].pop(name, None)
    again.pop("status")
    assert gate_of(admission.api.admin.create(again)) == gate_of(made)


def test_a_pod_that_does_not_ask_starts_untouched(admission: Admission, shop: str) -> None:
    made = admission.api.admin.create(plain_pod(shop))
    assert "initContainers" not in made["spec"]
    assert not any("sidegate" in key for key in made["metadata"].get("annotations", {}))


def test_while_the_webhook_is_down_only_pods_that_ask_wait(admission: Admission, shop: str) -> None:
    with admission.webhook_down():
        admission.api.admin.create(plain_pod(shop))
        for pod in (asking(shop), labelled(shop)):
            with pytest.raises(ApiError) as caught:
                admission.api.admin.create(pod)
            assert "inject.sidegate.dev" in caught.value.message
        admission.api.admin.create(asking("kube-system", "asks-in-the-wrong-place"))
    admission.api.admin.delete("v1", "Pod", "asks-in-the-wrong-place", namespace="kube-system", grace_s=0)
    assert gate_of(admission.api.admin.create(asking(shop)))


def test_a_pod_of_a_job_is_left_alone(admission: Admission, shop: str) -> None:
    job = asking(shop)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "init", "uid": "1", "controller": True}
    job["metadata"]["ownerReferences"] = [owner]
    assert "initContainers" not in admission.api.admin.create(job)["spec"]


def test_a_gate_that_another_sidecar_came_before_is_moved_to_the_front(admission: Admission, shop: str) -> None:
    """As by a template that names the gate itself: what starts first could listen at the gate's port in its place."""
    made = admission.api.admin.create(asking(shop))
    taker = {**made["spec"]["containers"][0], "name": "taker", "restartPolicy": "Always"}
    again = {**made, "metadata": {**made["metadata"], "name": "shop-db-1"}}
    again["spec"] = {**made["spec"], "initContainers": [taker, *made["spec"]["initContainers"]]}
    for name in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
        again["metadata"].pop(name, None)
    again.pop("status")
    put_right = admission.api.admin.create(again)
    assert [each["name"] for each in put_right["spec"]["initContainers"]] == ["sidegate-gate", "taker"]
    assert gate_of(put_right) == gate_of(made)


def test_a_gate_comes_before_what_cloudnativepg_prepares(admission: Admission, shop: str) -> None:
    controller = {**asking(shop)["spec"]["containers"][0], "name": "bootstrap-controller"}
    made = admission.api.admin.create(asking(shop, initContainers=[controller]))
    assert [each["name"] for each in made["spec"]["initContainers"]] == ["sidegate-gate", "bootstrap-controller"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "hostNetwork": ({"hostNetwork": True}, "the pod uses the node's network; fix: leave hostNetwork out"),
    "shareProcessNamespace": ({"shareProcessNamespace": True}, "the pod sets shareProcessNamespace"),
    "the gate's user": ({"securityContext": {"runAsUser": GATE_UID}}, f"the pod runs as user {GATE_UID}"),
    "a gate of its own": (
        {"initContainers": [{"name": "sidegate-gate", "image": "registry.example/evil:1", "restartPolicy": "Always"}]},
        "the pod's container `sidegate-gate` isn't the target's gate",
    ),
}


@pytest.mark.parametrize(("spec", "words"), REFUSED.values(), ids=REFUSED)
def test_refuses_what_a_gate_cannot_guard_with_a_sentence(
    admission: Admission, namespace: str, spec: dict[str, Any], words: str
) -> None:
    admission.api.admin.create(target(namespace))
    with pytest.raises(ApiError) as caught:
        admission.api.admin.create(asking(namespace, **spec))
    assert words in caught.value.message
    assert "fix: " in caught.value.message


@pytest.mark.parametrize("name", ["nobody", "..", "../../../../api/v1/secrets", "a/b?c=d", "Shop-DB", "", " "])
def test_refuses_a_target_that_is_not_there(admission: Admission, namespace: str, name: str) -> None:
    pod = asking(namespace)
    pod["metadata"]["annotations"]["sidegate.dev/target"] = name
    assert refused_with(lambda: admission.api.admin.create(pod), "there is no ProtectedTarget")


def test_a_target_of_another_namespace_is_none(admission: Admission, namespace: str, shop: str) -> None:
    assert refused_with(lambda: admission.api.admin.create(asking(namespace)), "there is no ProtectedTarget `shop-db`")


def test_a_deployments_pod_has_no_name_yet_and_gets_its_gate(admission: Admission, shop: str) -> None:
    pod = asking(shop)
    pod["metadata"] = {**pod["metadata"], "generateName": "shop-db-"}
    del pod["metadata"]["name"]
    assert gate_of(admission.api.admin.create(pod))


def test_the_webhooks_own_pods_ask_nobody(admission: Admission) -> None:
    """Else it couldn't start when it is down."""
    admission.api.admin.create(asking(NAMESPACE, "sidegate-webhook-0"))
    admission.api.admin.delete("v1", "Pod", "sidegate-webhook-0", namespace=NAMESPACE, grace_s=0)


def test_it_counts_reviews_and_refusals(admission: Admission, namespace: str) -> None:
    assert refused_with(lambda: admission.api.admin.create(asking(namespace)), "there is no ProtectedTarget")
    metrics = admission.ask("/metrics")[1]
    assert 'sidegate_admission_refusals_total{path="/inject",reason="TargetNotFound"}' in metrics
    assert 'sidegate_admission_duration_seconds_count{operation="CREATE",path="/inject"}' in metrics
