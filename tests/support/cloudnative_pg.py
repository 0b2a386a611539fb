"""CloudNativePG itself, built from its Go modules by tests/databases/build.sh: the image of its one program, and what its users apply.

    operator = required_cloudnative_pg(tmp_path)
    cluster.load(operator.image)
    cluster.kubectl("apply", "--server-side", "--filename", "-", stdin=operator.manifests)

Rules: nothing of what it applies is changed but the image's name and when it is pulled. A build takes minutes, so no test does it: what isn't
built ends the test with the command that builds it. Left out: images of PostgreSQL; tests give it the project's own.
"""

from __future__ import annotations

import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support import requirements
from tests.support.cluster_node import ROOT, ClusterImage
from tools.image_archive import ARCHITECTURES, Settings, layer_of_files, manifest_digest, write_archive

NAMESPACE: Final = "cnpg-system"
_REPOSITORY: Final = "localhost/sidegate/cloudnative-pg"
_USER: Final = "10001"


@dataclass(frozen=True, slots=True)
class CloudNativePg:
    version: str
    image: ClusterImage
    manifests: str


def required_build() -> Path:
    """The folder of the program `manager` and of `release.yaml`, or the end of the test."""
    command = ["bash", str(ROOT / "tests" / "databases" / "build.sh"), "--where"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        requirements.absent("a built CloudNativePG", "run `make cluster-programs`, which needs Linux and Go")
    return Path(done.stdout.strip())


def required_cloudnative_pg(folder: Path) -> CloudNativePg:
    """The operator, its image packed in `folder`; or the end of the test."""
    built = required_build()
    program = (built / "manager").read_bytes()
    # The operator looks for the program by architecture, to hand it to instances that run another version; they start with /manager.
    names = ("/manager", f"/operator/manager_{ARCHITECTURES.get(platform.machine(), platform.machine())}")
    layer = layer_of_files(dict.fromkeys(names, (program, 0o755)), folder / "cloudnative-pg.layer")
    settings = Settings(["/manager"], _USER)
    name = f"{_REPOSITORY}:{manifest_digest([layer], settings)[7:19]}"
    archive = folder / "cloudnative-pg.tar"
    write_archive(archive, [name], [layer], settings)
    layer.file.unlink()
    manifests = (built / "release.yaml").read_text()
    (image,) = set(re.findall(r"image: (ghcr\.io/cloudnative-pg/cloudnative-pg:\S+)", manifests))
    manifests = manifests.replace(image, name).replace("imagePullPolicy: Always", "imagePullPolicy: IfNotPresent")
    return CloudNativePg(image.rpartition(":")[2], ClusterImage(name, archive), manifests)
