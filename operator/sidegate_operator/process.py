"""`sidegate-operator run`: watches and serves gates, stands by, leads, and ends.

Rules it keeps:
- Watches and the gateway run in every replica from the start: a hold that one replica served, another serves on. Reconciling and kopf are
  the leader's alone.
- Nothing is reconciled before every kind was listed once: a policy that isn't seen yet must not look like one that was deleted.
- Who loses the lease ends the process, and is ended by a timer should that take too long; until then the writer writes nothing. A restart
  stands by again: nothing of an earlier leadership is ever carried over.
- A watch without a sign of life for too long ends the process too. SIGTERM ends what runs, then releases the lease.

Left out: what is done about each object (`handlers/`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

from sidegate_operator.api_client import ApiClient, ApiError, Conflict
from sidegate_operator.apply import NotLeading, Writer
from sidegate_operator.clock import elapsed, now
from sidegate_operator.cluster import KINDS, OWNED, Cluster, WorkKey
from sidegate_operator.credentials import Credentials
from sidegate_operator.framework import FILTERED, Framework
from sidegate_operator.gateway.running import RunningGateway, Surroundings
from sidegate_operator.handlers import approvals, pods, policies, targets
from sidegate_operator.health import Metrics, Pages, serving
from sidegate_operator.lease import Election, Leadership
from sidegate_operator.observed import by_condition, by_phase
from sidegate_operator.plan.beside import objects_beside
from sidegate_operator.probe.schedule import Prober
from sidegate_operator.resources import (
    ACCESS_POLICIES,
    APPROVAL_REQUESTS,
    CONFIG_MAPS,
    DECISION_KEYS,
    PODS,
    PROTECTED_TARGETS,
    Object,
    Resource,
)
from sidegate_operator.settings import Settings
from sidegate_operator.store import Change, Key
from sidegate_operator.watcher import Watcher
from sidegate_operator.work_queue import Pace, Workers

LOG: Final = logging.getLogger(__name__)
ENDED, FAILED = 0, 1
_LOOK_EVERY_S: Final = 1.0
_KOPF_WITHIN_S: Final = 60.0

Concerned = Callable[[Change, Cluster], Iterator[WorkKey]]
_CONCERNED: Final[dict[Resource, Concerned]] = {
    PROTECTED_TARGETS: targets.concerned,
    ACCESS_POLICIES: policies.concerned,
    APPROVAL_REQUESTS: approvals.concerned,
    PODS: pods.concerned,
    **dict.fromkeys(OWNED, targets.owners),
}


async def run(settings: Settings, credentials: Credentials) -> int:
    """The exit status: 0 ended as told, 1 lost the lease or went blind.

    Raises:
        OSError: the address for health can't be had.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with ApiClient(credentials) as client:
        election = Election(settings.identity, settings.terms)
        leadership = Leadership(client, settings.namespace, settings.lease, election, elapsed, now)
        operator = Operator(settings, credentials, client, leadership)
        pages = Pages(operator.metrics, operator.stale, operator.problems, operator.refresh)
        async with serving(pages, settings.health_host, settings.health_port) as port:
            LOG.info("health and metrics on port %s; standing by as `%s`", port, settings.identity)
            async with operator.serving_gates(stop):
                return await operator.live(stop)


class Operator:
    """One process. INVARIANT: it leads once at most."""

    def __init__(self, settings: Settings, credentials: Credentials, client: ApiClient, leadership: Leadership) -> None:
        self._settings = settings
        self._leadership = leadership
        self._client = client
        self.cluster: Final = Cluster(settings.namespace)
        self.metrics: Final = Metrics()
        self.framework: Final = Framework(credentials, self._heard, now)
        self._watchers = [
            Watcher(client, self.cluster.stores[kind.resource], self._changed, elapsed, settings.watch, **kind.selectors)
            for kind in KINDS
        ]
        self._is_primed = False
        self.deadline: threading.Timer | None = None  # once the lease is lost
        stores = self.cluster.stores
        writer = Writer(client, stores, leadership.leads, now, settings.identity, self._count_write, self._tell_waiting)
        self.gateway: Final = self._gateway_of(settings, client) if settings.gateway is not None else None
        self._gateway_ends: asyncio.Task[None] | None = None
        gates = self.gateway or targets.NoGates()
        upgrades = settings.gate if settings.gateway is not None else None
        # What gates are to enforce goes before what is said about policies.
        self.workers: Final = Workers(
            self._reconcile, Pace(limit=settings.workers), elapsed, self._say, lambda key: key.resource is ACCESS_POLICIES
        )
        beside = objects_beside(settings.gate)
        self._targets = targets.TargetWork(
            self.cluster, writer, now, beside, gates=gates, upgrades=upgrades, later=self.workers.add
        )
        self._policies = policies.PolicyWork(self.cluster, writer, now)
        self._works: dict[Resource, Callable[[Any], Awaitable[float | None]]] = {
            PROTECTED_TARGETS: self._targets.reconcile,
            ACCESS_POLICIES: self._policies.reconcile,
            APPROVAL_REQUESTS: approvals.ApprovalWork(self.cluster, writer, now, settings.namespace).reconcile,
        }

    def _gateway_of(self, settings: Settings, client: ApiClient) -> RunningGateway:
        """Its writer needs no lease: what it writes for gates is decided by a resource version alone."""
        writer = Writer(client, self.cluster.stores, lambda: True, now, settings.identity, self._count_write, self._changed)
        around = Surroundings(
            cluster=self.cluster,
            writer=writer,
            namespace=settings.namespace,
            now=now,
            elapsed=elapsed,
            synced=[each.synced for each in self._watchers],
            wake=self._wake,
            wake_all=self._wake_all,
            count=lambda action, status: self.metrics.answers.labels(action, str(status)).inc(),
        )
        assert settings.gateway is not None
        return RunningGateway(settings.gateway, around)

    # Every replica

    @asynccontextmanager
    async def serving_gates(self, stop: asyncio.Event) -> AsyncIterator[None]:
        """The watches, and the gateway over them."""
        tasks = [asyncio.create_task(each.run(), name=f"watch {each.resource}") for each in self._watchers]
        if self.gateway is not None:
            self._gateway_ends = asyncio.create_task(self.gateway.run(stop), name="gateway")
            tasks.append(self._gateway_ends)
        try:
            yield
        finally:
            if self._gateway_ends is not None and stop.is_set():
                await asyncio.wait([self._gateway_ends], timeout=self._grace_s())  # it answers those who wait
            await _cancelled(tasks)

    async def live(self, stop: asyncio.Event) -> int:
        """Stand by, then lead."""
        ends = [stop.wait(), self._leadership.until_leading(), self._until_stale(), self._until_gateway_ends()]
        at = await first_of(*ends)
        if at == 0:
            return ENDED
        if at != 1:
            LOG.error("ending: %s", self._why("blind" if at == 2 else "the gateway ended"))
            return FAILED
        LOG.info("leading")
        return await self.lead(stop)

    async def _until_gateway_ends(self) -> None:
        """Raises: what it ended with."""
        if self._gateway_ends is None:
            await asyncio.Event().wait()
        else:
            await asyncio.shield(self._gateway_ends)

    # Leading

    async def lead(self, stop: asyncio.Event) -> int:
        async with self._leading():
            ends = {
                "told to end": stop.wait(),
                "lease lost": self._leadership.until_lost(),
                "blind": self._until_stale(),
                "reconciling ended": self._work(),
                "the gateway ended": self._until_gateway_ends(),
            }
            at = await first_of(*ends.values())
            if at == 0:
                LOG.info("ending as told")
            else:
                LOG.error("ending: %s", self._why(list(ends)[at]))
                self._end_in_any_case()
        if at == 0:
            await self._leadership.release()
        return ENDED if at == 0 else FAILED

    @asynccontextmanager
    async def _leading(self) -> AsyncIterator[None]:
        """Afterwards kopf is over."""
        try:
            yield
        finally:
            if not await self.framework.stopped(self._grace_s()):
                LOG.error("kopf didn't end in time")

    async def _work(self) -> None:
        await asyncio.gather(*(each.synced.wait() for each in self._watchers))
        if self.gateway is not None:
            await self.gateway.guarding.looked.wait()  # so that no status loses what it says of that, for a moment
        LOG.info("every kind is listed: %s", ", ".join(f"{len(each.store)} {each.resource}" for each in self._watchers))
        await self._prime()
        LOG.info("every target is planned: %d keys have something to do", self.workers.queue.waiting)
        doors = Prober(self.cluster.doors, self._probed, lambda key: self.cluster.targets.store.get(key) is not None, elapsed)
        await asyncio.gather(self._dispatch(), self.workers.run(), doors.run())

    def _probed(self, target: Key) -> None:
        self.workers.add(WorkKey(PROTECTED_TARGETS, target))

    async def _dispatch(self) -> None:
        """kopf lists everything anew, which would hold up what is to be done first; our own watches see all meanwhile."""
        until = elapsed() + _KOPF_WITHIN_S
        while self.workers.queue.busy(elapsed()) and elapsed() < until:  # noqa: ASYNC110 - a queue that runs empty sets no event
            await asyncio.sleep(_LOOK_EVERY_S)
        await self.framework.run()

    async def _prime(self) -> None:
        """Each policy's status is about all of its targets: so all are planned once before anything is written. Who has nothing to do then
        isn't looked at again.
        """
        self._is_primed = True  # what changes from here on is queued
        for key in self.cluster.targets.store.every_key():
            try:
                plan = self._targets.plan(key)
            except Exception:  # it is said when its turn comes: one target never holds up the others
                self.workers.add(WorkKey(PROTECTED_TARGETS, key))
            else:
                if plan is not None and not plan.is_empty:
                    self.workers.add(WorkKey(PROTECTED_TARGETS, key))
                elif plan is not None and plan.look_again_at is not None:
                    self.workers.add_after(WorkKey(PROTECTED_TARGETS, key), max(0.0, plan.look_again_at - now()))
            await asyncio.sleep(0)  # the lease is renewed meanwhile
        for key in self.cluster.approvals.store.every_key():
            self.workers.add(WorkKey(APPROVAL_REQUESTS, key))
        self.cluster.reports.take_changed()
        for key in self.cluster.policies.store.every_key():
            plan = self._policies.plan(key)
            if plan is not None and not plan.is_empty:
                self.workers.add(WorkKey(ACCESS_POLICIES, key))
            await asyncio.sleep(0)

    async def _until_stale(self) -> None:
        while not self.stale():  # noqa: ASYNC110 - it looks for what stays away, which sets no event
            await asyncio.sleep(_LOOK_EVERY_S)

    def _grace_s(self) -> float:
        terms = self._settings.terms
        return max(0.5, (terms.lasts_s - terms.renew_within_s) * 0.8)

    def _end_in_any_case(self) -> None:
        """Before another may lead, whatever hangs."""
        self.deadline = threading.Timer(self._grace_s(), os._exit, (FAILED,))
        self.deadline.daemon = True
        self.deadline.start()

    def _why(self, what: str) -> str:
        return "; ".join([what, self._leadership.lost_because or "", *self.stale()]).strip("; ")

    # What happens

    def _heard(self, resource: Resource, kind: str | None, found: Object) -> None:
        """From kopf, as late as it may be."""
        store = self.cluster.stores[resource]
        if kind == "DELETED" and resource in FILTERED:
            return  # it may only have lost its label; our own watch knows
        change = store.deleted(found) if kind == "DELETED" else store.seen(found)
        if change is not None:
            self._changed(change)

    def _wake(self, target: Key) -> None:
        if self._is_primed:
            self.workers.add(WorkKey(PROTECTED_TARGETS, target))

    def _wake_all(self) -> None:
        for key in self.cluster.targets.store.every_key():
            self._wake(key)

    def _tell_waiting(self, change: Change) -> None:
        if self.gateway is not None:
            self.gateway.heard(change, Key(self._settings.namespace, DECISION_KEYS))

    def _changed(self, change: Change) -> None:
        self._tell_waiting(change)
        if not self._is_primed:
            return  # everything is looked at once all is listed
        for key in _CONCERNED[change.resource](change, self.cluster):
            self.workers.add(key)
        if change.resource is CONFIG_MAPS and change.key == Key(self._settings.namespace, DECISION_KEYS):
            for key in approvals.all_open(self.cluster):
                self.workers.add(key)

    async def _reconcile(self, key: WorkKey) -> float | None:
        began = elapsed()
        try:
            return await self._works[key.resource](key.key)
        except NotLeading:
            return None
        finally:
            self.metrics.reconciled.labels(key.resource.kind).observe(elapsed() - began)

    def _say(self, key: WorkKey, problem: Exception, again_s: float) -> None:
        self.metrics.failed.labels(key.resource.kind).inc()
        if isinstance(problem, Conflict):
            LOG.debug("%s: planned again: %s", key, problem)
            return
        if isinstance(problem, ApiError | targets.UnreadableTarget):
            LOG.warning("%s: tried again in %g s: %s; fix: %s", key, again_s, problem, problem.way_forward)
        else:
            LOG.error("%s: tried again in %g s: a fault of the operator's own", key, again_s, exc_info=problem)

    def _count_write(self, how: str, resource: Resource) -> None:
        self.metrics.writes.labels(how, resource.kind).inc()

    # What is shown

    def stale(self) -> list[str]:
        limit_s = self._settings.stale_after_s
        return [
            f"{each.resource}: no sign of life for {each.silent_for():.0f} s"
            for each in self._watchers
            if each.silent_for() > limit_s
        ]

    def problems(self) -> list[str]:
        problems = [
            f"{each.resource}: {each.problem}; fix: {each.problem.way_forward}"
            for each in self._watchers
            if each.problem is not None
        ]
        if self.gateway is not None and self.gateway.problem is not None:
            problems.append(
                f"gateway: {self.gateway.problem}; fix: see the log for the kind that isn't listed, or the Secret that can't be read"
            )
        return problems

    def refresh(self) -> None:
        metrics, queue = self.metrics, self.workers.queue
        metrics.leads.set(self._leadership.leads())
        metrics.framework.set(self.framework.is_watching)
        metrics.busy.set(queue.busy(elapsed()))
        metrics.waiting.set(queue.waiting)
        metrics.failing.set(queue.failing)
        if self.gateway is not None:
            metrics.guarded.set(self.gateway.guarding.unguarded is None)
            metrics.waiting_gates.set(len(self.gateway.waiting))
            metrics.gates.clear()
            for version, count in self.gateway.reports.versions().items():
                metrics.gates.labels(version).set(count)
        for each in self._watchers:
            kind = each.resource.kind
            metrics.objects.labels(kind).set(len(each.store))
            metrics.silence.labels(kind).set(each.silent_for())
            metrics.watching.labels(kind).set(each.synced.is_set() and each.problem is None)
        self._count_observed()

    def _count_observed(self) -> None:
        self.metrics.conditions.clear()  # what nothing has any more is 0 for nobody
        for resource in (PROTECTED_TARGETS, ACCESS_POLICIES):
            for (condition, status), count in by_condition(self.cluster.stores[resource].all()).items():
                self.metrics.conditions.labels(resource.kind, condition, status).set(count)
        self.metrics.requests.clear()
        for phase, count in by_phase(self.cluster.stores[APPROVAL_REQUESTS].all()).items():
            self.metrics.requests.labels(phase).set(count)


async def first_of(*waiting: Awaitable[object]) -> int:
    """The place of the first that ends; the others are cancelled, and waited for.

    Raises: what the first raised.
    """
    tasks = [asyncio.ensure_future(each) for each in waiting]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancelled(tasks)
    first = next(place for place, task in enumerate(tasks) if task in done)
    tasks[first].result()
    return first


async def _cancelled(tasks: Iterable[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
