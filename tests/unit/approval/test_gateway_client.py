"""Requests to the gateway: who answers is verified each time, each replica is tried, and it is known whether a request may have arrived."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidegate.approval.gateway_client import Address, GatewayClient, GatewayError
from tests.support import processes
from tests.support.fake_gateway import FakeGateway, Fault

PATH = "/v1/targets/shop/shop-db/holds?fingerprint=f&issuer=i&subject=s"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[FakeGateway]:
    with FakeGateway(tmp_path / "gateway") as running:
        yield running


def client_of(gateway: FakeGateway, *ports: int, **settings: object) -> GatewayClient:
    """At these ports, one replica each; without any, at the gateway's own."""

    async def replicas(host: str, port: int) -> tuple[Address, ...]:
        return tuple(("127.0.0.1", each) for each in ports or (port,))

    chosen = replace(gateway.settings, **settings)  # type: ignore[arg-type]
    return GatewayClient(chosen, resolve_name=replicas, connect_timeout_s=5, answer_timeout_s=5)


async def test_asks_with_the_token_and_the_authority_that_the_files_have_now(tmp_path: Path, gateway: FakeGateway) -> None:
    client = client_of(gateway)
    assert (await client.ask("GET", PATH, None)).status == 200
    gateway.token = "token.2"
    assert (await client.ask("GET", PATH, None)).status == 401
    gateway.token_file.write_text("token.2")
    assert (await client.ask("GET", PATH, None)).status == 200
    authority = gateway.ca_file.read_bytes()
    with FakeGateway(tmp_path / "other") as other:
        gateway.ca_file.write_bytes(other.ca_file.read_bytes())
        with pytest.raises(GatewayError, match="certificate"):
            await client.ask("GET", PATH, None)
        gateway.ca_file.write_bytes(other.ca_file.read_bytes() + authority)  # while authorities overlap
        assert (await client.ask("GET", PATH, None)).status == 200


async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    with FakeGateway(tmp_path / "other", names=("elsewhere.example",)) as gateway:
        with pytest.raises(GatewayError, match="certificate") as caught:
            await client_of(gateway).ask("GET", PATH, None)
        assert not caught.value.may_have_arrived
        assert gateway.requests == []


async def test_the_machines_own_authorities_are_not_asked(
    tmp_path: Path, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(gateway.ca_file))
    with FakeGateway(tmp_path / "other") as other, pytest.raises(GatewayError, match="certificate"):
        await client_of(gateway, ca_file=other.ca_file).ask("GET", PATH, None)
    assert gateway.requests == []


async def test_older_tls_is_refused(tmp_path: Path) -> None:
    with FakeGateway(tmp_path / "old", newest_tls=ssl.TLSVersion.TLSv1_2) as gateway:
        with pytest.raises(GatewayError):
            await client_of(gateway).ask("GET", PATH, None)
        assert gateway.requests == []


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\xfe", b"x" * 2_000_000])
@pytest.mark.parametrize("file", ["ca_file", "token_file"])
async def test_without_a_usable_authority_or_token_nothing_is_sent(
    tmp_path: Path, gateway: FakeGateway, file: str, content: bytes | None
) -> None:
    path = tmp_path / "broken"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GatewayError) as caught:
        await client_of(gateway, **{file: path}).ask("GET", PATH, None)
    assert str(path) in f"{caught.value} {caught.value.way_forward}"
    assert not caught.value.may_have_arrived
    assert gateway.requests == []


async def test_the_next_replica_is_asked_when_one_is_gone(gateway: FakeGateway) -> None:
    client = client_of(gateway, processes.free_port(), gateway.port, processes.free_port())
    for _ in range(4):
        assert (await client.ask("POST", PATH.replace("GET", "POST").partition("?")[0], b"{}", may_repeat=False)).status == 400
    assert len(gateway.requests) == 4


async def test_a_request_that_may_have_arrived_is_repeated_only_if_it_may(tmp_path: Path, gateway: FakeGateway) -> None:
    gateway.faults["find"] = Fault.CUT
    client = client_of(gateway, gateway.port, gateway.port, gateway.port)
    with pytest.raises(GatewayError) as caught:
        await client.ask("GET", PATH, None, may_repeat=False)
    assert caught.value.may_have_arrived
    assert len(gateway.requests) == 1
    with pytest.raises(GatewayError) as caught:
        await client.ask("GET", PATH, None)
    assert caught.value.may_have_arrived
    assert len(gateway.requests) == 4


async def test_a_replica_that_can_not_serve_is_left_for_another(tmp_path: Path, gateway: FakeGateway) -> None:
    with FakeGateway(tmp_path / "second") as second:
        second.token, second.ca_file = gateway.token, gateway.ca_file
        second._certificate = gateway._certificate
        second.go_down()
        second.come_back()
        client = client_of(gateway, gateway.port, second.port)
        gateway.faults["find"] = Fault.UNAVAILABLE
        assert [(await client.ask("GET", PATH, None)).status for _ in range(3)] == [503, 200, 200]


async def test_a_replica_that_takes_connections_and_says_nothing_costs_a_bounded_time(gateway: FakeGateway) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.transport.abort()
        left.set()

    left = asyncio.Event()
    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        client = GatewayClient(
            replace(gateway.settings, url=f"https://127.0.0.1:{port}"), connect_timeout_s=0.2, answer_timeout_s=0.2
        )
        with pytest.raises(GatewayError, match="in time") as caught:
            await asyncio.wait_for(client.ask("GET", PATH, None), 5)
        assert not caught.value.may_have_arrived
        await left.wait()  # its end of the connection is closed too
    finally:
        listening.close()


async def test_a_name_that_is_not_there_says_so(gateway: FakeGateway) -> None:
    client = GatewayClient(replace(gateway.settings, url="https://gateway.invalid:8443"))
    with pytest.raises(GatewayError) as caught:
        await client.ask("GET", PATH, None)
    assert "https://gateway.invalid:8443" in str(caught.value)
    assert "https://gateway.invalid:8443" in caught.value.way_forward


async def test_a_request_that_is_given_up_at_whatever_moment_leaves_no_connection(gateway: FakeGateway) -> None:
    """Between the end of a handshake and who waits for it there is a moment, in which TLS would say goodbye and wait for one."""
    gateway.faults["find"] = Fault.HANG
    client, loop = client_of(gateway), asyncio.get_running_loop()
    sockets: list[Any] = []
    connect = loop.create_connection

    async def watched(factory: Callable[[], asyncio.Protocol], *arguments: Any, **more: Any) -> Any:
        """Gives up who asked as soon as the handshake is over."""

        def observed() -> asyncio.Protocol:
            protocol = factory()
            told = protocol.connection_made

            def connection_made(transport: asyncio.BaseTransport) -> None:
                told(transport)
                sockets.append(transport.get_extra_info("socket"))
                asking.cancel()

            protocol.connection_made = connection_made  # type: ignore[method-assign]
            return protocol

        return await connect(observed, *arguments, **more)

    loop.create_connection = watched  # type: ignore[assignment,method-assign]
    try:
        asking = asyncio.create_task(client.ask("GET", PATH, None))
        with pytest.raises(asyncio.CancelledError):
            await asking
    finally:
        loop.create_connection = connect  # type: ignore[method-assign]
    for _ in range(3):
        await asyncio.sleep(0)
    assert [each.fileno() for each in sockets] == [-1], "its socket is closed without anybody's answer"
