"""The listener, over real TLS on loopback: whatever goes wrong refuses, and nobody is cut off."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from sidegate_operator.serving.authority import Lifetimes, Step, take_step
from sidegate_operator.serving.tls import listening_context, load_chain
from sidegate_operator.webhook.review import Answer, Review, allow
from sidegate_operator.webhook.server import Admission, Limits, serve
from tests.support.cluster_authority import Authority
from tests.unit.operator.webhook.test_review import body

Decider = Callable[[Review], Awaitable[Answer]]
JSON = {"Content-Type": "application/json"}


async def everything(review: Review) -> Answer:
    return allow(warnings=[f"seen {review.name}"])


async def never(review: Review) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


async def failing(review: Review) -> Answer:
    raise ValueError(f"the object is called {review.name}")


async def ready() -> str | None:
    return None


class Running:
    def __init__(self, admission: Admission, client: aiohttp.ClientSession, port: int, stop: asyncio.Event) -> None:
        self.admission, self.client, self.stop = admission, client, stop
        self.url = f"https://127.0.0.1:{port}"

    async def post(self, path: str, data: Any = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
        async with self.client.post(self.url + path, data=body() if data is None else data, headers=headers or JSON) as answer:
            return answer.status, await answer.text()

    async def review(self, path: str) -> dict[str, Any]:
        code, text = await self.post(path)
        assert code == 200, text
        return dict(json.loads(text)["response"])

    async def get(self, path: str) -> tuple[int, str]:
        async with self.client.get(self.url + path) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def running(
    decider: Decider = everything,
    limits: Limits | None = None,
    client_authority: Authority | None = None,
    user: str | None = None,
    readiness: Callable[[], Awaitable[str | None]] = ready,
) -> AsyncIterator[Running]:
    held = take_step(Step.CREATE, None, ("127.0.0.1",), time.time(), Lifetimes())  # noqa: TID251 - TLS reads this clock
    tls = listening_context(client_authority.pem.decode() if client_authority else None)
    load_chain(tls, held.serving.certificate, held.serving.key)
    calling = ssl.create_default_context(cadata=held.authority.certificate.decode())
    if client_authority is not None and user is not None:
        pair = client_authority.issue_for_user(user)
        load_chain(calling, pair.certificate, pair.key)
    limits = limits or Limits(leaving_s=0.05)
    admission = Admission({"/validate": decider}, readiness, limits, needs_client_certificate=client_authority is not None)
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(admission, tls, "127.0.0.1", 0, stop, on_listening=port.set_result))
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=calling)) as client:
            yield Running(admission, client, await port, stop)
    finally:
        stop.set()
        await task


async def test_answers_a_review() -> None:
    async with running() as it:
        assert await it.review("/validate") == {"uid": "705ab4f5", "allowed": True, "warnings": ["seen shop-db-0"]}


@pytest.mark.parametrize(
    ("data", "headers", "code"),
    [
        (b"{}", JSON, 400),
        (body()[:-5], JSON, 400),
        (b"", JSON, 400),
        (body(), {"Content-Type": "text/plain"}, 415),
        (b" " * 200_000, JSON, 413),
    ],
)
async def test_refuses_what_is_no_review(data: bytes, headers: dict[str, str], code: int) -> None:
    async with running(limits=Limits(max_body_bytes=100_000, leaving_s=0.05)) as it:
        assert (await it.post("/validate", data, headers))[0] == code
        assert 'sidegate_admission_unreadable_total{path="/validate"} 1.0' in (await it.get("/metrics"))[1]


@pytest.mark.parametrize("path", ["/", "/inject", "/validate/", "/validate/../validate2"])
async def test_knows_no_other_paths(path: str) -> None:
    async with running() as it:
        assert (await it.post(path))[0] == 404


async def test_refuses_by_itself_before_the_api_server_gives_up() -> None:
    async with running(never, Limits(budget_s=0.1, leaving_s=0.05)) as it:
        refused = await it.review("/validate")
        assert (refused["allowed"], refused["status"]["reason"]) == (False, "Timeout")
        assert "fix: " in refused["status"]["message"]


async def test_keeps_to_the_timeout_that_the_api_server_names() -> None:
    async with running(never, Limits(budget_s=60, leaving_s=0.05)) as it:
        assert (await it.review("/validate?timeout=1s"))["status"]["reason"] == "Timeout"


async def test_a_body_that_does_not_arrive_ends_with_the_budget() -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield body()[:50]
        await asyncio.Event().wait()

    async with running(everything, Limits(budget_s=0.1, leaving_s=0.05)) as it:
        assert (await it.post("/validate", slowly()))[0] == 408


async def test_bodies_that_do_not_arrive_hold_up_no_review_of_others() -> None:
    """From another address of loopback, as from another pod."""

    async def never_whole() -> AsyncIterator[bytes]:
        yield body()[:50]
        await asyncio.Event().wait()

    elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0), ssl=False, limit=0)
    limits = Limits(body_s=60, budget_s=60, max_in_flight=2, max_reading=3, max_reading_of_one=2, leaving_s=0.05, finishing_s=0.1)
    async with running(everything, limits) as it, aiohttp.ClientSession(connector=elsewhere) as stranger:
        slow = [asyncio.create_task(stranger.post(it.url + "/validate", data=never_whole(), headers=JSON)) for _ in range(20)]
        while it.admission.metrics.in_flight._value.get() < 20:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            assert (await it.review("/validate"))["allowed"] is True
        for each in slow:
            each.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_an_error_of_ours_refuses_and_tells_nothing_of_the_object(caplog: pytest.LogCaptureFixture) -> None:
    async with running(failing) as it:
        refused = await it.review("/validate")
        assert (refused["allowed"], refused["status"]["reason"]) == (False, "InternalError")
        assert "ValueError" in caplog.text
        assert "shop-db-0" not in caplog.text + json.dumps(refused)
        metrics = (await it.get("/metrics"))[1]
        assert 'sidegate_admission_refusals_total{path="/validate",reason="InternalError"} 1.0' in metrics


async def test_counts_how_long_reviews_take() -> None:
    async with running() as it:
        await it.review("/validate")
        metrics = (await it.get("/metrics"))[1]
        assert 'sidegate_admission_duration_seconds_count{operation="CREATE",path="/validate"} 1.0' in metrics
        assert 'sidegate_admission_duration_seconds_bucket{le="5.0",operation="CREATE",path="/validate"} 1.0' in metrics


async def test_readiness_says_what_is_missing() -> None:
    async def missing() -> str | None:
        return "not trusted yet"

    async with running(readiness=missing) as it:
        assert await it.get("/readyz") == (503, "not trusted yet")
        assert await it.get("/healthz") == (200, "ok")
        assert "sidegate_admission_ready 0.0" in (await it.get("/metrics"))[1]
    async with running() as it:
        assert await it.get("/readyz") == (200, "ok")
        assert "sidegate_admission_ready 1.0" in (await it.get("/metrics"))[1]


async def test_ends_after_the_reviews_in_flight_are_answered() -> None:
    arrived, may_go = asyncio.Event(), asyncio.Event()

    async def waiting(review: Review) -> Answer:
        arrived.set()
        await may_go.wait()
        return allow()

    async with running(waiting, Limits(leaving_s=0.1)) as it:
        in_flight = asyncio.create_task(it.review("/validate"))
        await arrived.wait()
        it.stop.set()
        while (await it.get("/readyz"))[0] != 503:
            await asyncio.sleep(0)
        may_go.set()
        assert (await in_flight)["allowed"] is True


async def test_while_it_leaves_reviews_are_answered_and_connections_given_back() -> None:
    async with running() as it:
        it.admission.is_leaving = True
        async with it.client.post(it.url + "/validate", data=body(), headers=JSON) as answer:
            assert (answer.status, answer.headers["Connection"]) == (200, "close")


async def test_with_a_client_authority_only_its_certificates_get_reviews_decided() -> None:
    authority = Authority.create("api-server")
    async with running(client_authority=authority, user="kube-apiserver") as it:
        assert (await it.review("/validate"))["allowed"] is True
    async with running(client_authority=authority) as it:
        assert (await it.post("/validate"))[0] == 401
        assert await it.get("/readyz") == (200, "ok")
    stranger = Authority.create("api-server")
    async with running(client_authority=authority) as it:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        pair = stranger.issue_for_user("kube-apiserver")
        load_chain(context, pair.certificate, pair.key)
        with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
            async with it.client.post(it.url + "/validate", data=body(), headers=JSON, ssl=context) as answer:
                await answer.read()


def test_the_webhook_brings_neither_kopf_nor_the_kubernetes_client() -> None:
    """Some 100 MiB that it has no use for, and code that watches."""
    program = (
        "import sys, sidegate_operator.webhook.command; print([m for m in ('kopf', 'kubernetes', 'pglast') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == "[]"
