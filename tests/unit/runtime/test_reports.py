"""What a gate tells the gateway, when, and that nothing of it ends the gate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from sidegate.approval.gateway_client import GatewayClient
from sidegate.gateway.messages import Report
from sidegate.runtime.health import Health
from sidegate.runtime.metrics import Metrics
from sidegate.runtime.reports import GatewayReports
from tests.support.fake_gateway import FakeGateway, Fault


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[FakeGateway]:
    with FakeGateway(tmp_path / "gateway") as running:
        yield running


class Gate:
    def __init__(self, *gateways: FakeGateway) -> None:
        self.health = Health("listener", started_by="listener")
        self.health.met("listener")
        self.metrics = Metrics("1.2.3")
        self.target: str | None = "shop/shop-db"
        self.revision = "r-1"
        self.error: Exception | None = None

        async def replicas(host: str, port: int) -> tuple[tuple[str, int], ...]:
            return tuple(("127.0.0.1", each.port) for each in gateways)

        client = GatewayClient(gateways[0].settings, resolve_name=replicas, connect_timeout_s=5, answer_timeout_s=2)
        self.reports = GatewayReports(client, lambda: self.target, self.report, self.health, self.metrics)

    def report(self) -> Report:
        if self.error is not None:
            raise self.error
        return Report(revision=self.revision, version="1.2.3", sessions=3, is_draining=self.health.is_draining)

    @contextlib.asynccontextmanager
    async def reporting(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reports.run())
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def says(self, text: str) -> bool:
        return text in self.health.describe()

    def shows(self, sample: str) -> bool:
        return sample in self.metrics.render().decode()


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(25):
        while not what():
            await asyncio.sleep(0.01)


async def test_it_reports_at_once_when_something_changes_and_again_as_told(gateway: FakeGateway) -> None:
    gateway.next_s = 50.0
    gate = Gate(gateway)
    async with gate.reporting():
        await until(lambda: len(gateway.reports) == 1)
        gate.revision = "r-2"
        gate.reports.poke()
        await until(lambda: len(gateway.reports) == 2)
        gateway.next_s = 0.0  # never more often than once a second
        gate.reports.poke()
        await until(lambda: len(gateway.reports) == 4)
    assert [each.revision for each in gateway.reports] == ["r-1", "r-2", "r-2", "r-2"]
    assert gateway.reports[0] == Report(revision="r-1", version="1.2.3", sessions=3)
    assert gate.shows("sidegate_gateway_takes_holds 1.0")
    assert gate.shows("sidegate_gateway_report_failures_total 0.0")
    assert gate.health.describe() == "ready\n"


async def test_every_replica_is_told_and_one_that_hangs_or_is_gone_keeps_no_other_waiting(
    tmp_path: Path, gateway: FakeGateway
) -> None:
    with FakeGateway(tmp_path / "second") as second, FakeGateway(tmp_path / "third") as third:
        for each in (second, third):
            each._certificate = gateway._certificate  # replicas have one authority
            each.go_down()
            each.token = gateway.token
        second.come_back()
        gate = Gate(gateway, third, second)
        gateway.faults["report"] = Fault.HANG
        async with gate.reporting():
            await until(lambda: second.reports and gate.shows("sidegate_gateway_takes_holds 1.0"))
    assert gate.shows("sidegate_gateway_report_failures_total 2.0")
    assert gate.health.describe() == "ready\n"


async def test_an_operator_that_takes_no_holds_is_a_warning_that_goes(gateway: FakeGateway) -> None:
    gateway.can_hold, gateway.problem = False, "the guard of decisions is \x1bmissing"
    gate = Gate(gateway)
    async with gate.reporting():
        await until(lambda: gate.says("approvals: the operator takes no new holds: the guard of decisions is \\x1bmissing"))
        assert gate.health.is_ready
        assert gate.shows("sidegate_gateway_takes_holds 0.0")
        gateway.can_hold = True
        gate.reports.poke()
        await until(lambda: not gate.says("approvals"))


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.GARBAGE, Fault.CUT, Fault.HUGE, Fault.REDIRECT, None])
async def test_a_gateway_that_fails_is_a_warning_that_goes(gateway: FakeGateway, fault: Fault | None) -> None:
    gate = Gate(gateway)
    if fault is None:
        await asyncio.to_thread(gateway.go_down)
    else:
        gateway.faults["report"] = fault
    async with gate.reporting():
        await until(lambda: gate.says("approvals: statements that need approval are refused:"))
        assert gate.says(gateway.url)
        assert gate.health.is_ready
        assert not gate.shows("sidegate_gateway_report_failures_total 0.0")
        gateway.faults.clear()
        await asyncio.to_thread(gateway.come_back)
        gate.reports.poke()
        await until(lambda: not gate.says("approvals"))


async def test_the_wrong_authority_and_the_wrong_token_are_told_from_each_other(tmp_path: Path, gateway: FakeGateway) -> None:
    with FakeGateway(tmp_path / "other") as other:
        own = gateway.ca_file.read_bytes()
        gateway.ca_file.write_bytes(other.ca_file.read_bytes())
        gate = Gate(gateway)
        async with gate.reporting():
            await until(lambda: gate.says("certificate"))
            gateway.ca_file.write_bytes(own)
            gateway.token_file.write_text("stale")
            gate.reports.poke()
            await until(lambda: gate.says("the token isn't good (401)"))
            gateway.token_file.unlink()
            gate.reports.poke()
            await until(lambda: gate.says("can't be read"))
            gateway.token_file.write_text(gateway.token)  # renewed files are read without a restart
            gate.reports.poke()
            await until(lambda: gateway.reports)


async def test_nothing_ends_reporting(gateway: FakeGateway) -> None:
    gate = Gate(gateway)
    gate.target = None
    gate.error = RuntimeError("a bug")
    async with gate.reporting():
        await until(lambda: gate.says("before it has a config"))
        gate.target = "no name"
        gate.reports.poke()
        await until(lambda: gate.says("is no name"))
        gate.target = "shop/shop-db"
        gate.reports.poke()
        await until(lambda: gate.says("see its log"))
        gate.error = None
        gate.reports.poke()
        await until(lambda: not gate.says("approvals"))


async def test_the_last_report_says_that_it_drains_and_takes_a_bounded_time(gateway: FakeGateway) -> None:
    gate = Gate(gateway)
    gate.health.drain()
    await gate.reports.report_last()
    assert gateway.reports[0].is_draining
    gateway.faults["report"] = Fault.HANG
    await asyncio.wait_for(gate.reports.report_last(), 5)
