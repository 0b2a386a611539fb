"""A session core between a client's script and a fake target: all of it is bytes, cut and interleaved as a seed says.

    wired = Wired(Bench(policy(...)), FakeTarget(), Seed(7))
    wired.client(script)          # the whole script is there; the seed decides which side's bytes go on next, and how many
    wired.settle()                # until nothing moves any more

What must hold after each step is checked at once: permits, records before what they let through, bounded memory. Verdicts come at any
moment: `verdict` is asked for each hold. `events` are called between steps with the same randomness: cancels, other configs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sidegate.approval.backend import HoldRequest, Phase, Verdict
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.effects import CancelTarget, CloseSession, Effects, Hold, RefreshCatalog, WithdrawHold
from sidegate.postgres.statements import Kept, Names
from sidegate.record.frame import RecordKind
from tests.support.fake_target import FakeTarget
from tests.support.session import EMPTY_CATALOG, NOW, Bench

APPROVE = "approve"
DENY = "deny"
EXPIRE = "expire"
ERRORS = {DENY: Phase.DENIED, EXPIRE: Phase.EXPIRED}


@dataclass(slots=True)
class Pending:
    name: str
    request: HoldRequest
    is_submitted: bool = False


@dataclass(slots=True)
class Wired:
    bench: Bench
    target: FakeTarget
    seed: int
    verdict: Callable[[HoldRequest], str] = lambda _: APPROVE
    events: Sequence[Callable[[Wired], None]] = ()
    catalog: Catalog = EMPTY_CATALOG
    seen: bytes = b""  # everything the client got
    approved: list[HoldRequest] = field(default_factory=list)
    is_closed: bool = False
    holds: list[Pending] = field(default_factory=list)
    holds_made: int = 0
    cancels: int = 0
    sent: list[bytes] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)
    decided: set[int] = field(default_factory=set)
    texts: dict[int, str] = field(default_factory=dict)
    _random: random.Random = field(default_factory=random.Random)
    _from_client: bytes = b""
    _to_target: bytes = b""
    _from_target: bytes = b""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def client(self, data: bytes) -> None:
        self._from_client += data

    def settle(self, max_steps: int = 200_000) -> None:
        """Until nothing moves. Raises AssertionError when it never comes to rest."""
        for _ in range(max_steps):
            moves = self._moves()
            if not moves:
                return
            self._random.choice(moves)()
            if self.events and self._random.random() < 0.02:
                self._random.choice(self.events)(self)
        raise AssertionError("it never comes to rest")

    def _moves(self) -> list[Callable[[], None]]:
        moves: list[Callable[[], None]] = []
        session = self.bench.session
        if self._to_target:
            moves.append(self._feed_target)
        if not self.is_closed:
            if self._from_client and session.wants_client_bytes:
                moves.append(self._feed_session)
            if self._from_target and session.wants_target_bytes:
                moves.append(self._answer_session)
            moves += [self._decide] * bool(self.holds)
        return moves

    def _cut(self, data: bytes) -> int:
        """How much of it moves: often a few bytes, sometimes all."""
        return len(data) if self._random.random() < 0.4 else self._random.randint(1, min(len(data), 40))

    def _feed_session(self) -> None:
        size = self._cut(self._from_client)
        data, self._from_client = self._from_client[:size], self._from_client[size:]
        self.take(self.bench.session.from_client(data, NOW))

    def _answer_session(self) -> None:
        size = self._cut(self._from_target)
        data, self._from_target = self._from_target[:size], self._from_target[size:]
        self.take(self.bench.session.from_target(data, NOW))

    def _feed_target(self) -> None:
        size = self._cut(self._to_target)
        data, self._to_target = self._to_target[:size], self._to_target[size:]
        before = len(self.target.ran)
        self._from_target += self.target.feed(data)
        for text in self.target.ran[before:]:
            self._check_recorded(text)

    def _check_recorded(self, text: str) -> None:
        """What runs at the target was recorded and decided on before; the gate's own statements aside."""
        bare = text.strip()
        if bare.lower().startswith(("begin", "commit", "rollback", "savepoint", "release", "select")) and "/*" not in bare:
            return
        assert any(bare in known for number, known in self.texts.items() if number in self.decided), f"`{bare}` ran unrecorded"

    def _decide(self) -> None:
        pending = self._random.choice(self.holds)
        session = self.bench.session
        if not pending.is_submitted and self._random.random() < 0.7:
            pending.is_submitted = True
            self.take(session.hold_submitted(pending.name, NOW))
            return
        if self._random.random() < 0.5:
            self.take(session.remind(NOW))
            return
        self.holds.remove(pending)
        word = self.verdict(pending.request)
        impact = pending.request.impact
        rows = impact.rows_affected if impact is not None else None
        if word == APPROVE:
            self.approved.append(pending.request)
            self.take(session.hold_decided(Verdict(Phase.APPROVED, pending.name, ("dana",), "", NOW, NOW + 3600, rows), NOW))
        else:
            self.take(session.hold_decided(Verdict(ERRORS[word], pending.name, ("dana",), "", NOW, NOW), NOW))

    def take(self, effects: Effects) -> None:
        """As the shell does, in its order: records, target, client, actions."""
        for record in effects.records:
            self._remember(record.kind, record.payload)
        for permit, data in effects.to_target:
            assert permit is not None
            self._to_target += data
            self.sent.append(data)
        self.seen += b"".join(effects.to_client)
        for action in effects.actions:
            match action:
                case Hold(request=request):
                    self.holds_made += 1
                    assert not self.holds, "two holds at once"
                    self.holds.append(Pending(f"ar-{self.holds_made}", request))
                case WithdrawHold():
                    self.holds.clear()
                case CancelTarget():
                    self.cancels += 1
                case RefreshCatalog():
                    self.take(self.bench.session.catalog_refreshed(self.catalog, NOW))
                case CloseSession():
                    self.is_closed = True
                    self.holds.clear()
                case _:
                    pass
        self._check_memory()

    def _remember(self, kind: RecordKind, payload: bytes) -> None:
        if kind is RecordKind.CLIENT_STATEMENT:
            entry = msgspec.json.decode(payload)
            beside = [each["text"] for field in ("runs", "alternatives") for each in entry.get(field, ())]
            self.texts[entry["statement"]] = "\n".join([entry["text"], *beside])
        elif kind is RecordKind.DECISION:
            self.decided.add(msgspec.json.decode(payload)["statement"])

    def _check_memory(self) -> None:
        session = self.bench.session
        limits = session.limits
        kept, in_flight = room_taken(session.prepared, session.portals, session.cursors)
        assert (session.room.kept, session.room.in_flight) == (kept, in_flight)
        entry = session.expected.head
        if entry is not None and entry.capture is not None:
            errors = sum(len(part) for part in entry.capture if part.startswith(b"E"))
            assert sum(map(len, entry.capture)) - errors <= limits.max_captured_bytes + 65536


def room_taken(*families: Names[Any]) -> tuple[int, int]:
    """What names keep, and what is in flight, counted anew."""
    kept: dict[int, int] = {}
    in_flight = 0

    def weigh(value: Kept) -> None:
        kept[id(value)] = value.weight
        for held in value.holds:
            weigh(held)

    for names in families:
        seen = {id(value): value for values in names._candidates.values() for value in values}
        in_flight += sum(seen[key].weight for key in names._unsettled)
        for name, values in names._candidates.items():
            for value in values:
                if name:
                    weigh(value)
    return sum(kept.values()), in_flight


def messages(data: bytes) -> list[tuple[str, bytes]]:
    """Whole messages. A cut one at the end is a failure."""
    found: list[tuple[str, bytes]] = []
    while data:
        length = 1 + int.from_bytes(data[1:5], "big")
        assert 5 <= length <= len(data), "a cut message"
        found.append((chr(data[0]), data[5:length]))
        data = data[length:]
    return found
