"""A Docker daemon of our own, and `docker compose`, for the example that is run with it.

    with running_docker(directory) as docker:
        docker.load(archive)
        docker.compose(file, "up", "--detach", environment={...})

Rules: the daemon has its own folder and socket, and leaves this machine's packet filter alone: published ports are served by its own proxy. It
is ended with all that runs in it. Needs root, `dockerd` and `docker` of Debian, and the plugin that `tests/compose/build.sh` builds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support import requirements
from tests.support.processes import wait_until

BUILD: Final = Path(__file__).resolve().parents[1] / "compose" / "build.sh"
_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Docker:
    socket: Path
    settings: Path

    def __call__(
        self, *arguments: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker ARGUMENTS`; whether it ended well is for the caller to look at."""
        own = {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": str(self.settings)}
        return subprocess.run(
            ["docker", *arguments],
            env={**os.environ, **own, **(environment or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )


@contextmanager
def running_docker(directory: Path) -> Iterator[Docker]:
    """The daemon, with nothing in it. `directory` has a short name: sockets are in it."""
    plugin = _compose_plugin()
    for name in ("dockerd", "docker"):
        requirements.program(name, "apt-get install docker.io")
    if sys.platform != "linux" or os.geteuid() != 0:
        requirements.absent("a user that may start containers", "run the tests as root")
    settings = directory / "settings"
    (settings / "cli-plugins").mkdir(parents=True)
    shutil.copy(plugin, settings / "cli-plugins")
    docker = Docker(directory / "docker.sock", settings)
    log = directory / "dockerd.log"
    command = ["dockerd", "--data-root", str(directory / "data"), "--exec-root", str(directory / "exec")]
    (directory / "daemon.json").write_text("{}")  # not this machine's
    command += ["--host", f"unix://{docker.socket}", "--pidfile", str(directory / "dockerd.pid")]
    command += ["--config-file", str(directory / "daemon.json")]
    command += ["--iptables=false", "--ip6tables=false", "--ip-masq=false"]
    with log.open("wb") as output:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: _answers(daemon, docker, log), "dockerd to answer", timeout_s=60, interval_s=0.2)
            yield docker
        finally:
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _answers(daemon: subprocess.Popen[bytes], docker: Docker, log: Path) -> bool:
    if daemon.poll() is not None:
        raise AssertionError(f"dockerd ended with {daemon.returncode}:\n{log.read_text()[-4000:]}")
    return docker("info").returncode == 0


def _compose_plugin() -> Path:
    done = subprocess.run(["bash", str(BUILD), "--where"], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        requirements.absent("a built `docker compose`", "run `bash tests/compose/build.sh`, which needs Go")
    return Path(done.stdout.strip()) / "docker-compose"
