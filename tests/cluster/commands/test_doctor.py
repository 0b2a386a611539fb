"""`sidegate doctor` on an installation, whole and with a part of it missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from sidegate_operator.resources import DECISION_KEYS as KEYS
from tests.support.admission import NAMESPACE, PROTECTED, target
from tests.support.api_server import CRDS
from tests.support.installation import Installation
from tests.support.processes import wait_until

VERSION = "sidegate.dev/v1alpha1"
REGISTRATION = "admissionregistration.k8s.io/v1"
# The webhook is called by URL here, where the chart names its Service (tests.support.admission).
BY_URL = {f"{kind}/sidegate" for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")}


def report(installation: Installation, *arguments: str) -> list[dict[str, str]]:
    said = installation.sidegate("doctor", "-o", "json", *arguments)
    found: list[dict[str, str]] = json.loads(said.stdout)["checks"]
    assert said.exit_code == (1 if any(each["outcome"] == "wrong" for each in found) else 0)
    return found


def wrongs(installation: Installation, *arguments: str) -> list[dict[str, str]]:
    """What is wrong, without what only these tests' way of calling the webhook makes so."""
    found = [each for each in report(installation, *arguments) if each["outcome"] == "wrong"]
    assert all(each["wayForward"] for each in found)
    return [each for each in found if each["what"].partition(":")[0] not in BY_URL]


@pytest.fixture
def shop(installation: Installation) -> str:
    """A protected namespace with a target that the operator has seen."""
    labels = {**PROTECTED, "pod-security.kubernetes.io/enforce": "restricted"}
    namespace = installation.api.create_namespace("shop", labels)
    installation.api.admin.create(target(namespace))
    installation.api.admin.wait_for(
        VERSION,
        "ProtectedTarget",
        "shop-db",
        lambda found: bool((found.get("status") or {}).get("revision")),
        namespace=namespace,
    )
    wait_until(
        lambda: installation.sidegate("status", "shop-db", "-n", namespace, "--wait", "Compiled").exit_code == 0,
        "the target to be published",
        30,
    )
    return namespace


@contextmanager
def without(installation: Installation, version: str, kind: str, name: str, namespace: str | None = None) -> Iterator[None]:
    """One object is deleted meanwhile. What makes it again by itself is stopped by the caller."""
    admin = installation.api.admin
    before = admin.get(version, kind, name, namespace=namespace)
    admin.delete(version, kind, name, namespace=namespace)
    try:
        yield
    finally:
        metadata = {
            key: value for key, value in before["metadata"].items() if key in {"name", "namespace", "labels", "annotations"}
        }
        admin.create({**before, "metadata": metadata})
        installation.admission.wait_until_enforced()


def test_an_installation_that_is_whole_has_nothing_wrong(installation: Installation, shop: str) -> None:
    assert wrongs(installation, "-n", shop) == []
    text = installation.sidegate("doctor", "shop-db", "-n", shop).stdout
    for line in (
        "  ✓ resource protectedtargets.sidegate.dev",
        "  ✓ decisions are signed; 1 public key published",
        "  ✓ the webhook answers for pods that ask for a gate",
        "  ✓ service account sidegate-operator may do what it has to",
        "  ✓ service account sidegate-webhook may do what it has to",
        f"  ✓ namespace {shop}: exec, port-forward and the like are closed",
    ):
        assert line in text.splitlines()
    assert "  ✓ operator " in text
    assert f"  ! {shop}/shop-db: Synced is Unknown (NoGates)" in text


def test_what_is_called_by_another_address_than_the_charts_is_told(installation: Installation, shop: str) -> None:
    found = {each["what"].partition(":")[0] for each in report(installation, "-n", shop) if each["outcome"] == "wrong"}
    assert found == BY_URL


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("ValidatingAdmissionPolicy", "sidegate-decisions"),
        ("ValidatingAdmissionPolicyBinding", "sidegate-decisions"),
        ("ValidatingAdmissionPolicy", "sidegate-side-doors"),
    ],
)
def test_a_guard_that_was_deleted_is_missing(installation: Installation, shop: str, kind: str, name: str) -> None:
    with without(installation, REGISTRATION, kind, name):
        assert [each["what"] for each in wrongs(installation, "-n", shop)] == [f"{kind}/{name}: it is missing"]
    assert wrongs(installation, "-n", shop) == []


def test_a_guard_that_was_weakened_names_the_field(installation: Installation, shop: str) -> None:
    admin = installation.api.admin
    weaker = {"spec": {"validationActions": ["Warn"]}}
    admin.merge_patch(REGISTRATION, "ValidatingAdmissionPolicyBinding", "sidegate-side-doors", weaker)
    try:
        (found,) = wrongs(installation, "-n", shop)
    finally:
        admin.merge_patch(
            REGISTRATION, "ValidatingAdmissionPolicyBinding", "sidegate-side-doors", {"spec": {"validationActions": ["Deny"]}}
        )
        installation.admission.wait_until_enforced()
    assert "ValidatingAdmissionPolicyBinding/sidegate-side-doors: spec.validationActions" in found["what"]


def test_a_webhook_that_is_down_doesn_t_answer(installation: Installation, shop: str) -> None:
    with installation.admission.webhook_down():
        (found,) = wrongs(installation, "-n", shop)
    assert "no pod that asks for a gate can be made while Sidegate's webhook doesn't answer" in found["what"]


def test_a_webhook_that_isn_t_asked_is_told(installation: Installation, shop: str) -> None:
    with without(installation, REGISTRATION, "MutatingWebhookConfiguration", "sidegate"):
        wait_until(
            lambda: any("doesn't ask the webhook" in each["what"] for each in wrongs(installation, "-n", shop)),
            "the API server to forget the webhook",
            30,
        )
    wait_until(lambda: wrongs(installation, "-n", shop) == [], "the API server to ask it again", 30)


def test_an_operator_that_doesn_t_lead_is_told_by_its_lease(installation: Installation, shop: str) -> None:
    admin = installation.api.admin
    lease = admin.get("coordination.k8s.io/v1", "Lease", "sidegate-operator", namespace=NAMESPACE)
    renewed = lease["spec"]["renewTime"]
    assert renewed
    installation.operator.pause()
    try:
        admin.merge_patch(
            *("coordination.k8s.io/v1", "Lease", "sidegate-operator", {"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}}),
            namespace=NAMESPACE,
        )
        (found,) = wrongs(installation, "-n", shop)
        admin.merge_patch(
            "coordination.k8s.io/v1", "Lease", "sidegate-operator", {"spec": {"renewTime": renewed}}, namespace=NAMESPACE
        )
    finally:
        installation.operator.resume()
    assert found["what"].startswith("no operator leads: the Lease was renewed ")


def test_without_a_published_key_no_approval_is_believed(installation: Installation, shop: str) -> None:
    """The webhook publishes its key again within half a second here: what is told is told in between."""
    admin = installation.api.admin
    published = admin.get("v1", "ConfigMap", KEYS, namespace=NAMESPACE)["data"]
    nonsense = dict.fromkeys(published, "bm9uc2Vuc2U=")

    def is_told() -> bool:
        admin.merge_patch("v1", "ConfigMap", KEYS, {"data": nonsense}, namespace=NAMESPACE)
        return any("no key for decisions is published" in each["what"] for each in wrongs(installation, "-n", shop))

    try:
        wait_until(is_told, "doctor to tell of it", 60)
    finally:
        admin.merge_patch("v1", "ConfigMap", KEYS, {"data": published}, namespace=NAMESPACE)


def test_a_right_that_is_missing_is_named_with_what_it_is_for(installation: Installation, shop: str) -> None:
    with without(installation, "rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "sidegate-webhook"):
        wait_until(lambda: len(wrongs(installation, "-n", shop)) > 0, "the API server to take the right away", 30)
        found = [each["what"] for each in wrongs(installation, "-n", shop)]
    assert (
        "service account sidegate-webhook may not list accesspolicies.sidegate.dev"
        " (a target is judged together with the policies that bind it)" in found
    )


def test_a_resource_of_another_version_is_told(installation: Installation, shop: str) -> None:
    admin = installation.api.admin
    ours = yaml.safe_load((CRDS / "sidegate.dev_accesspolicies.yaml").read_text())
    other = yaml.safe_load((CRDS / "sidegate.dev_accesspolicies.yaml").read_text())
    other["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "Of another version."
    admin.apply(other)
    try:
        (found,) = wrongs(installation, "-n", shop)
    finally:
        admin.apply(ours)
    assert found["what"] == "the resource accesspolicies.sidegate.dev isn't that of this version of sidegate"


def test_a_namespace_that_isn_t_protected_has_open_side_doors(installation: Installation, namespace: str) -> None:
    admin = installation.api.admin
    admin.create(target(namespace))
    installation.sidegate("status", "shop-db", "-n", namespace, "--wait", "Compiled")
    (found,) = wrongs(installation, "-n", namespace)
    assert f"namespace {namespace} isn't protected" in found["what"]
    assert f"kubectl label namespace {namespace} sidegate.dev/protected=true" in found["wayForward"]
    admin.merge_patch(
        VERSION, "ProtectedTarget", "shop-db", {"spec": {"enforcement": {"sideDoors": "Report"}}}, namespace=namespace
    )
    installation.sidegate("status", "shop-db", "-n", namespace, "--wait", "Compiled")
    assert wrongs(installation, "-n", namespace) == []
    notes = [each["what"] for each in report(installation, "-n", namespace) if each["outcome"] == "advice"]
    assert f"namespace {namespace} admits privileged pods, which can reach into others" in notes


def test_a_target_s_object_that_was_deleted_is_missing(installation: Installation, shop: str) -> None:
    installation.operator.pause()  # it would make it again at once
    try:
        installation.api.admin.delete("networking.k8s.io/v1", "NetworkPolicy", "sidegate-shop-db", namespace=shop)
        (found,) = wrongs(installation, "-n", shop)
    finally:
        installation.operator.resume()
    assert "there is no NetworkPolicy `sidegate-shop-db`" in found["what"]
    wait_until(lambda: wrongs(installation, "-n", shop) == [], "the operator to make it again", 60)


def test_who_may_see_little_is_told_what_is_unknown(installation: Installation) -> None:
    kubeconfig = str(installation.kubeconfig("passer-by", ()))
    said = installation.sidegate("doctor", "--kubeconfig", kubeconfig)
    assert said.exit_code == 0
    assert "unknown" in said.stdout.splitlines()[-1]
    assert "✗" not in said.stdout
    assert "  ? " in said.stdout


def test_a_terminal_without_unicode_gets_words(installation: Installation, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from sidegate.cli.main import main

    environment: dict[str, Any] = {"KUBECONFIG": str(installation.api.kubeconfig), "SIDEGATE_STATE": None}
    said = CliRunner(charset="ascii", env=environment).invoke(main, ["doctor", "shop-db", "-n", shop])
    assert "  ok resource protectedtargets.sidegate.dev" in said.stdout
    assert "  WRONG " in said.stdout  # the webhook's address in these tests
    assert said.stdout.isascii()


def test_a_target_that_isn_t_there_is_named(installation: Installation, namespace: str) -> None:
    said = installation.sidegate("doctor", "nothing", "-n", namespace)
    assert said.exit_code == 1
    assert "there is no target `nothing`" in said.stderr
