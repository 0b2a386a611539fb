"""FROM: tables, WITH queries, subqueries, functions, joins. Each becomes a source of names; what joins and functions look at steers.

Rules it keeps:
- A subquery sees its siblings only when LATERAL; functions and table functions always do. Names it can't see must not end a search.
- ON sees the two sides of its join; USING and NATURAL name columns of both, and all of them steer.
- A join's alias hides the names of its sides; an alias list renames by position.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sidegate.policy.statement import StatementKind
from sidegate.sql.expressions import TooDeepError
from sidegate.sql.functions import SAFE
from sidegate.sql.lineage import Lineage
from sidegate.sql.names import strings
from sidegate.sql.parse import Node
from sidegate.sql.scope import (
    NO_COLUMNS,
    OPEN,
    Columns,
    Cte,
    Output,
    Scope,
    Source,
    pool,
    renamed,
    star_of,
)


class Alias(NamedTuple):
    name: str | None
    columns: list[str]


def alias_of(fields: Node) -> Alias:
    alias = fields.get("alias")
    if alias is None:
        return Alias(None, [])
    return Alias(alias.get("aliasname"), strings(alias.get("colnames", [])))


class FromItems(Lineage):
    def from_clause(self, items: list[Node], base: Scope) -> Scope:
        """A level with these from items, inside `base` (which has this level's WITH queries)."""
        scope = Scope(base)
        for item in items:
            sources, has_merged = self.from_item(item, base, scope.sources, 0)
            scope.sources.extend(sources)
            scope.has_merged_columns = scope.has_merged_columns or has_merged
        return scope

    def from_item(self, node: Node, base: Scope, siblings: list[Source], depth: int) -> tuple[list[Source], bool]:
        """The sources of one item, and whether a join merged columns in it. `siblings`: what LATERAL sees beside `base`."""
        if depth > self.limits.max_join_depth:
            raise TooDeepError
        for tag, fields in node.items():
            if tag == "RangeVar":
                return [self.table(fields, base)], False
            if tag == "JoinExpr":
                return self._join(fields, base, siblings, depth)
            if tag == "RangeSubselect":
                scope = Scope(base, siblings) if fields.get("lateral") else base
                alias = alias_of(fields)
                outputs = self.outputs_of(fields["subquery"], scope)
                return [Source(alias.name, renamed(outputs, alias.columns))], False
            scope = Scope(base, siblings)
            if tag == "RangeFunction":
                return [self._function(fields, scope)], False
            if tag == "RangeTableSample":
                self.call({"funcname": fields["method"]})
                self.expression(fields.get("args"), scope)
                self.expression(fields.get("repeatable"), scope)
                return self.from_item(fields["relation"], base, siblings, depth + 1)
            if tag == "RangeTableFunc":
                return [self._xml_table(fields, scope)], False
            if tag == "JsonTable":
                return [self._json_table(fields, scope)], False
            self.facts.not_known(f"{tag} in FROM")
        return [], False

    def table(self, fields: Node, scope: Scope) -> Source:
        """A table, or the WITH query that hides it."""
        name = fields["relname"]
        schema = fields.get("schemaname")
        alias = alias_of(fields)
        found = scope.cte(name) if schema is None and "catalogname" not in fields else None
        if found is not None:
            return Source(alias.name or name, renamed(self.cte_outputs(*found), alias.columns))
        relation = self.names.relation(schema, name)
        self.facts.read(relation)
        if not alias.columns:
            return Source(alias.name or name, [star_of(relation)], relation if alias.name is None else None)
        return Source(alias.name, renamed([star_of(relation)], alias.columns))

    def cte_outputs(self, cte: Cte, scope: Scope) -> list[Output]:
        """The outputs of a WITH query, walked when first asked for."""
        if cte.is_running:
            cte.is_recursive = True
            return [OPEN]
        if cte.node is not None:
            node, cte.node = cte.node, None
            cte.is_running = True
            outputs = self.outputs_of(node["ctequery"], scope)
            cte.is_running = False
            if cte.is_recursive:  # what it returns is what it joined with itself
                self.steer(outputs)
                outputs = [output._replace(columns=pool(outputs), is_plain=False) for output in outputs]
            cte.outputs = renamed(outputs, strings(node.get("aliascolnames", []))) + self._search_and_cycle(node, scope, outputs)
        return cte.outputs

    def _search_and_cycle(self, node: Node, scope: Scope, outputs: list[Output]) -> list[Output]:
        search, cycle = node.get("search_clause", {}), node.get("cycle_clause", {})
        marks = self.lineage_of([cycle[key] for key in ("cycle_mark_value", "cycle_mark_default") if key in cycle], scope)
        names = [search.get("search_seq_column"), cycle.get("cycle_mark_column"), cycle.get("cycle_path_column")]
        return [Output(name, marks | pool(outputs), False) for name in names if name is not None]

    # ---- joins ------------------------------------------------------------------------------------------------------------------------

    def _join(self, fields: Node, base: Scope, siblings: list[Source], depth: int) -> tuple[list[Source], bool]:
        left, left_merged = self.from_item(fields["larg"], base, siblings, depth + 1)
        right, right_merged = self.from_item(fields["rarg"], base, siblings + left, depth + 1)
        sources = left + right
        has_merged = left_merged or right_merged
        outer, self.facts.is_key = self.facts.is_key, True
        if fields.get("isNatural"):
            self.steer([output for source in sources for output in source.outputs])
            has_merged = True
        using = strings(fields.get("usingClause", []))
        merged: list[Output] = []
        for name in using:
            columns = Scope(None, left).resolve([name]).columns | Scope(None, right).resolve([name]).columns
            self.facts.steer(columns)
            merged.append(Output(name, columns, False))
        self.facts.is_key = outer
        has_merged = has_merged or bool(using)
        self.expression(fields.get("quals"), Scope(base, sources))
        using_alias = fields.get("join_using_alias")
        if using_alias is not None:
            sources = [*sources, Source(using_alias.get("aliasname"), merged, is_qualified_only=True)]
        alias = alias_of(fields)
        if alias.name is None:
            return sources, has_merged
        inner = Scope(None, sources)
        inner.has_merged_columns = has_merged
        return [Source(alias.name, renamed(inner.star([]), alias.columns))], False

    # ---- functions --------------------------------------------------------------------------------------------------------------------

    def _function(self, fields: Node, scope: Scope) -> Source:
        """INVARIANT: only names that the statement itself gives are sure. Any other could hide a table's column of that name."""
        alias = alias_of(fields)
        names: list[str] = []
        default: str | None = None
        is_unsure = False
        columns = NO_COLUMNS
        for function in fields["functions"]:
            items: list[Any] = function["List"]["items"]
            columns |= self.steered_by(items[0], scope)
            if "FuncCall" in items[0]:
                called = strings(items[0]["FuncCall"]["funcname"])[-1]
                is_unsure = is_unsure or called not in SAFE
                default = default or called
            if len(items) > 1 and items[1]:
                names += self._column_definitions(items[1]["List"]["items"], scope)
        names += self._column_definitions(fields.get("coldeflist", []), scope)
        outputs = [Output(name, columns, False) for name in alias.columns or names]
        return Source(alias.name or default, [*outputs, OPEN._replace(columns=columns)], is_unsure=is_unsure)

    def _column_definitions(self, definitions: list[Node], scope: Scope) -> list[str]:
        self.expression(definitions, scope)
        return [definition["ColumnDef"]["colname"] for definition in definitions]

    def _xml_table(self, fields: Node, scope: Scope) -> Source:
        parts = [fields.get(key) for key in ("docexpr", "rowexpr", "columns")]
        parts += [namespace["ResTarget"].get("val") for namespace in fields.get("namespaces", [])]
        names = [column["RangeTableFuncCol"]["colname"] for column in fields.get("columns", [])]
        return self._computed(fields, names, "xmltable", self.steered_by([part for part in parts if part], scope))

    def _json_table(self, fields: Node, scope: Scope) -> Source:
        parts = [{"JsonValueExpr": fields["context_item"]}, fields.get("passing"), fields.get("columns")]
        tagged = (("pathspec", "JsonTablePathSpec"), ("on_error", "JsonBehavior"))
        parts += [{tag: fields[key]} for key, tag in tagged if key in fields]
        names = self._json_columns(fields.get("columns", []))
        return self._computed(fields, names, "json_table", self.steered_by([part for part in parts if part], scope))

    def _json_columns(self, columns: list[Node]) -> list[str]:
        names: list[str] = []
        pending = list(columns)
        while pending:
            column = pending.pop(0)["JsonTableColumn"]
            if "name" in column:
                names.append(column["name"])
            pending = [*column.get("columns", []), *pending]
        return names

    def _computed(self, fields: Node, names: list[str], default: str, columns: Columns) -> Source:
        alias = alias_of(fields)
        if not alias.columns:
            outputs = [Output(name, columns, False) for name in names]
        else:  # the order that an alias list counts by isn't worked out for nested columns
            outputs = [*(Output(name, columns, False) for name in alias.columns), OPEN._replace(columns=columns)]
        return Source(alias.name or default, outputs)

    def locking(self, clauses: list[Node]) -> None:
        if clauses:
            self.facts.kinds.add(StatementKind.SELECT_FOR_UPDATE)
