"""Where audit events go: standard output or a file, one write an event. A failed write is an `AuditError`, and the gate fails closed.

Each line is the event with three members at its end: `writer` (the process that wrote), `sequence` (from 0, without gaps) and `link`
(the chain of `audit.chain` over that writer's lines). Several processes may append to one file: each has a name and a chain of its own,
and goes on with that chain when it is started again.

Rules: a line is written whole by one `write` or it is an error; the chain moves on only after the whole line is out. After an error the
sink stays usable, for a disk that got room again: its next line begins on a fresh line, and what was written in part is left for
`verify_lines` to report. Nothing is retried and nothing is kept back in memory.

Left out: fsync (an audit log that must survive a power cut belongs on another machine), rotation (`copytruncate` is wrong for a chain:
rename the file and restart the gate), sending over a network.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import msgspec

from sidegate.audit.chain import GENESIS, link
from sidegate.audit.events import AuditEvent, encode_event

_LINK_MEMBER: Final = b',"link":"'
_TAIL_BYTES: Final = len(_LINK_MEMBER) + 64 + len(b'"}')
_RESUME_BYTES: Final = 1024 * 1024  # how far from its end a log is searched for the writer's last line


class AuditError(Exception):
    """An event could not be written. Whatever it stands before must not happen."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


class AuditSink(Protocol):
    """Takes events in order. `write` returns when the event is out, or raises `AuditError`.

    `write_all` writes several at once; an event may be encoded already (the JSON object, without a line end).
    """

    def write(self, event: AuditEvent) -> None: ...

    def write_all(self, events: Sequence[AuditEvent | bytes]) -> None: ...

    def close(self) -> None: ...


class _DescriptorSink:
    """Linked lines to an open file descriptor."""

    def __init__(self, descriptor: int, name: str, writer: str, owns_descriptor: bool) -> None:
        self._descriptor = descriptor
        self._name = name
        self._member = b',"writer":' + msgspec.json.encode(writer).replace(b"%", b"%%") + b',"sequence":%d'
        self._owns_descriptor = owns_descriptor
        self._sequence = 0
        self._link = GENESIS
        self._is_mid_line = False

    def write(self, event: AuditEvent) -> None:
        self.write_all((event,))

    def write_all(self, events: Sequence[AuditEvent | bytes]) -> None:
        if self._descriptor < 0:
            raise AuditError(f"audit log `{self._name}` is closed", "restart the gate")
        lines = [b"\n"] if self._is_mid_line else []
        new_link, sequence = self._link, self._sequence
        for event in events:
            encoded = event if isinstance(event, bytes) else encode_event(event)
            data = encoded[:-1] + self._member % sequence
            new_link = link(new_link, data)
            lines.append(b'%s%s%s"}\n' % (data, _LINK_MEMBER, new_link.hex().encode()))
            sequence += 1
        line = b"".join(lines)
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            raise AuditError(
                f"audit log `{self._name}` can't be written: {error.strerror}", "free the volume or mend the log's reader"
            ) from error
        if written != len(line):
            self._is_mid_line = True
            raise AuditError(
                f"audit log `{self._name}` took {written} of {len(line)} bytes", "free the volume or mend the log's reader"
            )
        self._is_mid_line = False
        self._sequence = sequence
        self._link = new_link

    def close(self) -> None:
        if self._owns_descriptor and self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


class StdoutSink(_DescriptorSink):
    """To a descriptor that somebody else collects from, standard output by default. It is never closed here."""

    def __init__(self, writer: str, descriptor: int = 1) -> None:
        super().__init__(descriptor, "standard output", writer, owns_descriptor=False)


class FileSink(_DescriptorSink):
    """To a file of mode 0600, appended to and made when missing. A symbolic link in its place is refused."""

    def __init__(self, path: Path, writer: str) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise AuditError(
                f"audit log `{path}` can't be opened: {error.strerror}", "make its directory and let the gate's user write there"
            ) from error
        super().__init__(descriptor, str(path), writer, owns_descriptor=True)
        try:
            size = os.fstat(descriptor).st_size
            end = os.pread(descriptor, _RESUME_BYTES, max(0, size - _RESUME_BYTES))
            self._is_mid_line = bool(end) and not end.endswith(b"\n")  # an earlier process died while writing
            self._sequence, self._link = _resumed(end, writer)
        except OSError:
            self._is_mid_line = True  # not a file that can be read back (a pipe, /dev/null): an empty line does no harm


@dataclass(slots=True)
class LinesReport:
    """What `verify_lines` found: problems by line number (from 1), and the last sequence and link of each writer."""

    lines: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)
    writers: dict[str, tuple[int, bytes]] = field(default_factory=dict)


class _Tail(msgspec.Struct):
    writer: str
    sequence: int
    event: str


_tail_decoder = msgspec.json.Decoder(_Tail)


def _tail_of(line: bytes) -> tuple[_Tail, bytes] | None:
    """Who wrote a line, and its link; None when it isn't a whole event."""
    tail = line[-_TAIL_BYTES:]
    if not tail.startswith(_LINK_MEMBER):
        return None
    try:
        return _tail_decoder.decode(line), bytes.fromhex(tail[len(_LINK_MEMBER) : -2].decode("ascii"))
    except (msgspec.DecodeError, ValueError):
        return None


def _resumed(end: bytes, writer: str) -> tuple[int, bytes]:
    """The next sequence and the link before it, by the last whole line of this writer."""
    for line in reversed(end.split(b"\n")):
        found = _tail_of(line)
        if found is not None and found[0].writer == writer:
            return found[0].sequence + 1, found[1]
    return 0, GENESIS


def verify_lines(lines: Iterable[bytes]) -> LinesReport:
    """Check an audit log: every line whole, every writer's lines in order without a gap, every link right.

    A writer may begin again, with sequence 0 and a new chain: on standard output every start of a gate does. Lines missing from the end,
    and whole such beginnings, can't be seen here: compare with what was shipped elsewhere.
    """
    report = LinesReport()
    beginnings: set[bytes] = set()
    for number, raw in enumerate(lines, 1):
        line = raw.rstrip(b"\n")
        report.lines += 1
        tail = _tail_of(line)
        if tail is None:
            report.problems.append((number, "not a whole event"))
            continue
        members, found = tail
        sequence, previous = report.writers.get(members.writer, (-1, GENESIS)) if members.sequence else (-1, GENESIS)
        if link(previous, line[:-_TAIL_BYTES]) != found:
            gap = f" (sequence {sequence} is followed by {members.sequence})" if members.sequence != sequence + 1 else ""
            report.problems.append((number, f"the chain of writer `{members.writer}` is broken{gap}"))
        elif members.sequence != sequence + 1:
            report.problems.append((number, f"sequence {sequence} is followed by {members.sequence}"))
        elif members.sequence == 0 and found in beginnings:
            report.problems.append((number, f"the first line of writer `{members.writer}` stands twice"))
        if members.sequence == 0:
            beginnings.add(found)
        report.writers[members.writer] = (members.sequence, found)
    return report
