"""Random SELECT statements over the case schema, most of them valid: few names, so that they collide as often as they can.

A table's alias may be a column's name, an output's name another column's, a WITH query's name a table's: whatever makes names hard to follow.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

TABLES: dict[str, list[str]] = {
    "users": ["id", "name", "ssn", "email", "manager_id"],
    "orders": ["id", "user_id", "total", "note"],
    "app.users": ["id", "login", "ssn"],
    '"Upper"': ['"Id"', '"SSN"'],
}
NUMBERS = {"id", "manager_id", "user_id", "total", '"Id"', "n"}
ALIASES = ["u", "ssn", "q", "users", "name", "o", "x"]
NAMES = ["ssn", "name", "x", "id", "n"]


class Source(NamedTuple):
    sql: str
    alias: str
    columns: list[str]


class Query(NamedTuple):
    sql: str
    columns: list[str]


@st.composite
def select(draw: st.DrawFn, depth: int = 2, outer: tuple[Source, ...] = (), ctes: tuple[Query, ...] = ()) -> Query:
    """A SELECT. `outer`: what a correlated subquery may also name; `ctes`: WITH queries in reach, by name in `sql`."""
    prefix = ""
    if depth > 0 and draw(st.integers(0, 4)) == 0:
        inner = draw(select(depth - 1, outer, ctes))
        name = draw(st.sampled_from(["q", "users", "w", "x"]))
        renames = draw(st.lists(st.sampled_from(NAMES), max_size=min(2, len(inner.columns)), unique=True))
        listed = f"({', '.join(renames)})" if renames else ""
        recursive = draw(st.sampled_from(["", "RECURSIVE "]))
        prefix = f"WITH {recursive}{name}{listed} AS ({inner.sql}) "
        ctes = (*ctes, Query(name, [*renames, *inner.columns[len(renames) :]]))
    if depth > 0 and draw(st.integers(0, 7)) == 0:
        width = draw(st.integers(1, 2))
        left, right = draw(_core(depth, outer, ctes, width=width)), draw(_core(0, outer, ctes, width=width))
        operator = draw(st.sampled_from(["UNION", "UNION ALL", "EXCEPT", "INTERSECT"]))
        order = draw(st.sampled_from(["", " ORDER BY 1"]))
        return Query(f"{prefix}({left.sql}) {operator} ({right.sql}){order}", left.columns)
    body = draw(_core(depth, outer, ctes))
    return Query(prefix + body.sql, body.columns)


@st.composite
def _core(draw: st.DrawFn, depth: int, outer: tuple[Source, ...], ctes: tuple[Query, ...], width: int | None = None) -> Query:
    sources = draw(st.lists(_item(depth, outer, ctes), min_size=1, max_size=2, unique_by=lambda source: source.alias))
    scope = tuple(sources)
    joined = _joined(draw, scope)
    visible = scope + outer
    targets: list[str] = []
    names: list[str] = []
    count = width if width is not None else draw(st.integers(1, 3))
    for _ in range(count):
        text, found = draw(_target(depth, scope, visible, ctes, may_star=width is None))
        targets.append(text)
        names += found
    distinct = draw(st.sampled_from(["", "", "", "", "DISTINCT ", "DISTINCT ON (1) "])) if width is None else ""
    parts = [f"SELECT {distinct}{', '.join(targets)} FROM {joined}"]
    if draw(st.booleans()):
        parts.append(f"WHERE {draw(_predicate(depth, visible, ctes))}")
    if width is None and not distinct:
        order = draw(st.integers(0, 5))
        if order == 1:
            parts.append(f"ORDER BY {draw(st.integers(1, len(names)))}")
        elif order == 2:
            parts.append(f"ORDER BY {draw(st.sampled_from(names))}")
        elif order == 3:
            parts.append(f"ORDER BY {draw(_column(visible))}")
    return Query(" ".join(parts), names)


def _joined(draw: st.DrawFn, scope: tuple[Source, ...]) -> str:
    if len(scope) == 1:
        return scope[0].sql
    left, right = scope
    kind = draw(st.sampled_from([",", "CROSS JOIN", "ON", "ON", "USING", "NATURAL", "LATERAL"]))
    if kind in (",", "CROSS JOIN"):
        return f"{left.sql} {kind} {right.sql}"
    join = draw(st.sampled_from(["JOIN", "LEFT JOIN", "FULL JOIN"]))
    shared = [name for name in left.columns if name in right.columns]
    if kind == "USING" and shared:
        alias = draw(st.sampled_from(["", " AS k"]))
        return f"{left.sql} {join} {right.sql} USING ({draw(st.sampled_from(shared))}){alias}"
    if kind == "NATURAL":
        return f"{left.sql} NATURAL {join} {right.sql}"
    if kind == "LATERAL":
        inner = f"(SELECT {left.alias}.{draw(st.sampled_from(left.columns))} AS n) AS lat"
        return f"{left.sql}, {right.sql}, LATERAL {inner}"
    first, second = draw(_column((left,))), draw(_column((right,)))
    return f"{left.sql} {join.replace('FULL', 'LEFT')} {right.sql} ON {first}::text = {second}::text"


@st.composite
def _item(draw: st.DrawFn, depth: int, outer: tuple[Source, ...], ctes: tuple[Query, ...]) -> Source:
    choice = draw(st.integers(0, 9))
    alias = draw(st.sampled_from(ALIASES))
    if depth > 0 and choice < 3:
        inner = draw(select(depth - 1, (), ctes))
        renames = draw(st.lists(st.sampled_from(NAMES), max_size=min(2, len(inner.columns)), unique=True))
        listed = f"({', '.join(renames)})" if renames else ""
        return Source(f"({inner.sql}) AS {alias}{listed}", alias, [*renames, *inner.columns[len(renames) :]])
    if choice == 3:
        return Source(f"generate_series(1, 2) AS {alias}", alias, [alias])
    if choice == 4 and ctes:
        cte = draw(st.sampled_from(ctes))
        return Source(f"{cte.sql} AS {alias}", alias, cte.columns)
    table = draw(st.sampled_from(list(TABLES)))
    if choice == 5:
        return Source(table, table.rpartition(".")[2], TABLES[table])
    columns = TABLES[table]
    renames = draw(st.lists(st.sampled_from(NAMES), max_size=2, unique=True)) if choice == 6 else []
    listed = f"({', '.join(renames)})" if renames else ""
    return Source(f"{table} AS {alias}{listed}", alias, [*renames, *columns[len(renames) :]])


@st.composite
def _column(draw: st.DrawFn, visible: tuple[Source, ...]) -> str:
    source = draw(st.sampled_from(visible))
    name = draw(st.sampled_from(source.columns))
    return draw(st.sampled_from([f"{source.alias}.{name}", f"{source.alias}.{name}", name]))


@st.composite
def _target(
    draw: st.DrawFn, depth: int, scope: tuple[Source, ...], visible: tuple[Source, ...], ctes: tuple[Query, ...], may_star: bool
) -> tuple[str, list[str]]:
    choice = draw(st.integers(0, 12))
    if may_star and choice == 0:
        return "*", [name for source in scope for name in source.columns]
    if may_star and choice == 1:
        source = draw(st.sampled_from(scope))
        return f"{source.alias}.*", source.columns
    column = draw(_column(visible))
    if not may_star:
        return f"{column}{draw(st.sampled_from(['', '::text']))}", [column.rpartition(".")[2]]
    if choice < 6:
        return column, [column.rpartition(".")[2]]
    name = draw(st.sampled_from(NAMES))
    if choice < 9:
        return f"{column} AS {name}", [name]
    if choice == 9:
        return f"{draw(st.sampled_from(scope)).alias}::text AS {name}", [name]
    if choice == 10 and depth > 0:
        inner = draw(_core(0, visible, ctes, width=1))
        return f"({inner.sql} ORDER BY 1 LIMIT 1) AS {name}", [name]
    function = draw(st.sampled_from(["upper({}::text)", "({} IS NULL)", "concat({}, 'x')", "row_number() OVER (ORDER BY {})"]))
    return f"{function.format(column)} AS {name}", [name]


@st.composite
def _predicate(draw: st.DrawFn, depth: int, visible: tuple[Source, ...], ctes: tuple[Query, ...]) -> str:
    column = draw(_column(visible))
    choice = draw(st.integers(0, 4))
    if depth > 0 and choice == 0:
        inner = draw(_core(0, visible, ctes, width=1))
        return f"{column}::text IN ({inner.sql})"
    if depth > 0 and choice == 1:
        return f"EXISTS ({draw(_core(0, visible, ctes)).sql})"
    if choice == 2:
        return f"{column} IS NOT NULL"
    return (
        f"{column}::text {draw(st.sampled_from(['<>', '>', 'LIKE']))} '{draw(st.sampled_from(['1', 'ssn 2', 'name 3', '5%']))}'"
    )
