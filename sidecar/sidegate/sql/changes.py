"""INSERT, UPDATE, DELETE, MERGE, SELECT INTO: what they write, what they read on the way, what RETURNING passes on.

Rules it keeps:
- The target of a change is a table: a WITH query of that name doesn't hide it (setTargetTable, parser/parse_clause.c).
- The target is among `writes` alone, whatever is read of it: `reads` are the other relations.
- Whatever is read to be stored steers. RETURNING is a select list over the changed rows, and needs `Read` as PostgreSQL asks for it.
- EXCLUDED holds what the client proposed, and nothing that was stored before.
"""

from __future__ import annotations

from typing import Final

from sidegate.policy.statement import ColumnRef, RelationRef, StatementKind
from sidegate.sql.names import PG_CATALOG, strings
from sidegate.sql.parse import Node
from sidegate.sql.query import Queries
from sidegate.sql.scope import OPEN, STAR, Output, Scope, Source, renamed, star_of

_KINDS: Final = {
    "InsertStmt": StatementKind.INSERT,
    "UpdateStmt": StatementKind.UPDATE,
    "DeleteStmt": StatementKind.DELETE,
    "MergeStmt": StatementKind.MERGE,
}
_ACTIONS: Final = {"CMD_INSERT": StatementKind.INSERT, "CMD_UPDATE": StatementKind.UPDATE, "CMD_DELETE": StatementKind.DELETE}


class Changes(Queries):
    def change(self, tag: str, fields: Node, scope: Scope) -> list[Output]:
        self.facts.kinds.add(_KINDS[tag])
        self.facts.affects_rows = True
        level = self.with_clause(fields, scope)
        target = self.target(fields["relation"])
        if tag == "InsertStmt":
            return self._insert(fields, level, target)
        if tag == "UpdateStmt":
            return self._update(fields, level, target)
        if tag == "DeleteStmt":
            return self._delete(fields, level, target)
        return self._merge(fields, level, target)

    def _relation(self, fields: Node) -> RelationRef:
        return self.names.relation(fields.get("schemaname"), fields["relname"])

    def target(self, fields: Node) -> Source:
        """The changed table, as RETURNING and WHERE see it."""
        relation = self._relation(fields)
        self.facts.write(relation)
        if relation.name == "pg_settings":  # the view's rule is set_config
            self.facts.not_known("settings changed through `pg_settings`")
        elif relation.schemas is not None and PG_CATALOG in relation.schemas:
            self.facts.danger(StatementKind.SERVER, f"`{relation.name}`, a system catalog")
        alias = fields.get("alias", {})
        name = alias.get("aliasname")
        outputs = renamed([star_of(relation)], strings(alias.get("colnames", [])))
        return Source(name or relation.name, outputs, relation if name is None else None)

    def _written(self, targets: list[Node], relation: RelationRef, scope: Scope) -> None:
        for node in targets:
            fields = node["ResTarget"]
            self.facts.written.add(ColumnRef(fields["name"], relation))
            self.expression([item for item in fields.get("indirection", []) if "A_Indices" in item], scope)

    def _insert(self, fields: Node, level: Scope, target: Source) -> list[Output]:
        relation = self._relation(fields["relation"])
        columns = fields.get("cols", [])
        if columns:
            self._written(columns, relation, level)
        else:
            self.facts.written.add(ColumnRef(STAR, relation))
        select = fields.get("selectStmt", {}).get("SelectStmt")
        if select is not None:
            self.stored(self.select(select, level, is_source_of_values=True))
        conflict = fields.get("onConflictClause")
        if conflict is not None:
            self._on_conflict(conflict, level, target, relation)
        return self._returning(fields, level, [target])

    def _on_conflict(self, conflict: Node, level: Scope, target: Source, relation: RelationRef) -> None:
        own = Scope(level, [target])
        infer = conflict.get("infer", {})
        for element in infer.get("indexElems", []):
            index = element["IndexElem"]
            if "name" in index:
                self.facts.steer(own.resolve([index["name"]]).columns)
            self.expression(index.get("expr"), own)
        self.expression(infer.get("whereClause"), own)
        if conflict.get("action") != "ONCONFLICT_UPDATE":
            return
        self.facts.kinds.add(StatementKind.UPDATE)
        scope = Scope(level, [target, Source("excluded", [OPEN], is_qualified_only=True)])
        self._assign(conflict.get("targetList", []), relation, scope)
        self.expression(conflict.get("whereClause"), scope)

    def _assign(self, targets: list[Node], relation: RelationRef, scope: Scope) -> None:
        self._written(targets, relation, scope)
        for node in targets:
            self.expression(node["ResTarget"].get("val"), scope)

    def _update(self, fields: Node, level: Scope, target: Source) -> list[Output]:
        relation = self._relation(fields["relation"])
        others = self._from(fields.get("fromClause", []), level)
        scope = Scope(level, [target, *others.sources])
        self._assign(fields.get("targetList", []), relation, scope)
        self.expression(fields.get("whereClause"), scope)
        return self._returning(fields, level, scope.sources)

    def _delete(self, fields: Node, level: Scope, target: Source) -> list[Output]:
        others = self._from(fields.get("usingClause", []), level)
        scope = Scope(level, [target, *others.sources])
        self.expression(fields.get("whereClause"), scope)
        return self._returning(fields, level, scope.sources)

    def _from(self, items: list[Node], level: Scope) -> Scope:
        if items:
            self.facts.kinds.add(StatementKind.READ)
        return self.from_clause(items, level)

    def _merge(self, fields: Node, level: Scope, target: Source) -> list[Output]:
        relation = self._relation(fields["relation"])
        self.facts.kinds.add(StatementKind.READ)
        source = self.from_clause([fields["sourceRelation"]], level)
        scope = Scope(level, [target, *source.sources])
        self.expression(fields.get("joinCondition"), scope)
        for node in fields.get("mergeWhenClauses", []):
            clause = node["MergeWhenClause"]
            command = clause.get("commandType", "")
            self.expression(clause.get("condition"), scope)
            if command in _ACTIONS:
                self.facts.kinds.add(_ACTIONS[command])
            elif command != "CMD_NOTHING":
                self.facts.not_known(f"{command} in MERGE")
            if command == "CMD_INSERT" and not clause.get("targetList"):
                self.facts.written.add(ColumnRef(STAR, relation))
            self._assign(clause.get("targetList", []), relation, scope)
            self.expression(clause.get("values"), scope)
        # MERGE ... RETURNING * has the source's columns first (transformMergeStmt, parser/parse_merge.c)
        return self._returning(fields, level, [*source.sources, target])

    def _returning(self, fields: Node, level: Scope, sources: list[Source]) -> list[Output]:
        clause = fields.get("returningClause")
        if clause is None:
            return []
        self.facts.kinds.add(StatementKind.READ)
        relation = self._relation(fields["relation"])
        names = {"old", "new"} - {source.alias for source in sources}
        for node in clause.get("options", []):
            option = node["ReturningOption"]
            names.discard("old" if option.get("option") == "RETURNING_OPTION_OLD" else "new")
            names.add(option["value"])
        images = [Source(name, [star_of(relation)], is_qualified_only=True) for name in sorted(names)]
        return self.target_list(clause.get("exprs", []), Scope(level, [*sources, *images]))

    def select_into(self, into: Node, outputs: list[Output]) -> None:
        """SELECT INTO and CREATE TABLE AS."""
        relation = into["rel"]
        is_temporary = relation.get("relpersistence") == "t"
        self.facts.kinds.add(StatementKind.DDL)
        self.facts.create(self.names.created(relation.get("schemaname"), relation["relname"], is_temporary=is_temporary))
        self.facts.touch_schemas(None if "tableSpaceName" in into else frozenset())
        self.stored(outputs)
        self.expression(into.get("options"), Scope())
