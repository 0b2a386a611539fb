"""What the chart installs: confined processes with options that exist, and names that guards and certificates are bound to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import pytest

from sidegate_operator.main import main
from sidegate_operator.roles import WEBHOOK_CERTIFICATES, WEBHOOK_CONFIGURATIONS
from sidegate_operator.webhook.certificates import Places
from sidegate_operator.webhook.decide_approval import operator_account
from sidegate_operator.webhook.guards import admission_objects, guards_in_place
from tests.support.chart import EVERYTHING, NAMESPACE, container, named, of_kind, rendered
from tests.support.pod_security import restricted_problems
from tests.support.running_operator import ENVIRONMENT
from tools.write_chart import definition, stale_files

VARIANTS: Mapping[str, Mapping[str, Any]] = {"least": {}, "everything": EVERYTHING}
COMPONENTS = ("operator", "webhook")


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS, scope="module")
def objects(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return rendered(request.param)


def test_the_templates_made_from_code_are_current() -> None:
    assert stale_files() == []


@pytest.mark.parametrize("text", ["# by\nmetadata:\n  name: b\n", "# by\nmetadata:\n  name: a\nspec: '{{ x }}'\n", "# by\n"])
def test_a_definition_that_helm_would_read_differently_is_not_written(text: str) -> None:
    with pytest.raises(ValueError, match="crds of a"):
        definition(text, "a")


@pytest.mark.parametrize("component", COMPONENTS)
def test_pods_pass_pod_security_restricted(objects: list[dict[str, Any]], component: str) -> None:
    spec = named(objects, "Deployment", f"sidegate-{component}")["spec"]["template"]["spec"]
    assert restricted_problems(spec) == []
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["securityContext"]["runAsUser"] != 64801  # a gate's


@pytest.mark.parametrize("component", COMPONENTS)
def test_pods_have_bounds_probes_and_one_account(objects: list[dict[str, Any]], component: str) -> None:
    spec = named(objects, "Deployment", f"sidegate-{component}")["spec"]["template"]["spec"]
    made = container(objects, component)
    assert {"cpu", "memory"} <= {*made["resources"]["requests"]}
    assert "memory" in made["resources"]["limits"]
    assert {"livenessProbe", "readinessProbe"} <= {*made}
    assert spec["serviceAccountName"] == f"sidegate-{component}"


@pytest.mark.parametrize("component", COMPONENTS)
def test_two_replicas_keep_apart_and_one_stays_while_nodes_are_drained(objects: list[dict[str, Any]], component: str) -> None:
    deployment = named(objects, "Deployment", f"sidegate-{component}")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    budget = named(objects, "PodDisruptionBudget", f"sidegate-{component}")["spec"]
    assert deployment["spec"]["replicas"] == 2
    assert budget["minAvailable"] == 1
    assert budget["selector"] == deployment["spec"]["selector"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (term,) = deployment["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"].values()
    found = term[0].get("podAffinityTerm", term[0])
    assert found["labelSelector"] == deployment["spec"]["selector"]
    assert found["topologyKey"] == "kubernetes.io/hostname"


def test_the_operator_runs_in_the_environment_that_it_is_measured_in(objects: list[dict[str, Any]]) -> None:
    assert {each["name"]: each["value"] for each in container(objects, "operator")["env"]} == ENVIRONMENT


def test_a_single_replica_has_no_budget_that_would_stop_a_drain() -> None:
    objects = rendered({"operator": {"replicas": 1}, "webhook": {"replicas": 1}})
    assert of_kind(objects, "PodDisruptionBudget") == []


def test_the_webhook_is_not_evicted_for_others() -> None:
    assert named(rendered(), "Deployment", "sidegate-webhook")["spec"]["template"]["spec"]["priorityClassName"] == (
        "system-cluster-critical"
    )


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_the_processes_know_their_options(values: Mapping[str, Any], component: str, tmp_path: Any) -> None:
    authority = tmp_path / "ca.crt"
    authority.touch()
    name, *options = container(rendered(values), component)["args"]
    options = [each.replace("/etc/sidegate/client-authority/ca.crt", str(authority)) for each in options]
    command = main.commands[name]
    command.make_context(name, options, parent=click.Context(main))  # raises for what it doesn't know


def test_names_in_the_chart_are_those_that_the_code_relies_on() -> None:
    objects = rendered()
    account = named(objects, "ServiceAccount", "sidegate-operator")["metadata"]
    assert operator_account(NAMESPACE) == f"system:serviceaccount:{account['namespace']}:{account['name']}"
    places = Places(NAMESPACE, WEBHOOK_CERTIFICATES, ())
    assert {name for _, name in places.configurations} == {WEBHOOK_CONFIGURATIONS}
    defaults = {each.name: each.default for each in main.commands["webhook"].params}
    assert defaults["secret"] == WEBHOOK_CERTIFICATES
    named(objects, "Service", str(defaults["service"]))
    assert {each.name: each.default for each in main.commands["run"].params}["lease"] == "sidegate-operator"


@pytest.mark.parametrize("namespace", [NAMESPACE, "other"])
def test_admission_is_installed_as_the_operator_wants_to_find_it(namespace: str) -> None:
    objects = rendered(namespace=namespace)
    assert guards_in_place(objects, namespace) == ()
    wanted = {(each["kind"], each["metadata"]["name"]) for each in admission_objects(namespace)}
    groups = [each for each in objects if each["apiVersion"].startswith("admissionregistration")]
    assert {(each["kind"], each["metadata"]["name"]) for each in groups} == wanted


def test_the_webhooks_service_leads_to_its_container(objects: list[dict[str, Any]]) -> None:
    service = named(objects, "Service", "sidegate-webhook")["spec"]
    (port,) = service["ports"]
    (opened,) = container(objects, "webhook")["ports"]
    called = {hook["clientConfig"]["service"]["port"] for each in objects for hook in each.get("webhooks", ())}
    assert (port["targetPort"], {port["port"]}) == (opened["name"], called)
    assert service["selector"] == named(objects, "Deployment", "sidegate-webhook")["spec"]["selector"]["matchLabels"]


def test_gates_find_every_replica_of_the_operator() -> None:
    objects = rendered({"gateway": {"enabled": True, "port": 9444}})
    service = named(objects, "Service", "sidegate-gateway")["spec"]
    assert service["clusterIP"] == "None"
    assert service["selector"] == named(objects, "Deployment", "sidegate-operator")["spec"]["selector"]["matchLabels"]
    url = f"https://sidegate-gateway.{NAMESPACE}.svc:9444"
    assert f"--gateway-url={url}" in container(objects, "operator")["args"]
    assert f"--gateway={url}" in container(objects, "webhook")["args"]
    policy = named(objects, "NetworkPolicy", "sidegate-operator")["spec"]
    assert {"ports": [{"port": "gateway", "protocol": "TCP"}], "from": [{"namespaceSelector": {}}]} in policy["ingress"]


def test_definitions_are_upgraded_and_never_removed() -> None:
    definitions = of_kind(rendered(), "CustomResourceDefinition")
    assert len(definitions) == 3
    assert [each["metadata"]["annotations"]["helm.sh/resource-policy"] for each in definitions] == ["keep"] * 3
    assert of_kind(rendered({"crds": {"install": False}}), "CustomResourceDefinition") == []


def test_nothing_is_let_in_but_what_is_needed() -> None:
    ingress = {
        each["metadata"]["name"]: each["spec"]["ingress"]
        for each in of_kind(rendered({"gateway": {"enabled": False}}), "NetworkPolicy")
    }
    assert ingress == {"sidegate-operator": [], "sidegate-webhook": [{"ports": [{"port": "webhook", "protocol": "TCP"}]}]}
    narrow = named(rendered(EVERYTHING), "NetworkPolicy", "sidegate-webhook")["spec"]
    assert narrow["ingress"][0]["from"][0] == {"ipBlock": {"cidr": "10.0.0.1/32"}}
    assert narrow["egress"][1]["to"] == [{"ipBlock": {"cidr": "10.0.0.1/32"}}]


def test_no_policy_cuts_the_operators_probes_off() -> None:
    """A door that they can't reach looks closed, while others find it open."""
    assert named(rendered(EVERYTHING), "NetworkPolicy", "sidegate-operator")["spec"]["policyTypes"] == ["Ingress"]


def test_every_object_says_what_it_is_part_of(objects: list[dict[str, Any]]) -> None:
    assert {each["metadata"].get("labels", {}).get("app.kubernetes.io/part-of") for each in objects} == {"sidegate"}


def test_no_object_of_the_chart_looks_like_one_that_the_operator_made(objects: list[dict[str, Any]]) -> None:
    """By that label it finds what it may change and remove."""
    assert all(each["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by") != "sidegate" for each in objects)
