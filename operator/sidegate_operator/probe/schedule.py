"""When each target's doors are tried, and what was found last. `Board` is pure, over `now`; `Prober` is the asyncio shell around it.

Rules it keeps:
- Only what is up is tried, since nothing answers at a target that hasn't started: that is no closed door. After each change it is tried at
  once and soon again, then every few minutes.
- What was found is forgotten when it is old, or when what there is to try has changed; an open door stays one until it was tried again.
- Where packets are led to the gate (`Redirect`), it is the gate that must answer at the target's port: whatever the database says there
  itself is an open door.
- Where a probe can't come from outside (a target on loopback), none is made: nothing is claimed.

It comes from the operator's pod alone: where a NetworkPolicy keeps that away, a door may be open to others. Left out: what an answer means
(`sidegate.probe`), and conditions (`plan.status`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from sidegate.api import protected_target as api
from sidegate.api.access_policy import AccessPolicy
from sidegate.policy.compile import binds
from sidegate.probe.answer import Door, DoorState
from sidegate.probe.postgres import DATABASES, probe_postgres
from sidegate_operator.plan.pods import SeenPod
from sidegate_operator.plan.redirect import is_redirected
from sidegate_operator.plan.status import Probe
from sidegate_operator.store import Key

LOG: Final = logging.getLogger(__name__)
MAX_DATABASES: Final = (
    64  # each is tried as each role, with and without TLS; with more of them it can't be told that all are closed
)


@dataclass(frozen=True, slots=True)
class ProbePace:
    """`after_change_s`: when a target is tried after something about it changed; then every `every_s`. What is older than `valid_s` is
    forgotten.
    """

    after_change_s: tuple[float, ...] = (0.0, 15.0, 60.0)
    every_s: float = 300.0
    valid_s: float = 900.0
    timeout_s: float = 3.0
    look_every_s: float = 1.0
    targets_together: int = 8

    def next_s(self, times: int) -> float:
        """From the probe of that number (from 1) to the next."""
        steps = self.after_change_s
        return steps[times] - steps[times - 1] if times < len(steps) else self.every_s


class Place(NamedTuple):
    host: str
    port: int
    uid: str = ""  # of the pod; empty: it is none


@dataclass(frozen=True, slots=True)
class Aim:
    """What there is to try of a target; `untried` databases are too many."""

    places: tuple[Place, ...]
    roles: tuple[str, ...]
    databases: tuple[str, ...]
    is_in_pods: bool
    untried: int = 0
    is_redirected: bool = False


def aim_at(target: api.ProtectedTarget, policies: Iterable[AccessPolicy], pods: Iterable[SeenPod]) -> Aim | None:
    """None: there is nothing that can be tried from outside."""
    spec = target.spec
    if spec.protocol is not api.Protocol.POSTGRES:
        return None
    if spec.endpoint is not None:
        places = [] if spec.endpoint.host.is_local else [Place(str(spec.endpoint.host), spec.endpoint.port)]
    else:
        up = [each for each in pods if each.is_up and each.is_of(target)]
        places = [Place(address, spec.port, each.uid) for each in up for address in each.addresses]  # host rules differ by family
    if not places:
        return None
    if is_redirected(target):  # a role of its own may pass the gate, and a stranger can't
        return Aim(tuple(sorted(places)), (), DATABASES, spec.endpoint is None, is_redirected=True)
    roles = dict.fromkeys(str(each.username or each.role) for each in spec.credentials)
    granted = (grant.postgres.databases for each in policies if binds(each, target) for grant in each.spec.grants)
    named = sorted({str(name) for names in granted for name in names if "*" not in name})
    databases = tuple(dict.fromkeys([*DATABASES, *named]))
    untried = max(0, len(databases) - MAX_DATABASES)
    return Aim(tuple(sorted(places)), tuple(roles), databases[:MAX_DATABASES], spec.endpoint is None, untried)


@dataclass(slots=True)
class _Entry:
    aim: Aim
    due: float | None = None  # None: at once
    times: int = 0
    found: Probe | None = None
    found_at: float = 0.0
    is_running: bool = False


@dataclass(slots=True)
class Board:
    """What is to be tried and what was found, by target."""

    pace: ProbePace = field(default_factory=ProbePace)
    _entries: dict[Key, _Entry] = field(default_factory=dict)

    def note(self, key: Key, aim: Aim | None) -> Probe | None:
        """What there is to try now; gives what is known of it."""
        entry = self._entries.get(key)
        if aim is None:
            self._entries.pop(key, None)
            return None
        if entry is None:
            entry = self._entries[key] = _Entry(aim)
        elif entry.aim != aim:
            still = entry.found if entry.found is not None and entry.found.open_doors else None
            entry = self._entries[key] = _Entry(aim, found=still, found_at=entry.found_at)
        return entry.found

    def take(self, now: float) -> list[tuple[Key, Aim]]:
        """What is due; it runs until it is given back."""
        due = [
            (key, each) for key, each in self._entries.items() if not each.is_running and (each.due is None or each.due <= now)
        ]
        taken = due[: max(0, self.pace.targets_together - sum(each.is_running for each in self._entries.values()))]
        for _, each in taken:
            each.is_running = True
        return [(key, each.aim) for key, each in taken]

    def give_back(self, key: Key, aim: Aim, found: Probe, now: float) -> bool:
        """Whether it says something new. What was tried and isn't there any more says nothing."""
        entry = self._entries.get(key)
        if entry is None or entry.aim != aim:
            return False
        entry.is_running = False
        entry.times += 1
        entry.due = now + self.pace.next_s(entry.times)
        is_new, entry.found, entry.found_at = entry.found != found, found, now
        return is_new

    def forget_old(self, now: float) -> list[Key]:
        """The targets of which nothing is known any more."""
        old = [key for key, each in self._entries.items() if each.found is not None and each.found_at + self.pace.valid_s <= now]
        for key in old:
            self._entries[key].found = None
        return old

    def drop(self, key: Key) -> None:
        self._entries.pop(key, None)


class Try(Protocol):
    """As `probe_postgres` does it."""

    def __call__(
        self, host: str, port: int, roles: tuple[str, ...], timeout_s: float, *, databases: tuple[str, ...]
    ) -> Awaitable[tuple[Door, ...]]: ...


@dataclass(slots=True)
class Prober:
    """`changed` is told of each target whose doors aren't what they were; `exists` says whether there still is one."""

    board: Board
    changed: Callable[[Key], None]
    exists: Callable[[Key], bool]
    elapsed: Callable[[], float]
    attempt: Try = probe_postgres

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                for key in self.board.forget_old(self.elapsed()):
                    self.changed(key)
                for key, aim in self.board.take(self.elapsed()):
                    if self.exists(key):
                        tasks.create_task(self._probe(key, aim), name=f"probe {key}")
                    else:
                        self.board.drop(key)
                await asyncio.sleep(self.board.pace.look_every_s)

    async def _probe(self, key: Key, aim: Aim) -> None:
        doors: list[Door] = []
        for place in aim.places:
            try:
                doors += await self.attempt(place.host, place.port, aim.roles, self.board.pace.timeout_s, databases=aim.databases)
            except Exception as error:  # one target's oddity mustn't end the operator; that it wasn't tried is said
                LOG.exception("%s: its doors can't be tried: a fault of the operator's own", key)
                doors.append(Door(place.host, place.port, None, "", False, DoorState.UNCLEAR, type(error).__name__))
        found = told(aim, doors)
        if self.board.give_back(key, aim, found, self.elapsed()):
            for phrase in found.open_doors:
                LOG.warning("%s: open door: %s", key, phrase)
            self.changed(key)


def told(aim: Aim, doors: Iterable[Door]) -> Probe:
    """For the status: one phrase for each role at each place, of what is worst."""
    if aim.is_redirected:
        return _led(aim, doors)
    worst: dict[tuple[str, str | None], Door] = {}
    for door in sorted(doors, key=_severity):
        worst.setdefault((door.host, door.role), door)
    shown = sorted(worst.values(), key=_severity)
    more = [f"{aim.untried} more databases that grants name weren't tried"] if aim.untried else []
    return Probe(
        open_doors=tuple(str(each) for each in shown if each.is_open),
        unclear=(*(str(each) for each in shown if each.is_unclear), *more),
        pods=frozenset(each.uid for each in aim.places) if aim.is_in_pods else None,
    )


def _led(aim: Aim, doors: Iterable[Door]) -> Probe:
    """Without TLS a gate says who it is. With TLS it asks for a password as a database may; the port leads there either way."""
    shown = sorted((each for each in doors if not each.over_tls), key=_severity)
    past = (each for each in shown if each.is_open or each.state is DoorState.REJECTED)
    return Probe(
        open_doors=tuple(f"{each.place} leads to the database itself, and not to its gate" for each in past),
        unclear=tuple(str(each) for each in shown if each.is_unclear),
        pods=frozenset(each.uid for each in aim.places) if aim.is_in_pods else None,
    )


_ORDER: Final = (DoorState.WIDE_OPEN, DoorState.ASKS, DoorState.UNCLEAR)


def _severity(door: Door) -> tuple[int, str, str, str, bool]:
    rank = _ORDER.index(door.state) if door.state in _ORDER else len(_ORDER)
    return rank, door.host, door.role or "", door.database, door.over_tls
