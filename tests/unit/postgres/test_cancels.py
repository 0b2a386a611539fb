"""A CancelRequest's connection stays open until the target has signalled: who waits for its end can't cancel its own next statement."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from sidegate.policy.config import AddressConfig, TargetTlsMode
from sidegate.postgres.cancels import Cancels
from sidegate.postgres.login import TargetAddress
from sidegate.postgres.passthrough import Passthrough


def test_a_cancel_is_done_when_the_target_has_closed_its_connection() -> None:
    async def scenario() -> tuple[bool, bool, bytes]:
        may_close, seen = asyncio.Event(), asyncio.get_running_loop().create_future()

        async def target(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.set_result(await reader.readexactly(16))
            await may_close.wait()
            writer.close()

        server = await asyncio.start_server(target, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        address = TargetAddress(AddressConfig("127.0.0.1", port), TargetTlsMode.LOOPBACK, None)
        cancels = Cancels(None, lambda: address, lambda source: None)
        cancels.passing[7, b"keys"] = cast("Passthrough", SimpleNamespace())
        (task,) = cancels.take(7, b"keys", "127.0.0.1")
        request = await seen
        was_done = task.done()
        may_close.set()
        await asyncio.wait_for(task, 10)
        server.close()
        return was_done, task.done(), cast("Any", request)

    was_done, is_done, request = asyncio.run(scenario())
    assert (was_done, is_done) == (False, True)
    assert request[8:] == (7).to_bytes(4, "big") + b"keys"


def test_a_cancel_for_nobody_has_nothing_to_wait_for() -> None:
    seen: list[str] = []
    assert Cancels(None, lambda: None, seen.append).take(7, b"keys", "10.0.0.1") == set()
    assert seen == ["10.0.0.1"]
