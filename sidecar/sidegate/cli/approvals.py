"""`sidegate approvals`, `approve` and `deny`: the approver's side of held statements, of gates on this machine or in a cluster.

`place` says which. What is done in a cluster is another package's; here is what is done with a gate's directory.

Rules it keeps: whoever decides proves who they are with a token that the request's own target would accept, verified here against the
same issuers; the request is compared with what the gate wrote before anything of it is shown or decided; what it looks like is
`request_view`'s. A token is never an argument of the command, where every process list shows it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sidegate.cli.place import ClusterChoice, cluster_module, cluster_options, is_in_cluster
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
    help="Gates on this machine: their approvals directory. Default: $SIDEGATE_STATE/approvals.",
)
_OUTPUT = click.option(
    "--output", "-o", type=click.Choice(["table", "json"]), default="table", show_default=True, help="json: in a cluster only."
)
_WHERE: Final = """
\b
WHERE REQUESTS ARE
  In a cluster  with --kubeconfig, --context, --namespace or -A, or when a
                kubeconfig is in effect ($KUBECONFIG, ~/.kube/config)
  On this machine, of `sidegate local` and `sidegate gate`
                with --directory, or when SIDEGATE_STATE is set"""
_DECIDE_HELP: Final = (
    """

Shows the whole request, asks, decides, and prints what became of it. You must be an approver by the rule that holds the statement, and
not the one who asks. A decision is final. A denial by one is enough; the rule says how many must approve.

In a cluster you are whom the API server knows you as, and admission writes that down with your decision. On this machine you prove who
you are with an OIDC token that the target itself would accept: get one with `sidegate token`.

An approval is for this statement of this requester alone, with these parameters, and is used up by running it once. When the client
has left meanwhile, the same statement runs when it is sent again, until the request expires.
"""
    + _WHERE
    + """

\b
EXAMPLES
  sidegate {verb} ar-20261124-103530-x7k2 -n shop
  sidegate {verb} ar-20261124-103530-x7k2 -n shop --yes --comment "as discussed"
  SIDEGATE_TOKEN=$(sidegate token --issuer https://login.example.com \\
      --client-id sidegate-cli --audience shop-db) \\
      sidegate {verb} ar-20261124-103530-x7k2 --directory /var/lib/gate/approvals

\b
ENVIRONMENT
  KUBECONFIG       in a cluster: the kubeconfig, when there is no --kubeconfig
  SIDEGATE_TOKEN   on this machine: your token, when there is no --token-file
  SIDEGATE_STATE   on this machine: the gate's state directory
                   (default ~/.local/state/sidegate)
  SIDEGATE_CONFIG  on this machine: the gate config, when there is no --config

\b
EXIT STATUS
  0  your decision was taken
  1  it was not; standard error says why, and what to do about it
  2  the command was used wrongly
  3  it was taken, and wasn't counted before --timeout
"""
)


def _list_options(function: Callable[..., None]) -> Callable[..., None]:
    shows_all = click.option("--all", "shows_all", is_flag=True, help="Those that have ended, too.")
    decorated: Callable[..., None] = cluster_options(all_namespaces=True)(_OUTPUT(shows_all(_DIRECTORY(function))))
    return decorated


@click.group(
    invoke_without_command=True,
    help="""List, show and watch approval requests. Without a verb: list, with the options of `sidegate approvals list`.
"""
    + _WHERE
    + """

\b
EXAMPLES
  sidegate approvals -A
  sidegate approvals -n shop -o json
  sidegate approvals show ar-20261124-103530-x7k2 -n shop
  sidegate approvals watch --directory /var/lib/gate/approvals
""",
    short_help="List, show and watch approval requests.",
)
@_list_options
@click.pass_context
def approvals(context: click.Context, /, **options: Any) -> None:
    if context.invoked_subcommand is None:
        _list(**options)
    elif options != {"directory": None, "shows_all": False, "output": "table", "cluster": ClusterChoice()}:
        raise click.UsageError(f"give options after the verb, as in `sidegate approvals {context.invoked_subcommand} ...`")


@approvals.command("list")
@_list_options
def list_requests(**options: Any) -> None:
    """List approval requests that wait for a decision or for their use, the oldest first.

    \b
    EXIT STATUS
      0  listed, even when there are none
      1  they can't be read, or one of them was tampered with
      2  the command was used wrongly
    """
    _list(**options)


def _list(directory: Path | None, shows_all: bool, output: str, cluster: ClusterChoice) -> None:
    from sidegate.approval.backend import Phase

    if is_in_cluster(cluster, directory):
        cluster_module("commands.approvals").list_requests(cluster, shows_all=shows_all, as_json=output == "json")
        return
    _refuse_json(output)
    rows: list[tuple[str, Hold]] = []
    is_bad = False
    for name, hold in _all_holds(_files(directory)):
        if isinstance(hold, str):
            is_bad = True
            click.echo(f"{_plain(name)}: {_plain(hold)}", err=True)
        elif shows_all or hold.phase in {Phase.PENDING, Phase.APPROVED}:
            rows.append((name, hold))
    print_requests(rows, _now(), nothing="nothing waits for approval")
    if is_bad:
        sys.exit(1)


def print_requests(rows: Iterable[tuple[str, Hold]], now: float, *, nothing: str) -> None:
    """A table of requests; `nothing` on standard error when there are none."""
    from sidegate.cli.request_view import cut, left, width
    from sidegate.mask.plain import cells

    table = [
        (
            name,
            f"{hold.phase.value} {hold.approvals}/{hold.required}",
            hold.request.requester,
            f"{hold.request.namespace}/{hold.request.target}",
            "" if hold.request.impact is None else f"{hold.request.impact.rows_affected} rows",
            left(hold.request.expires_at - now),
            hold.request.statement,
        )
        for name, hold in rows
    ]
    if not table:
        click.echo(nothing, err=True)
        return
    heads = ("NAME", "PHASE", "REQUESTER", "TARGET", "IMPACT", "EXPIRES IN")
    before = [[_plain(cell) for cell in row[:-1]] for row in table]
    taken = sum(max(map(cells, column)) + 2 for column in zip(heads, *before, strict=True))
    room = max(_LEAST_STATEMENT, width(_LIST_WIDTH) - taken)  # a line that the terminal breaks could pass for the next
    print_table((*heads, "STATEMENT"), ([*known, cut(row[-1], room)] for known, row in zip(before, table, strict=True)))


@approvals.command("show")
@click.argument("name")
@cluster_options(all_namespaces=False)
@_OUTPUT
@_DIRECTORY
def show(name: str, directory: Path | None, output: str, cluster: ClusterChoice) -> None:
    """Show one request whole: who asks, for what, what it would do, and what was decided.

    \b
    EXAMPLES
      sidegate approvals show ar-20261124-103530-x7k2 -n shop
      sidegate approvals show ar-20261124-103530-x7k2 --directory approvals
    """
    if is_in_cluster(cluster, directory):
        cluster_module("commands.approvals").show(cluster, name, as_json=output == "json")
        return
    _refuse_json(output)
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
@cluster_options(all_namespaces=True)
@_DIRECTORY
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between two looks.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many lines. Default: never.")
def watch(directory: Path | None, interval: float, count: int | None, cluster: ClusterChoice) -> None:
    """Print a line for each request as it comes, and for each change of phase, until interrupted.

    \b
    EXAMPLES
      sidegate approvals watch -A
      sidegate approvals watch --count 1    (wait for the next one)
    """
    if is_in_cluster(cluster, directory):
        cluster_module("commands.approvals").watch(cluster, interval=interval, count=count)
        return
    files = _files(directory)
    watch_lines(lambda: _all_holds(files), interval, count)


def watch_lines(look: Callable[[], Iterable[tuple[str, Hold | str]]], interval: float, count: int | None) -> None:
    """A line for each change among what `look` finds, every `interval` seconds, `count` lines at most."""
    from sidegate.cli.request_view import cut, width
    from sidegate.mask.plain import cells

    seen: dict[tuple[str, str], str] = {}
    printed = 0
    is_first = True
    while True:
        for name, hold in look():
            where = "" if isinstance(hold, str) else hold.request.namespace
            state = hold if isinstance(hold, str) else f"{hold.phase.value} {hold.approvals}/{hold.required}"
            if seen.get((where, name)) == state:
                continue
            seen[where, name] = state
            if is_first and not state.startswith("Pending"):
                continue
            line = _plain(f"{name}  {state}")
            if not isinstance(hold, str):
                line += f"  {_plain(hold.request.requester)}  "
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
        cluster_options(all_namespaces=False),
        click.option("--yes", "-y", "is_sure", is_flag=True, help="In a cluster: don't ask. Needed where there is no terminal."),
        click.option("--no-wait", is_flag=True, help="In a cluster: don't wait for the operator to count it."),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0),
            default=30.0,
            show_default=True,
            metavar="SECONDS",
            help="In a cluster: how long to wait for that.",
        ),
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
    cluster: ClusterChoice,
    is_sure: bool,
    no_wait: bool,
    timeout: float,
) -> None:
    source = click.get_current_context().get_parameter_source("config")  # from the environment it says nothing about where
    is_config_given = source is click.core.ParameterSource.COMMANDLINE
    if is_in_cluster(cluster, directory, token_file, config if is_config_given else None):
        cluster_module("commands.approvals").decide(
            cluster, choice, name, comment=comment, is_sure=is_sure, waits=not no_wait, timeout_s=timeout
        )
        return
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


def _refuse_json(output: str) -> None:
    if output == "json":
        raise click.UsageError("requests of gates on this machine are YAML files already: read those")


def _plain(text: str, keeps_lines: bool = False) -> str:
    from sidegate.mask.plain import plain

    return plain(text, keeps_lines)


def _now() -> float:
    from sidegate.runtime.clock import now

    return now()
