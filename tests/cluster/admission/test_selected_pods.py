"""In a protected namespace a pod that a target selects has its gate, or isn't there: whether or not it asked, whatever the webhook does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sidegate.api.meta import LabelSelector
from tests.cluster.admission.test_guards import GATE, OPTS_OUT, gate_names, grant_bypass, job_pod
from tests.support.admission import DEVELOPERS, PROTECTED, REGISTRATION, Admission, dry_run, plain_pod, refused_with, target
from tests.support.cluster_client import ApiError, ClusterClient
from tests.support.processes import wait_until

EXAMPLES = Path(__file__).parents[3] / "examples"
SELECTED = "selects this pod by its labels, the pod has no gate of it, and namespace "


@pytest.fixture
def protected(admission: Admission) -> str:
    return admission.api.create_namespace(labels=PROTECTED)


@pytest.fixture
def eve(admission: Admission) -> ClusterClient:
    """May do everything to pods that RBAC can grant, but bypass."""
    return admission.api.admin.acting_as("eve", [DEVELOPERS])


def pod_with(namespace: str, labels: dict[str, str], name: str = "silent", **annotations: str) -> dict[str, Any]:
    pod = plain_pod(namespace, name, **annotations)
    pod["metadata"]["labels"] = labels
    return pod


def protect(admission: Admission, namespace: str, eve: ClusterClient, labels: dict[str, str], **spec: Any) -> None:
    """Make the target, and wait until the API server has it for its guard."""
    admission.api.admin.create(target(namespace, **spec))
    wait_until(lambda: refused_with(lambda: dry_run(eve, pod_with(namespace, labels)), SELECTED), "the guard to know the target")


SHOP = {"app": "shop-db"}


@pytest.fixture
def shop(admission: Admission, protected: str, eve: ClusterClient) -> str:
    protect(admission, protected, eve, SHOP)
    return protected


def test_a_selected_pod_that_did_not_ask_is_refused_and_told_how_to_ask(shop: str, eve: ClusterClient) -> None:
    with pytest.raises(ApiError) as caught:
        eve.create(pod_with(shop, SHOP))
    assert caught.value.code == 403
    assert f"target shop-db {SELECTED}{shop} is protected" in caught.value.message
    assert (
        "fix: annotate the pod template, which makes its pods anew: sidegate protect KIND/NAME --target shop-db"
        in caught.value.message
    )
    assert "the verb bypass on protectedtargets.sidegate.dev here" in caught.value.message
    eve.create(pod_with(shop, {"app": "web"}))


def test_it_is_refused_while_the_webhook_is_down(admission: Admission, shop: str, eve: ClusterClient) -> None:
    with admission.webhook_down():
        assert refused_with(lambda: eve.create(pod_with(shop, SHOP)), SELECTED)
        eve.create(pod_with(shop, {"app": "web"}))


def test_a_pod_that_got_its_gate_starts_and_is_labelled_as_ever(shop: str, eve: ClusterClient) -> None:
    assert gate_names(eve.create(pod_with(shop, SHOP, target="shop-db"))) == ["sidegate-gate"]
    eve.merge_patch("v1", "Pod", "silent", {"metadata": {"labels": {"role": "primary"}}}, namespace=shop)
    for labels in ({"app": None}, SHOP):
        eve.merge_patch("v1", "Pod", "silent", {"metadata": {"labels": labels}}, namespace=shop)


def test_a_container_that_is_only_called_a_gate_is_none(shop: str, eve: ClusterClient) -> None:
    pod = pod_with(shop, SHOP)
    pod["spec"]["initContainers"] = [dict(GATE)]
    assert refused_with(lambda: eve.create(pod), SELECTED)


def test_in_other_namespaces_it_is_reported_alone(admission: Admission, namespace: str, shop: str, eve: ClusterClient) -> None:
    admission.api.admin.create(target(namespace))
    assert gate_names(eve.create(pod_with(namespace, SHOP))) == []
    elsewhere = admission.api.create_namespace(labels=PROTECTED)  # where no target is
    eve.create(pod_with(elsewhere, SHOP))


def test_a_pod_that_opted_out_is_refused_like_any_other(shop: str, eve: ClusterClient) -> None:
    out = pod_with(shop, {**SHOP, "sidegate.dev/inject": "false"})
    assert refused_with(lambda: eve.create(out), OPTS_OUT)
    labels = {"metadata": {"labels": SHOP}}
    eve.create(pod_with(shop, {}, "later"))
    assert refused_with(lambda: eve.merge_patch("v1", "Pod", "later", labels, namespace=shop), SELECTED)


@pytest.mark.parametrize("subresource", [None, "status"])
def test_a_running_pod_is_not_given_the_labels_later(shop: str, eve: ClusterClient, subresource: str | None) -> None:
    eve.create(pod_with(shop, {"app": "web"}))

    def change(metadata: dict[str, Any]) -> Any:
        return eve.merge_patch("v1", "Pod", "silent", {"metadata": metadata}, namespace=shop, subresource=subresource)

    assert refused_with(lambda: change({"labels": SHOP}), SELECTED)
    both = {"labels": SHOP, "annotations": {"sidegate.dev/target": "shop-db"}}
    assert refused_with(lambda: change(both), SELECTED)
    change({"labels": {"app": "other", "tier": "front"}})


def test_who_has_bypass_may_and_what_was_there_before_stays_as_it_is(
    admission: Admission, protected: str, eve: ClusterClient
) -> None:
    eve.create(pod_with(protected, SHOP, "older"))
    protect(admission, protected, eve, SHOP)
    change = {"metadata": {"labels": {"tier": "data"}, "annotations": {"note": "a"}, "finalizers": ["example.com/x"]}}
    eve.merge_patch("v1", "Pod", "older", change, namespace=protected)
    eve.merge_patch("v1", "Pod", "older", {"metadata": {"finalizers": None}}, namespace=protected)
    eve.merge_patch("v1", "Pod", "older", {"status": {"phase": "Running"}}, namespace=protected, subresource="status")
    eve.merge_patch("v1", "Pod", "older", {"metadata": {"labels": {"app": "gone"}}}, namespace=protected)
    back = {"metadata": {"labels": SHOP}}
    assert refused_with(lambda: eve.merge_patch("v1", "Pod", "older", back, namespace=protected), SELECTED)
    grant_bypass(admission, protected, "eve")
    wait_until(
        lambda: not refused_with(lambda: dry_run(eve, pod_with(protected, SHOP)), SELECTED), "RBAC to know the new binding"
    )
    eve.create(pod_with(protected, SHOP))


def requirement(operator: str, *values: str) -> dict[str, Any]:
    return {"key": "tier", "operator": operator, **({"values": list(values)} if values else {})}


SELECTORS: dict[str, dict[str, Any]] = {
    "In": {"matchExpressions": [requirement("In", "data", "cache")]},
    "NotIn": {"matchExpressions": [requirement("NotIn", "front", "")]},
    "Exists": {"matchExpressions": [requirement("Exists")]},
    "DoesNotExist": {"matchExpressions": [requirement("DoesNotExist")]},
    "all at once": {
        "matchLabels": {"app": "shop-db", "tier": "data"},
        "matchExpressions": [requirement("In", "data"), requirement("NotIn", "front"), requirement("Exists")],
    },
    "labels and an absence": {"matchLabels": {"app": "shop-db"}, "matchExpressions": [requirement("DoesNotExist")]},
    "two labels": {"matchLabels": {"app": "shop-db", "a.example/b.c": ""}},
}
PODS: list[dict[str, str]] = [
    {},
    {"app": "shop-db"},
    {"app": "shop-db", "tier": "data"},
    {"app": "shop-db", "tier": "front"},
    {"app": "shop-db", "tier": ""},
    {"app": "shop-db", "a.example/b.c": ""},
    {"app": "shop-db", "a.example/b.c": "x", "tier": "cache"},
    {"app": "web", "tier": "data"},
    {"tier": "Data"},
    {"Tier": "data"},
]


@pytest.mark.parametrize("selector", SELECTORS.values(), ids=SELECTORS)
def test_the_guard_selects_as_the_operator_does(
    admission: Admission, protected: str, eve: ClusterClient, selector: dict[str, Any]
) -> None:
    parsed = LabelSelector.model_validate(selector)
    wanted = [parsed.matches(labels) for labels in PODS]
    assert {*wanted} == {True, False}
    protect(admission, protected, eve, PODS[wanted.index(True)], selector=selector)
    found = [refused_with(lambda labels=labels: dry_run(eve, pod_with(protected, labels)), SELECTED) for labels in PODS]
    assert found == wanted
    bare = next(labels for labels, is_selected in zip(PODS, wanted, strict=True) if not is_selected)
    eve.create(pod_with(protected, bare))
    for labels, is_selected in zip(PODS, wanted, strict=True):
        gained = {"metadata": {"labels": {**dict.fromkeys(bare), **labels}}}
        path = eve.path_of("v1", "Pod", "silent", namespace=protected)

        def change(gained: dict[str, Any] = gained, path: str = path) -> Any:
            return eve.request("PATCH", path, gained, query={"dryRun": "All"}, content_type="application/merge-patch+json")

        assert refused_with(change, SELECTED) is is_selected


def test_a_target_gated_outside_selects_nothing(admission: Admission, shop: str, eve: ClusterClient) -> None:
    outside = target(
        shop,
        endpoint={"host": "db.example", "port": 5432},
        tls={"client": {"secretRef": {"name": "a"}}, "target": {"mode": "VerifyFull"}},
    )
    outside["metadata"]["name"] = "outside"
    del outside["spec"]["selector"]
    admission.api.admin.create(outside)
    eve.create(pod_with(shop, {"app": "web", "sidegate.dev/gate-for": "outside"}))


def test_each_target_that_selects_a_pod_wants_its_own_gate(admission: Admission, shop: str, eve: ClusterClient) -> None:
    second = target(shop, selector={"matchLabels": {"role": "primary"}})
    second["metadata"]["name"] = "primary-db"
    admission.api.admin.create(second)
    both = pod_with(shop, {**SHOP, "role": "primary"}, target="shop-db")
    wait_until(
        lambda: refused_with(lambda: dry_run(eve, both), f"target primary-db {SELECTED}"), "the guard to know the second target"
    )
    assert refused_with(lambda: eve.create(both), "fix: let one target alone select it")
    eve.create(pod_with(shop, SHOP, target="shop-db"))
    primary = {"metadata": {"labels": {"role": "primary"}}}
    assert refused_with(lambda: eve.merge_patch("v1", "Pod", "silent", primary, namespace=shop), f"target primary-db {SELECTED}")


def test_a_pod_of_a_job_that_a_target_selects_is_refused(shop: str, eve: ClusterClient) -> None:
    """Its Service would send clients to it, and a gate would keep it from ending."""
    job = job_pod(shop)
    job["metadata"]["labels"] = SHOP
    assert refused_with(lambda: eve.create(job), SELECTED)
    job["metadata"]["labels"] = {"job-name": "init"}
    eve.create(job)


# The examples: labels as each operator gives them to what it makes.
OPERATORS: dict[str, tuple[str, dict[str, str], list[dict[str, str]]]] = {
    "cloudnative-pg": (
        "target.yaml",
        {"cnpg.io/cluster": "shop-db", "cnpg.io/podRole": "instance", "cnpg.io/instanceName": "shop-db-1"},
        [
            {"cnpg.io/cluster": "shop-db", "cnpg.io/jobRole": "initdb", "cnpg.io/instanceName": "shop-db-1"},
            {"cnpg.io/cluster": "shop-db", "cnpg.io/jobRole": "join"},
            {"cnpg.io/cluster": "shop-db", "cnpg.io/poolerName": "pool", "cnpg.io/podRole": "pooler"},
        ],
    ),
    "zalando": (
        "target.yaml",
        {"application": "spilo", "cluster-name": "shop-db", "team": "shop"},
        [
            {"application": "spilo-logical-backup", "cluster-name": "shop-db"},
            {"application": "db-connection-pooler", "cluster-name": "shop-db"},
        ],
    ),
    "statefulset": ("target.yaml", {"app": "shop-db", "apps.kubernetes.io/pod-index": "0"}, [{"app": "shop"}]),
}


@pytest.mark.parametrize("folder", OPERATORS)
def test_what_the_examples_make_starts(admission: Admission, protected: str, eve: ClusterClient, folder: str) -> None:
    file, instance, others = OPERATORS[folder]
    spec = yaml.safe_load((EXAMPLES / folder / file).read_text())["spec"]
    protect(admission, protected, eve, instance, **spec)
    assert gate_names(eve.create(pod_with(protected, instance, "instance", target="shop-db"))) == ["sidegate-gate"]
    role = {"metadata": {"labels": {"cnpg.io/instanceRole": "primary", "spilo-role": "master"}}}
    eve.merge_patch("v1", "Pod", "instance", role, namespace=protected)
    for number, labels in enumerate(others):
        pod = pod_with(protected, labels, f"other-{number}")
        if "jobRole" in str(labels):  # these inherit the annotation
            pod["metadata"] |= {key: job_pod(protected)["metadata"][key] for key in ("annotations", "ownerReferences")}
        assert gate_names(eve.create(pod)) == []


def test_while_the_api_server_does_not_know_targets_other_namespaces_go_on(
    admission: Admission, protected: str, namespace: str, eve: ClusterClient
) -> None:
    """As after somebody deleted the CRD; a kind that there isn't stands for it."""
    admin, name = admission.api.admin, "sidegate-selected-pods"
    wanted = [each for each in admission.objects() if each["metadata"]["name"] == name]
    assert [each["kind"] for each in wanted] == ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"]
    wanted[0]["spec"]["paramKind"]["kind"] = "NoSuchKind"
    for each in wanted:
        each["metadata"]["name"] = "unknown-kind"
    wanted[1]["spec"]["policyName"] = "unknown-kind"
    try:
        for each in wanted:
            admin.create(each)
        said = "failed to find resource referenced by paramKind"
        wait_until(lambda: refused_with(lambda: dry_run(eve, plain_pod(protected)), said), "the policy to be in force")
        eve.create(plain_pod(namespace))
    finally:
        for each in reversed(wanted):
            admin.delete(REGISTRATION, each["kind"], "unknown-kind")
        wait_until(lambda: not refused_with(lambda: dry_run(eve, plain_pod(protected)), "paramKind"), "it to be forgotten")
