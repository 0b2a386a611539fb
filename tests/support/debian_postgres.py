"""Debian's PostgreSQL with TLS, for what the embedded one can't do: certificates, channel binding, pg_stat_statements, an older version.

Same class, same roles, same shop; TLS with a certificate for `localhost` and 127.0.0.1 from an authority made for the run. Absent
packages are installed where we are root; else the test is skipped with its reason, but fails where CI=true.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import trustme

from tests.support import requirements
from tests.support.postgres_server import HBA, Installation, PostgresServer, installation_at

DEBIAN_HOME: Final = Path("/usr/lib/postgresql")
INSTALL_TIMEOUT_S: Final = 300


def install(*packages: str) -> bool:
    """Install packages of Debian; False when that can't be done here."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return False
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = [apt, "install", "-y", "--no-install-recommends", *packages]
    for attempt in (command, [apt, "update"], command):
        done = subprocess.run(attempt, env=environment, capture_output=True, timeout=INSTALL_TIMEOUT_S, check=False)
        if done.returncode == 0 and attempt is command:
            return True
    return False


def _find() -> Path | None:
    found = sorted(DEBIAN_HOME.glob("*/bin/postgres"), key=lambda path: int(path.parent.parent.name))
    return found[-1].parent if found else None


@cache
def debian_installation() -> Installation | None:
    """The newest installed version, installed first if need be; None: can't be had."""
    binaries = _find()
    if binaries is None and install("postgresql", "postgresql-client"):
        binaries = _find()
    return installation_at(binaries) if binaries else None


@cache
def pgbouncer_program() -> Path | None:
    """pgbouncer, installed first if need be; None: can't be had."""
    found = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if found is None and install("pgbouncer"):
        found = shutil.which("/usr/sbin/pgbouncer")
    return Path(found) if found else None


@dataclass(frozen=True, slots=True)
class Certificates:
    """An authority of one run. `issue` gives certificate chain and key as PEM."""

    authority: trustme.CA

    @classmethod
    def create(cls) -> Certificates:
        return cls(trustme.CA())

    @property
    def authority_pem(self) -> bytes:
        return self.authority.cert_pem.bytes()

    def issue(self, *names: str) -> tuple[bytes, bytes]:
        leaf = self.authority.issue_cert(*names)
        return b"".join(pem.bytes() for pem in leaf.cert_chain_pems), leaf.private_key_pem.bytes()


class DebianPostgres(PostgresServer):
    """A `PostgresServer` with TLS. `ca_file` verifies it under the names `localhost` and `127.0.0.1`."""

    def __init__(self, installation: Installation, *, hba: Sequence[str] = ()) -> None:
        certificates = Certificates.create()
        chain, key = certificates.issue("localhost", "127.0.0.1")
        super().__init__(
            installation,
            settings={
                "ssl": "on",
                "ssl_cert_file": "tls.crt",
                "ssl_key_file": "tls.key",
                "shared_preload_libraries": "pg_stat_statements",
            },
            hba=hba,
            files={"tls.crt": chain, "tls.key": key},
        )
        self.ca_file = self.directory / "ca.crt"
        self.ca_file.write_bytes(certificates.authority_pem)


def required_debian_installation() -> Installation:
    """Debian's PostgreSQL, or the end of the test."""
    installation = debian_installation()
    if installation is None:
        requirements.absent("Debian's PostgreSQL", "apt-get install postgresql, or run the tests as root on Debian")
    return installation


TLS_ONLY_HBA: Final = ("hostnossl all all 127.0.0.1/32 reject", *HBA)
