"""Pods as Zalando's operator makes them from the example: which get a gate, which don't, and that nothing of them is lost.

`zalando-made.yaml` is what its own code (`generateStatefulSet`, `generateLogicalBackupJob`, `generateConnectionPoolerPodTemplate` of 2.0.1, with
the operator's defaults and pod anti-affinity) made of examples/zalando/postgresql.yaml; the pooler with `enableConnectionPooler` added.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sidegate.api.protected_target import ProtectedTarget
from sidegate_operator.plan.gate_container import GATE_CONTAINER
from sidegate_operator.plan.injection import InjectionReason, InjectionRefused, NotOurs, PodPatch, Untouched
from sidegate_operator.plan.sidecar import named_target, plan_sidecar
from tests.support.json_patch import patched
from tests.support.operator_samples import SETTINGS

EXAMPLE = Path(__file__).parents[3] / "examples" / "zalando"
MADE: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("zalando-made.yaml").read_text())
TARGET = ProtectedTarget.from_wire(yaml.safe_load((EXAMPLE / "target.yaml").read_text()))


def pod_of(template: Mapping[str, Any], name: str, owner: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {
        **template["metadata"],
        "name": name,
        "namespace": "shop",
        "ownerReferences": [{**owner, "controller": True, "uid": "1"}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


INSTANCE = pod_of(
    MADE["statefulSet"]["spec"]["template"], "shop-db-0", {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "shop-db"}
)


def is_within(old: Any, new: Any) -> bool:
    """Whether everything of `old` is in `new`, lists in their order."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(key in new and is_within(value, new[key]) for key, value in old.items())
    if isinstance(old, list):
        rest = iter(new)
        return all(any(is_within(value, other) for other in rest) for value in old)
    return bool(old == new)


def test_an_instance_gets_its_gate_and_loses_nothing() -> None:
    planned = plan_sidecar(INSTANCE, TARGET, SETTINGS)
    assert isinstance(planned, PodPatch), planned
    pod = patched(INSTANCE, planned.operations)
    assert pod["spec"]["initContainers"][0]["name"] == GATE_CONTAINER
    assert pod["spec"]["containers"] == INSTANCE["spec"]["containers"]
    assert is_within(INSTANCE, pod)
    assert not is_within(pod, INSTANCE)
    again = plan_sidecar(pod, TARGET, SETTINGS)
    assert isinstance(again, PodPatch)
    assert again.operations == ()


def test_the_instances_ports_leave_the_gates_free() -> None:
    (spilo,) = INSTANCE["spec"]["containers"]
    assert [port["containerPort"] for port in spilo["ports"]] == [8008, 5432, 8080]


def test_spilo_is_given_the_lines_of_pg_hba() -> None:
    variables = {each["name"]: each.get("value") for each in INSTANCE["spec"]["containers"][0]["env"]}
    lines = json.loads(variables["SPILO_CONFIGURATION"] or "")["postgresql"]["pg_hba"]
    assert lines == yaml.safe_load((EXAMPLE / "postgresql.yaml").read_text())["spec"]["patroni"]["pg_hba"]


def test_a_logical_backup_asks_for_a_gate_and_gets_none() -> None:
    template = MADE["logicalBackup"]["spec"]["jobTemplate"]["spec"]["template"]
    pod = pod_of(
        template, "logical-backup-shop-db-1", {"apiVersion": "batch/v1", "kind": "Job", "name": "logical-backup-shop-db"}
    )
    assert named_target(pod) == TARGET.metadata.name
    assert plan_sidecar(pod, TARGET, SETTINGS) == NotOurs(Untouched.JOB)
    network = yaml.safe_load((EXAMPLE / "network.yaml").read_text())
    allowed = [
        each["podSelector"]["matchLabels"] for each in network["spec"]["ingress"][0]["from"] if "namespaceSelector" not in each
    ]
    assert any(labels.items() <= pod["metadata"]["labels"].items() for labels in allowed)


def test_a_pooler_is_refused_as_the_page_says() -> None:
    pod = pod_of(MADE["pooler"], "shop-db-pooler-1", {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "shop-db-pooler"})
    refused = plan_sidecar(pod, TARGET, SETTINGS)
    assert isinstance(refused, InjectionRefused)
    assert refused.reason is InjectionReason.NOT_SELECTED
    assert f"`{InjectionReason.NOT_SELECTED.value}`" in (EXAMPLE / "README.md").read_text()
