"""The gateway over HTTP/1.1 and TLS 1.3: routes, bounds, problem bodies. See docs/gateway.md.

Rules it keeps:
- First the path, then who asks, then whether they may, then the body: nothing of a stranger's request is read.
- Everything is bounded: bodies, connections, requests of one pod at a time, how long a body may take, and how long a connection may live
  without anybody being known on it. Of connections without anybody the oldest gives way, never one of a gate.
- Whatever goes wrong refuses, as application/problem+json with a way forward. Refusals are logged; tokens and bodies never are.
- Ending: no new connections, who waits is answered with 503 at once, and then it is over.

Left out: what a request leads to (`service`), certificates (`certificates`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from sidegate.gateway.messages import MAX_BODY_BYTES, Told
from sidegate.mask.plain import plain
from sidegate_operator.gateway.arriving import Arriving
from sidegate_operator.gateway.asking import Action, Caller, Route, bearer, route_of
from sidegate_operator.gateway.authentication import Authentication
from sidegate_operator.gateway.problem import Kind, Refusal, unavailable
from sidegate_operator.gateway.service import Reply, Service, read_body
from sidegate_operator.gateway.settings import Limits
from sidegate_operator.gateway.strangers import Strangers

LOG: Final = logging.getLogger(__name__)
_QUIET: Final = logging.getLogger(f"{__name__}.http")  # it would quote headers that can't be read, tokens too
_QUIET.setLevel(logging.CRITICAL + 1)
_JSON: Final = "application/json"
_RETRY_AFTER_S: Final = "1"


@dataclass(slots=True)
class Gateway:
    service: Service
    authentication: Authentication
    limits: Limits = field(default_factory=Limits)
    count: Callable[[str, int], None] = lambda _action, _status: None
    _busy: Counter[str] = field(default_factory=Counter)
    _strangers: Strangers = field(init=False)

    def __post_init__(self) -> None:
        self._strangers = Strangers(self.limits.max_unknown, self.limits.max_unknown_of_one)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        route = route_of(request.method, request.rel_url.raw_path, _query(request))
        action = route.action.value if isinstance(route, Route) else "unknown"
        caller: Caller | None = None
        try:
            if isinstance(route, Refusal):
                reply: Reply | Refusal = route
            else:
                who = await self._who(request)
                if isinstance(who, Refusal):
                    reply = who
                else:
                    caller = who
                    reply = await self._in_turn(who, route, request)
        except Exception as error:
            # INVARIANT: no bug of ours lets anything pass. Its message may quote a body, so type and place are all that is told.
            place = "".join(traceback.format_tb(error.__traceback__))
            LOG.error("gateway: a request failed: %s\n%s", type(error).__name__, place)
            reply = unavailable(f"the operator failed to answer: {type(error).__name__}", "see the operator's log")
        return self._respond(action, caller, request, reply)

    async def _who(self, request: web.BaseRequest) -> Caller | Refusal:
        token = bearer(request.headers.get("Authorization"))
        return token if isinstance(token, Refusal) else await self.authentication.caller(token)

    async def _in_turn(self, caller: Caller, route: Route, request: web.BaseRequest) -> Reply | Refusal:
        if self.service.waiting.is_over:
            return unavailable("this replica is ending", "ask another one at once")
        if self._busy[caller.uid] >= self.limits.max_per_pod:
            return Refusal(Kind.TOO_MANY, f"pod `{caller}` has {self.limits.max_per_pod} requests open", "wait for answers")
        self._busy[caller.uid] += 1
        try:
            refusal = await self.service.refusal_of(caller, route)
            if refusal is not None:
                return refusal
            self._strangers.leave(request.protocol)
            content = await self._body(route, request)
            asked = read_body(route.action, content) if isinstance(content, bytes) else content
            return asked if isinstance(asked, Refusal) else await self.service.answer(caller, route, asked)
        finally:
            self._busy[caller.uid] -= 1
            if not self._busy[caller.uid]:
                del self._busy[caller.uid]

    async def _body(self, route: Route, request: web.BaseRequest) -> bytes | Refusal:
        if route.action in {Action.LOOK, Action.FIND_HOLDS}:
            return b""
        if request.content_type != _JSON:
            return Refusal(Kind.MALFORMED, "the body isn't application/json", "see docs/gateway.md for the bodies")
        try:
            async with asyncio.timeout(self.limits.body_s):
                return await request.read()
        except web.HTTPRequestEntityTooLarge:
            return Refusal(Kind.TOO_LARGE, f"a body has {MAX_BODY_BYTES} bytes at most", "show less of the statement")
        except TimeoutError:
            return Refusal(Kind.MALFORMED, "the body didn't arrive in time", "send it again")

    def _respond(self, action: str, caller: Caller | None, request: web.BaseRequest, reply: Reply | Refusal) -> web.Response:
        if isinstance(reply, Refusal):
            status = reply.kind.status
            who = f"pod `{caller}`" if caller is not None else f"`{request.remote}`"
            where = plain(request.rel_url.raw_path)[:512]
            LOG.warning("gateway: refused %s of %s at `%s`: %s: %s", action, who, where, reply.kind.word, reply.detail)
            headers = CIMultiDict({"Content-Type": "application/problem+json"})
            if reply.kind.may_be_asked_again:
                headers["Retry-After"] = _RETRY_AFTER_S
            response = web.Response(status=status, body=msgspec.json.encode(reply.body()), headers=headers)
        else:
            status = reply.status
            response = _told(status, reply.told)
        self.count(action, status)
        if self.service.waiting.is_over or (request.can_read_body and not request.content.is_eof()):
            response.force_close()  # what is left of the body isn't read
        return response

    # Connections

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext, host: str, port: int) -> AsyncIterator[int]:
        """Answers meanwhile; gives the port, which the system chooses when it is 0.

        Raises:
            OSError: the address can't be had.
        """
        loop = asyncio.get_running_loop()
        server = web.Server(
            self.answer,
            request_factory=self._request,
            handler_cancellation=True,  # who went away waits for nothing
            access_log=None,
            logger=_QUIET,
            keepalive_timeout=75.0,
            auto_decompress=False,  # no gate compresses, and a small body could become a large one
        )

        def welcome(protocol: asyncio.Protocol, address: str, transport: asyncio.Transport) -> bool:
            is_full = len(server.connections) >= self.limits.max_connections
            gone = self._strangers.oldest() if is_full else None
            if is_full and gone is None:
                self.count("connect", 503)
                return False
            for drop in (gone, self._strangers.arrive(protocol, address, transport.abort)):
                if drop is not None:
                    drop()
            loop.call_later(self.limits.unknown_s, self._end_if_unknown, protocol)
            return True

        listener = await loop.create_server(
            lambda: Arriving(server(), tls, self.limits.handshake_s, welcome, self._strangers.leave),
            host,
            port,
            backlog=512,
            reuse_address=True,
        )
        try:
            chosen: int = listener.sockets[0].getsockname()[1]
            yield chosen
        finally:
            listener.close()
            self.service.waiting.end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.limits.ending_s):
                    while self._busy:  # noqa: ASYNC110 - requests end one by one, and each within its own time
                        await asyncio.sleep(0.01)
            await server.shutdown(1.0)

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY_BYTES)

    def _end_if_unknown(self, protocol: asyncio.Protocol) -> None:
        drop = self._strangers.leave(protocol)
        if drop is not None:
            drop()


def _query(request: web.BaseRequest) -> dict[str, str]:
    """A name that stands twice is no name of ours."""
    query = request.rel_url.query
    return {name if len(query.getall(name)) == 1 else f"{name}, twice": value for name, value in query.items()}


def _told(status: int, told: Told | None) -> web.Response:
    if told is None:
        return web.Response(status=status)
    return web.Response(status=status, body=msgspec.json.encode(told), content_type=_JSON)
