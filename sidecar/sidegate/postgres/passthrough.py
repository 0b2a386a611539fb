"""Sessions of roles that may pass without OIDC: the application, replicas, backups. Relayed byte for byte, statements
recorded. The asyncio shell.

The target authenticates the role itself; no policy is asked and nothing is masked. What the client sends is walked for its
statements, so that the recording has them; what can't be walked ends the session, because it couldn't be recorded.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from sidegate.audit.events import SessionClosed, SessionFields, at
from sidegate.audit.sinks import AuditError
from sidegate.policy.config import GateConfig, RecordingMode
from sidegate.policy.engine import decide_passthrough
from sidegate.postgres.duplex import Duplex
from sidegate.postgres.frames import HEADER_BYTES, frame_length
from sidegate.postgres.messages import CLIENT_MESSAGES, TARGET_MESSAGES
from sidegate.postgres.startup import StartupMessage, encode_startup_message
from sidegate.record.budget import RecordError
from sidegate.record.entries import StatementRecord
from sidegate.record.frame import RecordEntry
from sidegate.record.writer import SessionRecorder

if TYPE_CHECKING:
    from sidegate.postgres.gate import GateServices

log = logging.getLogger("sidegate.postgres")

MAX_RECORDED_TEXT_BYTES: Final = 256 * 1024
QUERY: Final = ord("Q")
PARSE: Final = ord("P")
BACKEND_KEY_DATA: Final = ord("K")
READY: Final = ord("Z")


class StatementReader:
    """Walks client bytes and brings each Query's and Parse's text; bodies of other messages are passed over. Pure."""

    __slots__ = ("_head", "_is_query", "_left", "_text", "statements")

    def __init__(self) -> None:
        self.statements = 0
        self._head = b""
        self._left = 0
        self._text: bytearray | None = None
        self._is_query = True

    def feed(self, data: bytes) -> list[RecordEntry]:
        """Raises ValueError for what is no message."""
        entries: list[RecordEntry] = []
        at = 0
        while at < len(data):
            if self._left:
                taken = min(self._left, len(data) - at)
                if self._text is not None and len(self._text) < MAX_RECORDED_TEXT_BYTES:
                    self._text += data[at : at + taken]
                self._left -= taken
                at += taken
            else:
                wanted = HEADER_BYTES - len(self._head)
                self._head += data[at : at + wanted]
                at += wanted
                if len(self._head) < HEADER_BYTES:
                    break
                self._begin()
            if not self._left and self._text is not None:
                entries.append(self._end())
        return entries

    def _begin(self) -> None:
        length = frame_length(self._head, 0)
        if self._head[0] not in CLIENT_MESSAGES or length < HEADER_BYTES:
            raise ValueError("not a message")
        self._left = length - HEADER_BYTES
        self._text = bytearray() if self._head[0] in (QUERY, PARSE) else None
        self._is_query = self._head[0] == QUERY
        self._head = b""

    def _end(self) -> RecordEntry:
        assert self._text is not None
        parts = bytes(self._text[:MAX_RECORDED_TEXT_BYTES]).split(b"\0")
        text = parts[0] if self._is_query else parts[1] if len(parts) > 1 else b""
        self._text = None
        self.statements += 1
        via = "simple" if self._is_query else "extended"
        return StatementRecord(statement=self.statements, text=text.decode("utf-8", "backslashreplace"), via=via).entry()


class Passthrough:
    """One such session."""

    def __init__(
        self,
        fields: SessionFields,
        client: Duplex,
        target: Duplex,
        recorder: SessionRecorder | None,
        mode: RecordingMode,
        services: GateServices,
    ) -> None:
        self.key: tuple[int, bytes] = (0, b"")
        self._fields = fields
        self._client = client
        self._target = target
        self._recorder = recorder
        self._mode = mode
        self._services = services
        self._reader = StatementReader()
        self._greeting = b""  # the target's bytes until its key is known
        self._is_greeted = False
        self._keys: dict[tuple[int, bytes], Passthrough] = {}
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.done = asyncio.Event()

    def is_granted_by(self, config: GateConfig) -> bool:
        """Whether it would be let through now, by an entry that allows as much as the one it came by."""
        entry = decide_passthrough(config, self._fields.role, self._fields.source_address)
        return entry is not None and entry.name == self._fields.passthrough

    def end(self, why: str) -> None:
        """From outside. The client sees its connection closed: what the target was saying may be cut anywhere."""
        self._finish(why)

    async def run(self, startup: StartupMessage, keys: dict[tuple[int, bytes], Passthrough]) -> None:
        """Until either side is gone."""
        self._keys = keys
        opened_at = self._services.now()
        self._services.meter.session_began()
        self._target.write(
            encode_startup_message(
                startup.user,
                startup.database,
                startup.parameters,
                startup.minor,
                startup.replication,
                wants_utf8=False,  # the role's and the database's own setting stands, as it does without a gate
            )
        )
        self._target.start(self._from_target, lambda: self._finish("the target closed the connection"), self._pace)
        self._client.start(self._from_client, lambda: self._finish("the client left"), self._pace)
        try:
            why = await self._over
            self._client.close()
            self._target.close()
            await self._release(why, opened_at)
        finally:
            self.done.set()

    def _finish(self, why: str) -> None:
        if not self._over.done():
            self._over.set_result(why)

    def _from_client(self, data: bytes) -> None:
        if self._over.done():
            return
        try:
            entries = self._reader.feed(data)
            if entries and self._recorder is not None:
                self._recorder.append_all(entries, self._services.now())
        except ValueError:
            self._finish("the client sent what is no message")
            return
        except RecordError as error:
            self._services.meter.recording_failed()
            log.error("recording failed: %s", error)
            if self._mode is RecordingMode.REQUIRED:
                self._finish("it can't be recorded any longer")
                return
            if self._recorder is not None:
                self._recorder.abandon()
            self._recorder = None
        self._services.meter.relayed_bytes("client", len(data))
        self._target.write(data)
        self._pace()

    def _from_target(self, data: bytes) -> None:
        if self._over.done():
            return
        if not self._is_greeted:
            self._learn_key(data)
        self._services.meter.relayed_bytes("target", len(data))
        self._client.write(data)
        self._pace()

    def _learn_key(self, data: bytes) -> None:
        """Until the first ReadyForQuery: a cancel with the target's own key is let through for as long as the session lives."""
        self._greeting += data
        at = 0
        while at + HEADER_BYTES <= len(self._greeting) and not self._is_greeted:
            code, length = self._greeting[at], frame_length(self._greeting, at)
            if code not in TARGET_MESSAGES or length < HEADER_BYTES:
                self._is_greeted = True  # nothing the gate reads: cancels won't work, the session may go on
                break
            if at + length > len(self._greeting):
                break
            body = self._greeting[at + HEADER_BYTES : at + length]
            if code == BACKEND_KEY_DATA:
                self.key = (int.from_bytes(body[:4], "big"), body[4:])
                self._keys[self.key] = self
            self._is_greeted = code == READY
            at += length
        self._greeting = b"" if self._is_greeted else self._greeting[at:]

    def _pace(self) -> None:
        for reader, writer in ((self._client, self._target), (self._target, self._client)):
            if writer.is_full:
                reader.pause()
            else:
                reader.resume()

    async def _release(self, why: str, opened_at: float) -> None:
        name = link = ""
        if self._recorder is not None:
            name = self._recorder.path.name
            try:
                link = (await asyncio.to_thread(self._recorder.close, why, self._services.now())).link
            except RecordError as error:
                log.error("recording couldn't be closed: %s", error)
        now = self._services.now()
        try:
            self._services.audit.write(
                SessionClosed(
                    time=at(now), session=self._fields, reason=why, duration_s=max(0.0, now - opened_at),
                    statements=self._reader.statements, recording=name, recording_link=link,
                )
            )  # fmt: skip
        except AuditError as error:
            log.error("audit failed: %s", error)
        self._services.meter.session_ended("passthrough")
