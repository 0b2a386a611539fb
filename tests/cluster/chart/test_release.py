"""A release from install to uninstall by Helm itself, on a real API server: every object is valid, an upgrade leaves what was written at run
time, and uninstalling leaves people's objects and nothing that blocks.
"""

from __future__ import annotations

import base64
import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.admission import PROTECTED, plain_pod, policy, target
from tests.support.api_server import ApiServer
from tests.support.chart import CHART, EVERYTHING, NAMESPACE, of_kind, rendered
from tests.support.cluster_client import APPLY_PATCH, ApiError
from tests.support.helm_release import HelmRelease
from tests.support.installed import CONFIGURATIONS, REGISTRATION, Installed
from tests.support.processes import wait_until

SIDEGATE = "sidegate.dev/v1alpha1"
DEFINITIONS = "apiextensions.k8s.io/v1"
SOMEBODY_ELSES = "monitoring.coreos.com/"  # the Prometheus operator's kinds, which no API server has by itself
OLD_CATEGORY = "sidegate-of-old"


@pytest.fixture(scope="module")
def old_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart as an older version might have been: with another CRD."""
    chart = tmp_path_factory.mktemp("old") / "sidegate"
    shutil.copytree(CHART, chart)
    definition = chart / "templates" / "crd-accesspolicies.yaml"
    text = definition.read_text()
    assert text.count("      - sidegate\n") == 1
    definition.write_text(text.replace("      - sidegate\n", f"      - {OLD_CATEGORY}\n"))
    return chart


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.fixture(scope="module")
def installed(api: ApiServer, old_chart: Path) -> Iterator[Installed]:
    with Installed(api, old_chart) as running:
        yield running


@pytest.fixture(scope="module")
def started(installed: Installed) -> Installed:
    installed.start()
    return installed


def field_manager(api: ApiServer) -> str:
    """Helm's own: what it no longer applies goes."""
    found = api.admin.get("v1", "Service", "sidegate-webhook", namespace=NAMESPACE)["metadata"]["managedFields"]
    (manager,) = {each["manager"] for each in found if each["operation"] == "Apply"}
    return str(manager)


def dry_applied(api: ApiServer, wanted: dict[str, Any]) -> None:
    """As the API server would store it when Helm applied it; unknown and doubled fields are errors."""
    query = {"fieldManager": field_manager(api), "force": "true", "dryRun": "All", "fieldValidation": "Strict"}
    metadata = wanted["metadata"]
    path = api.admin.path_of(wanted["apiVersion"], wanted["kind"], metadata["name"], namespace=metadata.get("namespace"))
    api.admin.request("PATCH", path, wanted, query=query, content_type=APPLY_PATCH)


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["least", "everything"])
def test_the_api_server_takes_every_object_as_it_is(api: ApiServer, installed: Installed, values: dict[str, Any]) -> None:
    objects = [each for each in rendered(values) if not each["apiVersion"].startswith(SOMEBODY_ELSES)]
    assert len(objects) > 30
    for each in objects:
        dry_applied(api, each)


def test_the_api_server_would_say_if_a_field_did_not_exist(api: ApiServer, installed: Installed) -> None:
    (wanted, *_) = of_kind(rendered(), "Deployment")
    wrong = copy.deepcopy(wanted)
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(ApiError) as caught:
        dry_applied(api, wrong)
    assert "readynessProbe" in caught.value.message


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["least", "everything"])
def test_pods_of_both_start_under_pod_security_restricted(api: ApiServer, installed: Installed, values: dict[str, Any]) -> None:
    """The namespace enforces it; priority class and service account are there."""
    for deployment in of_kind(rendered(values), "Deployment"):
        spec = copy.deepcopy(deployment["spec"]["template"]["spec"])
        if spec.get("priorityClassName") == "high":
            del spec["priorityClassName"]  # the cluster's owner makes it
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": NAMESPACE}, "spec": spec}
        path = api.admin.path_of("v1", "Pod", namespace=NAMESPACE)
        api.admin.request("POST", path, pod, query={"dryRun": "All", "fieldValidation": "Strict"})


def bundles(api: ApiServer) -> list[bytes]:
    found = [api.admin.get(REGISTRATION, kind, "sidegate") for kind in CONFIGURATIONS]
    return [base64.b64decode(each["clientConfig"].get("caBundle", "")) for one in found for each in one["webhooks"]]


def categories(api: ApiServer) -> list[str]:
    found = api.admin.get(DEFINITIONS, "CustomResourceDefinition", "accesspolicies.sidegate.dev")
    names: list[str] = found["spec"]["names"]["categories"]
    return names


def test_an_upgrade_brings_the_new_definitions_and_leaves_the_webhooks_authority(api: ApiServer, started: Installed) -> None:
    started.call_by_service()
    before = bundles(api)
    assert all(before)
    assert categories(api) == [OLD_CATEGORY]
    started.release.chart = CHART
    started.release.upgrade()
    assert bundles(api) == before
    assert categories(api) == ["sidegate"]


def test_an_upgrade_puts_a_guard_back_that_somebody_deleted(api: ApiServer, started: Installed) -> None:
    api.admin.delete(REGISTRATION, "ValidatingAdmissionPolicy", "sidegate-side-doors")
    started.call_by_service()
    started.release.upgrade()
    assert api.admin.get(REGISTRATION, "ValidatingAdmissionPolicy", "sidegate-side-doors")


def test_uninstalling_leaves_peoples_objects_and_nothing_that_blocks(api: ApiServer, started: Installed) -> None:
    admin = api.admin
    started.call_by_url()  # the upgrades named the Service again
    started.wait_until_enforced()
    shop = api.create_namespace("shop", PROTECTED)
    admin.create(target(shop))
    admin.create(policy(shop))
    config = {"name": "sidegate-shop-db", "namespace": shop}
    started.operator.wait_for_line("every target is planned")
    _wait_for(api, "ConfigMap", config)
    started.webhook.stop()
    started.operator.stop()
    asking = plain_pod(shop, "shop-db-0", target="shop-db")
    asking["metadata"]["labels"] = {"app": "shop-db"}
    with pytest.raises(ApiError) as caught:
        admin.create(asking)
    assert "inject.sidegate.dev" in caught.value.message

    started.release.uninstall()

    for kind in (*CONFIGURATIONS, "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
        assert admin.list(REGISTRATION, kind)["items"] == []
    for version, kind in (("apps/v1", "Deployment"), ("v1", "Service"), ("v1", "ServiceAccount")):
        left = {each["metadata"]["name"] for each in admin.list(version, kind, namespace=NAMESPACE)["items"]}
        assert not {name for name in left if name.startswith("sidegate")}
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        names = {each["metadata"]["name"] for each in admin.list("rbac.authorization.k8s.io/v1", kind)["items"]}
        assert not {name for name in names if name.startswith("sidegate")}
    assert len(admin.list(SIDEGATE, "AccessPolicy", namespace=shop)["items"]) == 1
    assert admin.get("v1", "ConfigMap", config["name"], namespace=shop)["data"]  # gates go on with the rules they have

    _wait_until_created(api, asking)
    admin.create(plain_pod(shop, "other"))
    for kind, name in (("AccessPolicy", "assistants"), ("ProtectedTarget", "shop-db")):
        assert "finalizers" not in admin.get(SIDEGATE, kind, name, namespace=shop)["metadata"]
        admin.delete(SIDEGATE, kind, name, namespace=shop)
        admin.wait_until_gone(SIDEGATE, kind, name, namespace=shop)
    admin.merge_patch("v1", "Namespace", shop, {"metadata": {"labels": {"sidegate.dev/protected": None}}})


def test_installing_again_takes_the_definitions_that_stayed(api: ApiServer, installed: Installed) -> None:
    HelmRelease(api.kubeconfig, api.directory).install()
    assert categories(api) == ["sidegate"]


def _wait_for(api: ApiServer, kind: str, metadata: dict[str, str]) -> None:
    def found() -> bool:
        names = {each["metadata"]["name"] for each in api.admin.list("v1", kind, namespace=metadata["namespace"])["items"]}
        return metadata["name"] in names

    wait_until(found, f"{kind} {metadata}", 30, 0.05)


def _wait_until_created(api: ApiServer, pod: dict[str, Any]) -> None:
    """The API server's admission forgets what was deleted a moment later."""

    def created() -> bool:
        try:
            api.admin.create(pod)
        except ApiError:
            return False
        return True

    wait_until(created, "a pod that asks for a gate to start without Sidegate", 30, 0.1)
