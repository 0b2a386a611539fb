"""The operator from the start of its process until there is nothing left to write, as its own metrics tell it.

Rules: time counts from before the process is started; it is settled when no key is due and nothing is written any more, which is what
`settled_s` names, the moment of the first such look. Looks cost the operator a little, so they are few.
"""

from __future__ import annotations

import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from tests.bench.cluster.report import ClusterReport
from tests.bench.measure import peak_mib, processor_seconds, resident_mib
from tests.support import processes
from tests.support.running_operator import RunningOperator

LOOK_EVERY_S: Final = 0.1
QUIET_S: Final = 1.5  # longer than anything waits for its turn
TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Look:
    busy: int
    writes: Counter[tuple[str, str]]  # (how, kind)


@dataclass(slots=True)
class Start:
    """Seconds since the process was started; None where it didn't come to that."""

    pid: int
    planned_s: float = 0.0
    published_s: float | None = None  # every gate config is applied
    told_s: float | None = None  # and every pod with a gate is told
    settled_s: float = 0.0
    cpu_s: float = 0.0
    resident_mib: float = 0.0
    peak_mib: float = 0.0
    writes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def into(self, report: ClusterReport, name: str) -> None:
        for moment in ("planned", "published", "told", "settled", "cpu"):
            value = getattr(self, f"{moment}_s")
            if value is not None:
                report.figure(f"{name}_{moment}_s", value)
        report.figure(f"{name}_resident_mib", self.resident_mib)
        report.figure(f"{name}_peak_mib", self.peak_mib)
        report.figure(f"{name}_writes", sum(self.writes.values()))
        for (how, kind), count in sorted(self.writes.items()):
            report.figure(f"{name}_writes_{how}_{kind.lower()}", count)


def until_settled(operator: RunningOperator, began: float, targets: int, pods: int) -> Start:
    """`began`: the moment (perf_counter) before its process was started. Publishing and telling count only where something is written."""
    start = Start(operator.pid)
    port = int(operator.wait_for_line("health and metrics on port").split("on port ")[1].split(";")[0])
    while True:
        at = time.perf_counter() - began
        look = look_at(port)
        if not start.planned_s and operator.said("every target is planned"):
            start.planned_s = at
        if start.published_s is None and look.writes["apply", "ConfigMap"] >= targets:
            start.published_s = at
        if start.told_s is None and look.writes["annotate", "Pod"] >= pods:
            start.told_s = at
        if start.planned_s and look.busy == 0 and look.writes == start.writes:
            start.settled_s = start.settled_s or at
        else:
            start.settled_s = 0.0
        start.writes = look.writes
        if start.settled_s and at - start.settled_s >= QUIET_S:
            break
        if not operator.is_running or at > TIMEOUT_S:
            raise processes.ChildError("the operator didn't settle; its log:\n" + "\n".join(operator.lines()[-40:]))
        time.sleep(LOOK_EVERY_S)
    start.cpu_s, start.resident_mib, start.peak_mib = processor_seconds(start.pid), resident_mib(start.pid), peak_mib(start.pid)
    return start


def look_at(port: int) -> Look:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    busy, writes = 0, Counter[tuple[str, str]]()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "sidegate_operator_queue_busy":
                busy = int(sample.value)
            elif sample.name == "sidegate_operator_writes_total":
                writes[sample.labels["how"], sample.labels["kind"]] = int(sample.value)
    return Look(busy, writes)
