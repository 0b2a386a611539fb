"""kwok: plays the kubelet of every node there is, so that pods seem to run and cost nothing. The API server is a real one.

    with FakeNodes(api.kubeconfig, folder) as nodes: ...

Rules: the program is built beforehand by tests/cluster/build.sh. Left out: containers. Nothing listens in these pods.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support import processes, requirements
from tests.support.cluster_programs import built_programs

STAGES: Final = Path(__file__).with_name("stages.yaml")


class FakeNodes:
    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        programs = built_programs("fake-nodes")
        if programs is None:
            requirements.absent("kwok", "run `bash tests/cluster/build.sh fake-nodes`, which needs Linux and Go")
        self.program: Final = programs / "kwok"
        self.log: Final = folder / "kwok.log"
        options = ["--manage-all-nodes", "--node-lease-duration-seconds=40", "--cidr=10.64.0.0/14", "--server-address="]
        self.process: Final = processes.start([self.program, "--kubeconfig", kubeconfig, "--config", STAGES, *options], self.log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def check(self) -> None:
        """Raises ChildError: it has ended."""
        if self.process.poll() is not None:
            raise processes.ChildError(f"kwok ended with {self.process.returncode}: {self.log.read_text()[-4000:]}")

    def version(self) -> str:
        done = subprocess.run([self.program, "--version"], capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.split()[2]  # kwok version v0.8.0 go1.26.8 (linux/amd64)
