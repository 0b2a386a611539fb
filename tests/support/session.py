"""A session core on a bench: bytes in, effects out, no loop and no clock. `Bench` plays both sides by hand.

    bench = Bench(policy(rules=(...)))
    sent = bench.client(query("select 1"))     # messages that went to the target, by type and body
    seen = bench.target(row_description("a"), data_row(b"1"), complete("SELECT 1"), ready())   # messages that went to the client

What belongs to every session before its first statement (the search path is asked for) is done by `Bench`. Each effect is checked as it comes: records
and audit events may be anything, but nothing reaches the target without a permit.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from sidegate.audit.events import AuditEvent, PrincipalFields, SessionFields
from sidegate.policy.config import (
    AddressConfig,
    CredentialConfig,
    GateConfig,
    GrantConfig,
    PolicyConfig,
    Protocol,
    RuleConfig,
    SubjectConfig,
    TargetConfig,
)
from sidegate.policy.decision import Permit
from sidegate.policy.engine import Engine, SessionGrant, decide_session
from sidegate.policy.principal import Principal
from sidegate.policy.statement import StatementKind
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.effects import Action, Effects, RefreshCatalog
from sidegate.postgres.journal import Journal
from sidegate.postgres.judge import Judge
from sidegate.postgres.masker import Masker
from sidegate.postgres.messages import decode_fields, frame
from sidegate.postgres.pipeline import Kind
from sidegate.postgres.session import Session
from sidegate.postgres.session_facts import SessionFacts, SessionLimits
from sidegate.record.frame import RecordEntry
from sidegate.sql import StatementCache

NOW: Final = 1_790_000_000.0
NONCE: Final = "0123456789abcdef"
EVERY_KIND: Final = tuple(kind.value for kind in StatementKind if kind is not StatementKind.UNKNOWN)
ADA: Final = Principal(issuer="https://id.example", subject="u1", username="ada@example.com", groups=frozenset({"ai"}))

EMPTY_CATALOG: Final = Catalog.decode([], [], [], 0)

Message = tuple[str, bytes]


def policy(rules: Sequence[RuleConfig] = (), kinds: Sequence[str] = EVERY_KIND) -> PolicyConfig:
    """Everything for the group `ai`, less what `rules` take away."""
    return PolicyConfig(
        namespace="shop",
        name="p",
        subjects=(SubjectConfig(groups=("ai",)),),
        grants=(GrantConfig(databases=("*",), role="rw", allow=tuple(kinds)),),
        rules=tuple(rules),
    )


def config_of(*policies: PolicyConfig) -> GateConfig:
    target = TargetConfig(
        namespace="shop", name="db", protocol=Protocol.POSTGRES, environment="production",
        address=AddressConfig("/tmp", 5432), port=5432, credentials=(CredentialConfig("rw", "rw"),),
    )  # fmt: skip
    return GateConfig.sealed(target, policies)


class Bench:
    def __init__(
        self, *policies: PolicyConfig, limits: SessionLimits | None = None, catalog: Catalog | None = None, principal: Principal = ADA,
        chunk: int | None = None,
    ) -> None:  # fmt: skip
        """`chunk`: bytes go into the core in pieces of this size."""
        self.config = config_of(*(policies or (policy(),)))
        self.now = NOW
        self.records: list[RecordEntry] = []
        self.audits: list[AuditEvent] = []
        self.actions: list[Action] = []
        self._catalog = catalog if catalog is not None else EMPTY_CATALOG
        self._chunk = chunk
        self._to_target = b""
        self._to_client = b""
        grant = decide_session(self.config, principal, "shop", NOW)
        assert isinstance(grant, SessionGrant), grant
        engine = Engine(self.config)
        judge = Judge(engine, principal, "shop", "rw", StatementCache(100))
        masker = Masker(judge, grant.masks, b"k" * 32)
        fields = SessionFields(
            id="s1", target="shop/db", source_address="unix", database="shop", role="rw", principal=PrincipalFields.of(principal)
        )
        facts = SessionFacts("s1", NONCE, principal, "db", "shop", "shop", "rw")
        journal = Journal(fields, masker.text, 65536, NOW)
        self.session = Session(facts, self.config, grant, judge, masker, journal, limits or SessionLimits())
        judge.learn_search_path(b"{public}")
        judge.search_path_is_stale = False

    def take(self, effects: Effects) -> None:
        """As the shell would, without a shell."""
        self.records += effects.records
        self.audits += effects.audits
        for permit, data in effects.to_target:
            assert isinstance(permit, Permit)
            self._to_target += data
        self._to_client += b"".join(effects.to_client)
        for action in effects.actions:
            if isinstance(action, RefreshCatalog):
                self.take(self.session.catalog_refreshed(self._catalog, self.now))
            else:
                self.actions.append(action)

    def client(self, *messages: bytes) -> list[Message]:
        """From the client; what the target got."""
        for piece in self._pieces(b"".join(messages)):
            self.take(self.session.from_client(piece, self.now))
        return self.sent()

    def target(self, *messages: bytes) -> list[Message]:
        """From the target; what the client got."""
        for piece in self._pieces(b"".join(messages)):
            self.take(self.session.from_target(piece, self.now))
        return self.seen()

    def _pieces(self, data: bytes) -> list[bytes]:
        if self._chunk is None:
            return [data]
        return [data[at : at + self._chunk] for at in range(0, len(data), self._chunk)]

    def sent(self) -> list[Message]:
        """What reached the target since it was last asked for."""
        data, self._to_target = self._to_target, b""
        return split(data)

    def seen(self) -> list[Message]:
        """What reached the client since it was last asked for."""
        data, self._to_client = self._to_client, b""
        return split(data)

    def answer_ask(self, *rows: Sequence[bytes | None], tag: str = "SELECT 1", status: str = "I") -> list[Message]:
        """Answer one statement of the gate's own; what the target got next. What the client saw is kept for `seen`."""
        closed = self.session.expected.head is not None and self.session.expected.head.kind is Kind.CLOSE
        answer = (
            *((CLOSE_COMPLETE,) * 2 if closed else ()),  # the names of one that failed
            PARSE_COMPLETE,
            BIND_COMPLETE,
            *(data_row(*row) for row in rows),
            complete(tag),
            CLOSE_COMPLETE,
            CLOSE_COMPLETE,
            ready(status),
        )
        self.take(self.session.from_target(b"".join(answer), self.now))
        return self.sent()


def split(data: bytes) -> list[Message]:
    """Whole messages. A cut one is a failure: nobody is ever sent half a message at the end."""
    messages: list[Message] = []
    while data:
        length = 1 + int.from_bytes(data[1:5], "big")
        assert length <= len(data), "a cut message"
        messages.append((chr(data[0]), data[5:length]))
        data = data[length:]
    return messages


def codes(messages: list[Message]) -> str:
    return "".join(code for code, _ in messages)


def error_of(messages: list[Message]) -> dict[str, str]:
    """The one ErrorResponse among them."""
    errors = [body for code, body in messages if code == "E"]
    assert len(errors) == 1, messages
    return decode_fields(errors[0])


def asked(messages: list[Message]) -> str:
    """The text of the gate's own statement, behind what closes the names of one that failed."""
    while messages and messages[0][0] == "C":
        messages = messages[1:]
    assert messages
    assert messages[0][0] == "P", messages
    return messages[0][1].split(b"\0")[1].decode()


# ---- the client's messages ----------------------------------------------------------------------------------------------------------


def query(text: str) -> bytes:
    return frame(b"Q", text.encode() + b"\0")


def parse(text: str, name: str = "") -> bytes:
    return frame(b"P", name.encode() + b"\0" + text.encode() + b"\0\0\0")


def bind(portal: str = "", statement: str = "", *values: bytes | None) -> bytes:
    cells = b"".join(b"\xff\xff\xff\xff" if v is None else struct.pack(">I", len(v)) + v for v in values)
    return frame(
        b"B", portal.encode() + b"\0" + statement.encode() + b"\0\0\0" + struct.pack(">H", len(values)) + cells + b"\0\0"
    )


def describe(kind: str = "P", name: str = "") -> bytes:
    return frame(b"D", kind.encode() + name.encode() + b"\0")


def execute(portal: str = "", max_rows: int = 0) -> bytes:
    return frame(b"E", portal.encode() + b"\0" + struct.pack(">I", max_rows))


SYNC: Final = frame(b"S")
FLUSH: Final = frame(b"H")

# ---- the target's messages ----------------------------------------------------------------------------------------------------------

PARSE_COMPLETE: Final = frame(b"1")
BIND_COMPLETE: Final = frame(b"2")
CLOSE_COMPLETE: Final = frame(b"3")
NO_DATA: Final = frame(b"n")


def ready(status: str = "I") -> bytes:
    return frame(b"Z", status.encode())


def complete(tag: str) -> bytes:
    return frame(b"C", tag.encode() + b"\0")


def data_row(*values: bytes | None) -> bytes:
    cells = b"".join(b"\xff\xff\xff\xff" if v is None else struct.pack(">I", len(v)) + v for v in values)
    return frame(b"D", struct.pack(">H", len(values)) + cells)


def row_description(*fields: tuple[str, int, int] | str, type_oid: int = 25) -> bytes:
    """Fields as (name, table OID, attribute number), or a name alone for an expression; all text."""
    body = struct.pack(">H", len(fields))
    for field in fields:
        name, table, number = (field, 0, 0) if isinstance(field, str) else field
        body += name.encode() + b"\0" + struct.pack(">IhIhih", table, number, type_oid, -1, -1, 0)
    return frame(b"T", body)


def target_error(sqlstate: str = "42601", message: str = "syntax error") -> bytes:
    return frame(b"E", f"SERROR\0VERROR\0C{sqlstate}\0M{message}\0\0".encode())
