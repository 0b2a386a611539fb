"""Names and patterns of PostgreSQL objects: folding, quotes, wildcards, the 63 bytes."""

from __future__ import annotations

import pytest
from pydantic_core import PydanticCustomError

from sidegate.api.names import (
    ColumnName,
    DatabasePattern,
    FunctionPattern,
    OwnFunctionPattern,
    RoleName,
    SchemaPattern,
    SqlName,
    TablePattern,
)


@pytest.mark.parametrize(
    ("form", "written", "folded"),
    [
        (TablePattern, "Orders", "orders"),
        (TablePattern, "Public.Order_*", "public.order_*"),
        (TablePattern, '"Public".orders', "Public.orders"),
        (TablePattern, '"My Table"', "My Table"),
        (TablePattern, "ÄPFEL", "Äpfel"),  # PostgreSQL folds ASCII alone in UTF-8
        (SchemaPattern, "prod_*", "prod_*"),
        (DatabasePattern, "Shop-Prod", "Shop-Prod"),  # from the startup message, unfolded
        (RoleName, "Shop_App", "Shop_App"),
        (FunctionPattern, "shop.Place_Order", "shop.place_order"),
        (OwnFunctionPattern, "shop.order_*", "shop.order_*"),
        (ColumnName, "public.Customers.SSN", "public.customers.ssn"),
    ],
)
def test_folds_as_postgresql_does(form: type[SqlName], written: str, folded: str) -> None:
    assert form(written).folded == folded
    assert form(written) == written


def test_parts_lose_their_quotes_and_nothing_else() -> None:
    assert ColumnName('"Sch ema".tab."COL"').parts == ("Sch ema", "tab", "COL")


@pytest.mark.parametrize(
    ("form", "written"),
    [
        (TablePattern, ""),
        (TablePattern, "a.b.c"),
        (TablePattern, ".a"),
        (TablePattern, "a."),
        (TablePattern, "a%"),  # LIKE's wildcards are no wildcards here
        (TablePattern, "a?"),
        (TablePattern, "[ab]"),
        (TablePattern, "a b"),
        (TablePattern, '"a'),
        (TablePattern, '"a*"'),  # a quoted name has no wildcards, and none is taken for one
        (TablePattern, '"a.b"'),
        (TablePattern, "a;drop"),
        (FunctionPattern, "f()"),
        (OwnFunctionPattern, "f"),
        (OwnFunctionPattern, "*.f"),
        (OwnFunctionPattern, "pg_catalog.pg_read_file"),
        (OwnFunctionPattern, "PG_CATALOG.*"),
        (OwnFunctionPattern, '"pg_catalog".lo_import'),
        (OwnFunctionPattern, "information_schema.f"),
        (ColumnName, "*"),
        (ColumnName, "customers.*"),
        (ColumnName, "a.b.c.d"),
        (RoleName, "*"),
        (RoleName, "app*"),
        (RoleName, '"App"'),
        (DatabasePattern, "a.b"),
    ],
)
def test_refuses_what_would_never_match_or_match_too_much(form: type[SqlName], written: str) -> None:
    with pytest.raises(PydanticCustomError):
        form(written)


@pytest.mark.parametrize("form", [TablePattern, SchemaPattern, ColumnName, RoleName, DatabasePattern])
def test_refuses_a_name_that_postgresql_would_cut(form: type[SqlName]) -> None:
    assert form("a" * 63)
    assert form("ä" * 31)
    for long in ("a" * 64, "ä" * 32):
        with pytest.raises(PydanticCustomError, match="63 bytes"):
            form(long)
