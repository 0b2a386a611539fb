"""The operator as a process, with exactly its rights, on a real API server: what it makes of resources, and that it stays with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.running.resources import (
    VERSION,
    conditions,
    gate_config,
    pod,
    policies_of,
    policy,
    settled,
    target,
    wait_for_policies,
    wait_for_reason,
)
from tests.support.api_server import ApiServer
from tests.support.running_operator import OperatorAccount, RunningOperator


@pytest.fixture(scope="module")
def operator(api_server: ApiServer) -> Iterator[RunningOperator]:
    """One for the tests that don't ask for its faults."""
    with RunningOperator(OperatorAccount(api_server)) as running:
        running.wait_until_leading()
        yield running


def events_of(api: ApiServer, namespace: str) -> set[str]:
    """What events tell of, and their reasons."""
    found: list[dict[str, Any]] = api.admin.list("events.k8s.io/v1", "Event", namespace=namespace)["items"]
    return {f"{each['regarding']['kind']} {each['reason']}" for each in found}


def test_a_policy_becomes_the_config_of_its_targets_gate(
    api_server: ApiServer, operator: RunningOperator, namespace: str
) -> None:
    api_server.admin.create(target(namespace))
    api_server.admin.create(policy(namespace))
    wait_for_policies(api_server, namespace, {"read"})
    config = gate_config(api_server, namespace)
    assert config is not None
    stored = api_server.admin.get("v1", "ConfigMap", "sidegate-shop", namespace=namespace)
    assert stored["metadata"]["annotations"]["sidegate.dev/revision"] == config.revision
    assert [each["kind"] for each in stored["metadata"]["ownerReferences"]] == ["ProtectedTarget"]
    wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Compiled", "Compiled")
    wait_for_reason(api_server, "AccessPolicy", namespace, "read", "Compiled", "Compiled")
    settled(
        lambda: (
            api_server.admin.get(VERSION, "ProtectedTarget", "shop", namespace=namespace)["status"].get("revision")
            == config.revision
        ),
        "the status to have the revision",
    )


def test_an_edit_and_a_deletion_reach_the_config(api_server: ApiServer, operator: RunningOperator, namespace: str) -> None:
    api_server.admin.create(target(namespace))
    for name in ("read", "write"):
        api_server.admin.create(policy(namespace, name))
    wait_for_policies(api_server, namespace, {"read", "write"})
    before = gate_config(api_server, namespace)
    api_server.admin.merge_patch(VERSION, "AccessPolicy", "read", {"spec": {"mode": "Observe"}}, namespace=namespace)
    settled(lambda: gate_config(api_server, namespace) != before, "the edit")
    api_server.admin.delete(VERSION, "AccessPolicy", "write", namespace=namespace)
    wait_for_policies(api_server, namespace, {"read"})


def test_nothing_is_written_when_nothing_changes(api_server: ApiServer, operator: RunningOperator, namespace: str) -> None:
    api_server.admin.create(target(namespace))
    api_server.admin.create(policy(namespace))
    wait_for_reason(api_server, "AccessPolicy", namespace, "read", "Compiled", "Compiled")
    wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Compiled", "Compiled")
    settled(lambda: operator.metric("sidegate_operator_queue_busy") == 0, "the queue to be empty")
    writes = [operator.metric("sidegate_operator_writes_total", how=how) for how in ("apply", "status")]
    at = api_server.admin.get(VERSION, "AccessPolicy", "read", namespace=namespace)["metadata"]["resourceVersion"]
    # A sentinel that goes through the same queue: when its target is done, what the first led to is done as well.
    api_server.admin.create(target(namespace, "other"))
    wait_for_reason(api_server, "ProtectedTarget", namespace, "other", "Compiled", "Compiled")
    wait_for_reason(api_server, "AccessPolicy", namespace, "read", "Compiled", "Compiled")
    assert api_server.admin.get(VERSION, "AccessPolicy", "read", namespace=namespace)["metadata"]["resourceVersion"] == at
    written = [operator.metric("sidegate_operator_writes_total", how=how) for how in ("apply", "status")]
    assert written == [writes[0] + 3, writes[1] + 1]  # the sentinel's ConfigMap, Service and NetworkPolicy, and its status


def test_what_somebody_changes_or_deletes_is_put_back(api_server: ApiServer, operator: RunningOperator, namespace: str) -> None:
    api_server.admin.create(target(namespace))
    api_server.admin.create(policy(namespace))
    wait_for_policies(api_server, namespace, {"read"})
    good = api_server.admin.get("v1", "ConfigMap", "sidegate-shop", namespace=namespace)["data"]
    api_server.admin.merge_patch("v1", "ConfigMap", "sidegate-shop", {"data": {"gate.json": "{}"}}, namespace=namespace)
    settled(
        lambda: api_server.admin.get("v1", "ConfigMap", "sidegate-shop", namespace=namespace)["data"] == good, "the good config"
    )
    api_server.admin.delete("v1", "ConfigMap", "sidegate-shop", namespace=namespace)
    wait_for_policies(api_server, namespace, {"read"})


def test_an_uncompilable_policy_leaves_the_last_good_rules_and_says_so(
    api_server: ApiServer, operator: RunningOperator, namespace: str
) -> None:
    api_server.admin.create(target(namespace))
    api_server.admin.create(policy(namespace))
    wait_for_policies(api_server, namespace, {"read"})
    good = gate_config(api_server, namespace)
    api_server.admin.create(policy(namespace, "broken", subjects=[{"expression": "claims.department =="}]))
    said = wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Compiled", "PolicyInvalid")
    assert good is not None
    assert good.revision in said["message"]
    assert "broken" in said["message"]
    wait_for_reason(api_server, "AccessPolicy", namespace, "broken", "Accepted", "Invalid")
    assert gate_config(api_server, namespace) == good
    api_server.admin.delete("v1", "ConfigMap", "sidegate-shop", namespace=namespace)
    settled(lambda: gate_config(api_server, namespace) == good, "the last good rules to be put back")
    api_server.admin.delete(VERSION, "AccessPolicy", "broken", namespace=namespace)
    wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Compiled", "Compiled")


def test_a_config_that_no_config_map_holds_leaves_the_last_good_rules_and_says_so(
    api_server: ApiServer, operator: RunningOperator, namespace: str
) -> None:
    api_server.admin.create(target(namespace))
    api_server.admin.create(policy(namespace))
    wait_for_policies(api_server, namespace, {"read"})
    good = gate_config(api_server, namespace)
    functions = [f"shop.{'f' * 50}{number:03}" for number in range(128)]
    postgres = {"databases": ["shop"], "role": "readonly", "allow": ["Read"], "functions": functions}
    for number in range(5):
        api_server.admin.create(policy(namespace, f"large-{number}", grants=[{"postgres": postgres}] * 32))
    wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Compiled", "ConfigTooLarge")
    for number in range(5):
        api_server.admin.delete(VERSION, "AccessPolicy", f"large-{number}", namespace=namespace)
    wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Compiled", "Compiled")
    wait_for_policies(api_server, namespace, {"read"})
    assert gate_config(api_server, namespace) == good


def test_a_policy_without_a_target_says_so_and_is_bound_when_the_target_comes(
    api_server: ApiServer, operator: RunningOperator, namespace: str
) -> None:
    api_server.admin.create(policy(namespace))
    wait_for_reason(api_server, "AccessPolicy", namespace, "read", "Accepted", "TargetNotFound")
    api_server.admin.create(target(namespace))
    wait_for_reason(api_server, "AccessPolicy", namespace, "read", "Accepted", "Accepted")
    wait_for_policies(api_server, namespace, {"read"})
    api_server.admin.delete(VERSION, "ProtectedTarget", "shop", namespace=namespace)
    wait_for_reason(api_server, "AccessPolicy", namespace, "read", "Accepted", "TargetNotFound")


def test_a_status_names_every_target_of_a_policy(api_server: ApiServer, operator: RunningOperator, namespace: str) -> None:
    names = [f"shop-{number}" for number in range(5)]
    for name in names:
        api_server.admin.create(target(namespace, name))
    api_server.admin.create(policy(namespace, targets=tuple(names)))

    def bound() -> list[str]:
        return list(
            api_server.admin.get(VERSION, "AccessPolicy", "read", namespace=namespace).get("status", {}).get("targets", [])
        )

    settled(lambda: bound() == names, "all five targets")
    api_server.admin.delete(VERSION, "ProtectedTarget", names[2], namespace=namespace)
    settled(lambda: bound() == [each for each in names if each != names[2]], "the four that are left")


def test_a_gated_pod_is_told_of_the_revision(api_server: ApiServer, operator: RunningOperator, namespace: str) -> None:
    api_server.admin.create(target(namespace))
    api_server.admin.create(policy(namespace))
    api_server.admin.create(pod(namespace))
    wait_for_policies(api_server, namespace, {"read"})

    def told() -> str | None:
        found = api_server.admin.get("v1", "Pod", "shop-0", namespace=namespace)["metadata"].get("annotations", {})
        revision: str | None = found.get("sidegate.dev/revision")
        return revision

    def published() -> str | None:
        config = gate_config(api_server, namespace)
        return config.revision if config is not None else None

    settled(lambda: told() == published(), "the pod to be told")
    first = told()
    api_server.admin.create(policy(namespace, "write"))
    settled(lambda: told() != first and told() == published(), "the pod to be told of the next one")


def test_in_the_operators_own_namespace_nothing_counts_as_a_gate(api_server: ApiServer, operator: RunningOperator) -> None:
    """Admission leaves it out, so that nobody looks at what is called a gate there."""
    own = operator.account.namespace
    api_server.admin.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": own}})
    api_server.admin.create(target(own))
    api_server.admin.create(pod(own))
    try:
        told = wait_for_reason(api_server, "ProtectedTarget", own, "shop", "Enforced", "PodsWithoutGate")
        assert "shop-0" in told["message"]
    finally:
        api_server.admin.delete("v1", "Pod", "shop-0", namespace=own, grace_s=0)
        api_server.admin.delete(VERSION, "ProtectedTarget", "shop", namespace=own)


def test_a_pod_without_a_gate_is_reported_even_when_its_label_is_stripped(
    api_server: ApiServer, operator: RunningOperator, namespace: str
) -> None:
    api_server.admin.create(target(namespace))
    api_server.admin.create(pod(namespace, gate=False))
    wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Enforced", "PodsWithoutGate")
    gone = {"metadata": {"labels": {"sidegate.dev/target": None}}}
    api_server.admin.merge_patch("v1", "Pod", "shop-0", gone, namespace=namespace)
    settled(
        lambda: (
            "sidegate.dev/target" not in api_server.admin.get("v1", "Pod", "shop-0", namespace=namespace)["metadata"]["labels"]
        ),
        "the label to be gone",
    )
    api_server.admin.create(policy(namespace))  # planned after the label was gone
    wait_for_policies(api_server, namespace, {"read"})
    assert conditions(api_server, "ProtectedTarget", namespace, "shop")["Enforced"]["reason"] == "PodsWithoutGate"
    api_server.admin.delete("v1", "Pod", "shop-0", namespace=namespace, grace_s=0)
    wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Enforced", "NoPods")


@pytest.mark.parametrize("optional", [False, True], ids=["needed", "optional"])
def test_a_gated_pod_that_loses_the_labels_it_is_selected_by_is_still_counted_and_reported(
    api_server: ApiServer, operator: RunningOperator, namespace: str, *, optional: bool
) -> None:
    """Its NetworkPolicy and Service have lost it. Asking for none, where that is allowed, hides nothing either; the label that asks for its gate is
    guarded.
    """
    api_server.admin.create(target(namespace, enforcement={"allowOptOut": optional}))
    api_server.admin.create(pod(namespace))
    wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Enforced", "NotProbed")
    gone = {"metadata": {"labels": {"app": None, "sidegate.dev/inject": "false"}}}
    api_server.admin.merge_patch("v1", "Pod", "shop-0", gone, namespace=namespace)
    said = wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Enforced", "PodsNotSelected")
    assert "`shop-0`" in said["message"]
    assert "put the labels of spec.selector back" in said["message"]
    assert api_server.admin.get(VERSION, "ProtectedTarget", "shop", namespace=namespace)["status"]["gates"]["total"] == 1
    settled(lambda: "ProtectedTarget PodsNotSelected" in events_of(api_server, namespace), "an event to tell of it")
    api_server.admin.merge_patch("v1", "Pod", "shop-0", {"metadata": {"labels": {"app": "shop"}}}, namespace=namespace)
    wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Enforced", "NotProbed")


def test_a_selector_that_leaves_running_pods_behind_says_so(
    api_server: ApiServer, operator: RunningOperator, namespace: str
) -> None:
    api_server.admin.create(target(namespace))
    api_server.admin.create(pod(namespace))
    wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Enforced", "NotProbed")
    other = {"spec": {"selector": {"matchLabels": {"app": "stop"}}}}
    api_server.admin.merge_patch(VERSION, "ProtectedTarget", "shop", other, namespace=namespace)
    wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Enforced", "PodsNotSelected")


def test_somebody_elses_object_of_the_name_is_left_alone(
    api_server: ApiServer, operator: RunningOperator, namespace: str
) -> None:
    metadata = {"name": "sidegate-shop", "namespace": namespace}
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"theirs": "1"}}
    api_server.admin.create(theirs)
    api_server.admin.create(target(namespace))
    settled(
        lambda: "somebody else's" in str(conditions(api_server, "ProtectedTarget", namespace, "shop")), "the status to say so"
    )
    assert api_server.admin.get("v1", "ConfigMap", "sidegate-shop", namespace=namespace)["data"] == {"theirs": "1"}


def test_events_tell_of_what_changed(api_server: ApiServer, operator: RunningOperator, namespace: str) -> None:
    api_server.admin.create(target(namespace))
    api_server.admin.create(policy(namespace))
    wait_for_reason(api_server, "AccessPolicy", namespace, "read", "Accepted", "Accepted")
    assert events_of(api_server, namespace) == set()  # all is well at first sight, which the status says
    grants = [{"postgres": {"databases": ["shop"], "role": "nobody", "allow": ["Read"]}}]
    api_server.admin.merge_patch(VERSION, "AccessPolicy", "read", {"spec": {"grants": grants}}, namespace=namespace)
    settled(
        lambda: {"ProtectedTarget PolicyInvalid", "AccessPolicy Invalid"} <= events_of(api_server, namespace),
        "the events of what is wrong",
    )
    api_server.admin.delete(VERSION, "AccessPolicy", "read", namespace=namespace)
    settled(lambda: "ProtectedTarget Compiled" in events_of(api_server, namespace), "the event that it is in order again")


def test_kopf_watches_and_health_is_well(operator: RunningOperator) -> None:
    settled(lambda: operator.metric("sidegate_operator_kopf_watching") == 1, "kopf to watch every kind")
    assert operator.page("healthz") == (200, "alive\n")
    assert operator.page("readyz") == (200, "ready\n")
    assert operator.metric("sidegate_operator_leader") == 1


def test_says_nothing_that_it_shouldnt(operator: RunningOperator, api_server: ApiServer, namespace: str) -> None:
    """Last of those that share the operator: nothing of all this was a fault of its own."""
    api_server.admin.create(target(namespace))
    wait_for_reason(api_server, "ProtectedTarget", namespace, "shop", "Compiled", "Compiled")
    assert [line for line in operator.lines() if " info " not in line] == []
    assert policies_of(api_server, namespace) == set()
