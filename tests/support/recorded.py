"""A session core on a bench whose records go where a gate puts them: a recording by the real recorder.

    with RecordedBench(directory, policy([NO_DELETES])) as bench:
        bench.ask("select 1")
        bench.ask("delete from orders")
    bench.path

`ask` plays the target's part: a plain answer to what reached it, the error to what was refused, and nothing to what is held.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from sidegate.approval.backend import Phase, Verdict
from sidegate.audit.events import PrincipalFields, SessionFields
from sidegate.policy.config import PolicyConfig, RecordingConfig
from sidegate.policy.principal import Principal
from sidegate.record.budget import RecordingBudget
from sidegate.record.entries import MasksFields, OpenedRecord
from sidegate.record.writer import SessionRecorder, target_directory
from tests.support.session import ADA, Bench, complete, query, ready, target_error

DENIED = [("Q", b"sidegate denied\0")]


class RecordedBench(Bench):
    def __init__(
        self,
        directory: Path,
        *policies: PolicyConfig,
        session: str = "s-1",
        principal: Principal = ADA,
        older: bool = False,
        answers_holds: bool = False,
        **more: Any,
    ) -> None:
        """`older`: as a gate records that doesn't know of masks and search paths. `answers_holds`: whoever holds approves at once."""
        super().__init__(*policies, principal=principal, **more)
        self.older = older
        self.answers_holds = answers_holds
        fields = SessionFields(
            id=session,
            target="shop/db",
            source_address="unix",
            database="shop",
            role="rw",
            principal=PrincipalFields.of(principal),
        )
        opened = OpenedRecord(
            session=fields,
            environment="production",
            revision=self.config.revision,
            gate_version="0.1.0",
            masks=None if older else MasksFields.of(self.session.grant.masks),
        )
        where = target_directory(directory, "shop", "db")
        self.recorder = SessionRecorder.open(RecordingBudget(where, RecordingConfig()), opened, self.now)
        self.path = self.recorder.path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.write()
        self.recorder.close("client left", self.now + 1)

    def write(self) -> None:
        """What was told so far."""
        for entry in self.records:
            if self.older and b',"searchPath":' in entry.payload:
                document = msgspec.json.decode(entry.payload)
                document.pop("searchPath")
                entry.payload = msgspec.json.encode(document)
        self.recorder.append_all(self.records, self.now)
        self.records = []

    def ask(self, text: str, *answer: bytes, tag: str = "SELECT 1") -> None:
        sent = self.client(query(text))
        if self.answers_holds and self.session.is_holding:
            self.approve()
            sent = self.sent()
        if sent == DENIED:
            self.target(target_error(), ready())
        elif sent:
            self.target(*(answer or (complete(tag),)), ready())
        self.write()

    def approve(self) -> None:
        """What is held."""
        self.take(self.session.hold_submitted("ar-1", self.now))
        self.take(self.session.hold_decided(Verdict(Phase.APPROVED, "ar-1", ("dana",), "", self.now, self.now + 3600), self.now))

    def ask_measured(self, text: str, rows: int, *tables: tuple[bytes, bytes, bytes, bytes]) -> None:
        """A statement that is measured outside of a transaction; `tables` as the target's counters have them."""
        self.client(query(text))
        self.answer_ask(tag="BEGIN", status="T")
        self.answer_ask(tag="SELECT 0", status="T")
        self.target(complete(f"DELETE {rows}"), ready("T"))
        (last, *_) = [body for code, body in self.answer_ask(*tables, status="T") if code == "P"]
        if b"ROLLBACK" not in last:
            self.answer_ask(tag="COMMIT")
        elif self.answer_ask(tag="ROLLBACK") == DENIED:
            self.target(target_error(), ready())
        self.write()
