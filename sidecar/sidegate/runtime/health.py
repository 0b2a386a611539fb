"""Health and metrics over HTTP, on a port of their own: `/live`, `/ready`, `/started`, `/metrics`.

- started: it listens. Kubernetes' startup probe, which holds the database back: whatever else is missing must not keep it down.
- ready: it has it now, and isn't draining. The first line says so, a line for each lack follows; or for each thing that wants mending
  although the gate does without.
- live: the event loop answers. A gate that refuses everything is alive: a restart wouldn't mend its config.

Rules: GET of exactly these paths and nothing else; one request a connection; bounded size, time and number of connections. Answers carry no
secrets and nothing of sessions, for whoever reaches the pod can read them.

Left out: TLS and authentication; the port is for the kubelet and the scraper, and a network policy keeps others away.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, NamedTuple

from sidegate.runtime import clock
from sidegate.runtime.metrics import CONTENT_TYPE, Metrics

MAX_REQUEST_BYTES: Final = 8 * 1024
REQUEST_TIMEOUT_S: Final = 5.0
MAX_CONNECTIONS: Final = 64
LAG_INTERVAL_S: Final = 0.5

_REQUEST_LINE: Final = re.compile(rb"([A-Z]+) (/[\x21-\x7e]*) HTTP/1\.[01]")
_BODY: Final = re.compile(rb"\r\n(?:transfer-encoding[ \t]*:|content-length[ \t]*:(?![ \t]*0+[ \t]*\r\n))", re.IGNORECASE)
_TEXT: Final = "text/plain; charset=utf-8"


class Health:
    """What a gate needs to be ready, each by name, and which of them it lacks now and why. With `started_by` it has started."""

    def __init__(self, *needs: str, started_by: str) -> None:
        self._lacking: dict[str, str] = dict.fromkeys(needs, "not there yet")
        self._started_by = started_by
        self.has_started = False
        self.is_draining = False
        self._warnings: dict[str, str] = {}

    def met(self, need: str) -> None:
        self._lacking.pop(need, None)
        self.has_started = self.has_started or need == self._started_by

    def lacking(self, need: str, problem: str) -> None:
        self._lacking[need] = problem

    def warn(self, need: str, problem: str) -> None:
        """It is there, but not as it should be."""
        self._warnings[need] = problem

    def settled(self, need: str) -> None:
        self._warnings.pop(need, None)

    def drain(self) -> None:
        """No new sessions from now on; there is no way back."""
        self.is_draining = True

    @property
    def is_ready(self) -> bool:
        return not self._lacking and not self.is_draining

    def describe(self) -> str:
        lines = ["draining"] if self.is_draining else []
        lines += [f"{need}: {problem}" for need, problem in sorted(self._lacking.items())]
        warnings = [f"{need}: {problem}" for need, problem in sorted(self._warnings.items())]
        return "\n".join(["not ready" if lines else "ready", *lines, *warnings]) + "\n"


class Answer(NamedTuple):
    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT

    def encode(self) -> bytes:
        allow = "Allow: GET\r\n" if self.status is HTTPStatus.METHOD_NOT_ALLOWED else ""
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n{allow}Content-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + self.body


def _plain(status: HTTPStatus) -> Answer:
    return Answer(status, f"{status.phrase.lower()}\n".encode())


def answer(request: bytes, health: Health, metrics: Metrics) -> Answer:
    """The answer to one whole request head, which ends in an empty line."""
    line = _REQUEST_LINE.fullmatch(request.partition(b"\r\n")[0])
    if line is None or _BODY.search(request):
        return _plain(HTTPStatus.BAD_REQUEST)
    if line[1] != b"GET":
        return _plain(HTTPStatus.METHOD_NOT_ALLOWED)
    pages: dict[bytes, Callable[[], Answer]] = {
        b"/live": lambda: Answer(HTTPStatus.OK, b"live\n"),
        b"/ready": lambda: _state(health.is_ready, health.describe()),
        b"/started": lambda: _state(health.has_started, "started\n" if health.has_started else health.describe()),
        b"/metrics": lambda: Answer(HTTPStatus.OK, metrics.render(), CONTENT_TYPE),
    }
    page = pages.get(line[2].partition(b"?")[0])
    return page() if page else _plain(HTTPStatus.NOT_FOUND)


def _state(is_good: bool, text: str) -> Answer:
    return Answer(HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE, text.encode())


class HealthListener:
    """Answers on its own port, in the gate's own event loop: when that hangs, `/live` hangs, and the kubelet restarts the gate."""

    def __init__(self, health: Health, metrics: Metrics, request_timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._health = health
        self._metrics = metrics
        self._request_timeout_s = request_timeout_s
        self._open: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which the system chooses when it is 0.

        Raises:
            OSError: the address can't be had.
        """
        self._listening = await asyncio.start_server(self._accept, host, port, limit=MAX_REQUEST_BYTES)
        chosen: int = self._listening.sockets[0].getsockname()[1]
        return chosen

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.close()
        for task in tuple(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open.add(task)
        try:
            async with asyncio.timeout(self._request_timeout_s):
                await self._serve(reader, writer)
        except (TimeoutError, OSError):
            writer.transport.abort()
        except asyncio.CancelledError:  # closing down: there is nothing to hand on to
            writer.transport.abort()
        finally:
            self._open.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            writer.write(_plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE).encode())
        except asyncio.IncompleteReadError:
            pass  # the other side left
        else:
            writer.write(answer(request, self._health, self._metrics).encode())
        writer.close()
        await writer.wait_closed()


async def watch_loop_lag(metrics: Metrics, interval_s: float = LAG_INTERVAL_S) -> None:
    """Measure how late the loop wakes this task up, until cancelled."""
    while True:
        began = clock.elapsed()
        await asyncio.sleep(interval_s)
        metrics.loop_lag.observe(max(0.0, clock.elapsed() - began - interval_s))
