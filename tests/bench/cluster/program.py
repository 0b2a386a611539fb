"""`make bench-cluster`: the operator and admission on a real API server with fake nodes, against the aims of docs/performance.md.

Prints a table, writes build/bench-cluster.json. Nothing is asserted but that what should happen happens. In this order, on one cluster:
pods made with and without injection, policies judged; the operator's first start, on which everything is still to be written; edits of
policies, approvals; its restart, when all is in order; and what the same objects cost the official client to list. With `--real-pods` another
part: what gates in real pods take, on a node (`real_pods.py`); its figures come beside those of the run before.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bench.cluster import approvals, edits, injections, peers, real_pods
from tests.bench.cluster.full_cluster import FullCluster
from tests.bench.cluster.operator_start import Start, until_settled
from tests.bench.cluster.population import FULL, QUICK, Size, target_name
from tests.bench.cluster.report import ClusterReport, machine_facts
from tests.bench.cluster.reporting_gates import ReportingGates
from tests.bench.measure import peak_mib, processor_seconds, resident_mib
from tests.support.admission import dry_run
from tests.support.processes import wait_until
from tests.support.running_operator import RunningOperator

ROOT: Final = Path(__file__).resolve().parents[3]
RESULT: Final = ROOT / "build" / "bench-cluster.json"


def say(text: str) -> None:
    print(f"bench-cluster: {text}", file=sys.stderr, flush=True)


def measure(size: Size) -> ClusterReport:
    report = ClusterReport()
    facts = {**machine_facts(), **dataclasses.asdict(size), "commit": commit()}
    for name, value in facts.items():
        report.fact(name, value)
    say("an API server, admission and fake nodes")
    with FullCluster(size) as cluster:
        report.fact("kubernetes", kubernetes_version(cluster))
        report.fact("kwok", cluster.nodes.version())
        asyncio.run(_fill(cluster, report))
        asyncio.run(_injections(cluster, report))
        asyncio.run(_validations(cluster, report))
        with ReportingGates(cluster.api, cluster.gateway_port):
            with _started(cluster, report, "first_install") as operator:
                asyncio.run(_edits(cluster, report, operator))
                _approvals(cluster, report, operator)
                assert operator.terminate() == 0
            with _started(cluster, report, "restart") as operator:
                _afterwards(report, operator)
                assert operator.terminate() == 0
        report.machine("peers")
        for name, value in peers.list_all(cluster.api.kubeconfig).items():
            report.figure(f"peer_{name}", value)
    return report


async def _fill(cluster: FullCluster, report: ClusterReport) -> None:
    size = cluster.population.size
    say(f"{size.targets} targets, {size.policies} policies, {size.pods} pods")
    report.machine("fill")
    await cluster.fill()
    for what, seconds in cluster.filled_s.items():
        report.figure(f"fill_{what}_s", seconds)


async def _injections(cluster: FullCluster, report: ClusterReport) -> None:
    say(f"{cluster.population.size.injections} pods with injection, and as many without")
    report.machine("injection")
    async with cluster.client() as client:
        found = await injections.measure(client, cluster.population, cluster.admission)
    report.samples("pod_create_injected", "ms", found.gated)
    report.samples("pod_create_plain", "ms", found.plain)
    report.samples("injection_added", "ms", found.added)
    report.samples("webhook_alone", "ms", found.webhook)
    report.figure("webhook_resident_mib", resident_mib(cluster.admission.pid))


@contextmanager
def _started(cluster: FullCluster, report: ClusterReport, name: str) -> Iterator[RunningOperator]:
    say(f"the operator's start: {name}")
    report.machine(name)
    api, began = cluster.api.processor_seconds(), time.perf_counter()
    with cluster.operator() as operator:
        size = cluster.population.size
        start: Start = until_settled(operator, began, size.targets, size.pods)
        start.into(report, name)
        report.figure(f"{name}_api_server_cpu_s", cluster.api.processor_seconds() - api)
        say(f"{name}: settled in {start.settled_s:.2f} s, {sum(start.writes.values())} writes, {start.peak_mib:.0f} MiB at most")
        yield operator


def _afterwards(report: ClusterReport, operator: RunningOperator) -> None:
    """kopf lists everything once the operator is settled, which takes the most memory that it ever has."""
    wait_until(lambda: operator.metric("sidegate_operator_kopf_watching") == 1, "kopf to watch", 120)
    spent = -1.0
    while processor_seconds(operator.pid) - spent > 0.5:
        spent = processor_seconds(operator.pid)
        time.sleep(1)
    report.figure("operator_peak_mib", peak_mib(operator.pid))
    report.figure("operator_resident_mib", resident_mib(operator.pid))


async def _edits(cluster: FullCluster, report: ClusterReport, operator: RunningOperator) -> None:
    size, population = cluster.population.size, cluster.population
    say(f"{size.edits} edits of policies of one target, and as many of policies of every target of a namespace")
    report.machine("edits")
    async with cluster.client() as client, edits.watched(client) as revisions:
        own = size.policies - size.namespaces
        narrow = [
            await edits.edit_one(client, population, revisions, turn * (own // size.edits), turn) for turn in range(size.edits)
        ]
        wide = []
        for turn in range(size.edits):
            namespace = population.namespaces[turn % size.namespaces]
            wide.append(await edits.edit_wide(client, population, revisions, namespace, 1000 + turn))
    report.samples("edit_published", "s", [each.published_s for each in narrow])
    report.samples("edit", "s", [each.told_s for each in narrow])
    report.samples("edit_wide_published", "s", [each.published_s for each in wide])
    report.samples("edit_wide", "s", [each.told_s for each in wide])
    report.figure("edits_peak_mib", peak_mib(operator.pid))


async def _validations(cluster: FullCluster, report: ClusterReport) -> None:
    """A policy as `kubectl apply` would make it, judged with all that its namespace has, and not stored."""
    size, population = cluster.population.size, cluster.population
    say(f"{size.edits} policies through validation")
    report.machine("validation")
    wanted = [one for one, _ in zip(population.policies(), range(size.edits + 1), strict=False)]
    times: list[float] = []
    for each in wanted:
        each["metadata"]["name"] = f"new-{len(times)}"
        began = time.perf_counter()
        dry_run(cluster.api.admin, each)
        times.append((time.perf_counter() - began) * 1000)
    report.samples("policy_validated", "ms", times[1:])


def _approvals(cluster: FullCluster, report: ClusterReport, operator: RunningOperator) -> None:
    size, population = cluster.population.size, cluster.population
    say(f"{size.edits} approvals")
    report.machine("approvals")
    operator.wait_for_line("gateway on port")
    wait_until(lambda: operator.metric("sidegate_operator_guarded") == 1, "decisions to be guarded", 60)
    found = []
    authority = cluster.gateway_authority()
    for number in range(size.edits):
        target = number % size.targets
        namespace, pod = population.namespace_of(target), population.pods_of(target)[0]
        gate = approvals.client_of(cluster.api, cluster.gateway_port, authority, namespace, target_name(target), pod)
        found.append(approvals.release_one(cluster.api, operator, gate, number))
    report.samples("decided", "ms", [each.decided_ms for each in found])
    report.samples("release", "ms", [each.released_ms for each in found])


def kubernetes_version(cluster: FullCluster) -> str:
    version: str = cluster.api.admin.request("GET", "/version")["gitVersion"]
    return version


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-cluster", description="measure operator and admission on a full cluster")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything: a look, not a measurement")
    parser.add_argument("--namespaces", type=int, help="over how many namespaces all is spread; 1 is the dearest")
    parser.add_argument("--output", type=Path, default=RESULT, help="where the figures go as JSON")
    parser.add_argument(
        "--real-pods", action="store_true", help="gates in real pods instead: as root on Debian, or on KUBECONFIG's"
    )
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    if arguments.namespaces:
        size = dataclasses.replace(size, namespaces=arguments.namespaces)
    report = measure_real_pods() if arguments.real_pods else measure(size)
    print(report.table())
    write(report, arguments.output, beside_others=arguments.real_pods)
    say(f"wrote {arguments.output}")


def measure_real_pods() -> ClusterReport:
    report = ClusterReport()
    report.fact("real_pods_commit", commit())
    say(f"{real_pods.PODS} databases behind gates on a node; {real_pods.TURNS} edits of a policy, and as many approvals")
    real_pods.measure(report)
    return report


def write(report: ClusterReport, output: Path, *, beside_others: bool) -> None:
    others = json.loads(output.read_text()) if beside_others and output.exists() else {}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({**others, **report.figures()}, indent=1, sort_keys=True) + "\n")


def commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
