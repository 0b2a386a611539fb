"""Frames as a person wants to read them, or as JSON lines for a program. Pure: frames in, lines out; when to print them is the caller's.

A statement's result is shown as a table where it ends. Everything that came from a client or a target goes through `plain`. The last
item of a damaged recording is a problem, and is shown as one: a replay never looks complete when it isn't.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple, assert_never

import msgspec

from sidegate.mask.plain import plain
from sidegate.record.entries import (
    ApprovalRecord,
    ClosedRecord,
    ConfigRecord,
    DecisionRecord,
    HoldRecord,
    ImpactFields,
    NoticeRecord,
    OpenedRecord,
    OutcomeRecord,
    Parameter,
    Record,
    StatementRecord,
    TruncationRecord,
    decode_entry,
)
from sidegate.record.frame import Frame, RecordKind, decode_result
from sidegate.record.reader import RecordingProblem
from sidegate.record.replay_rows import read_results, table

_INDENT: Final = 10


class Step(NamedTuple):
    """What happened at one moment: seconds since the session opened, and its lines."""

    offset_s: float
    text: str


def replay_text(items: Iterable[Frame | RecordingProblem], statement: int | None = None) -> Iterator[Step]:
    """A recording as text; of one statement alone when its number is given."""
    began: float | None = None
    results: dict[int, list[bytes]] = {}
    for item in items:
        if isinstance(item, RecordingProblem):
            yield Step(0.0, f"\nTHE RECORDING ENDS HERE: {plain(str(item))}; what is behind it can't be trusted")
            return
        began = item.time if began is None else began
        offset = item.time - began
        if item.kind is RecordKind.RESULT_BYTES:
            number, data = decode_result(item.payload)
            results.setdefault(number, []).append(data)
            continue
        record = decode_entry(item.kind, item.payload)
        about = getattr(record, "statement", None)
        if statement is not None and about != statement:
            continue
        lines = list(_lines(record, item.time))
        if isinstance(record, OutcomeRecord | TruncationRecord):
            shown = [line for part in read_results(b"".join(results.pop(record.statement, ()))) for line in table(part)]
            if isinstance(record, OutcomeRecord) and shown and shown[-1] == plain(record.tag):
                shown.pop()  # the command tag: the outcome says it
            lines = [*shown, *lines]
        if lines:
            yield Step(offset, _laid_out(offset, lines, is_header=isinstance(record, OpenedRecord)))
    left = [number for number in results if statement is None or number == statement]
    for number in sorted(left):
        shown = [f"#{number} (its outcome isn't recorded)"]
        shown += [line for part in read_results(b"".join(results[number])) for line in table(part)]
        yield Step(0.0, _laid_out(None, shown))


def replay_json(items: Iterable[Frame | RecordingProblem], statement: int | None = None) -> Iterator[Step]:
    """Each frame as one JSON object on one line."""
    began: float | None = None
    for item in items:
        if isinstance(item, RecordingProblem):
            line = {"kind": "DAMAGED", "sequence": item.sequence, "offset": item.offset, "problem": item.problem}
            yield Step(0.0, msgspec.json.encode(line).decode())
            return
        began = item.time if began is None else began
        if item.kind is RecordKind.RESULT_BYTES:
            number, data = decode_result(item.payload)
            fields: dict[str, object] = {"statement": number, "base64": base64.b64encode(data).decode("ascii")}
        else:
            fields = msgspec.to_builtins(decode_entry(item.kind, item.payload))
        if statement is not None and fields.get("statement") != statement:
            continue
        head = {"kind": item.kind.name, "sequence": item.sequence, "time": datetime.fromtimestamp(item.time, UTC)}
        yield Step(item.time - began, msgspec.json.encode({**head, **fields}).decode())


def header_lines(opened: OpenedRecord, time: float) -> Iterator[str]:
    """Who had the session, on what, and under which rules."""
    session = opened.session
    yield f"session   {session.id} on {session.target} ({opened.environment}), database {session.database} as {session.role}"
    if session.principal is not None:
        through = f" through {session.principal.agent}" if session.principal.agent else ""
        yield f"who       {session.principal.username}{through}, from {session.source_address}"
        yield f"identity  {session.principal.issuer} subject {session.principal.subject}"
    else:
        yield f"who       passthrough {session.passthrough or '(unnamed)'}, from {session.source_address}"
    if opened.application_name:
        yield f"client    {opened.application_name}"
    yield f"opened    {_moment(time)} by gate {opened.gate_version} under revision {opened.revision}"


def _lines(record: Record, time: float) -> Iterator[str]:
    match record:
        case OpenedRecord():
            yield from map(plain, header_lines(record, time))
        case StatementRecord():
            name = f", portal {plain(record.name)}" if record.name else ""
            masked = f", masked by {plain(', '.join(record.masked))}" if record.masked else ""
            yield f"#{record.statement} {plain(record.via)}{name}{masked}"
            yield from _statement(record.text, record.parameters)
            for beside, words in ((record.runs, "runs"), (record.alternatives, "or, should the target have refused that")):
                for each in beside:
                    yield f"  {words}"
                    yield from _statement(each.text, each.parameters)
        case DecisionRecord():
            yield from map(plain, _decision(record))
        case HoldRecord():
            joined = ", joining the request that is open" if record.joined else ""
            yield plain(f"#{record.statement} held as {record.approval} until {_moment(record.hold_until)}{joined}")
        case ApprovalRecord():
            people = f" by {', '.join(record.approvers)}" if record.approvers else ""
            words = f": {record.comment}" if record.comment else ""
            grant = " (approved before it was asked again)" if record.as_grant else ""
            yield plain(f"#{record.statement} {record.approval} {record.outcome}{people}{words}{grant}")
        case TruncationRecord():
            yield f"... {record.rows} more rows, {record.bytes} bytes, not recorded (sha256 {plain(record.sha256)})"
        case OutcomeRecord():
            if record.sqlstate:
                yield plain(f"#{record.statement} failed: {record.sqlstate} {record.message}")
            else:
                yield plain(f"#{record.statement} done: {record.tag}")
            yield from (f"masked {count} value{'s'[: count != 1]} by {plain(source)}" for source, count in record.masked.items())
        case NoticeRecord():
            yield plain(record.text)
        case ConfigRecord():
            yield plain(f"revision {record.revision} is in force")
        case ClosedRecord():
            detail = f" ({record.detail})" if record.detail else ""
            yield plain(f"closed: {record.reason}{detail}; {record.statements} statements, {record.frames + 1} frames")
        case _:
            assert_never(record)


def _statement(text: str, parameters: tuple[Parameter, ...]) -> Iterator[str]:
    """Each line of the text behind a bar, which none of them can do without: so none looks like the lines beside it."""
    yield from (f"  | {line}" for line in plain(text, keeps_lines=True).expandtabs(4).split("\n"))
    yield from (f"  ${number} = {_parameter(each)}" for number, each in enumerate(parameters, 1))


def _decision(record: DecisionRecord) -> Iterator[str]:
    source = f" by {record.source}" if record.source else ""
    reason = f": {record.reason}" if record.reason else ""
    yield f"#{record.statement} {record.decision}{source}{reason}"
    if record.detail:
        yield f"   {record.detail}"
    if record.observed:
        yield f"   in Enforce mode: {record.observed}"
    if record.impact is not None:
        yield f"   {_impact(record.impact)}"
    if record.way_forward:
        yield f"   {record.way_forward}"


def _impact(impact: ImpactFields) -> str:
    tables = [f"{t.relation} +{t.inserted} ~{t.updated} -{t.deleted}" for t in impact.tables]
    words = "empties a table" if impact.is_truncation else f"{impact.rows} rows"
    return f"impact measured: {words}" + (f" ({', '.join(tables)})" if tables else "")


def _parameter(parameter: Parameter) -> str:
    masked = f" (masked by {plain(parameter.masked)})" if parameter.masked else ""
    if parameter.text is not None:
        return plain("'" + parameter.text.replace("'", "''") + "'") + masked
    if parameter.binary is not None:
        return f"\\x{parameter.binary.hex()}{masked}"
    return f"NULL{masked}"


def _laid_out(offset: float | None, lines: list[str], is_header: bool = False) -> str:
    if is_header:
        return "\n".join([*lines, ""])
    flat = [piece for line in lines for piece in line.split("\n")]
    stamp = "" if offset is None else f"{offset:+.3f}"
    return "\n".join(f"{(stamp if number == 0 else ''):>{_INDENT - 2}}  {line}".rstrip() for number, line in enumerate(flat))


def _moment(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC"
