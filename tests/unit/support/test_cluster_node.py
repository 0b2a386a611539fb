"""Where no node can be had, tests that need one say so and what to do; in CI they fail."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.cluster_node import LOAD_SETTING, ClusterError, running_cluster


@pytest.fixture(autouse=True)
def _somebody_without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", LOAD_SETTING, "PYTEST_XDIST_WORKER", "CI"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("platform", "user"), [("linux", 1000), ("darwin", 0)])
def test_whoever_is_not_root_on_linux_is_told_what_to_do(platform: str, user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with (
        pytest.raises(pytest.skip.Exception, match=r"a node is absent: run as root on Debian, .* or set KUBECONFIG"),
        running_cluster(),
    ):
        pass


def test_root_of_a_container_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no namespace can be made, as the kernel says to those who lack CAP_SYS_ADMIN."""
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n")
    refusing.chmod(0o755)
    (tmp_path / "apt-get").symlink_to("/bin/true")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(pytest.skip.Exception, match="in a container only when it is privileged"), running_cluster():
        pass


def test_nothing_is_skipped_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.fail.Exception, match="a node is absent"), running_cluster():
        pass


def test_the_workers_of_xdist_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw1")
    with pytest.raises(ClusterError, match="make test-e2e"), running_cluster():
        pass


def test_a_kubeconfig_that_is_named_is_the_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And nothing is brought up when it isn't there."""
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'absent'}{os.pathsep}{tmp_path / 'other'}")
    with pytest.raises(FileNotFoundError, match="absent"), running_cluster():
        pass


def test_a_kubeconfig_alone_is_no_leave_to_test_on_that_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who has one set all day, and runs every test, must not find them in production: no request is made."""
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path)))
    with pytest.raises(pytest.skip.Exception, match=f"set {LOAD_SETTING}, .* or unset KUBECONFIG"), running_cluster():
        pass
    monkeypatch.setenv(LOAD_SETTING, "true")
    with running_cluster() as cluster:
        assert cluster.kubeconfig == tmp_path / "config"


def write_kubeconfig(folder: Path) -> Path:
    file = folder / "config"
    file.write_text(
        """\
current-context: a
contexts: [{name: a, context: {cluster: a, user: a}}]
clusters: [{name: a, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: a, user: {token: secret}}]
"""
    )
    return file
