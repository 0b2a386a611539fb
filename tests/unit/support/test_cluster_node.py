"""Where no node can be had, tests that need one say so and what to do; in CI they fail."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.cluster_node import ClusterError, running_cluster


@pytest.fixture(autouse=True)
def _somebody_without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", "PYTEST_XDIST_WORKER", "CI"):
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
