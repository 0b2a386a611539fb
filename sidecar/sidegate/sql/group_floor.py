"""How small the groups of an aggregate may be: `HAVING count(c) >= k` read, and put into a query that lacks it. Pure.

A sum over one row is that row's value. Over k rows or more of one table it tells of none of them by itself.

Rules it keeps:
- Only sums, averages, deviations and counts of a bare column, without FILTER, DISTINCT or a window, where FROM is one relation: a join
  could repeat a row until the group is large enough. So could a view, or a call that reads like a column (`p.f`): for whoever has the
  target's catalog to tell (sidegate.postgres.proofs).
- Every target is a bare column or an aggregate, and groups are by bare columns: a function in their place could repeat rows too.
- `count(c) >= k` tells of no value, only of NULLs: it doesn't steer.
"""

# ruff: noqa: SIM905 - lists of names read better as words

from __future__ import annotations

from typing import Any, Final

from pglast.parser import ParseError, scan

from sidegate.sql.names import PG_CATALOG, quote, strings
from sidegate.sql.parse import Limits, Node, ParseProblem, parse
from sidegate.sql.scope import Output

FLOORED: Final = frozenset("sum avg count stddev stddev_pop stddev_samp variance var_pop var_samp".split())
_EXTREMES: Final = frozenset({"min", "max"})  # each is somebody's value: never shown
_PLAIN_CALL: Final = frozenset({"funcname", "args", "funcformat", "location"})
# Reserved words that end WHERE and GROUP BY: outside of parentheses they can stand for nothing else.
_BEHIND: Final = frozenset({"HAVING", "WINDOW", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR"})
_OPEN: Final = frozenset({"ASCII_40", "ASCII_91"})
_CLOSE: Final = frozenset({"ASCII_41", "ASCII_93"})
_SEMICOLON: Final = "ASCII_59"


def with_floors(query: Node, outputs: list[Output]) -> list[Output]:
    """The outputs of a SELECT, with the floors that its HAVING sets. They are counted only where no star is among the targets."""
    targets = query.get("targetList", [])
    floors = _floors(query.get("havingClause")) if "havingClause" in query and _has_one_table(query) else {}
    if not floors or len(targets) != len(outputs):
        return outputs
    return [
        output._replace(group_floor=floors.get(column, 0)) if column is not None else output
        for output, column in zip(outputs, map(_aggregated, targets), strict=True)
    ]


def split_floors(having: Node | None) -> tuple[list[Node], list[Node]]:
    """The floors among the conditions of HAVING, and those that decide by values."""
    parts = _conjuncts(having)
    return [part for part in parts if _floor(part) is not None], [part for part in parts if _floor(part) is None]


def floored(text: str, floor: int) -> str | None:
    """The text of one SELECT with `HAVING count(c) >= floor` for each column that it aggregates. None: it can't be made, or needs none."""
    parsed = parse(text, Limits())
    if isinstance(parsed, ParseProblem) or len(parsed) != 1 or "SelectStmt" not in parsed[0].tree:
        return None
    query = parsed[0].tree["SelectStmt"]
    if not _has_one_table(query):
        return None
    present = _floors(query.get("havingClause"))
    wanted = {column for column in map(_aggregated, query.get("targetList", [])) if column and present.get(column, 0) < floor}
    if not wanted:
        return None
    conditions = " AND ".join(f"pg_catalog.count({'.'.join(map(quote, column))}) >= {floor}" for column in sorted(wanted))
    made = _spliced(text, conditions)
    again = parse(made, Limits()) if made is not None else None
    if again is None or isinstance(again, ParseProblem) or len(again) != 1 or "SelectStmt" not in again[0].tree:
        return None
    floors = _floors(again[0].tree["SelectStmt"].get("havingClause"))
    return made if all(floors.get(column, 0) >= floor for column in wanted) else None


def _spliced(text: str, conditions: str) -> str | None:
    try:
        tokens = scan(text)
    except ParseError:
        return None
    depth, end, having_at, has_from = 0, len(text.rstrip()), None, False
    for token in tokens:
        depth += (token.name in _OPEN) - (token.name in _CLOSE)
        if depth:
            continue
        has_from = has_from or token.name == "FROM"
        if having_at is None and has_from and token.name == "HAVING":
            having_at = token.end + 1
        elif has_from and (token.name in _BEHIND or token.name == _SEMICOLON):
            end = token.start
            break
    if having_at is None:
        comment_end = "\n" if tokens and tokens[-1].name == "SQL_COMMENT" else ""
        return f"{text[:end]}{comment_end} HAVING {conditions} {text[end:]}"
    return f"{text[:having_at]} ({text[having_at:end]}\n) AND {conditions} {text[end:]}"


def _has_one_table(query: Node) -> bool:
    tables = query.get("fromClause", [])
    is_plain = "withClause" not in query and query.get("op", "SETOP_NONE") == "SETOP_NONE"
    targets = [target["ResTarget"].get("val", {}) for target in query.get("targetList", [])]
    return (
        is_plain
        and len(tables) == 1
        and "RangeVar" in tables[0]
        and all("ColumnRef" in target or _is_aggregate(target) for target in targets)
        and all(map(_is_plain_key, query.get("groupClause", [])))
    )


def _is_aggregate(target: Node) -> bool:
    call = target.get("FuncCall", {})
    is_count = bool(call.get("agg_star")) and strings(call["funcname"])[-1] == "count"
    return is_count or _column_of(target, FLOORED | _EXTREMES) is not None


def _is_plain_key(item: Node) -> bool:
    if "GroupingSet" in item:
        return all(map(_is_plain_key, item["GroupingSet"].get("content", [])))
    return "ColumnRef" in item or "A_Const" in item


def _floors(having: Node | None) -> dict[tuple[str, ...], int]:
    found: dict[tuple[str, ...], int] = {}
    for part in _conjuncts(having):
        floor = _floor(part)
        if floor is not None:
            found[floor[0]] = max(found.get(floor[0], 0), floor[1])
    return found


def _conjuncts(having: Node | None) -> list[Node]:
    if not having:
        return []
    clause = having.get("BoolExpr")
    if clause is None or clause.get("boolop") != "AND_EXPR":
        return [having]
    return [part for argument in clause["args"] for part in _conjuncts(argument)]


def _floor(part: Node) -> tuple[tuple[str, ...], int] | None:
    """`count(c) >= k`."""
    fields = part.get("A_Expr", {})
    if fields.get("kind") != "AEXPR_OP" or strings(fields.get("name", [])) != [">="]:
        return None
    column = _column_of(fields.get("lexpr", {}), frozenset({"count"}))
    value: Any = fields.get("rexpr", {}).get("A_Const", {}).get("ival")
    return (column, int(value.get("ival", 0))) if column is not None and value is not None else None


def _aggregated(target: Node) -> tuple[str, ...] | None:
    return _column_of(target["ResTarget"].get("val", {}), FLOORED)


def _column_of(call: Node, names: frozenset[str]) -> tuple[str, ...] | None:
    fields = call.get("FuncCall")
    if fields is None or not fields.keys() <= _PLAIN_CALL or len(fields.get("args", [])) != 1:
        return None
    name = strings(fields["funcname"])
    if name[-1] not in names or name[:-1] not in ([], [PG_CATALOG]) or "ColumnRef" not in fields["args"][0]:
        return None
    parts = strings(fields["args"][0]["ColumnRef"]["fields"])
    return None if parts[-1] == "*" else tuple(parts)
