"""What happens to an object that exists, by its type and name: DROP, RENAME, SET SCHEMA, OWNER TO, COMMENT, GRANT.

Rules it keeps:
- A name stands in the schemas that it could be in. What has no name here, and what is in no schema, could be anywhere.
- A routine by another name is other code to whoever calls it: it counts as code that is stored.
- With CASCADE it is told where that starts (`cascade`); of what can't be told by name, that it could take anything.

Left out: what a definition makes or alters of its own object, see definitions.py.
"""

from __future__ import annotations

from typing import Any, Final

from sidegate.policy.statement import CascadeRoot, ColumnRef, RelationRef, Root, StatementKind
from sidegate.sql.builtins import CATALOG_FUNCTIONS
from sidegate.sql.changes import Changes
from sidegate.sql.names import INFORMATION_SCHEMA, PG_CATALOG, split_name, strings
from sidegate.sql.objects import OBJECT_TYPES, Home
from sidegate.sql.parse import Node
from sidegate.sql.scope import STAR, Scope

K = StatementKind
CATALOGS: Final = frozenset({PG_CATALOG, INFORMATION_SCHEMA})
_ROUTINES: Final = frozenset({"OBJECT_FUNCTION", "OBJECT_PROCEDURE", "OBJECT_ROUTINE", "OBJECT_AGGREGATE"})
# What is dropped with CASCADE, where it can be told by name; a CASCADE of anything else could take anything.
_ROOTS: Final = {
    **dict.fromkeys(
        ("OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW", "OBJECT_SEQUENCE", "OBJECT_INDEX", "OBJECT_FOREIGN_TABLE"),
        Root.RELATION,
    ),
    **dict.fromkeys(("OBJECT_TYPE", "OBJECT_DOMAIN"), Root.TYPE),
    **dict.fromkeys(("OBJECT_FUNCTION", "OBJECT_PROCEDURE", "OBJECT_ROUTINE", "OBJECT_AGGREGATE"), Root.ROUTINE),
    "OBJECT_SCHEMA": Root.SCHEMA,
}
_HOLDS_ROWS: Final = frozenset({"OBJECT_TABLE", "OBJECT_EXTENSION"})  # with CASCADE or without


class ExistingObjects(Changes):
    def _moved(self, relation: Node, column: str = STAR) -> None:
        """From now on the column has another name or type, or its table may be read by another name."""
        self.facts.changed.add(ColumnRef(column, self._relation(relation)))

    def _touch_name(self, parts: list[str]) -> None:
        self.facts.touch_schemas(self.names.schemas_for(split_name(parts)[0]))

    def touch_object(self, object_type: str, node: Any, relation: Node | None = None) -> None:
        """An existing object that is altered, dropped, renamed, commented on or granted."""
        facts = self.facts
        known = OBJECT_TYPES.get(object_type)
        if known is None:
            facts.not_known(f"object type {object_type}")
            return
        facts.kinds |= known.kinds
        if known.kinds & {K.SERVER, K.REPLICATION}:
            facts.danger(
                next(iter(known.kinds & {K.SERVER, K.REPLICATION})), object_type.removeprefix("OBJECT_").lower().replace("_", " ")
            )
        if known.home is Home.NOWHERE:
            facts.touch_schemas(None)
            return
        if relation is not None:
            facts.write(self._relation(relation))
            return
        parts = _names_in(node)
        if parts is not None and len(parts) > 1 and parts[-2] in CATALOGS and known.home is not Home.PART:
            facts.danger(K.SERVER, f"`{'.'.join(parts)}`, which is PostgreSQL's own")
        if parts is None:
            facts.touch_schemas(None)
        elif known.home is Home.SCHEMA:
            facts.touch_schemas(frozenset({parts[-1]}))
        elif known.home is Home.RELATION:
            facts.write(self.names.relation(*split_name(parts)))
        elif known.home is Home.PART and len(parts) > 1:
            facts.write(self.names.relation(*split_name(parts[:-1])))
        else:
            self._touch_name(parts[1:] if known.home is Home.BY_METHOD else parts)

    def _define_drop(self, fields: Node, scope: Scope) -> None:
        for node in fields.get("objects", []):
            self.touch_object(fields["removeType"], node)
        if fields["removeType"] in _HOLDS_ROWS:
            self.facts.drop(self.facts.writes)
        if fields.get("behavior") == "DROP_CASCADE":
            kind = _ROOTS.get(fields["removeType"])
            for node in fields.get("objects", []):
                self.facts.cascade(self._roots(kind, node))
            is_schema = fields["removeType"] == "OBJECT_SCHEMA"
            named = frozenset(strings(fields.get("objects", []))) if is_schema else frozenset()
            self.facts.drop(RelationRef(STAR, frozenset({name})) for name in named)
        self.facts.controls_transaction = self.facts.controls_transaction or bool(fields.get("concurrent"))

    def _roots(self, kind: Root | None, node: Any) -> list[CascadeRoot] | None:
        parts = _names_in(node)
        if kind is None or parts is None:
            return None
        schema, name = split_name(parts)
        if kind is Root.SCHEMA:
            return [CascadeRoot(kind, name, frozenset({name}))]
        return [CascadeRoot(kind, name, self.names.schemas_for(schema))]

    def _define_comment(self, fields: Node, scope: Scope) -> None:
        self.touch_object(fields["objtype"], fields.get("object"))

    def _define_rename(self, fields: Node, scope: Scope) -> None:
        if fields["renameType"] not in OBJECT_TYPES:
            self.facts.not_known(f"object type {fields['renameType']}")
            return
        self.touch_object(fields["renameType"], fields.get("object"), fields.get("relation"))
        if fields["renameType"] in _ROUTINES:
            self._callable_as(fields["newname"])
        if fields["renameType"] == "OBJECT_SCHEMA":
            self.facts.touch_schemas(frozenset({fields.get("subname", ""), fields["newname"]}))
            self.facts.changed.add(ColumnRef(STAR, None))
        elif "relation" in fields and fields["renameType"] in ("OBJECT_COLUMN", "OBJECT_ATTRIBUTE"):
            self._moved(fields["relation"], fields["subname"])
        elif OBJECT_TYPES[fields["renameType"]].home is Home.RELATION and "relation" in fields:
            schemas = self._relation(fields["relation"]).schemas
            self.facts.create(RelationRef(fields["newname"], schemas))
            self._moved(fields["relation"])

    def _callable_as(self, name: str) -> None:
        """A routine can be called by this name from now on. One that is called like a built-in would pass as it where its arguments fit
        better; and whoever looked at a name that may be called looked at another body.
        """
        self.facts.stores_code = self.facts.stores_code or "a routine by another name"
        if name in CATALOG_FUNCTIONS:
            self.facts.danger(K.SERVER, f"a routine called `{name}`, as one of PostgreSQL's own is")

    def _define_alter_object_schema(self, fields: Node, scope: Scope) -> None:
        self.touch_object(fields["objectType"], fields.get("object"), fields.get("relation"))
        self.facts.touch_schemas(frozenset({fields["newschema"]}))
        if fields["newschema"] in CATALOGS:
            self.facts.danger(K.SERVER, f"schema `{fields['newschema']}`, whose contents pass as PostgreSQL's own")
        if fields["objectType"] in _ROUTINES:
            self._callable_as((_names_in(fields.get("object")) or [""])[-1])
        if "relation" in fields:
            self.facts.create(RelationRef(fields["relation"]["relname"], frozenset({fields["newschema"]})))
            self._moved(fields["relation"])

    def _define_alter_owner(self, fields: Node, scope: Scope) -> None:
        self.touch_object(fields["objectType"], fields.get("object"), fields.get("relation"))

    def _define_grant(self, fields: Node, scope: Scope) -> None:
        self.grant(fields)

    def grant(self, fields: Node) -> None:
        for node in fields.get("objects", []):
            if fields.get("targtype") == "ACL_TARGET_ALL_IN_SCHEMA":
                self.facts.touch_schemas(frozenset(strings([node])))
            elif "RangeVar" in node:
                self.facts.write(self._relation(node["RangeVar"]))
            else:
                self.touch_object(fields["objtype"], node)


def _names_in(node: Any) -> list[str] | None:
    """The dotted name in what stands for an object; None: it has none."""
    if not isinstance(node, dict):
        return None
    for tag, fields in node.items():
        if tag == "String":
            return [str(fields.get("sval", ""))]
        if tag == "List":
            first: list[Node] = fields.get("items", [])
            if first and "TypeName" in first[0]:
                return _names_in(first[0])
            return strings(first) if first and all("String" in item for item in first) else None
        if tag == "TypeName":
            return strings(fields.get("names", []))
        if tag == "ObjectWithArgs":
            return strings(fields.get("objname", []))
    return None
