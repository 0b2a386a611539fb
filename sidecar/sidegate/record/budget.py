"""How much room recordings may take: the limit over one target's directory, a floor of free space, and the end of old recordings.

Rules: a session that can't be recorded is refused when it opens, not halfway: over the limit, or below the floor, `admit` raises. Within
a session `spend` stops at the same limit, so one endless session can't fill the volume either; the frame that closes a recording is
always let through. Only recordings that were closed in order are removed when their retention is over: one without an end is
evidence of a crash or of tampering, and a person's to remove. The directory is read at most once a minute.

Left out: what other processes write between two readings of the directory (the floor of free space catches that).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sidegate.policy.config import RecordingConfig
from sidegate.record.reader import RecordingProblem, read_ends

SUFFIX: Final = ".sgrec"
FREE_FLOOR_BYTES: Final = 64 * 1024**2  # as much as the largest statement: the volume may hold the target's data as well
_SCAN_INTERVAL_S: Final = 60.0
_DAY_S: Final = 86_400.0


class RecordError(Exception):
    """A session, or the next thing in it, can't be recorded."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward


def free_bytes(directory: Path) -> int:
    """Free to this user on the directory's volume."""
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize


class RecordingBudget:
    """The room for the recordings of one target, shared by its sessions in this process."""

    def __init__(
        self,
        directory: Path,
        config: RecordingConfig,
        *,
        free_floor_bytes: int = FREE_FLOOR_BYTES,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self.directory = directory
        self.config = config  # may be set anew when the gate config changes
        self._free_floor_bytes = free_floor_bytes
        self._free = free
        self._used = 0
        self._scanned_at: float | None = None

    @property
    def used_bytes(self) -> int:
        """As last counted, and what was written here since."""
        return self._used

    def admit(self, now: float) -> None:
        """A new session may be recorded. Removes what is past its retention first.

        Raises:
            RecordError: no room, or the directory can't be read.
        """
        try:
            if self._scanned_at is None or not 0 <= now - self._scanned_at < _SCAN_INTERVAL_S:
                self._scan(now)
            free = self._free(self.directory)
        except OSError as error:
            raise RecordError(
                f"recordings in `{self.directory}` can't be counted: {error.strerror}", "mend the recording volume"
            ) from error
        if self._used >= self.config.max_bytes:
            raise RecordError(
                f"recordings in `{self.directory}` take {self._used} bytes, {self.config.max_bytes} are allowed",
                "move recordings away, or raise spec.recording.maxBytes",
            )
        if free < self._free_floor_bytes:
            raise RecordError(
                f"the volume of `{self.directory}` has {free} bytes free, {self._free_floor_bytes} must stay",
                "free the recording volume",
            )

    def spend(self, size: int) -> None:
        """`size` bytes are about to be written.

        Raises:
            RecordError: they would go over the limit; nothing is counted then.
        """
        if self._used + size > self.config.max_bytes:
            raise RecordError(
                f"recordings in `{self.directory}` would go over {self.config.max_bytes} bytes",
                "move recordings away, or raise spec.recording.maxBytes",
            )
        self._used += size

    def _scan(self, now: float) -> None:
        used = 0
        oldest_kept = now - self.config.retention_days * _DAY_S
        with os.scandir(self.directory) as found:
            for item in found:
                if not item.name.endswith(SUFFIX) or not item.is_file(follow_symlinks=False):
                    continue
                stat = item.stat(follow_symlinks=False)
                if stat.st_mtime < oldest_kept and _closed_before(Path(item.path), oldest_kept):
                    os.unlink(item.path)
                else:
                    used += stat.st_size
        self._used = used
        self._scanned_at = now


def _closed_before(path: Path, limit: float) -> bool:
    """By the recording's own last frame: a file's modification time is easily changed."""
    ends = read_ends(path)
    return not isinstance(ends, RecordingProblem) and ends.closed is not None and ends.closed_at < limit
