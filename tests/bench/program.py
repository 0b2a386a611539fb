"""`make bench`: one run on one machine of everything that docs/performance.md speaks of. Prints a table, writes build/bench.json.

Rounds are short and interleaved, so that whatever else the machine does hits everyone alike; a figure is the median over rounds, a
ratio the median of the rounds' ratios. Nothing is asserted. What isn't there (pgbouncer, a C compiler) is left out and named.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import contenders as who
from tests.bench import measure
from tests.bench.contenders import Contender, PgBouncer
from tests.bench.engine import engine
from tests.bench.report import Report
from tests.support.debian_postgres import pgbouncer_program
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

ROOT: Final = Path(__file__).resolve().parents[2]
RESULT: Final = ROOT / "build" / "bench.json"
COMPILED: Final = ROOT / "build" / "compiled"
CLIENTS: Final = 8
SESSIONS: Final = 200
PROTOCOLS: Final = ("simple", "prepared")
TOKEN_LIFETIME_S: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class Effort:
    rounds: int
    seconds: float
    bulk_repeats: int
    transactions: int
    starts: int
    connections: int


FULL: Final = Effort(rounds=5, seconds=2, bulk_repeats=5, transactions=20_000, starts=5, connections=20)
QUICK: Final = Effort(rounds=2, seconds=1, bulk_repeats=3, transactions=3_000, starts=2, connections=5)


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Bench:
    """The measurements. Each takes its contenders in turn, round after round, and reports."""

    effort: Effort
    pgbench: Path
    database: str
    report: Report

    def load(self, contender: Contender, protocol: str, *, seconds: float | None = None, transactions: int = 0) -> measure.Load:
        return measure.pgbench(
            self.pgbench,
            contender.endpoint,
            contender.role,
            self.database,
            protocol=protocol,
            clients=CLIENTS,
            seconds=seconds,
            transactions=transactions,
        )

    def throughput(self, contenders: Sequence[Contender]) -> None:
        """pgbench's select-only workload with 8 clients."""
        for number in range(self.effort.rounds):
            say(f"throughput, round {number + 1} of {self.effort.rounds}")
            for protocol in PROTOCOLS:
                for contender in contenders:
                    load = self.load(contender, protocol, seconds=self.effort.seconds)
                    self.report.sample(f"pgbench_{protocol}", contender.name, "tps", load.tps)

    def bulk(self, contenders: Sequence[Contender]) -> None:
        """A SELECT of 20,000 rows, read by a bare socket."""
        with contextlib.ExitStack() as stack:
            readers = {}
            for contender in contenders:
                reader = measure.BulkReader(contender.endpoint, contender.role, self.database)
                stack.callback(reader.close)
                readers[contender.name] = reader
                reader.rows_per_second(who.QUIET_QUERY, who.PEOPLE, 1)
            for number in range(self.effort.rounds):
                say(f"bulk, round {number + 1} of {self.effort.rounds}")
                for name, reader in readers.items():
                    rate = reader.rows_per_second(who.QUIET_QUERY, who.PEOPLE, self.effort.bulk_repeats)
                    self.report.sample("bulk", name, "rows_per_s", rate)
                    if who.DETECTED in name:
                        rate = reader.rows_per_second(who.FINDS_QUERY, who.PEOPLE, self.effort.bulk_repeats)
                        self.report.sample("bulk", f"{name}_with_finds", "rows_per_s", rate)

    def processor(self, contenders: Sequence[Contender]) -> None:
        """Processor time per statement of whoever stands between."""
        for contender in contenders:
            if contender.pid is None:
                continue
            say(f"processor time of {contender.name}")
            for protocol in PROTOCOLS:
                before = measure.processor_seconds(contender.pid)
                load = self.load(contender, protocol, transactions=self.effort.transactions // CLIENTS)
                spent = measure.processor_seconds(contender.pid) - before
                self.report.sample(f"cpu_{protocol}", contender.name, "us", spent / load.transactions * 1e6)

    def connections(self, contenders: Sequence[Contender]) -> None:
        """From the first packet to ReadyForQuery, one after the other."""
        for number in range(self.effort.rounds):
            say(f"connections, round {number + 1} of {self.effort.rounds}")
            for contender in contenders:
                found = measure.connection_ms(contender.endpoint, contender.role, self.database, self.effort.connections)
                self.report.sample("connection", contender.name, "ms", found)

    def memory(self, gate: GateProcess, contender: Contender) -> None:
        """Resident memory with 200 sessions, and the most there ever was, after all that came before."""
        say(f"memory of {contender.name} with {SESSIONS} sessions")
        sessions = measure.open_sessions(contender.endpoint, contender.role, self.database, SESSIONS)
        self.report.sample(f"memory_{SESSIONS}_sessions", contender.name, "mib", measure.resident_mib(gate.pid))
        for session in sessions:
            session.close()
        self.report.sample("memory_peak", contender.name, "mib", measure.peak_mib(gate.pid))


def compiled_environment() -> dict[str, str] | None:
    """What makes a gate run with its hot modules compiled; None, with the reason said, when that can't be had here."""
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "compile.py")], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        say(f"no compiled gate: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
        return None
    return {"PYTHONPATH": str(COMPILED)}


def idle_gate(report: Report, name: str, starts: int, gate: GateProcess, database: str, contender: Contender) -> None:
    """What an idle gate takes and how soon it is ready."""
    for _ in range(starts):
        gate.stop()
        gate.start()
        report.sample("start", name, "s", gate.started_in_s)
    report.sample("memory_idle", name, "mib", measure.resident_mib(gate.pid))
    for session in measure.open_sessions(contender.endpoint, contender.role, database, 1):
        session.close()
    report.sample("memory_after_a_session", name, "mib", measure.resident_mib(gate.pid))


def run(effort: Effort) -> Report:
    report = Report()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(PostgresServer())
        issuer = stack.enter_context(Issuer(now=None, lifetime_s=TOKEN_LIFETIME_S))
        pgbench = server.installation.program("pgbench")
        database = who.prepare_database(server, pgbench)
        bench = Bench(effort, pgbench, database, report)
        report.note("postgres", server.installation.version)
        report.note("python", platform.python_version())
        report.note("cpus", os.cpu_count() or 0)

        between = [Contender("direct", server.endpoint, who.PLAIN_ROLE)]
        bouncer_program = pgbouncer_program()
        if bouncer_program is None:
            say("no pgbouncer: apt-get install pgbouncer")
        else:
            bouncer = stack.enter_context(PgBouncer(bouncer_program, server))
            report.note("pgbouncer", who.program_version(bouncer_program))
            between.append(Contender("pgbouncer", bouncer.endpoint, who.PLAIN_ROLE, bouncer.process.pid))

        gates: list[tuple[GateProcess, Contender]] = []
        masking: list[Contender] = []
        compiled = compiled_environment()
        variants = {"gate": compiled, "gate_pure": {}} if compiled else {"gate_pure": {}}
        for name, environment in variants.items():
            gate = stack.enter_context(GateProcess(who.bench_config(server, issuer), environment=environment))
            plain = Contender(name, gate.endpoint(issuer), who.PLAIN_ROLE, gate.pid)
            idle_gate(report, name, effort.starts, gate, database, plain)
            plain = Contender(name, gate.endpoint(issuer), who.PLAIN_ROLE, gate.pid)
            gates.append((gate, plain))
            masking += [
                Contender(f"{name}_{who.MASKED}", plain.endpoint, who.MASKED_ROLE, gate.pid),
                Contender(f"{name}_{who.DETECTED}", plain.endpoint, who.DETECTED_ROLE, gate.pid),
            ]
        plain_gates = [contender for _, contender in gates]
        bare = Contender("passthrough", who.passthrough_endpoint(gates[0][0]), who.PASSTHROUGH_ROLE, gates[0][0].pid)

        say("the engine by itself")
        engine(report, effort.rounds)
        bench.throughput([*between, *plain_gates, bare])
        bench.bulk([*between, *plain_gates, bare, *masking])
        bench.processor([*between, *plain_gates, bare])
        bench.connections([*between, *plain_gates])
        for gate, contender in gates:
            bench.memory(gate, contender)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description="measure the gate against a direct connection and pgbouncer")
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement: few short rounds")
    parser.add_argument("--rounds", type=int, help="how many interleaved rounds")
    parser.add_argument("--output", type=Path, default=RESULT, help="where the figures go as JSON")
    arguments = parser.parse_args()
    effort = QUICK if arguments.quick else FULL
    if arguments.rounds:
        effort = Effort(
            arguments.rounds, effort.seconds, effort.bulk_repeats, effort.transactions, effort.starts, effort.connections
        )
    report = run(effort)
    print(report.table())
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(report.json())
    say(f"wrote {arguments.output}")
