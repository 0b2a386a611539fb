"""The gate's lines in the form in which each way of running PostgreSQL takes them, with where they go. Pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

from sidegate.setup.host_rules import block


class Form(enum.StrEnum):
    """Where host rules are kept."""

    FILE = "file"
    CLOUD_NATIVE_PG = "cloud-native-pg"
    ZALANDO = "zalando"
    CONFIG_MAP = "config-map"


_WHERE: Final = {
    Form.FILE: "put these lines at the top of {file}, before every other line and include, then SELECT pg_reload_conf()",
    Form.CLOUD_NATIVE_PG: "merge this into the Cluster; CloudNativePG keeps its own lines for replication before yours, "
    "and reloads by itself",
    Form.ZALANDO: "merge this into the postgresql resource, before the lines that you have there: they replace Spilo's, so keep those for "
    "replication, standby and your application behind these",
    Form.CONFIG_MAP: "make this the beginning of the file that your ConfigMap has, and have the server reload",
}


def snippet(form: Form, name: str, lines: Sequence[str], hba_file: str = "") -> str:
    """The lines with a comment on where they go."""
    file = f"`{hba_file}`" if hba_file else "pg_hba.conf (SHOW hba_file tells where it is)"
    where = f"# {_WHERE[form].format(file=file)}\n"
    if form is Form.FILE:
        return where + block(name, lines)
    if form is Form.CONFIG_MAP:
        return where + "data:\n  pg_hba.conf: |\n" + "".join(f"    {line}\n" for line in block(name, lines).splitlines())
    path = ("postgresql", "pg_hba") if form is Form.CLOUD_NATIVE_PG else ("patroni", "pg_hba")
    entries = "".join(f"    - {_yaml(line)}\n" for line in lines)
    return f"{where}spec:\n  {path[0]}:\n    {path[1]}:\n{entries}"


def _yaml(line: str) -> str:
    """A single-quoted scalar, in which only the quote itself is special; names have no line breaks."""
    return "'" + line.replace("'", "''") + "'"
