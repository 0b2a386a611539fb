"""`sidegate doctor` tries doors itself: side doors as whoever runs it, ports from here and from a pod, and enters nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sidegate_operator.api_client import FIELD_MANAGER
from sidegate_operator.plan.owned import REVISION_ANNOTATION
from sidegate_operator.plan.pods import BUMP_ANNOTATION
from tests.cluster.commands.workload_objects import gated_pod
from tests.support.admission import NAMESPACE, PROTECTED, target
from tests.support.cluster_client import Object
from tests.support.host_rules import host_rules
from tests.support.installation import Installation
from tests.support.postgres_server import PostgresServer
from tests.support.processes import free_port, wait_until

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
    def seen() -> Object:
        """Without what the operator writes meanwhile: no gate answers here, so it tells the pod of its revision again and again."""
        pod = installation.api.admin.get("v1", "Pod", "shop-db-0", namespace=protected)
        metadata = pod["metadata"]
        for name in (REVISION_ANNOTATION, BUMP_ANNOTATION):
            metadata["annotations"].pop(name, None)
        others = [each for each in metadata["managedFields"] if each["manager"] != FIELD_MANAGER]
        return {**pod, "metadata": {**metadata, "resourceVersion": "", "managedFields": others}}

    before = seen()
    side_doors(installation, protected, None)
    assert seen() == before


# The database's own port. Pods have no node here, so a database on loopback is where the pod's status says that it is.


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


def up(installation: Installation, namespace: str) -> None:
    started = {"image": "x", "imageID": "x", "restartCount": 0, "state": {}, "lastState": {}, "ready": True}
    status = {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
    patch = {"status": {**status, "containerStatuses": [{**started, "name": "database"}]}}
    installation.api.admin.merge_patch("v1", "Pod", "shop-db-0", patch, namespace=namespace, subresource="status")


def found(installation: Installation, check: str, namespace: str, *arguments: str) -> list[dict[str, str]]:
    said = installation.sidegate("doctor", "shop-db", "-n", namespace, "-o", "json", *arguments)
    assert said.stdout, said.stderr
    return [each for each in json.loads(said.stdout)["checks"] if each["check"] == check]


def test_the_port_is_tried_from_here(installation: Installation, server: PostgresServer) -> None:
    namespace = shop(installation, dict(PROTECTED), port=server.port)
    assert found(installation, "ports", namespace) == [], "no pod is up, so there is nothing to try"
    up(installation, namespace)
    with host_rules(server, ["host all readonly all scram-sha-256", "host all all all reject"]):
        (told,) = found(installation, "ports", namespace)
        assert told["outcome"] == "wrong"
        assert "open door from here: " in told["what"]
        assert "as role `readonly`" in told["what"]
    with host_rules(server, ["host all all all reject"]):
        (told,) = found(installation, "ports", namespace)
        assert (told["outcome"], told["what"].partition(": ")[2]) == ("fine", "from here each of 4 ways past the gate is closed")


def test_that_nothing_answers_here_is_unknown_and_never_fine(installation: Installation) -> None:
    namespace = shop(installation, dict(PROTECTED), port=free_port())
    up(installation, namespace)
    (told,) = found(installation, "ports", namespace)
    assert told["outcome"] == "unknown"
    assert "isn't answered" in told["what"]
    assert f"sidegate doctor shop-db -n {namespace} --from-namespace" in told["wayForward"]


@contextmanager
def kubelet(installation: Installation, namespace: str, end: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[list[Any]]:
    """Whatever pod is made there has the state of `end`."""
    admin, seen, stop = installation.api.admin, list[Any](), threading.Event()

    def run() -> None:
        while not stop.wait(0.05):
            for each in admin.list("v1", "Pod", namespace=namespace)["items"]:
                if each["metadata"]["uid"] in {one["metadata"]["uid"] for one in seen}:
                    continue
                seen.append(each)
                state = {"name": "probe", "image": "x", "imageID": "x", "restartCount": 0, "ready": False, "state": end(each)}
                patch = {"status": {"phase": "Pending", "containerStatuses": [state]}}
                admin.merge_patch("v1", "Pod", each["metadata"]["name"], patch, namespace=namespace, subresource="status")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def deployment(installation: Installation) -> str:
    image = f"registry.example/operator@sha256:{'7' * 64}"
    labels = {"app": "operator"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "operator", "image": image}]}}
    metadata = {"name": "sidegate-operator", "namespace": NAMESPACE}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    installation.api.admin.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
    return image


def test_the_port_is_tried_from_a_pod_of_another_namespace_which_is_gone_afterwards(
    installation: Installation, server: PostgresServer, deployment: str
) -> None:
    namespace = shop(installation, dict(PROTECTED), port=server.port)
    up(installation, namespace)
    agents = installation.api.create_namespace("agents", {"pod-security.kubernetes.io/enforce": "restricted"})

    def run(pod: dict[str, Any]) -> dict[str, Any]:
        """The container's command, as the kubelet would start it, but for where it writes."""
        from click.testing import CliRunner

        from sidegate_operator.main import main

        (container,) = pod["spec"]["containers"]
        assert container["image"] == deployment
        done = CliRunner().invoke(main, [each for each in container["args"] if not each.startswith("--output")])
        return {"terminated": {"exitCode": done.exit_code, "message": done.stdout, "reason": "Completed"}}

    with host_rules(server, ["host all readonly all md5", "host all all all reject"]), kubelet(installation, agents, run) as seen:
        told = [each for each in found(installation, "ports", namespace, "--from-namespace", agents) if agents in each["what"]]
    assert [(each["outcome"], f"open door from namespace {agents}" in each["what"]) for each in told] == [("wrong", True)]
    (made,) = seen
    assert made["spec"]["automountServiceAccountToken"] is False
    assert installation.api.admin.list("v1", "Pod", namespace=agents)["items"] == []


def test_a_pod_that_can_t_start_is_told_with_its_reason_and_deleted(
    installation: Installation, server: PostgresServer, deployment: str
) -> None:
    namespace = shop(installation, dict(PROTECTED), port=server.port)
    up(installation, namespace)
    agents = installation.api.create_namespace("agents")
    waits = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    with kubelet(installation, agents, lambda _: waits):
        arguments = ("--from-namespace", agents, "--pod-timeout", "3")
        told = [each for each in found(installation, "ports", namespace, *arguments) if agents in each["what"]]
    assert [each["outcome"] for each in told] == ["unknown"]
    assert "ImagePullBackOff: no such image" in told[0]["what"]
    assert installation.api.admin.list("v1", "Pod", namespace=agents)["items"] == []


def test_the_database_s_own_rules_are_reviewed_as_its_superuser(installation: Installation, server: PostgresServer) -> None:
    namespace = shop(installation, dict(PROTECTED), port=server.port)
    url = f"host={server.directory} port={server.port} user=postgres"
    with host_rules(server, ["host all readonly 0.0.0.0/0 scram-sha-256"]):
        told = found(installation, "database", namespace, "--url", url)
    doors = [each["what"] for each in told if each["outcome"] == "wrong"]
    assert f"{namespace}/shop-db: the gate's role `readonly` gets in from outside by scram-sha-256: line 2" in {
        each.partition(" of `")[0] for each in doors
    }
    unreachable = found(installation, "database", namespace, "--url", f"host=127.0.0.1 port={free_port()} user=postgres")
    assert [each["outcome"] for each in unreachable] == ["unknown"]


@pytest.mark.parametrize("arguments", [["--from-namespace", "agents"], ["--url", "host=x"], ["shop-db", "--ask-password"]])
def test_options_that_go_with_others_are_asked_for(installation: Installation, arguments: list[str]) -> None:
    assert installation.sidegate("doctor", *arguments).exit_code == 2
