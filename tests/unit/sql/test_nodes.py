from __future__ import annotations

import inspect

import pglast.ast
import pytest

from sidegate.policy.statement import StatementKind
from sidegate.sql.analyse import DEFAULT_LIMITS
from sidegate.sql.expressions import STRUCTS
from sidegate.sql.facts import Facts
from sidegate.sql.names import Names
from sidegate.sql.nodes import PLACEMENTS, Place
from sidegate.sql.utility import Statements

NODES = sorted(
    name
    for name, item in vars(pglast.ast).items()
    if inspect.isclass(item) and issubclass(item, pglast.ast.Node) and item is not pglast.ast.Node
)


def test_every_node_of_the_grammar_has_a_place() -> None:
    assert set(NODES) == set(PLACEMENTS)
    assert len(NODES) > 260


def test_every_utility_statement_has_kinds_or_a_handler_that_gives_them() -> None:
    for name, placement in PLACEMENTS.items():
        if placement.place is Place.UTILITY and not placement.kinds:
            assert name in ("CopyStmt", "LockStmt", "VariableSetStmt")
        if placement.place not in (Place.QUERY, Place.UTILITY):
            assert not placement.kinds


def walk(node: dict[str, object]) -> Facts:
    facts = Facts()
    Statements(facts, Names(("public",)), DEFAULT_LIMITS).statement(node)
    return facts


@pytest.mark.parametrize(
    "name", [name for name, placed in PLACEMENTS.items() if placed.place not in (Place.QUERY, Place.UTILITY)]
)
def test_node_that_is_no_statement_is_unknown_as_one(name: str) -> None:
    assert walk({name: {}}).kinds == {StatementKind.UNKNOWN}


def test_node_that_nobody_placed_is_unknown_wherever_it_stands() -> None:
    assert walk({"BrandNewStmt": {}}).kinds == {StatementKind.UNKNOWN}
    target = {"ResTarget": {"val": {"BrandNewExpr": {}}}}
    assert walk({"SelectStmt": {"targetList": [target]}}).unknown == ["BrandNewExpr inside an expression"]
    assert walk({"SelectStmt": {"fromClause": [{"BrandNewItem": {}}]}}).unknown == ["BrandNewItem in FROM"]
    assert walk({"CreateStmt": {"relation": {"relname": "t"}, "tableElts": [{"BrandNew": {}}]}}).unknown == [
        "BrandNew inside a definition"
    ]


@pytest.mark.parametrize("name", [name for name, placed in PLACEMENTS.items() if placed.place is Place.ANALYSED])
def test_node_of_parse_analysis_is_unknown_inside_an_expression(name: str) -> None:
    facts = walk({"SelectStmt": {"targetList": [{"ResTarget": {"val": {name: {}}}}]}})
    assert StatementKind.UNKNOWN in facts.kinds


def test_fields_that_hold_one_node_are_named_by_its_class() -> None:
    assert STRUCTS["TypeCast"]["typeName"] == "TypeName"
    assert STRUCTS["FuncCall"]["over"] == "WindowDef"
    assert "raw_expr" not in STRUCTS["JsonValueExpr"]  # any expression, named in the tree itself
