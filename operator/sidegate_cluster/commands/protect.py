"""`sidegate protect`: has the pods of a workload made again with a gate, or, undone, without one.

Rules it keeps: the API server validates the change as a dry run before anybody is asked; the patch carries the version that was looked at;
nothing but one annotation is changed, and the rollout is the workload's own.
"""

from __future__ import annotations

import sys
import time
from typing import Final

import click

from sidegate.cli.place import ClusterChoice, cluster_options
from sidegate.cli.recordings import CommandFailure
from sidegate.mask.plain import plain
from sidegate_cluster.commands.failures import failure
from sidegate_cluster.commands.status import broken_line
from sidegate_cluster.commands.workload_reader import pods_of
from sidegate_cluster.connection import Cluster, connected
from sidegate_cluster.pages.protection import Change, change_wanted, rollout
from sidegate_cluster.pages.refusals import CallError, Told
from sidegate_cluster.pages.workloads import PROTECTABLE, WorkloadKind, named
from sidegate_operator.plan.owned import PROTECTED_LABEL
from sidegate_operator.resources import NAMESPACES, PROTECTED_TARGETS, Object

_LOOK_S: Final = 0.5
_FIELD_MANAGER: Final = "sidegate-protect"

_HELP: Final = """Have the pods of a workload made again with the gate of a target.

Writes one annotation, `sidegate.dev/target: TARGET`, where the workload keeps the annotations of its pods, and nothing else:

\b
  statefulset, deployment, daemonset   spec.template.metadata.annotations
  cluster (CloudNativePG)              spec.inheritedMetadata.annotations
  postgresql (Zalando's operator)      spec.podAnnotations

A gate is added when a pod is made, so the database restarts, pod by pod, as the workload's own strategy has it; the operators of
CloudNativePG and Zalando make no pod again for an annotation, and what to do then is printed. The target must be there, and the pods must
be such that they can have a gate: both are seen to before anything is changed. What another tool applies from elsewhere has to have the
annotation there, too.

\b
EXAMPLES
  See what would change, and whether the API server takes it:
    sidegate protect statefulset/shop-db --target shop-db -n shop --dry-run
  Change it, and wait until every gate enforces the newest policies:
    sidegate protect statefulset/shop-db --target shop-db -n shop --yes --wait
  CloudNativePG, Zalando:
    sidegate protect cluster/shop-db --target shop-db -n shop
    sidegate protect postgresql/shop-db --target shop-db -n shop
  Take the gates out again:
    sidegate protect statefulset/shop-db --undo -n shop

\b
EXIT STATUS
  0  changed, or so already; with --dry-run: it could be; with --wait: the gates are in place
  1  it can't be, or --timeout ended the wait; standard error says why, and what to do about it
  2  the command was used wrongly
"""


@click.command("protect", help=_HELP, short_help="Have a workload's pods made again with a gate.")
@click.argument("workload", metavar="KIND/NAME")
@click.option("--target", "-t", metavar="TARGET", help="The ProtectedTarget, in the same namespace.")
@click.option("--undo", is_flag=True, help="Have them made again without a gate.")
@cluster_options(all_namespaces=False)
@click.option("--dry-run", is_flag=True, help="Show what would change, have the API server judge it, and change nothing.")
@click.option("--yes", "-y", "is_sure", is_flag=True, help="Don't ask. Needed where there is no terminal.")
@click.option("--wait", "waits", is_flag=True, help="Wait until it is done, with a line for each pod that gets further.")
@click.option("--timeout", type=click.FloatRange(min=0), default=600.0, show_default=True, metavar="SECONDS", help="Of --wait.")
def protect(
    workload: str,
    target: str | None,
    undo: bool,
    cluster: ClusterChoice,
    dry_run: bool,
    is_sure: bool,
    waits: bool,
    timeout: float,
) -> None:
    word, slash, name = workload.partition("/")
    kind = named(word)
    if not slash or not name or kind is None or kind not in PROTECTABLE:
        raise click.UsageError(f"`{workload}` isn't KIND/NAME of a statefulset, deployment, daemonset, cluster or postgresql")
    if undo == (target is not None):
        raise click.UsageError("give --target TARGET, or --undo")
    if not (is_sure or dry_run) and not sys.stdin.isatty():
        raise click.UsageError("standard input is no terminal, so nobody can be asked: give --yes")
    with connected(cluster) as live:
        try:
            _protect(live, kind, name, target, dry_run=dry_run, is_sure=is_sure)
            if waits and not dry_run:
                _wait(live, kind, name, target, timeout)
        except CallError as error:
            raise failure(error) from error


def _protect(live: Cluster, kind: WorkloadKind, name: str, target: str | None, *, dry_run: bool, is_sure: bool) -> None:
    found = _workload(live, kind, name)
    named_target = live.find(PROTECTED_TARGETS, target, live.namespace) if target is not None else None
    change = change_wanted(kind, found, named_target, target, _selecting(live) if target is None else ())
    if isinstance(change, Told):
        raise CommandFailure(change.problem, change.way_forward)
    word = f"{kind.words[0]}/{name}"
    if change.patch is None:
        click.echo(plain(f"{word}  {'asks for no target' if target is None else f'asks for target {target}'} already"))
        return
    patch = {**change.patch, "metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}}
    live.patch(kind.resource, name, patch, live.namespace, dryRun="All", fieldManager=_FIELD_MANAGER)
    _show(live, word, change)
    if dry_run:
        click.echo(f"{word}  would be changed; nothing was")
        return
    if not is_sure and not click.confirm(f"change it, in {live.where}? its database restarts", default=False, err=True):
        raise CommandFailure("you said no, and nothing was changed", "run the command again when you want it")
    live.patch(kind.resource, name, patch, live.namespace, fieldManager=_FIELD_MANAGER)
    follows = "" if kind.how_rolled_out(found) else "; its pods are made again now, one after another"
    click.echo(f"{word}  changed{follows}")


def _selecting(live: Cluster) -> set[str]:
    """The targets of the namespace where it is protected. Empty also for who may not read it: then admission says it to the pods."""
    try:
        namespace = live.find(NAMESPACES, live.namespace)
    except CallError as error:
        if error.code != 403:
            raise
        return set()
    if ((namespace or {}).get("metadata") or {}).get("labels", {}).get(PROTECTED_LABEL) != "true":
        return set()
    return {each["metadata"]["name"] for each in live.list(PROTECTED_TARGETS, live.namespace)}


def _show(live: Cluster, word: str, change: Change) -> None:
    click.echo(plain(f"{word}  in namespace {live.namespace}"))
    for line in change.lines:
        click.echo(plain(line))
    for note in change.notes:
        click.echo(broken_line(f"  {'note':<10} {plain(note)}"))


def _workload(live: Cluster, kind: WorkloadKind, name: str) -> Object:
    try:
        found = live.find(kind.resource, name, live.namespace)
        if found is not None:
            return found
        live.list(kind.resource, live.namespace)  # where the kind itself is missing, that is what is said
    except CallError as error:
        if error.code == 404:
            raise CommandFailure(
                f"the cluster has no resource {kind.resource}", "see which operator makes the database: kubectl get pods"
            ) from error
        raise
    raise CommandFailure(
        f"there is no {kind.kind} `{name}` in namespace `{live.namespace}` of {live.where}", "give another --namespace"
    )


def _wait(live: Cluster, kind: WorkloadKind, name: str, target: str | None, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    said: dict[str, str] = {}
    summary = ""
    while True:
        found = _workload(live, kind, name)
        now_target = live.find(PROTECTED_TARGETS, target, live.namespace) if target is not None else None
        at = rollout(kind, found, now_target, pods_of(live, kind, found), target is None)
        for pod, state in at.pods.items():
            if said.get(pod) != state:
                click.echo(plain(f"{pod}  {state}"))
        for pod in said.keys() - at.pods.keys():
            click.echo(plain(f"{pod}  is gone"))
        said = dict(at.pods)
        if at.summary != summary:
            click.echo(plain(f"{kind.words[0]}/{name}  {at.summary}"))
            summary = at.summary
        if at.is_done:
            return
        if time.monotonic() > until:
            more = "`sidegate why POD` says why a pod has no gate" + (f", `sidegate status {target}` the rest" if target else "")
            click.echo(f"sidegate protect: it isn't done after {timeout_s:g} s\nhint: {more}", err=True)
            sys.exit(1)
        time.sleep(_LOOK_S)
