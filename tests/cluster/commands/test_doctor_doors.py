"""`sidegate doctor` tries the side doors itself, as whoever runs it, and enters nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.commands.workload_objects import gated_pod
from tests.support.admission import PROTECTED, target
from tests.support.installation import Installation
from tests.support.processes import wait_until

ALL = ["exec", "attach", "port-forward", "proxy to pods", "proxy to services", "ephemeral containers"]
RBAC = "rbac.authorization.k8s.io"


def side_doors(installation: Installation, namespace: str, user: str | None) -> list[dict[str, str]]:
    said = installation.sidegate("doctor", "shop-db", "-n", namespace, "-o", "json", user=user)
    return [each for each in json.loads(said.stdout)["checks"] if each["check"] == "side doors"]


def shop(installation: Installation, labels: dict[str, str], **spec: Any) -> str:
    namespace = installation.api.create_namespace("shop", labels)
    installation.api.admin.create(target(namespace, **spec))
    installation.sidegate("status", "shop-db", "-n", namespace, "--wait", "Compiled")
    installation.api.admin.create(gated_pod(namespace))
    return namespace


@contextmanager
def granted(installation: Installation, namespace: str, user: str, *rules: dict[str, Any]) -> Iterator[None]:
    admin, metadata = installation.api.admin, {"name": user, "namespace": namespace}
    subject = {"kind": "User", "name": user, "apiGroup": RBAC}
    admin.apply({"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": list(rules)})
    reference = {"apiGroup": RBAC, "kind": "Role", "name": user}
    admin.apply(
        {"apiVersion": f"{RBAC}/v1", "kind": "RoleBinding", "metadata": metadata, "roleRef": reference, "subjects": [subject]}
    )
    yield
    admin.delete(f"{RBAC}/v1", "RoleBinding", user, namespace=namespace)


@pytest.fixture(scope="module")
def protected(installation: Installation) -> str:
    return shop(installation, dict(PROTECTED))


def test_in_a_protected_namespace_each_side_door_is_refused_to_who_has_every_other_right(
    installation: Installation, protected: str
) -> None:
    found = side_doors(installation, protected, "eve")
    assert {each["outcome"] for each in found} == {"fine"}
    by_guard = {each["what"].partition(" by ")[2].partition(": ")[0]: each["what"].rpartition(": ")[2] for each in found}
    assert by_guard == {"guard sidegate-side-doors": ", ".join(ALL[:-1]), "guard sidegate-gated-pods": ALL[-1]}


def test_without_the_label_they_are_open_and_wrong_and_a_gated_pod_gets_no_container_all_the_same(
    installation: Installation,
) -> None:
    namespace = shop(installation, {})
    found = {each["outcome"]: each for each in side_doors(installation, namespace, "eve")}
    assert set(found) == {"wrong", "fine"}
    assert ", ".join(ALL[:-1]) in found["wrong"]["what"]
    assert f"kubectl label namespace {namespace} sidegate.dev/protected=true" in found["wrong"]["wayForward"]
    assert "guard sidegate-gated-pods: ephemeral containers" in found["fine"]["what"]


def test_where_the_target_only_reports_them_an_open_one_is_noted(installation: Installation) -> None:
    namespace = shop(installation, {}, enforcement={"sideDoors": "Report"})
    assert {each["outcome"] for each in side_doors(installation, namespace, "eve")} == {"advice", "fine"}


def test_who_may_bypass_the_guards_is_told_so(installation: Installation, protected: str) -> None:
    (found,) = side_doors(installation, protected, None)  # a cluster administrator
    assert found["outcome"] == "advice"
    assert f"open to you: {', '.join(ALL)}: you have the verb bypass" in found["what"]


def test_what_rbac_keeps_out_is_told_as_that(installation: Installation, protected: str) -> None:
    reads = {"apiGroups": ["sidegate.dev"], "resources": ["protectedtargets"], "verbs": ["get"]}
    pods = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    executes = {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get"], "resourceNames": ["shop-db-0"]}
    kubeconfig = str(installation.kubeconfig("reader", ()))

    def found() -> list[str]:
        said = installation.sidegate("doctor", "shop-db", "-n", protected, "-o", "json", "--kubeconfig", kubeconfig)
        return [each["what"] for each in json.loads(said.stdout or '{"checks": []}')["checks"] if each["check"] == "side doors"]

    with granted(installation, protected, "reader", reads, pods, executes):
        wanted = [
            f"{protected}/shop-db: refused to you by guard sidegate-side-doors: exec",
            f"{protected}/shop-db: RBAC doesn't let you: {', '.join(ALL[1:])}",
        ]
        wait_until(lambda: found() == wanted, "RBAC to grant it", 30)


def test_nothing_is_entered_or_changed(installation: Installation, protected: str) -> None:
    before = installation.api.admin.get("v1", "Pod", "shop-db-0", namespace=protected)
    side_doors(installation, protected, None)
    assert installation.api.admin.get("v1", "Pod", "shop-db-0", namespace=protected) == before
