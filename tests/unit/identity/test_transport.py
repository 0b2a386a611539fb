"""The transport against a real socket that misbehaves: every limit holds, in bounded time and memory."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from sidegate.identity.transport import HttpTransport, TransportError, TransportLimits
from tests.support.issuer import Fault, Issuer

QUICK = TransportLimits(total_s=1.0, read_s=0.3, max_bytes=64 * 1024)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


async def test_fetches_a_document(issuer: Issuer) -> None:
    answer = await HttpTransport().get(issuer.url + "/.well-known/openid-configuration")
    assert answer.status == 200
    assert issuer.url.encode() in answer.body


async def test_posts_a_form_with_authorization(issuer: Issuer) -> None:
    fields = {"grant_type": "client_credentials", "user": "ada"}
    answer = await HttpTransport().post_form(issuer.url + "/token", fields, "Basic Y3Vyc29yOmRlbW8=")
    assert answer.status == 200
    assert b"access_token" in answer.body


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault.HANG, "broke off: timed out"),
        (Fault.DRIP, "didn't answer within 1 s"),
        (Fault.REDIRECT, "redirect (302), which is refused"),
        (Fault.HUGE, "more than 65536 bytes"),
        (Fault.CUT, "the response is incomplete"),
    ],
)
async def test_a_misbehaving_issuer_is_an_error_in_bounded_time(issuer: Issuer, fault: Fault, said: str) -> None:
    issuer.fault = fault
    started = time.monotonic()
    with pytest.raises(TransportError) as caught:
        await HttpTransport(limits=QUICK).get(issuer.url + "/jwks")
    assert said in str(caught.value)
    assert caught.value.way_forward
    assert time.monotonic() - started < 5


async def test_a_peer_that_never_ends_leaves_no_thread_behind(issuer: Issuer) -> None:
    issuer.fault = Fault.DRIP
    with pytest.raises(TransportError):
        await HttpTransport(limits=TransportLimits(total_s=0.2)).get(issuer.url + "/jwks")
    await _until_no_worker_reads()


async def test_giving_up_ends_the_exchange(issuer: Issuer) -> None:
    issuer.fault = Fault.HANG
    task = asyncio.create_task(HttpTransport(limits=TransportLimits(total_s=60, read_s=60)).get(issuer.url + "/jwks"))
    while not issuer.requests:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _until_no_worker_reads()


async def test_a_redirect_isnt_followed(issuer: Issuer) -> None:
    issuer.fault = Fault.REDIRECT
    with pytest.raises(TransportError):
        await HttpTransport().get(issuer.url + "/other")
    assert dict(issuer.requests) == {"/other": 1}


async def test_a_refused_connection_is_an_error(issuer: Issuer) -> None:
    issuer.go_down()
    with pytest.raises(TransportError, match="can't be reached"):
        await HttpTransport().get(issuer.url + "/jwks")


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/jwks",
        "http://192.0.2.1/jwks",
        "http://127.0.0.1.example/jwks",
        "http://2130706433/jwks",
        "ftp://127.0.0.1/jwks",
        "file:///etc/passwd",
        "https://user:secret@127.0.0.1/jwks",
        "https://127.0.0.1/jwks#fragment",
        "https://127.0.0.1/a b",
        "https://127.0.0.1/jwks\r\nX-Injected: 1",
        "https://127.0.0.1:port/jwks",
        "https:///jwks",
        "//127.0.0.1/jwks",
        "",
    ],
)
async def test_refuses_urls_that_may_not_be_fetched(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connects(*_: object, **__: object) -> socket.socket:
        raise AssertionError("connected")

    monkeypatch.setattr(socket, "create_connection", connects)
    with pytest.raises(TransportError):
        await HttpTransport().get(url)


async def test_plain_http_to_a_name_of_loopback_that_leads_elsewhere_is_refused(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(socket.socket):
        def getpeername(self) -> tuple[str, int]:
            return ("192.0.2.1", 80)

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        found = Elsewhere()
        found.settimeout(timeout)
        found.connect(("127.0.0.1", address[1]))
        return found

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(TransportError, match="led away from loopback"):
        await HttpTransport().get(issuer.url.replace("127.0.0.1", "localhost") + "/jwks")
    assert not issuer.requests


class _TlsServer:
    """Answers each connection's request with the same response, over TLS; keeps what it was asked."""

    def __init__(self, context: ssl.SSLContext, answer: Callable[[ssl.SSLSocket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._context = context
        self._answer = answer
        self.port = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(sock, server_side=True) as tls:
                    self.requests.append(tls.recv(65536))
                    self._answer(tls)
            except OSError:
                sock.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _hello(tls: ssl.SSLSocket) -> None:
    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def _server(authority: trustme.CA, name: str) -> _TlsServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return _TlsServer(context, _hello)


async def test_verifies_the_certificate_with_a_ca_file(authority: trustme.CA, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    server = _server(authority, "localhost")
    try:
        answer = await HttpTransport(str(ca_file)).get(f"https://localhost:{server.port}/keys?v=1")
        assert answer.body == b"{}"
        assert server.requests[0].startswith(b"GET /keys?v=1 HTTP/1.1\r\n")
        assert f"Host: localhost:{server.port}\r\n".encode() in server.requests[0]
    finally:
        server.close()


async def test_refuses_a_certificate_that_isnt_trusted(authority: trustme.CA) -> None:
    server = _server(authority, "localhost")
    try:
        with pytest.raises(TransportError, match="certificate that can't be verified") as caught:
            await HttpTransport().get(f"https://localhost:{server.port}/")
        assert "CA file" in caught.value.way_forward
        assert not server.requests
    finally:
        server.close()


async def test_refuses_a_trusted_certificate_of_another_name(authority: trustme.CA, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    server = _server(authority, "issuer.example")
    try:
        with pytest.raises(TransportError, match="certificate that can't be verified"):
            await HttpTransport(str(ca_file)).get(f"https://localhost:{server.port}/")
    finally:
        server.close()


async def test_a_peer_that_never_finishes_the_handshake_is_given_up() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        transport = HttpTransport(limits=TransportLimits(total_s=0.3, read_s=60))
        with pytest.raises(TransportError):
            await transport.get(f"https://127.0.0.1:{listener.getsockname()[1]}/")
        await _until_no_worker_reads()
    finally:
        listener.close()


@pytest.mark.parametrize("ca_file", ["/nonexistent/ca.pem", "/dev/null"])
async def test_an_unusable_ca_file_is_an_error_and_not_a_fallback(ca_file: str, authority: trustme.CA) -> None:
    server = _server(authority, "localhost")
    try:
        with pytest.raises(TransportError):
            await HttpTransport(ca_file).get(f"https://localhost:{server.port}/")
        assert not server.requests
    finally:
        server.close()


async def _until_no_worker_reads() -> None:
    """The default executor is free again: as many quick jobs as it has threads all run."""
    loop = asyncio.get_running_loop()
    await asyncio.wait_for(asyncio.gather(*(loop.run_in_executor(None, int) for _ in range(64))), 5)
    executor = loop._default_executor  # type: ignore[attr-defined]
    await asyncio.wait_for(asyncio.to_thread(_idle, executor), 5)


def _idle(executor: object) -> None:
    # One permit for each thread that waits for work; ours is the one that doesn't.
    threads = executor._threads  # type: ignore[attr-defined]
    deadline = time.monotonic() + 4
    while executor._idle_semaphore._value < len(threads) - 1:  # type: ignore[attr-defined]
        if time.monotonic() > deadline:
            raise AssertionError("a worker thread is still busy")
        time.sleep(0.01)
