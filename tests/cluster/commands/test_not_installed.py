"""The commands for a cluster on one that has never seen Sidegate: each says so, in one line, with the way forward."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from sidegate.cli.main import main
from sidegate_operator.webhook.guards import admission_objects
from tests.cluster.commands.workload_objects import LABELS, stateful_set
from tests.support.admission import NAMESPACE, plain_pod
from tests.support.api_server import ApiServer


@pytest.fixture(scope="module")
def bare_api() -> Iterator[ApiServer]:
    with ApiServer() as api:
        pod = plain_pod("default", "shop-db")
        pod["metadata"]["labels"] = LABELS
        api.admin.create(stateful_set("default", pod))
        yield api


def sidegate(api: ApiServer, *arguments: str) -> Result:
    environment = {"KUBECONFIG": str(api.kubeconfig), "COLUMNS": "160", "SIDEGATE_STATE": None}
    return CliRunner(env=environment).invoke(main, list(arguments), catch_exceptions=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("status", "--all-namespaces"),
        ("status", "shop-db"),
        ("approvals", "list"),
        ("approve", "ar-1", "--yes"),
        ("deny", "ar-1", "--comment", "no", "--yes"),
        ("protect", "statefulset/shop-db", "--target", "shop-db", "--yes"),
    ],
    ids=" ".join,
)
def test_a_command_says_that_it_isn_t_installed(bare_api: ApiServer, arguments: tuple[str, ...]) -> None:
    said = sidegate(bare_api, *arguments)
    assert said.exit_code == 1
    assert "Sidegate isn't installed in this cluster" in said.stderr
    assert "docs/install.md" in said.stderr


def test_doctor_says_it_once_and_looks_at_nothing_else(bare_api: ApiServer) -> None:
    found = json.loads(sidegate(bare_api, "doctor", "-o", "json").stdout)["checks"]
    (wrong,) = [each for each in found if each["outcome"] != "fine"]
    assert wrong["what"].startswith("Sidegate isn't installed in the cluster of context ")
    assert "helm install sidegate charts/sidegate -n sidegate-system" in wrong["wayForward"]


def test_doctor_tells_what_an_uninstalled_one_left(bare_api: ApiServer) -> None:
    bare_api.apply_crds()
    found = json.loads(sidegate(bare_api, "doctor", "-o", "json").stdout)["checks"]
    (wrong,) = [each for each in found if each["outcome"] != "fine"]
    assert "targets and policies are left of it" in wrong["what"]


def test_doctor_tells_what_is_missing_of_a_part_of_it(bare_api: ApiServer) -> None:
    """Half of an installation isn't none: each part that is missing is told, and each right once, with all its verbs."""
    guard, *_ = admission_objects(NAMESPACE)
    bare_api.admin.create(guard)
    found = json.loads(sidegate(bare_api, "doctor", "-o", "json").stdout)["checks"]
    whats = [each["what"] for each in found if each["outcome"] == "wrong"]
    assert "MutatingWebhookConfiguration/sidegate: it is missing" in whats
    assert len([each for each in whats if " pods (" in each]) == 1
    assert [each for each in whats if " list, watch, get, patch pods (" in each]
