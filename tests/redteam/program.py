"""`make redteam`: attacks a gate of our own in front of a database of our own, and says which attacks got through.

    python -m tests.redteam.program [--cases DIR] [-k PATTERN] [--json FILE] [--quiet]

Starts Debian's PostgreSQL, loads the red-team database, starts a gate with the policy of policy.py, plays every case of the folder through it
and prints a line for each failure and progress to stderr. The last line is `N passed, N failed`; the exit status is 0 when nothing failed,
1 when something did, 2 when nothing could be run. Everything listens on free ports of loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from psycopg.conninfo import make_conninfo

from tests.redteam.corpus import Case, CorpusError, Words, read_folder
from tests.redteam.hunter import Hunter
from tests.redteam.judge import Judge, Judgement, Verdict
from tests.redteam.planted import plant
from tests.redteam.policy import GROUP, redteam_config
from tests.redteam.target import DATABASE, GATE_ROLE, RedTeamTarget
from tests.redteam.tee import Tee
from tests.support.debian_postgres import debian_installation
from tests.support.gate import GateProcess
from tests.support.issuer import Issuer

SHOWN: Final = Path(__file__).with_name("shown")
MORE: Final = Path(__file__).with_name("more")
TOKEN_LIFETIME_S: Final = 6 * 3600
ANSWER_S: Final = 10.0
LONGEST_REASON: Final = 160


@dataclass(frozen=True, slots=True)
class Result:
    case: Case
    judgement: Judgement
    seconds: float

    def line(self) -> str:
        why = " ".join(self.judgement.why.split())[:LONGEST_REASON]
        return f"{self.case.id:<6} {self.judgement.verdict:<11} {self.case.category:<12} {self.case.title}: {why}"

    def as_json(self) -> dict[str, Any]:
        case = self.case
        told = {"id": case.id, "file": case.file, "title": case.title, "category": case.category, "expect": case.expect}
        return {**told, "verdict": self.judgement.verdict.value, "detail": self.judgement.why, "seconds": round(self.seconds, 2)}


def say(text: str) -> None:
    print(f"redteam: {text}", file=sys.stderr, flush=True)


@contextmanager
def bench(gate_port: int | None = None, answer_s: float = ANSWER_S) -> Iterator[Judge]:
    """A judge with all that it needs around it. `gate_port`: judge what listens there instead of a gate of ours.

    Raises:
        CorpusError: Debian's PostgreSQL can't be had.
    """
    installation = debian_installation()
    if installation is None:
        raise CorpusError("Debian's PostgreSQL is absent: apt-get install postgresql, or run this as root on Debian")
    planted = plant()
    with ExitStack() as stack:
        target = stack.enter_context(RedTeamTarget(installation, planted))
        issuer: Issuer | None = None
        if gate_port is None:
            issuer = stack.enter_context(Issuer(now=None, lifetime_s=TOKEN_LIFETIME_S))
            gate = stack.enter_context(GateProcess(redteam_config(target.server, issuer)))
            gate_port = gate.port
        tee = stack.enter_context(Tee(gate_port))

        def token(who: str) -> str:
            return issuer.token(groups=[GROUP], sub=who, email=f"{who}@example.com") if issuer is not None else "none"

        def dsn(who: str, port: int) -> str:
            return make_conninfo(
                "",
                host="127.0.0.1",
                port=port,
                user=GATE_ROLE,
                password=token(who),
                dbname=DATABASE,
                sslmode="disable",
                gssencmode="disable",
            )

        words = Words(planted.rows, target.admin_dsn, target.server.port)
        yield Judge(target, words, Hunter(planted), tee, dsn, answer_s)


def play(judge: Judge, cases: Sequence[Case], report: Any = lambda result: None) -> list[Result]:
    results = []
    for case in cases:
        began = time.monotonic()
        try:
            judgement = judge.judge(case)
        except Exception as error:  # one case's trouble is no reason to leave out the others
            judge.is_dirty = True
            judgement = Judgement(Verdict.ERROR, f"{type(error).__name__}: {error}")
        results.append(Result(case, judgement, time.monotonic() - began))
        report(results[-1])
    return results


def summary(results: Sequence[Result]) -> tuple[int, int]:
    """How many passed, how many failed; what was skipped is neither."""
    failed = sum(result.judgement.verdict.is_failure for result in results)
    skipped = sum(result.judgement.verdict is Verdict.SKIPPED for result in results)
    return len(results) - failed - skipped, failed


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="redteam", description="attack a gate with a folder of cases")
    parser.add_argument(
        "--cases", type=Path, metavar="DIR", help="folder of cases, and no others (default: the project's own, in two folders)"
    )
    parser.add_argument(
        "-k", dest="pattern", default="", metavar="PATTERN", help="only cases whose id, category or title matches"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every verdict there too")
    parser.add_argument(
        "--answer", type=float, default=ANSWER_S, metavar="SECONDS", help="how long a step may take (default: 10)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--all", action="store_true", help="print a line for each case that passed too")
    return parser.parse_args(given)


def run(options: argparse.Namespace) -> int:
    cases: list[Case] = []
    for folder in (options.cases,) if options.cases is not None else (SHOWN, MORE):
        found, others = read_folder(folder)
        cases += found
        for name in others:
            say(f"`{name}` is for another gate: left out")
    cases = [case for case in cases if case.matches(options.pattern)]
    if not cases:
        raise CorpusError(f"no case matches `{options.pattern}`")
    done = 0

    def report(result: Result) -> None:
        nonlocal done
        done += 1
        if result.judgement.verdict.is_failure or options.all:
            print(result.line(), flush=True)
        if not options.quiet and done % 20 == 0:
            say(f"{done} of {len(cases)}")

    with bench(answer_s=options.answer) as judge:
        results = play(judge, cases, report)
    passed, failed = summary(results)
    verdicts = Counter(result.judgement.verdict.value for result in results)
    if options.json:
        told = {"passed": passed, "failed": failed, "verdicts": verdicts, "cases": [result.as_json() for result in results]}
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    print("verdicts: " + ", ".join(f"{name} {count}" for name, count in verdicts.most_common()))
    for result in results:
        if result.judgement.verdict is Verdict.SKIPPED:
            print(f"{result.case.id} was skipped: {result.judgement.why}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def main() -> int:
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        return run(arguments(None))
    except CorpusError as error:
        print(f"redteam: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
