"""What Helm does with a release of the chart, each as a process of its own: its caches and threads aren't the tests'.

release = HelmRelease(api_server)
release.install()                          # helm install sidegate charts/sidegate --namespace sidegate-system
release.upgrade({"gateway": {...}})
release.uninstall()
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.support.chart import CHART, LEAST, NAMESPACE, RELEASE, merged

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


class HelmRelease:
    def __init__(self, kubeconfig: Path, home: Path, chart: Path = CHART, namespace: str = NAMESPACE) -> None:
        """`home`: where Helm keeps what it discovered."""
        self.kubeconfig = kubeconfig
        self.home = home
        self.chart = chart
        self.namespace = namespace

    def install(self, values: Mapping[str, Any] | None = None) -> None:
        self._run("install", values)

    def upgrade(self, values: Mapping[str, Any] | None = None) -> None:
        self._run("upgrade", values)

    def uninstall(self) -> None:
        self._run("uninstall", None)

    def _run(self, verb: str, values: Mapping[str, Any] | None) -> None:
        given = json.dumps(merged(LEAST, values or {}))
        command = [sys.executable, "-c", _SCRIPT, verb, str(self.kubeconfig), self.namespace, RELEASE, str(self.chart), given]
        environment = {**os.environ, "HOME": str(self.home)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise HelmError(done.stderr[-4000:])
