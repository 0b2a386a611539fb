"""`sidegate replay`: shows a recorded session as it happened."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidegate.cli.recordings import DIRECTORY_HELP, find_one

if TYPE_CHECKING:
    from sidegate.record.frame import Frame
    from sidegate.record.reader import RecordingProblem

_HELP = """Show a recorded session as it happened: each statement, what was decided and by which rule, holds and approvals, and the
results as the client saw them (masked where they were masked).

Each entry begins with the seconds since the session opened. Text of clients and targets is shown with its control characters escaped.
The chain is checked while reading: where a recording is damaged, the replay says so and stops.

\b
EXAMPLES
  sidegate replay s-4f1b
  sidegate replay s-4f1b --statement 3
  sidegate replay s-4f1b --speed 4
  sidegate replay recording.sgrec --format json | jq 'select(.kind == "DECISION")'

\b
EXIT STATUS
  0  shown to its end
  1  the recording is damaged, or isn't there
  2  the command was used wrongly
"""


@click.command(help=_HELP, short_help="Show a recorded session as it happened.")
@click.argument("recording", metavar="FILE|SESSION-ID")
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), help=DIRECTORY_HELP)
@click.option(
    "--speed", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0: at once; 1: as it went; N: N times as fast."
)
@click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True, help="json: one frame a line."
)
@click.option("--statement", type=click.IntRange(min=1), metavar="N", help="Only this statement of the session.")
def replay(recording: str, directory: Path | None, speed: float, form: str, statement: int | None) -> None:
    from sidegate.record.reader import read_frames
    from sidegate.record.replay import replay_json, replay_text

    path = find_one(recording, directory)
    ending = _Ending()
    shown = 0
    with path.open("rb") as stream:
        began = time.monotonic()
        make = replay_json if form == "json" else replay_text
        for step in make(ending.watch(read_frames(stream)), statement):
            if speed > 0:
                time.sleep(max(0.0, step.offset_s / speed - (time.monotonic() - began)))
            click.echo(step.text)
            shown += 1
    if ending.is_damaged:
        sys.exit(1)
    if not ending.is_closed:
        click.echo("the recording has no end: the session is going on, its gate died, or it was cut off", err=True)
    if statement is not None and not shown:
        click.echo(f"the session has no statement {statement}", err=True)


class _Ending:
    """Notes how a recording ends while its frames pass by."""

    def __init__(self) -> None:
        self.is_closed = False
        self.is_damaged = False

    def watch(self, items: Iterable[Frame | RecordingProblem]) -> Iterator[Frame | RecordingProblem]:
        from sidegate.record.frame import Frame, RecordKind

        for item in items:
            if isinstance(item, Frame):
                self.is_closed = item.kind is RecordKind.SESSION_CLOSED
            else:
                self.is_damaged = True
            yield item
