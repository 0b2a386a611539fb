"""What each request of a gate leads to: the stores are looked at, the core decides, the API server is written to. Knows nothing of HTTP.

Rules it keeps:
- Whether a pod may ask is told before anything of its request is read.
- What isn't in the stores yet is looked for at the API server before it is said not to be there: a gate may come to another replica than
  the one that made its hold.
- A status is written only at the resourceVersion that was looked at. Whoever was slower looks again, and decides again.
- A write whose answer is lost may have been done: it is said to have failed, and isn't tried again.

Left out: HTTP (`server`), who asks (`authentication`), whether decisions are guarded (`guarding`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from pydantic import ValidationError

from sidegate.api.approval_request import ApprovalRequest, Decision
from sidegate.gateway.messages import (
    REPORT_EVERY_S,
    Asked,
    Claim,
    HeldRequest,
    HeldRequests,
    HoldOutcome,
    NewHold,
    Report,
    ReportAnswer,
    Told,
    Withdrawal,
)
from sidegate.mask.plain import plain
from sidegate.policy.config import ConfigError, GateConfig, decode_config
from sidegate_operator.api_client import ApiError, Busy, Conflict, NotFound, Refused, Unreachable, read_or_none
from sidegate_operator.apply import Writer
from sidegate_operator.cluster import Cluster, Unreadable, slim_pod
from sidegate_operator.decision_keys import is_genuine, published_keys
from sidegate_operator.gateway.asking import Action, Caller, Route, not_its_gate
from sidegate_operator.gateway.holding import (
    Beside,
    is_of,
    is_same_hold,
    name_taken,
    new_request,
    not_found,
    quota_refusal,
    usable,
)
from sidegate_operator.gateway.problem import Kind, Refusal, unavailable
from sidegate_operator.gateway.reports import Heard, Reports
from sidegate_operator.gateway.waiting import Waiting
from sidegate_operator.plan.approval_lifecycle import Quota, events_of
from sidegate_operator.plan.approval_use import Hindered, Obstacle, Write, outcome_at, plan_claim, plan_outcome, plan_withdrawal
from sidegate_operator.plan.gate_container import CONFIG_KEY
from sidegate_operator.plan.owned import config_map_name
from sidegate_operator.plan.pods import left_out_by_admission
from sidegate_operator.plan.reconcile import ObjectKey, Plan, StatusPatch
from sidegate_operator.resources import APPROVAL_REQUESTS, CONFIG_MAPS, PODS, Object
from sidegate_operator.store import Key, VersionError, trimmed, version_of

LOG: Final = logging.getLogger(__name__)
_TRIES: Final = 8
_OBSTACLES: Final[Mapping[Obstacle, tuple[Kind, str]]] = {
    Obstacle.NOTHING_TO_TAKE: (Kind.NOTHING_TO_TAKE, "send the statement again for a new request"),
    Obstacle.ENDED: (Kind.ENDED, "nothing: it stays as it is"),
    Obstacle.NOT_EXECUTED: (Kind.NOT_EXECUTED, "nothing: it stays as it is"),
}
_BODIES: Final[Mapping[Action, type[Asked]]] = {
    Action.REPORT: Report,
    Action.NEW_HOLD: NewHold,
    Action.CLAIM: Claim,
    Action.WITHDRAW: Withdrawal,
    Action.OUTCOME: HoldOutcome,
}


@dataclass(frozen=True, slots=True)
class Reply:
    """`told` None: nothing new."""

    status: int
    told: Told | None = None


def read_body(action: Action, content: bytes) -> Asked | Refusal | None:
    """What was sent; None: nothing belongs there."""
    kind = _BODIES.get(action)
    if kind is None:
        return None
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        said = plain(str(error))[:512]
        return Refusal(Kind.MALFORMED, f"the body isn't a {kind.__name__}: {said}", "see docs/gateway.md for the bodies")


@dataclass(slots=True)
class Service:
    """`unguarded` says why new holds are refused, None when decisions are guarded. `wake` has a target planned again."""

    cluster: Cluster
    writer: Writer
    namespace: str
    now: Callable[[], float]
    elapsed: Callable[[], float]
    reports: Reports
    waiting: Waiting
    unguarded: Callable[[], str | None]
    wake: Callable[[Key], None]
    quota: Quota = field(default_factory=Quota)
    _making: list[ApprovalRequest] = field(default_factory=list)
    _configs: dict[Key, tuple[Object, GateConfig | None]] = field(default_factory=dict)
    _telling: set[asyncio.Task[None]] = field(default_factory=set)

    async def refusal_of(self, caller: Caller, route: Route) -> Refusal | None:
        """Why this pod may not ask for this."""
        key = Key(caller.namespace, caller.pod)
        pod = self.cluster.stores[PODS].get(key)
        if caller.namespace == route.namespace and (pod is None or pod["metadata"].get("uid") != caller.uid):
            try:
                found = await read_or_none(self.writer.client, PODS, key.namespace, key.name)
            except ApiError as problem:
                LOG.warning("gateway: pod `%s` can't be read: %s; fix: %s", caller, problem, problem.way_forward)
                return unavailable("the pod can't be looked at")
            pod = slim_pod(found) if found is not None else None
        target = self.cluster.targets.readable(Key(route.namespace, route.target))
        return not_its_gate(caller, route, pod, target, left_out_by_admission(self.namespace))

    async def answer(self, caller: Caller, route: Route, asked: Asked | None) -> Reply | Refusal:
        """INVARIANT: `refusal_of` was asked before, and said nothing."""
        try:
            match asked:
                case Report():
                    return self._report(caller, route, asked)
                case NewHold():
                    return await self._hold(caller, route, asked)
                case Claim():
                    return await self._change(route, lambda request: self._claim(request, asked))
                case Withdrawal():
                    why = plain(asked.why)
                    return await self._change(route, lambda request: plan_withdrawal(request, why, self.now(), self._is_genuine))
                case HoldOutcome():
                    return await self._outcome(route, asked)
                case _:
                    return self._find(route) if route.action is Action.FIND_HOLDS else await self._look(route)
        except (Busy, Unreachable) as problem:
            LOG.warning("gateway: %s of `%s`: %s", route.action.value, caller, problem)
            return unavailable("the API server doesn't answer; what was asked for may have been done")
        except ApiError as problem:
            LOG.warning("gateway: %s of `%s`: %s; fix: %s", route.action.value, caller, problem, problem.way_forward)
            return unavailable("the API server refuses it", "see the operator's log for its reason")

    # Reports

    def _report(self, caller: Caller, route: Route, asked: Report) -> Reply:
        target = Key(route.namespace, route.target)
        if asked.problem is not None and asked.problem != self.reports.problem_of(caller.uid):
            LOG.warning("gateway: the gate of pod `%s` has a problem: %s", caller, plain(asked.problem))
        if self.reports.hear(caller.uid, Heard(target, caller.pod, asked, self.elapsed())):
            self.wake(target)
        problem = self.unguarded()
        return Reply(200, ReportAnswer(next_s=float(REPORT_EVERY_S), can_hold=problem is None, problem=problem))

    # Holds

    async def _hold(self, caller: Caller, route: Route, asked: NewHold) -> Reply | Refusal:
        problem = self.unguarded()
        if problem is not None:
            return Refusal(Kind.UNGUARDED, problem, "have the cluster's administrator apply the chart again")
        target_key = Key(route.namespace, route.target)
        target = self.cluster.targets.readable(target_key)
        if target is None or target.metadata.deletion_timestamp is not None:
            return Refusal(Kind.UNUSABLE, f"the target `{route.target}` is going", "make it again")
        beside = Beside(target, self._config(target_key), [*self._requests(route.namespace), *self._being_made()], self.quota)
        wanted = new_request(asked, caller, beside, self.now())
        if isinstance(wanted, Refusal):
            return wanted
        stored = self.cluster.stores[APPROVAL_REQUESTS].get(Key(route.namespace, asked.name))
        if stored is not None:
            return self._made_before(stored, wanted)
        over = quota_refusal(wanted, beside, self.now())
        if over is not None:
            return over
        self._making.append(wanted)
        try:
            made = await self.writer.create_object({"apiVersion": wanted.api_version, **wanted.to_wire()})
        except Conflict:
            found = await read_or_none(self.writer.client, APPROVAL_REQUESTS, route.namespace, asked.name)
            return self._made_before(found, wanted) if found is not None else name_taken(asked.name)
        except Refused as problem:
            return Refusal(Kind.UNUSABLE, plain(str(problem))[:1024], "see whether gate and operator are of one release")
        finally:
            self._making.remove(wanted)
        LOG.info("gateway: hold `%s/%s` made for `%s`", route.namespace, asked.name, caller)
        return Reply(201, self._held(made))

    def _made_before(self, stored: Object, wanted: ApprovalRequest) -> Reply | Refusal:
        request = self.cluster.approvals.read(stored)
        if isinstance(request, Unreadable) or not is_same_hold(request, wanted):
            return name_taken(str(wanted.metadata.name))
        return Reply(200, self._held(stored))

    def _config(self, target: Key) -> GateConfig | None:
        """What is published for the target: the rules that its gates have, or are about to have."""
        found = self.cluster.targets.readable(target)
        store = self.cluster.stores[CONFIG_MAPS]
        live = store.get(Key(target.namespace, config_map_name(found))) if found is not None else None
        if live is None:
            self._configs.pop(target, None)
            return None
        known = self._configs.get(target)
        if known is None or known[0] is not live:
            known = self._configs[target] = live, _decoded(live, target)
        return known[1]

    def _being_made(self) -> list[ApprovalRequest]:
        """Those that the store doesn't have yet: none is counted twice."""
        store = self.cluster.stores[APPROVAL_REQUESTS]
        keys = ((Key(str(each.metadata.namespace), str(each.metadata.name)), each) for each in self._making)
        return [each for key, each in keys if store.get(key) is None]

    def _requests(self, namespace: str) -> list[ApprovalRequest]:
        return [each for _, each in self.cluster.approvals.readable_within(namespace)]

    # Looking

    async def _look(self, route: Route) -> Reply | Refusal:
        key = Key(route.namespace, route.name)
        until = self.elapsed() + route.wait_s
        keys = published_keys(self.cluster, self.namespace)
        with self.waiting.on(key) as changed:
            found = self.cluster.stores[APPROVAL_REQUESTS].get(key)
            if found is None:
                found = await self._read(route)
            while True:
                if not is_of(found, route) or found is None:
                    return not_found(route)
                is_new = _is_newer(found, route.version) or published_keys(self.cluster, self.namespace) != keys
                if is_new:
                    return Reply(200, self._held(found))
                if self.waiting.is_over:
                    return unavailable("this replica is ending", "ask another one at once")
                left_s = until - self.elapsed()
                if left_s <= 0:
                    return Reply(304)
                changed.clear()
                try:
                    await asyncio.wait_for(changed.wait(), left_s)
                except TimeoutError:
                    return Reply(304)
                found = self.cluster.stores[APPROVAL_REQUESTS].get(key) or await self._read(route)

    def _find(self, route: Route) -> Reply:
        store = self.cluster.stores[APPROVAL_REQUESTS]
        found = usable(self._requests(route.namespace), route, self.now())
        objects = [store.get(Key(route.namespace, str(each.metadata.name))) for each in found]
        requests = tuple(each for each in objects if each is not None)
        return Reply(200, HeldRequests(requests=requests, keys=published_keys(self.cluster, self.namespace)))

    async def _read(self, route: Route) -> Object | None:
        return await read_or_none(self.writer.client, APPROVAL_REQUESTS, route.namespace, route.name)

    # What becomes of one

    def _claim(self, request: ApprovalRequest, asked: Claim) -> Write | Hindered:
        if request.metadata.uid != asked.uid or request.spec.fingerprint != asked.fingerprint:
            return Hindered(Obstacle.NOTHING_TO_TAKE, "it is another request than the one that was asked for")
        return plan_claim(request, self.now(), self._is_genuine)

    async def _outcome(self, route: Route, asked: HoldOutcome) -> Reply | Refusal:
        message = plain(asked.message)[:1024] if asked.message else None
        try:
            outcome = outcome_at(asked.result, asked.rows, asked.sqlstate, message, self.now())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            return Refusal(Kind.MALFORMED, f"the outcome can't be: {plain(said)[:512]}", "see docs/gateway.md for the bodies")
        return await self._change(route, lambda request: plan_outcome(request, outcome))

    async def _change(self, route: Route, decide: Callable[[ApprovalRequest], Write | Hindered]) -> Reply | Refusal:
        """Decide on what is stored, write at its version, and again when somebody else was faster."""
        key = Key(route.namespace, route.name)
        found = self.cluster.stores[APPROVAL_REQUESTS].get(key) or await self._read(route)
        for _ in range(_TRIES):
            if not is_of(found, route) or found is None:
                return not_found(route)
            request = self.cluster.approvals.read(found)
            if isinstance(request, Unreadable):
                return unavailable(f"the request can't be read: {plain(request.problem)[:512]}", "apply the CRDs of this release")
            planned = decide(request)
            if isinstance(planned, Hindered):
                newest = await self._read(route)
                if newest is not None and newest["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
                    found = newest  # what we have seen is old: it may be possible by now
                    continue
                kind, way_forward = _OBSTACLES[planned.obstacle]
                return Refusal(kind, f"{planned.obstacle.value}: {planned.detail}", way_forward)
            patch = StatusPatch(ObjectKey(request.kind, key.name), request.metadata.resource_version, planned.patch)
            try:
                found = await self.writer.write_status(patch, key.namespace)
            except Conflict:
                found = await self._read(route)
                continue
            except NotFound:
                return not_found(route)
            if planned.news:  # beside the next write: the gate waits for that one
                told = asyncio.create_task(self.writer.carry_out(Plan(events=events_of(request, planned.news)), key.namespace))
                self._telling.add(told)
                told.add_done_callback(self._telling.discard)
            if planned.is_last:
                LOG.info("gateway: %s of `%s` done", route.action.value, key)
                return Reply(200, self._held(found))
        return unavailable("the request changes faster than it can be written")

    def _is_genuine(self, request: ApprovalRequest, decision: Decision) -> bool:
        return is_genuine(request, decision, self.cluster, self.namespace)

    def _held(self, found: Object) -> HeldRequest:
        return HeldRequest(request=trimmed(found), keys=published_keys(self.cluster, self.namespace))


def _decoded(live: Mapping[str, Any], target: Key) -> GateConfig | None:
    text = (live.get("data") or {}).get(CONFIG_KEY)
    try:
        config = decode_config(text.encode()) if isinstance(text, str) else None
    except ConfigError:
        return None
    return config if config is not None and (config.target.namespace, config.target.name) == target else None


def _is_newer(found: Object, version: int) -> bool:
    """A gate may know more than this replica: then it has nothing to tell it."""
    try:
        return version_of(found["metadata"].get("resourceVersion")) > version
    except VersionError:
        return True
