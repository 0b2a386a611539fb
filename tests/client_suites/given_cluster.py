"""A pytest plugin for asyncpg's suite: gives it a running PostgreSQL as if the suite had started it, so that it may rewrite pg_hba.conf.

Told by PGHOST alone that a server is there, the suite leaves out every test that changes how the server logs clients in, or cuts
connections. Loaded by `-p given_cluster` in the suite's own environment; imports asyncpg alone and none of the project. `SIDEGATE_CLUSTER_DATA`
is the data directory, `SIDEGATE_CLUSTER_PORT` where clients connect: that server's own port, or a gate's.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from asyncpg import _testbase, cluster  # type: ignore[import-untyped]

HOST = "127.0.0.1"
DATA = Path(os.environ["SIDEGATE_CLUSTER_DATA"])
PORT = int(os.environ["SIDEGATE_CLUSTER_PORT"])


class GivenCluster(cluster.Cluster):  # type: ignore[misc]
    """Neither started nor stopped by the suite, and reloaded by signal: `pg_ctl` refuses root."""

    def __init__(self) -> None:
        super().__init__(str(DATA))

    def get_status(self) -> str:
        return "running"

    def get_connection_spec(self) -> dict[str, Any]:
        return {"host": HOST, "port": PORT, **(self._connection_spec_override or {})}

    def get_pg_version(self) -> tuple[int, ...]:
        major = (DATA / "PG_VERSION").read_text().strip()
        return (int(major), 0)

    def reload(self) -> None:
        os.kill(int((DATA / "postmaster.pid").read_text().splitlines()[0]), signal.SIGHUP)


_testbase._default_cluster = GivenCluster()
