"""`sidegate status`: what the operator observes about targets, for people and scripts. Reading is all it does."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterable
from typing import Any, Final

import click

from sidegate.api.text import Timestamp
from sidegate.cli.place import ClusterChoice, cluster_options
from sidegate.cli.recordings import CommandFailure, print_table
from sidegate.cli.request_view import left, width
from sidegate.runtime.clock import now
from sidegate_cluster.commands.failures import failure, print_json
from sidegate_cluster.connection import Cluster, connected
from sidegate_cluster.pages.refusals import CallError
from sidegate_cluster.pages.target_page import CONDITIONS, TargetView, heads, page, row
from sidegate_operator.resources import ACCESS_POLICIES, APPROVAL_REQUESTS, PROTECTED_TARGETS, Object, Resource

_LOOK_S: Final = 0.5
_INDENT: Final = 13

_HELP: Final = """Show what is observed about targets: whether every gate enforces the newest policies, and whether there is another way in.

Without TARGET a table: GATES counts those that serve clients, those that enforce the newest revision, and those there should be; NOT TRUE
names each condition that isn't True, with its reason. With TARGET everything about it, each condition with what to do about it.
docs/conditions.md lists every reason.

\b
EXAMPLES
  sidegate status -A
  sidegate status shop-db -n shop
  Wait, in a pipeline, until every gate enforces what was applied:
    kubectl apply -f policy.yaml && sidegate status shop-db -n shop --wait Synced --timeout 120
  Follow a rollout until it is done:
    sidegate status shop-db -n shop --watch --wait Ready
  Targets that aren't ready, by name:
    sidegate status -A -o json | jq -r '.items[] | select(any(.status.conditions[]?;
        .type == "Ready" and .status != "True")) | .metadata.name'

\b
EXIT STATUS
  0  shown; with --wait: the condition is True of every target that is shown
  1  they can't be read, there is no such target, or --timeout ended the wait
  2  the command was used wrongly
"""


@click.command("status", help=_HELP, short_help="Show targets: conditions, gates, pending approvals.")
@click.argument("target", required=False)
@cluster_options(all_namespaces=True)
@click.option(
    "--output", "-o", type=click.Choice(["table", "json"]), default="table", show_default=True, help="json: ProtectedTargets."
)
@click.option("--watch", "-w", is_flag=True, help="Show it again whenever it changes, until interrupted, or until --wait.")
@click.option(
    "--wait",
    "condition",
    type=click.Choice(CONDITIONS),
    metavar="CONDITION",
    help=f"Wait until it is True: {', '.join(CONDITIONS)}.",
)
@click.option("--timeout", type=click.FloatRange(min=0), default=60.0, show_default=True, metavar="SECONDS", help="Of --wait.")
def status(target: str | None, cluster: ClusterChoice, output: str, watch: bool, condition: str | None, timeout: float) -> None:
    if target is not None and cluster.all_namespaces:
        raise click.UsageError("a TARGET is of one namespace: give --namespace instead of --all-namespaces")
    if watch and output == "json":
        raise click.UsageError("--watch shows tables; for programs: kubectl get protectedtargets -o json --watch")
    until = time.monotonic() + timeout
    shown: list[str] = []
    with connected(cluster) as live:
        while True:
            views = _views(live, cluster, target)
            is_over = condition is None or (bool(views) and all(each.holds(condition) for each in views))
            is_late = condition is not None and time.monotonic() > until
            if watch or is_over or is_late:
                state = [repr((each.target.get("status"), len(each.pending or ()), each.findings)) for each in views]
                if state != shown or (not watch and not shown):
                    _print(live, cluster, target, views, output, is_again=bool(shown))
                shown = state
            if is_over and not (watch and condition is None):
                return
            if is_late:
                click.echo(f"sidegate status: {condition} isn't True after {timeout:g} s\nhint: {_way_forward(target)}", err=True)
                sys.exit(1)
            time.sleep(_LOOK_S)


def _views(live: Cluster, choice: ClusterChoice, target: str | None) -> list[TargetView]:
    namespace = None if choice.all_namespaces else live.namespace
    try:
        if target is None:
            targets = live.list(PROTECTED_TARGETS, namespace)
        else:
            found = live.find(PROTECTED_TARGETS, target, namespace)
            if found is None:
                live.list(PROTECTED_TARGETS, namespace)  # where the kind itself is missing, that is what is said
                raise CommandFailure(
                    f"there is no target `{target}` in namespace `{namespace}` of {live.where}", "`sidegate status -A` lists all"
                )
            targets = [found]
    except CallError as error:
        raise failure(error) from error
    policies, requests = (_if_allowed(live, kind, namespace) for kind in (ACCESS_POLICIES, APPROVAL_REQUESTS))
    return [
        TargetView(each, _of(policies, each["metadata"]["namespace"]), _of(requests, each["metadata"]["namespace"]))
        for each in sorted(targets, key=lambda each: (each["metadata"]["namespace"], each["metadata"]["name"]))
    ]


def _if_allowed(live: Cluster, kind: Resource, namespace: str | None) -> list[Object] | None:
    try:
        return live.list(kind, namespace)
    except CallError as error:
        if error.code == 403:
            return None
        raise failure(error) from error


def _of(objects: Iterable[Object] | None, namespace: str) -> list[Object] | None:
    return None if objects is None else [each for each in objects if each["metadata"]["namespace"] == namespace]


def _print(
    live: Cluster, choice: ClusterChoice, target: str | None, views: list[TargetView], output: str, *, is_again: bool
) -> None:
    if is_again:
        click.echo()
    if output == "json":
        documents = [each.target for each in views]
        print_json({"apiVersion": "v1", "kind": "List", "items": documents} if target is None else documents[0])
    elif target is not None:
        for line in page(views[0], _ago(views[0])):
            click.echo(broken_line(line))
    elif views:
        print_table(heads(choice.all_namespaces), [row(each, choice.all_namespaces) for each in views])
    else:
        where = live.where if choice.all_namespaces else f"namespace `{live.namespace}` of {live.where}"
        click.echo(f"there are no targets in {where}", err=True)


def broken_line(line: str) -> str:
    """Broken to the terminal's width, what goes on under its own text."""
    wrapped = textwrap.wrap(line, width(), subsequent_indent=" " * _INDENT, drop_whitespace=True, break_on_hyphens=False)
    return "\n".join(wrapped) or line


def _ago(view: TargetView) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in view.status.get("conditions") or ():
        try:
            found[each["type"]] = left(now() - Timestamp(each["lastTransitionTime"]).epoch_s)
        except (KeyError, ValueError):
            continue
    return found


def _way_forward(target: Any) -> str:
    return "`sidegate status` shows each condition with what to do" if target is None else "what is above says what to do"
