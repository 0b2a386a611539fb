"""COPY ... TO STDOUT: which columns it copies, and in which form. It brings no RowDescription, so a gate that masks needs both.

Rules it keeps:
- The describing query names what COPY names, and nothing else: built from the tree for a table, cut from the text for a query, and then
  only when the cut parses to the very same tree.
- An option that isn't understood makes the options None: a row that can't be read can't be masked.

A copy of a whole table leaves its generated columns out (CopyGetAttnums, commands/copy.c), `SELECT *` doesn't: whoever uses the description
must compare its number of columns with that of CopyOutResponse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pglast.parser import ParseError, scan

from sidegate.sql import settings
from sidegate.sql.names import quote, strings
from sidegate.sql.parse import Limits, Node, ParseProblem, parse

_ALL_COLUMNS: Final = "*"
_TRUE: Final = frozenset({"true", "on", "1"})
_FALSE: Final = frozenset({"false", "off", "0"})


@dataclass(frozen=True, slots=True)
class CopyOut:
    """The options of COPY ... TO STDOUT with PostgreSQL's defaults filled in. `force_quote` ("*",): every column."""

    format: str  # text, csv or binary
    delimiter: str
    null: str
    header: bool
    quote: str
    escape: str
    force_quote: tuple[str, ...]
    encoding: str | None  # None: the client's


def copy_out_query(text: str) -> str | None:
    """SQL whose RowDescription describes the copied columns; None when the text isn't one COPY ... TO STDOUT."""
    statement = _copy_statement(text)
    if statement is None:
        return None
    if "query" in statement:
        return _inner_query(text, statement["query"])
    relation = statement["relation"]
    names = [relation[key] for key in ("catalogname", "schemaname", "relname") if key in relation]
    columns = ", ".join(map(quote, strings(statement.get("attlist", []))))
    return f"SELECT {columns or _ALL_COLUMNS} FROM {'.'.join(map(quote, names))}"  # noqa: S608 - every name is quoted


def copy_out_relation(text: str) -> str | None:
    """The quoted name of the table that is copied whole: its columns are those that aren't generated, which only the target knows."""
    statement = _copy_statement(text)
    if statement is None or "query" in statement or statement.get("attlist"):
        return None
    relation = statement["relation"]
    return ".".join(quote(relation[key]) for key in ("catalogname", "schemaname", "relname") if key in relation)


def copy_out_options(text: str) -> CopyOut | None:
    """How the copied rows are written; None when the text isn't one COPY ... TO STDOUT or an option isn't understood."""
    statement = _copy_statement(text)
    return _options(statement.get("options", [])) if statement is not None else None


def _copy_statement(text: str) -> Node | None:
    parsed = parse(text, Limits())
    if isinstance(parsed, ParseProblem) or len(parsed) != 1:
        return None
    statement: Node | None = parsed[0].tree.get("CopyStmt")
    if statement is None or statement.get("is_from") or statement.get("is_program") or "filename" in statement:
        return None
    return statement


def _inner_query(text: str, tree: Node) -> str | None:
    """The text between COPY's own parentheses, when it reads the same alone."""
    try:
        tokens = [token for token in scan(text) if token.name not in ("SQL_COMMENT", "C_COMMENT")]
    except (ParseError, ValueError):
        return None
    depth, start = 0, None
    for token in tokens:
        symbol = text[token.start : token.end + 1]
        if symbol == "(":
            depth += 1
            if start is None:
                start = token.end + 1
        elif symbol == ")":
            depth -= 1
            if depth == 0 and start is not None:
                query = text[start : token.start].strip()
                alone = parse(query, Limits())
                if isinstance(alone, ParseProblem) or len(alone) != 1 or not _is_same(alone[0].tree, tree):
                    return None
                return query
    return None


def _is_same(first: Node, second: Node) -> bool:
    try:
        return bool(_bare(first) == _bare(second))
    except RecursionError:
        return False


# `rexpr_list_start` of IN lists, `list_start` of arrays, and their ends
_POSITIONS: Final = ("location", "list_start", "list_end")


def _bare(node: Any) -> Any:
    """A tree without positions."""
    if isinstance(node, dict):
        return {key: _bare(value) for key, value in node.items() if not key.endswith(_POSITIONS)}
    if isinstance(node, list):
        return [_bare(item) for item in node]
    return node


def _options(nodes: list[Node]) -> CopyOut | None:
    given: dict[str, Node] = {}
    for node in nodes:
        option = node["DefElem"]
        name = str(option.get("defname", ""))
        if name in given:
            return None
        given[name] = option.get("arg", {})
    if given.keys() - {"format", "delimiter", "null", "header", "quote", "escape", "force_quote", "encoding"}:
        return None
    texts = {name: settings.constant(node) for name, node in given.items() if name not in ("header", "force_quote")}
    if any(value is None for value in texts.values()):
        return None
    form = texts.get("format") or "text"
    header = _boolean(given.get("header"))
    columns = _force_quote(given.get("force_quote"))
    if form not in ("text", "csv", "binary") or header is None or columns is None:
        return None
    is_csv = form == "csv"
    mark = texts.get("quote") or '"'
    values = CopyOut(
        format=form,
        delimiter=texts.get("delimiter") or ("," if is_csv else "\t"),
        null=_given(texts, "null", "" if is_csv else "\\N"),
        header=header,
        quote=mark,
        escape=texts.get("escape") or mark,
        force_quote=columns,
        encoding=texts.get("encoding"),
    )
    return values if len(values.delimiter) == len(values.quote) == len(values.escape) == 1 else None


def _given(texts: dict[str, str | None], name: str, default: str) -> str:
    value = texts.get(name)
    return default if value is None else value


def _boolean(node: Node | None) -> bool | None:
    """HEADER as defGetCopyHeaderOption reads it; MATCH is for COPY FROM alone."""
    if node is None:
        return False
    if not node:
        return True
    value = (settings.constant(node) or "").lower()
    return True if value in _TRUE else False if value in _FALSE else None


def _force_quote(node: Node | None) -> tuple[str, ...] | None:
    if node is None:
        return ()
    if "A_Star" in node:
        return (_ALL_COLUMNS,)
    return tuple(strings(node["List"]["items"])) if "List" in node else None
