"""Other host rules for a running PostgreSQL: written, loaded, and known to be in force.

    with host_rules(server, ["host all all all reject"]):
        ...                                     # the superuser still comes in over the socket
    STRANGER_ADDRESS                            # an address of this machine that a rule can tell from 127.0.0.1

INVARIANT: the first line lets the superuser in over the socket, or nobody could put the old rules back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.postgres_server import SUPERUSER, PostgresServer
from tests.support.processes import wait_until

STRANGER_ADDRESS: Final = "127.0.0.2"
ADMIN: Final = f"local all {SUPERUSER} trust"


def loaded_at(server: PostgresServer) -> object:
    """When the server read its files last. Each connection is a new one, which tells the postmaster's time."""
    with server.admin() as admin:
        return admin.execute("SELECT pg_conf_load_time()").fetchone()


def load_rules(server: PostgresServer, text: str) -> None:
    hba = server.data / "pg_hba.conf"
    hba.write_text(text)
    before = loaded_at(server)
    with server.admin() as admin:
        admin.execute("SELECT pg_reload_conf()")
    wait_until(lambda: loaded_at(server) != before, "the rules to be loaded")


@contextmanager
def host_rules(server: PostgresServer, lines: Sequence[str], files: Mapping[str, str] | None = None) -> Iterator[Path]:
    """The rules, and files beside them that they include. Gives the file's path."""
    hba = server.data / "pg_hba.conf"
    before = hba.read_text()
    for name, text in (files or {}).items():
        path = server.data / name
        path.write_text(text)
        path.chmod(0o644)
    load_rules(server, "\n".join((ADMIN, *lines)) + "\n")
    try:
        yield hba
    finally:
        load_rules(server, before)
        for name in files or {}:
            (server.data / name).unlink(missing_ok=True)
