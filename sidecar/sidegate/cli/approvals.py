"""`sidegate approvals`, `approve` and `deny`: the approver's side of the local approval back end.

Rules it keeps: whoever decides proves who they are with a token that the request's own target would accept, verified here against the
same issuers; the request is compared with what the gate wrote before anything of it is shown or decided; what it looks like is
`request_view`'s. A token is never an argument of the command, where every process list shows it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidegate.cli.recordings import CommandFailure, print_table, state_directory

if TYPE_CHECKING:
    from sidegate.approval.files import ApprovalFiles
    from sidegate.approval.hold import Approver, Hold
    from sidegate.policy.config import GateConfig

_LOCK_ATTEMPTS: Final = 100
_LOCK_RETRY_S: Final = 0.02
_LEAST_STATEMENT: Final = 20
_LIST_WIDTH: Final = 180  # without a terminal, where nothing is broken
_DIRECTORY = click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="The gate's approvals directory. Default: $SIDEGATE_STATE/approvals.",
)
_DECIDE_HELP: Final = """

You prove who you are with an OIDC token that the target itself would accept: get one with `sidegate token`. You must be an approver
by the rule that holds the statement, and not the one who asks. A decision is final. A denial by one is enough; the rule says how many
must approve.

An approval is for this statement of this requester alone, with these parameters, and is used up by running it once. When the client
has left meanwhile, the same statement runs when it is sent again, until the request expires.

\b
EXAMPLES
  SIDEGATE_TOKEN=$(sidegate token --issuer https://login.example.com \\
      --client-id sidegate-cli --audience shop-db) \\
      sidegate {verb} ar-20261124-103530-x7k2 --comment "as discussed"
  sidegate {verb} ar-20261124-103530-x7k2 --token-file token

\b
ENVIRONMENT
  SIDEGATE_TOKEN   your token, when there is no --token-file
  SIDEGATE_STATE   the gate's state directory (default ~/.local/state/sidegate)
  SIDEGATE_CONFIG  the gate config, when there is no --config

\b
EXIT STATUS
  0  your decision was taken
  1  it was not; standard error says why, and what to do about it
  2  the command was used wrongly
"""


@click.group(
    invoke_without_command=True,
    help="""List, show and watch approval requests of gates on this machine. Without a verb: list.

\b
EXAMPLES
  sidegate approvals
  sidegate approvals list --all
  sidegate approvals show ar-20261124-103530-x7k2
  sidegate approvals watch
""",
    short_help="List, show and watch approval requests.",
)
@click.pass_context
def approvals(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        context.invoke(list_requests)


@approvals.command("list")
@_DIRECTORY
@click.option("--all", "shows_all", is_flag=True, help="Those that have ended, too.")
def list_requests(directory: Path | None = None, shows_all: bool = False) -> None:
    """List approval requests that wait for a decision or for their use, the oldest first.

    \b
    EXIT STATUS
      0  listed, even when there are none
      1  there is no such directory, or a request was tampered with
    """
    from sidegate.approval.backend import Phase
    from sidegate.cli.request_view import cut, left, width
    from sidegate.mask.plain import cells, plain

    rows: list[tuple[str, ...]] = []
    is_bad = False
    for name, hold in _all_holds(_files(directory)):
        if isinstance(hold, str):
            is_bad = True
            click.echo(f"{plain(name)}: {plain(hold)}", err=True)
        elif shows_all or hold.phase in {Phase.PENDING, Phase.APPROVED}:
            request = hold.request
            rows.append(
                (
                    name,
                    f"{hold.phase.value} {hold.approvals}/{hold.required}",
                    request.requester,
                    f"{request.namespace}/{request.target}",
                    "" if request.impact is None else f"{request.impact.rows_affected} rows",
                    left(request.expires_at - _now()),
                    request.statement,
                )
            )
    if rows:
        heads = ("NAME", "PHASE", "REQUESTER", "TARGET", "IMPACT", "EXPIRES IN")
        before = [[plain(cell) for cell in row[:-1]] for row in rows]
        taken = sum(max(map(cells, column)) + 2 for column in zip(heads, *before, strict=True))
        room = max(_LEAST_STATEMENT, width(_LIST_WIDTH) - taken)  # a line that the terminal breaks could pass for the next
        print_table((*heads, "STATEMENT"), ([*known, cut(row[-1], room)] for known, row in zip(before, rows, strict=True)))
    else:
        click.echo("nothing waits for approval", err=True)
    if is_bad:
        sys.exit(1)


@approvals.command("show")
@click.argument("name")
@_DIRECTORY
def show(name: str, directory: Path | None) -> None:
    """Show one request whole: who asks, for what, what it would do, and what was decided.

    \b
    EXAMPLE
      sidegate approvals show ar-20261124-103530-x7k2
    """
    from sidegate.approval.backend import ApprovalUnavailable
    from sidegate.cli.request_view import request_lines, width

    files = _files(directory)
    try:
        hold, document = files.hold(name, files.load_index(), _now())
    except ApprovalUnavailable as error:
        raise CommandFailure(str(error), error.way_forward) from error
    click.echo(f"{hold.phase.value.lower()}  {name}  ({hold.approvals} of {hold.required} approvals)")
    for line in request_lines(hold, document, _now(), width(), is_whole=True):
        click.echo(line)


@approvals.command("watch")
@_DIRECTORY
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between two looks.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many lines. Default: never.")
def watch(directory: Path | None, interval: float, count: int | None) -> None:
    """Print a line for each request as it comes, and for each change of phase, until interrupted.

    \b
    EXAMPLE
      sidegate approvals watch --count 1    (wait for the next one)
    """
    from sidegate.cli.request_view import cut, width
    from sidegate.mask.plain import cells, plain

    files = _files(directory)
    seen: dict[str, str] = {}
    printed = 0
    is_first = True
    while True:
        for name, hold in _all_holds(files):
            state = hold if isinstance(hold, str) else f"{hold.phase.value} {hold.approvals}/{hold.required}"
            if seen.get(name) == state:
                continue
            seen[name] = state
            if is_first and not state.startswith("Pending"):
                continue
            line = plain(f"{name}  {state}")
            if not isinstance(hold, str):
                line += f"  {plain(hold.request.requester)}  "
                line += cut(hold.request.statement, max(_LEAST_STATEMENT, width(_LIST_WIDTH) - cells(line)))
            click.echo(line)
            printed += 1
            if count is not None and printed >= count:
                return
        is_first = False
        time.sleep(interval)


def _decision_options(function: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.argument("name"),
        click.option("--comment", "-c", default="", help="Your words, which the one who asks will see."),
        click.option("--token-file", type=click.Path(allow_dash=True), metavar="FILE", help="Your token; `-`: standard input."),
        click.option(
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            envvar="SIDEGATE_CONFIG",
            metavar="FILE",
            help="The target's gate config. Default: gate.json below the state directory, as `sidegate local` writes it.",
        ),
        click.option(
            "--issuer-ca",
            envvar="SIDEGATE_CA_FILE",
            metavar="FILE",
            help="Authorities that issuers' certificates are verified with. Default: the system's.",
        ),
        _DIRECTORY,
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command(help="Approve a held statement." + _DECIDE_HELP.format(verb="approve"), short_help="Approve a held statement.")
@_decision_options
def approve(**options: Any) -> None:
    _decide("Approved", **options)


@click.command(help="Deny a held statement." + _DECIDE_HELP.format(verb="deny"), short_help="Deny a held statement.")
@_decision_options
def deny(**options: Any) -> None:
    _decide("Denied", **options)


def _decide(
    choice: str,
    *,
    name: str,
    comment: str,
    token_file: str | None,
    config: Path | None,
    issuer_ca: str | None,
    directory: Path | None,
) -> None:
    from sidegate.approval.backend import ApprovalUnavailable, Phase
    from sidegate.approval.document import MAX_COMMENT
    from sidegate.approval.files import DirectoryBusyError
    from sidegate.approval.hold import Choice, VoteProblem
    from sidegate.cli.request_view import request_lines, width

    if len(comment) > MAX_COMMENT:
        raise CommandFailure(f"the comment has {len(comment)} characters, {MAX_COMMENT} are allowed", "shorten it")
    files = _files(directory)
    try:
        asked, _ = files.hold(name, files.load_index(), _now())
        approver, through = _approver(_config_of(asked, config), _read_token(token_file), issuer_ca)
        for _ in range(_LOCK_ATTEMPTS):
            try:
                with files.locked():
                    found = files.decide(name, approver, Choice(choice), comment, _now())
                    document = files.load(name)
                break
            except DirectoryBusyError:
                time.sleep(_LOCK_RETRY_S)
        else:
            raise CommandFailure(
                f"directory `{files.directory}` stays locked by another process", "end the process that holds it"
            )
    except ApprovalUnavailable as error:
        raise CommandFailure(str(error), error.way_forward) from error
    if isinstance(found, VoteProblem):
        raise CommandFailure(found.problem, found.way_forward)
    more = found.required - found.approvals
    rest = f"; {more} more must approve" if found.phase is Phase.PENDING else ""
    agent = f" (token of {through})" if through else ""
    click.echo(
        f"{choice.lower()}  {name}  by {_plain(approver.username)}{_plain(agent)}  ({found.approvals} of {found.required} approvals{rest})"
    )
    for line in request_lines(found, document, _now(), width(), is_whole=False):
        click.echo(line)


def _approver(config: GateConfig, token: str, issuer_ca: str | None) -> tuple[Approver, str]:
    """Who the token says they are, and the agent or client it was given to."""
    import asyncio

    from sidegate.approval.hold import Approver
    from sidegate.identity.claims import principal_from_token
    from sidegate.identity.keys import IssuerKeys
    from sidegate.identity.problem import IdentityProblem
    from sidegate.identity.token import TokenVerifier
    from sidegate.identity.transport import HttpTransport

    identity = config.target.identity
    verifier = TokenVerifier(identity, IssuerKeys(HttpTransport(issuer_ca)))
    verified = asyncio.run(verifier.verify(token, _now()))
    principal = verified if isinstance(verified, IdentityProblem) else principal_from_token(verified, identity, "unix")
    if isinstance(principal, IdentityProblem):
        raise CommandFailure(f"your token wasn't accepted: {principal.message}", principal.way_forward)
    return Approver(principal.username, principal.key, principal.groups), principal.agent or ""


def _read_token(token_file: str | None) -> str:
    if token_file is None:
        token = os.environ.get("SIDEGATE_TOKEN", "")
        if not token.strip():
            raise CommandFailure(
                "you have given no token", "put one into SIDEGATE_TOKEN or give --token-file: see `sidegate token --help`"
            )
    else:
        try:
            with click.open_file(token_file, encoding="utf-8") as stream:  # `-` is standard input
                token = stream.read()
        except (OSError, UnicodeDecodeError):
            raise CommandFailure(f"`{token_file}` can't be read as text", "write your token there, and nothing else") from None
    return token.strip()


def _config_of(hold: Hold, config_file: Path | None) -> GateConfig:
    """The gate config of the request's target: its issuers are those that approvers' tokens must come from."""
    from sidegate.policy.config import ConfigError, decode_config

    state, target = state_directory(), hold.request
    places = [config_file] if config_file is not None else [
        state / target.target / "gate.json",
        state / target.namespace / target.target / "gate.json",
        state / "gate.json",
    ]  # fmt: skip
    place = next((each for each in places if each.is_file()), None)
    if place is None:
        raise CommandFailure(
            f"no gate config for {target.namespace}/{target.target} at {' or '.join(str(each) for each in places)}",
            "give --config FILE: the compiled config that the gate runs with",
        )
    try:
        config = decode_config(place.read_bytes())
    except (OSError, ConfigError) as error:
        raise CommandFailure(f"`{place}`: {error}", getattr(error, "way_forward", "give another with --config")) from error
    if (config.target.namespace, config.target.name) != (target.namespace, target.target):
        raise CommandFailure(
            f"`{place}` is the gate config of {config.target.namespace}/{config.target.name}, "
            f"the request is for {target.namespace}/{target.target}",
            "give --config FILE with that target's config",
        )
    return config


def _files(directory: Path | None) -> ApprovalFiles:
    from sidegate.approval.backend import ApprovalUnavailable
    from sidegate.approval.files import ApprovalFiles

    where = directory if directory is not None else state_directory() / "approvals"
    if not where.is_dir():
        raise CommandFailure(
            f"`{where}` is not a directory", "name the gate's with --directory or SIDEGATE_STATE, and be the gate's user"
        )
    files = ApprovalFiles(where)
    try:
        files.prepare()
    except ApprovalUnavailable as error:
        raise CommandFailure(str(error), error.way_forward) from error
    return files


def _all_holds(files: ApprovalFiles) -> Iterator[tuple[str, Hold | str]]:
    """Every request with where it stands, or what is wrong with it."""
    from sidegate.approval.backend import ApprovalUnavailable

    index = files.load_index()
    for name in files.names():
        try:
            yield name, files.hold(name, index, _now())[0]
        except ApprovalUnavailable as error:
            yield name, str(error)


def _plain(text: str, keeps_lines: bool = False) -> str:
    from sidegate.mask.plain import plain

    return plain(text, keeps_lines)


def _now() -> float:
    from sidegate.runtime.clock import now

    return now()
