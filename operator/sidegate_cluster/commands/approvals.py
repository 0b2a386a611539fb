"""`sidegate approvals`, `approve` and `deny` in a cluster: the approver's side of ApprovalRequest objects.

Rules it keeps:
- What was shown is what is decided: the patch carries the version that was seen, and is sent again for a newer one only if nothing but
  others' decisions and the status changed.
- Who decides is whom the API server knows; this command adds nothing to that and claims nothing.
- On a terminal it asks first; without one it wants to be told that it needn't.

Left out: whether a decision is allowed, which admission judges; counting, which the operator does.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import click

from sidegate.api.approval_request import Phase, Verdict
from sidegate.approval.document import MAX_COMMENT
from sidegate.cli.approvals import print_requests, watch_lines
from sidegate.cli.place import ClusterChoice
from sidegate.cli.recordings import CommandFailure
from sidegate.cli.request_view import name as quoted
from sidegate.cli.request_view import request_lines, width
from sidegate.mask.plain import plain
from sidegate.runtime.clock import now
from sidegate_cluster.commands.failures import failure, print_json
from sidegate_cluster.connection import Cluster, connected
from sidegate_cluster.pages.refusals import CallError
from sidegate_cluster.pages.request_page import RequestPage, UnreadableError, request_page
from sidegate_operator.resources import APPROVAL_REQUESTS, Object

EXIT_NOT_COUNTED: Final = 3
_TRIES: Final = 5  # others may decide in the same moment
_LOOK_S: Final = 0.2
_OPEN: Final = (Phase.PENDING.value, Phase.APPROVED.value)


def list_requests(choice: ClusterChoice, *, shows_all: bool, as_json: bool) -> None:
    with connected(choice) as cluster:
        found = [each for each in _requests(cluster, choice) if shows_all or _phase(each) in _OPEN]
    if as_json:
        print_json({"apiVersion": "v1", "kind": "List", "items": found})
        return
    pages, unreadable = _pages(found)
    print_requests(
        [(page.name, page.hold) for page in pages], now(), nothing=f"nothing waits for approval in {_place(cluster, choice)}"
    )
    for line in unreadable:
        click.echo(line, err=True)
    if unreadable:
        sys.exit(1)


def show(choice: ClusterChoice, name: str, *, as_json: bool) -> None:
    with connected(choice) as cluster:
        wire = _get(cluster, name)
    if as_json:
        print_json(wire)
        return
    page = _page(wire)
    click.echo(_headline(page))
    _print_page(page)


def watch(choice: ClusterChoice, *, interval: float, count: int | None) -> None:
    with connected(choice) as cluster:

        def look() -> Iterator[tuple[str, Any]]:
            pages, unreadable = _pages(_requests(cluster, choice))
            yield from ((page.name, page.hold) for page in pages)
            yield from ((line.partition(":")[0], line.partition(": ")[2]) for line in unreadable)

        watch_lines(look, interval, count)


def decide(choice: ClusterChoice, verdict: str, name: str, *, comment: str, is_sure: bool, waits: bool, timeout_s: float) -> None:
    """Show the request, ask, decide, and say what became of it."""
    decision = Verdict(verdict)
    if len(comment) > MAX_COMMENT:
        raise CommandFailure(f"the comment has {len(comment)} characters, {MAX_COMMENT} are allowed", "shorten it")
    if not is_sure and not sys.stdin.isatty():
        raise click.UsageError("standard input is no terminal, so nobody can be asked: give --yes")
    with connected(choice) as cluster:
        page = _page(_get(cluster, name))
        click.echo(_headline(page))
        _print_page(page)
        _refuse_ended(page)
        if not is_sure:
            _ask(cluster, decision)
        decided, me = _patch(cluster, page, decision, comment)
        by = f"  by {quoted(me)}" if me is not None else ""
        click.echo(f"{decision.value.lower()}  {plain(page.name)}{by}")
        if waits:
            _wait(cluster, decided, me, timeout_s)


# Deciding


def _ask(cluster: Cluster, decision: Verdict) -> None:
    known = cluster.who()
    who = f" as {quoted(known[0])}" if known is not None else ""
    verb = "approve" if decision is Verdict.APPROVED else "deny"
    if not click.confirm(f"{verb} it{who}, in {cluster.where}? it is final", default=False, err=True):
        raise CommandFailure("you said no, and nothing was decided", "run the command again when you want to decide")


def _patch(cluster: Cluster, page: RequestPage, decision: Verdict, comment: str) -> tuple[RequestPage, str | None]:
    """The request as it is decided, and the name that was written down with the decision."""
    spec: dict[str, str] = {"decision": decision.value}
    if comment:
        spec["comment"] = comment
    shown = page
    for _ in range(_TRIES):
        patch = {"metadata": {"resourceVersion": page.resource_version}, "spec": spec}
        try:
            decided = _page(cluster.patch(APPROVAL_REQUESTS, page.name, patch, page.hold.request.namespace))
            return decided, next((each for each in decided.stamped() if each not in page.stamped()), None)
        except CallError as error:
            if error.code != 409 or error.reason != "Conflict":
                raise failure(error) from error
        page = _page(_get(cluster, page.name))
        if not page.asks_the_same(shown):
            raise CommandFailure("the request isn't the one that you were shown any more", "look at it again, and decide anew")
        _refuse_ended(page)
    raise CommandFailure("the request changes all the time, and nothing was decided", "try again in a moment")


def _refuse_ended(page: RequestPage) -> None:
    phase = page.hold.phase.value
    if phase != Phase.PENDING.value:
        raise CommandFailure(
            f"`{page.name}` is {phase} already", "a decision is final: have the statement sent again for a new request"
        )


def _wait(cluster: Cluster, page: RequestPage, me: str | None, timeout_s: float) -> None:
    """Until the operator has counted the decision: the phase moved, or the decider is among those that count."""
    until = time.monotonic() + timeout_s
    while not (page.hold.phase.value != Phase.PENDING.value or me in {each.by for each in page.hold.votes}):
        if time.monotonic() > until:
            click.echo(
                f"hint: it is stored, and the operator hasn't counted it within {timeout_s:g} s; `sidegate doctor` says whether it runs",
                err=True,
            )
            sys.exit(EXIT_NOT_COUNTED)
        time.sleep(_LOOK_S)
        page = _page(_get(cluster, page.name))
    more = page.hold.required - page.hold.approvals
    rest = f"; {more} more must approve" if page.hold.phase.value == Phase.PENDING.value else ""
    click.echo(f"{page.hold.phase.value.lower()}  {plain(page.name)}  ({_counted(page)}{rest})")


# Reading and showing


def _requests(cluster: Cluster, choice: ClusterChoice) -> list[Object]:
    try:
        found = cluster.list(APPROVAL_REQUESTS, None if choice.all_namespaces else cluster.namespace)
    except CallError as error:
        raise failure(error) from error
    return sorted(found, key=lambda each: (each["metadata"]["creationTimestamp"], each["metadata"]["name"]))


def _get(cluster: Cluster, name: str) -> Object:
    try:
        return cluster.get(APPROVAL_REQUESTS, name, cluster.namespace)
    except CallError as error:
        if error.code == 404 and error.reason == "NotFound" and "could not find" not in error.message:
            raise CommandFailure(
                f"there is no approval request `{name}` in {_place(cluster)}",
                "`sidegate approvals -A` lists those of every namespace; ended ones go after an hour",
            ) from error
        raise failure(error) from error


def _page(wire: Object) -> RequestPage:
    try:
        return request_page(wire)
    except UnreadableError as error:
        raise CommandFailure(str(error), error.way_forward) from error


def _pages(found: list[Object]) -> tuple[list[RequestPage], list[str]]:
    pages, unreadable = [], []
    for wire in found:
        try:
            pages.append(request_page(wire))
        except UnreadableError as error:
            unreadable.append(f"{plain(wire['metadata']['name'])}: {plain(str(error))}; fix: {error.way_forward}")
    return pages, unreadable


def _headline(page: RequestPage) -> str:
    return f"{page.hold.phase.value.lower()}  {plain(page.name)}  ({_counted(page)})"


def _counted(page: RequestPage) -> str:
    return f"{page.hold.approvals} of {page.hold.required} approvals"


def _print_page(page: RequestPage) -> None:
    for line in request_lines(page.hold, page.document, now(), width(), is_whole=True):
        click.echo(line)


def _place(cluster: Cluster, choice: ClusterChoice | None = None) -> str:
    if choice is not None and choice.all_namespaces:
        return cluster.where
    return f"namespace `{cluster.namespace}` of {cluster.where}"


def _phase(wire: Object) -> str:
    return str((wire.get("status") or {}).get("phase") or Phase.PENDING.value)
