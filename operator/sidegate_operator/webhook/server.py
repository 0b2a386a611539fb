"""The listener that the API server calls: /inject, /validate and /decide over TLS, and /readyz, /healthz and /metrics beside them.

Rules it keeps:
- Every review is answered within the budget, a little less than the API server waits: a refusal that says why is worth more than a
  timeout that says nothing. Reading the body counts.
- Whatever goes wrong refuses: a body that can't be read is 400, too large 413, and an error of ours a refusal with its reason.
- Nothing of the objects under review is logged or counted: they may hold secrets.
- Draining: not ready first, until nobody calls any more, then no new connections, then the reviews in flight are finished.
- With a client authority only the API server's certificate gets a review decided; probes and metrics need none.

Left out: what is decided, and certificates.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sidegate_operator.webhook.places import Places
from sidegate_operator.webhook.review import Answer, Reason, Review, ReviewError, decode_review, encode_answer, refuse

LOG: Final = logging.getLogger(__name__)
Decider: TypeAlias = "Callable[[Review], Awaitable[Answer]]"
Readiness: TypeAlias = "Callable[[], Awaitable[str | None]]"

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_TIMEOUT_FORM: Final = re.compile(r"(\d{1,3})s")  # the API server adds ?timeout=5s (webhook/mutating/dispatcher.go)
_OWN_SHARE: Final = 0.9  # of the API server's timeout; the rest is for the way back


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_body_bytes`: an object and the one before it, 1.5 MiB each in etcd, written as JSON. `leaving_s`: how long requests still
    come after readiness is gone (endpoints have to travel). `finishing_s`: how long those in flight may take.
    `max_reading` bodies are read at a time, `max_reading_of_one` of one address, each for `body_s` at most: the API server's come at once.
    """

    budget_s: float = 4.5
    body_s: float = 2.0
    max_body_bytes: int = 8 * 1024 * 1024
    max_reading: int = 24
    max_reading_of_one: int = 8
    max_in_flight: int = 64
    leaving_s: float = 5.0
    finishing_s: float = 10.0


@dataclass(slots=True)
class Metrics:
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    duration: Histogram = field(init=False)
    refusals: Counter = field(init=False)
    unreadable: Counter = field(init=False)
    in_flight: Gauge = field(init=False)
    ready: Gauge = field(init=False)
    certificate_ends: Gauge = field(init=False)

    def __post_init__(self) -> None:
        own = self.registry
        self.duration = Histogram(
            "sidegate_admission_duration_seconds", "how long reviews took", ["path", "operation"], buckets=_BUCKETS, registry=own
        )
        self.refusals = Counter("sidegate_admission_refusals", "reviews refused", ["path", "reason"], registry=own)
        self.unreadable = Counter("sidegate_admission_unreadable", "requests that were no review", ["path"], registry=own)
        self.in_flight = Gauge("sidegate_admission_in_flight", "reviews being decided", registry=own)
        self.ready = Gauge("sidegate_admission_ready", "whether every webhook configuration trusts this replica", registry=own)
        self.certificate_ends = Gauge(
            "sidegate_admission_certificate_end_timestamp_seconds", "until when the served certificate is valid", registry=own
        )


@dataclass(slots=True)
class Admission:
    """The web application. `readiness` says what is missing, None when nothing is."""

    deciders: Mapping[str, Decider]
    readiness: Readiness
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    needs_client_certificate: bool = False
    is_leaving: bool = False
    _slots: asyncio.Semaphore = field(init=False)
    _reading: Places = field(init=False)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.limits.max_in_flight)
        self._reading = Places(self.limits.max_reading, self.limits.max_reading_of_one)

    def application(self) -> web.Application:
        made = web.Application(client_max_size=self.limits.max_body_bytes)
        for path in self.deciders:
            made.router.add_post(path, self._review)
        made.router.add_get("/healthz", self._healthz)
        made.router.add_get("/readyz", self._readyz)
        made.router.add_get("/metrics", self._metrics)
        return made

    async def _review(self, request: web.Request) -> web.Response:
        path = request.path
        if self.needs_client_certificate and not _has_client_certificate(request):
            return self._unreadable(path, 401, "reviews are decided for the API server alone, by its client certificate")
        if request.content_type != "application/json":
            return self._unreadable(path, 415, "a review is application/json")
        clock = asyncio.get_running_loop().time
        started = clock()
        review: Review | None = None
        with self.metrics.in_flight.track_inprogress():
            try:
                async with asyncio.timeout(self._budget(request)):
                    content = await self._content(request)
                    async with self._slots:
                        review = decode_review(content)
                        answer = await self.deciders[path](review)
            except web.HTTPRequestEntityTooLarge:
                return self._unreadable(path, 413, f"a review has {self.limits.max_body_bytes} bytes at most")
            except ReviewError as error:
                return self._unreadable(path, 400, f"{error}; fix: {error.way_forward}")
            except TimeoutError:
                if review is None:
                    return self._unreadable(path, 408, "the review didn't arrive in time")
                answer = refuse(
                    Reason.TIMEOUT,
                    "sidegate took too long to decide; fix: try again, and look at the load of the sidegate-webhook pods",
                    code=504,
                )
            except Exception as error:
                # INVARIANT: no bug of ours lets anything pass. Its message may quote the object, so type and place are all that is told.
                LOG.error(
                    "a review at %s failed: %s\n%s", path, type(error).__name__, "".join(traceback.format_tb(error.__traceback__))
                )
                if review is None:
                    return self._unreadable(path, 500, "sidegate failed to read the review")
                answer = refuse(
                    Reason.INTERNAL_ERROR,
                    f"sidegate failed to decide: {type(error).__name__}; fix: see the log of the sidegate-webhook pods",
                    code=500,
                )
        self._count(path, review, answer, clock() - started)
        return self._with_leave(web.Response(body=encode_answer(review.uid, answer), content_type="application/json"))

    async def _content(self, request: web.Request) -> bytes:
        """Nobody has a place for deciding who hasn't sent the whole review."""
        async with self._reading.of(request.remote or ""), asyncio.timeout(self.limits.body_s):
            return await request.read()

    def _budget(self, request: web.Request) -> float:
        found = _TIMEOUT_FORM.fullmatch(request.query.get("timeout", ""))
        return min(self.limits.budget_s, int(found[1]) * _OWN_SHARE) if found else self.limits.budget_s

    def _count(self, path: str, review: Review, answer: Answer, seconds: float) -> None:
        self.metrics.duration.labels(path, review.operation.value).observe(seconds)
        if answer.refusal is not None:
            self.metrics.refusals.labels(path, answer.refusal.reason.value).inc()
            where = f"{review.namespace}/{review.name or '(generated)'}"
            LOG.info("refused %s %s %s: %s", review.operation.value, review.resource.resource, where, answer.refusal.reason.value)

    def _unreadable(self, path: str, code: int, problem: str) -> web.Response:
        self.metrics.unreadable.labels(path).inc()
        response = web.Response(status=code, text=problem)
        response.force_close()  # what is left of the body isn't read
        return response

    def _with_leave(self, response: web.Response) -> web.Response:
        if self.is_leaving:
            response.force_close()  # so that the API server's kept connections go to another replica
        return response

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _missing(self) -> str | None:
        return "it is ending" if self.is_leaving else await self.readiness()

    async def _readyz(self, _: web.Request) -> web.Response:
        missing = await self._missing()
        return web.Response(text="ok") if missing is None else web.Response(status=503, text=missing)

    async def _metrics(self, _: web.Request) -> web.Response:
        self.metrics.ready.set(await self._missing() is None)
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=generate_latest(self.metrics.registry), headers=headers)


async def serve(
    admission: Admission,
    tls: ssl.SSLContext,
    host: str,
    port: int,
    stop: asyncio.Event,
    *,
    on_listening: Callable[[int], None] | None = None,
) -> None:
    """Listen until `stop` is set, then leave without breaking a review off. Port 0 takes a free one, which `on_listening` is told."""
    limits = admission.limits
    runner = web.AppRunner(admission.application(), access_log=None, shutdown_timeout=limits.finishing_s)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=tls, backlog=512)
        await site.start()
        if on_listening is not None:
            on_listening(runner.addresses[0][1])
        await stop.wait()
        admission.is_leaving = True
        LOG.info("ending: not ready any more, listening for another %s s", limits.leaving_s)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(limits.leaving_s)
    finally:
        await runner.cleanup()


def _has_client_certificate(request: web.Request) -> bool:
    """It was verified in the handshake, if there is one."""
    transport = request.transport
    return transport is not None and bool(transport.get_extra_info("peercert"))
