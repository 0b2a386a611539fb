"""Write sidecar/sidegate/sql/builtins.py from real servers: what their catalogs hold, and which functions are safe by kind.

    python -m tools.sql_builtins [--check]

A name counts as safe by kind when every overload of it, in each version asked, is immutable or stable and written in PostgreSQL's own C or,
for the few that are SQL, in its own catalog. What such a name may still reach is for sidegate.sql.functions to say. `--check` compares
and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.debian_postgres import required_debian_installation
from tests.support.postgres_server import PostgresServer

TARGET = Path(__file__).resolve().parent.parent / "sidecar/sidegate/sql/builtins.py"
HEAD = '''"""What every PostgreSQL has before anyone creates anything. Made by tools/sql_builtins.py from versions {versions}; don't edit.

`SAFE_BY_KIND` is not the last word: sidegate.sql.functions takes names out that reach files, other sessions or table data.
"""

# ruff: noqa: SIM905

from __future__ import annotations

from typing import Final

'''
RELATIONS = "SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')"
FUNCTIONS = """
SELECT proname, bool_and(provolatile IN ('i', 's') AND lanname IN ('internal', 'sql'))
FROM pg_proc JOIN pg_language l ON l.oid = prolang WHERE pronamespace = '{schema}'::regnamespace GROUP BY proname"""
OPERATORS = "SELECT oprname FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace"
TYPES = "SELECT typname FROM pg_type WHERE typnamespace = '{schema}'::regnamespace AND typtype <> 'c' AND typname !~ '^_'"
ARRAYS = """
SELECT t.typname FROM pg_type t JOIN pg_type e ON e.oid = t.typelem
WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typname ~ '^_' AND e.typtype <> 'c'"""


def names(connection: psycopg.Connection[tuple[object, ...]], query: str) -> set[str]:
    return {str(row[0]) for row in connection.execute(query).fetchall()}


class Catalog:
    def __init__(self, server: PostgresServer) -> None:
        with server.admin() as connection:
            self.version = connection.info.server_version // 10000
            self.relations = names(connection, RELATIONS)
            self.operators = names(connection, OPERATORS)
            self.types = names(connection, TYPES.format(schema="pg_catalog")) | names(connection, ARRAYS)
            self.information_types = names(connection, TYPES.format(schema="information_schema"))
            self.functions: dict[str, bool] = {
                str(name): bool(safe) for name, safe in connection.execute(FUNCTIONS.format(schema="pg_catalog")).fetchall()
            }
            self.information_functions: dict[str, bool] = {
                str(name): bool(safe)
                for name, safe in connection.execute(FUNCTIONS.format(schema="information_schema")).fetchall()
            }


def table(name: str, meaning: str, words: set[str]) -> str:
    body = "\n".join(textwrap.wrap(" ".join(sorted(words)), 136, break_long_words=False, break_on_hyphens=False))
    return f'# {meaning}\n{name}: Final = frozenset(\n    """\n{body}\n""".split()\n)\n'


def build() -> str:
    catalogs: list[Catalog] = []
    with PostgresServer() as newest:
        catalogs.append(Catalog(newest))
    with PostgresServer(required_debian_installation()) as older:
        catalogs.append(Catalog(older))
    every = {name for catalog in catalogs for name in catalog.functions}
    safe = {name for name in every if all(catalog.functions.get(name, True) for catalog in catalogs)}
    everywhere = set.intersection(*(catalog.relations for catalog in catalogs))
    parts = [
        table("CATALOG_RELATIONS", "In pg_catalog of every version asked.", everywhere),
        table(
            "NEWER_CATALOG_RELATIONS",
            "In pg_catalog of some version only: elsewhere the name is free for a table.",
            set.union(*(catalog.relations for catalog in catalogs)) - everywhere,
        ),
        table("CATALOG_FUNCTIONS", "Every function, procedure, aggregate and window function of pg_catalog.", every),
        table("SAFE_BY_KIND", "Of those: every overload immutable or stable, in C or SQL of PostgreSQL's own.", safe),
        table("CATALOG_OPERATORS", "Operator names of pg_catalog.", set.intersection(*(c.operators for c in catalogs))),
        table(
            "CATALOG_TYPES",
            "Types of pg_catalog, row types left out.",
            set.intersection(*(c.types for c in catalogs)),
        ),
        table("INFORMATION_TYPES", "Domains of information_schema.", set.intersection(*(c.information_types for c in catalogs))),
        table(
            "INFORMATION_FUNCTIONS",
            "Safe functions of information_schema.",
            {name for name, is_safe in catalogs[0].information_functions.items() if is_safe},
        ),
    ]
    versions = " and ".join(str(version) for version in sorted(catalog.version for catalog in catalogs))
    return HEAD.format(versions=versions) + "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    text = build()
    if arguments.check:
        is_current = TARGET.read_text() == text
        print(
            "current"
            if is_current
            else "sidecar/sidegate/sql/builtins.py is not what the servers say: run python -m tools.sql_builtins"
        )
        return 0 if is_current else 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
