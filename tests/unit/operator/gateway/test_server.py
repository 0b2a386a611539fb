"""The listener's bounds: connections, strangers, bodies, requests of one pod; and its end."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from sidegate.api.access_policy import AccessPolicy
from sidegate.api.approval_request import ApprovalRequest
from sidegate.api.text import Timestamp
from sidegate.gateway.pace import Pace
from sidegate_operator.api_client import ApiClient
from sidegate_operator.apply import Writer
from sidegate_operator.cluster import Cluster
from sidegate_operator.credentials import Credentials
from sidegate_operator.gateway.authentication import Authentication
from sidegate_operator.gateway.reports import Reports
from sidegate_operator.gateway.server import Gateway
from sidegate_operator.gateway.service import Service
from sidegate_operator.gateway.settings import Limits
from sidegate_operator.gateway.waiting import Waiting
from sidegate_operator.plan.approval_lifecycle import Quota
from sidegate_operator.plan.gate_config import plan_gate_config
from sidegate_operator.resources import APPROVAL_REQUESTS, CONFIG_MAPS, PODS, PROTECTED_TARGETS
from sidegate_operator.serving.tls import listening_context, load_chain
from tests.support.cluster_authority import Authority
from tests.unit.operator.approval_objects import stored_request
from tests.unit.operator.gateway.test_asking import pod, review, token
from tests.unit.operator.gateway.test_authentication import NOW
from tests.unit.operator.gateway.test_holding import RULE, TARGET, hold
from tests.unit.operator.snapshots import policy, target

AUTHORITY = Authority.create("gateway-tests")
HEAD = f"Host: localhost\r\nAuthorization: Bearer {token(exp=NOW + 3600)}\r\n"


@dataclass
class Listening:
    port: int
    service: Service
    answers: list[tuple[str, int]]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context)

    async def ask(self, text: str, body: bytes = b"") -> tuple[int, dict[str, Any]]:
        status, _, told = await self.ask_whole(text, body)
        return status, told

    async def ask_whole(self, text: str, body: bytes = b"") -> tuple[int, str, dict[str, Any]]:
        """Status, head and body."""
        reader, writer = await self.connect()
        try:
            writer.write(text.encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next((int(each.split(":")[1]) for each in head.splitlines() if each.lower().startswith("content-length")), 0)
            content = await reader.readexactly(length)
        finally:
            writer.close()
        return int(head.split()[1]), head, json.loads(content) if content else {}


def post(path: str, body: bytes, **headers: str) -> tuple[str, bytes]:
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    kind = "Content-Type: application/json\r\n"
    return f"POST /v1/targets/shop/shop-db/{path} HTTP/1.1\r\n{HEAD}{kind}Content-Length: {len(body)}\r\n{extra}\r\n", body


def get(path: str) -> str:
    return f"GET /v1/targets/shop/shop-db/{path} HTTP/1.1\r\n{HEAD}\r\n"


@asynccontextmanager
async def listening(
    answer: Callable[[], dict[str, Any]] = review, unguarded: str | None = "unguarded", quota: Quota | None = None, **limits: Any
) -> AsyncIterator[Listening]:
    """With one gate, its target and one request in the stores; the API server knows the token, and isn't there for anything else."""
    cluster, waiting, answers = Cluster("sidegate-system"), Waiting(), list[tuple[str, int]]()
    found = pod(metadata={"resourceVersion": "5"})
    for resource, each in ((PODS, found), (PROTECTED_TARGETS, target()), (APPROVAL_REQUESTS, stored_request())):
        cluster.stores[resource].relisted([{"apiVersion": "v1", "kind": resource.kind, **each}], "10")
    loop = asyncio.get_running_loop()

    async def create(_: dict[str, Any]) -> dict[str, Any]:
        return answer()

    async with ApiClient(Credentials("https://127.0.0.1:1")) as client:
        writer = Writer(client, cluster.stores, lambda: True, lambda: NOW, "tests")
        reports = Reports(loop.time())
        service = Service(
            cluster,
            writer,
            "sidegate-system",
            lambda: NOW,
            loop.time,
            reports,
            waiting,
            lambda: unguarded,
            lambda _: None,
            quota or Quota(),
        )
        gateway = Gateway(
            service,
            Authentication(create, lambda: NOW, loop.time),
            replace(Limits(), **limits),
            lambda action, status: answers.append((action, status)),
        )
        tls = listening_context(minimum=ssl.TLSVersion.TLSv1_3)
        pair = AUTHORITY.issue_for_host("127.0.0.1")
        load_chain(tls, pair.certificate, pair.key)
        async with gateway.listening(tls, "127.0.0.1", 0) as port:
            yield Listening(port, service, answers)


REPORT = b'{"revision":"r1","version":"1","sessions":0}'


async def test_a_gate_reports_and_is_told_that_holds_are_refused() -> None:
    async with listening() as running:
        assert await running.ask(*post("report", REPORT)) == (200, {"nextS": 10.0, "canHold": False, "problem": "unguarded"})
        assert list(running.service.reports.versions()) == ["1"]
        assert running.answers == [("report", 200)]


async def test_nothing_of_a_strangers_body_is_read() -> None:
    """The refusal comes while the body is still to come."""
    async with listening(lambda: review(authenticated=False)) as running:
        head, _ = post("holds", b"x" * 100_000)
        status, told = await running.ask(head)
        assert (status, told["type"]) == (401, "Unauthenticated")


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("report", b"x" * (512 * 1024 + 1), {}, 413),
        ("report", b"[" * 200_000, {}, 400),
        ("report", b"\xff\xfe", {}, 400),
        ("report", REPORT[:-1] + b',"more":1}', {}, 400),
        ("report", b"", {}, 400),
        ("report", b"x\x9c\xcbH\xcd\xc9\xc9\x07\x00\x06,\x02\x15", {"Content-Encoding": "deflate"}, 400),
        ("holds/ar-1/claim", b'{"uid":""}', {}, 400),
    ],
    ids=["large", "deep", "no-text", "unknown-field", "empty", "compressed", "constraint"],
)
async def test_a_body_that_isnt_one_is_refused(path: str, body: bytes, headers: dict[str, str], status: int) -> None:
    async with listening() as running:
        said, told = await running.ask(*post(path, body, **headers))
        assert said == status
        assert told["wayForward"]


async def test_a_body_that_doesnt_come_is_waited_for_in_vain() -> None:
    async with listening(body_s=0.2) as running:
        head, body = post("report", REPORT)
        assert (await running.ask(head, body[:5]))[0] == 400


async def test_a_connection_on_which_nobody_is_known_is_closed() -> None:
    async with listening(unknown_s=0.3) as running:
        reader, writer = await running.connect()
        writer.write(b"GET / HTTP/1.1\r\n")  # and nothing more
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_over_the_limit_of_connections_nobody_gets_in_when_all_are_gates() -> None:
    async with listening(max_connections=1) as running:
        waiting = asyncio.create_task(running.ask(get("holds/ar-1?wait=20&version=10")))
        while not len(running.service.waiting):
            await asyncio.sleep(0)
        with pytest.raises((OSError, EOFError)):
            await running.ask(get("holds/ar-1"))
        waiting.cancel()


@pytest.mark.parametrize("limit", ["max_connections", "max_unknown", "max_unknown_of_one"])
async def test_over_the_limit_of_strangers_the_oldest_gives_way_to_a_gate(limit: str) -> None:
    limits: dict[str, Any] = {limit: 1}
    async with listening(review, **limits) as running:
        stranger, writer = await running.connect()
        assert (await running.ask(get("holds/ar-1")))[0] == 200
        assert await asyncio.wait_for(stranger.read(), 5) == b""
        writer.close()


async def test_strangers_never_push_a_gate_out() -> None:
    async with listening(max_unknown=2) as running:
        waiting = asyncio.create_task(running.ask(get("holds/ar-1?wait=20&version=10")))
        while not len(running.service.waiting):
            await asyncio.sleep(0)
        writers = [(await asyncio.open_connection("127.0.0.1", running.port))[1] for _ in range(20)]
        assert (await running.ask(get("holds/ar-1")))[0] == 200
        assert not waiting.done()
        waiting.cancel()
        for each in writers:
            each.close()


@pytest.mark.parametrize("is_tls", [False, True], ids=["no handshake", "handshake"])
@pytest.mark.parametrize("is_closed", [False, True], ids=["stay", "leave"])
async def test_connections_that_say_nothing_keep_no_gate_out(*, is_tls: bool, is_closed: bool) -> None:
    async with listening(max_unknown=8) as running:
        writers = []
        for _ in range(40):
            opened = await (running.connect() if is_tls else asyncio.open_connection("127.0.0.1", running.port))
            writers.append(opened[1])
            if is_closed:
                opened[1].transport.abort()
        assert (await running.ask(get("holds/ar-1")))[0] == 200
        for each in writers:
            each.transport.abort()


async def test_over_the_limit_of_one_pod_it_is_told_to_wait() -> None:
    async with listening(max_per_pod=1) as running:
        waiting = asyncio.create_task(running.ask(get("holds/ar-1?wait=20&version=10")))
        while not len(running.service.waiting):
            await asyncio.sleep(0)
        status, head, told = await running.ask_whole(get("holds/ar-1"))
        assert (status, told["type"]) == (429, "TooMany")
        assert "Retry-After: 1" in head
        waiting.cancel()


@pytest.mark.parametrize(
    ("quota", "kind"),
    [(Quota(max_pending_per_principal=1), "OverQuota"), (Quota(new_per_principal=Pace(1, 600.0)), "TooOften")],
    ids=["pending", "rate"],
)
async def test_over_a_quota_a_gate_is_told_nothing_of_asking_again(quota: Quota, kind: str) -> None:
    """It asks again where it is told when, and its client would wait for nothing."""
    async with listening(unguarded=None, quota=quota) as running:
        publish(running)
        status, head, told = await running.ask_whole(*new_hold())
        assert (status, told["type"]) == (429, kind), told
        assert "retry-after" not in head.lower()
        assert running.answers == [("new-hold", 429)]


async def test_what_is_being_made_and_already_seen_counts_once() -> None:
    """With one there and one asked for, two are no more than two: then it is the API server that can't be reached."""
    async with listening(unguarded=None, quota=Quota(max_pending_per_principal=2)) as running:
        publish(running)
        running.service._making.append(ApprovalRequest.from_wire(stored_request()))
        assert (await running.ask(*new_hold()))[0] == 503
        running.service._making.append(ApprovalRequest.from_wire(stored_request("ar-3")))
        assert (await running.ask(*new_hold()))[0] == 429


def publish(running: Listening) -> None:
    """The rules of the target in the stores."""
    found = plan_gate_config(TARGET, [AccessPolicy.from_wire(policy(rules=[RULE]))], "").config_map
    assert found is not None
    found["metadata"]["resourceVersion"] = "5"
    running.service.cluster.stores[CONFIG_MAPS].relisted([found], "10")


def new_hold() -> tuple[str, bytes]:
    asked = {"name": "ar-2", "holdUntil": str(Timestamp.from_epoch(NOW + 60)), "spec": hold().spec}
    return post("holds", json.dumps(asked).encode())


async def test_who_waits_hears_of_a_change_and_else_of_nothing_new() -> None:
    async with listening() as running:
        assert (await running.ask(get("holds/ar-1?wait=0.05&version=10")))[0] == 304
        waiting = asyncio.create_task(running.ask(get("holds/ar-1?wait=20&version=10")))
        while not len(running.service.waiting):
            await asyncio.sleep(0)
        store = running.service.cluster.stores[APPROVAL_REQUESTS]
        change = store.seen(stored_request(metadata={"resourceVersion": "11"}))
        assert change is not None
        running.service.waiting.wake(change.key)
        status, told = await waiting
        assert (status, told["request"]["metadata"]["resourceVersion"]) == (200, "11")


async def test_at_the_end_who_waits_is_answered_at_once() -> None:
    async with listening() as running:
        waiting = asyncio.create_task(running.ask(get("holds/ar-1?wait=30&version=10")))
        while not len(running.service.waiting):
            await asyncio.sleep(0)
    status, told = await waiting
    assert (status, told["type"]) == (503, "Unavailable")


async def test_an_error_of_ours_refuses_and_quotes_nothing() -> None:
    def fails() -> dict[str, Any]:
        raise RuntimeError("SECRET")

    async with listening(fails) as running:
        status, told = await running.ask(get("holds/ar-1"))
        assert (status, "SECRET" in str(told)) == (503, False)
