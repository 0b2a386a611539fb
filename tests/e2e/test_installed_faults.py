"""What fails on a cluster in use: the webhook is gone, a leader is killed while psql waits, a template loses its annotation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

import pytest

from tests.e2e.installed_shop import PODS, PROTECTED, InstalledShop, installed_shop
from tests.e2e.shop import GATE, POD
from tests.support.chart import NAMESPACE as SIDEGATE
from tests.support.cluster_client import ApiError
from tests.support.cluster_node import Cluster, ClusterImage
from tests.support.processes import wait_until

NUMBERS: Final = (0, 1)


@pytest.fixture(scope="module")
def installed(
    cluster: Cluster, images: Mapping[str, ClusterImage], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InstalledShop]:
    with installed_shop(cluster, images, tmp_path_factory.mktemp("helm")) as made:
        yield made


def test_the_leader_is_killed_while_psql_waits_and_the_other_releases_it(
    installed: InstalledShop, figures: dict[str, float]
) -> None:
    """Which replica the gate waits at isn't chosen here: it may be either, and what waits must not notice."""
    leader = installed.leader()
    killed = next(pod["metadata"]["name"] for pod in installed.pods_of("operator") if pod["metadata"]["name"] in leader)
    with installed.held("DELETE FROM customers WHERE id = 2") as psql:
        installed.cluster.client.delete("v1", "Pod", killed, namespace=SIDEGATE, grace_s=0)
        assert psql.process.poll() is None
        installed.decide(psql.request)
        said = psql.finish()
    assert "DELETE 1" in said, said
    assert installed.phase(psql.request) == "Executed"
    wait_until(lambda: installed.leader() not in ("", leader), "the other to lead", 60, 0.1)
    installed.wait_until_running("operator")


def test_both_replicas_are_killed_while_psql_waits_and_it_waits_on(installed: InstalledShop) -> None:
    with installed.held("DELETE FROM customers WHERE id = 2", pod=1) as psql:
        for pod in installed.pods_of("operator"):
            installed.cluster.client.delete("v1", "Pod", pod["metadata"]["name"], namespace=SIDEGATE, grace_s=0)
        installed.wait_until_running("operator")
        assert psql.process.poll() is None
        installed.decide(psql.request)
        said = psql.finish(120)
    assert "DELETE 1" in said, said


def test_without_the_webhook_protected_pods_wait_and_others_start(installed: InstalledShop) -> None:
    client = installed.cluster.client
    gone = installed.pod(0)["metadata"]["uid"]
    installed.scale("webhook", 0)
    try:
        wait_until(lambda: not installed.pods_of("webhook"), "the webhook's pods to be gone", 60, 0.2)
        client.delete("v1", "Pod", f"{POD}-0", namespace=installed.namespace)
        wait_until(lambda: "failed calling webhook" in _events(installed, f"statefulset/{POD}"), "it to be refused", 60, 0.5)
        with pytest.raises(ApiError, match="404"):
            installed.pod(0)
        other = installed.shop.client_pod()
        other["metadata"]["name"] = "other"
        client.create(other)
        installed.shop.wait_until_ready("other")
        assert installed.psql("SELECT 1", pod=1).stdout.strip() == "1"  # gates that run are none the worse
        with installed.held("DELETE FROM customers WHERE id = 1", pod=1) as psql:
            with pytest.raises(ApiError, match="failed calling webhook"):
                installed.decide(psql.request)
            installed.scale("webhook", 2)
            installed.wait_until_running("webhook")
            wait_until(lambda: _is_decided(installed, psql.request), "decisions to be taken again", 60, 0.5)
            assert "DELETE 1" in psql.finish()
    finally:
        installed.scale("webhook", 2)
    # its controller tries again, ever more slowly
    wait_until(lambda: _uid(installed, 0) not in ("", gone), "the pod to be made", 300, 0.5)
    (pod,) = installed.shop.wait_until_ready(f"{POD}-0")
    assert [each["name"] for each in pod["spec"]["initContainers"]] == [GATE]
    installed.wait_for_condition("Synced")


def test_in_a_protected_namespace_a_template_that_lost_its_annotation_makes_no_pod(installed: InstalledShop) -> None:
    """Its labels alone would get the pod clients of the target's Service. The rollout stops at the first, and the others' gates serve on."""
    gone = _uid(installed, 1)
    _annotate(installed, None)
    try:
        refused = f"target {POD} selects this pod by its labels"
        wait_until(lambda: refused in _events(installed, f"statefulset/{POD}"), "it to be refused", 120, 0.5)
        assert _uid(installed, 1) == ""
        assert installed.psql("SELECT 1", pod=0).stdout.strip() == "1"
    finally:
        _annotate(installed, POD)
    # its controller tries again, ever more slowly
    wait_until(lambda: _has_gate(installed, 1), "the pod to be made with its gate", 300, 0.5)
    assert _uid(installed, 1) != gone
    installed.shop.wait_until_ready(f"{POD}-1")
    installed.wait_for_condition("Synced")


def test_a_template_that_lost_its_annotation_is_seen_at_once_and_put_right(installed: InstalledShop) -> None:
    """Where the namespace isn't protected. Nobody is let in by that, and the target says which pods, why, and what to do."""
    gone = {number: _uid(installed, number) for number in NUMBERS}
    _label(installed, None)
    _annotate(installed, None)
    try:
        enforced = installed.wait_for_condition("Enforced", "False")
        assert enforced["reason"] == "PodsWithoutGate"
        accepted = installed.wait_for_condition("Accepted", "False")
        assert (accepted["reason"], "annotate their template" in accepted["message"]) == ("PodsDontAsk", True)
        assert installed.condition("Ready")["status"] == "False"
        wait_until(lambda: installed.target()["status"]["podsWithoutGateCount"] == len(PODS), "both pods to be named", 120, 0.5)
        told = "it doesn't ask for one; fix: annotate its workload's pod template"
        wait_until(lambda: told in _events(installed, f"pod/{POD}-0"), "an event to tell of it", 30, 0.5)
        installed.shop.wait_until_ready(f"{POD}-0")
        refused = installed.psql("SELECT 1", pod=0)
        assert "refused" in refused.stderr  # nothing listens at the gate's port
    finally:
        _annotate(installed, POD)
        _label(installed, PROTECTED["sidegate.dev/protected"])
    for number in NUMBERS:
        wait_until(partial(_has_gate, installed, number), "its gate to be back", 120, 0.5)
        assert _uid(installed, number) != gone[number]
    wait_until(lambda: installed.condition("Accepted")["status"] == "True", "the target to say so", 60, 0.5)
    wait_until(lambda: installed.condition("Enforced")["status"] != "False", "the target to say so", 60, 0.5)
    installed.wait_for_condition("Synced")


def _has_gate(installed: InstalledShop, number: int) -> bool:
    return _uid(installed, number) != "" and "initContainers" in installed.pod(number)["spec"]


def _annotate(installed: InstalledShop, value: str | None) -> None:
    template = {"metadata": {"annotations": {"sidegate.dev/target": value}}}
    patch: dict[str, Any] = {"spec": {"template": template}}
    installed.cluster.client.merge_patch("apps/v1", "StatefulSet", POD, patch, namespace=installed.namespace)


def _label(installed: InstalledShop, value: str | None) -> None:
    patch = {"metadata": {"labels": dict.fromkeys(PROTECTED, value)}}
    installed.cluster.client.merge_patch("v1", "Namespace", installed.namespace, patch)


def _events(installed: InstalledShop, of: str) -> str:
    return installed.cluster.kubectl("events", "--namespace", installed.namespace, "--for", of).stdout


def _uid(installed: InstalledShop, number: int) -> str:
    """Empty while there is no such pod."""
    try:
        return str(installed.pod(number)["metadata"]["uid"])
    except ApiError as error:
        if error.code != 404:
            raise
        return ""


def _is_decided(installed: InstalledShop, request: str) -> bool:
    try:
        installed.decide(request)
    except ApiError:
        return False
    return True
