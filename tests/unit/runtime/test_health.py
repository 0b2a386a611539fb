from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from sidegate.runtime import health as module
from sidegate.runtime.health import Health, HealthListener, watch_loop_lag
from sidegate.runtime.metrics import Metrics


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Everything until the end; a reset is an end too."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


class Fixture:
    def __init__(self) -> None:
        self.health = Health("config", "listener", started_by="listener")
        self.metrics = Metrics("1.2.3")
        self.listener = HealthListener(self.health, self.metrics, request_timeout_s=0.3)
        self.port = 0

    async def send(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Raw bytes in, (status, headers, body) out; status 0: closed without an answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        whole = await rest(reader)
        writer.close()
        head, _, body = whole.partition(b"\r\n\r\n")
        if not head:
            return 0, {}, b""
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, value in headers.items()}, body

    async def get(self, path: str) -> tuple[int, bytes]:
        status, _, body = await self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return status, body


@pytest_asyncio.fixture
async def gate() -> AsyncIterator[Fixture]:
    fixture = Fixture()
    fixture.port = await fixture.listener.start("127.0.0.1", 0)
    yield fixture
    await fixture.listener.close()


async def test_a_gate_is_live_before_it_is_started_and_says_what_it_lacks(gate: Fixture) -> None:
    assert await gate.get("/live") == (200, b"live\n")
    gate.health.lacking("config", "gate config `/etc/gate.json` can't be read")
    assert await gate.get("/started") == (
        503,
        b"not ready\nconfig: gate config `/etc/gate.json` can't be read\nlistener: not there yet\n",
    )
    assert (await gate.get("/ready"))[0] == 503


async def test_it_has_started_as_soon_as_it_listens_and_stays_started(gate: Fixture) -> None:
    assert (await gate.get("/started"))[0] == 503
    gate.health.met("listener")
    assert await gate.get("/started") == (200, b"started\n")
    assert (await gate.get("/ready"))[0] == 503
    gate.health.met("config")
    assert await gate.get("/ready") == (200, b"ready\n")
    gate.health.lacking("recording", "disk full")
    assert await gate.get("/ready") == (503, b"not ready\nrecording: disk full\n")
    assert (await gate.get("/started"))[0] == 200
    gate.health.met("recording")
    assert (await gate.get("/ready"))[0] == 200


async def test_a_draining_gate_is_not_ready_but_live(gate: Fixture) -> None:
    gate.health.met("config")
    gate.health.met("listener")
    gate.health.drain()
    assert await gate.get("/ready") == (503, b"not ready\ndraining\n")
    assert (await gate.get("/live"))[0] == 200


async def test_a_stock_http_client_reads_the_metrics(gate: Fixture) -> None:
    def scrape() -> tuple[int, str | None, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=5)
        try:
            connection.request("GET", "/metrics", headers={"Accept": "*/*", "Content-Length": "0"})
            response = connection.getresponse()
            return response.status, response.getheader("content-type"), response.read()
        finally:
            connection.close()

    status, content_type, body = await asyncio.to_thread(scrape)
    assert status == 200
    assert content_type is not None
    assert content_type.startswith("text/plain")
    assert b"sidegate_sessions_open 0.0\n" in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE"])
async def test_only_get_is_answered(gate: Fixture, method: str) -> None:
    status, headers, _ = await gate.send(f"{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (status, headers.get("allow")) == (405, "GET")


@pytest.mark.parametrize(
    "path", ["/", "/metrics/", "//metrics", "/live/../metrics", "/metrics%00", "/%6cive", "/etc/passwd", "/Live"]
)
async def test_only_the_four_paths_exist(gate: Fixture, path: str) -> None:
    assert (await gate.get(path))[0] == 404


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /live\r\n\r\n",
        b"GET  /live HTTP/1.1\r\n\r\n",
        b"GET /live HTTP/2.0\r\n\r\n",
        b"GET live HTTP/1.1\r\n\r\n",
        b"GET http://x/live HTTP/1.1\r\n\r\n",
        b"GET /live HTTP/1.1 \r\n\r\n",
        b"get /live HTTP/1.1\r\n\r\n",
        b"GET /li\x00ve HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /live HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"GET /live HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\r\n\r\n",
    ],
)
async def test_what_is_no_plain_get_is_refused(gate: Fixture, request_bytes: bytes) -> None:
    assert (await gate.send(request_bytes))[0] == 400


async def test_a_second_request_on_the_same_connection_is_not_read(gate: Fixture) -> None:
    one = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"
    status, headers, body = await gate.send(one + one)
    assert (status, headers["connection"], body) == (200, "close", b"live\n")


async def test_a_request_without_end_is_refused_at_its_size_limit(gate: Fixture) -> None:
    status, _, _ = await gate.send(b"GET /live HTTP/1.1\r\nX: " + b"a" * module.MAX_REQUEST_BYTES + b"\r\n\r\n")
    assert status == 431


async def test_a_client_that_says_nothing_is_dropped(gate: Fixture) -> None:
    async with asyncio.timeout(5):
        assert (await gate.send(b"GET /live HTTP/1.1\r\n"))[0] == 0
    assert (await gate.get("/live"))[0] == 200


async def test_a_client_that_leaves_early_does_no_harm(gate: Fixture) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", gate.port)
    writer.write(b"GET /li")
    writer.close()
    await writer.wait_closed()
    assert (await gate.get("/live"))[0] == 200


async def test_connections_are_bounded_and_free_again_after_the_time_limit(gate: Fixture) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", gate.port) for _ in range(module.MAX_CONNECTIONS)]
    assert (await gate.get("/live"))[0] == 0
    async with asyncio.timeout(5):
        for reader, _ in idle:
            assert await rest(reader) == b""
    for _, writer in idle:
        writer.close()
    assert (await gate.get("/live"))[0] == 200


async def test_closing_ends_the_connections_that_are_open(gate: Fixture) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
    writer.write(b"GET /live HTTP/1.1\r\n")
    await writer.drain()
    await gate.get("/live")  # by now the first connection was accepted too
    await gate.listener.close()
    async with asyncio.timeout(5):
        assert await rest(reader) == b""
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", gate.port)


async def test_a_blocked_loop_shows_as_lag() -> None:
    metrics = Metrics("1.2.3")
    watching = asyncio.create_task(watch_loop_lag(metrics, interval_s=0.001))
    async with asyncio.timeout(10):
        while not any(counts[-1] > 0.1 for counts in metrics.loop_lag.values.values()):
            await asyncio.sleep(0.002)
            began = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() - began < 0.15:
                pass  # what a long computation does to everyone else
    watching.cancel()
    assert sum(metrics.loop_lag.values[()][-5:-1]) >= 1
