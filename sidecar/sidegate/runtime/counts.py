"""What is counted in the path of every statement: a dictionary entry each. The families that a scrape shows are made from it.

Rules: labels come from closed lists or from the configuration, never from clients; a family with too many label sets counts further ones
under `other`, so that nobody can fill the memory. One event loop writes and reads: no locks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final, TypeAlias

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

MAX_LABEL_SETS: Final = 500
OTHER: Final = "other"

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
