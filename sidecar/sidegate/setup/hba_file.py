"""The host rules' file on this machine: changed so that whoever reads it sees the old or the new one, and taken back when the server
can't use it.

Rules it keeps:
- The file is the server's own: both have the same content before anything is written.
- Owner, group and mode stay; a link is followed, so that the file that it leads to changes.
- The server reads the new rules and says so, or the old file is back: a server that can't read its rules keeps older ones in force, and
  can't start again.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sidegate.setup.host_rules import with_block
from sidegate.setup.server import Server, ServerProblem

LOAD_TIMEOUT_S: Final = 15.0
_LOOK_EVERY_S: Final = 0.05


def bring_up_to_date(server: Server, path: Path, name: str, lines: Sequence[str]) -> bool:
    """Put the block into the file and have the server load it; False: it was there already.

    Raises:
        ServerProblem: the file isn't the server's, can't be written, or the server can't use it. Then it is as it was.
    """
    real = Path(os.path.realpath(path))
    broken = [each for each in server.rules() if each.is_broken]
    if broken:
        raise ServerProblem(f"{broken[0].place} can't be read already: {broken[0].error}", "mend it first")
    try:
        before = real.read_bytes()
    except OSError as error:
        raise ServerProblem(
            f"`{path}` can't be read: {error.strerror}", "run this where the server runs, as a user who may"
        ) from error
    theirs, content = server.hba_file()
    if content != before:
        raise ServerProblem(
            f"`{path}` isn't what the server reads, which is its `{theirs}`", "name that file, on the server's machine"
        )
    try:
        after = with_block(before.decode("utf-8", "surrogateescape"), name, lines).encode("utf-8", "surrogateescape")
    except ValueError as error:
        raise ServerProblem(f"`{path}` can't be changed: {error}", "mend the marks, or take the block out by hand") from error
    if after == before:
        return False
    _replace(real, before, after)
    try:
        _check(server)
        _load(server)
    except BaseException:
        _replace(real, after, before)
        with contextlib.suppress(ServerProblem):
            server.reload()
        raise
    return True


def _check(server: Server) -> None:
    broken = [each for each in server.rules() if each.is_broken]
    if broken:
        raise ServerProblem(
            f"the server can't read the new rules, the old ones are back: {broken[0].place}: {broken[0].error}", "report it"
        )


def _load(server: Server) -> None:
    before = server.loaded_at()
    server.reload()
    _wait_until(lambda: server.loaded_at() != before)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LOAD_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise ServerProblem("the server didn't load the new rules in time, the old ones are back", "see the server's log")
        time.sleep(_LOOK_EVERY_S)


def _replace(path: Path, expected: bytes, content: bytes) -> None:
    """Write beside it, then rename. Somebody else's change in between is noticed, but for the moment before the rename."""
    temporary = None
    try:
        kept = path.stat()
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, stat.S_IMODE(kept.st_mode))
            if (kept.st_uid, kept.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, kept.st_uid, kept.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(kept.st_mode))
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if path.read_bytes() != expected:
            raise ServerProblem(f"`{path}` was changed by somebody else meanwhile", "run this again")
        os.replace(temporary, path)
        temporary = None
        _sync(path.parent)
    except OSError as error:
        raise ServerProblem(
            f"`{path}` can't be written: {error.strerror}", "run this as the file's owner, or write the lines by hand"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
