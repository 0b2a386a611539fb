"""Lineage: which columns can reach an output, through whatever an expression makes of them.

An expression may be answered, and masked, where nothing but its value tells of the columns in it. Such a part is *quiet*: for every value
it neither fails nor takes another way or another time. What isn't surely quiet steers as well, as it would in a predicate.

Rules it keeps:
- Every column that is named anywhere in an expression reaches the output, conditions and the queries inside among them.
- Quiet are columns, constants, casts to text, `||`, COALESCE, rows and arrays, scalar subqueries, the results of CASE (not its
  conditions), and built-in functions of `QUIET`, where all arguments but the first few are constants.
- Nothing is quiet that compares a value with what a client chooses. Over ten million rows nanoseconds are seconds, and `replace` in
  `replace` grows until it fails, where it finds something. So no `replace`, `split_part`, `translate`, GREATEST, no set in `btrim`.
- What makes values much longer isn't quiet (sidegate.sql.growth).
- Sums overflow, and extremes compare: they are quiet over a bare column of a table. Elsewhere, as in a UNION ALL, a constant could
  stand beside the value (a `numeric` just short of the largest makes the sum fail for all that is larger than a guess).
- A built-in is known by its name: another overload of it could fail on some value (`||` of jsonb and a number), which tells its type and
  no more.
"""

# ruff: noqa: SIM905 - lists of names read better as words

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidegate.sql.expressions import Expressions
from sidegate.sql.functions import SAFE
from sidegate.sql.group_floor import FLOORED
from sidegate.sql.names import strings
from sidegate.sql.parse import Node
from sidegate.sql.scope import Columns, Scope, pool

ALL: Final = 100
# Built-ins that fail for no value of their first arguments, and how many those are; the others must be constants.
QUIET: Final[dict[str, int]] = {
    **dict.fromkeys("lower upper initcap length char_length character_length octet_length bit_length md5 reverse".split(), 1),
    **dict.fromkeys("btrim ltrim rtrim left right lpad rpad substr substring pg_typeof pg_column_size".split(), 1),
    **dict.fromkeys("to_json to_jsonb row_to_json min max any_value string_agg json_agg jsonb_agg".split(), 1),
    **dict.fromkeys(FLOORED, 1),
    **dict.fromkeys("concat concat_ws json_build_array jsonb_build_array json_build_object jsonb_build_object".split(), ALL),
}
# With a text for second argument these take a regular expression, whose time is another for each value.
_BY_POSITION: Final = frozenset({"substr", "substring", "left", "right"})
_WITHOUT_SET: Final = frozenset({"btrim", "ltrim", "rtrim"})
OF_BARE_COLUMN: Final = FLOORED - {"count"} | {"min", "max"}
_SILENT_CASTS: Final = frozenset({"text", "varchar", "bpchar", "name"})
# What the walk takes of each quiet node, in words; the steps at the end of this file are the same nodes.
QUIET_PARTS: Final[dict[str, str]] = {
    "ColumnRef": "a column, or a whole row",
    "TypeCast": "to `text`, `varchar`, `char` or `name`",
    "CollateClause": "all",
    "CoalesceExpr": "all: that a value is NULL isn't hidden",
    "RowExpr": "all",
    "A_ArrayExpr": "all",
    "List": "all",
    "CaseExpr": "the results; conditions steer",
    "A_Expr": "`||`",
    "FuncCall": "functions of the table below, without FILTER, DISTINCT, ORDER BY, OVER, VARIADIC",
    "SubLink": "scalar subqueries and ARRAY(...): their output; what decides on their rows steers",
    "A_Const": "all",
    "ParamRef": "all",
}
_PLAIN_CALL: Final = frozenset({"funcname", "args", "funcformat", "location", "agg_star"})
_SCALAR: Final = frozenset({"EXPR_SUBLINK", "ARRAY_SUBLINK"})


class Lineage(Expressions):
    def lineage_of(self, node: Any, scope: Scope) -> Columns:
        """All that reaches the value of an expression, or of a list of them; what isn't quiet in it steers."""
        return self._collected(lambda: self._walk(node, scope))

    def steered_by(self, node: Any, scope: Scope) -> Columns:
        """As `lineage_of`, of an expression that decides on rows: all of it steers."""
        return self._collected(lambda: self.expression(node, scope))

    def _collected(self, walk: Callable[[], None]) -> Columns:
        facts = self.facts
        outer, facts.reached = facts.reached, set()
        walk()
        found = frozenset(facts.reached)
        facts.reached = outer
        facts.expressed |= found
        facts.reach(found)
        return found

    def _walk(self, node: Any, scope: Scope) -> None:
        growth = self.facts.growth
        stack: list[Any] = [node] if node else []
        factors = [1] * len(stack)  # how much what stands around each makes of it
        size = 0
        while stack:
            current, factor = stack.pop(), factors.pop()
            if type(current) is list:
                stack.extend(current)
                factors.extend([factor] * len(current))
                continue
            for tag, fields in current.items():
                before = len(stack)
                step = _QUIET_NODES.get(tag)
                if step is None or not step(self, fields, scope, stack):
                    self.expression({tag: fields}, scope)
                elif len(stack) > before:
                    grown = growth.bounded(factor * growth.factor(tag, fields))
                    factors.extend([grown] * (len(stack) - before))
                    continue
                size += factor * growth.of_leaf(tag, fields)
        growth.expression(size)

    # ---- quiet nodes: `rest` takes what is still to be walked. False: this one isn't quiet --------------------------------------------

    def _quiet_column(self, fields: Node, scope: Scope, rest: list[Any]) -> bool:
        parts = strings(fields["fields"])
        if parts[-1] == "*":
            return False
        columns = scope.resolve(parts).columns
        self.facts.reach(columns)
        if len(parts) > 1:
            self.facts.qualified |= columns
        return True

    def _quiet_cast(self, fields: Node, scope: Scope, rest: list[Any]) -> bool:
        kind = fields["typeName"]
        if "arrayBounds" in kind or strings(kind.get("names", []))[-1] not in _SILENT_CASTS:
            return False
        self.type_use(kind)
        rest.append(fields.get("arg"))
        return True

    def _quiet_parts(self, fields: Node, scope: Scope, rest: list[Any]) -> bool:
        for key in ("args", "elements", "items"):
            rest.extend(fields.get(key, []))
        return True

    def _quiet_collation(self, fields: Node, scope: Scope, rest: list[Any]) -> bool:
        rest.extend([fields["arg"]] if "arg" in fields else [])
        return True

    def _quiet_case(self, fields: Node, scope: Scope, rest: list[Any]) -> bool:
        self.expression(fields.get("arg"), scope)
        for when in fields.get("args", []):
            self.expression(when["CaseWhen"].get("expr"), scope)
            rest.append(when["CaseWhen"]["result"])
        rest.extend([fields["defresult"]] if "defresult" in fields else [])
        return True

    def _quiet_operation(self, fields: Node, scope: Scope, rest: list[Any]) -> bool:
        name = strings(fields.get("name", []))
        if fields.get("kind") != "AEXPR_OP" or name[-1:] != ["||"] or "lexpr" not in fields:
            return False
        self.operator(name)
        rest += (fields["lexpr"], fields["rexpr"])
        return True

    def _quiet_call(self, fields: Node, scope: Scope, rest: list[Any]) -> bool:
        parts = strings(fields["funcname"])
        name = parts[-1]
        arguments: list[Node] = fields.get("args", [])
        values = QUIET.get(name, -1)
        if values < 0 or name not in SAFE or not fields.keys() <= _PLAIN_CALL or not self.names.function(parts).is_builtin:
            return False
        others = arguments[values:]
        self.facts.depends_on_constants = self.facts.depends_on_constants or bool(others)
        if any("A_Const" not in other for other in others) or (name in _BY_POSITION and not all(map(_is_integer, others))):
            return False
        if any("NamedArgExpr" in argument for argument in arguments) or (name in _WITHOUT_SET and others):
            return False
        if name in OF_BARE_COLUMN and not all(_is_bare_column(argument, scope) for argument in arguments):
            return False
        self.call(fields)
        rest.extend(arguments[:values])
        return True

    def _quiet_subquery(self, fields: Node, scope: Scope, rest: list[Any]) -> bool:
        if fields.get("subLinkType") not in _SCALAR:
            return False
        self.facts.reach(pool(self.outputs_of(fields["subselect"], scope)))
        return True

    def _quiet_constant(self, fields: Node, scope: Scope, rest: list[Any]) -> bool:
        return True


def _is_integer(node: Node) -> bool:
    return "ival" in node["A_Const"]


def _is_bare_column(node: Node, scope: Scope) -> bool:
    parts = strings(node["ColumnRef"]["fields"]) if "ColumnRef" in node else ["*"]
    return parts[-1] != "*" and scope.resolve(parts).is_plain


_Step = Callable[[Lineage, Node, Scope, list[Any]], bool]
_QUIET_NODES: Final[dict[str, _Step]] = {
    "ColumnRef": Lineage._quiet_column,
    "TypeCast": Lineage._quiet_cast,
    "CollateClause": Lineage._quiet_collation,
    "CoalesceExpr": Lineage._quiet_parts,
    "RowExpr": Lineage._quiet_parts,
    "A_ArrayExpr": Lineage._quiet_parts,
    "List": Lineage._quiet_parts,
    "CaseExpr": Lineage._quiet_case,
    "A_Expr": Lineage._quiet_operation,
    "FuncCall": Lineage._quiet_call,
    "SubLink": Lineage._quiet_subquery,
    "A_Const": Lineage._quiet_constant,
    "ParamRef": Lineage._quiet_constant,
}
