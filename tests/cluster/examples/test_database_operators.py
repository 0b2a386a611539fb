"""The examples for database operators, judged by an API server that has the operators' own schemas: nothing is misspelt, nothing out of range."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.api_server import ApiServer
from tests.support.cloudnative_pg import required_build

EXAMPLES = Path(__file__).parents[3] / "examples"
FOLDERS = ("cloudnative-pg", "zalando")


def foreign_crd(folder: str) -> dict[str, Any]:
    """Of CloudNativePG the whole one, as its release has it."""
    if folder == "zalando":
        found: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("zalando-postgresql.crd.yaml").read_text())
        return found
    release = yaml.load_all((required_build() / "release.yaml").read_text(), Loader=yaml.CSafeLoader)
    return next(each for each in release if each["metadata"]["name"] == "clusters.postgresql.cnpg.io")


@pytest.fixture(scope="module")
def prepared(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> ApiServer:
    crds = tmp_path_factory.mktemp("crds")
    for folder in FOLDERS:
        (crds / f"{folder}.yaml").write_text(yaml.safe_dump(foreign_crd(folder)))
    api_server.apply_crds(crds)
    api_server.admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    return api_server


def applied(api_server: ApiServer, folder: Path) -> tuple[int, str, str]:
    done = api_server.kubectl("apply", "--kustomize", str(folder), "--server-side", "--dry-run=server", "--validate=strict")
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_api_server_takes_every_manifest(prepared: ApiServer, folder: str) -> None:
    status, said, problems = applied(prepared, EXAMPLES / folder)
    assert (status, problems) == (0, "")
    owned = "cluster.postgresql.cnpg.io/shop-db" if folder == "cloudnative-pg" else "postgresql.acid.zalan.do/shop-db"
    for each in (
        owned,
        "protectedtarget.sidegate.dev/shop-db",
        "service/shop-db-gate-primary",
        "networkpolicy.networking.k8s.io/shop-db-direct",
    ):
        assert f"{each} serverside-applied (server dry run)" in said


@pytest.mark.parametrize(
    ("folder", "file", "right", "wrong"),
    [
        ("cloudnative-pg", "cluster.yaml", "inheritedMetadata:", "inheritedMetaData:"),
        ("zalando", "postgresql.yaml", "podAnnotations:", "podAnnotation:"),
        ("zalando", "postgresql.yaml", "defaultUsers: true", 'defaultUsers: "yes"'),
    ],
)
def test_the_api_server_would_refuse_a_slip(
    prepared: ApiServer, tmp_path: Path, folder: str, file: str, right: str, wrong: str
) -> None:
    shutil.copytree(EXAMPLES / folder, tmp_path / folder)
    text = (tmp_path / folder / file).read_text()
    assert text.count(right) == 1
    (tmp_path / folder / file).write_text(text.replace(right, wrong))
    assert applied(prepared, tmp_path / folder)[0] != 0
