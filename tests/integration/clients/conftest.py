"""Client programs: where they are, how they are run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.support import requirements
from tests.support.debian_postgres import debian_installation
from tests.support.endpoint import Endpoint, Transport
from tests.support.postgres_server import Installation, embedded_installation

RUN_TIMEOUT_S = 60

Run: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


def run_program(
    program: Path | str,
    *arguments: str,
    environment: Mapping[str, str],
    stdin: str | None = None,
    check: bool = True,
    timeout_s: float = RUN_TIMEOUT_S,
) -> subprocess.CompletedProcess[str]:
    """Run to the end with nothing of our own PG* variables. With `check` a failure shows what the program said."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        [str(program), *arguments],
        env={**clean, "PGCONNECT_TIMEOUT": "10", "LC_ALL": "C.UTF-8", **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{program} {arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


@pytest.fixture(scope="session")
def run() -> Run:
    return run_program


@pytest.fixture(scope="session")
def embedded() -> Installation:
    """PostgreSQL 18's programs."""
    return embedded_installation()


@pytest.fixture(
    params=[pytest.param("embedded", id="psql-18"), pytest.param("debian", id="psql-debian", marks=pytest.mark.debian)]
)
def psql_program(request: pytest.FixtureRequest) -> Path:
    """psql of PostgreSQL 18 and of Debian."""
    found = embedded_installation() if request.param == "embedded" else debian_installation()
    if found is None:
        requirements.absent("Debian's psql", "apt-get install postgresql, or run the tests as root on Debian")
    return found.program("psql")


Psql: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def psql(psql_program: Path) -> Psql:
    """Run a script by psql: `psql(endpoint, role, database, script, *arguments, via=..., check=...)`."""

    def run_script(
        endpoint: Endpoint,
        role: str,
        database: str,
        script: str,
        *arguments: str,
        via: Transport = "tcp",
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        return run_program(
            psql_program,
            *("-X", "-v", "ON_ERROR_STOP=1", *arguments),
            environment=endpoint.environment(role, database, via),
            stdin=script,
            check=check,
        )

    return run_script
