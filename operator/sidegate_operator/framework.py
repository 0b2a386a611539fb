"""kopf, embedded: watches our resources and gated pods, and dispatches what happens to them, as long as this operator leads.

Rules it keeps (each answers to something that was measured, docs/decisions/0011-kopf-in-a-thread-of-its-own.md):
- It runs in a thread with an event loop of its own. When kopf ends it cancels every task of its loop that is younger than itself; there,
  none is ours. It installs no signal handlers there either.
- Its handlers only pass events on, to the loop that we live in. No index, no peering, no managed webhooks, no annotations and no finalizers
  of its own, no scan for other kinds.
- It ends on an error in a watch, and never begins to watch a kind that wasn't served when it started. Either way it is started anew.
  Meanwhile our own watch goes on: nothing is missed.

Left out: what an event leads to.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from sidegate_operator.credentials import Credentials
from sidegate_operator.hidden_modules import hidden
from sidegate_operator.plan.owned import TARGET_LABEL
from sidegate_operator.resources import ACCESS_POLICIES, APPROVAL_REQUESTS, PODS, PROTECTED_TARGETS, Object, Resource

with hidden("kubernetes", "pykube"):  # kopf loads them where it finds them, 9 MiB, to log in by; we log in ourselves
    import kopf

LOG: Final = logging.getLogger(__name__)
Heard: TypeAlias = Callable[[Resource, str | None, Object], None]

DISPATCHED: Final = (PROTECTED_TARGETS, ACCESS_POLICIES, APPROVAL_REQUESTS, PODS)
FILTERED: Final = frozenset({PODS})  # a pod that loses its label is `DELETED` to whoever watches by label, and goes on running
_LOGIN_LASTS: Final = timedelta(
    minutes=5
)  # a service account's token is exchanged well before its end; it is read anew this often
_LOOK_EVERY_S: Final = 1.0
_WATCHING_WITHIN_S: Final = 15.0
_FIRST_BACKOFF_S: Final = 1.0
_LONGEST_BACKOFF_S: Final = 60.0


class Framework:
    """`run` keeps kopf running until it is cancelled. `heard` is called on the loop that `run` runs in."""

    def __init__(self, credentials: Credentials, heard: Heard, wall: Callable[[], float]) -> None:
        self._credentials = credentials
        self._heard = heard
        self._wall = wall
        self.starts = 0
        self._running: _Running | None = None

    @property
    def is_watching(self) -> bool:
        return self._running is not None and self._running.is_watching

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        try:
            while True:
                self.starts += 1
                self._running = _Running(self._registry(loop))
                self._running.start()
                while self._running.thread.is_alive():  # noqa: ASYNC110 - a thread sets no event of ours when it dies
                    await asyncio.sleep(_LOOK_EVERY_S)
                failures = 0 if self._running.was_watching else failures + 1
                backoff_s = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(failures, 30))
                LOG.warning("kopf: %s; started again in %g s", self._running.ended_because, backoff_s)
                await asyncio.sleep(backoff_s)
        finally:
            if self._running is not None:
                self._running.stop("the operator ends")

    async def stopped(self, timeout_s: float) -> bool:
        """Whether its thread is gone, after `run` was cancelled."""
        running = self._running
        if running is None:
            return True
        await asyncio.to_thread(running.thread.join, timeout_s)
        return not running.thread.is_alive()

    def _registry(self, loop: asyncio.AbstractEventLoop) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        def login(**_: Any) -> kopf.ConnectionInfo:
            return self._connection()

        for resource in DISPATCHED:
            _dispatch(registry, resource, loop, self._heard)
        return registry

    def _connection(self) -> kopf.ConnectionInfo:
        credentials = self._credentials
        until = datetime.fromtimestamp(self._wall(), UTC) + _LOGIN_LASTS
        return kopf.ConnectionInfo(
            server=credentials.url,
            ca_data=credentials.authority_pem(),
            token=credentials.token(),
            certificate_data=credentials.certificate,
            private_key_data=credentials.key,
            expiration=until if credentials.token_file is not None else None,
        )


def _dispatch(registry: kopf.OperatorRegistry, resource: Resource, loop: asyncio.AbstractEventLoop, heard: Heard) -> None:
    @kopf.on.event(resource.group, resource.version, resource.plural, id=f"{resource.plural}-seen", registry=registry)
    def seen(event: kopf.RawEvent, **_: Any) -> None:
        loop.call_soon_threadsafe(heard, resource, event["type"], dict(event["object"]))


class _Running:
    """One life of kopf."""

    def __init__(self, registry: kopf.OperatorRegistry) -> None:
        self._registry = registry
        self._stop = threading.Event()
        self.is_watching = False
        self.was_watching = False
        self.ended_because = "it ended by itself"
        self.thread: Final = threading.Thread(target=self._run, name="kopf", daemon=True)

    def start(self) -> None:
        logging.getLogger("kopf").setLevel(logging.WARNING)  # at info it has a line for each event
        logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)  # it warns that signals aren't its own here
        self.thread.start()

    def stop(self, why: str) -> None:
        self.ended_because = why
        self._stop.set()

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as problem:
            LOG.exception("kopf ended")
            self.ended_because = f"{type(problem).__name__}: {problem}"
        finally:
            self.is_watching = False

    async def _live(self) -> None:
        looking = asyncio.create_task(self._look_after_watchers())  # older than kopf's tasks: it isn't cancelled with them
        try:
            await kopf.operator(
                registry=self._registry, settings=_settings(), standalone=True, clusterwide=True, stop_flag=self._stop
            )
        finally:
            looking.cancel()
            self._stop.set()  # kopf waits for it in a thread of its own, which the loop's end waits for

    async def _look_after_watchers(self) -> None:
        loop = asyncio.get_running_loop()
        missed_since = loop.time()
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            gone = missing_watchers({task.get_name() for task in asyncio.all_tasks() if not task.done()})
            self.is_watching = not gone
            self.was_watching = self.was_watching or self.is_watching
            if self.is_watching:
                missed_since = loop.time()
            elif loop.time() - missed_since > _WATCHING_WITHIN_S:
                self.stop(f"it doesn't watch {', '.join(gone)}")
                return


def missing_watchers(task_names: set[str]) -> list[str]:
    """Kinds that no task of kopf's watches. It names each after its kind: `watcher for accesspolicies.v1alpha1.sidegate.dev@None`."""
    watched = {name.removeprefix("watcher for ").split(".")[0] for name in task_names if name.startswith("watcher for ")}
    return [each.plural for each in DISPATCHED if each.plural not in watched]


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.process.ultimate_exiting_timeout = None  # the end of the process is ours to see to
    settings.posting.enabled = False  # events are written by apply.py
    settings.scanning.disabled = True  # the kinds are known, and CRDs need no watch of their own
    settings.watching.chunk_size = 100  # else it holds each kind whole: 11 MiB more at 2,000 policies and 1,000 pods
    settings.queueing.worker_limit = 32  # else each object has a worker while kinds are listed
    settings.queueing.idle_timeout = 0.1  # a worker that waits for its object keeps a place from others
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 90
    settings.watching.label_selectors[PODS.plural] = TARGET_LABEL
    settings.networking.error_backoffs = (0.25, 0.5, 1, 2, 5)
    return settings
