"""`make client-suites`: the drivers' own published tests, directly and through a gate, and every test that ends differently.

    python -m tests.client_suites.program [SUITE ...] [--all] [--json FILE]

Each way has Debian's PostgreSQL of its own, so both run side by side and neither sees what the other made. The gate's role is a passthrough
role: relayed byte for byte, recorded. Prints each difference, what isn't asked of the gate because it doesn't pass directly, and last
`N passed both ways, M differ`. The exit status is 0 when every test that passes directly passes through the gate, or its difference is in
the table with a reason; 1 when one doesn't; 2 when nothing could be run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec
from psycopg import sql

from sidegate.policy.config import PassthroughConfig, TargetConfig
from tests.client_suites.comparison import Comparison, best_of, compare, failing, in_doubt, still_asked, summary
from tests.client_suites.published import SuiteError, locked_version, unpack, version_of
from tests.client_suites.running import End, Run, Way, make_environment
from tests.client_suites.suites import HOST, PASSWORD, ROLE, SUITES, Suite
from tests.support.debian_postgres import debian_installation
from tests.support.gate import GateProcess, gate_config
from tests.support.issuer import Issuer
from tests.support.postgres_server import PostgresServer

TRIES: Final = 3
UNSTEADY_TRIES: Final = 15  # one that fails directly two times in three would still fail them all once in 400 runs
MOST_TOLD: Final = 10
PASSING: Final = "suite"
# Nothing listens but loopback, and the suites make roles without a password.
HBA: Final = ("local all all trust", f"host all {ROLE} {HOST}/32 scram-sha-256", f"host all all {HOST}/32 trust")
SETTINGS: Final = {"max_prepared_transactions": "10", "jit": "off"}


def say(text: str) -> None:
    print(f"client-suites: {text}", file=sys.stderr, flush=True)


def play(suite: Suite) -> Comparison:
    """Run it both ways.

    Raises:
        SuiteError: it couldn't be run.
    """
    installation = debian_installation()
    if installation is None:
        raise SuiteError("Debian's PostgreSQL is absent", "apt-get install postgresql, or run this as root on Debian")
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidegate-suite-"))) for _ in range(2)]
        copies = [unpack(suite, folder) for folder in folders]
        servers = [stack.enter_context(PostgresServer(installation, hba=HBA, settings=SETTINGS)) for _ in range(2)]
        for server in servers:
            with server.admin() as admin:
                admin.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(ROLE), PASSWORD))
        issuer = stack.enter_context(Issuer(now=None))
        gate = stack.enter_context(
            GateProcess(gate_config(servers[1], issuer, policies=[], to_target="tcp", change=_passing(suite)))
        )
        ways = (
            Way("directly", servers[0].port, servers[0].data, copies[0]),
            Way("through the gate", gate.port, servers[1].data, copies[1]),
        )
        version = version_of(suite)
        say(f"{suite.name} {locked_version(suite.name)}, its suite of {version}, PostgreSQL {installation.version}")
        direct, through = _both(stack, suite, ways)
        unsteady = failing(direct)
        for tried in range(1, UNSTEADY_TRIES):
            doubtful = in_doubt(direct, through) if tried < TRIES else still_asked(direct, through, unsteady)
            if not doubtful:
                break
            say(f"{suite.name}: again, both ways, {len(doubtful)}: {', '.join(doubtful[:MOST_TOLD])}")
            again = _both(stack, suite, ways, doubtful)
            unsteady |= failing(again[0])
            direct, through = best_of(direct, again[0]), best_of(through, again[1])
        _assert_passed_through(gate)
        return compare(suite.name, direct, through, unsteady)


def _passing(suite: Suite) -> Callable[[TargetConfig], TargetConfig]:
    entry = PassthroughConfig(PASSING, (ROLE, *suite.roles), (f"{HOST}/32",))
    return lambda target: msgspec.structs.replace(target, passthrough=(entry,))


def _both(
    stack: ExitStack, suite: Suite, ways: tuple[Way, Way], tests: Sequence[str] = ()
) -> tuple[dict[str, End], dict[str, End]]:
    runs = [Run(suite, way, tests) for way in ways]
    for run in runs:
        stack.callback(run.stop)
    return runs[0].ends(), runs[1].ends()


def _assert_passed_through(gate: GateProcess) -> None:
    """Or the comparison was of a direct connection with itself."""
    names = Counter(event["session"]["passthrough"] for event in gate.audit_events() if event["event"] == "SessionOpened")
    if not names[PASSING]:
        raise SuiteError(f"no session came through the gate as passthrough `{PASSING}`", "see how the suite is told its port")
    say(f"{names[PASSING]} sessions came through the gate")


def tell(suite: Suite, result: Comparison, seconds: float, *, whole: bool) -> None:
    print(f"== {suite.name} {locked_version(suite.name)}, suite of {version_of(suite)} ({suite.licence}): {seconds:.0f} s")
    for path, why in suite.left_out.items():
        print(f"left out: {path}: {why}")
    for mark, why in suite.left_out_marks.items():
        print(f"left out: tests marked `{mark}`: {why}")
    for outcome in ("failed", "skipped"):
        ends = {test: end for test, end in result.not_passing.items() if end.outcome == outcome}
        if ends:
            print(f"{len(ends)} {outcome} directly, so nothing is asked of the gate:")
        counted = Counter(_one_line(end.reason) for end in ends.values())
        lines = [f"{test}: {_one_line(end.reason)}" for test, end in ends.items()]
        for line in lines if whole or outcome == "failed" else [f"{count} x {reason}" for reason, count in counted.most_common()]:
            print(f"  {line}")
    for test in result.unsteady:
        print(f"unsteady, it failed and passed directly too: {test}")
    for difference in result.differences:
        print(f"DIFFERS: {difference.test}: {difference.through.outcome}: {_one_line(difference.through.reason)}")
        print(f"  known: {difference.known}" if difference.known else "  not in the table of known differences")
    for test in result.untrue:
        print(f"UNTRUE: {test} is in the table of known differences, and doesn't differ")
    print(f"{suite.name}: {summary([result])}", flush=True)


def _one_line(reason: str) -> str:
    return " ".join(reason.split())[:200] or "no reason given"


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="client-suites", description="run drivers' published tests directly and through a gate")
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"which: {', '.join(suite.name for suite in SUITES)} (default: all)"
    )
    parser.add_argument("--all", action="store_true", help="name each skipped test, not only how many share a reason")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts there too")
    options = parser.parse_args(given)
    unknown = set(options.suites) - {suite.name for suite in SUITES}
    if unknown:
        parser.error(f"no suite `{', '.join(sorted(unknown))}`")
    return options


def main() -> int:
    options = arguments(None)
    results: dict[str, Comparison] = {}
    try:
        make_environment()
        for suite in SUITES:
            if not options.suites or suite.name in options.suites:
                began = time.monotonic()
                results[suite.name] = play(suite)
                tell(suite, results[suite.name], time.monotonic() - began, whole=options.all)
    except SuiteError as error:
        print(f"client-suites: {error}\n{error.way_forward}", file=sys.stderr)
        return 2
    if options.json:
        counts = {name: {"passed": result.passed, "differ": len(result.differences)} for name, result in results.items()}
        options.json.write_text(json.dumps(counts, indent=1) + "\n")
    print(summary(list(results.values())))
    return 0 if all(result.is_good for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
