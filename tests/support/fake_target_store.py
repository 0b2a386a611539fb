"""What the fake target keeps and does: tables, transactions, savepoints, cursors and counters, one method a kind of statement.

It speaks no protocol: what has to be said while a statement runs goes through `_say` and `_warn` of fake_target.py.
"""

from __future__ import annotations

import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy

from tests.support.fake_target_sql import (
    INT4,
    INT8,
    NAME,
    NAME_ARRAY,
    TEXT,
    Cell,
    Column,
    Counts,
    Plan,
    Portal,
    Prepared,
    Row,
    Snapshot,
    Table,
    TargetError,
    match_plan,
)


class FakeStore(ABC):
    def __init__(self, tables: dict[str, Table]) -> None:
        self.tables = tables
        self.ran: list[str] = []
        self.planned: list[str] = []
        self.status = "I"
        self._statements: dict[str, Prepared] = {}
        self._portals: dict[str, Portal] = {}
        self._before: Snapshot | None = None  # what a rollback brings back; None: no transaction, not even an implicit one
        self._savepoints: list[tuple[str, Snapshot]] = []
        self._is_pipelined = False  # an Execute was answered since the last Sync: what follows is in an implicit block
        self._counts: dict[str, Counts] = {}
        self._path = "public"
        self._next_oid = 30000

    @abstractmethod
    def _say(self, code: str, body: bytes = b"") -> None: ...

    @abstractmethod
    def _warn(self, sqlstate: str, message: str) -> None: ...

    # ---- transactions -------------------------------------------------------------------------------------------------------------

    def _snapshot(self) -> Snapshot:
        return Snapshot(deepcopy(self.tables), self._path)

    def _restore(self, snapshot: Snapshot) -> None:
        self.tables, self._path = deepcopy(snapshot.tables), snapshot.path

    def _begin_implicit(self) -> None:
        if self._before is None:
            self._before = self._snapshot()

    def _end_implicit(self) -> None:
        if self.status == "I" and self._before is not None:
            self._forget_transaction()
        self._is_pipelined = False

    def _forget_transaction(self) -> None:
        self._before = None
        self._savepoints = []
        self._counts = {}
        self._portals = {}
        self._is_pipelined = False
        self.status = "I"

    def _roll_back(self) -> None:
        if self._before is not None:
            self._restore(self._before)
        self._forget_transaction()

    def _need_live(self, plan: Plan | None) -> None:
        if self.status == "E" and plan is not None and not plan.is_exit:
            raise TargetError("25P02", "current transaction is aborted, commands ignored until end of transaction block")

    # ---- statements ---------------------------------------------------------------------------------------------------------------

    def _table(self, name: str) -> Table:
        table = self.tables.get(name.removeprefix("public."))
        if table is None or ("public" not in self._path and not name.startswith("public.")):
            raise TargetError("42P01", f'relation "{name}" does not exist')
        return table

    def _check_folding(self, plan: Plan) -> None:
        """The planner computes what is constant: so early does a division by zero fail."""
        if plan.kind == "select" and "1/0" in plan.values[0]:
            raise TargetError("22012", "division by zero")

    def _analyse(self, plan: Plan) -> Plan:
        """With its columns, by the tables as they are now."""
        columns: tuple[Column, ...] | None = None
        reads = self._table(plan.values[1]).oid if plan.kind == "select" and plan.values[1] else 0
        if plan.kind == "select":
            columns = tuple(self._output(item, plan.values[1]) for item in plan.values[0].split(","))
        elif plan.kind == "delete":
            self._table(plan.values[0])
            if plan.values[2]:
                columns = tuple(self._output(item, plan.values[0]) for item in plan.values[2].split(","))
        elif plan.kind == "insert":
            self._table(plan.values[0])
        elif plan.kind == "path":
            columns = (Column("current_schemas", NAME_ARRAY), Column("current_user", NAME))
        elif plan.kind == "counters":
            columns = (Column("?column?", TEXT), Column("n_tup_ins", INT8), Column("n_tup_upd", INT8), Column("n_tup_del", INT8))
        elif plan.kind == "execute":
            prepared = self._statements.get(plan.values[0])
            if prepared is not None and prepared.plan is not None:  # else the error comes when it runs
                columns = prepared.plan.columns
        elif plan.kind == "fetch":
            portal = self._portals.get(plan.values[1])
            columns = portal.plan.columns if portal is not None and portal.plan is not None else None
        elif plan.kind == "declare":
            self._analyse(match_plan(plan.values[1]))
        return Plan(plan.kind, plan.text, plan.values, columns, plan.parameters, plan.is_exit, reads)

    def _output(self, item: str, table_name: str) -> Column:
        item = item.strip()
        if re.fullmatch(r"\d+", item) or item == "1/0":
            return Column("?column?", INT4)
        if item.startswith("$1::int"):
            return Column("int4", INT4)
        if item.startswith(("'", "$1")):
            return Column("text", TEXT) if item.startswith("$1") else Column("?column?", TEXT)
        if table_name:
            for column in self._table(table_name).columns:
                if column.name == item:
                    return column
        raise TargetError("42703", f'column "{item}" does not exist')

    def _run(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        self.ran.append(plan.text)
        result: tuple[list[Row], str] = getattr(self, f"_run_{plan.kind}")(plan, parameters)
        return result

    def _run_select(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        items = [item.strip() for item in plan.values[0].split(",")]
        table = self._table(plan.values[1]) if plan.values[1] else None
        source: list[Row] = table.rows if table is not None else [()]
        if plan.values[2]:
            limit = self._number(plan.values[2], parameters)
            source = [row for row in source if int(row[0] or b"0") <= limit]
        rows = [tuple(self._value(item, row, table, parameters) for item in items) for row in source]
        return rows, f"SELECT {len(rows)}"

    @staticmethod
    def _number(text: str, parameters: tuple[Cell, ...]) -> int:
        return int(parameters[0] or b"-1") if text.startswith("$") else int(text)

    @staticmethod
    def _value(item: str, row: Row, table: Table | None, parameters: tuple[Cell, ...]) -> Cell:
        if item.startswith("$1"):
            return parameters[0]
        if item.startswith("'"):
            return item[1:-1].encode()
        if item.isdigit():
            return item.encode()
        assert table is not None
        return row[next(column.attnum for column in table.columns if column.name == item) - 1]

    def _count(self, table: str, inserted: int = 0, deleted: int = 0) -> None:
        old = self._counts.get(table, Counts())
        self._counts[table] = Counts(old.inserted + inserted, old.updated, old.deleted + deleted)

    def _insert(self, name: str, rows: Sequence[Row]) -> None:
        table = self._table(name)
        present = {row[0] for row in table.rows}
        for row in rows:
            self._count(name, inserted=1)
            if row[0] in present:
                key = (row[0] or b"").decode()
                raise TargetError(
                    "23505", f'duplicate key value violates unique constraint "{name}_pkey"', f"Key (id)=({key}) already exists."
                )
            present.add(row[0])
            table.rows.append(row)

    def _run_insert(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        rows: list[Row] = [
            (number.encode(), secret.encode()) for number, secret in re.findall(r"\((\d+), '([^']*)'\)", plan.values[1])
        ]
        self._insert(plan.values[0], rows)
        return [], f"INSERT 0 {len(rows)}"

    def _run_delete(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        table = self._table(plan.values[0])
        limit = self._number(plan.values[1], parameters) if plan.values[1] else 2**31
        gone = [row for row in table.rows if int(row[0] or b"0") <= limit]
        table.rows[:] = [row for row in table.rows if row not in gone]
        self._count(plan.values[0], deleted=len(gone))
        items = [item.strip() for item in plan.values[2].split(",")] if plan.values[2] else []
        rows = [tuple(self._value(item, row, table, parameters) for item in items) for row in gone] if items else []
        return rows, f"DELETE {len(gone)}"

    def _check_use(self, name: str) -> None:
        """A portal that reads a table holds it open from Bind (or DECLARE) on."""
        oid = self._table(name).oid
        for portal in self._portals.values():
            plan = portal.plan
            if plan is not None and plan.kind in ("select", "declared") and plan.reads == oid:
                raise TargetError("55006", f'cannot use "{name}": it is being used by active queries in this session')

    def _run_truncate(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        self._check_use(plan.values[0])
        self._table(plan.values[0]).rows.clear()
        return [], "TRUNCATE TABLE"

    def _run_create(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        if "public" not in self._path:
            raise TargetError("3F000", "no schema has been selected to create in")
        if plan.values[0] in self.tables:
            raise TargetError("42P07", f'relation "{plan.values[0]}" already exists')
        oid = self._next_oid
        self._next_oid += 1
        self.tables[plan.values[0]] = Table(oid, (Column("id", INT4, oid, 1), Column("secret", TEXT, oid, 2)), [])
        return [], "CREATE TABLE"

    def _run_drop(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        if plan.values[0] not in self.tables or "public" not in self._path:
            raise TargetError("42P01", f'table "{plan.values[0]}" does not exist')
        self._check_use(plan.values[0])
        del self.tables[plan.values[0]]
        return [], "DROP TABLE"

    def _run_begin(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        if self.status == "T":
            self._warn("25001", "there is already a transaction in progress")
        self._begin_implicit()
        self.status = "T"
        return [], "BEGIN"

    def _run_commit(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        if self.status == "E":
            self._roll_back()
            return [], "ROLLBACK"
        if self.status == "I":
            self._warn("25P01", "there is no transaction in progress")
        self._forget_transaction()
        return [], "COMMIT"

    def _run_rollback(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        if self.status == "I":
            self._warn("25P01", "there is no transaction in progress")
        self._roll_back()
        return [], "ROLLBACK"

    def _need_block(self, what: str) -> None:
        if self.status == "I":
            raise TargetError("25P01", f"{what} can only be used in transaction blocks")

    def _run_savepoint(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        self._need_block("SAVEPOINT")
        self._savepoints.append((plan.values[0], self._snapshot()))
        return [], "SAVEPOINT"

    def _find_savepoint(self, name: str) -> int:
        for index in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[index][0] == name:
                return index
        raise TargetError("3B001", f'savepoint "{name}" does not exist')

    def _run_release(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        self._need_block("RELEASE SAVEPOINT")
        del self._savepoints[self._find_savepoint(plan.values[0]) :]
        for portal in self._portals.values():
            portal.depth = min(portal.depth, len(self._savepoints))
        return [], "RELEASE"

    def _run_rollback_to(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        self._need_block("ROLLBACK TO SAVEPOINT")
        index = self._find_savepoint(plan.values[0])
        self._restore(self._savepoints[index][1])
        del self._savepoints[index + 1 :]
        self._portals = {name: portal for name, portal in self._portals.items() if portal.depth <= index or portal.plan is plan}
        self.status = "T"
        return [], "ROLLBACK"

    def _run_set_path(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        self._path = plan.values[0]
        return [], "SET"

    def _run_path(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        return [(b"{public}" if "public" in self._path else b"{}", b"rw")], "SELECT 1"

    def _run_counters(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        rows: list[Row] = [
            (f"public.{name}".encode(), *(str(number).encode() for number in counts))
            for name, counts in self._counts.items()
            if any(counts)
        ]
        return rows, f"SELECT {len(rows)}"

    def _run_prepare(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        name = plan.values[0]
        inner = self._analyse(match_plan(plan.values[1]))
        if name in self._statements:
            raise TargetError("42P05", f'prepared statement "{name}" already exists')
        self._statements[name] = Prepared(inner, is_sql=True)
        return [], "PREPARE"

    def _run_execute(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        prepared = self._statements.get(plan.values[0])
        if prepared is None or prepared.plan is None:
            raise TargetError("26000", f'prepared statement "{plan.values[0]}" does not exist')
        return self._run(self._analyse(prepared.plan), ())

    def _run_deallocate(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        if plan.values[0] == "all":
            self._statements = {name: kept for name, kept in self._statements.items() if not name}
            return [], "DEALLOCATE ALL"
        if self._statements.pop(plan.values[0], None) is None:
            raise TargetError("26000", f'prepared statement "{plan.values[0]}" does not exist')
        return [], "DEALLOCATE"

    def _run_declare(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        if self.status == "I" and not self._is_pipelined:
            raise TargetError("25P01", "DECLARE CURSOR can only be used in transaction blocks")
        name = plan.values[0]
        inner = self._analyse(match_plan(plan.values[1]))
        self._check_folding(inner)
        if name in self._portals:
            raise TargetError("42P03", f'cursor "{name}" already exists')
        rows, _ = self._run(inner, ())
        self._portals[name] = Portal(
            Plan("declared", plan.text, (), inner.columns, reads=inner.reads),
            (),
            (),
            len(self._savepoints),
            rows=rows,
            is_store=True,
        )
        return [], "DECLARE CURSOR"

    def _run_fetch(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        portal = self._portals.get(plan.values[1])
        if portal is None or portal.plan is None:
            raise TargetError("34000", f'cursor "{plan.values[1]}" does not exist')
        if portal.plan.kind not in ("select", "declared"):
            raise TargetError("55000", f'portal "{plan.values[1]}" cannot be run')
        if portal.rows is None:
            portal.rows, _ = self._run(portal.plan, portal.parameters)
        count = int(plan.values[0])
        rows, portal.rows = portal.rows[:count], portal.rows[count:]
        return rows, f"FETCH {len(rows)}"

    def _run_close(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        if self._portals.pop(plan.values[0], None) is None:
            raise TargetError("34000", f'cursor "{plan.values[0]}" does not exist')
        return [], "CLOSE CURSOR"

    def _run_copy_out(self, plan: Plan, parameters: tuple[Cell, ...]) -> tuple[list[Row], str]:
        table = self._table(plan.values[0])
        self._say("H", struct.pack(">bh", 0, len(table.columns)) + b"\0\0" * len(table.columns))
        for row in table.rows:
            self._say("d", b"\t".join(cell if cell is not None else b"\\N" for cell in row) + b"\n")
        self._say("c")
        return [], f"COPY {len(table.rows)}"
