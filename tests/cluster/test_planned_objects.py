"""What the operator plans, put to a real API server: pods under Pod Security and the ServiceAccount plugin, objects by server-side apply."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.plan.config_map import MAX_CONFIG_BYTES
from sidegate_operator.plan.deployment import plan_deployment, plan_disruption_budget
from sidegate_operator.plan.gate_config import plan_gate_config
from sidegate_operator.plan.injection import PodPatch
from sidegate_operator.plan.network_policy import plan_network_policy
from sidegate_operator.plan.service import plan_service
from sidegate_operator.plan.sidecar import plan_sidecar
from tests.support.api_server import ApiServer
from tests.support.cluster_client import ApiError, Object
from tests.support.json_patch import patched
from tests.support.operator_samples import SAMPLES, SETTINGS, injected, outside_target, sample, sample_target
from tests.support.pod_security import restricted_problems
from tests.unit.api.crd_rules import merged

GOLDEN = sorted(file.name.removesuffix(".in.yaml") for file in SAMPLES.glob("*.in.yaml"))
TOKEN_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"
CAREFUL = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 999,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture
def restricted(api_server: ApiServer) -> str:
    """A namespace that takes nothing but restricted pods."""
    return api_server.create_namespace("restricted", {"pod-security.kubernetes.io/enforce": "restricted"})


def pod_in(namespace: str, target: ProtectedTarget) -> Object:
    """A careful database's pod with its gate."""
    pod = merged(sample("plain.in"), {"metadata": {"namespace": namespace}})
    pod["spec"]["containers"][0]["securityContext"] = CAREFUL
    return injected(pod, target)


def gate_of(pod: Object) -> dict[str, Any]:
    gate: dict[str, Any] = pod["spec"]["initContainers"][0]
    assert gate["name"] == "sidegate-gate"
    return gate


# The pod patch


def test_the_api_server_takes_the_gate_and_gives_it_back_as_it_was(api_server: ApiServer, restricted: str) -> None:
    """So whoever looks at a pod again, the webhook when it is called a second time among them, sees that it has its gate."""
    target = sample_target()
    pod = pod_in(restricted, target)
    stored = api_server.admin.create(pod)
    assert gate_of(stored) == gate_of(pod)
    assert [each for each in stored["spec"]["volumes"] if each["name"].startswith("sidegate")] == pod["spec"]["volumes"]
    assert plan_sidecar(stored, target, SETTINGS) == PodPatch("shop-db", ())


@pytest.mark.parametrize(
    ("cpu", "memory"), [("2000m", "1024Mi"), ("1500m", "1000M"), ("2", "1048576Ki"), ("2000", "536870912"), ("100m", "100000k")]
)
def test_quantities_come_back_as_they_were_planned(api_server: ApiServer, restricted: str, cpu: str, memory: str) -> None:
    target = sample_target({"spec": {"gate": {"resources": {"cpu": cpu, "memory": memory}}}})
    pod = pod_in(restricted, target)
    assert gate_of(api_server.admin.create(pod))["resources"] == gate_of(pod)["resources"]


def test_the_gate_gets_no_service_account_token_and_the_database_keeps_its_own(api_server: ApiServer, restricted: str) -> None:
    stored = api_server.admin.create(pod_in(restricted, sample_target()))
    (gates,) = (mount for mount in gate_of(stored)["volumeMounts"] if mount["mountPath"] == TOKEN_DIR)
    assert gates == {"name": "sidegate-no-token", "mountPath": TOKEN_DIR, "readOnly": True}
    (databases,) = (mount for mount in stored["spec"]["containers"][0]["volumeMounts"] if mount["mountPath"] == TOKEN_DIR)
    assert databases["name"].startswith("kube-api-access")


def test_without_the_empty_directory_the_gate_would_get_the_pods_token(api_server: ApiServer, restricted: str) -> None:
    pod = pod_in(restricted, sample_target())
    gate_of(pod)["volumeMounts"] = [each for each in gate_of(pod)["volumeMounts"] if each["mountPath"] != TOKEN_DIR]
    stored = api_server.admin.create(pod)
    mounted = {each["mountPath"]: each["name"] for each in gate_of(stored)["volumeMounts"]}
    assert mounted[TOKEN_DIR].startswith("kube-api-access")


def _without(field: str) -> Callable[[Object], None]:
    return lambda pod: gate_of(pod)["securityContext"].__delitem__(field)


CARELESS: list[tuple[str, Callable[[Object], None]]] = [
    ("allowPrivilegeEscalation", _without("allowPrivilegeEscalation")),
    ("capabilities", _without("capabilities")),
    ("runAsNonRoot", _without("runAsNonRoot")),
    ("seccompProfile", _without("seccompProfile")),
    ("runAsUser=0", lambda pod: gate_of(pod)["securityContext"].update(runAsUser=0)),
    ("probe or lifecycle host", lambda pod: gate_of(pod)["startupProbe"]["httpGet"].update(host="127.0.0.1")),
    ("hostPort", lambda pod: gate_of(pod)["ports"][0].update(hostPort=6432)),
    ("restricted volume types", lambda pod: pod["spec"]["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
]


@pytest.mark.parametrize(("named", "spoil"), CARELESS, ids=[name for name, _ in CARELESS])
def test_without_its_care_a_restricted_namespace_refuses_the_pod(
    api_server: ApiServer, restricted: str, named: str, spoil: Callable[[Object], None]
) -> None:
    """The check that unit tests use instead sees the same."""
    pod = pod_in(restricted, sample_target())
    assert restricted_problems(pod["spec"]) == []
    spoil(pod)
    with pytest.raises(ApiError) as caught:
        api_server.admin.create(pod)
    assert caught.value.code == 403
    assert "violates PodSecurity" in caught.value.message
    assert named in caught.value.message
    assert restricted_problems(pod["spec"]) != []


def test_what_a_limit_range_adds_leaves_the_gate_its_targets(api_server: ApiServer, restricted: str) -> None:
    limits = [{"type": "Container", "default": {"ephemeral-storage": "1Gi"}, "defaultRequest": {"ephemeral-storage": "1Gi"}}]
    range_ = {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "all", "namespace": restricted},
        "spec": {"limits": limits},
    }
    api_server.admin.create(range_)
    target = sample_target()
    stored = api_server.admin.create(pod_in(restricted, target))
    assert gate_of(stored)["resources"]["limits"]["ephemeral-storage"] == "1Gi"
    assert plan_sidecar(stored, target, SETTINGS) == PodPatch("shop-db", ())


@pytest.mark.parametrize("name", GOLDEN)
def test_kubectl_reads_the_patch_as_the_unit_tests_do(api_server: ApiServer, name: str) -> None:
    pod = sample(f"{name}.in")
    target = sample_target(sample(f"{name}.target") if (SAMPLES / f"{name}.target.yaml").exists() else None)
    planned = plan_sidecar(pod, target, SETTINGS)
    assert isinstance(planned, PodPatch)
    said = api_server.kubectl(
        *("patch", "--local", "--type=json", f"--patch={json.dumps(planned.operations)}", "-f", "-", "-o", "json"),
        stdin=json.dumps(pod),
    )
    assert said.returncode == 0, said.stderr
    assert without_nulls(json.loads(said.stdout)) == without_nulls(patched(pod, planned.operations))


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


# Objects


def stored_target(api_server: ApiServer, namespace: str, target: ProtectedTarget) -> ProtectedTarget:
    """The target as the API server has it, with a uid of its own."""
    wire: Any = target.to_wire()
    wire["metadata"] = {"name": "shop-db", "namespace": namespace}
    return ProtectedTarget.from_wire(api_server.admin.create(wire))


def objects_of(target: ProtectedTarget) -> list[Object]:
    settings = replace(SETTINGS, scrapers=("monitoring",))
    plans = [plan_service(target, settings), plan_network_policy(target, settings), plan_deployment(target, settings)]
    wanted = [plan_gate_config(target, [], "-----BEGIN CERTIFICATE-----\n").config_map]
    wanted += [planned.wanted for planned in [*plans, plan_disruption_budget(target)]]
    return [each for each in wanted if each is not None]


@pytest.mark.parametrize(("target", "kinds"), [(sample_target(), 3), (outside_target(), 5)], ids=["inside", "outside"])
def test_each_object_is_applied_and_applying_it_again_changes_nothing(
    api_server: ApiServer, restricted: str, target: ProtectedTarget, kinds: int
) -> None:
    objects = objects_of(stored_target(api_server, restricted, target))
    assert len(objects) == kinds
    for wanted in objects:
        first = api_server.admin.apply(wanted, field_manager="sidegate-operator")
        second = api_server.admin.apply(wanted, field_manager="sidegate-operator")
        assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"], wanted["kind"]
        assert contains(second, wanted)


def contains(found: Any, wanted: Any) -> bool:
    """Whether everything wanted is there: the API server takes fields that it doesn't know and drops them."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(key in found and contains(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(contains, found, wanted))
    return bool(found == wanted)


def test_a_pod_of_the_deployment_is_taken_by_a_restricted_namespace(api_server: ApiServer, restricted: str) -> None:
    deployment = plan_deployment(stored_target(api_server, restricted, outside_target()), SETTINGS).wanted
    assert deployment is not None
    pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(deployment["spec"]["template"])}
    pod["metadata"] |= {"name": "gate", "namespace": restricted}
    stored = api_server.admin.create(pod)
    assert [each["name"] for each in stored["spec"]["volumes"] if each["name"].startswith("kube-api-access")] == []
    assert contains(stored["spec"], pod["spec"])


def test_the_largest_config_map_that_is_planned_is_taken(api_server: ApiServer, namespace: str) -> None:
    target = stored_target(api_server, namespace, sample_target())
    planned = plan_gate_config(target, [])
    assert planned.config_map is not None
    room = MAX_CONFIG_BYTES - len(planned.config_map["data"]["gate.json"])
    largest = plan_gate_config(target, [], "x" * room).config_map
    assert largest is not None
    for _ in range(2):
        stored = api_server.admin.apply(largest, field_manager="sidegate-operator")
    assert sum(map(len, stored["data"].values())) == MAX_CONFIG_BYTES
    too_large = plan_gate_config(target, [], "x" * (room + 1))
    assert (too_large.config_map, too_large.revision) == (None, None)
    assert "a ConfigMap holds" in too_large.findings[0].problem
