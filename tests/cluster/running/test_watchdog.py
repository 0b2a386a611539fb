"""A watch that gives no sign of life ends the process: /healthz says so, and so does the exit status."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sidegate_operator.api_client import ApiClient
from sidegate_operator.clock import elapsed, now
from sidegate_operator.credentials import Credentials
from sidegate_operator.lease import Election, Leadership, Terms
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.process import FAILED, Operator
from sidegate_operator.settings import Settings
from sidegate_operator.watcher import WatchLimits
from tests.support.api_server import ApiServer
from tests.support.running_operator import GATE_IMAGE


@pytest.mark.parametrize("leads", [True, False], ids=["leading", "standing by"])
async def test_ends_when_its_watches_hang_although_their_own_limit_would_let_them(
    api_server: ApiServer, namespace: str, leads: bool
) -> None:
    """A stand-in for whatever hangs: the silence that a watch may have is longer here than what the watchdog bears."""
    settings = Settings(
        namespace, "operator-under-test", GateSettings(GATE_IMAGE, "1"), terms=Terms(600, 400, 200), stale_after_s=0.5
    )
    credentials = Credentials.from_kubeconfig(Path(api_server.kubeconfig))
    assert settings.watch.silence_s > settings.stale_after_s
    assert (
        WatchLimits().silence_s < Settings.__dataclass_fields__["stale_after_s"].default
    )  # in earnest it is the other way round
    async with ApiClient(credentials) as client:
        election = Election(settings.identity, settings.terms)
        operator = Operator(settings, credentials, client, Leadership(client, namespace, "lease", election, elapsed, now))
        with api_server.paused():
            try:
                stop = asyncio.Event()
                async with asyncio.timeout(30), operator.serving_gates(stop):
                    assert await (operator.lead(stop) if leads else operator.live(stop)) == FAILED
                assert any("no sign of life" in line for line in operator.stale())
            finally:
                if operator.deadline is not None:
                    operator.deadline.cancel()
