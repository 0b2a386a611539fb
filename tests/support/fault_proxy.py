"""Stands between a program and the test's API server, passes everything on, and fails where a test asks for it.

    with FaultProxy(api) as proxy:
        kubeconfig = proxy.kubeconfig_for_token(token)
        proxy.break_watches("accesspolicies", code=500)          # an ERROR event in each open watch of them, then its end
        proxy.fail("GET", "accesspolicies", code=503, times=2)   # the next two are answered with this
        with proxy.silenced("accesspolicies"): ...               # watches stay open and tell nothing: events meanwhile are swallowed
        proxy.requests("PATCH", "configmaps")                    # what passed

Rules: real TLS on both sides; who asks is told by the bearer token, which is passed on, since a client's certificate can't be. A watch is
passed on in whole lines, so that an injected event never lands within another. Left out: upgrades (exec, port-forward).
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import yaml
from aiohttp import web

from tests.support.api_server import ApiServer

_PASSED_ON: Final = ("Accept", "Authorization", "Content-Type", "User-Agent")
_START_TIMEOUT_S: Final = 30.0
_CLOSING_S: Final = 0.05


@dataclass(slots=True, eq=False)
class _Watch:
    plural: str
    injected: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)


@dataclass(slots=True)
class _Failure:
    method: str
    plural: str
    code: int
    left: int


class FaultProxy:
    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._watches: set[_Watch] = set()
        self._failures: list[_Failure] = []
        self._silenced: set[str] = set()
        self._swallowed = 0
        self._passed: list[tuple[str, str]] = []
        self._names = itertools.count(1)
        self._started = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(_START_TIMEOUT_S) or self._problem is not None:
            raise RuntimeError("the fault proxy didn't start") from self._problem
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_START_TIMEOUT_S)

    def kubeconfig_for_token(self, token: str) -> Path:
        authority = base64.b64encode(self._api.authority.pem).decode()
        cluster = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority-data": authority}
        document = {
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "token", "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "token"}}],
        }
        file = self._api.directory / f"proxied-kubeconfig-{next(self._names)}"
        file.touch(mode=0o600)
        file.write_text(yaml.safe_dump(document))
        return file

    # Faults

    def break_watches(self, plural: str, code: int, message: str = "etcdserver: leader changed") -> int:
        """How many watches were open, and are now told of an error and ended."""
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "message": message}
        line = json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"

        def inject() -> int:
            open_ones = [watch for watch in self._watches if watch.plural == plural]
            for watch in open_ones:
                watch.injected.put_nowait(line)
            return len(open_ones)

        return self._on_loop(inject)

    def fail(self, method: str, plural: str, *, code: int, times: int) -> None:
        """Answer the next requests of this kind with a Status of this code."""
        self._on_loop(lambda: self._failures.append(_Failure(method, plural, code, times)))

    @contextmanager
    def silenced(self, plural: str) -> Iterator[None]:
        """Watches of it stay open, and what happens meanwhile is never told, not afterwards either."""
        self._on_loop(lambda: self._silenced.add(plural))
        try:
            yield
        finally:
            self._on_loop(lambda: self._silenced.discard(plural))

    def swallowed(self) -> int:
        """How many events were never told."""
        return self._on_loop(lambda: self._swallowed)

    # What was asked

    def open_watches(self, plural: str) -> int:
        return self._on_loop(lambda: sum(watch.plural == plural for watch in self._watches))

    def requests(self, method: str, plural: str) -> list[str]:
        """The paths that were passed on."""
        return self._on_loop(lambda: [path for how, path in self._passed if how == method and _is_about(path, plural)])

    # The loop in its thread

    def _on_loop(self, call: Callable[[], Any]) -> Any:
        async def called() -> Any:
            return call()

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(10)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as problem:
            self._problem = problem
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        pair = self._api.authority.issue_for_host("127.0.0.1")
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        file = self._api.directory / "proxy.pem"
        file.write_bytes(pair.certificate + pair.key)
        tls.load_cert_chain(file)
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.port: int = runner.addresses[0][1]
        trusted = ssl.create_default_context(cadata=self._api.authority.pem.decode())
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusted, limit=0)) as self._session:
            self._started.set()
            await self._stop.wait()
            await runner.cleanup()
        await asyncio.sleep(_CLOSING_S)  # connections that are being closed get to the end of it before their loop ends

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        failure = next(
            (each for each in self._failures if each.method == request.method and _is_about(request.path, each.plural)), None
        )
        if failure is not None:
            failure.left -= 1
            if failure.left == 0:
                self._failures.remove(failure)
            return _status(failure.code, "a fault of the test's proxy")
        self._passed.append((request.method, request.path))
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        body = await request.read()
        limits = aiohttp.ClientTimeout(total=None)
        try:
            async with self._session.request(
                request.method, f"{self._api.url}{request.path_qs}", data=body or None, headers=headers, timeout=limits
            ) as answer:
                if "watch" in request.query and answer.status == 200:
                    return await self._pass_watch_on(request, answer)
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)
        except (aiohttp.ClientError, OSError) as problem:
            return _status(502, f"the API server can't be reached: {problem}")

    async def _pass_watch_on(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        passed = web.StreamResponse(headers={"Content-Type": "application/json"})
        passed.enable_chunked_encoding()
        await passed.prepare(request)
        watch = _Watch(request.path.rsplit("/", 1)[1])
        self._watches.add(watch)
        injected = asyncio.ensure_future(watch.injected.get())
        rest = b""
        try:
            while True:
                read = asyncio.ensure_future(answer.content.readany())
                try:
                    await asyncio.wait([read, injected], return_when=asyncio.FIRST_COMPLETED)
                    if injected.done():
                        await passed.write(injected.result())
                        break
                    chunk = read.result()
                except (aiohttp.ClientError, OSError):  # it broke off in the midst of an answer, so this does too
                    if request.transport is not None:
                        request.transport.abort()
                    return passed
                finally:
                    read.cancel()
                if not chunk:
                    break
                whole, end, rest = (rest + chunk).rpartition(b"\n")
                if watch.plural in self._silenced:
                    self._swallowed += whole.count(b"\n") + bool(whole)
                elif whole:
                    await passed.write(whole + end)
        finally:
            injected.cancel()
            self._watches.discard(watch)
        await passed.write_eof()
        return passed


def _is_about(path: str, plural: str) -> bool:
    return plural in path.split("/")


def _status(code: int, message: str) -> web.Response:
    content = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "message": message}
    return web.json_response(content, status=code)
