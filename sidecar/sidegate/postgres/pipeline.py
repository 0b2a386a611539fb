"""The expectations of a session: one entry for each message to the target that will be answered, in order. Pure.

PostgreSQL answers strictly in order, so the head of this queue says to which message an answer belongs, whether the client may see it, and
what must stand in its place. After an error in the extended protocol the target skips to the next Sync; so does the queue.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidegate.postgres.statements import Binding, Work


class Kind(enum.IntEnum):
    PARSE = 1
    BIND = 2
    DESCRIBE = 3
    EXECUTE = 4
    CLOSE = 5
    SYNC = 6
    QUERY = 7


class Expected:
    """`is_visible`: the client sees the answer. `refusal`: an ErrorResponse that stands in for the one the target was made to send.

    `capture`: answers are kept here instead of going to the client. `binding` is a name that this message sets and that is confirmed or
    taken back with its answer. `answer` gathers what a statement of the gate's own brought. `is_cut`: the client has had an error in
    place of the rest, which is dropped as it comes.
    """

    __slots__ = ("answer", "binding", "capture", "is_cut", "is_visible", "kind", "refusal", "work")

    def __init__(
        self,
        kind: Kind,
        work: Work | None = None,
        *,
        is_visible: bool = True,
        refusal: bytes | None = None,
        binding: Binding | None = None,
        capture: list[bytes] | None = None,
        answer: Answer | None = None,
        is_cut: bool = False,
    ) -> None:
        self.is_cut = is_cut
        self.kind = kind
        self.work = work
        self.is_visible = is_visible
        self.refusal = refusal
        self.binding = binding
        self.capture = capture
        self.answer = answer


class Answer:
    """What a statement of the gate's own brought: rows (text values), the raw RowDescription if it was described, or the error's fields.

    `was_skipped`: an earlier error made the target skip it. `status` is the transaction status after it.
    """

    __slots__ = ("error", "is_complete", "row_description", "rows", "status")

    def __init__(self) -> None:
        self.rows: list[tuple[bytes | None, ...]] = []
        self.row_description: bytes | None = None
        self.error: dict[str, str] | None = None
        self.is_complete = False
        self.status = "I"

    @property
    def was_skipped(self) -> bool:
        return not self.is_complete and self.error is None


class Expectations:
    __slots__ = ("_queue", "awaited", "has_transaction_control", "has_unsynced")

    def __init__(self) -> None:
        self._queue: deque[Expected] = deque()
        # The client's further messages wait for the end of this answer: what it returns uses up a budget.
        self.awaited: Expected | None = None
        # Messages went out since the last Sync or Query, answered or not: what they did isn't committed yet.
        self.has_unsynced = False
        # One of them begins or ends a transaction: the status known is not the one at this point.
        self.has_transaction_control = False

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def head(self) -> Expected | None:
        return self._queue[0] if self._queue else None

    @property
    def awaits_ready(self) -> bool:
        """A ReadyForQuery is still to come, so the transaction status isn't known."""
        return any(entry.kind in (Kind.SYNC, Kind.QUERY) for entry in self._queue)

    def push(self, entry: Expected) -> None:
        self._queue.append(entry)
        if entry.kind is Kind.SYNC or entry.kind is Kind.QUERY:
            self.has_unsynced = self.has_transaction_control = False
            return
        self.has_unsynced = True
        if entry.kind is Kind.EXECUTE and entry.work is not None and not self.has_transaction_control:
            self.has_transaction_control = any(statement.controls_transaction for statement in entry.work.statements)

    def pop(self) -> Expected:
        entry = self._queue.popleft()
        if entry is self.awaited:
            self.awaited = None
        return entry

    def cut(self) -> bool:
        """The head and what comes behind it up to the next Sync are dropped as they come. Whether that Sync went out already."""
        for entry in self._queue:
            if entry.kind is Kind.SYNC:
                return True
            entry.is_cut, entry.is_visible = True, False
            if entry.kind is Kind.QUERY:
                return True
        return False

    def skip_to_sync(self) -> list[Expected]:
        """Drop and return the entries that the target skips after an error; the Sync stays as head."""
        skipped: list[Expected] = []
        while self._queue and self._queue[0].kind is not Kind.SYNC:
            skipped.append(self.pop())
        return skipped

    def drop_syncs(self) -> None:
        """The target swallows each Sync that reaches it while it takes a COPY: their answers never come."""
        self._queue = deque(entry for entry in self._queue if entry.kind is not Kind.SYNC)
