"""Child processes of tests: they die with the test run, write to a log, and are ended by their own process id.

Rules: a child never outlives its parent, not even after SIGKILL (Linux's parent-death signal); nothing is killed by name; whoever
starts a server under root gets it under an unprivileged user, since PostgreSQL and pgbouncer refuse root. Left out: Windows, macOS.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

UNPRIVILEGED: Final = "nobody"  # exists on every Debian; no system user has to be made
_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ChildError(Exception):
    """A child ended that should run; the message ends with its log."""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 10.0, interval_s: float = 0.01) -> None:
    """Return as soon as `condition` holds.

    Raises:
        TimeoutError: it didn't within `timeout_s`; names `what`.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s in vain for {what}")
        time.sleep(interval_s)


def unprivileged_user() -> str | None:
    """Whom servers must run as: None (ourselves) unless we are root."""
    return UNPRIVILEGED if os.geteuid() == 0 else None


def free_port() -> int:
    """A loopback TCP port that was free a moment ago. Another process may take it first: whoever starts a server tries again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _die_with_parent(parent: int) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died between fork and prctl
        os._exit(1)


def start(
    command: Sequence[str | Path],
    log: Path,
    *,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child whose stdout and stderr go to the end of `log`."""
    parent = os.getpid()
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(os.environ if environment is None else environment),
            cwd=directory,
            user=user,
            group="nogroup" if user else None,
            extra_groups=[] if user else None,
            preexec_fn=lambda: _die_with_parent(parent),
        )


def stop(process: subprocess.Popen[bytes], signal_number: signal.Signals = signal.SIGTERM, timeout_s: float = 10.0) -> int:
    """End the child and return its exit code.

    Raises:
        TimeoutError: it didn't obey and was killed, which no test should take for a clean end.
    """
    if process.poll() is None:
        process.send_signal(signal_number)
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise TimeoutError(f"process {process.args!r} ignored {signal_number.name} for {timeout_s} s and was killed") from None


def children_of(pid: int) -> list[int]:
    """The direct children of a process."""
    children: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue  # it ended while we looked
        if parent == pid:
            children.append(int(entry.name))
    return children
