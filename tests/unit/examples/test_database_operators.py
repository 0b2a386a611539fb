"""The examples for database operators: their policies are sound, and what has to agree between their manifests does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from sidegate.api.protected_target import ProtectedTarget
from sidegate.cli.policy import policy
from sidegate_operator.plan.owned import TARGET_LABEL
from sidegate_operator.plan.service import plan_service
from tests.support.operator_samples import SETTINGS

EXAMPLES = Path(__file__).parents[3] / "examples"
FOLDERS = ("cloudnative-pg", "zalando")


def documents(folder: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` applies, but for what kustomize generates."""
    root = EXAMPLES / folder
    listed = yaml.safe_load((root / "kustomization.yaml").read_text())["resources"]
    return [each for name in listed for each in yaml.safe_load_all((root / name).read_text())]


def the(folder: str, kind: str, name: str | None = None) -> dict[str, Any]:
    (found,) = (each for each in documents(folder) if each["kind"] == kind and name in {None, each["metadata"]["name"]})
    return found


def target_of(folder: str) -> ProtectedTarget:
    return ProtectedTarget.from_wire(the(folder, "ProtectedTarget"))


def cluster_of(folder: str) -> tuple[dict[str, str], list[str]]:
    """The annotations that the cluster's pods get, and its lines of pg_hba."""
    if folder == "zalando":
        spec = the(folder, "postgresql")["spec"]
        return spec["podAnnotations"], spec["patroni"]["pg_hba"]
    spec = the(folder, "Cluster")["spec"]
    return spec["inheritedMetadata"]["annotations"], spec["postgresql"]["pg_hba"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_lint_finds_nothing(folder: str) -> None:
    result = CliRunner().invoke(policy, ["lint", "--strict", "--manifests", str(EXAMPLES / folder)])
    assert (result.exit_code, result.output) == (0, "1 targets, 1 policies: 0 Errors, 0 Warnings, 0 Notes\n")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_manifest_is_applied(folder: str) -> None:
    root = EXAMPLES / folder
    kustomization = yaml.safe_load((root / "kustomization.yaml").read_text())
    generated = [name for each in kustomization.get("configMapGenerator", []) for name in each["files"]]
    assert {*kustomization["resources"], *generated, "kustomization.yaml", "secrets.sh", "README.md"} == {
        path.name for path in root.iterdir()
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_ask_for_the_target_that_is_there(folder: str) -> None:
    assert cluster_of(folder)[0] == {TARGET_LABEL: target_of(folder).metadata.name}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_primarys_service_narrows_the_gates_own(folder: str) -> None:
    own = plan_service(target_of(folder), SETTINGS).wanted
    assert own is not None
    primary = the(folder, "Service", "shop-db-gate-primary")["spec"]
    assert own["spec"]["selector"].items() < primary["selector"].items()
    (port,) = primary["ports"]
    assert (port["port"], port["targetPort"]) == (5432, SETTINGS.gate_port)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_additional_network_policy_is_for_the_targets_pods(folder: str) -> None:
    selector = the(folder, "ProtectedTarget")["spec"]["selector"]
    assert the(folder, "NetworkPolicy")["spec"]["podSelector"] == selector


@pytest.mark.parametrize("folder", FOLDERS)
def test_pg_hba_speaks_of_the_roles_that_the_target_logs_in_as(folder: str) -> None:
    roles = {str(each.username) for each in target_of(folder).spec.credentials}
    confined = [line.split() for line in cluster_of(folder)[1] if roles & set(line.split()[2].split(","))]
    assert [set(fields[2].split(",")) for fields in confined] == [roles] * 3
    assert [fields[3:] for fields in confined] == [
        ["127.0.0.1/32", "scram-sha-256"],
        ["::1/128", "scram-sha-256"],
        ["all", "reject"],
    ]


def test_cloudnative_pg_makes_the_gates_roles_with_the_targets_secrets() -> None:
    managed = {
        each["name"]: each["passwordSecret"]["name"] for each in the("cloudnative-pg", "Cluster")["spec"]["managed"]["roles"]
    }
    asked = {}
    for each in target_of("cloudnative-pg").spec.credentials:
        assert each.secret_ref is not None
        asked[str(each.username)] = str(each.secret_ref.name)
    assert managed == asked


def test_zalandos_operator_makes_the_targets_secrets() -> None:
    spec = the("zalando", "postgresql")["spec"]
    assert spec["preparedDatabases"]["shop"]["defaultUsers"] is True
    for each in target_of("zalando").spec.credentials:
        assert each.secret_ref is not None
        username = str(each.username)
        assert re.fullmatch(r"shop_(reader|writer)_user", username)
        # secret_name_template of the operator, whose default is written out here; underscores become hyphens
        assert each.secret_ref.name == f"{username.replace('_', '-')}.shop-db.credentials.postgresql.acid.zalan.do"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_certificate_is_for_both_services(folder: str) -> None:
    script = (EXAMPLES / folder / "secrets.sh").read_text()
    (hosts,) = re.findall(r"for host in (.*?);", script)
    names = {each["metadata"]["name"] for each in documents(folder) if each["kind"] == "Service"}
    assert set(hosts.split()) == names | {"shop-db-gate"}
    secret = the(folder, "ProtectedTarget")["spec"]["tls"]["client"]["secretRef"]["name"]
    assert f"create secret tls {secret} " in script
