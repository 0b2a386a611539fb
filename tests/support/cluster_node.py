"""A cluster with a node, where pods run: the one that KUBECONFIG names, or one that is brought up here and taken down at the end.

    with running_cluster() as cluster:
        cluster.load(images["gate"])
        cluster.client.apply({...})
        cluster.exec(namespace, pod, ["psql", "-c", "..."], stdin=token)

Rules: a cluster that ran before is used and left alone; one that was brought up is taken down, however the tests end; one test run a machine
has the node, others wait. What is absent ends the test with what to do. Needs root on Debian, or a KUBECONFIG; for that one,
`SIDEGATE_LOAD_IMAGE` is the command that loads an archive of images, as in `kind load image-archive --name sidegate`.
Left out: more than one node.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support import requirements
from tests.support.cluster_client import ClusterClient
from tests.support.cluster_programs import CLUSTER, built_programs

ROOT: Final = Path(__file__).resolve().parents[2]
STATE: Final = Path(os.environ.get("SIDEGATE_CLUSTER") or "/var/lib/sidegate-cluster")
LOAD_SETTING: Final = "SIDEGATE_LOAD_IMAGE"
_UP_TIMEOUT_S: Final = 300.0  # apt-get installs what is missing
_IMAGES_TIMEOUT_S: Final = 900.0
_EXEC_TIMEOUT_S: Final = 60.0


class ClusterError(Exception):
    """The cluster, or a program that speaks to it, failed; the message ends with what it said."""


@dataclass(frozen=True, slots=True)
class ClusterImage:
    """An image as manifests name it, and the archive that it is loaded from."""

    name: str
    archive: Path


@dataclass(frozen=True, slots=True)
class Cluster:
    kubeconfig: Path
    kubectl_program: Path
    client: ClusterClient

    def kubectl(self, *arguments: str, stdin: str = "", timeout_s: float = _EXEC_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Run kubectl as an administrator; whether it ended well is for the caller to look at."""
        command = [str(self.kubectl_program), "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)

    def exec(
        self, namespace: str, pod: str, command: Sequence[str], *, container: str | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in a container, with `stdin` as its input."""
        chosen = ["--container", container] if container else []
        return self.kubectl("exec", "--stdin", "--namespace", namespace, pod, *chosen, "--", *command, stdin=stdin)

    def load(self, image: ClusterImage) -> None:
        """Bring an image to the node, unless it has it.

        Raises:
            ClusterError: it couldn't be loaded.
        """
        socket = STATE / "containerd.sock"
        command = os.environ.get(LOAD_SETTING)
        if command:
            _run([*shlex.split(command), str(image.archive)], _IMAGES_TIMEOUT_S)
        elif self.kubeconfig == STATE / "admin.conf" and socket.exists():
            ctr = ["ctr", "--address", str(socket), "--namespace", "k8s.io", "images"]
            if image.name not in _run([*ctr, "ls", "-q"], _EXEC_TIMEOUT_S).splitlines():
                _run([*ctr, "import", str(image.archive)], _IMAGES_TIMEOUT_S)
        else:
            raise ClusterError(f"the node of {self.kubeconfig} has no {socket}: bring it up again")


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """The cluster to test on.

    Raises:
        ClusterError: it didn't come up, or couldn't be taken down.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        raise ClusterError("one node can't serve the workers of pytest-xdist: run `make test-e2e`, or pytest with `-n 0`")
    named = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    if named:
        found = _cluster(Path(named))
        if found.kubeconfig != STATE / "admin.conf" and not os.environ.get(LOAD_SETTING):
            # asked before anything is made there: many have a KUBECONFIG set all day, and it isn't for tests
            requirements.absent(
                "the setting that says how images are loaded into KUBECONFIG's cluster",
                f"set {LOAD_SETTING}, as in `kind load image-archive --name sidegate`, or unset KUBECONFIG",
            )
        yield found
        return
    if not _may_be_a_node():
        requirements.absent(
            "a cluster with a node",
            "run as root on Debian, in a container only when it is privileged, which brings one up, "
            "or set KUBECONFIG, to that of `make kind` for instance",
        )
    if built_programs("node") is None:
        requirements.absent("the node's programs", "run `make cluster-programs`, which needs Go and takes some minutes once")
    with STATE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_ours = True
        try:
            is_ours = "is up already" not in _run(["bash", str(CLUSTER / "up.sh")], _UP_TIMEOUT_S)
            yield _cluster(STATE / "admin.conf")
        finally:
            if is_ours:
                _run(["bash", str(CLUSTER / "down.sh")], _UP_TIMEOUT_S)


def made_images() -> Mapping[str, ClusterImage]:
    """The images of this source tree, `gate`, `operator`, `redirect` and `postgres`: made now as root on Debian, else those in build/images.

    Raises:
        ClusterError: they couldn't be made.
    """
    listing = ROOT / "build" / "images" / "images.json"
    if sys.platform == "linux" and os.geteuid() == 0 and not os.environ.get(LOAD_SETTING):
        if shutil.which("debootstrap", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            requirements.absent("the program `debootstrap`", "apt-get install debootstrap")
        _run([sys.executable, "-m", "tools.image"], _IMAGES_TIMEOUT_S)
    elif not listing.exists():
        requirements.absent("build/images/images.json", "run `make image` as root on Debian, and copy what it made")
    return {name: ClusterImage(each["image"], ROOT / each["archive"]) for name, each in json.loads(listing.read_text()).items()}


def _may_be_a_node() -> bool:
    """Whether this is Debian and pods could run: root of most containers may make neither mounts nor network namespaces."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    tried = ["unshare", "--mount", "--net", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


def _cluster(kubeconfig: Path) -> Cluster:
    programs = built_programs("node") or built_programs("control-plane")
    kubectl = programs / "kubectl" if programs else requirements.program("kubectl", "install it, or run `make cluster-programs`")
    return Cluster(kubeconfig, kubectl, ClusterClient.from_kubeconfig(kubeconfig))


def _run(command: Sequence[str], timeout_s: float) -> str:
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode != 0:
        raise ClusterError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
