"""Approval requests: where each stands follows from its decisions and the time; ended ones go after a while."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from sidegate.api.approval_request import ApprovalRequest, Decision
from sidegate_operator.apply import Writer
from sidegate_operator.cluster import Cluster, Unreadable, WorkKey
from sidegate_operator.decision_keys import is_genuine
from sidegate_operator.plan.approval_lifecycle import ENDED, Keeping, events_of, plan_cleanup, plan_lifecycle
from sidegate_operator.plan.reconcile import ObjectKey, Plan, StatusPatch
from sidegate_operator.resources import APPROVAL_REQUESTS
from sidegate_operator.store import Change, Key

LOG: Final = logging.getLogger(__name__)


def concerned(change: Change, cluster: Cluster) -> Iterator[WorkKey]:
    yield WorkKey(APPROVAL_REQUESTS, change.key)


def all_open(cluster: Cluster) -> Iterator[WorkKey]:
    """When the keys changed."""
    for key in cluster.approvals.store.every_key():
        request = cluster.approvals.readable(key)
        if request is not None and (request.status is None or request.status.phase not in ENDED):
            yield WorkKey(APPROVAL_REQUESTS, key)


@dataclass(frozen=True, slots=True)
class ApprovalWork:
    cluster: Cluster
    writer: Writer
    now: Callable[[], float]
    namespace: str
    keeping: Keeping = field(default_factory=Keeping)

    async def reconcile(self, key: Key) -> float | None:
        request = self.cluster.approvals.get(key)
        if request is None:
            return None
        if isinstance(request, Unreadable):
            LOG.warning("ApprovalRequest %s can't be read, and stays as it is: %s", key, request.problem)
            return None
        now = self.now()
        planned = plan_lifecycle(request, now, self._is_genuine, self.keeping)
        named = ObjectKey(request.kind, key.name)
        statuses = (StatusPatch(named, request.metadata.resource_version, planned.patch),) if planned.patch is not None else ()
        events = events_of(request, planned.news)
        await self.writer.carry_out(Plan(statuses=statuses, events=events if statuses else ()), key.namespace)
        await self._clean_up(request, now)
        return max(0.0, planned.look_again_at - now) if planned.look_again_at is not None else None

    def _is_genuine(self, request: ApprovalRequest, decision: Decision) -> bool:
        return is_genuine(request, decision, self.cluster, self.namespace)

    async def _clean_up(self, beside: ApprovalRequest, now: float) -> None:
        """The ended requests of the same target whose time is over."""
        requests = [
            each
            for _, each in self.cluster.approvals.readable_within(str(beside.metadata.namespace))
            if each.spec.target == beside.spec.target
        ]
        for each in plan_cleanup(requests, now, self.keeping):
            found = self.cluster.stores[APPROVAL_REQUESTS].get(Key(str(each.metadata.namespace), str(each.metadata.name)))
            if found is not None:
                await self.writer.remove_object(APPROVAL_REQUESTS, found)
