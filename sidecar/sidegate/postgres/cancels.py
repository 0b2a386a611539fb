"""Which session a CancelRequest is for, also between workers that share a port. The keys are the gate's own; the target's are never shown.

A session's process id has its worker in bits 24 to 29 (`WORKER_SHIFT`), so that whichever worker a CancelRequest comes to knows whose it
is. Rules: only the right key does anything, nothing is ever answered, and one that named no session is written down once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from sidegate.postgres.login import TargetAddress, cancel_at_target
from sidegate.postgres.passthrough import Passthrough
from sidegate.postgres.relay import Relay

WORKER_SHIFT: Final = 24

CancelKey: TypeAlias = tuple[int, bytes]  # process id and key, as BackendKeyData has them
ReceiveCancel: TypeAlias = Callable[[int, bytes, str], None]  # process id, key, source address


class CancelPost(Protocol):
    """How workers that share a port tell each other of cancels."""

    worker: int

    def send(self, worker: int, process_id: int, key: bytes, source_address: str) -> None: ...
    def send_to_others(self, process_id: int, key: bytes, source_address: str) -> None: ...


class Cancels:
    """The keys of one worker's sessions. `target` is where passthrough sessions are cancelled, None while there is no config; `unmatched`
    is told the source address of a request that was for no session of the gate's own.
    """

    def __init__(
        self, post: CancelPost | None, target: Callable[[], TargetAddress | None], unmatched: Callable[[str], None]
    ) -> None:
        self.relays: dict[CancelKey, Relay] = {}
        self.passing: dict[CancelKey, Passthrough] = {}
        self._post = post
        self._target = target
        self._unmatched = unmatched
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_process_id = secrets.randbelow(1 << WORKER_SHIFT)

    def mint_key(self, minor: int) -> CancelKey:
        """A key for a session of protocol 3.`minor`: 4 bytes for 3.0, 32 from 3.2 on."""
        self._next_process_id = (self._next_process_id + 1) % (1 << WORKER_SHIFT)
        worker = self._post.worker if self._post is not None else 0
        return (worker << WORKER_SHIFT) | self._next_process_id, secrets.token_bytes(32 if minor >= 2 else 4)

    def take(self, process_id: int, key: bytes, source_address: str) -> set[asyncio.Task[None]]:
        """One that a client sent here: carried out, or passed to the worker it is for. The connection it came by stays open until these
        tasks have ended, which is after the target signalled: a client that waits for its end can't hit its next statement.
        """
        worker = process_id >> WORKER_SHIFT
        if self._post is None or self._is_known(process_id, key):
            return self._carry_out(process_id, key, source_address)
        if worker not in (self._post.worker, 0):
            self._post.send(worker, process_id, key, source_address)
        else:  # of worker 0, or of a passthrough session, whose key is the target's and doesn't say where it is
            self._post.send_to_others(process_id, key, source_address)
            if worker == self._post.worker:
                return self._carry_out(process_id, key, source_address)
        return set()

    def receive(self, process_id: int, key: bytes, source_address: str) -> None:
        """One that another worker was sent. Whose process id it is writes it down, whatever the key."""
        is_mine = self._post is not None and process_id >> WORKER_SHIFT == self._post.worker
        if is_mine or self._is_known(process_id, key):
            self._carry_out(process_id, key, source_address)

    def _is_known(self, process_id: int, key: bytes) -> bool:
        return (process_id, key) in self.relays or (process_id, key) in self.passing

    def _carry_out(self, process_id: int, key: bytes, source_address: str) -> set[asyncio.Task[None]]:
        relay = self.relays.get((process_id, key))
        if relay is not None:
            return relay.cancel(source_address)
        address = self._target()
        self._unmatched(source_address)
        if (process_id, key) not in self.passing or address is None:
            return set()
        self._tasks.add(task := asyncio.get_running_loop().create_task(cancel_at_target(address, process_id, key)))
        task.add_done_callback(self._tasks.discard)
        return {task}
