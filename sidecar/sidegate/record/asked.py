"""What a recording says of each statement, gathered from its frames: what was asked, where names were looked up, what was decided, what
came of it. Streaming: a statement is given out with its outcome, and those without one at the end.

Rules it keeps:
- What is open at a time is bounded in statements and characters: over that the oldest is given out as far as it is known.
- A decision that new rules replaced while the statement was held isn't one of its decisions any more.
- Whatever stands behind damage is left out, and the damage is the last thing given.

Left out: results, which say nothing of decisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from sidegate.record.entries import (
    ApprovalRecord,
    ConfigRecord,
    DecisionRecord,
    MasksFields,
    OpenedRecord,
    OutcomeRecord,
    StatementRecord,
    decode_entry,
)
from sidegate.record.frame import Frame, RecordKind
from sidegate.record.reader import RecordingProblem

MAX_OPEN_STATEMENTS: Final = 4096
MAX_OPEN_CHARACTERS: Final = 64 * 1024**2
MAX_DECISIONS: Final = 64  # of one statement; a gate makes a handful
_READ: Final = frozenset(
    {
        RecordKind.SESSION_OPENED,
        RecordKind.CLIENT_STATEMENT,
        RecordKind.DECISION,
        RecordKind.APPROVAL_DECIDED,
        RecordKind.OUTCOME,
        RecordKind.CONFIG,
    }
)


@dataclass(slots=True)
class AskedStatement:
    """One statement. `runs` and `alternatives` are texts beside its own, as in `StatementRecord`. `search_path` None: not known then;
    `has_search_path` false: the recording is from before it was kept, and so is one whose `masks` are None.
    """

    number: int
    time: float
    text: str
    via: str
    runs: tuple[str, ...]
    alternatives: tuple[str, ...]
    search_path: tuple[str, ...] | None
    has_search_path: bool
    masks: MasksFields | None
    decisions: list[DecisionRecord] = field(default_factory=list)
    outcome: OutcomeRecord | None = None
    was_reconsidered: bool = False  # other rules came into force while it was held: the next decision is by those

    @property
    def characters(self) -> int:
        return len(self.text) + sum(map(len, self.runs)) + sum(map(len, self.alternatives))


def read_asked(items: Iterable[Frame | RecordingProblem]) -> Iterator[OpenedRecord | AskedStatement | RecordingProblem]:
    """The opening first, then statements in the order in which they ended, then the problem if there is one."""
    open_statements: dict[int, AskedStatement] = {}
    characters = 0
    masks: MasksFields | None = None
    search_path: tuple[str, ...] | None = None
    has_search_path = False
    for item in items:
        if isinstance(item, RecordingProblem):
            yield from open_statements.values()
            yield item
            return
        if item.kind not in _READ:
            continue
        match decode_entry(item.kind, item.payload):
            case OpenedRecord() as opened:
                masks = opened.masks
                yield opened
            case StatementRecord() as asked:
                if asked.search_path is not msgspec.UNSET:
                    search_path, has_search_path = asked.search_path, True
                statement = _statement(asked, item.time, search_path, has_search_path, masks)
                again = open_statements.pop(statement.number, None)  # a gate gives a number once: nothing may hide behind another
                if again is not None:
                    characters -= again.characters
                    yield again
                open_statements[statement.number] = statement
                characters += statement.characters
                while len(open_statements) > MAX_OPEN_STATEMENTS or (
                    characters > MAX_OPEN_CHARACTERS and len(open_statements) > 1
                ):
                    oldest = open_statements.pop(next(iter(open_statements)))
                    characters -= oldest.characters
                    yield oldest
            case DecisionRecord() as decided if decided.statement in open_statements:
                statement = open_statements[decided.statement]
                if statement.was_reconsidered:
                    statement.decisions.clear()
                    statement.was_reconsidered = False
                if len(statement.decisions) >= MAX_DECISIONS:
                    del statement.decisions[1]
                statement.decisions.append(decided)
            case ApprovalRecord() as verdict if verdict.statement in open_statements:
                open_statements[verdict.statement].was_reconsidered = False
            case OutcomeRecord() as outcome if outcome.statement in open_statements:
                statement = open_statements.pop(outcome.statement)
                characters -= statement.characters
                statement.outcome = outcome
                yield statement
            case ConfigRecord() as config:
                masks = config.masks
                for statement in open_statements.values():
                    decisions = statement.decisions
                    if decisions and decisions[-1].decision == "RequireApproval":
                        statement.was_reconsidered, statement.masks = True, masks
            case _:
                pass  # of a statement that has no text: the gate refused a message of the protocol
    yield from open_statements.values()


def _statement(
    asked: StatementRecord, time: float, search_path: tuple[str, ...] | None, has_search_path: bool, masks: MasksFields | None
) -> AskedStatement:
    return AskedStatement(
        number=asked.statement,
        time=time,
        text=asked.text,
        via=asked.via,
        runs=tuple(each.text for each in asked.runs),
        alternatives=tuple(each.text for each in asked.alternatives),
        search_path=search_path,
        has_search_path=has_search_path,
        masks=masks,
    )
