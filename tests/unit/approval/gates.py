"""Gates at a fake gateway: how patient they are, and what tests ask of them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sidegate.approval.backend import Verdict
from sidegate.approval.gateway import GatewayApprovals, Patience
from sidegate.approval.gateway_client import GatewayClient, GatewaySettings

NOW = 1_795_516_530.25
DANA, DORA = "dana@example.com", "dora@example.com"
# Where the gateway answers, times are long and nothing waits for them; where it is to fail, the gate gives up soon.
PATIENT = Patience(asking_s=20.0, telling_s=20.0, doubting_s=0.4, first_pause_s=0.02, longest_pause_s=0.1, wait_s=2)
HASTY = replace(PATIENT, asking_s=1.0)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


_bytes = itertools.count()


def new_gate(
    settings: GatewaySettings, clock: Clock, patience: Patience = PATIENT, answer_timeout_s: float = 10.0
) -> GatewayApprovals:
    """Another gate, or the same after a restart: it remembers nothing."""
    client = GatewayClient(settings, connect_timeout_s=10.0, answer_timeout_s=answer_timeout_s)
    return GatewayApprovals(client, clock=clock, random_bytes=lambda n: next(_bytes).to_bytes(n, "big"), patience=patience)


async def decided(approvals: GatewayApprovals, name: str) -> Verdict:
    return await asyncio.wait_for(approvals.wait(name), 25)


async def off_loop(what: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """The fake's own loop is asked from here, so not on this one."""
    return await asyncio.to_thread(what, *arguments, **more)
