"""One gate process: config in, listeners up, until SIGTERM or SIGINT. Everything the gate is given is put together here.

Exit status: 0 after an orderly stop, 1 when it can't start or can't go on (a changed listener, a lost audit log), with one line on stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import secrets
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidegate import __version__
from sidegate.approval.backend import ApprovalBackend
from sidegate.approval.gateway import GatewayApprovals
from sidegate.approval.gateway_client import GatewayClient, GatewaySettings
from sidegate.audit.events import ConfigLoaded, ConfigRefused, GateStarted, GateStopped, at
from sidegate.audit.sinks import AuditSink, FileSink, StdoutSink
from sidegate.gateway.messages import Report
from sidegate.identity.keys import IssuerKeys
from sidegate.identity.transport import HttpTransport
from sidegate.policy.config import ConfigError, GateConfig
from sidegate.postgres.gate import GateServices, PostgresGate
from sidegate.record.budget import RecordingBudget
from sidegate.record.writer import target_directory
from sidegate.runtime import clock
from sidegate.runtime.health import Health, HealthListener, watch_loop_lag
from sidegate.runtime.listener import ListenAddress, Listener
from sidegate.runtime.meter import MetricsMeter
from sidegate.runtime.metrics import Metrics
from sidegate.runtime.reload import ConfigFile, Watch
from sidegate.runtime.reports import MAX_PROBLEM, GatewayReports
from sidegate.runtime.tls import TlsError, WatchedContext, watch_for_clients, watch_for_target
from sidegate.runtime.worker import WorkerPost

if TYPE_CHECKING:
    from sidegate.policy.config import ClientTlsConfig, TargetTlsConfig

log = logging.getLogger("sidegate.runtime")

FINISH_S: Final = 15.0  # with what follows, less than the 30 s after which Kubernetes kills by default
DRAIN_TIMEOUT_S: Final = 20.0
DEFAULT_PORT: Final = 5432  # to listen at while there is no config that says which


@dataclass(frozen=True, slots=True)
class GateOptions:
    """What the command line gives. `listen` empty: loopback at the target's port. `audit_file` None: standard output."""

    config_file: Path
    state: Path
    listen: tuple[str, ...] = ()
    metrics: str | None = None
    audit_file: Path | None = None
    issuer_ca_file: str | None = None
    shares_port: bool = False
    worker: int = 0
    workers: int = 1
    inherited: Mapping[str, socket.socket] = field(default_factory=dict)  # by the text in `listen`
    gateway: GatewaySettings | None = None  # None: approvals are files below the state
    gateway_target: str | None = None  # NAMESPACE/NAME, to report before there is a config
    finish_s: float = FINISH_S  # how long statements that run get when it is told to stop


class GateProcess:
    """Owns the parts of one gate; `run` is its life."""

    def __init__(self, options: GateOptions) -> None:
        self._options = options
        self.metrics = Metrics(__version__)
        self.health = Health("config", "listener", started_by="listener")
        writer = "gate" if options.workers == 1 else f"gate-{options.worker}"
        self._audit = make_audit_sink(options.audit_file, writer)
        options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._post = WorkerPost(options.state, options.worker) if options.workers > 1 else None
        self._budgets: dict[str, RecordingBudget] = {}
        self._client_tls: tuple[ClientTlsConfig, WatchedContext | None] | None = None
        self._target_tls: tuple[TargetTlsConfig, WatchedContext | None] | None = None
        self._revision = ""
        self._waiting: GateConfig | None = None  # good, but for certificate files that can't be read yet
        self._gateway = GatewayClient(options.gateway) if options.gateway is not None else None
        self._reports = (
            GatewayReports(self._gateway, self._reported_target, self._report, self.health, self.metrics)
            if self._gateway is not None
            else None
        )
        self._problem: str | None = None  # why a newer config isn't in force
        self._keys = IssuerKeys(HttpTransport(options.issuer_ca_file))
        self.gate = PostgresGate(
            GateServices(
                now=clock.now, keys=self._keys, approvals=make_approvals(options.state, self._gateway), audit=self._audit,
                meter=MetricsMeter(self.metrics), budget=self._budget, client_tls=self._current_client_tls,
                target_tls=self._current_target_tls, version=__version__, post=self._post,
            )
        )  # fmt: skip
        self._config_file = ConfigFile(options.config_file, self._adopt, self._config_refused)
        self._listeners: list[Listener] = []

    async def run(self, stop: asyncio.Event, poked: Callable[[Watch], None]) -> None:
        """Until `stop`; `poked` is given the watch that looks at the files again.

        Raises:
            ListenError, OSError: it can't listen.
        """
        loop = asyncio.get_running_loop()
        watch = Watch([self._check_config, self._refresh_tls])
        poked(watch)
        self._check_config()
        health = HealthListener(self.health, self.metrics)
        if self._options.metrics is not None:
            address = ListenAddress.parse(self._options.metrics, 0)
            await health.start(address.host, address.port)
        self._listen()
        if self._post is not None:
            self._post.start(self.gate.cancels.receive)
        gc.freeze()  # what start-up made lives as long as the process
        background = [loop.create_task(watch.run()), loop.create_task(watch_loop_lag(self.metrics))]
        if self._reports is not None:
            background.append(loop.create_task(self._reports.run()))
        log.info("ready, listening at %s", ", ".join(str(listener.address) for listener in self._listeners))
        stopping = loop.create_task(stop.wait())
        try:
            await asyncio.wait([stopping, *background], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            self.health.drain()
            await self._stop(background)
            await health.close()
        for task in background:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def _listen(self) -> None:
        config = self.gate.config
        port = config.target.port if config is not None else DEFAULT_PORT
        texts = self._options.listen or (f"127.0.0.1:{port}",)
        for text in texts:
            listener = Listener(
                ListenAddress.parse(text, port), self.gate.serve,
                shares_port=self._options.shares_port, inherited=self._options.inherited.get(text),
            )  # fmt: skip
            self._listeners.append(listener)
            listener.start()
        self.health.met("listener")
        self._audit.write(
            GateStarted(
                time=at(clock.now()), version=__version__, target=self._target_name(), revision=self._revision,
                listen=tuple(str(listener.address) for listener in self._listeners),
            )
        )  # fmt: skip

    async def _stop(self, background: Sequence[asyncio.Task[None]]) -> None:
        for listener in self._listeners:
            await listener.close()
        await self.gate.finish(
            "the gate stops", self._options.finish_s
        )  # rules are watched, and reported, as long as a statement runs
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        last = asyncio.get_running_loop().create_task(self._reports.report_last()) if self._reports is not None else None
        await self.gate.drain("the gate stops", DRAIN_TIMEOUT_S)
        for listener in self._listeners:
            await listener.wait_served(DRAIN_TIMEOUT_S)
        if last is not None:
            await last
        await self._keys.close()
        if self._post is not None:
            self._post.close()
        self._audit.write(GateStopped(time=at(clock.now()), target=self._target_name(), reason="told to stop"))
        self._audit.close()

    # ---- configuration ------------------------------------------------------------------------------------------------------------

    def _check_config(self) -> None:
        """A file that changed, and a config that waited for its certificate files."""
        self._config_file.check()
        if self._waiting is not None:
            self._adopt(self._waiting)
        elif self._config_file.problem is None:
            self.health.settled("config")
            self._tell_problem(None)

    def _adopt(self, config: GateConfig) -> None:
        has_waited, self._waiting = self._waiting is config, None
        try:
            self._adopt_tls(config)
        except TlsError as error:
            self._waiting = config
            if not has_waited:
                self._config_refused(ConfigError(str(error), error.way_forward))
            return
        previous, self._revision = self._revision, config.revision
        self._budgets.clear()
        self.gate.adopt(config)
        self.metrics.config_loaded(config.revision, clock.now())
        self.health.met("config")
        self.health.settled("config")
        self._problem = None
        if self._reports is not None:
            self._reports.poke()
        self._audit.write(
            ConfigLoaded(time=at(clock.now()), target=self._target_name(), revision=config.revision, previous_revision=previous)
        )
        log.info("config of revision %s is in force", config.revision)

    def _tell_problem(self, problem: str | None) -> None:
        if problem != self._problem:
            self._problem = problem
            if self._reports is not None:
                self._reports.poke()

    def _config_refused(self, error: ConfigError) -> None:
        self._tell_problem(str(error))
        self.metrics.config_failures.add()
        if self.gate.config is None:
            self.health.lacking("config", str(error))
        else:
            self.health.warn("config", f"{error}; revision {self._revision} stays in force")
        self._audit.write(
            ConfigRefused(time=at(clock.now()), problem=str(error), target=self._target_name(), revision=self._revision)
        )
        log.error("config refused: %s; %s", error, error.way_forward)

    def _adopt_tls(self, config: GateConfig) -> None:
        client, target = config.target.client_tls, config.target.target_tls
        fresh_client = (
            self._client_tls if self._client_tls and self._client_tls[0] == client else (client, watch_for_clients(client))
        )
        fresh_target = (
            self._target_tls if self._target_tls and self._target_tls[0] == target else (target, watch_for_target(target))
        )
        self._client_tls, self._target_tls = fresh_client, fresh_target

    def _refresh_tls(self) -> None:
        for kept in (self._client_tls, self._target_tls):
            if kept is not None and kept[1] is not None and kept[1].refresh():
                problem = kept[1].problem
                if problem is None:
                    log.info("certificate files were read again")
                else:
                    log.error("changed certificate files are not used: %s; %s", problem, problem.way_forward)

    def _current_client_tls(self) -> ssl.SSLContext | None:
        kept = self._client_tls
        return kept[1].current if kept is not None and kept[1] is not None else None

    def _current_target_tls(self) -> ssl.SSLContext | None:
        kept = self._target_tls
        return kept[1].current if kept is not None and kept[1] is not None else None

    def _budget(self, config: GateConfig) -> RecordingBudget:
        """Raises RecordError when its directory can't be made."""
        name = f"{config.target.namespace}/{config.target.name}"
        budget = self._budgets.get(name)
        if budget is None:
            directory = target_directory(self._options.state / "recordings", config.target.namespace, config.target.name)
            budget = self._budgets[name] = RecordingBudget(directory, config.target.recording)
        return budget

    def _reported_target(self) -> str | None:
        return self._target_name() or self._options.gateway_target

    def _report(self) -> Report:
        return Report(
            revision=self._revision,
            version=__version__,
            sessions=self.metrics.sessions_open,
            is_draining=self.health.is_draining,
            problem=self._problem[:MAX_PROBLEM] if self._problem else None,
        )

    def _target_name(self) -> str:
        config = self.gate.config
        return f"{config.target.namespace}/{config.target.name}" if config is not None else ""


def make_audit_sink(path: Path | None, writer: str) -> AuditSink:
    """Raises AuditError when the file can't be opened."""
    return StdoutSink(writer) if path is None else FileSink(path, writer)


def make_approvals(state: Path, gateway: GatewayClient | None) -> ApprovalBackend:
    """The operator's, or files."""
    if gateway is not None:
        return GatewayApprovals(gateway, clock=clock.now, random_bytes=secrets.token_bytes)
    from sidegate.approval.local import LocalApprovals

    return LocalApprovals(state / "approvals", clock=clock.now, random_bytes=secrets.token_bytes)


def stop_at_signals() -> asyncio.Event:
    """Set at SIGTERM and SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def run_gate(options: GateOptions) -> None:
    """One gate until a signal ends it."""
    await GateProcess(options).run(stop_at_signals(), lambda watch: watch.poke_at_sighup(asyncio.get_running_loop()))


def run_loop(main: Callable[[], Coroutine[object, object, None]]) -> None:
    """On uvloop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(main())
