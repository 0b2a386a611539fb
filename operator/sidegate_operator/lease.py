"""Who of several operators leads: a Lease of coordination.k8s.io, taken and renewed by compare-and-swap.

Rules it keeps:
- Nobody's clock is compared with another's: a lease is free when it hasn't changed for as long as it lasts, by our own clock that only goes
  forward. So clocks that differ, or are set back, make no second leader.
- A leader that couldn't renew for `renew_within_s` isn't one any more, well before others may take the lease; how long is counted from
  before the renewal was sent. One that sees another's name in the lease, or sees the lease gone, isn't one from that moment.
- There is no way back: who lost the lease ends its process, for what it had begun can't be taken back otherwise.

`Election` is pure, over `now`; `Leadership` is the shell. Left out: what a leader does.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sidegate_operator.api_client import ApiClient, ApiError, Conflict, NotFound
from sidegate_operator.clock import micro_timestamp
from sidegate_operator.resources import LEASES, Object

LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Terms:
    """As client-go's defaults. INVARIANT: retry_s < renew_within_s < lasts_s."""

    lasts_s: float = 15.0
    renew_within_s: float = 10.0
    retry_s: float = 2.0


class Step(enum.Enum):
    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


class Election:
    def __init__(self, identity: str, terms: Terms) -> None:
        self.identity: Final = identity
        self.terms: Final = terms
        self._spec: dict[str, Any] | None = None
        self._version: str | None = None
        self._changed_at = 0.0
        self._renewed_at: float | None = None
        self._is_lost = False

    @property
    def holder(self) -> str:
        return str((self._spec or {}).get("holderIdentity") or "")

    def leads(self, now: float) -> bool:
        if self._is_lost or self._renewed_at is None:
            return False
        return now - self._renewed_at < self.terms.renew_within_s

    def is_lost(self, now: float) -> bool:
        """Whether it led and doesn't any more."""
        return self._renewed_at is not None and not self.leads(now)

    def saw(self, lease: Object | None, now: float) -> Step:
        """What to do about the lease as it was just read; None: there is none."""
        if lease is None:
            self._spec, self._version = None, None
            self._is_lost = self._is_lost or self._renewed_at is not None
            return Step.CREATE
        version = lease["metadata"]["resourceVersion"]
        if version != self._version or self._spec is None:
            self._spec, self._version, self._changed_at = lease.get("spec") or {}, version, now
        if self.holder == self.identity and self._renewed_at is not None:
            return Step.RENEW
        self._is_lost = self._is_lost or self._renewed_at is not None
        lasts_s = float(self._spec.get("leaseDurationSeconds") or 0)
        # Our own name without having led: we took it, and the answer was lost. Nobody else has our name.
        if self.holder in {"", self.identity} or now - self._changed_at >= lasts_s:
            return Step.TAKE
        return Step.WAIT

    def wanted(self, wall: float) -> Object:
        """The spec that takes or renews it; `wall` is the time of day."""
        at, before = micro_timestamp(wall), self._spec or {}
        is_mine = self.holder == self.identity
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(self.terms.lasts_s),
            "acquireTime": before.get("acquireTime", at) if is_mine else at,
            "renewTime": at,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (0 if is_mine or not before else 1),
        }

    def wrote(self, lease: Object, sent_at: float) -> None:
        """The API server took what was `wanted`, which was sent then."""
        self._spec, self._version, self._changed_at = lease["spec"], lease["metadata"]["resourceVersion"], sent_at
        if not self._is_lost:
            self._renewed_at = sent_at


class Leadership:
    """`until_leading`, then `until_lost` beside what a leader does, then `release`."""

    def __init__(
        self,
        client: ApiClient,
        namespace: str,
        name: str,
        election: Election,
        elapsed: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.election: Final = election
        self._client = client
        self._namespace = namespace
        self._name = name
        self._elapsed = elapsed
        self._wall = wall
        self._said: str | None = None
        self._lease: Object | None = None
        self.lost_because: str | None = None

    def leads(self) -> bool:
        return self.election.leads(self._elapsed())

    async def until_leading(self) -> None:
        while not self.leads():
            await self._try()
            if not self.leads():
                await asyncio.sleep(self.election.terms.retry_s)

    async def until_lost(self) -> None:
        """Renew it again and again. Why it is lost is in `lost_because` afterwards."""
        terms = self.election.terms
        while True:
            await asyncio.sleep(terms.retry_s)
            try:
                async with asyncio.timeout(max(0.1, terms.renew_within_s - terms.retry_s)):
                    await self._try()
            except TimeoutError:
                self._say("the API server didn't answer in time")
            if self.election.is_lost(self._elapsed()):
                holder = self.election.holder
                if holder and holder != self.election.identity:
                    self.lost_because = f"`{holder}` has taken the lease"
                else:
                    self.lost_because = (
                        f"the lease wasn't renewed within {terms.renew_within_s:g} s: {self._said or 'it is gone'}"
                    )
                return

    async def release(self) -> None:
        """Let another take it at once. Does nothing unless we lead."""
        if not self.leads() or self._lease is None:
            return
        spec = {
            **self._lease["spec"],
            "holderIdentity": "",
            "leaseDurationSeconds": 1,
            "renewTime": micro_timestamp(self._wall()),
        }
        try:
            await self._client.replace({**self._lease, "spec": spec})
        except ApiError as problem:
            LOG.warning("lease: not released: %s", problem)
        else:
            LOG.info("lease: released")

    async def _try(self) -> None:
        sent_at = self._elapsed()
        try:
            try:
                self._lease = await self._client.get(LEASES, self._namespace, self._name)
            except NotFound:
                self._lease = None
            step = self.election.saw(self._lease, self._elapsed())
            if step is Step.WAIT:
                self._say(f"held by `{self.election.holder}`")
                return
            if self.election.is_lost(self._elapsed()):
                return
            sent_at = self._elapsed()
            self._lease = await self._write(self.election.wanted(self._wall()))
        except Conflict:
            self._say("somebody else was faster")
        except ApiError as problem:
            self._say(f"{problem}; fix: {problem.way_forward}")
        else:
            self.election.wrote(self._lease, sent_at)
            self._said = None

    async def _write(self, spec: Object) -> Object:
        if self._lease is not None:
            return await self._client.replace({**self._lease, "spec": spec})
        metadata = {"namespace": self._namespace, "name": self._name}
        return await self._client.create(
            {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}
        )

    def _say(self, what: str) -> None:
        if what != self._said:
            LOG.info("lease: %s", what)
            self._said = what
