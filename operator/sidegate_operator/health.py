"""Health and metrics over HTTP, on a port of their own: `/healthz`, `/readyz`, `/metrics`.

- healthz: this process is worth keeping. 503 when a watch has given no sign of life for too long, or the event loop hangs (then nothing is
  answered at all): a restart mends that. What a restart doesn't mend, such as missing CRDs or rights, isn't its business.
- readyz: it does its work, or stands by for the leader. 503 with a line for each thing that is wrong, and the way forward.

Rules: GET and HEAD of exactly these paths. Answers carry no secrets, for whoever reaches the pod can read them. Left out: TLS and
authentication; a network policy keeps others away.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

_SPANS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        self.leads: Final = Gauge("sidegate_operator_leader", "Whether this operator leads", registry=self.registry)
        self.objects: Final = Gauge("sidegate_operator_objects", "Objects known", ["kind"], registry=self.registry)
        self.silence: Final = Gauge(
            "sidegate_operator_watch_silence_seconds", "Since a watch's last sign of life", ["kind"], registry=self.registry
        )
        self.watching: Final = Gauge(
            "sidegate_operator_watching", "Whether a watch is in order", ["kind"], registry=self.registry
        )
        self.busy: Final = Gauge("sidegate_operator_queue_busy", "Keys that are due or being worked on", registry=self.registry)
        self.waiting: Final = Gauge(
            "sidegate_operator_queue_waiting", "Keys that will be taken at some time", registry=self.registry
        )
        self.failing: Final = Gauge("sidegate_operator_queue_failing", "Keys whose last reconcile failed", registry=self.registry)
        self.reconciled: Final = Histogram(
            "sidegate_operator_reconcile_seconds", "How long reconciles took", ["kind"], buckets=_SPANS, registry=self.registry
        )
        self.failed: Final = Counter(
            "sidegate_operator_reconcile_failures", "Reconciles that failed", ["kind"], registry=self.registry
        )
        self.writes: Final = Counter("sidegate_operator_writes", "Requests that write", ["how", "kind"], registry=self.registry)
        self.guarded: Final = Gauge(
            "sidegate_operator_guarded", "Whether decisions are guarded, so that new holds are taken", registry=self.registry
        )
        self.gates: Final = Gauge(
            "sidegate_operator_gates", "Gates that report to this operator", ["version"], registry=self.registry
        )
        self.waiting_gates: Final = Gauge(
            "sidegate_gateway_waiting", "Requests that wait for a hold to change", registry=self.registry
        )
        self.answers: Final = Counter(
            "sidegate_gateway_answers", "Answers to gates", ["action", "status"], registry=self.registry
        )
        self.framework: Final = Gauge(
            "sidegate_operator_kopf_watching", "Whether kopf watches every kind", registry=self.registry
        )
        self.conditions: Final = Gauge(
            "sidegate_operator_conditions",
            "Targets and policies by what is observed of them",
            ["kind", "condition", "status"],
            registry=self.registry,
        )
        self.requests: Final = Gauge("sidegate_operator_requests", "Approval requests", ["phase"], registry=self.registry)


@dataclass(frozen=True, slots=True)
class Pages:
    """`stale` and `problems` give a line for each thing; `refresh` brings the gauges up to date."""

    metrics: Metrics
    stale: Callable[[], Sequence[str]]
    problems: Callable[[], Sequence[str]]
    refresh: Callable[[], None]

    def application(self) -> web.Application:
        app = web.Application(client_max_size=1024)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _healthz(self, _: web.Request) -> web.Response:
        return _lines(self.stale(), "alive")

    async def _readyz(self, _: web.Request) -> web.Response:
        return _lines([*self.stale(), *self.problems()], "ready")

    async def _metrics(self, _: web.Request) -> web.Response:
        self.refresh()
        return web.Response(body=generate_latest(self.metrics.registry), headers={"Content-Type": _TEXT})


@asynccontextmanager
async def serving(pages: Pages, host: str, port: int) -> AsyncIterator[int]:
    """Answers meanwhile; gives the port, which the system chooses when it is 0.

    Raises:
        OSError: the address can't be had.
    """
    runner = web.AppRunner(pages.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        chosen: int = runner.addresses[0][1]
        yield chosen
    finally:
        await runner.cleanup()


def _lines(problems: Sequence[str], well: str) -> web.Response:
    if not problems:
        return web.Response(text=f"{well}\n")
    return web.Response(status=503, text="".join(f"{each}\n" for each in problems))
