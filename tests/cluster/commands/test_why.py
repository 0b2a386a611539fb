"""`sidegate why` for each cause, on pods of a real API server with the real webhook."""

from __future__ import annotations

import calendar
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.commands.workload_objects import gated_pod, of, stateful_set
from tests.support.admission import NAMESPACE, PROTECTED, plain_pod, target
from tests.support.cluster_client import Object
from tests.support.installation import Installation
from tests.support.processes import wait_until

REGISTRATION = "admissionregistration.k8s.io/v1"


class Shop:
    """One namespace, and the answers about its pods."""

    def __init__(self, installation: Installation, namespace: str) -> None:
        self.installation, self.namespace, self.admin = installation, namespace, installation.api.admin

    def why(self, pod: str = "shop-db-0", *more: str) -> tuple[int, str, str, str]:
        """Exit status, reason, what is wrong, what to do."""
        said = self.installation.sidegate("why", pod, "-n", self.namespace, "-o", "json", *more)
        answer = json.loads(said.stdout)
        return said.exit_code, answer["reason"], answer["problem"], answer["wayForward"]

    def create_ungated_pod(self, pod: Object) -> Object:
        """As while Sidegate wasn't there: nobody asked the webhook."""
        with without_webhook(self.installation):
            return self.admin.create(pod)


@contextmanager
def without_webhook(installation: Installation) -> Iterator[None]:
    admin = installation.api.admin
    configuration = admin.get(REGISTRATION, "MutatingWebhookConfiguration", "sidegate")
    admin.delete(REGISTRATION, "MutatingWebhookConfiguration", "sidegate")
    probe = installation.api.create_namespace()
    path = f"/api/v1/namespaces/{probe}/pods"

    def is_asked() -> bool:
        try:
            admin.request("POST", path, gated_pod(probe), query={"dryRun": "All"})
        except Exception:
            return True
        return False

    wait_until(lambda: not is_asked(), "the API server to forget the webhook", 30)
    try:
        yield
    finally:
        kept = {"name": "sidegate", "labels": configuration["metadata"]["labels"]}
        admin.create({**configuration, "metadata": kept})
        wait_until(is_asked, "the API server to ask the webhook again", 30)


@pytest.fixture
def shop(installation: Installation, namespace: str) -> Shop:
    return Shop(installation, namespace)


@pytest.fixture
def with_target(shop: Shop) -> Shop:
    shop.admin.create(target(shop.namespace))
    return shop


def test_a_gated_pod_has_its_gate(with_target: Shop) -> None:
    with_target.admin.create(gated_pod(with_target.namespace))
    status, reason, problem, _ = with_target.why()
    assert (status, reason) == (0, "Injected")
    assert "a gate of target `shop-db`" in problem
    text = with_target.installation.sidegate("why", "shop-db-0", "-n", with_target.namespace).stdout
    assert text.startswith(f"{with_target.namespace}/shop-db-0  has its gate: Injected\n  why        it has a gate")


def test_a_pod_that_no_target_selects_needs_none(with_target: Shop) -> None:
    with_target.admin.create(plain_pod(with_target.namespace, "web"))
    status, reason, problem, _ = with_target.why("web")
    assert (status, reason) == (0, "NoTarget")
    assert "it asks for none" in problem


def test_a_selected_pod_without_the_annotation_is_silent(with_target: Shop) -> None:
    pod = gated_pod(with_target.namespace)
    pod["metadata"]["annotations"] = {}
    with_target.admin.create(pod)
    status, reason, problem, way_forward = with_target.why()
    assert (status, reason) == (3, "SelectedButSilent")
    assert "target `shop-db` selects it" in problem
    assert way_forward == "sidegate protect KIND/NAME --target shop-db"


def test_a_pod_older_than_its_owners_annotation_waits_for_the_rollout(with_target: Shop) -> None:
    pod = gated_pod(with_target.namespace)
    owner = with_target.admin.create(stateful_set(with_target.namespace, pod))
    pod["metadata"]["annotations"] = {}
    with_target.admin.create(of(owner, pod))
    status, reason, problem, way_forward = with_target.why()
    assert (status, reason) == (3, "OlderThanTemplate")
    assert "StatefulSet `shop-db` asks for target `shop-db` by now" in problem
    assert "kubectl rollout restart statefulset/shop-db" in way_forward


def test_an_annotation_on_the_workload_instead_of_its_template_is_found(with_target: Shop) -> None:
    pod = gated_pod(with_target.namespace)
    pod["metadata"]["annotations"] = {}
    wanted = stateful_set(with_target.namespace, pod)
    wanted["metadata"]["annotations"] = {"sidegate.dev/target": "shop-db"}
    owner = with_target.admin.create(wanted)
    with_target.admin.create(of(owner, pod))
    status, reason, _, way_forward = with_target.why()
    assert (status, reason) == (3, "AnnotationMisplaced")
    assert "spec.template.metadata.annotations: sidegate protect statefulset/shop-db --target shop-db" in way_forward


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "host network": ({"hostNetwork": True}, "HostNetwork"),
    "shared processes": ({"shareProcessNamespace": True}, "SharedProcesses"),
    "the gate's user": ({"securityContext": {"runAsUser": 64801}}, "SameUser"),
}


@pytest.mark.parametrize(("spec", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_pod_in_the_gates_way_has_the_reason_of_injection(with_target: Shop, spec: dict[str, Any], reason: str) -> None:
    pod = gated_pod(with_target.namespace)
    pod["spec"].update(spec)
    with_target.create_ungated_pod(pod)
    assert with_target.why()[:2] == (3, reason)


def test_a_pod_whose_target_is_missing_has_the_reason_of_injection(shop: Shop) -> None:
    shop.create_ungated_pod(gated_pod(shop.namespace))
    status, reason, problem, way_forward = shop.why()
    assert (status, reason) == (3, "TargetNotFound")
    assert "there is no ProtectedTarget `shop-db`" in problem
    assert way_forward.startswith("create the ProtectedTarget first")


def test_a_workload_whose_pods_are_refused_is_told_why_though_there_is_no_pod(shop: Shop) -> None:
    shop.admin.create(stateful_set(shop.namespace, gated_pod(shop.namespace)))
    assert shop.why("statefulset/shop-db")[:2] == (3, "TargetNotFound")
    status, reason, problem, _ = shop.why("shop-db-0")
    assert (status, reason) == (3, "TargetNotFound")
    assert problem.startswith("StatefulSet `shop-db` can't make it: there is no ProtectedTarget")
    shop.admin.create(target(shop.namespace))
    assert shop.why("sts/shop-db")[:2] == (0, "WouldBeInjected")
    assert shop.why("shop-db-0")[:2] == (3, "NotMade")


def test_a_pod_older_than_its_target_has_to_be_made_again(shop: Shop) -> None:
    shop.create_ungated_pod(gated_pod(shop.namespace))
    born = shop.admin.get("v1", "Pod", "shop-db-0", namespace=shop.namespace)["metadata"]["creationTimestamp"]
    wait_until(lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) > born, "the next second", 5)
    shop.admin.create(target(shop.namespace))
    status, reason, _, way_forward = shop.why()
    assert (status, reason) == (3, "OlderThanTarget")
    assert "kubectl delete pod shop-db-0" in way_forward


def test_a_pod_older_than_the_webhook_has_to_be_made_again(with_target: Shop) -> None:
    with without_webhook(with_target.installation):
        with_target.admin.create(gated_pod(with_target.namespace))
        born = with_target.admin.get("v1", "Pod", "shop-db-0", namespace=with_target.namespace)["metadata"]["creationTimestamp"]
        wait_until(lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) > born, "the next second", 5)
    assert with_target.why()[:2] == (3, "OlderThanWebhook")


def test_a_pod_annotated_after_it_was_made_is_told_that_gates_come_with_the_pod(with_target: Shop) -> None:
    pod = gated_pod(with_target.namespace)
    pod["metadata"]["annotations"] = {}
    born = with_target.admin.create(pod)["metadata"]["creationTimestamp"]
    wait_until(lambda: seconds_since(born) > 2, "times that are told apart, which are whole seconds", 5)
    patch = {"metadata": {"annotations": {"sidegate.dev/target": "shop-db"}}}
    with_target.admin.merge_patch("v1", "Pod", "shop-db-0", patch, namespace=with_target.namespace)
    assert with_target.why()[:2] == (3, "AnnotatedLater")


def seconds_since(moment: str) -> float:
    return time.time() - calendar.timegm(time.strptime(moment, "%Y-%m-%dT%H:%M:%SZ"))  # noqa: TID251 - the API server reads this clock


def test_while_the_webhook_is_down_the_pod_waits_for_it(with_target: Shop) -> None:
    with_target.create_ungated_pod(gated_pod(with_target.namespace))
    with with_target.installation.admission.webhook_down():
        status, reason, problem, _ = with_target.why()
    assert (status, reason) == (3, "WebhookDown")
    assert "webhook doesn't answer" in problem


def test_without_the_webhook_configuration_nobody_adds_gates(with_target: Shop) -> None:
    with without_webhook(with_target.installation):
        with_target.admin.create(gated_pod(with_target.namespace))
        status, reason, _, way_forward = with_target.why()
    assert (status, reason) == (3, "WebhookMissing")
    assert "helm upgrade" in way_forward


def test_a_job_needs_no_gate(with_target: Shop) -> None:
    pod = gated_pod(with_target.namespace)
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "dump", "uid": "0-1"}}
    with_target.admin.create(of(job, pod))
    assert with_target.why()[:2] == (0, "Job")


def test_a_pod_that_opted_out_needs_no_gate(shop: Shop) -> None:
    shop.admin.create(target(shop.namespace, enforcement={"allowOptOut": True}))
    pod = gated_pod(shop.namespace)
    pod["metadata"]["labels"]["sidegate.dev/inject"] = "false"
    shop.admin.create(pod)
    assert shop.why()[:2] == (0, "OptedOut")


@pytest.fixture
def protected(installation: Installation) -> Shop:
    return Shop(installation, installation.api.create_namespace(labels=PROTECTED))


def as_a_developer(shop: Shop) -> str:
    """May make pods, and has no bypass."""
    verbs = ["get", "list", "create"]
    return kubeconfig_with(shop, "dev", sidegate=["protectedtargets"], core=["pods"], apps=["statefulsets"], verbs=verbs)


def test_a_template_that_opts_out_in_a_protected_namespace_is_told_that_its_pods_are_refused(protected: Shop) -> None:
    protected.admin.create(target(protected.namespace, enforcement={"allowOptOut": True}))
    pod = gated_pod(protected.namespace)
    pod["metadata"]["labels"]["sidegate.dev/inject"] = "false"
    protected.admin.create(stateful_set(protected.namespace, pod))
    status, reason, problem, way_forward = protected.why("sts/shop-db", "--kubeconfig", as_a_developer(protected))
    assert (status, reason) == (3, "Refused")
    assert problem.endswith(" is protected")
    assert way_forward.startswith("take the label sidegate.dev/inject out of the workload's pod template")


def test_a_selected_template_that_is_silent_in_a_protected_namespace_is_told_that_its_pods_are_refused(protected: Shop) -> None:
    protected.admin.create(target(protected.namespace))
    pod = gated_pod(protected.namespace)
    pod["metadata"]["annotations"] = {}
    protected.admin.create(stateful_set(protected.namespace, pod))
    kubeconfig = as_a_developer(protected)
    refused = "target `shop-db` selects it by its labels, and it has no annotation `sidegate.dev/target` that asks for the gate; made now it would be refused"
    wait_until(lambda: protected.why("sts/shop-db", "--kubeconfig", kubeconfig)[2] == refused, "the guard to know the target")
    status, reason, _, way_forward = protected.why("sts/shop-db", "--kubeconfig", kubeconfig)
    assert (status, reason) == (3, "SelectedButSilent")
    assert way_forward == "sidegate protect statefulset/shop-db --target shop-db"


def test_pods_of_sidegates_own_namespace_get_no_gate(installation: Installation) -> None:
    own = Shop(installation, NAMESPACE)
    own.admin.create(gated_pod(NAMESPACE))
    try:
        status, reason, _, _ = own.why()
    finally:
        own.admin.delete("v1", "Pod", "shop-db-0", namespace=NAMESPACE, grace_s=0)
    assert (status, reason) == (3, "NamespaceExcluded")


def test_what_makes_no_pod_is_said_so(shop: Shop) -> None:
    assert shop.why("nothing")[:2] == (3, "NotMade")
    said = shop.installation.sidegate("why", "service/shop-db", "-n", shop.namespace)
    assert said.exit_code == 2
    assert "no kind that makes pods" in said.stderr


def kubeconfig_with(
    shop: Shop, user: str, *, sidegate: list[str], core: list[str], verbs: list[str], apps: Sequence[str] = ()
) -> str:
    """Of somebody who may do these things in the namespace, and nothing else."""
    group = "rbac.authorization.k8s.io"
    metadata = {"name": user, "namespace": shop.namespace}
    granted = {"sidegate.dev": sidegate, "": core, "apps": list(apps)}
    rules = [{"apiGroups": [name], "resources": kinds, "verbs": verbs} for name, kinds in granted.items() if kinds]
    shop.admin.create({"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules})
    subject = {"kind": "User", "name": user, "apiGroup": group}
    reference = {"apiGroup": group, "kind": "Role", "name": user}
    binding = {"kind": "RoleBinding", "metadata": metadata, "roleRef": reference, "subjects": [subject]}
    shop.admin.create({"apiVersion": f"{group}/v1", **binding})
    return str(shop.installation.kubeconfig(user, ()))


def test_who_may_not_make_pods_still_gets_an_answer(with_target: Shop) -> None:
    with_target.create_ungated_pod(gated_pod(with_target.namespace))
    kubeconfig = kubeconfig_with(with_target, "lo", sidegate=["protectedtargets"], core=["pods"], verbs=["get", "list"])
    assert with_target.why("shop-db-0", "--kubeconfig", kubeconfig)[:2] == (3, "WebhookNotAsked")
