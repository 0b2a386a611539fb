"""The guards inside the API server: they hold whatever RBAC grants and whether or not the webhook answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.admission import (
    DEVELOPERS,
    OPERATOR,
    PROTECTED,
    REGISTRATION,
    Admission,
    dry_run,
    plain_pod,
    refused_with,
    target,
)
from tests.support.api_server import ADMIN_GROUP
from tests.support.cluster_client import ApiError, ClusterClient
from tests.support.processes import wait_until

GATE: dict[str, Any] = {
    "name": "sidegate-gate",
    "image": "registry.example/sidegate:1",
    "restartPolicy": "Always",
    "resources": {},
}


def gated_pod(namespace: str, name: str = "gated", **annotations: str) -> dict[str, Any]:
    """A pod that already has a gate, whoever put it there, and asks for none."""
    pod = plain_pod(namespace, name, **annotations)
    other = {"name": "prepare", "image": "registry.example/prepare:1"}
    return {**pod, "spec": {**pod["spec"], "initContainers": [dict(GATE), other]}}


def gate_names(pod: dict[str, Any]) -> list[str]:
    return [each["name"] for each in pod["spec"].get("initContainers", []) if each["name"].startswith("sidegate-")]


def patch(client: ClusterClient, namespace: str, name: str, *operations: dict[str, Any]) -> dict[str, Any]:
    path = client.path_of("v1", "Pod", name, namespace=namespace)
    done: dict[str, Any] = client.request("PATCH", path, list(operations), content_type="application/json-patch+json")
    return done


@pytest.fixture
def protected(admission: Admission) -> str:
    return admission.api.create_namespace(labels=PROTECTED)


@pytest.fixture
def eve(admission: Admission) -> ClusterClient:
    """May do everything to pods that RBAC can grant."""
    return admission.api.admin.acting_as("eve", [DEVELOPERS])


@pytest.fixture
def operator(admission: Admission) -> ClusterClient:
    return admission.api.admin.acting_as(OPERATOR)


# The operator's rights on pods


def test_the_operator_writes_its_annotations_and_exchanges_the_gates_image(
    admission: Admission, namespace: str, operator: ClusterClient
) -> None:
    admission.api.admin.create(gated_pod(namespace))
    patch(operator, namespace, "gated", {"op": "add", "path": "/metadata/annotations", "value": {"sidegate.dev/revision": "r1"}})
    patch(operator, namespace, "gated", {"op": "replace", "path": "/metadata/annotations/sidegate.dev~1revision", "value": "r2"})
    patched = patch(
        operator,
        namespace,
        "gated",
        {"op": "replace", "path": "/spec/initContainers/0/image", "value": "registry.example/sidegate:2"},
    )
    assert patched["spec"]["initContainers"][0]["image"] == "registry.example/sidegate:2"
    removed = patch(operator, namespace, "gated", {"op": "remove", "path": "/metadata/annotations/sidegate.dev~1revision"})
    assert "annotations" not in removed["metadata"]


@pytest.mark.parametrize(
    ("operation", "fix"),
    [
        ({"op": "replace", "path": "/spec/containers/0/image", "value": "registry.example/evil:1"}, "fix: change the workload"),
        (
            {"op": "replace", "path": "/spec/initContainers/1/image", "value": "registry.example/evil:1"},
            "fix: change the workload",
        ),
        ({"op": "add", "path": "/spec/activeDeadlineSeconds", "value": 1}, "fix: change the workload"),
        ({"op": "add", "path": "/spec/tolerations/-", "value": {"operator": "Exists"}}, "fix: change the workload"),
        ({"op": "add", "path": "/metadata/annotations/other", "value": "x"}, "fix: leave the others as they are"),
        ({"op": "remove", "path": "/metadata/annotations/sidegate.dev~1note"}, None),
        ({"op": "remove", "path": "/metadata/annotations/theirs"}, "fix: leave the others as they are"),
        ({"op": "replace", "path": "/metadata/annotations/theirs", "value": "x"}, "fix: leave the others as they are"),
        ({"op": "add", "path": "/metadata/annotations/sidegate.dev~1target", "value": "x"}, "fix: annotate the workload's"),
        ({"op": "add", "path": "/metadata/annotations/sidegate.dev.evil~1x", "value": "x"}, "fix: leave the others as they are"),
        ({"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}, "fix: leave labels"),
        ({"op": "add", "path": "/metadata/finalizers", "value": ["a.example/b"]}, "fix: leave labels"),
        (
            {
                "op": "add",
                "path": "/metadata/ownerReferences",
                "value": [{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "b"}],
            },
            "fix: leave labels",
        ),
    ],
    ids=str,
)
def test_the_operator_changes_nothing_else_of_a_pod(
    admission: Admission, namespace: str, operator: ClusterClient, operation: dict[str, Any], fix: str | None
) -> None:
    pod = gated_pod(namespace, note="ours")
    pod["metadata"]["annotations"]["theirs"] = "1"
    admission.api.admin.create(pod)
    if fix is None:
        patch(operator, namespace, "gated", operation)
        return
    with pytest.raises(ApiError) as caught:
        patch(operator, namespace, "gated", operation)
    # what nobody may change either, another guard may refuse first
    assert "sidegate-operator-pods" in caught.value.message or "sidegate-gated-pods" in caught.value.message
    assert fix in caught.value.message


@pytest.mark.parametrize(
    "call",
    [
        lambda client, namespace: client.create(plain_pod(namespace, "another")),
        lambda client, namespace: client.delete("v1", "Pod", "gated", namespace=namespace),
        lambda client, namespace: client.request("DELETE", f"/api/v1/namespaces/{namespace}/pods"),
        lambda client, namespace: client.request("POST", f"/api/v1/namespaces/{namespace}/pods/gated/exec?command=id"),
        lambda client, namespace: client.merge_patch(
            "v1", "Pod", "gated", {"status": {"phase": "Failed"}}, namespace=namespace, subresource="status"
        ),
        lambda client, namespace: client.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/pods/gated/eviction",
            {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "gated", "namespace": namespace}},
        ),
    ],
    ids=["create", "delete", "delete all", "exec", "status", "evict"],
)
def test_the_operator_neither_makes_ends_nor_enters_pods(
    admission: Admission, namespace: str, operator: ClusterClient, call: Callable[[ClusterClient, str], Any]
) -> None:
    admission.api.admin.create(gated_pod(namespace))
    with pytest.raises(ApiError) as caught:
        call(operator, namespace)
    assert "the operator neither makes, deletes nor enters pods" in caught.value.message


def test_others_may_do_to_pods_what_the_operator_may_not(admission: Admission, namespace: str, eve: ClusterClient) -> None:
    admission.api.admin.create(gated_pod(namespace))
    patch(eve, namespace, "gated", {"op": "add", "path": "/metadata/labels", "value": {"a": "b"}})
    patch(
        eve, namespace, "gated", {"op": "replace", "path": "/spec/containers/0/image", "value": "registry.example/postgres:18.1"}
    )


# Side doors

DOORS = {
    "exec": ("POST", "pods/gated/exec?command=psql&stdout=true"),
    "exec by websocket": ("GET", "pods/gated/exec?command=psql&stdout=true"),
    "exec of no pod": ("POST", "pods/nobody/exec?command=psql&stdout=true"),
    "attach": ("POST", "pods/gated/attach?stdout=true"),
    "portforward": ("POST", "pods/gated/portforward?ports=5432"),
    "proxy": ("GET", "pods/gated:5432/proxy/"),
    "proxy with a path": ("PUT", "pods/gated:5432/proxy/a/b"),
    "service proxy": ("GET", "services/gated:5432/proxy/"),
}


@pytest.mark.parametrize(("method", "door"), DOORS.values(), ids=DOORS)
def test_no_side_door_leads_into_a_protected_namespace(
    admission: Admission, protected: str, eve: ClusterClient, method: str, door: str
) -> None:
    """Before anything else: there is no node here, and not even a pod in one case, and nothing of that is said."""
    admission.api.admin.create(gated_pod(protected))
    with pytest.raises(ApiError) as caught:
        eve.request(method, f"/api/v1/namespaces/{protected}/{door}")
    assert caught.value.code == 403
    assert "leads past the gate" in caught.value.message
    assert "fix: connect through the gate, or have RBAC grant you the verb bypass" in caught.value.message


@pytest.mark.parametrize(("method", "door"), DOORS.values(), ids=DOORS)
def test_side_doors_of_other_namespaces_are_none_of_our_business(
    admission: Admission, namespace: str, eve: ClusterClient, method: str, door: str
) -> None:
    admission.api.admin.create(gated_pod(namespace))
    with pytest.raises(ApiError) as caught:
        eve.request(method, f"/api/v1/namespaces/{namespace}/{door}")
    assert "gate, or have RBAC" not in caught.value.message  # it came as far as the node that isn't there


def grant_bypass(admission: Admission, namespace: str, user: str) -> None:
    group = "rbac.authorization.k8s.io"
    metadata = {"name": "bypass", "namespace": namespace}
    rules = [{"apiGroups": ["sidegate.dev"], "resources": ["protectedtargets"], "verbs": ["bypass"]}]
    admission.api.admin.create({"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules})
    admission.api.admin.create(
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "bypass"},
            "subjects": [{"kind": "User", "name": user, "apiGroup": group}],
        }
    )


def test_the_verb_bypass_opens_the_doors_of_its_namespace_alone(admission: Admission, protected: str, eve: ClusterClient) -> None:
    elsewhere = admission.api.create_namespace(labels=PROTECTED)
    for namespace in (protected, elsewhere):
        admission.api.admin.create(gated_pod(namespace))
    grant_bypass(admission, protected, "eve")

    def is_open(namespace: str) -> bool:
        path = f"/api/v1/namespaces/{namespace}/pods/gated/exec?command=psql&stdout=true"
        return not refused_with(lambda: eve.request("POST", path), "leads past the gate")

    wait_until(lambda: is_open(protected), "RBAC to know the new binding")
    assert not is_open(elsewhere)


@pytest.mark.parametrize("label", [None, "false", "", "True"])
def test_a_namespace_stays_protected(admission: Admission, protected: str, eve: ClusterClient, label: str | None) -> None:
    """Whoever may label namespaces could open every door of one."""
    patch_ = {"metadata": {"labels": {"sidegate.dev/protected": label}}}
    assert refused_with(lambda: eve.merge_patch("v1", "Namespace", protected, patch_), "every side door of the namespace is open")
    eve.merge_patch("v1", "Namespace", protected, {"metadata": {"labels": {"team": "shop"}}})
    grant_bypass(admission, protected, "eve")
    wait_until(
        lambda: not refused_with(lambda: eve.merge_patch("v1", "Namespace", protected, patch_), "side door"), "RBAC to know"
    )


def add_container(client: ClusterClient, namespace: str, pod: str) -> dict[str, Any]:
    added = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "registry.example/busybox:1"}]}}
    path = client.path_of("v1", "Pod", pod, namespace=namespace, subresource="ephemeralcontainers")
    done: dict[str, Any] = client.request("PATCH", path, added, content_type="application/strategic-merge-patch+json")
    return done


def test_no_container_is_added_to_a_gated_pod_wherever_it_is(admission: Admission, namespace: str, eve: ClusterClient) -> None:
    admission.api.admin.create(gated_pod(namespace))
    admission.api.admin.create(plain_pod(namespace))
    with pytest.raises(ApiError) as caught:
        add_container(eve, namespace, "gated")
    assert "a container added to this pod" in caught.value.message
    assert "fix: " in caught.value.message
    assert add_container(eve, namespace, "plain")["spec"]["ephemeralContainers"][0]["name"] == "debug"


def test_no_container_is_added_to_any_pod_of_a_protected_namespace(
    admission: Admission, protected: str, eve: ClusterClient
) -> None:
    admission.api.admin.create(plain_pod(protected))
    assert refused_with(lambda: add_container(eve, protected, "plain"), "a container added to this pod")
    grant_bypass(admission, protected, "eve")
    wait_until(lambda: not refused_with(lambda: add_container(eve, protected, "plain"), "added"), "RBAC to know the new binding")


def test_nobody_but_the_operator_exchanges_the_gates_image(admission: Admission, namespace: str, eve: ClusterClient) -> None:
    """It has the target's credentials, and whoever may patch pods could put a program of their own in its place."""
    admission.api.admin.create(gated_pod(namespace))
    for client in (eve, admission.api.admin):
        with pytest.raises(ApiError) as caught:
            patch(
                client,
                namespace,
                "gated",
                {"op": "replace", "path": "/spec/initContainers/0/image", "value": "registry.example/evil:1"},
            )
        assert "exchanged by the operator alone; fix: set spec.gate.image" in caught.value.message


@pytest.mark.parametrize("part", ["annotations", "labels"])
@pytest.mark.parametrize("before", [{}, {"sidegate.dev/target": "shop-db"}], ids=["asked for none", "asked for one"])
def test_a_gated_pod_stays_the_targets_that_it_was_made_for(
    admission: Admission, namespace: str, eve: ClusterClient, part: str, before: dict[str, str]
) -> None:
    """A gate of one's own, or of a laxer target, would count as the gate of whichever target its pod is annotated with later."""
    admission.api.admin.create(target(namespace))
    made = plain_pod(namespace, "gated") if before else gated_pod(namespace)
    made["metadata"]["labels"] = {"app": "shop-db"}
    made["metadata"].setdefault(part, {}).update({"note": "a", **before})
    assert gate_names(admission.api.admin.create(made))
    path = f"/metadata/{part}/sidegate.dev~1target"
    by_status = {"metadata": {part: {"sidegate.dev/target": "other-db"}}}
    for change in (
        lambda: patch(eve, namespace, "gated", {"op": "add", "path": path, "value": "other-db"}),
        lambda: eve.merge_patch("v1", "Pod", "gated", by_status, namespace=namespace, subresource="status"),
    ):
        assert refused_with(change, "keeps the gate that it was made with")
    running = {"status": {"phase": "Running"}}
    eve.merge_patch("v1", "Pod", "gated", running, namespace=namespace, subresource="status")
    patch(eve, namespace, "gated", {"op": "add", "path": f"/metadata/{part}/note", "value": "b"})


def resized(name: str, **resources: Any) -> dict[str, Any]:
    return {"name": name, "resources": {kind: {"cpu": amount} for kind, amount in resources.items()}}


def resize(client: ClusterClient, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    path = client.path_of("v1", "Pod", "gated", namespace=namespace, subresource="resize")
    done: dict[str, Any] = client.request("PATCH", path, {"spec": spec}, content_type="application/strategic-merge-patch+json")
    return done


def with_room(namespace: str, lists: str = "initContainers") -> dict[str, Any]:
    """A gated pod whose containers have CPU of their own; by `containers` the pod of a gate outside."""
    pod = gated_pod(namespace)
    del pod["spec"]["initContainers"]
    resources = {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}
    pod["spec"][lists] = [{**GATE, "resources": resources}, *(pod["spec"]["containers"] if lists == "containers" else ())]
    if lists == "containers":
        del pod["spec"]["containers"][0]["restartPolicy"]
    pod["spec"]["containers"][-1]["resources"] = resources
    return pod


STARVING: dict[str, dict[str, Any]] = {
    "a lower limit": resized("sidegate-gate", requests="1m", limits="1m"),
    "a lower request": resized("sidegate-gate", requests="1m"),
    "a higher limit": resized("sidegate-gate", limits="2"),
}


@pytest.mark.parametrize("lists", ["initContainers", "containers"])
@pytest.mark.parametrize("change", STARVING.values(), ids=STARVING)
def test_nobody_starves_a_gate_by_resizing_its_pod(
    admission: Admission, namespace: str, eve: ClusterClient, operator: ClusterClient, change: dict[str, Any], lists: str
) -> None:
    admission.api.admin.create(with_room(namespace, lists))
    with pytest.raises(ApiError) as caught:
        resize(eve, namespace, {lists: [change]})
    assert caught.value.code == 403
    assert (
        "a gate that is starved holds up everybody who connects; fix: resize the pod's other containers" in caught.value.message
    )
    # both guards refuse it, and the API server says which it asked first
    with pytest.raises(ApiError, match=r"sidegate-(operator|gated)-pods"):
        resize(operator, namespace, {lists: [change]})


def test_others_of_a_gated_pods_containers_are_resized_as_ever(admission: Admission, namespace: str, eve: ClusterClient) -> None:
    admission.api.admin.create(with_room(namespace))
    done = resize(eve, namespace, {"containers": [resized("database", requests="150m", limits="1")]})
    assert done["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "150m"}, "limits": {"cpu": "1"}}
    both = {"containers": [resized("database", limits="2")], "initContainers": [resized("sidegate-gate", limits="300m")]}
    assert refused_with(lambda: resize(eve, namespace, both), "a gate that is starved")


def test_who_may_pass_gates_by_may_resize_them(admission: Admission, namespace: str, eve: ClusterClient) -> None:
    admission.api.admin.create(with_room(namespace))
    more = {"initContainers": [resized("sidegate-gate", limits="300m")]}
    assert refused_with(lambda: resize(eve, namespace, more), "a gate that is starved")
    grant_bypass(admission, namespace, "eve")
    wait_until(lambda: not refused_with(lambda: resize(eve, namespace, more), "starved"), "RBAC to know the new binding")
    gate = admission.api.admin.get("v1", "Pod", "gated", namespace=namespace)["spec"]["initContainers"][0]
    assert gate["resources"]["limits"] == {"cpu": "300m"}


def test_the_pod_of_a_gate_outside_is_guarded_too(admission: Admission, namespace: str, eve: ClusterClient) -> None:
    """Of a target outside the cluster; there the gate is a container like any other."""
    admission.api.admin.create(with_room(namespace, "containers"))
    assert refused_with(lambda: add_container(eve, namespace, "gated"), "a container added to this pod")
    evil = {"op": "replace", "path": "/spec/containers/0/image", "value": "registry.example/evil:1"}
    assert refused_with(lambda: patch(eve, namespace, "gated", evil), "exchanged by the operator alone")
    patch(eve, namespace, "gated", {**evil, "path": "/spec/containers/1/image"})


def test_nobody_exchanges_what_sets_redirection_up(
    admission: Admission, namespace: str, eve: ClusterClient, operator: ClusterClient
) -> None:
    """It has NET_ADMIN, and would run when the pod's network is made anew."""
    pod = gated_pod(namespace)
    redirect = {**pod["spec"]["initContainers"][0], "name": "sidegate-redirect", "restartPolicy": None}
    pod["spec"]["initContainers"].insert(0, redirect)
    admission.api.admin.create(pod)
    change = {"op": "replace", "path": "/spec/initContainers/0/image", "value": "registry.example/evil:1"}
    said = "exchanged by the operator alone"
    for client, message in (
        (eve, said),
        (admission.api.admin, said),
        (operator, "of a pod's spec the operator changes the image of the gate alone"),
    ):
        with pytest.raises(ApiError) as caught:
            patch(client, namespace, "gated", change)
        assert message in caught.value.message


# Pods that ask for a gate and have none


@contextmanager
def without(admission: Admission, kind: str) -> Iterator[None]:
    """As somebody who deletes a webhook configuration: what is behind it stands alone."""
    admission.api.admin.delete(REGISTRATION, kind, "sidegate")
    try:
        yield
    finally:
        admission.apply_objects()
        wait_until(admission.is_ready, "the webhook to be trusted again", 30)
        admission.wait_until_enforced()


def job_pod(namespace: str, **owner: Any) -> dict[str, Any]:
    pod = plain_pod(namespace, "job", target="shop-db")
    reference = {"apiVersion": "batch/v1", "kind": "Job", "name": "init", "uid": "1", "controller": True, **owner}
    pod["metadata"]["ownerReferences"] = [reference]
    return pod


def test_without_the_webhook_a_protected_pod_does_not_start_ungated(admission: Admission, protected: str) -> None:
    admin = admission.api.admin
    with without(admission, "MutatingWebhookConfiguration"):
        wait_until(
            lambda: refused_with(
                lambda: admin.create(plain_pod(protected, "a", target="shop-db")), "asks for a target and has no gate"
            ),
            "the API server to forget the webhook",
        )
        labelled = plain_pod(protected, "b")
        labelled["metadata"]["labels"] = {"sidegate.dev/target": "shop-db"}
        assert refused_with(lambda: admin.create(labelled), "fix: see that the webhook configuration sidegate is in place")
        halfway = {**plain_pod(protected, "c", target="shop-db")}
        halfway["spec"] = {**halfway["spec"], "initContainers": [{**GATE, "restartPolicy": None}]}
        assert refused_with(lambda: admin.create(halfway), "asks for a target and has no gate")
        assert refused_with(lambda: admin.create(job_pod(protected, kind="CronJob")), "asks for a target and has no gate")
        admin.create(gated_pod(protected, "d", target="shop-db"))
        admin.create(plain_pod(protected, "e"))
        admin.create(job_pod(protected))


def opted_out(namespace: str, name: str = "shop-db-0") -> dict[str, Any]:
    pod = plain_pod(namespace, name, target="shop-db")
    pod["metadata"]["labels"] = {"app": "shop-db", "sidegate.dev/inject": "false"}
    return pod


# Two guards say so of a pod that is selected, too, and the API server tells of the one that it asked first: in no order of its own.
OPTS_OUT = " is protected; fix: take the label sidegate.dev/inject out of the workload's pod template"


def test_in_a_protected_namespace_a_targets_leave_to_opt_out_is_not_enough(
    admission: Admission, protected: str, namespace: str, eve: ClusterClient
) -> None:
    for each in (protected, namespace):
        admission.api.admin.create(target(each, enforcement={"allowOptOut": True}))
    assert gate_names(eve.create(opted_out(namespace))) == []
    assert refused_with(lambda: eve.create(opted_out(protected)), OPTS_OUT)
    silent = opted_out(protected, "silent")
    del silent["metadata"]["annotations"]
    silent["metadata"]["labels"]["app"] = "other"
    assert refused_with(lambda: eve.create(silent), OPTS_OUT)
    grant_bypass(admission, protected, "eve")
    wait_until(lambda: not refused_with(lambda: dry_run(eve, opted_out(protected)), OPTS_OUT), "RBAC to know the new binding")
    assert gate_names(eve.create(opted_out(protected))) == []


def test_in_a_protected_namespace_a_running_pod_does_not_opt_out_later(
    admission: Admission, protected: str, eve: ClusterClient
) -> None:
    """It would be counted as one that needs no gate."""
    admission.api.admin.create(plain_pod(protected))
    label = {"metadata": {"labels": {"sidegate.dev/inject": "false"}}}
    for subresource in (None, "status"):
        assert refused_with(
            lambda subresource=subresource: eve.merge_patch(
                "v1", "Pod", "plain", label, namespace=protected, subresource=subresource
            ),
            OPTS_OUT,
        )
    admission.api.admin.merge_patch("v1", "Pod", "plain", label, namespace=protected)  # who has bypass
    eve.merge_patch("v1", "Pod", "plain", {"metadata": {"annotations": {"note": "a"}}}, namespace=protected)


def test_a_pod_whose_target_does_not_let_it_opt_out_has_its_gate_and_starts(
    admission: Admission, protected: str, eve: ClusterClient
) -> None:
    admission.api.admin.create(target(protected))
    assert gate_names(eve.create(opted_out(protected))) == ["sidegate-gate"]


# What gates take their rules from


def config_map(namespace: str, name: str = "sidegate-shop-db", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def test_the_operator_alone_writes_what_gates_take_their_rules_from(
    admission: Admission, namespace: str, operator: ClusterClient, eve: ClusterClient
) -> None:
    words = "the operator alone writes what gates take their rules from; fix: change the AccessPolicy"
    nameless = config_map(namespace)
    nameless["metadata"] = {"generateName": "sidegate-", "namespace": namespace}
    for client in (eve, admission.api.admin):
        assert refused_with(lambda client=client: client.create(config_map(namespace)), words)
        assert refused_with(lambda client=client: client.apply(config_map(namespace)), words)
        assert refused_with(lambda client=client: client.create(nameless), words)
    operator.create(config_map(namespace, rules="few"))
    operator.merge_patch("v1", "ConfigMap", "sidegate-shop-db", {"data": {"rules": "many"}}, namespace=namespace)
    for client in (eve, admission.api.admin):
        for patch_ in ({"data": {"rules": "none"}}, {"metadata": {"labels": {"a": "b"}}}):
            change = lambda client=client, patch_=patch_: client.merge_patch(  # noqa: E731
                "v1", "ConfigMap", "sidegate-shop-db", patch_, namespace=namespace
            )
            assert refused_with(change, words)
        assert refused_with(
            lambda client=client: client.delete("v1", "ConfigMap", "sidegate-shop-db", namespace=namespace), words
        )
    all_of_them = f"/api/v1/namespaces/{namespace}/configmaps"
    assert refused_with(lambda: admission.api.admin.request("DELETE", all_of_them), words)
    admission.api.admin.acting_as("system:serviceaccount:kube-system:generic-garbage-collector", [ADMIN_GROUP]).delete(
        "v1", "ConfigMap", "sidegate-shop-db", namespace=namespace
    )
    eve.create(config_map(namespace, "settings"))
