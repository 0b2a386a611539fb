"""Names to what they may mean: relations, functions, operators and types, resolved by the search_path as PostgreSQL does.

Rules it keeps:
- `search_path` is the session's effective one: the schemas that exist, in order, as `current_schemas(false)` lists them; `"$user"` is the
  caller's to resolve. None: unknown, and then an unqualified name could be in any schema.
- pg_catalog comes first unless the path names it (namespace.c, recomputeNamespacePath). A table of the session's own temporary schema may
  hide any other; it is not among the candidates, because it can only be there by a granted CREATE and holds what the session itself put in.
- Names that pg_catalog doesn't have in every version asked could also be a table's: all candidates are given.

Weakness: of several functions with one name PostgreSQL takes the one whose argument types fit best, wherever on the path it is, so one
in another schema of the path can win over pg_catalog's. A built-in's unqualified name is taken for the built-in all the same, or `count(*)`
could not be allowed; whoever may create functions in a schema of the path can use that. Operators and casts behave alike.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sidegate.policy.statement import FunctionRef, RelationRef
from sidegate.sql.builtins import (
    CATALOG_FUNCTIONS,
    CATALOG_OPERATORS,
    CATALOG_RELATIONS,
    CATALOG_TYPES,
    INFORMATION_FUNCTIONS,
    INFORMATION_TYPES,
    NEWER_CATALOG_RELATIONS,
)

PG_CATALOG: Final = "pg_catalog"
INFORMATION_SCHEMA: Final = "information_schema"
PG_TEMP: Final = "pg_temp"
ANY_SCHEMA: Final = None
_CATALOG_ONLY: Final = frozenset({PG_CATALOG})


class Called(NamedTuple):
    """A function's name as resolved. `is_builtin`: it is pg_catalog's, as far as the path tells."""

    ref: FunctionRef
    is_builtin: bool


def quote(name: str) -> str:
    """The identifier in quotes, always: a keyword needs them, and nothing suffers from them."""
    return '"' + name.replace('"', '""') + '"'


def strings(nodes: list[dict[str, Any]]) -> list[str]:
    """The parts of a dotted name."""
    return [str(node["String"].get("sval", "")) if "String" in node else "*" for node in nodes]


def split_name(parts: list[str]) -> tuple[str | None, str]:
    """Schema (None: not given) and name. A database before them says nothing: PostgreSQL only takes the current one there."""
    return (parts[-2] if len(parts) > 1 else None), parts[-1]


ANY_NAME: Final = "*"
# From items whose columns have names that no statement says.
_NAMING: Final = frozenset({"RangeFunction", "RangeTableFunc", "JsonTable"})
# Names that PostgreSQL gives to columns by itself (FigureColname, parser/parse_target.c), and that aren't those of functions or types.
_GIVEN: Final = frozenset(
    """?column? array bool case coalesce exists greatest grouping least merge_action nullif row xmlconcat xmlelement
    xmlforest xmlparse xmlpi xmlroot xmlserialize current_catalog current_date current_role current_schema current_time
    current_timestamp current_user localtime localtimestamp session_user user system_user json json_array json_arrayagg
    json_exists json_object json_objectagg json_query json_scalar json_serialize json_value""".split()  # noqa: SIM905
)


def spreads_row(node: dict[str, Any]) -> bool:
    """`(f(x)).*`: columns of names that the statement doesn't say."""
    return any("A_Star" in part for part in node.get("A_Indirection", {}).get("indirection", []))


def names_in(tree: dict[str, Any]) -> frozenset[str]:
    """Every text in a parse tree but constants, in lower case: whatever a statement names is among them. With a query in it, so are the
    names that PostgreSQL gives to columns; `*` is any name, of what a function in FROM returns.
    """
    found: set[str] = set()
    pending: list[Any] = [tree]
    while pending:
        node = pending.pop()
        if type(node) is dict:
            pending.extend(value for key, value in node.items() if key != "A_Const")
            if "SelectStmt" in node or "query" in node:
                found |= _GIVEN
            if not _NAMING.isdisjoint(node) or spreads_row(node):
                found.add(ANY_NAME)
            if "valuesLists" in node:
                found |= {f"column{number + 1}" for number in range(len(node["valuesLists"][0]["List"].get("items", [])))}
        elif type(node) is list:
            pending.extend(node)
        elif type(node) is str:
            found.add(node.lower())
    return frozenset(found)


class Names:
    """The names of one search_path."""

    __slots__ = ("_all", "_created_in", "_functions", "_path", "_relations", "is_catalog_first", "search_path")

    def __init__(self, search_path: tuple[str, ...] | None, created_in: str | None = None) -> None:
        """`created_in`: where new objects go instead of the path's first schema, inside CREATE SCHEMA."""
        self.search_path = search_path
        self._created_in = created_in or (search_path[0] if search_path else None)
        self._path: frozenset[str] | None = frozenset(search_path) if search_path is not None else None
        # INVARIANT: with pg_catalog later in the path, a name of another schema may come first: nothing unqualified is then built in.
        self.is_catalog_first = search_path is not None and (PG_CATALOG not in search_path or search_path[0] == PG_CATALOG)
        self._all: frozenset[str] | None = self._path | _CATALOG_ONLY if self._path is not None else None
        self._relations: dict[str, RelationRef] = {}
        self._functions: dict[str, Called] = {}

    def schemas_for(self, schema: str | None) -> frozenset[str] | None:
        """Where a thing of this (optional) schema could be. Without a path there is nowhere for it, which is as good as anywhere."""
        if schema is not None:
            return frozenset({_temporary(schema)})
        return self._path or None

    def relation(self, schema: str | None, name: str) -> RelationRef:
        if schema is not None:
            return RelationRef(name, frozenset({_temporary(schema)}))
        found = self._relations.get(name)
        if found is None:
            found = RelationRef(name, self._relation_schemas(name))
            if len(self._relations) < 1000:
                self._relations[name] = found
        return found

    def _relation_schemas(self, name: str) -> frozenset[str] | None:
        if self._path is None:
            return None
        if name in CATALOG_RELATIONS:
            return _CATALOG_ONLY if self.is_catalog_first else self._all
        if name in NEWER_CATALOG_RELATIONS:
            return self._all
        return self._path or None

    def created(self, schema: str | None, name: str, *, is_temporary: bool = False) -> RelationRef:
        """A relation to be created: in the first schema of the path."""
        if is_temporary:
            return RelationRef(name, frozenset({PG_TEMP}))
        return RelationRef(name, self.created_schemas(schema))

    def created_schemas(self, schema: str | None) -> frozenset[str] | None:
        if schema is not None:
            return frozenset({_temporary(schema)})
        return frozenset({_temporary(self._created_in)}) if self._created_in is not None else None

    def function(self, parts: list[str]) -> Called:
        if len(parts) == 1:
            found = self._functions.get(parts[0])
            if found is None:
                found = self._find_function(None, parts[0])
                if len(self._functions) < 1000:
                    self._functions[parts[0]] = found
            return found
        return self._find_function(*split_name(parts))

    def _find_function(self, schema: str | None, name: str) -> Called:
        if schema is None:
            is_builtin = self.is_catalog_first and name in CATALOG_FUNCTIONS
            schemas = _CATALOG_ONLY if is_builtin else self._unqualified(name in CATALOG_FUNCTIONS)
            return Called(FunctionRef(name, schemas), is_builtin)
        is_builtin = schema == PG_CATALOG and name in CATALOG_FUNCTIONS
        is_builtin = is_builtin or (schema == INFORMATION_SCHEMA and name in INFORMATION_FUNCTIONS)
        return Called(FunctionRef(name, frozenset({_temporary(schema)})), is_builtin)

    def _unqualified(self, is_in_catalog: bool) -> frozenset[str] | None:
        return self._all if is_in_catalog else self._path or None

    def operator_schemas(self, parts: list[str]) -> tuple[bool, frozenset[str] | None]:
        """Whether the operator is PostgreSQL's own, and where it could be otherwise."""
        schema, name = split_name(parts)
        if schema is None:
            return self.is_catalog_first and name in CATALOG_OPERATORS, self._unqualified(name in CATALOG_OPERATORS)
        return schema == PG_CATALOG and name in CATALOG_OPERATORS, frozenset({schema})

    def type_schemas(self, parts: list[str]) -> tuple[bool, frozenset[str] | None]:
        """The same for a type. Unlike functions, types have no overloads: the first on the path wins, a temporary one before all."""
        schema, name = split_name(parts)
        if schema is None:
            return self.is_catalog_first and name in CATALOG_TYPES, self._unqualified(name in CATALOG_TYPES)
        is_own = (schema == PG_CATALOG and name in CATALOG_TYPES) or (schema == INFORMATION_SCHEMA and name in INFORMATION_TYPES)
        return is_own, frozenset({_temporary(schema)})


def _temporary(schema: str) -> str:
    """`pg_temp_3` is some session's temporary schema, as `pg_temp` is this one's."""
    return PG_TEMP if schema.startswith("pg_temp_") else schema
