"""Which place a command is about: options, then the environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from sidegate.cli.place import ClusterChoice, is_in_cluster

NO_OPTION = ClusterChoice()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SIDEGATE_STATE", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_an_option_decides_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDEGATE_STATE", "/state")
    for asked in (
        ClusterChoice(namespace="shop"),
        ClusterChoice(context="c"),
        ClusterChoice("f"),
        ClusterChoice(all_namespaces=True),
    ):
        assert is_in_cluster(asked, None)
    monkeypatch.delenv("SIDEGATE_STATE")
    monkeypatch.setenv("KUBECONFIG", "/kubeconfig")
    assert not is_in_cluster(NO_OPTION, "directory")


def test_options_of_both_kinds_are_refused() -> None:
    with pytest.raises(click.UsageError):
        is_in_cluster(ClusterChoice(namespace="shop"), "directory")


def test_a_state_directory_goes_before_a_kubeconfig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/kubeconfig")
    assert is_in_cluster(NO_OPTION, None)
    monkeypatch.setenv("SIDEGATE_STATE", "/state")
    assert not is_in_cluster(NO_OPTION, None)


def test_the_users_own_kubeconfig_is_in_effect_when_it_is_there(home: Path) -> None:
    assert not is_in_cluster(NO_OPTION, None)
    (home / ".kube").mkdir()
    (home / ".kube" / "config").write_text("")
    assert is_in_cluster(NO_OPTION, None)


WITHOUT_CLIENT = """
import sys
sys.modules["kubernetes"] = None  # as where it isn't installed
from sidegate.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("arguments", [("approvals", "-A"), ("approve", "x", "-n", "shop", "--yes")], ids=lambda each: each[0])
def test_without_the_client_a_command_for_a_cluster_says_what_to_install(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CLIENT, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 1
    assert "commands for a cluster need the package `kubernetes`: install sidegate[cluster]" in done.stderr


def test_help_comes_without_the_client() -> None:
    listing = "import sys; from sidegate.cli.main import main; main(['approve', '--help'], standalone_mode=False); "
    check = "assert not {'kubernetes', 'pydantic', 'yaml'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", listing + check], capture_output=True, check=False, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.returncode == 0, done.stderr
