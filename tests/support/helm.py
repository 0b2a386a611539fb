"""What Helm does with a release, each time as a process of its own: its caches and threads aren't the caller's.

helm(kubeconfig, "sidegate-system", "install", "sidegate", CHART, {"gate": {"image": ...}}, home=tmp_path)
helm(kubeconfig, "sidegate-system", "uninstall", "sidegate", home=tmp_path)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

_TIMEOUT_S: Final = 120.0
_SCRIPT: Final = """\
import json, sys
import helm_python as helm
verb, kubeconfig, namespace, name, chart, values = sys.argv[1:]
with helm.Config(kubeconfig_path=kubeconfig, namespace=namespace) as config:
    if verb == "uninstall":
        config.uninstall(name)
    else:
        getattr(config, verb)(chart, name, json.loads(values), namespace=namespace)
"""


class HelmError(Exception):
    """Helm refused or failed; the message is its own."""


def helm(
    kubeconfig: Path,
    namespace: str,
    verb: Literal["install", "upgrade", "uninstall"],
    release: str,
    chart: Path | None = None,
    values: Mapping[str, Any] | None = None,
    *,
    home: Path,
) -> None:
    """`home` is where Helm keeps what it discovered.

    Raises:
        HelmError: it failed.
    """
    arguments = [verb, str(kubeconfig), namespace, release, str(chart or ""), json.dumps(values or {})]
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *arguments],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise HelmError(done.stderr[-4000:])
