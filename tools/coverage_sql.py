"""Write docs/coverage/sql.md from the tables of sidegate.sql: what each node of the grammar is, and what is dangerous and why.

python -m tools.coverage_sql [--check]
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable
from pathlib import Path

from sidegate.policy.statement import StatementKind
from sidegate.sql.functions import DANGEROUS, LEAKY_RELATIONS, SAFE, SAFE_VOLATILE, SECRET_COLUMNS
from sidegate.sql.nodes import PLACEMENTS, Place
from sidegate.sql.parse import Limits
from sidegate.sql.settings import HARMLESS

TARGET = Path(__file__).resolve().parent.parent / "docs/coverage/sql.md"
HEAD = """\
# Coverage: SQL

Made by `python -m tools.coverage_sql` from the tables of `sidegate.sql`; a test holds it current. Statements are read by PostgreSQL's own
parser (pglast, grammar of PostgreSQL 18). What isn't in these tables is `Unknown`, and denied.
"""
PLACES = {
    Place.FROM: "From items. They become sources of names; what joins and functions look at steers.",
    Place.EXPRESSION: "Expressions. Every column below one steers; functions, operators and types are looked up.",
    Place.CLAUSE: "Clauses. Read by the statement that owns them.",
    Place.DEFINITION: "Parts of definitions. Names are collected, expressions walked.",
    Place.LEAF: "Constants and names without an effect of their own.",
    Place.ANALYSED: "Made by PostgreSQL after parsing. They can't come from text; if one does, the statement is `Unknown`.",
}
GAPS = (
    (
        "a function of the same name in another schema of the search_path may be called instead of pg_catalog's; operators and casts alike",
        "PostgreSQL takes the best match of argument types over the whole path, and types are not known here",
        "no right to create functions in schemas of the path; `pg_catalog.` written out",
    ),
    (
        "`u.f` may be the call `f(u)` of a function on the whole row",
        "only the catalog tells whether `u` has a column `f`",
        "no such functions on masked tables; whoever has the catalog can refuse a column that the relation hasn't got",
    ),
    (
        "bodies given as strings (functions, DO blocks) are not read",
        "they are in other languages, and run later",
        "a function that no grant names is `Call`, and nothing is allowed for it by default",
    ),
    (
        "what views, rules, triggers and cascades reach is not followed",
        "it is the target's catalog that knows",
        "row limits count cascades and triggers; the gate's catalog follows views, and the target is asked what goes with CASCADE",
    ),
    (
        "a temporary table of the session hides another table of its name",
        "whether it exists is not known here",
        "it takes a granted `DDL`; masks go by the origin that the target tells",
    ),
    (
        "a copy of a whole table leaves generated columns out, its describing query doesn't",
        "which columns are generated is not known here",
        "whoever masks a copy compares the number of columns",
    ),
)


def listed(names: Iterable[str]) -> str:
    text = " ".join(f"`{name}`" for name in sorted(names))
    return "\n".join(textwrap.wrap(text, 140, break_long_words=False, break_on_hyphens=False))


def kinds(found: Iterable[StatementKind]) -> str:
    return ", ".join(sorted(found)) or "by what it says"


def statements() -> str:
    rows = ["## Statements", "", "| node | kinds | notes |", "| --- | --- | --- |"]
    rows += [
        f"| `{name}` | {kinds(placed.kinds)} | {placed.note} |"
        for name, placed in sorted(PLACEMENTS.items())
        if placed.place in (Place.QUERY, Place.UTILITY)
    ]
    return "\n".join(rows) + "\n"


def nodes() -> str:
    parts = ["## Other nodes\n"]
    for place, meaning in PLACES.items():
        parts.append(f"{meaning}\n\n{listed(name for name, placed in PLACEMENTS.items() if placed.place is place)}\n")
    return "\n".join(parts)


def functions() -> str:
    by_reason: dict[tuple[str, str], list[str]] = {}
    for name, danger in DANGEROUS.items():
        by_reason.setdefault((danger.why, kinds(danger.kinds)), []).append(name)
    parts = [
        "## Functions\n",
        f"{len(SAFE)} built-in functions are known to be safe: every overload is immutable or stable and PostgreSQL's own, or it is one of"
        " the volatile ones below. Any other function makes the statement `Call`.\n",
        f"Volatile and safe (clocks, chance, waiting, sizes and positions):\n\n{listed(SAFE_VOLATILE)}\n",
    ]
    for (why, what), names in sorted(by_reason.items()):
        parts.append(f"**{what}**: {why}.\n\n{listed(names)}\n")
    return "\n".join(parts)


def _columns(relation: str) -> str:
    secret = SECRET_COLUMNS.get(relation)
    if secret is None:
        return "any column"
    return ", ".join(f"`{name}`" for name in sorted(secret.names)) + (", masked" if secret.may_be_shown else "")


def relations() -> str:
    rows = [
        "## Relations that hold secrets or values",
        "",
        "Reading one is `Server`; of those with columns named here, a SELECT of other columns is `Read`, and a column that is masked may"
        " stand plainly in its output too: whoever isn't granted `Server` sees it masked.",
        "",
        "| relation | holds | in |",
        "| --- | --- | --- |",
    ]
    rows += [f"| `{name}` | {why} | {_columns(name)} |" for name, why in sorted(LEAKY_RELATIONS.items())]
    return "\n".join(rows) + "\n"


def limits() -> str:
    found = Limits()
    return f"""\
## Limits

| limit | value |
| --- | --- |
| text | {found.max_text_bytes // 1024 // 1024} MiB |
| parts of a text over {found.max_dense_bytes // 1024 // 1024} MiB (separators, roughly tokens) | {found.max_tokens} |
| parse tree, beside the text | {found.max_tree_bytes // 1024 // 1024} MiB, about 150,000 constants |
| queries inside queries | {found.max_query_depth} |
| joins inside joins | {found.max_join_depth} |
| statements in one text | {found.max_statements} |
| expressions inside expressions | what the decoder takes: some 400 |
"""


def gaps() -> str:
    rows = ["## Known gaps", "", "| gap | why | what closes it |", "| --- | --- | --- |"]
    return "\n".join([*rows, *(f"| {gap} | {why} | {closes} |" for gap, why, closes in GAPS)]) + "\n"


def build() -> str:
    harmless = (
        f"## Settings\n\nHarmless, so `Session`; any other is `Settings`, or `Roles` for who one is.\n\n{listed(HARMLESS)}\n"
    )
    harmless += "\n`client_encoding` is harmless when it is set to UTF8, `standard_conforming_strings` when it is set to on.\n"
    return "\n".join([HEAD, statements(), nodes(), functions(), relations(), harmless, limits(), gaps()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = build()
    if parser.parse_args().check:
        return 0 if TARGET.read_text() == text else 1
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
