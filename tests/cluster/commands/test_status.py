"""`sidegate status` of what a running operator observes."""

from __future__ import annotations

import json
import threading

import pytest

from tests.support.admission import OPERATOR, policy, request_of, target
from tests.support.installation import Installation

VERSION = "sidegate.dev/v1alpha1"


@pytest.fixture
def shop(installation: Installation, namespace: str) -> str:
    """A namespace with a target and a policy, which the operator has seen."""
    admin = installation.api.admin
    admin.create(target(namespace))
    admin.create(policy(namespace))
    admin.wait_for(
        VERSION,
        "ProtectedTarget",
        "shop-db",
        lambda found: (found.get("status") or {}).get("policiesCount") == 1,
        namespace=namespace,
    )
    return namespace


def test_the_table_has_a_line_for_each_target(installation: Installation, shop: str) -> None:
    said = installation.sidegate("status", "-n", shop)
    assert said.exit_code == 0, said.stderr
    heads, line = said.stdout.splitlines()
    assert heads.split() == ["TARGET", "READY", "GATES", "REVISION", "PENDING", "FINDINGS", "NOT", "TRUE"]
    assert line.split()[:3] == ["shop-db", "Unknown", "0/0/0"]
    assert line.endswith("Synced: NoGates, Enforced: NoPods")
    assert f"{shop}  " in installation.sidegate("status", "-A").stdout


def test_one_target_is_shown_with_all_that_is_known(installation: Installation, shop: str) -> None:
    name = installation.api.admin.acting_as(OPERATOR).create(request_of(shop))["metadata"]["name"]
    said = installation.sidegate("status", "shop-db", "-n", shop)
    assert said.exit_code == 0, said.stderr
    assert f"{shop}/shop-db  ready: Unknown (Waiting)" in said.stdout
    assert "  Compiled   True (Compiled)" in said.stdout
    assert "  policies   assistants" in said.stdout
    assert f"  pending    {name} by ann@example.com: ALTER TABLE prod.ledger ADD COLUMN note text" in said.stdout


def test_json_is_what_the_api_server_has(installation: Installation, shop: str) -> None:
    one = json.loads(installation.sidegate("status", "shop-db", "-n", shop, "-o", "json").stdout)
    assert (one["kind"], one["metadata"]["name"], one["status"]["policiesCount"]) == ("ProtectedTarget", "shop-db", 1)
    all_of_them = json.loads(installation.sidegate("status", "-n", shop, "-o", "json").stdout)
    assert [each["metadata"]["name"] for each in all_of_them["items"]] == ["shop-db"]


def test_wait_ends_when_the_condition_comes_true(installation: Installation, namespace: str) -> None:
    made = threading.Timer(0.5, installation.api.admin.create, [target(namespace)])
    made.start()
    said = installation.sidegate("status", "-n", namespace, "--wait", "Compiled", "--timeout", "30")
    made.join()
    assert said.exit_code == 0, said.stderr
    assert "shop-db" in said.stdout


def test_wait_that_ends_in_time_says_what_didn_t_come_true(installation: Installation, shop: str) -> None:
    said = installation.sidegate("status", "shop-db", "-n", shop, "--wait", "Ready", "--timeout", "0")
    assert said.exit_code == 1
    assert "Ready isn't True after 0 s" in said.stderr
    assert "Synced     Unknown (NoGates)" in said.stdout


def test_watch_shows_each_change_until_what_is_waited_for(installation: Installation, namespace: str) -> None:
    """A target with a policy that can't be bound as it wants compiles once the role is there."""
    admin = installation.api.admin
    admin.create(policy(namespace, role="nobody-has-it"))  # before the target, whose roles it would be compared with
    admin.create(target(namespace))
    admin.wait_for(
        VERSION,
        "ProtectedTarget",
        "shop-db",
        lambda found: any(each["reason"] == "PolicyInvalid" for each in (found.get("status") or {}).get("conditions", ())),
        namespace=namespace,
    )
    mended = threading.Timer(1.0, admin.apply, [policy(namespace)])
    mended.start()
    said = installation.sidegate("status", "-n", namespace, "--watch", "--wait", "Compiled", "--timeout", "60")
    mended.join()
    assert said.exit_code == 0, said.stderr
    first, *_, last = said.stdout.split("\n\n")
    assert "Compiled: PolicyInvalid" in first
    assert "1 error" in first
    assert "Compiled:" not in last


def test_a_target_that_isn_t_there_is_named(installation: Installation, namespace: str) -> None:
    said = installation.sidegate("status", "nothing", "-n", namespace)
    assert said.exit_code == 1
    assert f"there is no target `nothing` in namespace `{namespace}`" in said.stderr
    assert "there are no targets in namespace" in installation.sidegate("status", "-n", namespace).stderr


def test_a_reader_of_targets_alone_sees_what_they_may(installation: Installation, shop: str) -> None:
    admin = installation.api.admin
    group = "rbac.authorization.k8s.io"
    metadata = {"name": "reader", "namespace": shop}
    rules = [{"apiGroups": ["sidegate.dev"], "resources": ["protectedtargets"], "verbs": ["get", "list"]}]
    admin.create({"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules})
    reference = {"apiGroup": group, "kind": "Role", "name": "reader"}
    subjects = [{"kind": "User", "name": "ro", "apiGroup": group}]
    admin.create(
        {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": metadata, "roleRef": reference, "subjects": subjects}
    )
    kubeconfig = str(installation.kubeconfig("ro", ()))
    said = installation.sidegate("status", "-n", shop, "--kubeconfig", kubeconfig)
    assert said.exit_code == 0, said.stderr
    assert said.stdout.splitlines()[1].split()[4:6] == ["?", "?"]
