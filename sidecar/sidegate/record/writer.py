"""Writes one session's recording: an append-only file of mode 0600 that nobody else has made, one `write` for each batch of frames.

Rules: `append` returns when the bytes are with the kernel, so what follows it is written ahead. Any failure (no room, a short write, an
I/O error, the budget) is a `RecordError`, and then the recorder refuses everything: what was written in part stays as the file's torn end
for `recordings verify` to report, and nothing is ever written behind it. The file is locked while the session lives, which is how
readers tell a living session from one that died. One recorder has one user: it isn't safe between threads.

Left out: fsync for each frame (by `sync_interval_s`, and at the close: a crash of the machine may lose the last seconds, a crash of the
gate loses nothing), compression.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sidegate.record.budget import SUFFIX, RecordError, RecordingBudget
from sidegate.record.entries import ClosedRecord, OpenedRecord
from sidegate.record.frame import HEADER, HEADER_LINK, RecordEntry, RecordKind, encode_frames, encode_trailer

_NAME: Final = re.compile(
    r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII
)  # a Kubernetes object name (RFC 1123): can't leave its directory
_SESSION: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ClosedRecording:
    """What became of a recording; `link` (hexadecimal) goes to the audit log as the anchor outside of the file."""

    path: Path
    frames: int
    statements: int
    size: int
    link: str


def target_directory(directory: Path, namespace: str, name: str) -> Path:
    """Where the recordings of one target are, made with mode 0700 when missing.

    Raises:
        RecordError: it can't be made, or the names aren't those of Kubernetes objects.
    """
    if not (_NAME.fullmatch(namespace) and _NAME.fullmatch(name)):
        raise RecordError(f"`{namespace}/{name}` can't name a directory", "use names that Kubernetes accepts")
    path = directory / namespace / name
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise RecordError(f"recording directory `{path}` can't be made: {error.strerror}", "mend the recording volume") from error
    return path


def recording_name(session: str, now: float) -> str:
    """`20261124T103530.250000Z-<session>.sgrec`: sorted by name is sorted by start."""
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%S.%fZ}-{session}{SUFFIX}"


class SessionRecorder:
    """The recording of one session, open for appending. Made by `open`."""

    __slots__ = (
        "_budget",
        "_descriptor",
        "_failure",
        "_frames",
        "_link",
        "_size",
        "_statements",
        "_sync_interval_s",
        "_synced_at",
        "path",
    )

    def __init__(self, path: Path, descriptor: int, budget: RecordingBudget, now: float, sync_interval_s: float | None) -> None:
        self.path = path
        self._descriptor = descriptor
        self._budget = budget
        self._sync_interval_s = sync_interval_s
        self._synced_at = now
        self._link = HEADER_LINK
        self._frames = 0
        self._statements = 0
        self._size = 0
        self._failure: str | None = None

    @classmethod
    def open(
        cls, budget: RecordingBudget, opened: OpenedRecord, now: float, *, sync_interval_s: float | None = None
    ) -> SessionRecorder:
        """A new recording in the budget's directory, with its first frame written.

        Raises:
            RecordError: no room, no such directory, a recording of that name, or the write failed.
        """
        session = opened.session.id
        if not _SESSION.fullmatch(session):
            raise RecordError(f"session id `{session}` can't name a file", "use letters, digits, `-` and `_`")
        budget.admit(now)
        path = budget.directory / recording_name(session, now)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise RecordError(f"recording `{path}` can't be made: {error.strerror}", "mend the recording volume") from error
        recorder = cls(path, descriptor, budget, now, sync_interval_s)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            budget.spend(len(HEADER))
            recorder._write(HEADER)
            recorder.append_all((opened.entry(),), now)
        except (OSError, RecordError) as failure:
            recorder.abandon()
            with contextlib.suppress(OSError):
                os.unlink(path)  # nothing was recorded, and no session will be
            if isinstance(failure, RecordError):
                raise
            raise RecordError(f"recording `{path}` can't be locked: {failure.strerror}", "mend the recording volume") from failure
        return recorder

    @property
    def failure(self) -> str | None:
        """Why nothing can be recorded any more; None while all is well."""
        return self._failure

    @property
    def link(self) -> str:
        """The last link, in hexadecimal."""
        return self._link.hex()

    @property
    def statements(self) -> int:
        return self._statements

    @property
    def size(self) -> int:
        return self._size

    def append(self, entry: RecordEntry, now: float) -> None:
        """Write one frame.

        Raises:
            RecordError: it isn't written, and nothing will be from now on.
        """
        self.append_all((entry,), now)

    def append_all(self, entries: Sequence[RecordEntry], now: float) -> None:
        """Write frames in order, by one `write`.

        Raises:
            RecordError: not all of them are written, and nothing will be from now on.
        """
        if self._failure is not None:
            raise RecordError(f"recording `{self.path.name}` has failed before: {self._failure}", "open a new session")
        if not entries:
            return
        try:
            data, link = encode_frames(entries, self._frames, int(now * 1_000_000), self._link)
            self._budget.spend(len(data))
        except (ValueError, RecordError) as error:
            raise self._failed(str(error), getattr(error, "way_forward", "send smaller statements")) from error
        self._write(data)
        self._link = link
        self._frames += len(entries)
        for entry in entries:
            if entry.kind is RecordKind.CLIENT_STATEMENT:
                self._statements += 1
        if self._sync_interval_s is not None and now - self._synced_at >= self._sync_interval_s:
            self._sync()
            self._synced_at = now

    def close(self, reason: str, now: float, detail: str = "") -> ClosedRecording:
        """Write the last frame and the trailer, and see them to the disk. May take as long as the disk does: not for an event loop.

        Raises:
            RecordError: it couldn't be, or the recording failed before; the file is closed all the same.
        """
        try:
            if self._failure is not None:
                raise RecordError(f"recording `{self.path.name}` has failed before: {self._failure}", "open a new session")
            closed = ClosedRecord(
                reason=reason, frames=self._frames, statements=self._statements, bytes=self._size, link=self.link, detail=detail
            )
            data, link = encode_frames((closed.entry(),), self._frames, int(now * 1_000_000), self._link)
            self._write(data + encode_trailer(len(data)))
            self._link = link
            self._frames += 1
            self._sync()
            return ClosedRecording(self.path, self._frames, self._statements, self._size, self.link)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the file without an end: readers will say that it isn't closed. Harmless when already closed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._failure = self._failure or "it is closed"

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:
            raise self._failed(error.strerror or str(error), "free or mend the recording volume") from error
        self._size += written
        if written != len(data):
            raise self._failed(f"only {written} of {len(data)} bytes were taken", "free the recording volume")

    def _sync(self) -> None:
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise self._failed(error.strerror or str(error), "mend the recording volume") from error

    def _failed(self, problem: str, way_forward: str) -> RecordError:
        self._failure = problem
        return RecordError(f"recording `{self.path.name}` can't be written: {problem}", way_forward)
