"""One session of a case: libpq driven by hand with a time limit on every answer, and raw messages on the same logged-in socket.

Rules: an answer that doesn't come in time is a fact about the gate (`has_hung`), not an error of the runner; so is a connection that ends. What
the gate says is held is waited for no longer than `HELD_S`: nobody approves.
What a step brought is an `Outcome`, which can be compared between two runs.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGresult

from tests.redteam.tee import messages

MOST_ROWS: Final = 5000
COPY_BOTH_S: Final = 1.5  # a stream of WAL has no end of its own
CHUNK: Final = 1 << 18
HELD_S: Final = 2.0  # longer than what is to end by itself
LOOK_S: Final = 0.1  # how often it is looked whether a statement is held


class _Hang(Exception):
    pass


@dataclass(slots=True)
class Outcome:
    """What one step brought. `may_fail`: the case says that its failing tells nothing."""

    rows: list[list[bytes | None]] = field(default_factory=list)
    columns: list[list[tuple[str, int]]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)  # SQLSTATE, message
    copied: bytes = b""
    seconds: float = 0.0
    has_hung: bool = False
    is_lost: bool = False
    may_fail: bool = False

    def observed(self, what: str) -> Hashable:
        """What whoever watches the channel `what` sees, comparable."""
        states = tuple(sqlstate for sqlstate, _ in self.errors)
        if states:
            return "error", states
        if what == "rowcount":
            return len(self.rows), tuple(self.tags)
        return tuple(map(tuple, self.rows)), tuple(self.tags), self.copied

    def raised(self) -> list[tuple[str, str]]:
        return [] if self.may_fail else self.errors


class Patience:
    """Runs out once a statement has been held for `HELD_S`."""

    def __init__(self, is_held: Callable[[], bool]) -> None:
        self._is_held = is_held
        self._since: float | None = None

    def is_over(self) -> bool:
        if not self._is_held():
            self._since = None
            return False
        now = time.monotonic()
        self._since = self._since if self._since is not None else now
        return now - self._since >= HELD_S


class Session:
    """Raises psycopg.OperationalError when the gate doesn't let it in."""

    def __init__(self, dsn: str, timeout_s: float, is_held: Callable[[], bool], **startup: str) -> None:
        self._timeout_s = timeout_s
        self._patience = Patience(is_held)
        limit = max(5, int(timeout_s))
        self._connection = psycopg.connect(dsn, autocommit=True, connect_timeout=limit, prepare_threshold=None, **startup)  # type: ignore[arg-type]
        self._pg = self._connection.pgconn

    def close(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._connection.close()

    @property
    def transaction_status(self) -> int:
        return self._pg.transaction_status

    # Statements

    def simple(self, query: bytes, copy_in: bytes = b"") -> Outcome:
        return self._run(lambda: self._pg.send_query(query), copy_in)

    def extended(self, query: str, parameters: Sequence[bytes | None], *, binary: bool) -> Outcome:
        return self._run(lambda: self._pg.send_query_params(query.encode(), parameters, result_format=int(binary)))

    def prepare(self, name: str, query: str) -> Outcome:
        return self._run(lambda: self._pg.send_prepare(name.encode(), query.encode()))

    def execute_prepared(self, name: str, parameters: Sequence[bytes | None], *, binary: bool) -> Outcome:
        return self._run(lambda: self._pg.send_query_prepared(name.encode(), parameters, result_format=int(binary)))

    def _run(self, send: Callable[[], None], copy_in: bytes = b"") -> Outcome:
        outcome, began = Outcome(), time.monotonic()
        end = began + self._timeout_s
        self._pg.nonblocking = 1
        try:
            send()
            self._flush(end)
            while (result := self._next_result(end)) is not None:
                if not self._take(result, outcome, copy_in, end):
                    break
            outcome.is_lost = self._pg.status == pq.ConnStatus.BAD
        except _Hang:
            outcome.has_hung = True
        except psycopg.OperationalError as error:
            outcome.is_lost = True
            outcome.errors.append(("08006", str(error).strip()))
        outcome.seconds = time.monotonic() - began
        return outcome

    def _take(self, result: PGresult, outcome: Outcome, copy_in: bytes, end: float) -> bool:
        """False: no more results are to be waited for."""
        match result.status:
            case pq.ExecStatus.COPY_OUT:
                outcome.copied += b"".join(self._copied(end))
            case pq.ExecStatus.COPY_BOTH:
                with contextlib.suppress(_Hang):
                    for data in self._copied(time.monotonic() + COPY_BOTH_S):
                        outcome.copied += data
                return False
            case pq.ExecStatus.COPY_IN:
                if copy_in:
                    self._pg.put_copy_data(copy_in)
                    self._flush(end)
                self._pg.put_copy_end()
                self._flush(end)
            case pq.ExecStatus.FATAL_ERROR | pq.ExecStatus.NONFATAL_ERROR:
                state = result.error_field(pq.DiagnosticField.SQLSTATE) or b"-----"
                outcome.errors.append((state.decode(), (result.error_message or b"").decode("utf8", "replace").strip()))
            case pq.ExecStatus.TUPLES_OK:
                columns = range(result.nfields)
                names = [((result.fname(each) or b"").decode("utf8", "replace"), result.ftype(each)) for each in columns]
                outcome.columns.append(names)
                rows = range(min(result.ntuples, MOST_ROWS))
                outcome.rows += [[result.get_value(row, each) for each in columns] for row in rows]
        if result.command_status:
            outcome.tags.append(result.command_status.decode())
        return True

    def _copied(self, end: float) -> Iterator[bytes]:
        while True:
            count, data = self._pg.get_copy_data(1)
            if count > 0:
                yield bytes(data)
            elif count == 0:
                self._wait_readable(end)
                self._pg.consume_input()
            else:
                return

    def _next_result(self, end: float) -> PGresult | None:
        while self._pg.is_busy():
            self._wait_readable(end)
            self._pg.consume_input()
        return self._pg.get_result()

    def _wait_readable(self, end: float) -> None:
        while not select.select([self._pg.socket], [], [], max(0.0, min(LOOK_S, end - time.monotonic())))[0]:
            if time.monotonic() >= end or self._patience.is_over():
                raise _Hang

    def _flush(self, end: float) -> None:
        while self._pg.flush():
            readable, writable, _ = select.select([self._pg.socket], [self._pg.socket], [], max(0.0, end - time.monotonic()))
            if not readable and not writable:
                raise _Hang
            if readable:
                self._pg.consume_input()

    # Beside libpq

    def raw(self, data: bytes, ready: int, wait_s: float) -> Outcome:
        """Write the bytes; read until the gate was ready `ready` times (0: for `wait_s`)."""
        outcome, began, received = Outcome(), time.monotonic(), bytearray()
        end = began + (wait_s or self._timeout_s)
        fd, left = self._pg.socket, memoryview(data)
        os.set_blocking(fd, False)
        while left or not ready or sum(kind == "Z" for kind, _ in messages(bytes(received))) < ready:
            limit = max(0.0, min(LOOK_S, end - time.monotonic()))
            readable, writable, _ = select.select([fd], [fd] if left else [], [], limit)
            try:
                if readable:
                    chunk = os.read(fd, CHUNK)
                    if not chunk:
                        outcome.is_lost = True
                        break
                    received += chunk
                if writable:
                    left = left[os.write(fd, left[:CHUNK]) :]
            except ConnectionError:
                outcome.is_lost = True
                break
            if time.monotonic() >= end or self._patience.is_over():
                outcome.has_hung = bool(ready)
                break
        for kind, body in messages(bytes(received)):
            if kind == "E":
                fields = {part[:1]: part[1:] for part in body.split(b"\0") if part}
                outcome.errors.append((fields.get(b"C", b"-----").decode(), fields.get(b"M", b"").decode("utf8", "replace")))
            elif kind == "C":
                outcome.tags.append(body.rstrip(b"\0").decode())
            elif kind == "D":
                outcome.rows.append([body])
        outcome.seconds = time.monotonic() - began
        return outcome

    def listen(self, seconds: float) -> Outcome:
        """Let come what the target says by itself: the tee keeps it."""
        end = time.monotonic() + seconds
        with contextlib.suppress(psycopg.OperationalError):
            while (left := end - time.monotonic()) > 0:
                if select.select([self._pg.socket], [], [], left)[0]:
                    self._pg.consume_input()
                while self._pg.notifies():
                    pass
        return Outcome()

    def is_alive(self) -> bool:
        """Whether the session can still be used: a refusal shouldn't cost it."""
        status = self._pg.transaction_status
        if status == pq.TransactionStatus.UNKNOWN:
            return False
        return status == pq.TransactionStatus.ACTIVE or not self.simple(b"/* rt */ SELECT 1").is_lost
