"""`sidegate protect` on real workload objects. No controller runs here: the tests make the pods that one would."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.cluster.commands.workload_objects import cnpg_cluster, gated_pod, of, operators_kind, stateful_set, zalando_database
from tests.support.admission import target
from tests.support.installation import Installation

ASKS = {"sidegate.dev/target": "shop-db"}


@pytest.fixture
def shop(installation: Installation, namespace: str) -> str:
    installation.api.admin.create(target(namespace))
    return namespace


def unannotated(namespace: str, **more: Any) -> dict[str, Any]:
    wanted = stateful_set(namespace, gated_pod(namespace))
    wanted["spec"]["template"]["metadata"]["annotations"] = {}
    wanted["spec"].update(more)
    return wanted


def template_annotations(installation: Installation, namespace: str) -> dict[str, str]:
    found = installation.api.admin.get("apps/v1", "StatefulSet", "shop-db", namespace=namespace)
    annotations: dict[str, str] = found["spec"]["template"]["metadata"].get("annotations") or {}
    return annotations


def test_a_dry_run_shows_the_change_and_makes_none(installation: Installation, shop: str) -> None:
    installation.api.admin.create(unannotated(shop))
    said = installation.sidegate("protect", "statefulset/shop-db", "--target", "shop-db", "-n", shop, "--dry-run")
    assert said.exit_code == 0, said.stderr
    assert said.stdout.splitlines() == [
        f"statefulset/shop-db  in namespace {shop}",
        "    spec.template.metadata.annotations:",
        "+   sidegate.dev/target: shop-db",
        "statefulset/shop-db  would be changed; nothing was",
    ]
    assert template_annotations(installation, shop) == {}


def test_a_stateful_set_asks_for_the_gate_and_is_undone_again(installation: Installation, shop: str) -> None:
    installation.api.admin.create(unannotated(shop))
    said = installation.sidegate("protect", "sts/shop-db", "--target", "shop-db", "-n", shop, "--yes")
    assert said.exit_code == 0, said.stderr
    assert "its pods are made again now, one after another" in said.stdout
    assert template_annotations(installation, shop) == ASKS
    again = installation.sidegate("protect", "sts/shop-db", "--target", "shop-db", "-n", shop, "--yes")
    assert again.stdout == "statefulset/shop-db  asks for target shop-db already\n"
    undone = installation.sidegate("protect", "sts/shop-db", "--undo", "-n", shop, "--yes")
    assert undone.exit_code == 0, undone.stderr
    assert template_annotations(installation, shop) == {}


def test_in_a_protected_namespace_it_is_not_undone_while_its_target_is_there(installation: Installation, shop: str) -> None:
    """Its pods would be refused, one after another."""
    admin = installation.api.admin
    admin.create(stateful_set(shop, gated_pod(shop)))
    admin.merge_patch("v1", "Namespace", shop, {"metadata": {"labels": {"sidegate.dev/protected": "true"}}})
    undo = ("protect", "sts/shop-db", "--undo", "-n", shop, "--yes")
    said = installation.sidegate(*undo)
    assert said.exit_code == 1
    assert f"namespace {shop} is protected and ProtectedTarget `shop-db` is there" in said.stderr
    assert f"kubectl label namespace {shop} sidegate.dev/protected- first" in said.stderr
    assert template_annotations(installation, shop) == ASKS
    admin.merge_patch("v1", "Namespace", shop, {"metadata": {"labels": {"sidegate.dev/protected": None}}})
    assert installation.sidegate(*undo).exit_code == 0
    assert template_annotations(installation, shop) == {}


def test_a_workload_that_doesn_t_roll_out_by_itself_says_what_to_do(installation: Installation, shop: str) -> None:
    installation.api.admin.create(unannotated(shop, updateStrategy={"type": "OnDelete"}))
    said = installation.sidegate("protect", "sts/shop-db", "--target", "shop-db", "-n", shop, "--yes")
    assert "note       its updateStrategy is OnDelete" in said.stdout
    assert "made again now" not in said.stdout


def test_what_would_leave_a_database_without_a_pod_isn_t_begun(installation: Installation, namespace: str) -> None:
    installation.api.admin.create(unannotated(namespace))
    said = installation.sidegate("protect", "sts/shop-db", "--target", "shop-db", "-n", namespace, "--yes")
    assert said.exit_code == 1
    assert f"there is no ProtectedTarget `shop-db` in namespace `{namespace}`" in said.stderr
    assert template_annotations(installation, namespace) == {}


def test_it_asks_on_a_terminal_and_wants_yes_without_one(installation: Installation, shop: str) -> None:
    installation.api.admin.create(unannotated(shop))
    said = installation.sidegate("protect", "sts/shop-db", "--target", "shop-db", "-n", shop, stdin="y\n")
    assert said.exit_code == 2
    assert "give --yes" in said.stderr
    assert template_annotations(installation, shop) == {}


@pytest.mark.parametrize(
    "arguments", [("sts/shop-db",), ("sts/shop-db", "--target", "x", "--undo"), ("pod/x", "--undo"), ("x", "--undo")]
)
def test_what_isn_t_a_question_is_refused(installation: Installation, arguments: tuple[str, ...]) -> None:
    assert installation.sidegate("protect", *arguments, "--yes").exit_code == 2


@pytest.mark.parametrize(
    ("make", "word", "path"),
    [
        (cnpg_cluster, "cluster", ("inheritedMetadata", "annotations")),
        (zalando_database, "postgresql", ("podAnnotations",)),
    ],
    ids=["CloudNativePG", "Zalando"],
)
def test_resources_of_database_operators_are_annotated_where_they_keep_it(
    installation: Installation, shop: str, make: Any, word: str, path: tuple[str, ...]
) -> None:
    admin = installation.api.admin
    wanted = make(shop)
    operators_kind(installation.api, wanted)
    admin.create(wanted)
    said = installation.sidegate("protect", f"{word}/shop-db", "--target", "shop-db", "-n", shop, "--yes")
    assert said.exit_code == 0, said.stderr
    found: Any = admin.get(wanted["apiVersion"], wanted["kind"], "shop-db", namespace=shop)["spec"]
    assert found["size"] == 3
    for part in path:
        found = found[part]
    assert found == ASKS
    assert "  note       " in said.stdout
    assert installation.sidegate("protect", f"{word}/shop-db", "--undo", "-n", shop, "--yes").exit_code == 0


def test_a_kind_that_isn_t_installed_is_named(installation: Installation, shop: str) -> None:
    for word, resource in (("sts", "there is no StatefulSet `nothing`"),):
        said = installation.sidegate("protect", f"{word}/nothing", "--target", "shop-db", "-n", shop, "--yes")
        assert said.exit_code == 1
        assert resource in said.stderr


def test_waiting_tells_of_each_pod_that_gets_its_gate(installation: Installation, shop: str) -> None:
    admin = installation.api.admin
    owner = admin.create(unannotated(shop, replicas=2))
    for name in ("shop-db-0", "shop-db-1"):
        before = gated_pod(shop, name)
        before["metadata"]["annotations"] = {}
        admin.create(of(owner, before))

    def roll_out() -> None:
        """As the StatefulSet's controller does; it gets as far as the first."""
        admin.wait_for(
            "apps/v1",
            "StatefulSet",
            "shop-db",
            lambda found: bool(found["spec"]["template"]["metadata"].get("annotations")),
            namespace=shop,
        )
        admin.delete("v1", "Pod", "shop-db-0", namespace=shop, grace_s=0)
        admin.wait_until_gone("v1", "Pod", "shop-db-0", namespace=shop)
        admin.create(of(owner, gated_pod(shop)))

    controller = threading.Thread(target=roll_out)
    controller.start()
    said = installation.sidegate(
        *("protect", "sts/shop-db", "--target", "shop-db", "-n", shop, "--yes", "--wait", "--timeout", "4")
    )
    controller.join()
    assert "shop-db-1  has no gate yet" in said.stdout
    assert "shop-db-0  its gate starts" in said.stdout
    assert "1 of 2 pods have their gate; 0 of 2 gates enforce the newest revision" in said.stdout
    assert said.exit_code == 1
    assert "it isn't done after 4 s" in said.stderr


def test_waiting_for_the_undoing_ends_when_no_pod_has_a_gate(installation: Installation, shop: str) -> None:
    admin = installation.api.admin
    owner = admin.create(stateful_set(shop, gated_pod(shop)))
    admin.merge_patch("apps/v1", "StatefulSet", "shop-db", {"spec": {"replicas": 1}}, namespace=shop)
    admin.create(of(owner, gated_pod(shop)))

    def roll_out() -> None:
        found = admin.wait_for(
            "apps/v1",
            "StatefulSet",
            "shop-db",
            lambda found: not found["spec"]["template"]["metadata"].get("annotations"),
            namespace=shop,
        )
        admin.delete("v1", "Pod", "shop-db-0", namespace=shop, grace_s=0)
        admin.wait_until_gone("v1", "Pod", "shop-db-0", namespace=shop)
        after = gated_pod(shop)
        after["metadata"]["annotations"] = {}
        admin.create(of(owner, after))
        status = {"observedGeneration": found["metadata"]["generation"], "replicas": 1, "updatedReplicas": 1}
        admin.merge_patch("apps/v1", "StatefulSet", "shop-db", {"status": status}, namespace=shop, subresource="status")

    controller = threading.Thread(target=roll_out)
    controller.start()
    said = installation.sidegate("protect", "sts/shop-db", "--undo", "-n", shop, "--yes", "--wait", "--timeout", "30")
    controller.join()
    assert said.exit_code == 0, said.stdout + said.stderr
    assert said.stdout.splitlines()[-1] == "statefulset/shop-db  0 of 1 pods have a gate still"
