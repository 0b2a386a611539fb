"""Which published suites are run, where each is published, and how it is told where the database is. A table; nothing is done here.

Rules: a suite is what its publisher published, proven by hash, and stays outside the project's tree. What is left out of one is named here
with its reason, and printed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

ROLE: Final = "postgres"  # both suites make roles, databases and types, so they want a superuser
DATABASE: Final = "postgres"
OWN_SERVER: Final = "brings up a PostgreSQL of its own and connects to that, so no gate is on the way"
HOST: Final = "127.0.0.1"
PASSWORD: Final = "for suites"  # so that logging in by SCRAM is part of each connection


@dataclass(frozen=True, slots=True)
class LockedSdist:
    """The source archive on the package index, of the version and hash that uv.lock has."""

    project: str


@dataclass(frozen=True, slots=True)
class TaggedCommit:
    """A release in a git repository: its tag, the commit that it must be, and the SHA-256 of what `files` are in it (git's tar)."""

    repository: str
    setting: str  # the environment variable that names another repository: a mirror, a clone
    tag: str
    commit: str
    files: tuple[str, ...]
    sha256: str


Origin: TypeAlias = LockedSdist | TaggedCommit


@dataclass(frozen=True, slots=True)
class Suite:
    """`arguments` and `environment` tell it the port to connect to, and the server's data directory. `roles`: whom it logs in as, beside ROLE, once it has made them."""

    name: str
    origin: Origin
    licence: str
    roles: tuple[str, ...]
    left_out: Mapping[str, str]  # path or test class of the suite -> why
    left_out_marks: Mapping[str, str]  # pytest's mark -> why
    plugins: tuple[str, ...]
    arguments: Callable[[int], tuple[str, ...]]
    environment: Callable[[int, Path], Mapping[str, str]]


def _libpq_dsn(port: int) -> str:
    return f"host={HOST} port={port} user={ROLE} password='{PASSWORD}' dbname={DATABASE}"


ASYNCPG: Final = Suite(
    name="asyncpg",
    origin=LockedSdist("asyncpg"),
    licence="Apache-2.0",
    roles=(
        *("trust_user", "reject_user", "scram_sha_256_user", "md5_user", "password_user", "pooluser"),
        "__nonexistent__",
    ),
    left_out={
        "tests/test_connect.py::TestGssAuthentication": OWN_SERVER,
        "tests/test_connect.py::TestSSLConnection": OWN_SERVER,
        "tests/test_connect.py::TestClientSSLConnection": OWN_SERVER,
        "tests/test_connect.py::TestNoSSLConnection": OWN_SERVER,
        "tests/test_connect.py::TestConnectionAttributes": OWN_SERVER,
        "tests/test_codecs.py::TestCodecsLargeOIDs": OWN_SERVER,
        "tests/test_pool.py::TestPoolReconnectWithTargetSessionAttrs": OWN_SERVER,
        "tests/test_pool.py::TestHotStandby": OWN_SERVER,
    },
    left_out_marks={},
    plugins=("given_cluster",),
    arguments=lambda port: (),
    environment=lambda port, data: {
        "SIDEGATE_CLUSTER_DATA": str(data),
        "SIDEGATE_CLUSTER_PORT": str(port),
        "PGPASSWORD": PASSWORD,
    },
)
PSYCOPG: Final = Suite(
    name="psycopg",
    origin=TaggedCommit(
        repository="https://github.com/psycopg/psycopg.git",
        setting="PSYCOPG_REPOSITORY",
        tag="3.3.4",  # the newest whose content could be checked when it was pinned; what it tests is the library that uv.lock has
        commit="83f110367cdd249cc0a352e2246ecea9e878e5a0",
        files=("tests", "tools/pproxy_fix.py", "pyproject.toml"),
        sha256="989f51a3592124f2baec52a19043f36f592604fa18cc0732c97876141ea28807",
    ),
    licence="LGPL-3.0-only",
    roles=("ashesh",),
    left_out={
        "tests/pool": "tests another package, psycopg_pool, which nothing here depends on",
        "tests/crdb": "for CockroachDB alone",
        "tests/test_typing.py": "runs mypy over psycopg; connects to nothing",
    },
    left_out_marks={
        "refcount": "counts Python objects before and after, to find leaks in the driver; the same statements run in other tests",
    },
    plugins=(),
    arguments=lambda port: ("--test-dsn", _libpq_dsn(port)),
    environment=lambda port, data: {},
)
SUITES: Final = (ASYNCPG, PSYCOPG)
