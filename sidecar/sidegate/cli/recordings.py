"""`sidegate recordings`: lists and verifies the recordings of gates on this machine.

Rules it keeps: stdout has one line for each recording; what is wrong with one is on its line; the exit status tells a script. What a
recording holds is shown through `plain`, so that no recorded text reaches the terminal raw. Reading is all it does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

DIRECTORY_HELP: Final = "Where recordings are, at any depth. Default: $SIDEGATE_STATE/recordings."
_EXIT_BAD: Final = 1
_EXIT_NONE: Final = 3


class CommandFailure(click.ClickException):
    """Two lines on standard error: what is wrong, and the way forward."""

    def __init__(self, problem: str, way_forward: str) -> None:
        super().__init__(problem)
        self.way_forward = way_forward
        context = click.get_current_context(silent=True)
        self.verb = " ".join(["sidegate", *(context.command_path.split()[1:] if context is not None else ())])

    def show(self, file: object = None) -> None:
        from sidegate.mask.plain import plain

        click.echo(f"{self.verb}: {plain(self.message)}\nhint: {plain(self.way_forward)}", err=True)


def state_directory() -> Path:
    """`$SIDEGATE_STATE`, or the user's own state directory (XDG Base Directory Specification)."""
    state = os.environ.get("SIDEGATE_STATE")
    if state:
        return Path(state)
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home) / "sidegate"


def recordings_directory(directory: Path | None) -> Path:
    return directory if directory is not None else state_directory() / "recordings"


@click.group(
    help="""List and verify recordings of sessions.

A gate records each session in a file of its own: STATE/recordings/NAMESPACE/TARGET/START-SESSION.sgrec. Each frame of a file is
linked to all before it by a SHA-256 chain, so that nothing in it can be changed, removed, added or swapped without being found.
docs/recording-format.md has the layout, and what the chain can't prove.

\b
EXAMPLES
  sidegate recordings list
  sidegate recordings verify
  sidegate recordings show-header s-4f1b
  sidegate replay s-4f1b

\b
ENVIRONMENT
  SIDEGATE_STATE   the gates' state directory (default ~/.local/state/sidegate)
""",
    short_help="List and verify recordings.",
)
def recordings() -> None:
    pass


@recordings.command("list")
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), help=DIRECTORY_HELP)
@click.option("--target", metavar="NAMESPACE/NAME", help="Only those of this target.")
def list_recordings(directory: Path | None, target: str | None) -> None:
    """List recordings, the oldest first.

    Reads the beginning and the end of each, so it is fast and proves nothing: `sidegate recordings verify` does.

    \b
    STATE is one of
      closed      the session ended in order
      live        the session is going on
      not closed  the gate died, or the end was cut off
      damaged     its beginning can't be read

    \b
    EXIT STATUS
      0  there are recordings
      3  there are none
    """
    from sidegate.mask.plain import plain
    from sidegate.record.reader import RecordingProblem, find_recordings, read_ends

    rows: list[tuple[str, ...]] = []
    for path in find_recordings(recordings_directory(directory)):
        try:
            ends = read_ends(path)
        except OSError as error:
            ends = RecordingProblem(error.strerror or str(error), 0, 0)
        if isinstance(ends, RecordingProblem):
            if target is None:
                rows.append(("?", "?", "?", "?", "?", "?", "damaged", str(path)))
            continue
        session = ends.opened.session
        if target is not None and session.target != target:
            continue
        who = session.principal.username if session.principal is not None else f"passthrough {session.passthrough or ''}"
        state = "closed" if ends.closed is not None else "live" if ends.is_live else "not closed"
        duration = f"{ends.closed_at - ends.opened_at:.1f} s" if ends.closed is not None else "?"
        statements = str(ends.closed.statements) if ends.closed is not None else "?"
        started = f"{datetime.fromtimestamp(ends.opened_at, UTC):%Y-%m-%d %H:%M:%S}"
        rows.append((started, session.id, session.target, who, duration, statements, state, str(path)))
    if not rows:
        _none_found(recordings_directory(directory))
    print_table(
        ("STARTED (UTC)", "SESSION", "TARGET", "WHO", "LASTED", "STATEMENTS", "STATE", "FILE"),
        ([plain(cell) for cell in row] for row in rows),
    )


@recordings.command("verify")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, dir_okay=False), metavar="[FILE]...")
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), help=DIRECTORY_HELP)
@click.option(
    "--audit",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="An audit log to compare with: the links that it kept.",
)
def verify(files: tuple[Path, ...], directory: Path | None, audit: Path | None) -> None:
    """Check recordings from their first byte to their last: FILEs, or all in the directory.

    One line for each: `ok`, or `live` for one whose session is going on, or `bad` and what is wrong. Of a bad one the line tells how
    much of it is intact; nothing behind that can be trusted.

    Whoever may write a recording can also make its chain anew. With --audit each is compared with the link that the audit event
    SessionClosed had for it: keep the audit log where the gate can't change it.

    \b
    EXAMPLES
      sidegate recordings verify
      sidegate recordings verify --audit /var/log/sidegate/audit.jsonl
      sidegate recordings verify copy-of-one.sgrec

    \b
    EXIT STATUS
      0  every recording is whole
      1  one is not
      3  there are none
    """
    from sidegate.mask.plain import plain
    from sidegate.record.reader import find_recordings, verify_recording

    anchors = _anchors(audit) if audit is not None else {}
    paths = list(files) if files else list(find_recordings(recordings_directory(directory)))
    if not paths:
        _none_found(recordings_directory(directory))
    is_bad = False
    for path in paths:
        try:
            report = verify_recording(path)
        except OSError as error:
            is_bad = True
            click.echo(f"bad   {plain(str(path))}  can't be read: {error.strerror}")
            continue
        counted = f"{_count(report.frames, 'frame')}, {_count(report.statements, 'statement')}"
        chain = f"chain {report.link[:16]}…"
        anchor = anchors.get(path.name)
        if not report.is_ok:
            problem = (
                str(report.problem) if report.problem is not None else "its end is missing: the gate died, or it was cut off"
            )
            verdict = f"intact are {counted} in {report.intact_bytes} of {report.size} bytes: {problem}"
        elif anchor is not None and anchor != report.link:
            verdict = f"{counted}, but the audit log has chain {anchor[:16]}…, not {report.link[:16]}…: it was made anew"
        else:
            kept = ", as in the audit log" if anchor is not None else ""
            state = report.state.value
            word = "ok" if state == "closed" else state
            click.echo(f"{word:<4}  {plain(str(path))}  {counted}, {state}, {chain}{kept}")
            continue
        is_bad = True
        click.echo(f"bad   {plain(str(path))}  {plain(verdict)}")
    if is_bad:
        sys.exit(_EXIT_BAD)


@recordings.command("show-header")
@click.argument("recording", metavar="FILE|SESSION-ID")
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), help=DIRECTORY_HELP)
def show_header(recording: str, directory: Path | None) -> None:
    """Show whose session a recording is, on what, and under which rules.

    \b
    EXAMPLE
      sidegate recordings show-header s-4f1b
    """
    from sidegate.mask.plain import plain
    from sidegate.record.reader import RecordingProblem, read_ends
    from sidegate.record.replay import header_lines

    path = find_one(recording, directory)
    ends = read_ends(path)
    if isinstance(ends, RecordingProblem):
        raise CommandFailure(f"`{path}` can't be read: {ends}", "verify it: sidegate recordings verify")
    for line in header_lines(ends.opened, ends.opened_at):
        click.echo(plain(line))
    click.echo(f"file      {plain(str(path))}")


def find_one(recording: str, directory: Path | None) -> Path:
    """The file of that name, or the recording of that session."""
    from sidegate.record.reader import find_recordings

    path = Path(recording)
    if path.is_file():
        return path
    where = recordings_directory(directory)
    found = [each for each in find_recordings(where) if each.name.removesuffix(".sgrec").partition("-")[2] == recording]
    if not found:
        raise CommandFailure(
            f"`{recording}` is neither a file nor a session recorded in `{where}`", "list them: sidegate recordings list"
        )
    if len(found) > 1:
        raise CommandFailure(f"`{recording}` has {len(found)} recordings", f"name one by its file: {', '.join(map(str, found))}")
    return found[0]


def print_table(header: tuple[str, ...], rows: Iterable[Iterable[str]]) -> None:
    """Columns as wide as their widest cell, the last one as it comes."""
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)][:-1]
    for row in table:
        click.echo("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip())


def _anchors(audit: Path) -> dict[str, str]:
    """File name of a recording -> its last link, from the audit events that closed sessions."""
    import msgspec

    from sidegate.audit.events import SessionClosed, decode_event

    anchors: dict[str, str] = {}
    with audit.open("rb") as stream:
        for line in stream:
            try:
                event = decode_event(line)
            except msgspec.DecodeError:
                continue  # torn lines and other programs' lines: `verify_lines` is what checks an audit log
            if isinstance(event, SessionClosed) and event.recording and event.recording_link:
                anchors[Path(event.recording).name] = event.recording_link
    return anchors


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _none_found(directory: Path) -> None:
    click.echo(f"no recordings in {directory}; name another with --directory or SIDEGATE_STATE", err=True)
    sys.exit(_EXIT_NONE)
