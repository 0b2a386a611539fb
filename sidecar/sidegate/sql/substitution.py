"""Puts subqueries in place of tables in the text of one query: `FROM users u` becomes `FROM (SELECT ...) u`. Pure.

The text is spliced, so that all that isn't replaced stays as the client wrote it, parameters and comments too.

Rules it keeps:
- A name that a WITH query of the statement has is left out, wherever it stands: which of the two it means isn't worked out here.
- What can't be spliced (ONLY, TABLESAMPLE) makes a text that PostgreSQL's parser refuses, and then there is none.
- INVARIANT: whoever sends the new text decides on it, as on any other. Nothing that was shown of the old one holds for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

from pglast.parser import ParseError, Token, scan

from sidegate.policy.statement import RelationRef
from sidegate.sql.names import Names, quote
from sidegate.sql.parse import Limits, Node, ParseProblem, parse

Subquery: TypeAlias = Callable[[RelationRef], "str | None"]
_NAME_PARTS: Final = ("catalogname", "schemaname", "relname")
_DOT: Final = "ASCII_46"


def substituted(text: str, search_path: tuple[str, ...] | None, subquery: Subquery) -> str | None:
    """The text with `subquery(table)`, a query without its parentheses, for each table that it gives one for. None: it can't be made, or
    no table is replaced. `{table}` in the query stands for the table as the client named it.

    Raises whatever `subquery` raises.
    """
    limits = Limits()
    parsed = parse(text, limits)
    if isinstance(parsed, ParseProblem) or len(parsed) != 1 or "SelectStmt" not in parsed[0].tree:
        return None
    names = Names(search_path)
    nodes = list(_nodes(parsed[0].tree))
    hidden = {node["CommonTableExpr"]["ctename"] for node in nodes if "CommonTableExpr" in node}
    try:
        scanned = scan(text)
    except ParseError:
        return None
    tokens = {token.start: number for number, token in enumerate(scanned)}
    data = text.encode()
    cuts: list[tuple[int, int, str]] = []
    for node in nodes:
        table = node.get("RangeVar")
        if table is None or (table["relname"] in hidden and "schemaname" not in table):
            continue
        query = subquery(names.relation(table.get("schemaname"), table["relname"]))
        if query is None:
            continue
        first = tokens.get(len(data[: table.get("location", -1)].decode("utf-8", "replace")))
        end = _end_of_name(scanned, first, sum(part in table for part in _NAME_PARTS)) if first is not None else None
        if first is None or end is None:
            return None
        start = scanned[first].start
        alias = "" if "alias" in table else f" AS {quote(table['relname'])}"
        cuts.append((start, end, f"({query.replace('{table}', text[start:end])}){alias}"))
    if not cuts:
        return None
    for start, end, new in sorted(cuts, reverse=True):
        text = text[:start] + new + text[end:]
    made = parse(text, limits)
    return None if isinstance(made, ParseProblem) or len(made) != 1 else text


def _nodes(tree: Node) -> Iterator[dict[str, Any]]:
    """Every dictionary of the tree; nodes are those of the form `{"NodeName": {...}}`."""
    pending: list[Any] = [tree]
    while pending:
        current = pending.pop()
        if type(current) is list:
            pending.extend(current)
        elif type(current) is dict:
            yield current
            pending.extend(current.values())


def _end_of_name(tokens: list[Token], first: int, parts: int) -> int | None:
    """Where a name of so many parts ends that begins at a token."""
    last = first + 2 * (parts - 1)
    if last >= len(tokens) or any(tokens[number].name != _DOT for number in range(first + 1, last, 2)):
        return None
    return int(tokens[last].end) + 1
