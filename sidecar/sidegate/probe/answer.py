"""What a PostgreSQL server answers to a stranger's first message, and what that says of the door. Pure.

Rules it keeps:
- A door is closed when the host rules reject it, when nothing answers there, or when TLS isn't offered. All else is open, or unclear.
- Any way to log in that is offered is an open door, whatever the password: a password is what an agent may have been given.
- Rejection is told by SQLSTATE, by the file's name, which no translation of the message changes, and by the routine where one is named.
  SQLSTATE alone won't do: it is also that of a missing client certificate, which whoever has one passes.
- A gate is told by its own words, with which it refuses a stranger without TLS.
- What can't be told (starting up, too many connections, another protocol) is unclear: never closed.

Left out: connecting (`postgres`), and what is done about an open door.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

SSL_REQUEST: Final = struct.pack(">II", 8, 80877103)
PROTOCOL: Final = 3 << 16
MAX_ANSWER: Final = 64 * 1024
_REJECTED: Final = "28000"
_HBA: Final = "pg_hba.conf"
_ROUTINE: Final = "ClientAuthentication"
_GATE: Final = "refused by sidegate: "
# AuthenticationRequest codes (PostgreSQL docs 54.7)
_METHODS: Final = {
    2: "Kerberos V5",
    3: "a password in plain text",
    5: "a password, hashed by MD5",
    7: "GSSAPI",
    9: "SSPI",
    10: "a password, by SCRAM or another SASL mechanism",
}


class DoorState(enum.Enum):
    """What was found. Only `REJECTED`, `SILENT`, `NO_TLS` and `GATE` are closed."""

    WIDE_OPEN = "lets in without any password"
    ASKS = "asks for"
    REJECTED = "is rejected by the host rules"
    SILENT = "isn't answered"
    NO_TLS = "isn't answered with TLS"
    GATE = "is answered by a gate"
    UNCLEAR = "gives no clear answer"


@dataclass(frozen=True, slots=True)
class Door:
    """One way in that was tried. `role` None: a role that doesn't exist, which stands for every other one."""

    host: str
    port: int
    role: str | None
    database: str
    over_tls: bool
    state: DoorState
    detail: str = ""

    @property
    def is_open(self) -> bool:
        return self.state in {DoorState.WIDE_OPEN, DoorState.ASKS}

    @property
    def is_unclear(self) -> bool:
        return self.state is DoorState.UNCLEAR

    @property
    def place(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        """A phrase for a person."""
        if not self.database:
            return f"{self.place} {self.state.value}{f': {self.detail}' if self.detail else ''}"
        who = f"role `{self.role}`" if self.role is not None else "a role of any other name"
        way = "with TLS" if self.over_tls else "without TLS"
        said = f"{self.state.value} {self.detail}" if self.state is DoorState.ASKS else self.state.value
        if self.is_unclear and self.detail:
            said = f"{said}: {self.detail}"
        return f"{self.place} as {who} in database `{self.database}`, {way}: {said}"


class UnreadableAnswer(Exception):  # noqa: N818 - an answer, not a fault of ours
    """Not what PostgreSQL says."""


def startup_message(role: str, database: str) -> bytes:
    """Protocol 3.0, which every version has.

    Raises:
        ValueError: a name that no startup message can carry.
    """
    pairs = {"user": role, "database": database, "application_name": "sidegate-probe"}
    if any("\0" in value or not value for value in pairs.values()):
        raise ValueError("a name is empty or has a zero byte")
    body = b"".join(f"{name}\0{value}\0".encode() for name, value in pairs.items()) + b"\0"
    return struct.pack(">II", len(body) + 8, PROTOCOL) + body


def read_answer(received: bytes) -> tuple[DoorState, str] | None:
    """What the first message that says something says; None: more of it must come.

    Raises:
        UnreadableAnswer: it isn't PostgreSQL's.
    """
    at = 0
    while len(received) - at >= 5:
        kind, length = received[at : at + 1], int(struct.unpack_from(">I", received, at + 1)[0])
        if not 4 <= length <= MAX_ANSWER:
            raise UnreadableAnswer("a message of impossible length")
        body = received[at + 5 : at + 1 + length]
        if len(body) < length - 4:
            return None
        at += 1 + length
        if kind == b"R":
            return _read_authentication(body)
        if kind == b"E":
            return _read_error(body)
        if kind not in (b"N", b"v"):  # a notice, a negotiation of the version
            raise UnreadableAnswer(f"a message of type {kind!r} before any login")
    return None


def _read_authentication(body: bytes) -> tuple[DoorState, str]:
    if len(body) < 4:
        raise UnreadableAnswer("a request for authentication that says nothing")
    method = int(struct.unpack_from(">I", body)[0])
    if method == 0:
        return DoorState.WIDE_OPEN, ""
    return DoorState.ASKS, _METHODS.get(method, f"authentication of kind {method}")


def _read_error(body: bytes) -> tuple[DoorState, str]:
    fields: dict[str, str] = {}
    for part in body.split(b"\0"):
        if part:
            fields.setdefault(chr(part[0]), part[1:].decode("utf-8", "replace"))
    state, message = fields.get("C", ""), fields.get("M", "")
    if message.startswith(_GATE):
        return DoorState.GATE, ""
    is_of_the_rules = state == _REJECTED and _HBA in message and fields.get("R", _ROUTINE) == _ROUTINE
    if is_of_the_rules:
        return DoorState.REJECTED, ""
    if state == _REJECTED and fields.get("R") == _ROUTINE:
        return DoorState.ASKS, "a client certificate"
    return DoorState.UNCLEAR, _plain(f"{state} {message}".strip())


def _plain(text: str) -> str:
    """A stranger's words, fit for a log and a status: printable ASCII, not long."""
    return "".join(c if " " <= c <= "~" and c != "`" else "?" for c in text[:160])
