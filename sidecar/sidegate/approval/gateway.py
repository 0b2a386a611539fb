"""The approval back end of a cluster: the operator's gateway keeps requests, and this gate decides whether an approval holds (`held`).

Rules it keeps:
- A request is sent under a name of the gate's own, so that one that is sent twice, to whichever replica, is made once.
- An approval is given out after the gateway granted this gate's claim to it, and after all was compared and counted once more on what the
  claim answered. A claim whose answer is lost is a lost approval: the statement is refused, and nothing runs twice.
- A wait outlives gateways: what doesn't answer is asked again, slower and slower, until the request expires.
- Whatever can't be told for certain is an `ApprovalUnavailable` that says where to look.

A gate that started anew remembers nothing: it withdraws nothing, and takes an approval of an earlier session by comparing it with what is
asked now. Clock and randomness are arguments. Works in one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from sidegate.approval.backend import ApprovalBackend, ApprovalUnavailable, HoldRequest, Phase, TooManyApprovals, Verdict
from sidegate.approval.document import DocumentError, new_document, new_name, outcome_of, timestamp, to_wire
from sidegate.approval.gateway_client import GatewayClient, GatewayError, Line
from sidegate.approval.held import (
    Asked,
    ChangedError,
    HeldObject,
    Judged,
    Standing,
    approved,
    asked_before,
    asked_for,
    judge,
    read_object,
)
from sidegate.gateway.http import NOT_MODIFIED, Answer, PlaceError, path_of
from sidegate.gateway.messages import (
    LONGEST_WAIT_S,
    MAX_BODY_BYTES,
    Claim,
    HeldRequest,
    HeldRequests,
    HoldOutcome,
    NewHold,
    Problem,
    Withdrawal,
)
from sidegate.mask.plain import plain

T = TypeVar("T")

MAX_REMEMBERED: Final = 4096  # a principal may have 20 pending, by the operator's quota
_NAME_BYTES: Final = 6
_NAMES_TRIED: Final = 3
_MAX_SAID: Final = 300
_MAX_WHY: Final = 1024
_QUICK_S: Final = 1.0
_QUICK_NEWS: Final = 16  # one after the other: more than a request has
# Nothing was done: the token is being renewed, a replica doesn't know the pod yet, or can't serve it now.
_UNSETTLED: Final = frozenset({401, 403, 503})
_BROKEN: Final = frozenset({500, 502, 504})  # nobody knows what was done


@dataclass(frozen=True, slots=True)
class Patience:
    """How long, in seconds: a request is asked for before the statement is refused; what became of it is told; an approval is looked at
    again when it is said to be there and isn't; and the pauses between.
    """

    asking_s: float = 10.0
    telling_s: float = 60.0
    doubting_s: float = 3.0
    first_pause_s: float = 0.2
    longest_pause_s: float = 5.0
    wait_s: int = LONGEST_WAIT_S


@dataclass(frozen=True, slots=True)
class _Seen:
    """Nothing to tell a session. `doubt`: why that can't be the last word; it is for a moment, since replicas may be behind."""

    version: str
    doubt: str = ""


class _NotTakenError(ApprovalUnavailable):
    """A claim that never arrived: the approval is still there."""


class GatewayApprovals(ApprovalBackend):
    """An `ApprovalBackend` over the gateway. `random_bytes(n)` and `clock()` are the caller's."""

    def __init__(
        self, client: GatewayClient, *, clock: Callable[[], float], random_bytes: Callable[[int], bytes],
        patience: Patience = Patience(),
    ) -> None:  # fmt: skip
        self._client = client
        self._clock = clock
        self._random_bytes = random_bytes
        self._patience = patience
        self._asked: dict[str, Asked] = {}  # by name
        self._used: dict[str, None] = {}  # by uid: what this gate has tried to take

    # ---- asking -------------------------------------------------------------------------------------------------------------------

    async def submit(self, request: HoldRequest, now: float) -> str:
        for _ in range(_NAMES_TRIED):
            name = new_name(now, self._random_bytes(_NAME_BYTES))
            try:
                document = new_document(name, request)
            except DocumentError as error:
                raise ApprovalUnavailable(
                    f"the statement can't be put to approvers: {error}", "make the statement shorter"
                ) from error
            asked = NewHold(name=name, hold_until=timestamp(request.hold_until), spec=to_wire(document)["spec"])
            body = msgspec.json.encode(asked)
            if len(body) > MAX_BODY_BYTES:
                raise ApprovalUnavailable("the statement is too long for approvers", "make the statement shorter")
            for_s = min(self._patience.asking_s, max(0.0, request.hold_until - now))
            answer = await self._ask("POST", self._path(request, "holds"), body, for_s)
            if answer.status in (200, 201):
                held, _ = self._read_one(answer, name)
                with self._trusting(name):
                    self._remember(asked_for(name, request, document.spec, held))
                return name
            if answer.status != 409:
                raise self._refused(answer)
        raise ApprovalUnavailable("the names of approval requests are taken", "send the statement again")

    async def take_grant(self, request: HoldRequest, now: float) -> Verdict | None:
        for held, keys in await self._find(request):
            if (asked := self._counterpart(request, held)) is not None:
                judged = self._judged(held, keys, asked)
                if judged.standing is not Standing.APPROVED:
                    continue
                taken = await self._claim(asked)
                if taken is not None and taken.phase is Phase.APPROVED:
                    self._remember(asked)
                    return taken
        return None

    async def find_pending(self, request: HoldRequest, now: float) -> str | None:
        for held, keys in await self._find(request):
            if held.phase is Phase.PENDING and (asked := self._counterpart(request, held)) is not None:
                judged = self._judged(held, keys, asked)
                if judged.standing in {
                    Standing.OPEN,
                    Standing.APPROVED,
                }:  # decided since grants were looked for: its wait takes it
                    self._remember(asked)
                    return held.name
        return None

    async def _find(self, request: HoldRequest) -> list[tuple[HeldObject, dict[str, str]]]:
        """Those of the same fingerprint and requester, the newest first. One that can't be read is passed over: nothing comes of it."""
        issuer, _, subject = request.requester_key.partition("#")
        path = self._path(request, "holds", fingerprint=request.fingerprint, issuer=issuer, subject=subject)
        answer = await self._ask("GET", path, None, self._patience.asking_s)
        if answer.status != 200:
            raise self._refused(answer)
        told = self._decode(answer, HeldRequests)
        found = []
        for wire in told.requests:
            try:
                found.append((read_object(wire), told.keys))
            except DocumentError:
                continue
        return found

    def _counterpart(self, request: HoldRequest, held: HeldObject) -> Asked | None:
        """What this gate asked for under that name, or what it asks for now; None when the object is neither."""
        known = self._asked.get(held.name)
        try:
            before = asked_before(request, held, self._clock())
        except (ChangedError, DocumentError):
            return None
        if known is None:
            return before
        return known if (known.uid, known.digest) == (held.uid, held.digest) else None

    # ---- waiting ------------------------------------------------------------------------------------------------------------------

    async def wait(self, name: str) -> Verdict:
        """Cancelled while the claim is under way, the approval may be used up by it: it is lost then."""
        asked = self._asked.get(name)
        if asked is None:
            raise ApprovalUnavailable(f"approval request `{name}` is not one of this gate's", "send the statement again")
        loop = asyncio.get_running_loop()
        version, pause, quick_news, doubted_since = "", 0.0, 0, None
        while True:
            await asyncio.sleep(pause)
            left_s = asked.expires_at - self._clock()
            if left_s <= 0:
                return _expired(asked)
            began = loop.time()
            seen = await self._look(asked, version, left_s)
            if isinstance(seen, Verdict):
                return seen
            is_quick, has_news, version = loop.time() - began < _QUICK_S, seen.version != version, seen.version
            if not seen.doubt:
                doubted_since = None
                quick_news = quick_news + 1 if has_news and is_quick else 0
                # Who says nothing new at once, or new things without end, is asked slower.
                pause = self._next_pause(pause) if is_quick and not 0 < quick_news < _QUICK_NEWS else 0.0
                continue
            doubted_since, pause = began if doubted_since is None else doubted_since, self._next_pause(pause)
            if loop.time() - doubted_since >= self._patience.doubting_s:
                raise ApprovalUnavailable(seen.doubt, f"look at it: kubectl describe approvalrequest -n {asked.namespace} {name}")

    async def _look(self, asked: Asked, version: str, left_s: float) -> Verdict | _Seen:
        """Once, for as long as the gateway waits for something newer than `version`."""
        wait_s = max(1, min(self._patience.wait_s, int(left_s))) if version else 0
        query: dict[str, str | int] = {"wait": wait_s, "version": version} if version else {}
        path = self._path(asked, "holds", asked.name, **query)
        with (
            Line() as line
        ):  # a new connection for the claim would cost the statement a name, a handshake, and now and then a lost packet
            try:
                answer = await self._ask("GET", path, None, left_s, wait_s=wait_s, line=line)
            except ApprovalUnavailable:  # nothing until it expires, as far as the loop's clock can tell
                return _Seen(version)
            return await self._seen(asked, version, answer, line)

    async def _seen(self, asked: Asked, version: str, answer: Answer, line: Line) -> Verdict | _Seen:
        if answer.status == NOT_MODIFIED:
            return _Seen(version)
        if answer.status == 404:  # a replica that is behind has not seen a new one yet
            return _Seen("", f"the gateway has no approval request `{asked.name}` any more")
        if answer.status != 200:
            raise self._refused(answer)
        held, keys = self._read_one(answer, asked.name)
        judged = self._judged(held, keys, asked)
        match judged.standing:
            case Standing.APPROVED:
                taken = await self._claim(asked, line)
                if (
                    taken is None and held.phase is Phase.PENDING
                ):  # the gateway counts fewer, yet: news comes when its phase follows
                    return _Seen(held.version)
                return taken or _Seen("", f"the approval of `{asked.name}` can't be taken")
            case Standing.DOUBTED:
                return _Seen("", f"approval request `{asked.name}` is said to be approved, and isn't: {judged.doubts}")
            case Standing.OPEN:
                return _Seen(held.version)
        return judged.verdict

    def _judged(self, held: HeldObject, keys: Mapping[str, str], asked: Asked) -> Judged:
        with self._trusting(asked.name):
            return judge(asked, held, keys, self._clock())

    async def _claim(self, asked: Asked, line: Line | None = None) -> Verdict | None:
        """The approval, taken by this gate and by nobody else; EXECUTED when this gate took it before; None when there is none to take."""
        if asked.uid in self._used:
            return Verdict(Phase.EXECUTED, asked.name, (), "", asked.expires_at, asked.expires_at, asked.rows)
        # Before it is asked for, not after: nothing that happens to an object makes one approval of it two.
        self._used[asked.uid] = None
        _forget_oldest(self._used)
        try:
            taken = await self._taken(asked, line)
        except _NotTakenError as error:
            del self._used[asked.uid]
            raise ApprovalUnavailable(str(error), error.way_forward) from error
        if taken is None:
            del self._used[asked.uid]
        return taken

    async def _taken(self, asked: Asked, line: Line | None) -> Verdict | None:
        body = msgspec.json.encode(Claim(uid=asked.uid, fingerprint=asked.fingerprint))
        for_s = min(self._patience.asking_s, asked.expires_at - self._clock())
        path = self._path(asked, "holds", asked.name, "claim")
        answer = await self._ask("POST", path, body, for_s, claims=asked.name, line=line)
        if answer.status in (404, 409):
            return None
        if answer.status in _BROKEN:
            raise self._lost(asked.name, self._said(answer))
        if answer.status != 200:
            raise self._refused(answer)
        judged = self._judged(*self._read_one(answer, asked.name), asked)
        if judged.standing is not Standing.TAKEN:
            raise ApprovalUnavailable(
                f"approval request `{asked.name}` doesn't hold after it was taken{f': {judged.doubts}' if judged.doubts else ''}",
                "send the statement again for a new request",
            )
        return approved(judged)

    # ---- telling ------------------------------------------------------------------------------------------------------------------

    async def withdraw(self, name: str, why: str, now: float) -> None:
        asked = self._asked.get(name)
        if asked is not None:  # of another gate's life: it goes on until it expires
            await self._tell(asked, "withdrawal", Withdrawal(why=plain(why)[:_MAX_WHY]), frozenset({200, 404, 409}))

    async def executed(self, name: str, outcome: str, now: float) -> None:
        asked = self._asked.get(name)
        if asked is not None:
            fields = outcome_of(outcome, now)
            told = HoldOutcome(
                result=fields.result,
                rows=fields.rows,
                sqlstate=fields.sqlstate,
                message=None if fields.message is None else plain(fields.message)[:_MAX_WHY],
            )
            await self._tell(asked, "outcome", told, frozenset({200}))

    async def _tell(self, asked: Asked, what: str, told: Withdrawal | HoldOutcome, settled: frozenset[int]) -> None:
        path = self._path(asked, "holds", asked.name, what)
        answer = await self._ask("POST", path, msgspec.json.encode(told), self._patience.telling_s)
        if answer.status not in settled:
            raise self._refused(answer)

    # ---- exchanges ----------------------------------------------------------------------------------------------------------------

    async def _ask(
        self, method: str, path: str, body: bytes | None, for_s: float, *, wait_s: float = 0.0, claims: str = "",
        line: Line | None = None,
    ) -> Answer:  # fmt: skip
        """An answer that settles it. Others are asked for again for as long as `for_s`; a claim (of the request named) only if it is
        certain that nothing came of it.

        Raises:
            ApprovalUnavailable: none in that time, or nobody knows what became of a claim.
        """
        until, pause, is_asking = asyncio.get_running_loop().time() + for_s, 0.0, False
        problem = GatewayError(f"{self._client.place} doesn't answer in time", f"see to the gateway {self._client.place}")
        try:
            async with asyncio.timeout_at(until):
                while True:
                    pause = self._next_pause(pause)
                    is_asking = True
                    try:
                        answer = await self._client.ask(method, path, body, wait_s=wait_s, may_repeat=not claims, line=line)
                    except GatewayError as error:
                        if error.may_have_arrived and claims:
                            raise self._lost(claims, str(error)) from error
                        problem = error
                    else:
                        retry_after_s = answer.head.retry_after_s
                        is_busy = answer.status == 429 and retry_after_s is not None  # without it: over a quota, haste is no help
                        if not (answer.status in _UNSETTLED or is_busy or (answer.status in _BROKEN and not claims)):
                            return answer
                        pause = max(pause, min(retry_after_s or 0.0, self._patience.longest_pause_s))
                        problem = GatewayError(self._said(answer), self._way_forward(answer))
                    is_asking = False
                    await asyncio.sleep(pause)
        except TimeoutError:
            if claims and is_asking:
                raise self._lost(claims, str(problem)) from problem
            kind = _NotTakenError if claims else ApprovalUnavailable
            raise kind(f"the operator's gateway can't be asked: {problem}", problem.way_forward) from problem

    def _next_pause(self, pause: float) -> float:
        return min(self._patience.longest_pause_s, pause * 2 if pause else self._patience.first_pause_s)

    def _path(self, of: HoldRequest | Asked, *segments: str, **query: str | int) -> str:
        try:
            return path_of("v1", "targets", of.namespace, of.target, *segments, **query)
        except PlaceError as error:
            raise ApprovalUnavailable(f"approval can't be asked for: {error}", error.way_forward) from error

    def _read_one(self, answer: Answer, name: str) -> tuple[HeldObject, dict[str, str]]:
        told = self._decode(answer, HeldRequest)
        with self._trusting(name):
            return read_object(told.request), told.keys

    def _decode(self, answer: Answer, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except msgspec.DecodeError as error:
            raise ApprovalUnavailable(
                f"the gateway's answer can't be read: {error}", f"see that operator and gate fit: {self._client.place}"
            ) from error

    @contextlib.contextmanager
    def _trusting(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ChangedError, DocumentError) as error:
            raise ApprovalUnavailable(
                f"approval request `{name}` can't be trusted: {error}",
                f"find out who changed it, or what answers as {self._client.place}, and send the statement again",
            ) from error

    def _remember(self, asked: Asked) -> None:
        self._asked.pop(asked.name, None)
        self._asked[asked.name] = asked
        _forget_oldest(self._asked)

    def _lost(self, name: str, why: str) -> ApprovalUnavailable:
        return ApprovalUnavailable(
            f"nobody knows whether the approval of `{name}` was taken, so it counts as lost: {why}",
            f"see to the gateway {self._client.place}, and send the statement again for a new request",
        )

    def _refused(self, answer: Answer) -> ApprovalUnavailable:
        kind = TooManyApprovals if answer.status == 429 else ApprovalUnavailable
        return kind(f"the operator's gateway refuses: {self._said(answer)}", self._way_forward(answer))

    def _said(self, answer: Answer) -> str:
        problem = _problem(answer)
        words = (problem.detail or problem.title) if problem is not None else ""
        return f"{plain(words)[:_MAX_SAID]} ({answer.status})" if words else f"it answers {answer.status}"

    def _way_forward(self, answer: Answer) -> str:
        problem = _problem(answer)
        said = plain(problem.way_forward)[:_MAX_SAID] if problem is not None else ""
        return f"{said or 'see what the operator logs'} (gateway {self._client.place})"


def _forget_oldest(known: dict[str, T]) -> None:
    while len(known) > MAX_REMEMBERED:
        del known[next(iter(known))]


def _expired(asked: Asked) -> Verdict:
    return Verdict(Phase.EXPIRED, asked.name, (), "", asked.expires_at, asked.expires_at, asked.rows)


def _problem(answer: Answer) -> Problem | None:
    try:
        return msgspec.json.decode(answer.body, type=Problem)
    except msgspec.DecodeError:
        return None
