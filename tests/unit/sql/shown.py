"""An `SqlStatement` in the few words that the case files use: `schema.table`, `?` for any schema, `table.column`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sidegate.policy.statement import ColumnRef, FunctionRef, RelationRef, SqlStatement


def shown(statement: SqlStatement) -> dict[str, Any]:
    """Every field that is not empty; a missing key means empty."""
    found: dict[str, Any] = {
        "kinds": sorted(statement.kinds),
        "reads": relations(statement.reads),
        "writes": relations(statement.writes),
        "creates": relations(statement.creates),
        "schemas": sorted(statement.schemas) if statement.schemas is not None else "any",
        "output": columns(statement.columns_output),
        "fields": sorted(
            (f"{name}: " if name is not None else "") + columns([column])[0] for name, column in statement.fields_output
        ),
        "computed": [
            f"{output.name or '?'}: {' '.join(columns(output.columns))}"
            for output in statement.lineage
            if output.is_computed and output.columns
        ],
        "steering": columns(statement.columns_steering),
        "keys": columns(statement.columns_keys),
        "compared": columns(statement.columns_compared),
        "written": columns(statement.columns_written),
        "changed": columns(statement.columns_changed),
        "drops": relations(statement.drops_tables) if statement.drops_tables else statement.drops_tables is not None,
        "unsafe": sorted(where(f.schemas) + f.name for f in statement.functions if not f.is_known_safe),
        "settings": [list(setting) for setting in statement.settings],
        "affects_rows": statement.affects_rows,
        "controls_transaction": statement.controls_transaction,
        "changes_schemas": statement.changes_schemas,
        "unknown": list(statement.unknown),
        "dangers": list(statement.dangers),
    }
    for name in (
        *("prepares", "executes", "deallocates", "declares", "outlives_transaction", "fetches", "closes", "stores_code"),
    ):
        found[name] = getattr(statement, name)
    return {
        key: [str(item) if not isinstance(item, list) else item for item in value] if isinstance(value, list) else value
        for key, value in found.items()
        if value
    }


def where(schemas: frozenset[str] | None) -> str:
    return "?." if schemas is None else "|".join(sorted(schemas)) + "."


def relations(refs: Iterable[RelationRef]) -> list[str]:
    return sorted(where(ref.schemas) + ref.name for ref in refs)


def columns(refs: Iterable[ColumnRef]) -> list[str]:
    return sorted(
        (
            column.relation.name
            if column.relation.schemas == frozenset({"public"})
            else where(column.relation.schemas) + column.relation.name
        )
        + "."
        + column.name
        if column.relation is not None
        else f"?.{column.name}"
        for column in refs
    )


__all__ = ["FunctionRef", "columns", "relations", "shown"]
