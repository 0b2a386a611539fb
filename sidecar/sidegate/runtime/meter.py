"""The shell's counts as the process's metrics."""

from __future__ import annotations

from sidegate.runtime.metrics import Metrics


class MetricsMeter:
    """Implements `postgres.relay.Meter`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def relayed_bytes(self, side: str, count: int) -> None:
        self._metrics.relayed.add(side, amount=count)

    def recorded_bytes(self, count: int) -> None:
        self._metrics.recorded.add(amount=count)

    def recording_failed(self) -> None:
        self._metrics.recording_errors.add()

    def statement_decided(self, decision: str, kind: str, reason: str) -> None:
        self._metrics.statements.add(decision, kind)
        if decision == "Deny":
            self._metrics.refusals.add(reason)

    def values_masked(self, source: str, count: int) -> None:
        self._metrics.masked.add(source, amount=count)

    def hold_began(self) -> None:
        self._metrics.holds_open += 1

    def hold_ended(self, outcome: str, seconds: float) -> None:
        self._metrics.holds_open -= 1
        self._metrics.holds.observe(seconds, outcome)

    def session_began(self) -> None:
        self._metrics.sessions_open += 1

    def session_ended(self, outcome: str) -> None:
        self._metrics.sessions_open -= 1
        self._metrics.sessions.add(outcome)
