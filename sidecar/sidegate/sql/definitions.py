"""DDL and rights: which objects a statement defines, alters or drops, and in which schemas.

Rules it keeps:
- A relation that is defined stands among `creates`; one that exists and is touched, among `writes`: rules on tables look at both.
- What is in no schema, and what CASCADE may reach, could be anywhere: only a grant for every schema covers it. Where a CASCADE starts is
  told (`cascade`), so that the target can be asked what goes with it.
- Queries and bodies that are stored are walked for what they name, and for functions that aren't known; they don't run now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidegate.policy.statement import CascadeRoot, ColumnRef, RelationRef, Root, StatementKind
from sidegate.sql import settings
from sidegate.sql.builtins import CATALOG_RELATIONS, NEWER_CATALOG_RELATIONS
from sidegate.sql.existing_objects import CATALOGS, ExistingObjects
from sidegate.sql.expressions import children
from sidegate.sql.names import Names, split_name, strings
from sidegate.sql.nodes import PLACEMENTS, Place
from sidegate.sql.parse import Node
from sidegate.sql.scope import OPEN, Scope, Source, star_of

K = StatementKind
# What a stored query still says about the statement that stores it, and a planned one about EXPLAIN.
_OUTLIVES: Final = frozenset({K.CALL, K.SERVER, K.SETTINGS, K.REPLICATION, K.UNKNOWN, K.ROLES, K.LOCK, K.NOTIFY})
_CREATED_RELATIONS: Final = {
    "CreateStmt": "relation",
    "CreateSeqStmt": "sequence",
    "ViewStmt": "view",
    "CompositeTypeStmt": "typevar",
}
_CREATED_NAMES: Final = {
    "CreateFunctionStmt": "funcname",
    "CreateEnumStmt": "typeName",
    "CreateRangeStmt": "typeName",
    "CreateDomainStmt": "domainname",
    "DefineStmt": "defnames",
    "CreateConversionStmt": "conversion_name",
    "CreateOpClassStmt": "opclassname",
    "CreateOpFamilyStmt": "opfamilyname",
}
_ALTERED_NAMES: Final = {
    "AlterEnumStmt": "typeName",
    "AlterDomainStmt": "typeName",
    "AlterTypeStmt": "typeName",
    "AlterOpFamilyStmt": "opfamilyname",
    "AlterTSDictionaryStmt": "dictname",
    "AlterTSConfigurationStmt": "cfgname",
    "AlterCollationStmt": "collname",
    "AlterStatsStmt": "defnames",
    "CreateTrigStmt": "funcname",
    "CreateConversionStmt": "func_name",
}
_STORED_CODE: Final = {
    "CreateFunctionStmt": "a function",
    "CreateTrigStmt": "a trigger",
    "CreateEventTrigStmt": "an event trigger",
    "RuleStmt": "a rule",
    "CreatePolicyStmt": "a policy",
    "AlterPolicyStmt": "a policy",
    "CreateCastStmt": "a cast",
    "CreateTransformStmt": "a transform",
    "CreatePLangStmt": "a language",
    "DefineStmt": "an aggregate, an operator or a type",
    "CreateOpClassStmt": "an operator class",
    "AlterOperatorStmt": "an operator",
    "AlterOpFamilyStmt": "an operator family",
    "AlterFunctionStmt": "a function",
    "CreateConversionStmt": "a conversion",
    "CreateRangeStmt": "a range type",
}
# What code that is stored needs beyond DDL: the right to act as its owner, or to be in no schema.
_RIGHTS_OF_CODE: Final = {
    "RuleStmt": K.ROLES,
    "CreatePolicyStmt": K.ROLES,
    "AlterPolicyStmt": K.ROLES,
    "CreateFunctionStmt": K.ROLES,
    "AlterFunctionStmt": K.ROLES,
    "CreateEventTrigStmt": K.SERVER,
    "CreateCastStmt": K.SERVER,
    "CreateTransformStmt": K.SERVER,
}
# Their expressions are stored (defaults, checks, what is generated or indexed); some run now as well.
_STORED_EXPRESSIONS: Final = frozenset(
    {"AlterDomainStmt", "AlterTableStmt", "CreateDomainStmt", "CreateStatsStmt", "CreateStmt", "IndexStmt", *_STORED_CODE}
)
# Code that is called by name: under another one, it is other code.
_NAMED_CODE: Final = frozenset({"OBJECT_AGGREGATE", "OBJECT_FUNCTION", "OBJECT_OPERATOR", "OBJECT_PROCEDURE", "OBJECT_ROUTINE"})
# ALTER DOMAIN ... ADD and VALIDATE CONSTRAINT look at every table that has the type, and an error tells what they found.
_CHECKS_VALUES: Final = frozenset({"C", "V"})
_SCHEMA_CHANGES: Final = frozenset({"CreateSchemaStmt", "CreateExtensionStmt", "AlterExtensionStmt", "DropOwnedStmt"})
_SCHEMA_OBJECTS: Final = frozenset({"OBJECT_SCHEMA", "OBJECT_EXTENSION"})
_RIGHTS_SUBTYPES: Final = ("Trig", "Rule", "RowSecurity", "ChangeOwner")
_ROOT_PARTS: Final = {"AT_DropColumn": Root.COLUMN, "AT_DropConstraint": Root.CONSTRAINT}
# The parent loses the rows of the child: nothing but a name tells it from a DELETE.
_ROWS_LEAVE: Final = frozenset({"AT_DetachPartition", "AT_DetachPartitionFinalize", "AT_DropInherit"})
_SERVER_SUBTYPES: Final = ("GenericOptions", "TableSpace")
# From here on the column's values aren't what its definition said: another type, or no longer generated from other columns.
_COLUMN_CHANGES: Final = frozenset({"AT_AlterColumnType", "AT_DropExpression", "AT_SetExpression"})
# What keeps a view from taking changes (view_query_is_auto_updatable, rewrite/rewriteHandler.c).
_NOT_UPDATABLE: Final = frozenset({"distinctClause", "groupClause", "havingClause", "limitCount", "limitOffset", "withClause"})
_KNOWN_LANGUAGES: Final = frozenset({"sql", "plpgsql"})
# Statements whose tables and schemas the walk below finds, although they touch rights, servers or replication.
_LOCAL: Final = frozenset(
    {"AlterOwnerStmt", "AlterPolicyStmt", "CreateForeignTableStmt", "CreatePolicyStmt", "GrantStmt", "SecLabelStmt"}
)
_NOT_IN_TRANSACTION: Final = frozenset(
    {
        "AlterDatabaseStmt",
        "AlterSubscriptionStmt",
        "AlterSystemStmt",
        "CreateSubscriptionStmt",
        "CreateTableSpaceStmt",
        "CreatedbStmt",
        "DropSubscriptionStmt",
        "DropTableSpaceStmt",
        "DropdbStmt",
    }
)


class Definitions(ExistingObjects):
    def stored_query(self, walk: Callable[[], None]) -> None:
        """Walk what is stored or planned, and doesn't run now."""
        facts = self.facts
        kinds, affects_rows = set(facts.kinds), facts.affects_rows
        walk()
        facts.kinds = kinds | (facts.kinds & _OUTLIVES)
        facts.affects_rows = affects_rows

    def define(self, tag: str, fields: Node) -> None:
        """A statement whose kinds its placement gives."""
        facts = self.facts
        facts.stores_code = facts.stores_code or _STORED_CODE.get(tag)
        if tag == "AlterDomainStmt" and fields.get("subtype") in _CHECKS_VALUES:
            facts.stores_code = "a check of a domain, with every stored value of its type,"
        placed = PLACEMENTS[tag]
        facts.kinds |= placed.kinds
        if tag == "DropOwnedStmt":
            facts.drop()
        facts.changes_schemas = (
            facts.changes_schemas
            or tag in _SCHEMA_CHANGES
            or fields.get("removeType", fields.get("renameType")) in _SCHEMA_OBJECTS
        )
        facts.controls_transaction = facts.controls_transaction or tag in _NOT_IN_TRANSACTION
        if placed.kinds & {K.SERVER, K.REPLICATION}:
            facts.danger(next(iter(placed.kinds & {K.SERVER, K.REPLICATION})), _words(tag))
        if placed.kinds & {K.SERVER, K.REPLICATION, K.ROLES} and tag not in _LOCAL:
            facts.touch_schemas(None)
        if fields.get("renameType", fields.get("objectType")) in _NAMED_CODE and tag in ("RenameStmt", "AlterObjectSchemaStmt"):
            facts.stores_code = "a function by another name"
        scope = self._created(tag, fields)
        specific = _DEFINE.get(tag)
        if specific is not None:
            specific(self, fields, scope)
        else:
            self.parts(tag, fields, scope)
        if tag in _RIGHTS_OF_CODE:
            facts.of_code.add(_RIGHTS_OF_CODE[tag])
        if tag in _STORED_EXPRESSIONS:
            facts.of_code.add(K.CALL)

    def _created(self, tag: str, fields: Node) -> Scope:
        """Note what is created or altered by name; the scope is of the relation that expressions speak of."""
        facts = self.facts
        if tag in _CREATED_RELATIONS:
            relation = fields.pop(_CREATED_RELATIONS[tag])
            created = self._create_relation(relation)
            return Scope(None, [Source(created.name, [star_of(created)], created)])
        if tag in _CREATED_NAMES:
            schema, _ = split_name(strings(fields[_CREATED_NAMES[tag]]))
            facts.touch_schemas(self.names.created_schemas(schema))
        if tag in _ALTERED_NAMES and _ALTERED_NAMES[tag] in fields:
            self._touch_name(strings(fields[_ALTERED_NAMES[tag]]))
        relation = fields.get("relation") or fields.get("table")
        if isinstance(relation, dict) and "relname" in relation:
            return self.relation_scope(relation)
        return Scope()

    def _create_relation(self, relation: Node) -> RelationRef:
        created = self.names.created(
            relation.get("schemaname"), relation["relname"], is_temporary=relation.get("relpersistence") == "t"
        )
        self.facts.create(created)
        return created

    def relation_scope(self, relation: Node) -> Scope:
        ref = self._relation(relation)
        images = [Source(name, [star_of(ref)], is_qualified_only=True) for name in ("old", "new")]
        return Scope(None, [Source(ref.name, [star_of(ref)], ref), *images])

    # ---- the parts of a definition ----------------------------------------------------------------------------------------------------

    def parts(self, tag: str, fields: Node, scope: Scope) -> None:
        """Walk everything below a definition: tables, types, functions, expressions and queries."""
        stack: list[Any] = children(tag, fields)
        while stack:
            current = stack.pop()
            for name, inner in current.items():
                if name == "RangeVar":
                    self.facts.write(self._relation(inner))
                elif name == "TypeName":
                    self.type_named(inner)
                    stack.extend(children(name, inner))
                elif name == "ObjectWithArgs":
                    self._touch_name(strings(inner.get("objname", [])))
                    stack.extend(inner.get("objargs", []))
                elif name == "VariableSetStmt":
                    self.facts.set(settings.changed_by(inner))
                elif name == "TableLikeClause":
                    self.facts.read(self._relation(inner["relation"]))
                elif name == "AlterTableCmd":
                    self._alter_command(inner, fields.get("relation"))
                    stack.extend(children(name, inner))
                elif name == "IndexElem":
                    self._index_element(inner, scope)
                elif name == "Constraint":
                    self._compared(inner, scope if tag == "AlterTableStmt" else None)
                    stack.extend(children(name, inner))
                elif name == "List":
                    stack.extend(inner.get("items", []))
                else:
                    self._part(name, inner, scope, stack)

    def _part(self, name: str, inner: Node, scope: Scope, stack: list[Any]) -> None:
        placed = PLACEMENTS.get(name)
        place = placed.place if placed is not None else None
        if place is Place.EXPRESSION:
            self.expression({name: inner}, scope)
        elif place is Place.QUERY:
            # a rule's actions see OLD and NEW, and no columns by their bare names
            images = Scope(None, [source for source in scope.sources if source.is_qualified_only])
            self.stored_query(lambda: self.stored(self.outputs_of({name: inner}, images)))
        elif place in (Place.DEFINITION, Place.CLAUSE):
            stack.extend(children(name, inner))
        elif place is not Place.LEAF:
            self.facts.not_known(f"{name} inside a definition")

    def _compared(self, constraint: Node, scope: Scope | None) -> None:
        """Keys compare what is stored, and whether they hold tells of it: the columns referred to, and those of a table that exists."""
        if "pktable" in constraint:
            referred = self._relation(constraint["pktable"])
            self.facts.steer([ColumnRef(name, referred) for name in strings(constraint.get("pk_attrs", []))])
        if scope is not None:
            for name in strings(constraint.get("fk_attrs", []) + constraint.get("keys", [])):
                self.facts.steer(scope.resolve([name]).columns)

    def type_named(self, fields: Node) -> None:
        names = strings(fields.get("names", []))
        if not names:
            return
        if fields.get("pct_type"):
            self.facts.read(self.names.relation(*split_name(names[:-1] or names)))
            return
        is_own, schemas = self.names.type_schemas(names)
        if not is_own:
            self.facts.touch_schemas(schemas)

    def _alter_command(self, command: Node, relation: Node | None) -> None:
        subtype = command.get("subtype", "")
        if relation is not None and subtype in _COLUMN_CHANGES:
            self._moved(relation, command["name"])
        elif relation is not None and subtype == "AT_AddInherit":
            self._moved(relation)  # its rows can be read through the parent
        elif subtype == "AT_AttachPartition":
            self._moved(command["def"]["PartitionCmd"]["name"])
        if subtype in _ROWS_LEAVE:
            self.facts.kinds.add(K.DELETE)
        if any(word in subtype for word in _RIGHTS_SUBTYPES):
            self.facts.kinds.add(K.ROLES)
        if any(word in subtype for word in _SERVER_SUBTYPES):
            self.facts.danger(K.SERVER, f"ALTER TABLE ({subtype.removeprefix('AT_')})")
        if subtype == "AT_ReplicaIdentity":
            self.facts.danger(K.REPLICATION, "REPLICA IDENTITY")
        if command.get("behavior") == "DROP_CASCADE":
            kind = _ROOT_PARTS.get(subtype)
            if relation is None or kind is None:
                self.facts.cascade(None)
            else:
                name, schemas = self._relation(relation)
                self.facts.cascade([CascadeRoot(kind, name, schemas, command["name"])])
            self.facts.drop()
        if command.get("def", {}).get("PartitionCmd", {}).get("concurrent"):
            self.facts.controls_transaction = True

    def _index_element(self, element: Node, scope: Scope) -> None:
        if "name" in element:
            self.facts.steer(scope.resolve([element["name"]]).columns)
        self.expression(element.get("expr"), scope)
        for key in ("opclass", "collation"):
            if len(element.get(key, [])) > 1:
                self._touch_name(strings(element[key]))

    # ---- one statement each -----------------------------------------------------------------------------------------------------------

    def _define_create_schema(self, fields: Node, scope: Scope) -> None:
        role = fields.get("authrole", {})
        if role:
            self.facts.kinds.add(K.ROLES)
        name = fields.get("schemaname") or role.get("rolename")
        self.facts.touch_schemas(frozenset({name}) if name else None)
        outer = self.names
        if name:  # its elements are made in it
            path = outer.search_path
            self.names = Names((name, *path) if path is not None else None, created_in=name)
        for element in fields.get("schemaElts", []):
            for tag, inner in element.items():
                self.define(tag, inner)
        self.names = outer

    def _define_view(self, fields: Node, scope: Scope) -> None:
        """A view of one relation alone takes changes and passes them on: of a system catalog those would be definitions and settings."""
        query = fields.get("query", {}).get("SelectStmt", {})
        sources = query.get("fromClause", [])
        if len(sources) == 1 and "RangeVar" in sources[0] and _NOT_UPDATABLE.isdisjoint(query):
            relation = self._relation(sources[0]["RangeVar"])
            in_catalog = relation.name in CATALOG_RELATIONS or relation.name in NEWER_CATALOG_RELATIONS
            if in_catalog if relation.schemas is None else relation.schemas & CATALOGS:
                self.facts.danger(K.SERVER, f"a view through which `{relation.name}`, a system catalog, can be changed")
        self.parts("ViewStmt", fields, scope)

    def _define_index(self, fields: Node, scope: Scope) -> None:
        relation = self._relation(fields["relation"])
        if "idxname" in fields:
            self.facts.create(RelationRef(fields["idxname"], relation.schemas))
        self.facts.controls_transaction = self.facts.controls_transaction or bool(fields.get("concurrent"))
        self.parts("IndexStmt", fields, scope)

    def _define_create_stats(self, fields: Node, scope: Scope) -> None:
        schema = split_name(strings(fields["defnames"]))[0] if fields.get("defnames") else None
        self.facts.touch_schemas(self.names.created_schemas(schema))
        for node in fields.get("relations", []):
            if "RangeVar" in node:
                scope = self.relation_scope(node["RangeVar"])
        for node in fields.get("exprs", []):
            element = node.get("StatsElem", {})
            if "name" in element:
                self.facts.steer(scope.resolve([element["name"]]).columns)
        self.parts("CreateStatsStmt", fields, scope)

    def _define_create_foreign_table(self, fields: Node, scope: Scope) -> None:
        base = fields["base"]
        created = self._create_relation(base.pop("relation"))
        scope = Scope(None, [Source(created.name, [star_of(created)], created)])
        self.parts("CreateStmt", base, scope)
        self.expression(fields.get("options"), scope)

    def _define_create_function(self, fields: Node, scope: Scope) -> None:
        parameters = [node["FunctionParameter"].get("name") for node in fields.get("parameters", [])]
        if fields.get("is_procedure"):
            self.facts.stores_code = "a procedure"
        own = strings(fields["funcname"])[-1]
        self._callable_as(own)
        inner = Scope(None, [Source(own, [OPEN], is_qualified_only=True)])
        body = fields.pop("sql_body", None)
        self._function_options(fields.get("options", []))
        self.parts("CreateFunctionStmt", fields, inner)
        if body is not None:
            self.stored_query(lambda: self._body(body, inner, [name for name in parameters if name]))

    def _define_alter_function(self, fields: Node, scope: Scope) -> None:
        self._function_options(fields.get("actions", []))
        self.parts("AlterFunctionStmt", fields, scope)

    def _function_options(self, options: list[Node]) -> None:
        language: str | None = None
        for node in options:
            option = node["DefElem"]
            if option.get("defname") == "language":
                language = (settings.constant(option.get("arg", {})) or "").lower()
            elif option.get("defname") == "security":
                self.facts.kinds.add(K.ROLES)
        if language is not None and language not in _KNOWN_LANGUAGES:
            self.facts.danger(K.SERVER, f"language `{language}`")

    def _body(self, body: Any, scope: Scope, parameters: list[str]) -> None:
        """A body by the SQL standard: RETURN, or BEGIN ATOMIC with a list of statements."""
        pending = [body]
        while pending:
            node = pending.pop()
            if isinstance(node, list):
                pending.extend(node)
                continue
            for tag, fields in node.items():
                if tag == "List":
                    pending.extend(fields.get("items", []))
                elif tag == "ReturnStmt":
                    self.expression(fields.get("returnval"), scope)
                elif PLACEMENTS[tag].place is Place.QUERY:
                    self.stored(self.outputs_of(node, scope))
                else:
                    self.facts.not_known(f"{tag} in a function's body")

    def _define_create_publication(self, fields: Node, scope: Scope) -> None:
        self.facts.touch_schemas(None)
        self.parts("CreatePublicationStmt", fields, scope)

    def _define_create_policy(self, fields: Node, scope: Scope) -> None:
        self.facts.write(self._relation(fields["table"]))
        for key in ("qual", "with_check"):
            self.expression(fields.get(key), scope)

    def _define_rule(self, fields: Node, scope: Scope) -> None:
        self.facts.kinds.add(K.ROLES)
        self.parts("RuleStmt", fields, scope)

    def _define_alter_default_privileges(self, fields: Node, scope: Scope) -> None:
        pass  # it may be about any schema, and touches no object now

    def _define_import_foreign_schema(self, fields: Node, scope: Scope) -> None:
        self.facts.touch_schemas(frozenset({fields["local_schema"]}))


_DEFINE: Final[dict[str, Callable[[Definitions, Node, Scope], None]]] = {
    "DropStmt": Definitions._define_drop,
    "CommentStmt": Definitions._define_comment,
    "RenameStmt": Definitions._define_rename,
    "AlterObjectSchemaStmt": Definitions._define_alter_object_schema,
    "AlterOwnerStmt": Definitions._define_alter_owner,
    "GrantStmt": Definitions._define_grant,
    "CreateSchemaStmt": Definitions._define_create_schema,
    "ViewStmt": Definitions._define_view,
    "IndexStmt": Definitions._define_index,
    "CreateStatsStmt": Definitions._define_create_stats,
    "CreateForeignTableStmt": Definitions._define_create_foreign_table,
    "CreateFunctionStmt": Definitions._define_create_function,
    "AlterFunctionStmt": Definitions._define_alter_function,
    "CreatePublicationStmt": Definitions._define_create_publication,
    "CreatePolicyStmt": Definitions._define_create_policy,
    "RuleStmt": Definitions._define_rule,
    "AlterDefaultPrivilegesStmt": Definitions._define_alter_default_privileges,
    "ImportForeignSchemaStmt": Definitions._define_import_foreign_schema,
    "SecLabelStmt": Definitions._define_comment,
    "AlterExtensionContentsStmt": Definitions._define_comment,
    "AlterObjectDependsStmt": Definitions._define_alter_owner,
    "AlterPublicationStmt": Definitions._define_create_publication,
    "AlterPolicyStmt": Definitions._define_create_policy,
}


_SPELLED: Final = {
    "CreatedbStmt": "CreateDatabase",
    "DropdbStmt": "DropDatabase",
    "CreatePLangStmt": "CreateLanguage",
    "CreateFdwStmt": "CreateForeignDataWrapper",
    "AlterFdwStmt": "AlterForeignDataWrapper",
    "CreateAmStmt": "CreateAccessMethod",
    "CreateEventTrigStmt": "CreateEventTrigger",
    "AlterEventTrigStmt": "AlterEventTrigger",
    "CreateTableSpaceStmt": "CreateTablespace",
    "DropTableSpaceStmt": "DropTablespace",
    "AlterTableSpaceOptionsStmt": "AlterTablespace",
    "AlterTableMoveAllStmt": "AlterAllInTablespace",
    "AlterDatabaseRefreshCollStmt": "AlterDatabase",
    "AlterExtensionContentsStmt": "AlterExtension",
}


def _words(tag: str) -> str:
    """`CreateExtensionStmt` as "create extension"."""
    name = _SPELLED.get(tag, tag).removesuffix("Stmt")
    return "".join(f" {letter.lower()}" if letter.isupper() and number else letter.lower() for number, letter in enumerate(name))
