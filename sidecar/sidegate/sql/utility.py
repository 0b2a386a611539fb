"""Every statement by its node: queries, statements that hold queries, COPY, transactions, the session, maintenance. DDL is in definitions.

Rules it keeps:
- A statement without a handler is walked as a definition when its placement has kinds, and is unknown otherwise.
- EXPLAIN without ANALYZE doesn't run what it explains, but planning may run its functions: those kinds stay.
- Only what goes to the client as a result's columns is output: not what EXPLAIN, INTO or a COPY to a file makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sidegate.policy.statement import CascadeRoot, ColumnRef, OutputColumn, Root, StatementKind, TransactionEnd
from sidegate.sql import settings
from sidegate.sql.definitions import Definitions
from sidegate.sql.names import strings
from sidegate.sql.nodes import PLACEMENTS, Place
from sidegate.sql.parse import Node
from sidegate.sql.scope import STAR, Output, Scope, pool

K = StatementKind
_FALSE: Final = frozenset({"false", "off", "0"})
CURSOR_OPT_HOLD: Final = 0x0020  # nodes/parsenodes.h
_ACCESS_SHARE: Final = 1  # AccessShareLock (storage/lockdefs.h): what a SELECT takes too; pg_dump begins so
_TWO_PHASE: Final = frozenset({"TRANS_STMT_PREPARE", "TRANS_STMT_COMMIT_PREPARED", "TRANS_STMT_ROLLBACK_PREPARED"})
_ENDS: Final = {
    "TRANS_STMT_COMMIT": TransactionEnd.COMMIT,
    "TRANS_STMT_ROLLBACK": TransactionEnd.ROLLBACK,
    **dict.fromkeys(_TWO_PHASE, TransactionEnd.OTHER),
}


class Statements(Definitions):
    def statement(self, node: Node) -> None:
        """Walk one top-level statement."""
        for tag, fields in node.items():
            placed = PLACEMENTS.get(tag)
            if placed is None or placed.place not in (Place.QUERY, Place.UTILITY):
                self.facts.not_known(tag)
                return
            if placed.place is Place.QUERY:
                self._output(self.outputs_of(node, Scope()))
                return
            self.facts.depends_on_constants = True
            handler = _RUN.get(tag)
            if handler is not None:
                self.facts.kinds |= placed.kinds
                handler(self, fields)
            elif placed.kinds:
                self.define(tag, fields)
            else:
                self.facts.not_known(tag)

    def _output(self, outputs: list[Output]) -> None:
        for output in outputs:
            is_of_row = output.is_row or output.is_field
            is_passed_on = output.is_plain or is_of_row
            if not is_passed_on:  # no origin comes with it, so what the catalog says of the table must not be all that masks it
                self.facts.steer([column for column in output.columns if column.name == STAR])
            self.facts.lineage.append(
                OutputColumn(output.name, output.columns, not is_passed_on, output.is_star, is_of_row, output.group_floor)
            )
            if is_passed_on:
                self.facts.output |= output.columns
            if is_of_row:
                self.facts.fields |= {(output.name, column) for column in output.columns}
        if any(output.is_star and output.is_renamed for output in outputs):
            # USING and NATURAL put merged columns first and leave them out later: places aren't told, so any column may be anywhere
            self.facts.lineage = [OutputColumn(None, pool(outputs), is_computed=True, is_run=True)]

    def _inner(self, node: Node) -> list[Output]:
        """The query that another statement holds, or EXECUTE in its place."""
        if "ExecuteStmt" in node:
            self._run_execute(node["ExecuteStmt"])
            return []
        return self.outputs_of(node, Scope())

    # ---- statements that hold a query -------------------------------------------------------------------------------------------------

    def _run_explain(self, fields: Node) -> None:
        runs = False
        for node in fields.get("options", []):
            option = node["DefElem"]
            if option.get("defname") == "analyze":
                value = settings.constant(option["arg"]) if "arg" in option else "true"
                runs = runs or value is None or value.lower() not in _FALSE
        if runs:
            self._explained(fields["query"])
            return
        writes = self.facts.writes
        self.facts.writes = set()
        self.stored_query(lambda: self._explained(fields["query"]))
        self.facts.reads |= self.facts.writes  # planned, not changed
        self.facts.writes = writes
        self.facts.creates.clear()
        self.facts.written.clear()

    def _explained(self, node: Node) -> None:
        for tag, fields in node.items():
            if PLACEMENTS[tag].place is Place.QUERY or tag == "ExecuteStmt":
                self._inner(node)
            elif tag == "CreateTableAsStmt":
                self._run_create_table_as(fields)
                self.facts.kinds.add(K.DDL)
            elif tag == "DeclareCursorStmt":
                self.outputs_of(fields["query"], Scope())
            elif tag == "RefreshMatViewStmt":
                self.facts.kinds.add(K.MAINTENANCE)
                self.parts(tag, fields, Scope())
            else:
                self.facts.not_known(f"EXPLAIN of {tag}")

    def _run_prepare(self, fields: Node) -> None:
        self.facts.prepares = fields["name"]
        for node in fields.get("argtypes", []):
            self.type_use(node["TypeName"])
        self._output(self.outputs_of(fields["query"], Scope()))

    def _run_execute(self, fields: Node) -> None:
        self.facts.executes = fields["name"]
        self.expression(fields.get("params"), Scope())

    def _run_deallocate(self, fields: Node) -> None:
        self.facts.deallocates = "*" if fields.get("isall") else self._own_name(fields["name"])

    def _own_name(self, name: str) -> str:
        """The name of one prepared statement or cursor. One that reads like ALL of them is refused."""
        if name == "*":
            self.facts.not_known('the name "*"')
        return name

    def _run_declare_cursor(self, fields: Node) -> None:
        self.facts.declares = fields["portalname"]
        self.facts.outlives_transaction = bool(fields.get("options", 0) & CURSOR_OPT_HOLD)
        self._output(self.outputs_of(fields["query"], Scope()))

    def _run_fetch(self, fields: Node) -> None:
        self.fetch(fields["portalname"])

    def _run_close_portal(self, fields: Node) -> None:
        self.facts.closes = self._own_name(fields["portalname"]) if "portalname" in fields else "*"

    def _run_create_table_as(self, fields: Node) -> None:
        self.select_into(fields["into"], self._inner(fields["query"]))

    def _run_do(self, fields: Node) -> None:
        self.facts.touch_schemas(None)
        self._function_options(fields.get("args", []))

    def _run_call(self, fields: Node) -> None:
        call = fields["funccall"]
        self.call(call)
        self.expression(call.get("args"), Scope())

    # ---- COPY -------------------------------------------------------------------------------------------------------------------------

    def _run_copy(self, fields: Node) -> None:
        facts = self.facts
        is_from = bool(fields.get("is_from"))
        is_elsewhere = "filename" in fields or bool(fields.get("is_program"))
        if is_elsewhere:
            facts.danger(K.SERVER, "COPY with a program" if fields.get("is_program") else "COPY with a file of the server")
        if is_from:
            self._copy_in(fields, is_elsewhere=is_elsewhere)
            return
        facts.kinds.add(K.READ)
        if not is_elsewhere:
            facts.kinds.add(K.COPY_OUT)
        if "query" in fields:
            outputs = self.outputs_of(fields["query"], Scope())
        else:
            relation = self._relation(fields["relation"])
            facts.read(relation)
            names = strings(fields.get("attlist", [])) or [STAR]
            outputs = [Output(name, frozenset({ColumnRef(name, relation)}), True) for name in names]
            # COPY ... TO takes no WHERE today; if it ever does, its columns steer
            self.expression(fields.get("whereClause"), self.relation_scope(fields["relation"]))
        if is_elsewhere:
            self.stored(outputs)
        else:
            self._output(outputs)

    def _copy_in(self, fields: Node, *, is_elsewhere: bool) -> None:
        facts = self.facts
        facts.kinds.add(K.INSERT)
        if not is_elsewhere:
            facts.kinds.add(K.COPY_IN)
        facts.affects_rows = True
        self.target(fields["relation"])
        relation = self._relation(fields["relation"])
        for name in strings(fields.get("attlist", [])) or [STAR]:
            facts.written.add(ColumnRef(name, relation))
        self.expression(fields.get("whereClause"), self.relation_scope(fields["relation"]))

    # ---- transactions and the session -------------------------------------------------------------------------------------------------

    def _run_transaction(self, fields: Node) -> None:
        self.facts.controls_transaction = True
        self.facts.settings += settings.of_transaction(fields.get("options", []))
        kind = fields.get("kind", "")
        if kind in _ENDS:
            self.facts.ends = TransactionEnd.OTHER if fields.get("chain") else _ENDS[kind]
        if kind in _TWO_PHASE:
            self.facts.danger(K.SERVER, "two-phase commit")

    def _run_constraints_set(self, fields: Node) -> None:
        pass

    def _run_variable_set(self, fields: Node) -> None:
        self.facts.set(settings.changed_by(fields))
        if fields.get("kind") == "VAR_SET_MULTI" and fields.get("name", "").upper().startswith("TRANSACTION"):
            self.facts.controls_transaction = True  # PostgreSQL wants it before the first query, and not in a subtransaction

    def _run_variable_show(self, fields: Node) -> None:
        pass

    def _run_discard(self, fields: Node) -> None:
        if fields.get("target") == "DISCARD_ALL":
            self.facts.controls_transaction = True
            self.facts.deallocates = self.facts.closes = "*"
            self.facts.set([(settings.ALL, None)])

    def _run_listen(self, fields: Node) -> None:
        pass

    def _run_lock(self, fields: Node) -> None:
        self.facts.kinds.add(K.READ if fields.get("mode") == _ACCESS_SHARE else K.LOCK)
        for node in fields.get("relations", []):
            self.facts.read(self._relation(node["RangeVar"]))

    def _run_truncate(self, fields: Node) -> None:
        self.facts.affects_rows = True
        for node in fields.get("relations", []):
            self.target(node["RangeVar"])
            if fields.get("behavior") == "DROP_CASCADE":
                name, schemas = self._relation(node["RangeVar"])
                self.facts.cascade([CascadeRoot(Root.EMPTIED, name, schemas)])

    # ---- maintenance and the server ---------------------------------------------------------------------------------------------------

    def _run_vacuum(self, fields: Node) -> None:
        self.facts.controls_transaction = bool(fields.get("is_vacuumcmd"))
        if not fields.get("rels"):
            self.facts.touch_schemas(None)
        self.parts("VacuumStmt", fields, Scope())

    def _run_cluster(self, fields: Node) -> None:
        if "relation" not in fields:
            self.facts.controls_transaction = True
            self.facts.touch_schemas(None)
            self.facts.changed.add(ColumnRef(STAR, None))
        else:  # the order of its rows tells of the index's columns, whichever they are
            self._moved(fields["relation"])
        self.parts("ClusterStmt", fields, Scope())

    def _run_reindex(self, fields: Node) -> None:
        is_concurrent = any(node["DefElem"].get("defname") == "concurrently" for node in fields.get("params", []))
        kind = fields.get("kind")
        if kind == "REINDEX_OBJECT_SCHEMA":
            self.facts.touch_schemas(frozenset({fields["name"]}))
        elif "relation" not in fields:
            self.facts.touch_schemas(None)
        self.facts.controls_transaction = is_concurrent or "relation" not in fields
        self.parts("ReindexStmt", fields, Scope())

    def _run_check_point(self, fields: Node) -> None:
        self.facts.touch_schemas(None)

    def _run_load(self, fields: Node) -> None:
        self.facts.danger(K.SERVER, "LOAD of a library")
        self.facts.touch_schemas(None)

    def _run_alter_system(self, fields: Node) -> None:
        self.facts.controls_transaction = True
        self._stored_setting(fields, "ALTER SYSTEM")

    def _run_alter_database_set(self, fields: Node) -> None:
        self._stored_setting(fields, "settings of a database")

    def _run_alter_role_set(self, fields: Node) -> None:
        self._stored_setting(fields, "settings of a role")

    def _stored_setting(self, fields: Node, why: str) -> None:
        self.facts.settings += settings.changed_by(fields["setstmt"])
        self.facts.danger(K.SETTINGS, why)
        self.facts.touch_schemas(None)


_RUN: Final[dict[str, Callable[[Statements, Node], None]]] = {
    "ExplainStmt": Statements._run_explain,
    "PrepareStmt": Statements._run_prepare,
    "ExecuteStmt": Statements._run_execute,
    "DeallocateStmt": Statements._run_deallocate,
    "DeclareCursorStmt": Statements._run_declare_cursor,
    "FetchStmt": Statements._run_fetch,
    "ClosePortalStmt": Statements._run_close_portal,
    "CreateTableAsStmt": Statements._run_create_table_as,
    "DoStmt": Statements._run_do,
    "CallStmt": Statements._run_call,
    "CopyStmt": Statements._run_copy,
    "TransactionStmt": Statements._run_transaction,
    "ConstraintsSetStmt": Statements._run_constraints_set,
    "VariableSetStmt": Statements._run_variable_set,
    "VariableShowStmt": Statements._run_variable_show,
    "DiscardStmt": Statements._run_discard,
    "ListenStmt": Statements._run_listen,
    "LockStmt": Statements._run_lock,
    "TruncateStmt": Statements._run_truncate,
    "VacuumStmt": Statements._run_vacuum,
    "ClusterStmt": Statements._run_cluster,
    "ReindexStmt": Statements._run_reindex,
    "CheckPointStmt": Statements._run_check_point,
    "LoadStmt": Statements._run_load,
    "AlterSystemStmt": Statements._run_alter_system,
    "AlterDatabaseSetStmt": Statements._run_alter_database_set,
    "AlterRoleSetStmt": Statements._run_alter_role_set,
    "UnlistenStmt": Statements._run_listen,
    "NotifyStmt": Statements._run_listen,
}
