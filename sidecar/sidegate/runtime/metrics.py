"""The gate's metrics, named `sidegate_*`, in Prometheus' text form.

Rules: counting is a dictionary entry, for it stands in the path of every statement; families and text are made when someone scrapes.
Labels come from closed lists or from the configuration, never from clients; a family with too many label sets counts further ones under
`other`, so that nobody can fill the memory. One event loop writes and reads: no locks.

Left out: adding up several worker processes; each has its own port.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from sidegate.policy.reason import Reason

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
MAX_LABEL_SETS: Final = 500
OTHER: Final = "other"

HOLD_BUCKETS_S: Final = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
LAG_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


Labels: TypeAlias = tuple[str, ...]


def _key(labels: Labels, names: Labels, taken: Mapping[Labels, object]) -> Labels:
    """Under which label values to count: these, or `other` when the family is full."""
    if len(labels) != len(names):
        raise ValueError(f"the labels are {names}, got {labels}")
    key = tuple(str(label) for label in labels)  # a plain string each, though an enum's may have come
    return key if key in taken or len(taken) < MAX_LABEL_SETS else (OTHER,) * len(labels)


class Counts:
    """A family of counters: one number for each set of label values. Without labels it begins at 0, so that the first failure is a rise."""

    __slots__ = ("help", "labels", "name", "values")

    def __init__(self, name: str, help_text: str, *labels: str) -> None:
        self.name = name
        self.help = help_text
        self.labels = labels
        self.values: dict[Labels, float] = {} if labels else {(): 0.0}

    def add(self, *labels: str, amount: float = 1.0) -> None:
        values = self.values
        if labels in values:
            values[labels] += amount
        else:
            key = _key(labels, self.labels, values)
            values[key] = values.get(key, 0.0) + amount

    def collect(self) -> Metric:
        family = CounterMetricFamily(self.name, self.help, labels=self.labels)
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        return family


class Durations:
    """A family of histograms over seconds."""

    __slots__ = ("bounds", "help", "labels", "name", "values")

    def __init__(self, name: str, help_text: str, bounds: tuple[float, ...], *labels: str) -> None:
        self.name = name
        self.help = help_text
        self.bounds = bounds
        self.labels = labels
        self.values: dict[Labels, list[float]] = {}

    def observe(self, seconds: float, *labels: str) -> None:
        counts = self.values.get(labels)
        if counts is None:
            key = _key(labels, self.labels, self.values)
            counts = self.values.setdefault(key, [0.0] * (len(self.bounds) + 2))  # a count each, one for the rest, then the sum
        counts[bisect_left(self.bounds, seconds)] += 1
        counts[-1] += seconds

    def collect(self) -> Metric:
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        for labels, counts in self.values.items():
            buckets: list[tuple[str, float]] = []
            total = 0.0
            for bound, count in zip([*(str(bound) for bound in self.bounds), "+Inf"], counts, strict=False):
                total += count
                buckets.append((bound, total))
            family.add_metric(labels, buckets, counts[-1])
        return family


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
