"""What `sidegate protect` would change, what it refuses to, and when a rollout counts as done."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sidegate_cluster.pages.protection import Change, change_wanted, rollout
from sidegate_cluster.pages.refusals import Told
from sidegate_cluster.pages.workloads import CLUSTER, DEPLOYMENT, POSTGRESQL, STATEFUL_SET
from tests.unit.operator.snapshots import Wire, pod, target

ASKS = {"sidegate.dev/target": "shop-db"}
WORKLOAD: Wire = {
    "metadata": {"name": "shop-db", "namespace": "shop", "generation": 2},
    "spec": {
        "replicas": 2,
        "template": {"metadata": {"labels": {"app": "shop-db"}}, "spec": {"containers": [{"name": "postgres"}]}},
    },
}


def workload(of_pods: dict[str, str] | None = None, **metadata: Any) -> Wire:
    wire = copy.deepcopy(WORKLOAD)
    wire["metadata"].update(metadata)
    if of_pods is not None:
        wire["spec"]["template"]["metadata"]["annotations"] = of_pods
    return wire


def changed(wire: Wire, name: str | None = "shop-db", kind: Any = STATEFUL_SET, found: Wire | None = None) -> Change:
    change = change_wanted(kind, wire, found or target(), name)
    assert isinstance(change, Change), change
    return change


def refused(wire: Wire, name: str | None = "shop-db", found: Wire | None = None) -> str:
    change = change_wanted(STATEFUL_SET, wire, found, name)
    assert isinstance(change, Told)
    assert change.way_forward
    return f"{change.problem}; {change.way_forward}"


def test_one_annotation_is_added_and_nothing_else() -> None:
    change = changed(workload({"other": "x"}))
    assert change.patch == {"spec": {"template": {"metadata": {"annotations": ASKS}}}}
    assert change.lines == ("    spec.template.metadata.annotations:", "+   sidegate.dev/target: shop-db")
    assert change.notes == ()


def test_undoing_takes_it_out() -> None:
    change = changed(workload(ASKS), None)
    assert change.patch == {"spec": {"template": {"metadata": {"annotations": {"sidegate.dev/target": None}}}}}
    assert change.lines[-1] == "-   sidegate.dev/target: shop-db"


def test_what_is_so_already_is_left_alone() -> None:
    assert changed(workload(ASKS)).patch is None
    assert changed(workload(), None).patch is None


@pytest.mark.parametrize(
    ("kind", "path"), [(CLUSTER, ("spec", "inheritedMetadata", "annotations")), (POSTGRESQL, ("spec", "podAnnotations"))]
)
def test_operators_of_databases_are_asked_through_their_own_resources(kind: Any, path: tuple[str, ...]) -> None:
    change = changed({"metadata": {"name": "shop-db", "namespace": "shop"}, "spec": {"instances": 3}}, kind=kind)
    found: Any = change.patch
    for part in path:
        found = found[part]
    assert found == ASKS
    assert len(change.notes) == 1  # neither makes its pods again for an annotation
    assert "NAME" not in change.notes[0]


def test_what_another_writes_is_changed_there() -> None:
    owner = {"apiVersion": "acid.zalan.do/v1", "kind": "postgresql", "name": "shop-db", "controller": True}
    assert "change postgresql/shop-db instead" in refused(workload(ownerReferences=[owner]), found=target())
    foreign = {"apiVersion": "example.com/v1", "kind": "Database", "name": "shop", "controller": True}
    assert "change Database `shop` instead" in refused(workload(ownerReferences=[foreign]), found=target())


def test_a_rollout_that_would_be_refused_isn_t_begun() -> None:
    assert "there is no ProtectedTarget `shop-db`" in refused(workload())
    host = workload()
    host["spec"]["template"]["spec"]["hostNetwork"] = True
    assert "its pods would be refused: the pod uses the node's network" in refused(host, found=target())
    other = workload()
    other["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    assert "doesn't select the pod" in refused(other, found=target())
    outside = target(endpoint={"host": "127.0.0.1", "port": 5432})
    del outside["spec"]["selector"]
    assert "gated from outside" in refused(workload(), found=outside)
    asks_for_another = workload({"sidegate.dev/target": "billing-db"})
    assert "ask for target `billing-db`" in refused(asks_for_another, found=target())


def test_a_label_that_says_otherwise_is_left_to_who_wrote_it() -> None:
    wire = workload(ASKS)
    wire["spec"]["template"]["metadata"]["labels"]["sidegate.dev/target"] = "shop-db"
    assert "has the label" in refused(wire, None, target())


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"annotations": {"meta.helm.sh/release-name": "shop"}}, "the Helm release `shop` applies it"),
        ({"annotations": {"argocd.argoproj.io/tracking-id": "shop:x"}}, "Argo CD as `shop:x` applies it"),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "shop"}}, "the Flux kustomization `shop` applies it"),
    ],
)
def test_who_applies_it_from_elsewhere_is_named(metadata: dict[str, Any], words: str) -> None:
    (note,) = changed(workload(**metadata)).notes
    assert words in note


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"updateStrategy": {"type": "OnDelete"}}, "delete its pods one by one"),
        ({"updateStrategy": {"rollingUpdate": {"partition": 1}}}, "partition"),
        ({"paused": True}, "kubectl rollout resume"),
    ],
)
def test_a_rollout_that_doesn_t_begin_by_itself_is_told(spec: Wire, words: str) -> None:
    wire = workload()
    wire["spec"].update(spec)
    (note,) = changed(wire).notes
    assert words in note


DONE = {"observedGeneration": 2, "updatedReplicas": 2}
SYNCED = {"revision": "r", "gates": {"ready": 2, "synced": 2, "total": 2}}


def at(status: Wire, of_target: Wire, pods: list[Wire], is_undone: bool = False, kind: Any = STATEFUL_SET) -> bool:
    return rollout(kind, {**workload(), "status": status}, {**target(), "status": of_target}, pods, is_undone).is_done


def test_it_is_done_when_every_pod_is_new_has_its_gate_and_is_synced() -> None:
    pods = [pod("shop-db-0"), pod("shop-db-1")]
    assert at(DONE, SYNCED, pods)
    assert not at({"observedGeneration": 1, "updatedReplicas": 2}, SYNCED, pods)
    assert not at({"observedGeneration": 2, "updatedReplicas": 1}, SYNCED, pods)
    assert not at(DONE, SYNCED, pods[:1])
    assert not at(DONE, SYNCED, [pods[0], pod("shop-db-1", has_gate=False)])
    assert not at(DONE, {"revision": "r", "gates": {"synced": 1, "total": 2}}, pods)
    assert not at(DONE, {"revision": "r", "gates": {"synced": 1, "total": 1}}, pods)
    assert not at(DONE, {"gates": {"synced": 2, "total": 2}}, pods)
    assert not at(DONE, SYNCED, [*pods, pod("old", has_gate=False, deletionTimestamp="2026-11-25T09:00:00Z")])
    assert at(DONE, SYNCED, pods, kind=DEPLOYMENT)


def test_it_is_undone_when_no_pod_has_a_gate() -> None:
    without = [pod("shop-db-0", has_gate=False), pod("shop-db-1", has_gate=False)]
    assert at(DONE, {}, without, is_undone=True)
    assert not at(DONE, {}, [without[0], pod("shop-db-1")], is_undone=True)


def test_each_pod_is_said_where_it_stands() -> None:
    starting = pod("a")
    starting["status"]["initContainerStatuses"] = []
    found = rollout(STATEFUL_SET, workload(), target(), [starting, pod("b"), pod("c", has_gate=False)], False)
    assert found.pods == {"a": "its gate starts", "b": "its gate serves clients", "c": "has no gate yet"}
    assert found.summary == "2 of 3 pods have their gate; 0 of 0 gates enforce the newest revision"
