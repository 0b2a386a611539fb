"""The gate's metrics, named `sidegate_*`, in Prometheus' text form.

Rules: families and text are made when someone scrapes; counting is `counts`. One event loop writes and reads: no locks.

Left out: adding up several worker processes; each has its own port.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from sidegate.policy.reason import Reason
from sidegate.runtime import clock
from sidegate.runtime.counts import Counts, Durations

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

HOLD_BUCKETS_S: Final = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
LAG_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Metrics(Collector):
    """Everything a gate counts. Reasons are known beforehand, so each is there from the start with 0."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._revision: str | None = None
        self._config_since = 0.0
        self.sessions_open = 0
        self.holds_open = 0
        self.sessions = Counts("sidegate_sessions", "client sessions that ended, by outcome", "outcome")
        self.statements = Counts("sidegate_statements", "statements decided", "decision", "kind")
        self.refusals = Counts("sidegate_refusals", "statements and logins refused, by reason", "reason")
        self.holds = Durations("sidegate_hold_seconds", "how long statements were held, by outcome", HOLD_BUCKETS_S, "outcome")
        self.masked = Counts("sidegate_masked_values", "values masked, by the rule that asked for it", "source")
        self.relayed = Counts("sidegate_relayed_bytes", "bytes relayed from this side", "side")
        self.recorded = Counts("sidegate_recording_bytes", "bytes written to recordings")
        self.recording_errors = Counts("sidegate_recording_errors", "records that couldn't be written")
        self.config_failures = Counts("sidegate_config_reload_failures", "gate configs refused; the last good one stays in force")
        self.jwks_refreshes = Counts("sidegate_jwks_refreshes", "fetches of an issuer's keys", "issuer", "outcome")
        self.gateway_failures = Counts("sidegate_gateway_report_failures", "reports that a replica of the operator didn't take")
        self._gateway_heard_at: float | None = None
        self._gateway_takes_holds = False
        self.loop_lag = Durations("sidegate_event_loop_lag_seconds", "how late the event loop woke up", LAG_BUCKETS_S)
        for reason in Reason:
            self.refusals.add(reason.value, amount=0.0)
        for side in ("client", "target"):
            self.relayed.add(side, amount=0.0)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def config_loaded(self, revision: str, now: float) -> None:
        """From now on this revision is enforced."""
        self._revision = revision
        self._config_since = now

    def reports_to_gateway(self, now: float) -> None:
        """This gate has a gateway; it hasn't answered yet."""
        self._gateway_heard_at = now

    def gateway_reported(self, now: float, *, can_hold: bool) -> None:
        """A replica at least took a report."""
        self._gateway_heard_at = now
        self._gateway_takes_holds = can_hold

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("sidegate_sessions_open", "client sessions open now", value=self.sessions_open)
        yield GaugeMetricFamily("sidegate_holds_open", "statements held now", value=self.holds_open)
        for family in (
            self.sessions,
            self.statements,
            self.refusals,
            self.holds,
            self.masked,
            self.relayed,
            self.recorded,
            self.recording_errors,
            self.config_failures,
            self.jwks_refreshes,
            self.loop_lag,
        ):
            yield family.collect()
        if self._gateway_heard_at is not None:
            age_s = max(0.0, clock.now() - self._gateway_heard_at)
            yield GaugeMetricFamily(
                "sidegate_gateway_report_age_seconds", "since a replica of the operator last took a report", value=age_s
            )
            yield GaugeMetricFamily(
                "sidegate_gateway_takes_holds",
                "whether the operator takes new holds, as it last said",
                value=self._gateway_takes_holds,
            )
            yield self.gateway_failures.collect()
        yield _info("sidegate_build_info", "this gate's version", {"version": self._version, "python": platform.python_version()})
        if self._revision is not None:
            yield _info("sidegate_config_info", "the gate config in force", {"revision": self._revision})
            yield GaugeMetricFamily(
                "sidegate_config_loaded_timestamp_seconds", "when the config in force was loaded", value=self._config_since
            )

    def render(self) -> bytes:
        """What a scrape gets."""
        return generate_latest(self._registry)


def _info(name: str, help_text: str, facts: dict[str, str]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=list(facts))
    family.add_metric(list(facts.values()), 1)
    return family
