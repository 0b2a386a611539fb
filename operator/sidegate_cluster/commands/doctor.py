"""`sidegate doctor`: is everything that protection stands on in place, and is every other way in closed.

It changes nothing; --from-namespace alone makes something, a pod that is deleted when it has tried the ports.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from sidegate.api.protected_target import ProtectedTarget
from sidegate.cli.place import ClusterChoice, cluster_options
from sidegate.cli.recordings import CommandFailure
from sidegate.mask.plain import plain
from sidegate.runtime.clock import now
from sidegate_cluster.checks import CHECKS
from sidegate_cluster.checks.check import Database, Outcome, Patient, Result
from sidegate_cluster.commands.failures import failure, print_json
from sidegate_cluster.commands.status import broken_line
from sidegate_cluster.connection import Cluster, connected
from sidegate_cluster.pages.refusals import CallError
from sidegate_operator.resources import MUTATING_WEBHOOKS, PROTECTED_TARGETS, Object

DEFAULT_HOME: Final = "sidegate-system"
_MARKS: Final = {Outcome.FINE: "✓", Outcome.ADVICE: "!", Outcome.WRONG: "✗", Outcome.UNKNOWN: "?"}
_ASCII_MARKS: Final = {Outcome.FINE: "ok", Outcome.ADVICE: "note", Outcome.WRONG: "WRONG", Outcome.UNKNOWN: "?"}

_HELP: Final = """Look whether everything that protection stands on is in place, and say what to do about what isn't.

Looked at: the cluster's version and resources, the operator's Lease, the key for decisions, the guards in the API server field by field,
the webhook and whether it answers, the rights of both service accounts, and of each target (or of TARGET alone) what the operator
observes, its objects, pods without a gate, and its namespace.

Tried: the side doors of the API server as you (exec, attach, port-forward, proxy, ephemeral containers; nothing is entered), and the
database's own port, from here and with --from-namespace from a pod there, without any password. Where this machine isn't in the
cluster's network, something else may answer at a pod's address. With --url the database's roles and host rules are reviewed too. What
the operator found from its own pod is in condition Enforced.

Nothing is changed: what is tried is a dry run. The pod of --from-namespace is deleted again.

A cluster administrator sees all of it; what others may not see is marked with `?`.

\b
EXAMPLES
  sidegate doctor
  sidegate doctor shop-db -n shop
  What an assistant's pod in namespace agents finds:
    sidegate doctor shop-db -n shop --from-namespace agents
  And what the database itself leaves open, through a port-forward:
    sidegate doctor shop-db -n shop --url postgresql://postgres@localhost:15432/postgres --ask-password
  In a pipeline, or every hour:
    sidegate doctor -o json > report.json || mail -s "sidegate" admin < report.json

\b
MARKS
  ✓ ok      in place
  ! note    in place, and weaker than it could be
  ✗ WRONG   not in place; the next line says what to do
  ?         you may not see it

\b
EXIT STATUS
  0  nothing is wrong
  1  something is, or the cluster can't be asked
  2  the command was used wrongly
"""


@click.command("doctor", help=_HELP, short_help="Look whether everything that protection stands on is in place.")
@click.argument("target", required=False)
@cluster_options(all_namespaces=False)
@click.option(
    "--home", metavar="NAME", help="Namespace of Sidegate itself. Default: the one that the webhook configuration names."
)
@click.option(
    "--from-namespace", default="", metavar="NAME", help="Try TARGET's port from a short-lived pod of this namespace as well."
)
@click.option(
    "--pod-timeout", type=click.FloatRange(min=1), default=60.0, show_default=True, metavar="SECONDS", help="For that pod."
)
@click.option("--url", default="", metavar="URL", help="TARGET's server, as its superuser: postgresql://postgres@HOST/postgres.")
@click.option(
    "--password-file", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE", help="The superuser's password."
)
@click.option("--ask-password", is_flag=True, help="Ask for the superuser's password.")
@click.option(
    "--gate-network",
    "networks",
    multiple=True,
    metavar="CIDR",
    help="Where TARGET's gate comes from; repeatable. Default: loopback.",
)
@click.option(
    "--output", "-o", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of the report."
)
def doctor(
    *,
    target: str | None,
    cluster: ClusterChoice,
    home: str | None,
    from_namespace: str,
    pod_timeout: float,
    url: str,
    password_file: Path | None,
    ask_password: bool,
    networks: tuple[str, ...],
    output: str,
) -> None:
    if target is None and (from_namespace or url):
        raise click.UsageError("--from-namespace and --url are about one TARGET: name it")
    if not url and (password_file is not None or ask_password or networks):
        raise click.UsageError("--password-file, --ask-password and --gate-network go with --url")
    with connected(cluster) as live:
        try:
            targets = _targets(live, cluster, target)
            database = _database(targets, url, password_file, ask_password, networks) if url else None
            patient = Patient(live, home or _home(live), targets, now(), from_namespace, pod_timeout, database)
        except CallError as error:
            raise failure(error) from error
        found: dict[str, list[Result]] = {}
        for check in CHECKS:
            for each in check.results(patient):
                if output == "text":
                    _print(check.title, each, is_first=check.title not in found)
                found.setdefault(check.title, []).append(each)
            if any(each.is_last for each in found.get(check.title, ())):
                break
    results = [each for some in found.values() for each in some]
    if output == "json":
        print_json(
            {
                "home": patient.home,
                "checks": [
                    {"check": title, "outcome": each.outcome.value, "what": each.what, "wayForward": each.way_forward}
                    for title, some in found.items()
                    for each in some
                ],
            }
        )
    else:
        click.echo(_sum(results))
    if any(each.outcome is Outcome.WRONG for each in results):
        sys.exit(1)


def _home(live: Cluster) -> str:
    try:
        found = live.find(MUTATING_WEBHOOKS, "sidegate")
    except CallError as error:
        if error.code != 403:
            raise
        return DEFAULT_HOME
    for each in (found or {}).get("webhooks") or ():
        namespace = (each["clientConfig"].get("service") or {}).get("namespace")
        if namespace:
            return str(namespace)
    return DEFAULT_HOME


def _targets(live: Cluster, choice: ClusterChoice, target: str | None) -> Sequence[Object] | None:
    """The one; or those of the namespace that is asked for, or of all."""
    namespace = live.namespace if target is not None else choice.namespace
    try:
        if target is None:
            return live.list(PROTECTED_TARGETS, namespace)
        found = live.find(PROTECTED_TARGETS, target, namespace)
    except CallError as error:
        if error.code == 403:
            return None
        if error.code == 404 and target is None:
            return ()  # the resources aren't there, which is among what is found
        raise
    if found is None:
        raise CommandFailure(
            f"there is no target `{target}` in namespace `{namespace}` of {live.where}", "`sidegate status -A` lists all"
        )
    return [found]


def _database(
    targets: Sequence[Object] | None, url: str, password_file: Path | None, asks: bool, networks: Sequence[str]
) -> Database:
    from sidegate.cli.setup import superuser, wanted_of

    if not targets:
        raise CommandFailure(
            "you may not read the target, so what its server must be like isn't known", "sidegate setup postgres"
        )
    try:
        parsed = ProtectedTarget.from_wire(targets[0])
    except ValueError as error:
        raise CommandFailure(f"the target can't be read: {error}", "use the command of the installed version") from error
    return Database(superuser(url, password_file, asks), wanted_of(parsed, networks))


def _print(title: str, result: Result, *, is_first: bool) -> None:
    if is_first:
        click.echo(title)
    marks = _MARKS if _shows_marks() else _ASCII_MARKS
    click.echo(broken_line(f"  {marks[result.outcome]} {plain(result.what)}"))
    if result.way_forward:
        click.echo(broken_line(f"      fix: {plain(result.way_forward)}"))


def _shows_marks() -> bool:
    try:
        "✓✗".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _sum(results: Sequence[Result]) -> str:
    counts = {outcome: sum(each.outcome is outcome for each in results) for outcome in Outcome}
    text = f"{counts[Outcome.WRONG]} wrong, {counts[Outcome.ADVICE]} to note, {counts[Outcome.FINE]} fine"
    return f"{text}, {counts[Outcome.UNKNOWN]} unknown" if counts[Outcome.UNKNOWN] else text
