"""Where the test cluster's programs are: built beforehand by `make cluster-programs` (tests/cluster/build.sh), never by a test.

A build takes minutes, which no test should wait for unannounced. What isn't built ends the test with the command that builds it.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final, Literal

from tests.support import requirements

CLUSTER: Final = Path(__file__).resolve().parents[1] / "cluster"
Part = Literal["control-plane", "node", "fake-nodes"]


@cache
def built_programs(part: Part) -> Path | None:
    """The folder that has the programs of `part`, each by its component's name; None: not built."""
    command = ["bash", str(CLUSTER / "build.sh"), "--where", part]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def required_control_plane() -> Path:
    """The folder of etcd, kube-apiserver and kubectl, or the end of the test. The node's build has them too."""
    found = built_programs("control-plane") or built_programs("node") if sys.platform == "linux" else None
    if found is None:
        requirements.absent("a built Kubernetes control plane", "run `make cluster-programs`, which needs Linux and Go")
    return found
