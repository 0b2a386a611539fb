"""The only writer to the API: carries a plan out, as our own field manager, and only while we may: a leader while it leads.

Rules it keeps:
- Before each request it asks whether we may still write. Who has lost the lease writes nothing more. What every replica does for gates, an
  approval request made and its status moved on at one resourceVersion, asks for no lease.
- What the API server answers goes into the store at once: the next plan sees what this one did, without waiting for the watch. The watch
  has no news of it then: who must know is told by `saw`.
- A status is written only over the version that it was planned for; somebody else's change is a `Conflict`, and it is planned anew. A pod
  is annotated, and an object removed, by its uid: never a namesake.
- What is gone meanwhile needs nothing any more. That an event couldn't be written is said, and holds nothing up.

Left out: deciding what to write (`plan/`).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sidegate_operator.api_client import FIELD_MANAGER, ApiClient, ApiError, Conflict, NotFound
from sidegate_operator.clock import micro_timestamp
from sidegate_operator.plan.gate_container import GATE_CONTAINER
from sidegate_operator.plan.reconcile import MAX_NOTE, Event, ObjectKey, Plan, PodAnnotation, StatusPatch
from sidegate_operator.plan.upgrade import EXCHANGED_REASON, Exchange
from sidegate_operator.resources import KNOWN, PODS, Object, Resource, resource_of
from sidegate_operator.store import Change, Key, Store

LOG: Final = logging.getLogger(__name__)
_BY_KIND: Final = {each.kind: each for each in KNOWN}
_MAX_EVENT_NAME: Final = 200  # an event is named after its object, with a random end; 253 characters are the limit


class NotLeading(Exception):  # noqa: N818 - a state of the world
    """We don't lead any more, and write nothing."""

    def __init__(self) -> None:
        super().__init__("another operator leads")
        self.way_forward = "nothing; this process ends"


@dataclass(frozen=True, slots=True)
class Writer:
    client: ApiClient
    stores: Mapping[Resource, Store]
    may_write: Callable[[], bool]
    now: Callable[[], float]
    identity: str
    wrote: Callable[[str, Resource], None] = lambda _how, _resource: None
    saw: Callable[[Change], None] = lambda _change: None

    async def carry_out(self, plan: Plan, namespace: str) -> None:
        """In the order that keeps it true: objects, gates told, status, events.

        Raises:
            ApiError: something of it wasn't done; carrying out a later plan does the rest.
            NotLeading: nothing more is written.
        """
        for wanted in plan.apply:
            await self._apply(wanted)
        for key in plan.remove:
            await self._remove(key, namespace)
        for annotation in plan.annotate:
            await self._annotate(annotation, namespace)
        for status in plan.statuses:
            await self.patch_status(status, namespace)
        for event in plan.events:
            await self._tell(event, namespace)

    async def patch_status(self, status: StatusPatch, namespace: str) -> None:
        with suppress(NotFound):
            await self.write_status(status, namespace)

    async def write_status(self, status: StatusPatch, namespace: str) -> Object:
        """The object as it is then.

        Raises:
            NotFound: it is gone.
            Conflict: it is at another version than the one it was planned for.
        """
        resource = _BY_KIND[status.key.kind]
        precondition = {"metadata": {"resourceVersion": status.resource_version}} if status.resource_version else {}
        self._ask_leave("status", resource)
        answer = await self.client.merge_patch(resource, namespace, status.key.name, {**status.patch, **precondition}, "status")
        self._seen(resource, answer)
        return answer

    async def create_object(self, wanted: Object) -> Object:
        """The object as it is then.

        Raises:
            Conflict: the name is taken.
        """
        resource = resource_of(wanted)
        self._ask_leave("create", resource)
        answer = await self.client.create(wanted)
        self._seen(resource, answer)
        return answer

    async def remove_object(self, resource: Resource, found: Object) -> None:
        """This very object, if it is still there."""
        metadata = found["metadata"]
        self._ask_leave("delete", resource)
        try:
            await self.client.delete(resource, metadata.get("namespace"), metadata["name"], metadata.get("uid"))
        except NotFound:
            return
        except Conflict:
            LOG.info("%s %s is another one now, and stays", resource.kind, metadata["name"])

    async def _apply(self, wanted: Object) -> None:
        resource = resource_of(wanted)
        self._ask_leave("apply", resource)
        self._seen(resource, await self.client.apply(wanted))

    async def _remove(self, key: ObjectKey, namespace: str) -> None:
        resource = _BY_KIND[key.kind]
        live = self.stores[resource].get(Key(namespace, key.name))
        if live is not None:
            await self.remove_object(resource, live)

    async def _annotate(self, told: PodAnnotation, namespace: str) -> None:
        self._ask_leave("annotate", PODS)
        patch = {"metadata": {"uid": told.uid, "annotations": dict(told.annotations)}}
        try:
            answer = await self.client.merge_patch(PODS, namespace, told.pod, patch)
        except (NotFound, Conflict):
            return  # it is gone, or it is another pod by now: the watch brings that
        self._seen(PODS, answer)

    async def exchange_gate(self, exchange: Exchange, namespace: str) -> None:
        """Another image for the gate of this very pod."""
        self._ask_leave("exchange", PODS)
        patch = {
            "metadata": {"uid": exchange.uid, "annotations": dict(exchange.annotations)},
            "spec": {"initContainers": [{"name": GATE_CONTAINER, "image": exchange.image}]},
        }
        try:
            answer = await self.client.strategic_patch(PODS, namespace, exchange.pod, patch)
        except (NotFound, Conflict):
            return  # it is gone, or it is another pod by now: the watch brings that
        self._seen(PODS, answer)
        LOG.info("gate of pod %s/%s: exchanged for `%s`", namespace, exchange.pod, exchange.image)
        note = exchange.note.encode()[:MAX_NOTE].decode(errors="ignore")
        await self._tell(Event(ObjectKey(PODS.kind, exchange.pod), exchange.uid, False, EXCHANGED_REASON, note), namespace)

    async def _tell(self, event: Event, namespace: str) -> None:
        resource = _BY_KIND[event.key.kind]
        at = micro_timestamp(self.now())
        name = f"{event.key.name[:_MAX_EVENT_NAME].rstrip('-.')}.{uuid.uuid4().hex[:16]}"
        self._ask_leave("create", _BY_KIND["Event"])
        try:
            await self.client.create(
                {
                    "apiVersion": "events.k8s.io/v1",
                    "kind": "Event",
                    "metadata": {"namespace": namespace, "name": name},
                    "eventTime": at,
                    "type": "Warning" if event.is_warning else "Normal",
                    "reason": event.reason,
                    "action": "Reconcile",
                    "note": event.note,
                    "reportingController": f"sidegate.dev/{FIELD_MANAGER}",
                    "reportingInstance": self.identity[:128],
                    "regarding": {
                        "apiVersion": resource.api_version,
                        "kind": resource.kind,
                        "namespace": namespace,
                        "name": event.key.name,
                        **({"uid": event.uid} if event.uid else {}),
                    },
                }
            )
        except ApiError as problem:
            LOG.warning("event `%s` of %s %s wasn't written: %s", event.reason, event.key.kind, event.key.name, problem)

    def _ask_leave(self, how: str, resource: Resource) -> None:
        if not self.may_write():
            raise NotLeading
        self.wrote(how, resource)

    def _seen(self, resource: Resource, answer: Object) -> None:
        store = self.stores.get(resource)
        change = store.seen(answer) if store is not None else None
        if change is not None:
            self.saw(change)
