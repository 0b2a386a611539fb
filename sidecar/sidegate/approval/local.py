"""The approval back end without a cluster: requests are files (`files`), people decide with `sidegate approve` and `sidegate deny`.

Rules: the digest of a request made by this process is kept in memory as well, so that not even the index can pass off another request for
it; an approval is used up under the lock, in the same step that gives it out, so of many who wait or ask only one gets it; how many
requests one person may have open, and how many they and all may ask for of a target in ten minutes, is limited, as in a cluster, under the
same lock. While something waits, the file's stamp is looked at ten times a second.

Clock and randomness are arguments. Works in one event loop; several processes may share the directory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import msgspec

from sidegate.approval.backend import ApprovalBackend, ApprovalUnavailable, HoldRequest, Phase, TooManyApprovals, Verdict
from sidegate.approval.document import WITHDRAWN, DocumentError, digest, new_document, new_name, outcome_of, with_hold
from sidegate.approval.files import ApprovalFiles, DirectoryBusyError, Index, IndexEntry
from sidegate.approval.hold import Hold, execute, verdict, withdraw
from sidegate.gateway.pace import NEW_PER_PRINCIPAL, NEW_PER_TARGET, too_often

MAX_OPEN_PER_REQUESTER: Final = 50
_LOCK_ATTEMPTS: Final = 100
_LOCK_RETRY_S: Final = 0.02


class LocalApprovals(ApprovalBackend):
    """An `ApprovalBackend` over a directory. `random_bytes(n)` and `clock()` are the caller's."""

    def __init__(
        self, directory: Path, *, clock: Callable[[], float], random_bytes: Callable[[int], bytes], poll_interval_s: float = 0.1
    ) -> None:
        self._files = ApprovalFiles(directory)
        self._clock = clock
        self._random_bytes = random_bytes
        self._poll_interval_s = poll_interval_s
        self._digests: dict[str, str] = {}
        self._files.prepare()

    async def submit(self, request: HoldRequest, now: float) -> str:
        async with self._locked():
            index = self._files.load_index()
            self._files.prune(index, now)
            _refuse_too_many(index, request, now)
            name = self._new_name(index, now)
            try:
                document = new_document(name, request)
            except DocumentError as error:
                raise ApprovalUnavailable(
                    f"the statement can't be put to approvers: {error}", "make the statement shorter"
                ) from error
            made = digest(document)
            # The index first: a file that no index knows is nobody's request, an entry without a file is a request that is gone.
            index[name] = IndexEntry(
                made,
                request.fingerprint,
                request.requester_key,
                request.expires_at,
                target=_target_of(request),
                requested_at=now,
            )
            self._files.save_index(index)
            self._files.save(document)
            self._digests = {known: each for known, each in self._digests.items() if known in index}
            self._digests[name] = made
            return name

    async def wait(self, name: str) -> Verdict:
        stamp: tuple[int, int] | None = None
        expires_at = 0.0
        while True:
            now, found = self._clock(), self._files.stamp(name)
            if found is None or found != stamp or now >= expires_at:
                async with self._locked():
                    stamp = self._files.stamp(name)
                    hold = self._current(name, self._files.load_index(), now)
                    if hold.phase is not Phase.PENDING:
                        # No await between here and the return: an approval used up is an approval given out.
                        return self._given_out(hold, now)
                    expires_at = hold.request.expires_at
            await asyncio.sleep(self._poll_interval_s)

    async def withdraw(self, name: str, why: str, now: float) -> None:
        async with self._locked():
            index = self._files.load_index()
            hold, document = self._files.hold(name, index, now, self._digests.get(name))
            after = withdraw(hold, now)
            if after is not hold and after.phase is Phase.WITHDRAWN:
                index[name].ended = Phase.WITHDRAWN.value
                self._files.save_index(index)
                self._files.save(with_hold(document, after, **{WITHDRAWN: why}))

    async def take_grant(self, request: HoldRequest, now: float) -> Verdict | None:
        async with self._locked():
            hold = self._find(Phase.APPROVED, request, now)
            return None if hold is None else self._given_out(hold, now)

    async def executed(self, name: str, outcome: str, now: float) -> None:
        async with self._locked():
            hold, document = self._files.hold(name, self._files.load_index(), now, self._digests.get(name))
            if hold.phase is not Phase.EXECUTED:
                raise ApprovalUnavailable(
                    f"approval request `{name}` is {hold.phase.value}, not used", "report this as a bug of the gate"
                )
            fields = outcome_of(outcome, now)
            status = msgspec.structs.replace(document.status, outcome=fields)
            self._files.save(msgspec.structs.replace(document, status=status))

    async def find_pending(self, request: HoldRequest, now: float) -> str | None:
        async with self._locked():
            hold = self._find(Phase.PENDING, request, now)
            return None if hold is None else hold.name

    def _current(self, name: str, index: Index, now: float) -> Hold:
        return self._files.hold(name, index, now, self._digests.get(name))[0]

    def _find(self, phase: Phase, request: HoldRequest, now: float) -> Hold | None:
        """The newest request of this kind. One that was tampered with is passed over: nothing comes of it."""
        fingerprint, requester_key = request.fingerprint, request.requester_key
        index = self._files.load_index()
        for name in sorted(index, reverse=True):
            entry = index[name]
            if entry.fingerprint != fingerprint or entry.requester_key != requester_key or not entry.is_open(now):
                continue
            with contextlib.suppress(ApprovalUnavailable):
                hold = self._current(name, index, now)
                if hold.phase is phase and (hold.request.fingerprint, hold.request.requester_key) == (fingerprint, requester_key):
                    return hold
        return None

    def _given_out(self, hold: Hold, now: float) -> Verdict:
        """Inside the lock: the verdict of a decided request, an approval used up by it."""
        after = execute(hold, now)
        index = self._files.load_index()
        entry = index[hold.name]
        if after is not None:
            entry.ended = Phase.EXECUTED.value
            self._files.save_index(index)  # first: should the rest fail, the approval is lost, never used twice
        elif hold.phase is Phase.DENIED and not entry.ended:
            entry.ended = Phase.DENIED.value  # no longer counted as open
            self._files.save_index(index)
        if after is None and hold.phase is not Phase.EXPIRED:
            return verdict(hold)
        _, document = self._files.hold(hold.name, index, now, self._digests.get(hold.name))
        self._files.save(with_hold(document, after or hold))
        return verdict(hold)

    def _new_name(self, index: Index, now: float) -> str:
        while True:
            name = new_name(now, self._random_bytes(4))
            if name not in index and self._files.stamp(name) is None:
                return name

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        for _ in range(_LOCK_ATTEMPTS):
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(self._files.locked())
                except DirectoryBusyError:
                    pass
                else:
                    yield
                    return
            await asyncio.sleep(_LOCK_RETRY_S)
        raise ApprovalUnavailable(
            f"directory `{self._files.directory}` stays locked by another process", "end the process that holds it"
        )


def _refuse_too_many(index: Index, request: HoldRequest, now: float) -> None:
    """Raises TooManyApprovals."""
    who, target = request.requester_key, _target_of(request)
    pending = sum(entry.requester_key == who and entry.is_open(now) for entry in index.values())
    if pending >= MAX_OPEN_PER_REQUESTER:
        raise TooManyApprovals(
            f"`{request.requester}` has {pending} open approval requests", "have some decided, or cancel the statements"
        )
    here = [entry for entry in index.values() if entry.target == target]
    mine = [entry.requested_at for entry in here if entry.requester_key == who]
    fast = too_often(f"`{request.requester}`", request.target, mine, now, NEW_PER_PRINCIPAL) or too_often(
        "all together", request.target, [entry.requested_at for entry in here], now, NEW_PER_TARGET
    )
    if fast is not None:
        raise TooManyApprovals(fast.problem, fast.way_forward)


def _target_of(request: HoldRequest) -> str:
    return f"{request.namespace}/{request.target}"
