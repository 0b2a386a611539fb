"""Runs the steps of a case, in order, in fresh sessions: through the gate, or straight to the database for comparison.

A play ends at the first step that hangs or loses its session. `admin` steps go straight to the database. Programs get the connection in
their environment (RT_DSN and libpq's PG...), with the server's own psql, pg_dump and pgbench first in PATH.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.redteam.client import LOOK_S, Outcome, Patience, Session
from tests.redteam.corpus import Case, Step, Words
from tests.redteam.target import DATABASE, RedTeamTarget

BACKGROUND_S: Final = 0.3  # what runs beside has to have begun


@dataclass(slots=True)
class Play:
    """One run of a case's steps. Leaving `with` closes its sessions."""

    target: RedTeamTarget
    words: Words
    case: Case
    dsn: str
    timeout_s: float
    guess: str | None = None
    is_held: Callable[[], bool] = lambda: False
    outcomes: list[Outcome] = field(default_factory=list)
    sessions: dict[str, Session] = field(default_factory=dict)
    _background: list[tuple[psycopg.Connection[Any], threading.Thread]] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for session in self.sessions.values():
            session.close()
        for connection, thread in self._background:
            # ended from the target's side: closing a connection that another thread reads races on its socket
            with suppress(psycopg.Error):
                self.target.query("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
            thread.join(5)
            connection.close()

    @property
    def has_hung(self) -> bool:
        return any(outcome.has_hung for outcome in self.outcomes)

    @property
    def is_lost(self) -> bool:
        return any(outcome.is_lost for outcome in self.outcomes)

    def fill(self, text: str) -> str:
        return self.words.fill(text, self.guess)

    def run(self, steps: Sequence[Step]) -> Self:
        for step in steps:
            outcome = self._step(step)
            if outcome is None:
                continue
            outcome.may_fail = step.get("may_fail", False)
            self.outcomes.append(outcome)
            if outcome.has_hung or outcome.is_lost or not self._is_open(step):
                break
        return self

    def _is_open(self, step: Step) -> bool:
        return "cmd" in step or "py" in step or step.get("conn", "a") in self.sessions

    def _step(self, step: Step) -> Outcome | None:
        """None: nothing that a client would see."""
        if "admin" in step:
            self.target.query(self.fill(step["admin"]))
        elif "admin_bg" in step:
            self._beside(self.fill(step["admin_bg"]), step.get("name", "rt_bg"))
        elif "sleep" in step:
            time.sleep(step["sleep"])
        elif "cmd" in step:
            return self._program(["bash", "-c", self.fill(step["cmd"])])
        elif "py" in step:
            return self._program([sys.executable, "-c", self.fill(step["py"])])
        else:
            try:
                session = self._session(step)
            except psycopg.OperationalError as error:
                return Outcome(errors=[(error.sqlstate or "08001", str(error).strip())])
            return self._in_session(session, step)
        return None

    def _beside(self, query: str, name: str) -> None:
        connection = self.target.connect(name)

        def go() -> None:
            with suppress(psycopg.Error):
                connection.execute(query)

        thread = threading.Thread(target=go, daemon=True)
        thread.start()
        self._background.append((connection, thread))
        time.sleep(BACKGROUND_S)

    def _program(self, command: list[str]) -> Outcome:
        given = conninfo_to_dict(self.dsn)
        environment = {
            **os.environ,
            **{
                f"PG{name.upper()}": str(given[name]) for name in ("host", "port", "user", "password", "sslmode") if name in given
            },
            "PATH": f"{self.target.server.installation.binaries}{os.pathsep}{os.environ.get('PATH', '')}",
            "PGDATABASE": DATABASE,
            "PGCONNECT_TIMEOUT": "10",
            "RT_DSN": self.dsn,
        }
        outcome, began = Outcome(), time.monotonic()
        patience = Patience(self.is_held)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
            while True:
                try:
                    outcome.copied, complaint = program.communicate(timeout=LOOK_S)
                except subprocess.TimeoutExpired:
                    if time.monotonic() - began < self.timeout_s * 4 and not patience.is_over():
                        continue
                    program.kill()
                    outcome.has_hung = True
                    break
                if program.returncode:
                    outcome.errors.append(("exit", complaint.decode("utf8", "replace").strip()[-400:]))
                break
        outcome.seconds = time.monotonic() - began
        return outcome

    def _session(self, step: Step) -> Session:
        name = step.get("conn", "a")
        if name not in self.sessions:
            startup = step.get("startup") or (self.case.given.get("startup", {}) if name == "a" else {})
            options = {option: self.fill(str(value)) for option, value in startup.items()}
            self.sessions[name] = Session(self.dsn, self.timeout_s, self.is_held, **options)
        return self.sessions[name]

    def _in_session(self, session: Session, step: Step) -> Outcome:
        parameters = [self.fill(str(value)).encode() for value in step.get("params", ())]
        binary = bool(step.get("binary"))
        match step:
            case {"sql": query}:
                return session.simple(self.fill(query).encode(), self.fill(step.get("copy_in", "")).encode())
            case {"ext": query}:
                outcomes = [session.extended(self.fill(query), parameters, binary=binary) for _ in range(step.get("times", 1))]
                return outcomes[-1]
            case {"prepare": query}:
                return session.prepare(step.get("name", ""), self.fill(query))
            case {"exec": name}:
                outcomes = [session.execute_prepared(name, parameters, binary=binary) for _ in range(step.get("times", 1))]
                return outcomes[-1]
            case {"raw": given}:
                data, ready = self._messages(given)
                return session.raw(data, ready, step.get("wait", 0))
            case {"hex": digits}:
                return session.raw(bytes.fromhex(digits), step.get("ready", 0), step.get("wait", 1))
            case {"listen": seconds}:
                return session.listen(seconds)
            case {"latin": query}:
                return session.simple(self.fill(query).encode(step["charset"]))
        raise ValueError(f"{self.case.id}: no such step: {dict(step)}")

    # Protocol messages

    def _messages(self, given: Sequence[Sequence[Any]]) -> tuple[bytes, int]:
        """The bytes, and how many times the other side will say that it is ready."""
        data = b"".join(bytes.fromhex(each[1]) if each[0] == "X" else self._message(each[0], each[1:]) for each in given)
        return data, sum(each[0] in "QSF" for each in given)

    def _message(self, kind: str, given: Sequence[Any]) -> bytes:
        body = self._body(kind, [*given])
        return kind.encode() + struct.pack(">I", len(body) + 4) + body

    def _body(self, kind: str, given: list[Any]) -> bytes:
        match kind, given:
            case "S" | "H" | "c", _:
                return b""
            case "Q", [query]:
                return _text(self.fill(query))
            case "P", [name, query, *_]:
                return _text(name) + _text(self.fill(query)) + struct.pack(">H", 0)
            case "B", [portal, name, *rest]:
                values = self._values(rest[0] if rest else ())
                formats = rest[1] if len(rest) > 1 else ()
                return (
                    _text(portal)
                    + _text(name)
                    + struct.pack(">H", 0)
                    + values
                    + struct.pack(f">{1 + len(formats)}H", len(formats), *formats)
                )
            case "D" | "C", [what, name]:
                return _text(what)[:-1] + _text(name)
            case "E", [portal, *rest]:
                return _text(portal) + struct.pack(">I", rest[0] if rest else 0)
            case "F", [function, values, *rest]:
                oid = self.target.query("SELECT to_regprocedure(%s)::oid::int8", [function])[0][0]
                return struct.pack(">IHH", oid, 1, 0) + self._values(values) + struct.pack(">H", rest[0] if rest else 0)
            case "d", [text]:
                return self.fill(text).encode()
        raise ValueError(f"{self.case.id}: no such message: {kind} {given}")

    def _values(self, values: Sequence[Any]) -> bytes:
        filled = [self.fill(str(value)).encode() for value in values]
        return struct.pack(">H", len(filled)) + b"".join(struct.pack(">I", len(value)) + value for value in filled)


def _text(text: str) -> bytes:
    return text.encode() + b"\0"
