"""The API server of the tests is a real one, and our resources are what it enforces: it is the judge of `crds/`, not our reading of CEL."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import pytest

from sidegate.api.meta import ApiModel, ChangeConstraint, Constraint
from tests.support.api_server import ApiServer
from tests.support.cluster_client import ApiError, ClusterClient
from tests.support.processes import wait_until
from tests.unit.api.crd_rules import merged
from tests.unit.api.test_constraints import CASES

VERSION = "sidegate.dev/v1alpha1"


def settings(namespace: str, name: str = "settings", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def in_namespace(document: Mapping[str, Any], namespace: str) -> dict[str, Any]:
    metadata = {**document["metadata"], "namespace": namespace}
    metadata["name"] = metadata["name"] if len(metadata["name"]) > 60 else f"{metadata['name']}-{uuid.uuid4().hex[:8]}"
    return {**document, "metadata": metadata}


# Custom resources


def test_serves_every_resource_of_crds(api_server: ApiServer) -> None:
    served = api_server.admin.request("GET", f"/apis/{VERSION}")["resources"]
    assert {each["kind"] for each in served if "/" not in each["name"]} == {"AccessPolicy", "ApprovalRequest", "ProtectedTarget"}
    assert {each["name"] for each in served if "/" in each["name"]} == {
        "accesspolicies/status",
        "approvalrequests/status",
        "protectedtargets/status",
    }
    assert api_server.kubectl("get", "sidegate", "--all-namespaces").returncode == 0


@pytest.fixture(scope="module")
def shared_namespace(api_server: ApiServer) -> str:
    return api_server.create_namespace("constraints")


@pytest.mark.parametrize(("model", "base", "constraint", "case"), CASES)
def test_refuses_what_breaks_a_constraint_and_takes_its_near_twin(
    api_server: ApiServer,
    shared_namespace: str,
    model: type[ApiModel],
    base: dict[str, Any],
    constraint: Constraint | ChangeConstraint,
    case: dict[str, Any],
) -> None:
    """The fixtures that the Python constraints are tested with, put to the API server's own CEL."""
    start = in_namespace(merged(base, case["old"]) if "old" in case else base, shared_namespace)
    refused, passes = (merged(start, case[name]) for name in ("refused", "passes"))
    if not isinstance(constraint, ChangeConstraint):
        with pytest.raises(ApiError) as caught:
            store(api_server.admin, refused)
        assert constraint.message in caught.value.message
        store(api_server.admin, in_namespace(passes, shared_namespace))
        return
    stored = store(api_server.admin, start)
    with pytest.raises(ApiError) as caught:
        change(api_server.admin, stored, refused)
    assert constraint.message in caught.value.message
    change(api_server.admin, stored, passes)


def store(client: ClusterClient, wanted: dict[str, Any]) -> dict[str, Any]:
    """Create an object with its status, which create leaves out."""
    created = client.create(wanted)
    return client.replace({**created, "status": wanted["status"]}, "status") if "status" in wanted else created


def change(client: ClusterClient, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Replace what differs: the spec, the status, or both."""
    current = client.get(
        stored["apiVersion"], stored["kind"], stored["metadata"]["name"], namespace=stored["metadata"]["namespace"]
    )
    if wanted["spec"] != stored["spec"]:
        current = client.replace({**current, "spec": wanted["spec"]})
    if "status" in wanted and wanted["status"] != current.get("status"):
        client.replace({**current, "status": wanted["status"]}, "status")


# Who asks


def may_list(client: ClusterClient, namespace: str) -> bool:
    try:
        client.list("v1", "ConfigMap", namespace=namespace)
    except ApiError as error:
        assert error.code == 403
        return False
    return True


def test_a_user_without_a_role_may_do_nothing(api_server: ApiServer, namespace: str) -> None:
    with pytest.raises(ApiError) as caught:
        api_server.client_for("ada@example.com", ["dba"]).list("v1", "ConfigMap", namespace=namespace)
    assert caught.value.code == 403
    assert "ada@example.com" in caught.value.message


def test_a_group_of_the_certificate_gets_what_its_role_grants(api_server: ApiServer, namespace: str) -> None:
    api_server.admin.create(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "reader", "namespace": namespace},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
        }
    )
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "dba", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "dba"}],
    }
    api_server.admin.create(binding)
    ada = api_server.client_for("ada", ["staff", "dba"])
    wait_until(lambda: may_list(ada, namespace), "the API server's authorizer to have seen the new binding")
    assert not may_list(api_server.client_for("ada", ["staff"]), namespace)
    assert api_server.admin.acting_as("bob", ["dba"]).list("v1", "ConfigMap", namespace=namespace)["items"] == []
    said = api_server.kubectl("auth", "whoami", "-o", "json", kubeconfig=api_server.kubeconfig_for("ada", ["staff", "dba"]))
    assert '"dba"' in said.stdout


def test_a_service_account_has_a_token_that_the_api_server_reviews(api_server: ApiServer, namespace: str) -> None:
    token = api_server.admin.service_account_token("default", namespace=namespace, audience="sidegate-operator")
    for audience, authenticated in (("sidegate-operator", True), ("another", False)):
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "metadata": {},
            "spec": {"token": token, "audiences": [audience]},
        }
        assert api_server.admin.create(review)["status"].get("authenticated", False) is authenticated


# What befalls it


@pytest.mark.parametrize("graceful", [False, True], ids=["killed", "ended"])
def test_a_restart_keeps_what_is_stored(api_server: ApiServer, namespace: str, graceful: bool) -> None:
    api_server.admin.create(settings(namespace, answer="42"))
    api_server.restart(graceful=graceful)
    assert api_server.admin.get("v1", "ConfigMap", "settings", namespace=namespace)["data"] == {"answer": "42"}


def test_a_watch_from_before_a_compaction_gets_410(api_server: ApiServer, namespace: str) -> None:
    old = api_server.admin.list("v1", "ConfigMap", namespace=namespace)["metadata"]["resourceVersion"]
    api_server.admin.create(settings(namespace))
    with api_server.admin.watch("v1", "ConfigMap", namespace=namespace, resource_version=old) as events:
        assert next(events)["type"] == "ADDED"  # the control: before the compaction the same watch is served
    api_server.admin.delete("v1", "ConfigMap", "settings", namespace=namespace)
    api_server.compact()
    with api_server.admin.watch("v1", "ConfigMap", namespace=namespace, resource_version=old) as events:
        event = next(events)
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


def test_a_watch_of_our_resources_from_before_a_compaction_gets_410(api_server: ApiServer, namespace: str) -> None:
    old = api_server.admin.list(VERSION, "AccessPolicy", namespace=namespace)["metadata"]["resourceVersion"]
    api_server.admin.create(settings(namespace))
    api_server.compact()
    with api_server.admin.watch(VERSION, "AccessPolicy", namespace=namespace, resource_version=old) as events:
        assert next(events)["object"]["code"] == 410


def test_a_paused_api_server_answers_nothing_and_goes_on_when_resumed(api_server: ApiServer, namespace: str) -> None:
    with api_server.paused(), pytest.raises(TimeoutError):
        api_server.admin.request("GET", f"/api/v1/namespaces/{namespace}", timeout_s=0.3)
    assert api_server.admin.get("v1", "Namespace", namespace)["status"]["phase"] == "Active"


def test_an_api_server_of_its_own_leaves_nothing_behind(api_server: ApiServer) -> None:
    with ApiServer(api_server.programs) as another:
        assert another.port != api_server.port
        directory, processes = another.directory, [another._api, another._etcd]
    assert not directory.exists()
    assert all(process is not None and process.returncode is not None for process in processes)
