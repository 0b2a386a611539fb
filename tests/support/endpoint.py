"""Where a client connects: PostgreSQL itself or a gate in front of it. Tests that hold for both take an `Endpoint` and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from psycopg.conninfo import make_conninfo

Transport = Literal["tcp", "unix"]

_VARIABLES = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE", "password": "PGPASSWORD"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`password` gives what a role logs in with: its password, a token, or None where none is asked for."""

    name: str
    port: int
    socket_directory: Path
    password: Callable[[str], str | None]

    def parameters(self, role: str, database: str, via: Transport = "tcp") -> dict[str, str]:
        """libpq's keywords: what psycopg.connect(**...) takes."""
        host = "127.0.0.1" if via == "tcp" else str(self.socket_directory)
        found = {"host": host, "port": str(self.port), "user": role, "dbname": database}
        password = self.password(role)
        return found if password is None else {**found, "password": password}

    def dsn(self, role: str, database: str, via: Transport = "tcp") -> str:
        return make_conninfo("", **self.parameters(role, database, via))

    def environment(self, role: str, database: str, via: Transport = "tcp") -> dict[str, str]:
        """libpq's environment variables, for programs."""
        return {_VARIABLES[key]: value for key, value in self.parameters(role, database, via).items()}
