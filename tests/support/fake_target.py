"""A PostgreSQL of bytes: what the real one answers to a client's messages, for a small SQL, without a process or a socket.

    target = FakeTarget()                      # has table `notes` (id int primary key, secret text) and `other`
    out = target.feed(query("select secret from notes") + sync())

It is a state machine of the protocol, not a database: simple and extended queries, implicit and explicit transactions, savepoints, errors that
skip to Sync, portals, prepared statements by either name, cursors, COPY both ways, notices, ParameterStatus of search_path, and the counters of
pg_stat_xact_user_tables. `feed` returns what PostgreSQL would have flushed by then: at ReadyForQuery, Flush, CopyInResponse, an error or notice.

tests/unit/support/test_fake_target.py compares it with the real server over random scripts. SQL is matched by patterns on its text, in lower
case; a comment `/* ... */` may stand anywhere. What matches none is a syntax error. `ran` keeps the text of each statement that ran, as sent, `planned`
that of each Bind.
Left out: binary parameters, parallel sessions, deferred constraints, replication, FunctionCall, and a Query behind an Execute without a Sync
between them, which PostgreSQL 18 itself mixes up.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence

from tests.support.fake_target_sql import (
    INT4,
    INT8,
    SIZES,
    TEXT,
    Cell,
    Column,
    Plan,
    Portal,
    Prepared,
    Row,
    Table,
    TargetError,
    cut,
    match_plan,
    split_statements,
    standard_tables,
)
from tests.support.fake_target_store import FakeStore


class FakeTarget(FakeStore):
    def __init__(self, tables: dict[str, Table] | None = None) -> None:
        super().__init__(tables if tables is not None else standard_tables())
        self.is_closed = False
        self._buffer = b""
        self._pending: list[bytes] = []
        self._out: list[bytes] = []
        self._is_skipping = False
        self._copy: str | None = None  # the table that COPY fills
        self._copied = b""
        self._copy_failure: TargetError | None = None
        self._copy_portal: Portal | None = None  # of an extended COPY
        self._query: Iterator[None] | None = None  # a Query that waits for COPY data
        self._reported_path = "public"

    # ---- bytes --------------------------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> bytes:
        self._buffer += data
        while not self.is_closed and len(self._buffer) >= 5:
            length = 1 + int.from_bytes(self._buffer[1:5], "big")
            if len(self._buffer) < length:
                break
            code, body = chr(self._buffer[0]), self._buffer[5:length]
            self._buffer = self._buffer[length:]
            self._on_message(code, body)
        out, self._out = b"".join(self._out), []
        return out

    def _say(self, code: str, body: bytes = b"") -> None:
        self._pending.append(code.encode() + struct.pack(">I", len(body) + 4) + body)

    def _flush(self) -> None:
        self._out += self._pending
        self._pending = []

    def _fields(self, code: str, severity: str, sqlstate: str, message: str, detail: str = "") -> None:
        parts = {"S": severity, "V": severity, "C": sqlstate, "M": message, "D": detail}
        self._say(code, b"".join(key.encode() + text.encode() + b"\0" for key, text in parts.items() if text) + b"\0")
        self._flush()

    def _warn(self, sqlstate: str, message: str) -> None:
        self._fields("N", "WARNING", sqlstate, message)

    def _ready(self) -> None:
        if self._path != self._reported_path:
            self._reported_path = self._path
            self._say("S", b"search_path\0" + self._path.encode() + b"\0")
        self._say("Z", self.status.encode())
        self._flush()

    # ---- messages -----------------------------------------------------------------------------------------------------------------

    def _on_message(self, code: str, body: bytes) -> None:
        if self._copy is not None:
            self._on_copy_message(code, body)
            return
        if code == "X":
            self.is_closed = True
        elif code == "S":
            self._is_skipping = False
            self._end_implicit()
            self._ready()
        elif self._is_skipping or code in "dcf":
            return
        elif code == "Q":
            self._query = self._run_query(body[:-1].decode())
            self._continue_query()
        elif code == "H":
            self._flush()
        else:
            handler: Callable[[bytes], None] = {
                "P": self._on_parse,
                "B": self._on_bind,
                "D": self._on_describe,
                "E": self._on_execute,
                "C": self._on_close,
            }[code]
            self._begin_implicit()
            try:
                handler(body)
            except TargetError as error:
                self._fail(error)
                self._is_skipping = True

    def _fail(self, error: TargetError) -> None:
        self._fields("E", "ERROR", error.sqlstate, error.message, error.detail)
        if self.status == "I":
            self._roll_back()
        elif self.status == "T":
            self.status = "E"
            last = self._savepoints[-1][1] if self._savepoints else self._before
            self._path = last.path if last is not None else self._path  # settings go back at once

    # ---- simple queries -----------------------------------------------------------------------------------------------------------

    def _run_query(self, text: str) -> Iterator[None]:
        """Yields where it waits for COPY data."""
        self._statements.pop("", None)
        self._begin_implicit()
        started: Plan | None = None
        try:
            texts = split_statements(text)
            plans = [match_plan(part) for part in texts]
            if not plans:
                self._say("I")
            for plan in plans:
                self._begin_implicit()
                self._need_live(plan)
                bound = self._analyse(plan)
                if bound.parameters:
                    raise TargetError("42P02", "there is no parameter $1")
                self._is_pipelined = len(plans) > 1
                self._check_folding(bound)
                self._portals.pop("", None)
                started = bound
                if bound.columns is not None:
                    self._describe_columns(bound.columns, ())
                if bound.kind == "copy_in":
                    self._start_copy_in(bound)
                    yield
                    self._say("C", f"COPY {self._load_copied(bound)}\0".encode())
                    started = None
                    continue
                rows, tag = self._run(bound, ())
                for row in rows:
                    self._say_row(row)
                self._say("C", tag.encode() + b"\0")
                started = None
        except TargetError as error:
            self._copy = None
            self._fail(error)
            if self.status == "E" and started is not None:
                self._portals[""] = Portal(started, (), ())  # a query that failed leaves its portal until the transaction ends
        self._end_implicit()
        self._ready()

    def _continue_query(self) -> None:
        story = self._query
        assert story is not None
        try:
            next(story)
        except StopIteration:
            self._query = None

    # ---- COPY ---------------------------------------------------------------------------------------------------------------------

    def _start_copy_in(self, plan: Plan) -> None:
        self.ran.append(plan.text)
        table = self._table(plan.values[0])
        self._say("G", struct.pack(">bh", 0, len(table.columns)) + b"\0\0" * len(table.columns))
        self._flush()
        self._copy, self._copied = plan.values[0], b""

    def _on_copy_message(self, code: str, body: bytes) -> None:
        if code in "SH":
            return
        if code == "d":
            self._copied += body
            if not self._has_bad_row(whole_only=True):
                return
        elif code == "f":
            self._end_copy(TargetError("57014", f"COPY from stdin failed: {body[:-1].decode()}"))
            return
        elif code != "c":
            self._fields("E", "FATAL", "08P01", "terminating connection because protocol synchronization was lost")
            self.is_closed = True
            return
        self._end_copy(None)

    def _has_bad_row(self, *, whole_only: bool) -> bool:
        lines = self._copied.split(b"\n")
        return any(
            not re.fullmatch(rb"-?\d+\t[^\t]*", line) for line in (lines[:-1] if whole_only else lines) if line or whole_only
        )

    def _end_copy(self, failure: TargetError | None) -> None:
        if failure is None and self._has_bad_row(whole_only=False):
            bad = next(line for line in self._copied.split(b"\n") if not re.fullmatch(rb"-?\d+\t[^\t]*", line))
            failure = TargetError("22P04" if b"\t" in bad else "22P02", "bad row of COPY")
        story = self._query
        self._copy_failure = failure
        if story is not None:
            self._copy = None if failure is None else self._copy
            self._continue_query()
            return
        portal = self._copy_portal
        self._copy_portal = None
        try:
            if failure is not None:
                raise failure
            assert portal is not None
            assert portal.plan is not None
            count = self._load_copied(portal.plan)
            portal.is_done = True
            self._is_pipelined = True
            self._say("C", f"COPY {count}\0".encode())
        except TargetError as error:
            self._copy = None
            self._fail(error)
            self._is_skipping = True

    def _load_copied(self, plan: Plan) -> int:
        self._copy = None
        failure, self._copy_failure = self._copy_failure, None
        if failure is not None:
            raise failure
        rows: list[Row] = []
        for line in self._copied.split(b"\n"):
            if line:
                number, _, secret = line.partition(b"\t")
                rows.append((number, secret))
        self._insert(plan.values[0], rows)
        return len(rows)

    # ---- extended queries ---------------------------------------------------------------------------------------------------------

    def _on_parse(self, body: bytes) -> None:
        name, text, _ = (part.decode() for part in body.split(b"\0", 2))
        name = cut(name)
        if not name:
            self._statements.pop("", None)
        texts = split_statements(text)
        plans = [match_plan(part) for part in texts]
        if len(plans) > 1:
            raise TargetError("42601", "cannot insert multiple commands into a prepared statement")
        plan = plans[0] if plans else None
        self._need_live(plan)
        plan = self._analyse(plan) if plan is not None else None
        if name in self._statements:
            raise TargetError("42P05", f'prepared statement "{name}" already exists')
        self._statements[name] = Prepared(plan)
        self._say("1")

    def _on_bind(self, body: bytes) -> None:
        portal, statement, formats, values, results = decode_bind(body)
        portal, statement = cut(portal), cut(statement)
        prepared = self._statements.get(statement)
        if prepared is None:
            raise TargetError("26000", f'prepared statement "{statement}" does not exist')
        plan = prepared.plan
        wanted = plan.parameters if plan is not None else 0
        if len(values) != wanted:
            raise TargetError("08P01", f"bind message supplies {len(values)} parameters, but {wanted} are required")
        self._need_live(plan or Plan("", ""))
        assert not any(formats), "binary parameters are left out"
        if portal and portal in self._portals:
            raise TargetError("42P03", f'cursor "{portal}" already exists')
        self._portals.pop(portal, None)
        if plan is not None:
            plan = self._analyse(plan)
            for value in values:
                if value is not None and plan.kind in ("select", "delete") and "::int" in plan.text and not value.isdigit():
                    raise TargetError("22P02", "invalid input syntax for type integer")
            self._check_folding(plan)
            self.planned.append(plan.text)
            if plan.columns is not None and len(results) > 1 and len(results) != len(plan.columns):
                raise TargetError("08P01", "bind message has the wrong number of result formats")
        self._portals[portal] = Portal(plan, values, results, len(self._savepoints))
        self._say("2")

    def _on_describe(self, body: bytes) -> None:
        kind, name = chr(body[0]), cut(body[1:-1].decode())
        if kind == "S":
            prepared = self._statements.get(name)
            if prepared is None:
                raise TargetError("26000", f'prepared statement "{name}" does not exist')
            plan = prepared.plan
            if self.status == "E" and plan is not None and plan.columns is not None:
                self._need_live(Plan("", ""))
            count = plan.parameters if plan is not None else 0
            type_oid = INT4 if plan is not None and "::int" in plan.text else TEXT
            self._say("t", struct.pack(f">h{count}I", count, *[type_oid] * count))
            formats: tuple[int, ...] = ()
        else:
            portal = self._portals.get(name)
            if portal is None:
                raise TargetError("34000", f'portal "{name}" does not exist')
            plan, formats = portal.plan, portal.formats
            if self.status == "E" and plan is not None and plan.columns is not None:
                self._need_live(Plan("", ""))
        if plan is None or plan.columns is None:
            self._say("n")
        else:
            self._describe_columns(plan.columns, formats)

    def _describe_columns(self, columns: Sequence[Column], formats: Sequence[int]) -> None:
        body = struct.pack(">h", len(columns))
        for index, column in enumerate(columns):
            code = formats[index if len(formats) > 1 else 0] if formats else 0
            body += column.name.encode() + b"\0"
            body += struct.pack(">IhIhih", column.table_oid, column.attnum, column.type_oid, SIZES[column.type_oid], -1, code)
        self._say("T", body)

    def _say_row(self, row: Row, columns: Sequence[Column] = (), formats: Sequence[int] = ()) -> None:
        body = struct.pack(">h", len(row))
        for index, cell in enumerate(row):
            code = formats[index if len(formats) > 1 else 0] if formats else 0
            if code == 1 and cell is not None and columns[index].type_oid in (INT4, INT8):
                cell = struct.pack(">i" if columns[index].type_oid == INT4 else ">q", int(cell))
            body += b"\xff\xff\xff\xff" if cell is None else struct.pack(">I", len(cell)) + cell
        self._say("D", body)

    def _on_execute(self, body: bytes) -> None:
        name, _, tail = body.partition(b"\0")
        portal = self._portals.get(cut(name.decode()))
        max_rows = int.from_bytes(tail, "big", signed=True)
        if portal is None:
            raise TargetError("34000", f'portal "{cut(name.decode())}" does not exist')
        plan = portal.plan
        if plan is None:
            self._say("I")
            self._is_pipelined = True
            return
        self._need_live(plan)
        if portal.is_done:
            raise TargetError("55000", "portal cannot be run")
        if plan.kind == "copy_in":
            self._start_copy_in(plan)
            self._copy_portal = portal
            return
        if portal.rows is None:
            if plan.kind == "copy_out":
                portal.is_done = True
            portal.rows, portal.tag = self._run(plan, portal.parameters)
            if plan.columns is None and plan.kind != "copy_out":
                portal.is_done = True
        if plan.kind in ("commit", "rollback"):
            self._say("C", portal.tag.encode() + b"\0")
            return
        count = len(portal.rows) if max_rows <= 0 else min(max_rows, len(portal.rows))
        sent, portal.rows = portal.rows[:count], portal.rows[count:]
        for row in sent:
            self._say_row(row, plan.columns or (), portal.formats)
        self._is_pipelined = True
        if plan.columns is not None and max_rows > 0 and count == max_rows:
            self._say("s")
            return
        tag = portal.tag
        if plan.columns is not None:  # what this Execute brought, not what the statement changed
            tag = f"SELECT {count}" if plan.kind == "declared" else f"{tag.rpartition(' ')[0]} {count}"
        self._say("C", tag.encode() + b"\0")

    def _on_close(self, body: bytes) -> None:
        kind, name = chr(body[0]), cut(body[1:-1].decode())
        (self._statements if kind == "S" else self._portals).pop(name, None)
        self._say("3")


def decode_bind(body: bytes) -> tuple[str, str, tuple[int, ...], tuple[Cell, ...], tuple[int, ...]]:
    portal, statement, rest = body.split(b"\0", 2)
    at = 0

    def short() -> int:
        nonlocal at
        at += 2
        return int.from_bytes(rest[at - 2 : at], "big")

    formats = tuple(short() for _ in range(short()))
    values: list[Cell] = []
    for _ in range(short()):
        length = int.from_bytes(rest[at : at + 4], "big", signed=True)
        at += 4
        values.append(None if length < 0 else rest[at : at + length])
        at += max(length, 0)
    results = tuple(short() for _ in range(short()))
    return portal.decode(), statement.decode(), formats, tuple(values), results
