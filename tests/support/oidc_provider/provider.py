"""The certified npm package `oidc-provider` as an identity provider for tests, where Node is present.

    with OidcProvider() as provider:
        provider.issuer, provider.client_id, provider.client_secret
        provider.rotate()

Installed by `npm ci` from the lock beside this file into build/, once for each lock. Without Node, npm or a registry the test is skipped
with its reason, but fails where CI=true.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Final, Self

from tests.support import requirements

HERE: Final = Path(__file__).parent
BUILD: Final = HERE.parents[2] / "build" / "oidc-provider"
SOURCES: Final = ("package.json", "package-lock.json", "provider.mjs")
INSTALL_TIMEOUT_S: Final = 300


def installed() -> Path:
    """The directory with the program and its packages, or the end of the test."""
    npm = requirements.program("npm", "install Node.js 18 or 20 with npm")
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of one run share the installation
        wanted = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in SOURCES)).hexdigest()
        stamp = BUILD / "installed"
        if not stamp.exists() or stamp.read_text() != wanted:
            for name in SOURCES:
                shutil.copy(HERE / name, BUILD / name)
            command: list[str | Path] = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            done = subprocess.run(command, cwd=BUILD, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
            if done.returncode != 0:
                requirements.absent("the npm package `oidc-provider`", f"npm ci failed: {done.stderr.strip()[-400:]}")
            stamp.write_text(wanted)
    return BUILD


class OidcProvider:
    """A running provider. Use as a context manager."""

    client_id: Final = "reports"
    client_secret: Final = "a secret / with:signs"

    def __init__(self) -> None:
        node = requirements.program("node", "install Node.js 18 or 20")
        directory = installed()
        self._log = (directory / "log").open("ab")
        command = [str(node), "provider.mjs"]
        self._process = subprocess.Popen(
            command, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self.issuer = self._announced()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=20)  # closes its stdin, upon which it ends
        self._log.close()

    def rotate(self) -> None:
        """New keys, and none of the old."""
        assert self._process.stdin is not None
        self._process.stdin.write("rotate\n")
        self._process.stdin.flush()
        assert self._announced() == self.issuer

    def _announced(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"oidc-provider ended: see {self._log.name}")
        issuer: str = json.loads(line)["issuer"]
        return issuer
