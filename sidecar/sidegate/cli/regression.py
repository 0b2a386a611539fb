"""`sidegate policy test`: recorded statements decided anew by proposed policies, and what would change.

Reading is all it does. One recording is open at a time, and what is kept of them is bounded (`changes_view`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from sidegate.cli.from_manifests import Failure, config_of, moment_of, read_manifests, target_named
from sidegate.cli.recordings import recordings_directory

if TYPE_CHECKING:  # imported when needed, so that `--help` comes fast
    from sidegate.api.manifests import Manifests
    from sidegate.cli.changes_view import Tally
    from sidegate.policy.engine import Engine
    from sidegate.record.entries import OpenedRecord

MAX_ANALYSES: Final = 4096
CHOICES: Final = ("allowed", "unmasked", "denied", "held", "masked", "any", "rule", "untold")
ANY: Final = ("allowed", "unmasked", "denied", "held", "masked")

_HELP: Final = """Decide recorded statements anew by proposed policies, and print what would change.

Reads recordings (at any depth below the directory; those of sessions that go on too), asks the policies in the manifests about each
statement as the same caller, role and database, at the time of the statement, and compares the answer with the recorded one. Nothing is
asked of a target, and nothing is written.

\b
GROUPS
  newly allowed   was denied or held, and would run now
  masked less     shows a column or value that was masked, or masks it less
  newly denied    ran or was held, and would be refused now
  newly held      ran or was denied, and would wait for approval now
  masked more     masks what was shown, or masks it more
  other rule      the same outcome by another rule or reason (listed with -v)
  can't be told   what decides isn't recorded; each with why

Alike statements of callers in the same groups are told once, with their number, the first of them, and the commands that show more.
Constants are left out of what is shown. What can't be told without the target's catalog or the token's claims is never called a change:
docs/policy.md says what a recording has and what not.

\b
EXAMPLES
  What would the new policies have changed for last week's sessions?
    sidegate policy test --manifests proposed --since 2026-11-18T00:00Z
  In a pipeline: fail when anything opens up, as a machine reads it
    sidegate policy test --recordings recordings --manifests proposed \\
        --fail-on allowed,unmasked --output json
  What becomes of one person's work on one target
    sidegate policy test --manifests proposed --target shop/shop-db \\
        --user ada@example.com -v

\b
EXIT STATUS
  0  nothing of what --fail-on names
  1  there is some
  2  wrong use; manifests or recordings that can't be read; a recording that
     is damaged; no recording at all
"""


def _fail_on(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    unknown = [name for name in names if name not in CHOICES]
    if unknown or not names:
        raise click.BadParameter(f"`{', '.join(unknown)}` is none of {', '.join(CHOICES)}")
    chosen = {each for name in names for each in (ANY if name == "any" else (name,))}
    return tuple(each for each in CHOICES if each in chosen)


@click.command("test", help=_HELP, short_help="decide recorded statements anew by proposed policies")
@click.option(
    "--recordings",
    type=click.Path(path_type=Path, exists=True),
    metavar="DIR",
    help="recordings, at any depth, or one file; default: $SIDEGATE_STATE/recordings",
)
@click.option(
    "--manifests",
    type=click.Path(path_type=Path, exists=True),
    metavar="DIR",
    required=True,
    help="directory (or file) of the proposed ProtectedTargets and AccessPolicies",
)
@click.option("--target", metavar="NAME", help="only sessions on this target, as NAME or NAMESPACE/NAME")
@click.option("--user", metavar="NAME", help="only sessions of this username")
@click.option("--since", metavar="TIME", help="only statements from this moment on, as in 2026-11-25T10:00Z")
@click.option("--until", metavar="TIME", help="only statements before this moment")
@click.option(
    "--fail-on",
    metavar="GROUP,...",
    default="any",
    show_default=True,
    callback=_fail_on,
    help="exit with 1 when there are any of: allowed, unmasked, denied, held, masked, any (all of these), rule, untold",
)
@click.option(
    "--allow-damaged", is_flag=True, help="of a damaged recording use what stands before the damage, instead of refusing it"
)
@click.option("-v", "--verbose", is_flag=True, help="list what only another rule decides, too")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="form of the answer")
def test(
    *,
    recordings: Path | None,
    manifests: Path,
    target: str | None,
    user: str | None,
    since: str | None,
    until: str | None,
    fail_on: tuple[str, ...],
    allow_damaged: bool,
    verbose: bool,
    output: str,
) -> None:
    from sidegate.policy.compared import Group
    from sidegate.record.reader import find_recordings

    begin = moment_of(since, "--since") if since is not None else float("-inf")
    end = moment_of(until, "--until") if until is not None else float("inf")
    read = read_manifests(manifests)
    only = None
    if target is not None:
        chosen = target_named(read, target)
        only = f"{chosen.metadata.namespace}/{chosen.metadata.name}"
    place = recordings_directory(recordings)
    paths = [place] if place.is_file() else list(find_recordings(place))
    if not paths:
        raise Failure(f"there are no recordings in `{place}`", "name another directory with --recordings, or set SIDEGATE_STATE")
    run = _Run(read, begin, end, only, user, allow_damaged=allow_damaged)
    for path in _with_progress(paths):
        run.read(path)
    tally = run.tally
    counts = {**{group.value: tally.counts[group] for group in Group}, "untold": tally.untold_count}
    failed = [name for name in fail_on if counts[name]]
    if output == "json":
        click.echo(json.dumps(tally.document(failed), indent=2, ensure_ascii=True))
    else:
        for line in tally.lines(str(place.parent if place.is_file() else place), str(manifests), verbose=verbose):
            click.echo(line)
    if failed:
        raise SystemExit(1)


class _Run:
    """One reading of all recordings."""

    def __init__(
        self, manifests: Manifests, begin: float, end: float, target: str | None, user: str | None, *, allow_damaged: bool
    ) -> None:
        from sidegate.cli.changes_view import Tally
        from sidegate.sql import StatementCache

        self.tally: Tally = Tally()
        self._manifests = manifests
        self._begin, self._end = begin, end
        self._target, self._user = target, user
        self._allow_damaged = allow_damaged
        self._engines: dict[str, Engine | None] = {}
        self._cache = StatementCache(MAX_ANALYSES)

    def read(self, path: Path) -> None:
        from sidegate.postgres.redecide import Resession, Untold
        from sidegate.record.asked import read_asked
        from sidegate.record.entries import OpenedRecord
        from sidegate.record.reader import RecordingProblem, read_recording

        session: Resession | None = None
        opened: OpenedRecord | None = None
        try:
            if self._is_outside(path):
                self.tally.skipped += 1
                return
            for item in read_asked(read_recording(path)):
                if isinstance(item, OpenedRecord):
                    if not self._is_wanted(item):
                        self.tally.skipped += 1
                        return
                    opened = item
                    self.tally.recordings += 1
                    engine = self._engine(item.session.target)
                    session = Resession(engine, item.session, self._cache) if engine is not None else None
                elif isinstance(item, RecordingProblem):
                    self._damaged(path, item)
                elif opened is not None:
                    missing = Untold(f"target `{opened.session.target}` isn't among the manifests")
                    found = session.decide(item) if session is not None else missing  # asked in any case: rows add up
                    if self._begin <= item.time < self._end:
                        self.tally.add(opened.session, str(path), item, found)
        except OSError as error:
            raise Failure(f"`{path}` can't be read: {error.strerror}", "check the path and its permissions") from error

    def _is_outside(self, path: Path) -> bool:
        """By its ends, without reading it: no statement of it can be in the span that is asked for."""
        from sidegate.record.reader import RecordingEnds, read_ends

        if self._begin == float("-inf") and self._end == float("inf"):
            return False
        ends = read_ends(path)
        if not isinstance(ends, RecordingEnds):
            return False
        return ends.opened_at >= self._end or (ends.closed is not None and ends.closed_at < self._begin)

    def _damaged(self, path: Path, problem: object) -> None:
        if not self._allow_damaged:
            raise Failure(
                f"recording `{path}` is damaged: {problem}",
                "see `sidegate recordings verify`; --allow-damaged uses what stands before the damage",
            )
        self.tally.damaged.append((str(path), str(problem)))

    def _is_wanted(self, opened: OpenedRecord) -> bool:
        session = opened.session
        username = session.principal.username if session.principal is not None else None
        return (self._target is None or session.target == self._target) and (self._user is None or username == self._user)

    def _engine(self, name: str) -> Engine | None:
        """Compiled when the first recording of the target comes. None: it isn't among the manifests."""
        from sidegate.policy.engine import Engine

        if name not in self._engines:
            resources = (each.resource for each in self._manifests.targets)
            found = next((each for each in resources if f"{each.metadata.namespace}/{each.metadata.name}" == name), None)
            config = config_of(found, self._manifests) if found is not None else None
            self._engines[name] = Engine(config) if config is not None else None
            if config is not None:
                self.tally.revisions[name] = config.revision
        return self._engines[name]


def _with_progress(paths: list[Path]) -> Iterator[Path]:
    """A line on standard error while it lasts, when a person is there to see it."""
    if not sys.stderr.isatty() or len(paths) < 2:
        yield from paths
        return
    for number, path in enumerate(paths):
        if number % 16 == 0:
            click.echo(f"\r{number} of {len(paths)} recordings", err=True, nl=False)
        yield path
    click.echo(f"\r{' ' * 60}\r", err=True, nl=False)
