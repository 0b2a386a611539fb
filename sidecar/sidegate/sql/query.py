"""SELECT, VALUES, TABLE, set operations and WITH: what each reads, which columns it only passes on, and which steer what it returns.

Rules it keeps:
- Each column of the select list is an output with all that reaches it (sidegate.sql.lineage). Its use by the query around it decides:
  output stays output, any other use steers.
- What DISTINCT and UNION compare steers; UNION ALL compares nothing.
- ORDER BY, GROUP BY and DISTINCT ON may name an output column by position or by its name; then that column steers, as a key.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

from sidegate.policy.statement import StatementKind
from sidegate.sql import settings
from sidegate.sql.expressions import TooDeepError
from sidegate.sql.from_items import FromItems
from sidegate.sql.group_floor import split_floors, with_floors
from sidegate.sql.names import strings
from sidegate.sql.parse import Node
from sidegate.sql.scope import Cte, Output, Scope, pool

CHANGES: Final = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})


class Queries(FromItems):
    _depth = 0

    def outputs_of(self, query: Node, scope: Scope) -> list[Output]:
        self._depth += 1
        if self._depth > self.limits.max_query_depth:
            raise TooDeepError
        outer, self.facts.is_key = self.facts.is_key, False
        around = self.facts.growth.begin()
        try:
            for tag, fields in query.items():
                if tag == "SelectStmt":
                    return self.select(fields, scope)
                if tag in CHANGES:
                    return self.change(tag, fields, scope)
                self.facts.not_known(f"{tag} inside a query")
            return []
        finally:
            self._depth -= 1
            self.facts.is_key = outer
            self.facts.growth.end(around)

    def change(self, tag: str, fields: Node, scope: Scope) -> list[Output]:
        raise NotImplementedError  # sidegate.sql.changes

    def with_clause(self, fields: Node, scope: Scope) -> Scope:
        """A level that has the WITH queries; each is walked, used or not."""
        clause = fields.get("withClause")
        level = Scope(scope)
        if clause is None:
            return level
        ctes = [Cte(node["CommonTableExpr"]["ctename"], node["CommonTableExpr"]) for node in clause["ctes"]]
        if clause.get("recursive"):  # each sees all, itself too
            for cte in ctes:
                level.ctes[cte.name] = (cte, level)
            for cte in ctes:
                self.cte_outputs(cte, level)
            return level
        for cte in ctes:  # each sees those before it
            inner = level
            level = Scope(inner)
            level.ctes[cte.name] = (cte, inner)
            self.cte_outputs(cte, inner)
        return level

    def select(self, fields: Node, scope: Scope, *, is_source_of_values: bool = False) -> list[Output]:
        if not (is_source_of_values and "valuesLists" in fields):
            self.facts.kinds.add(StatementKind.READ)
        base = self.with_clause(fields, scope)
        if fields.get("op", "SETOP_NONE") != "SETOP_NONE":
            outputs = self._set_operation(fields, base)
            level = base
        elif "valuesLists" in fields:
            outputs = self._values(fields["valuesLists"], base)
            level = base
        else:
            level = self.from_clause(fields.get("fromClause", []), base)
            outer, self.pinned_setting = self.pinned_setting, settings.pinned_setting(fields)
            outputs = self.target_list(fields.get("targetList", []), level)
            if not self._reads_cte(fields, base):
                outputs = with_floors(fields, outputs)
            self.pinned_setting = outer
            self._clauses(fields, level, outputs)
        self._order(fields.get("sortClause", []), level, outputs)
        self.expression(fields.get("limitCount"), level)
        self.expression(fields.get("limitOffset"), level)
        self.locking(fields.get("lockingClause", []))
        if "intoClause" in fields:
            self.select_into(fields["intoClause"], outputs)
            return []
        return outputs

    @staticmethod
    def _reads_cte(fields: Node, base: Scope) -> bool:
        """Its one table may be a WITH query, which may repeat rows."""
        return any(
            base.cte(item["RangeVar"]["relname"]) is not None for item in fields.get("fromClause", []) if "RangeVar" in item
        )

    @abstractmethod
    def select_into(self, into: Node, outputs: list[Output]) -> None:
        """What SELECT INTO makes (sidegate.sql.changes)."""

    def _set_operation(self, fields: Node, base: Scope) -> list[Output]:
        """The arms of a chain, without recursion to the left: long chains lean that way."""
        right: list[tuple[Node, Scope]] = []
        current, level = fields, base
        compares = False
        while current.get("op", "SETOP_NONE") != "SETOP_NONE":
            compares = compares or current["op"] != "SETOP_UNION" or not current.get("all", False)
            if current is not fields:
                level = self.with_clause(current, level)
                self._rest_of_arm(current, level)
            right.append((current["rarg"], level))  # an inner WITH is for the inner arms alone
            current = current["larg"]
        growth = self.facts.growth
        before = longest = growth.inner
        arms: list[list[Output]] = []
        for arm, arm_level in [(current, level), *reversed(right)]:
            growth.inner = before
            arms.append(self.outputs_of({"SelectStmt": arm}, arm_level))
            longest = max(longest, growth.inner)
        growth.inner = longest
        if compares:
            for found in arms:
                self.steer(found)
        outputs = arms[0]
        width = len(outputs)
        is_counted = all(len(found) == width and not any(output.is_star for output in found) for found in arms)
        if not is_counted:
            everything = pool([output for found in arms for output in found])
            return [output._replace(columns=everything, is_plain=False, is_row=False, is_field=False) for output in outputs]
        return [Output(output.name, pool([found[number] for found in arms]), False) for number, output in enumerate(outputs)]

    def _rest_of_arm(self, fields: Node, level: Scope) -> None:
        """ORDER BY and LIMIT of an inner set operation: the columns it names are outputs, which steer already."""
        for key in ("limitCount", "limitOffset"):
            self.expression(fields.get(key), level)
        self.locking(fields.get("lockingClause", []))
        for item in fields.get("sortClause", []):
            self._check_ordinal(item["SortBy"]["node"])

    def _values(self, rows: list[Node], level: Scope) -> list[Output]:
        columns = self.lineage_of(rows, level)
        width = len(rows[0]["List"].get("items", [])) if rows else 0
        return [Output(f"column{number + 1}", columns, False) for number in range(width)]

    # ---- the select list --------------------------------------------------------------------------------------------------------------

    def target_list(self, targets: list[Node], scope: Scope) -> list[Output]:
        """The outputs of a select list or RETURNING."""
        outputs: list[Output] = []
        for target in targets:
            fields = target["ResTarget"]
            value = fields.get("val", {})
            column = value.get("ColumnRef")
            field = self._field_of_row(value, fields.get("name"), scope) if column is None else None
            if field is not None:
                outputs.append(field)
                continue
            if column is None:
                outputs.append(Output(fields.get("name") or _name_of(value), self.lineage_of(value, scope), False))
                continue
            parts = strings(column["fields"])
            if parts[-1] == "*":
                outputs += scope.star(parts[:-1])
                continue
            found = scope.resolve(parts)
            name = fields.get("name") or parts[-1]
            if found.row:
                self.facts.steer(found.columns - found.row)  # should it be a column of that name
                outputs.append(Output(name, found.row, is_plain=False, is_row=True))
                continue
            outputs.append(Output(name, found.columns, found.is_plain))
        return outputs

    def _field_of_row(self, value: Node, name: str | None, scope: Scope) -> Output | None:
        """`(c).f` or `(c).*`, where `c` is a relation's whole row. `(c).f` may be a call of a function `f`: then `f` is no column."""
        fields = value.get("A_Indirection")
        column = fields.get("arg", {}).get("ColumnRef") if fields is not None else None
        if fields is None or column is None or len(fields.get("indirection", [])) != 1:
            return None
        parts = strings(column["fields"])
        if parts[-1] == "*":
            return None
        found = scope.resolve(parts)
        if not found.row:
            return None
        self.facts.steer(found.columns - found.row)
        chosen: Node = fields["indirection"][0]
        if "A_Star" in chosen:
            return Output(None, found.row, is_plain=False, is_star=True, is_field=True)
        if "String" not in chosen:
            return None
        attribute = str(chosen["String"].get("sval", ""))
        columns = frozenset(column._replace(name=attribute) for column in found.row)
        return Output(name or attribute, columns, is_plain=False, is_field=True)

    # ---- what steers ------------------------------------------------------------------------------------------------------------------

    def _clauses(self, fields: Node, level: Scope, outputs: list[Output]) -> None:
        self.expression(fields.get("whereClause"), level)
        for item in fields.get("groupClause", []):
            self._group_item(item, level, outputs)
        floors, others = split_floors(fields.get("havingClause"))
        self.expression(others, level)
        for floor in floors:
            self.facts.depends_on_constants = True
            self.operator(strings(floor["A_Expr"]["name"]))
            self.lineage_of(floor["A_Expr"]["lexpr"], level)
        self.expression(fields.get("windowClause"), level)
        distinct = fields.get("distinctClause")
        if distinct is None:
            return
        items = [item for item in distinct if item]
        if not items:  # plain DISTINCT is a list of one empty node
            self._steer_as_keys(outputs)
        for item in items:
            self._sort_key(item, level, outputs, is_input_first=False)

    def _group_item(self, item: Node, level: Scope, outputs: list[Output]) -> None:
        """Rows in GROUP BY are lists of keys (flatten_grouping_sets, parser/parse_clause.c), positions among them too."""
        pending = [item]
        while pending:
            inner = pending.pop()
            if "GroupingSet" in inner:
                pending.extend(inner["GroupingSet"].get("content", []))
            elif "RowExpr" in inner:
                pending.extend(inner["RowExpr"].get("args", []))
            else:
                self._sort_key(inner, level, outputs, is_input_first=True)

    def _order(self, items: list[Node], level: Scope, outputs: list[Output]) -> None:
        for item in items:
            fields = item["SortBy"]
            if "useOp" in fields:
                self.operator(strings(fields["useOp"]))
            self._sort_key(fields["node"], level, outputs, is_input_first=False)

    def _check_ordinal(self, node: Node) -> None:
        if "A_Const" in node or "ParamRef" in node:
            self.facts.depends_on_constants = True

    def _sort_key(self, node: Node, level: Scope, outputs: list[Output], *, is_input_first: bool) -> None:
        """An output by its position or name, or an expression (findTargetlistEntrySQL92, parser/parse_clause.c)."""
        outer, self.facts.is_key = self.facts.is_key, True
        self._steer_by_key(node, level, outputs, is_input_first=is_input_first)
        self.facts.is_key = outer

    def _steer_as_keys(self, outputs: list[Output]) -> None:
        outer, self.facts.is_key = self.facts.is_key, True
        self.steer(outputs)
        self.facts.is_key = outer

    def _steer_by_key(self, node: Node, level: Scope, outputs: list[Output], *, is_input_first: bool) -> None:
        self._check_ordinal(node)
        position = settings.integer(node)
        if position is not None:
            before = outputs[: max(position, 0)]
            if any(output.is_star for output in before) or not 0 < position <= len(outputs):
                self.steer(outputs)
            else:
                self.steer([outputs[position - 1]])
            return
        column = node.get("ColumnRef")
        parts = strings(column["fields"]) if column is not None else []
        if len(parts) == 1 and parts[0] != "*":
            named = [output for output in outputs if output.name == parts[0] and not output.is_star]
            self.steer(named)
            if named and not is_input_first:
                return
            self.steer([output for output in outputs if output.is_star and output.is_field])  # it may be one of their names
        self.expression(node, level)

    def stored(self, outputs: list[Output]) -> None:
        """What a query returns goes into a table: its columns steer, because no mask follows them there."""
        self.facts.steer(pool(outputs))


# Expressions that PostgreSQL finds no name in.
_NAMELESS: Final = frozenset({"A_Const", "ParamRef", "BoolExpr", "BooleanTest", "NullTest"})


def _name_of(value: Node) -> str | None:
    """The name of an expression's column, where FigureColname (parser/parse_target.c) is sure to agree; None: it may have any."""
    return _figure_name(value)[0]


def _figure_name(value: Node) -> tuple[str | None, int]:
    """A name and its strength: 0 none, 1 of a type, 2 sure; None with 2: a name that isn't worked out here."""
    for tag, fields in value.items():
        if tag == "FuncCall":
            return strings(fields["funcname"])[-1], 2
        if tag == "ColumnRef":
            return strings(fields["fields"])[-1], 2
        if tag == "A_Indirection":
            names = [node["String"].get("sval") for node in fields.get("indirection", []) if "String" in node]
            return (names[-1], 2) if names else _figure_name(fields.get("arg", {}))
        if tag == "CollateClause":
            return _figure_name(fields.get("arg", {}))
        if tag == "TypeCast":
            name, strength = _figure_name(fields.get("arg", {}))
            return (name, strength) if strength > 1 else (strings(fields["typeName"]["names"])[-1], 1)
        if tag in _NAMELESS:
            return None, 0
    return None, 2
