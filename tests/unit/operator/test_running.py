"""What of the running half needs no API server: its rights, its log, kopf's watchers, and what kopf may tell of pods."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from sidegate_operator.api_client import ApiClient
from sidegate_operator.apply import NotLeading, Writer
from sidegate_operator.clock import elapsed, now
from sidegate_operator.cluster import Cluster, slim_pod
from sidegate_operator.credentials import Credentials
from sidegate_operator.framework import missing_watchers
from sidegate_operator.lease import Election, Leadership, Terms
from sidegate_operator.logs import JsonLines, TextLines
from sidegate_operator.main import main
from sidegate_operator.permissions import CLUSTER, own_namespace
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.plan.pods import SeenPod
from sidegate_operator.plan.reconcile import Plan
from sidegate_operator.process import Operator
from sidegate_operator.resources import PODS
from sidegate_operator.settings import Settings

IMAGE = f"registry.example/gate@sha256:{'0' * 64}"
CREDENTIALS = Credentials("https://127.0.0.1:1")


def pod(version: int, **metadata: Any) -> dict[str, Any]:
    described = {"name": "shop-0", "namespace": "shop", "uid": "u", "resourceVersion": str(version), **metadata}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": described,
        "spec": {"containers": [{"name": "postgres"}]},
        "status": {},
    }


def operator() -> Operator:
    settings = Settings("sidegate-system", "test", GateSettings(IMAGE, "1"))
    client = ApiClient(CREDENTIALS)
    leadership = Leadership(client, "sidegate-system", "lease", Election("test", Terms()), elapsed, now)
    return Operator(settings, CREDENTIALS, client, leadership)


async def test_a_pod_that_loses_its_label_isnt_gone_whatever_kopf_says() -> None:
    running = operator()
    store = running.cluster.stores[PODS]
    store.seen(pod(5, labels={"sidegate.dev/target": "shop"}))
    running._heard(PODS, "DELETED", pod(6, labels={}))
    store.seen(pod(6, labels={}))  # our own watch, a moment later
    assert [each["metadata"]["labels"] for each in store.all()] == [{}]


async def test_who_doesnt_lead_writes_nothing() -> None:
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sidegate-shop", "namespace": "shop"}}
    writer = Writer(ApiClient(CREDENTIALS), Cluster("sidegate-system").stores, lambda: False, now, "test")
    with pytest.raises(NotLeading):  # and not the client's complaint that it was never opened: it isn't asked
        await writer.carry_out(Plan(apply=(wanted,)), "shop")


def test_a_slim_pod_is_the_same_to_plans() -> None:
    full = pod(1, labels={"app": "shop"}, annotations={"sidegate.dev/target": "shop", "kubectl.kubernetes.io/x": "y" * 9000})
    full["metadata"]["ownerReferences"] = [{"kind": "Job", "controller": True, "name": "j"}]
    full["spec"]["initContainers"] = [{"name": "sidegate-gate", "restartPolicy": "Always", "env": [{"name": "A", "value": "b"}]}]
    full["status"] = {"phase": "Running", "initContainerStatuses": [{"name": "sidegate-gate", "ready": True, "image": "x"}]}
    full["status"] |= {"podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}, {"ip": "fd00::3"}]}
    full["status"] |= {"containerStatuses": [{"name": "postgres", "ready": True, "restartCount": 3}]}
    slim, whole = SeenPod.from_wire(slim_pod(full)), SeenPod.from_wire(full)
    assert (slim.addresses, slim.is_up) == (whole.addresses, whole.is_up) == (("10.1.2.3", "fd00::3"), True)
    assert (slim.has_gate, slim.is_gate_ready, slim.is_of_a_job, slim.is_over, slim.asks_for, slim.labels) == (
        whole.has_gate,
        whole.is_gate_ready,
        whole.is_of_a_job,
        whole.is_over,
        whole.asks_for,
        whole.labels,
    )
    assert "y" * 9000 not in str(slim_pod(full))


def test_a_kind_that_kopf_doesnt_watch_is_named() -> None:
    names = {f"watcher for {each}.v1alpha1.sidegate.dev@None" for each in ("protectedtargets", "approvalrequests")}
    assert missing_watchers({*names, "watcher for pods.v1@None", "another task"}) == ["accesspolicies"]
    assert missing_watchers({*names, "watcher for pods.v1@None", "watcher for accesspolicies.v1alpha1.sidegate.dev@None"}) == []


def test_its_rights_are_named_one_by_one_each_with_a_reason() -> None:
    for each in (*CLUSTER, *own_namespace("sidegate-operator")):
        assert "*" not in (each.group, *each.resources, *each.verbs)
        assert len(each.reason) > 10
    assert not any("secrets" in each.resources for each in CLUSTER)
    secrets = [each for each in own_namespace("sidegate-operator") if "secrets" in each.resources]
    assert {(each.verbs, each.names) for each in secrets} == {
        (("create",), ()),  # an object has no name yet when it is asked for
        (("get", "update"), ("sidegate-gateway-certificates",)),
    }
    deleted = {resource for each in CLUSTER if "delete" in each.verbs for resource in each.resources}
    assert deleted & {"pods", "protectedtargets", "accesspolicies"} == set()


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
def test_words_of_others_make_no_line_of_their_own(formatter: logging.Formatter) -> None:
    record = logging.LogRecord(
        "x", logging.WARNING, __file__, 1, "it said: %s", ("a\n2026-01-01T00:00:00Z info forged\x1b[2K",), None
    )
    assert "\n" not in formatter.format(record)
    assert "\x1b" not in formatter.format(record)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gate-image", "registry.example/gate:latest"], "isn't pinned"),
        (["--gate-image", IMAGE, "--health", "nowhere"], "isn't an address"),
        (["--gate-image", IMAGE, "--kubeconfig", "/nowhere"], "can't be read"),
        (["--gate-image", IMAGE], "runs in no cluster"),
    ],
)
def test_what_it_cant_start_with_is_said_with_the_fix(arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    monkeypatch.setattr(root, "level", root.level)
    done = CliRunner().invoke(main, ["run", *arguments])
    logging.captureWarnings(False)
    assert done.exit_code == 2
    assert words in done.output
    assert "; fix: " in done.output


def test_admission_is_a_command_of_the_operator_that_loads_no_kopf() -> None:
    script = (
        "import sys; from sidegate_operator.main import main; main(['webhook', '--help'], standalone_mode=False);"
        " sys.exit('kopf' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (shown.returncode, "sidegate-operator webhook --gate-image" in shown.stdout) == (0, True), shown
