"""Expressions where values decide: every column named below steers; functions, operators and types are looked up; queries are walked.

Rules it keeps:
- The walk uses no recursion of its own within an expression, so that depth is bounded by what the decoder accepts.
- A node that isn't placed as part of an expression makes the statement unknown.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

import pglast.ast

from sidegate.policy.statement import FunctionRef, RelationRef, StatementKind
from sidegate.sql import settings
from sidegate.sql.facts import Facts
from sidegate.sql.functions import DANGEROUS, SAFE
from sidegate.sql.names import Names, split_name, strings
from sidegate.sql.nodes import PLACEMENTS, Place
from sidegate.sql.parse import Limits, Node
from sidegate.sql.scope import Output, Scope, pool

_EXPLAINED: Final = frozenset({StatementKind.SERVER, StatementKind.SETTINGS, StatementKind.REPLICATION, StatementKind.CALL})
_LEAVES: Final = frozenset(name for name, placed in PLACEMENTS.items() if placed.place is Place.LEAF)
_WALKED: Final = frozenset(
    name for name, placed in PLACEMENTS.items() if placed.place in (Place.EXPRESSION, Place.CLAUSE, Place.DEFINITION)
)


def _struct_fields() -> dict[str, dict[str, str]]:
    """Fields that hold one node of a fixed class: the JSON leaves its name out there."""
    found: dict[str, dict[str, str]] = {}
    for name in PLACEMENTS:
        slots = getattr(getattr(pglast.ast, name, None), "__slots__", {})
        if not isinstance(slots, dict):
            continue
        structs = {key: info.c_type.removesuffix("*") for key, info in slots.items() if info.c_type.endswith("*")}
        found[name] = {key: struct for key, struct in structs.items() if struct in PLACEMENTS and struct != "Expr"}  # Expr: any
    return found


STRUCTS: Final = _struct_fields()


def children(tag: str, fields: Node) -> list[Node]:
    """The nodes right below one, each with its name."""
    found: list[Node] = []
    structs = STRUCTS.get(tag, {})
    for key, value in fields.items():
        if type(value) is dict:
            struct = structs.get(key)
            found.append({struct: value} if struct is not None else value)
        elif type(value) is list:
            found.extend(item for item in value if type(item) is dict)
    return found


class TooDeepError(Exception):
    """The statement nests queries deeper than the limits say."""


class Expressions(ABC):
    """The walk of expressions. Its heirs add from items, queries, changes and utility statements."""

    def __init__(self, facts: Facts, names: Names, limits: Limits) -> None:
        self.facts = facts
        self.names = names
        self.limits = limits
        self.pinned_setting: str | None = None  # what `name` is in the query at hand, which reads one row of pg_settings
        self._handlers: dict[str, Callable[[Node, Scope, list[Node]], None]] = {
            "ColumnRef": self._column,
            "FuncCall": self._call,
            "SubLink": self._sublink,
            "SelectStmt": self._bare_query,
            "A_Expr": self._operation,
            "SortBy": self._sort_by,
            "TypeName": self._type,
            "CurrentOfExpr": self._current_of,
            "CollateClause": self._collate,
            "List": self._list,
        }

    @abstractmethod
    def outputs_of(self, query: Node, scope: Scope) -> list[Output]:
        """Walk a query inside another statement; its plain outputs don't steer yet."""

    def steer(self, outputs: list[Output]) -> None:
        self.facts.steer(pool(outputs))

    def expression(self, node: Any, scope: Scope) -> None:
        """Walk one expression, or a list of them."""
        if not node:
            return
        stack: list[Any] = [node]
        handlers = self._handlers
        while stack:
            current = stack.pop()
            if type(current) is list:
                stack.extend(current)
                continue
            for tag, fields in current.items():
                if tag in _LEAVES:
                    continue
                handler = handlers.get(tag)
                if handler is not None:
                    handler(fields, scope, stack)
                elif tag in _WALKED:
                    stack.extend(children(tag, fields))
                else:
                    self.facts.not_known(f"{tag} inside an expression")

    # ---- one node each: `rest` takes what is still to be walked -----------------------------------------------------------------------

    def _list(self, fields: Node, scope: Scope, rest: list[Node]) -> None:
        rest.extend(fields.get("items", []))

    def _column(self, fields: Node, scope: Scope, rest: list[Node]) -> None:
        parts = strings(fields["fields"])
        if parts[-1] == "*":
            self.steer(scope.star(parts[:-1]))
        else:
            columns = scope.resolve(parts).columns
            self.facts.steer(columns)
            if len(parts) > 1:
                self.facts.qualified |= columns

    def _collate(self, fields: Node, scope: Scope, rest: list[Node]) -> None:
        if "arg" in fields:
            rest.append(fields["arg"])

    def _sublink(self, fields: Node, scope: Scope, rest: list[Node]) -> None:
        if "testexpr" in fields:
            rest.append(fields["testexpr"])
        if "operName" in fields:
            self.operator(strings(fields["operName"]))
        outputs = self.outputs_of(fields["subselect"], scope)
        # What EXISTS selects is never computed (convert_EXISTS_sublink, simplify_EXISTS_query); only plain columns are left to leave out.
        if fields.get("subLinkType") != "EXISTS_SUBLINK":
            self.steer(outputs)

    def _bare_query(self, fields: Node, scope: Scope, rest: list[Node]) -> None:
        self.steer(self.outputs_of({"SelectStmt": fields}, scope))

    def _operation(self, fields: Node, scope: Scope, rest: list[Node]) -> None:
        if "BETWEEN" not in fields.get("kind", ""):
            self.operator(strings(fields.get("name", [])))
        if self._is_equality_with_parameter(fields, scope):
            return
        rest.extend(node for node in (fields.get("lexpr"), fields.get("rexpr")) if node)

    def _is_equality_with_parameter(self, fields: Node, scope: Scope) -> bool:
        if fields.get("kind") != "AEXPR_OP" or strings(fields.get("name", [])) != ["="]:
            return False
        left, right = fields.get("lexpr", {}), fields.get("rexpr", {})
        for column, parameter in ((left, right), (right, left)):
            if "ColumnRef" in column and "ParamRef" in parameter:
                parts = strings(column["ColumnRef"]["fields"])
                if parts[-1] != "*":
                    self.facts.compare(scope.resolve(parts).columns, parameter["ParamRef"].get("number", 0))
                    return True
        return False

    def _sort_by(self, fields: Node, scope: Scope, rest: list[Node]) -> None:
        if "useOp" in fields:
            self.operator(strings(fields["useOp"]))
        rest.append(fields["node"])

    def _current_of(self, fields: Node, scope: Scope, rest: list[Node]) -> None:
        name = fields.get("cursor_name")
        if name is None:
            self.facts.not_known("WHERE CURRENT OF a parameter")
        else:
            self.fetch(name)

    def _type(self, fields: Node, scope: Scope, rest: list[Node]) -> None:
        self.type_use(fields)
        rest.extend(fields.get("typmods", []))

    def _call(self, fields: Node, scope: Scope, rest: list[Node]) -> None:
        self.call(fields)
        for key in ("args", "agg_order"):
            rest.extend(fields.get(key, []))
        if "agg_filter" in fields:
            rest.append(fields["agg_filter"])
        if "over" in fields:
            rest.append({"WindowDef": fields["over"]})

    # ---- what is called ---------------------------------------------------------------------------------------------------------------

    def fetch(self, cursor: str) -> None:
        if self.facts.fetches not in (None, cursor):
            self.facts.not_known("more than one cursor")
        self.facts.fetches = cursor

    def operator(self, parts: list[str]) -> None:
        if not parts:
            return
        is_own, schemas = self.names.operator_schemas(parts)
        if not is_own:
            self._unknown_call(FunctionRef(parts[-1], schemas))

    def type_use(self, fields: Node) -> None:
        """A cast runs the type's input function, and casts that someone made."""
        names = fields.get("names", [])
        if not names:
            return
        parts = strings(names)
        is_own, schemas = self.names.type_schemas(parts)
        if not is_own:
            self._unknown_call(FunctionRef(parts[-1], schemas))

    def _unknown_call(self, function: FunctionRef) -> None:
        self.facts.functions.add(function)
        self.facts.kinds.add(StatementKind.CALL)
        self.facts.touch_schemas(function.schemas)

    def call(self, fields: Node) -> None:
        """Look the function up; its arguments are walked by the caller."""
        facts = self.facts
        parts = strings(fields["funcname"])
        called = self.names.function(parts)
        name = parts[-1]
        danger = DANGEROUS.get(name)
        if danger is None:
            if called.is_builtin and name in SAFE:
                facts.functions.add(called.ref._replace(is_known_safe=True))
            else:
                self._unknown_call(called.ref)
            return
        if not called.is_builtin:
            self._unknown_call(called.ref)
        facts.functions.add(called.ref)
        for kind in danger.kinds:
            if kind in _EXPLAINED:
                facts.danger(kind, f"function `{name}` ({danger.why})")
            else:
                facts.kinds.add(kind)
        if name == "set_config":
            self._set_config(fields.get("args", []))
        elif StatementKind.UPDATE in danger.kinds:
            self._move_sequence(fields.get("args", []))

    def _set_config(self, arguments: list[Node]) -> None:
        self.facts.depends_on_constants = True
        values: dict[str, Node] = dict(zip(("setting_name", "new_value", "is_local"), arguments, strict=False))
        for argument in arguments:
            named = argument.get("NamedArgExpr")
            if named is not None:
                values[named.get("name", "")] = named.get("arg", {})
        name = settings.constant(values.get("setting_name", {}))
        if name is None and strings(values.get("setting_name", {}).get("ColumnRef", {}).get("fields", [])) == ["name"]:
            name = self.pinned_setting
        if name is None:
            self.facts.not_known("set_config of a setting that isn't named by a constant")
        else:
            self.facts.set([(name.lower(), settings.constant(values.get("new_value", {})))])

    def _move_sequence(self, arguments: list[Node]) -> None:
        self.facts.affects_rows = True
        self.facts.depends_on_constants = True
        first = arguments[0] if arguments else {}
        while "TypeCast" in first:
            first = first["TypeCast"].get("arg", {})
        text = settings.constant(first)
        parts = text.split(".") if text else []
        if parts and all(settings.is_plain_name(part) for part in parts):
            self.facts.write(self.sequence(parts))
        else:
            self.facts.touch_schemas(None)

    def sequence(self, parts: list[str]) -> RelationRef:
        return self.names.relation(*split_name(parts))
