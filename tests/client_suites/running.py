"""Runs one suite in its own environment and brings how each of its tests ended.

The environment has what uv.lock pins in the dependency group `client-suites`, and nothing of the project. Every test has a time limit, so a
session that hangs is a failed test. Left out: judging; that is program.py's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tests.client_suites.published import BUILD, ROOT, SuiteError
from tests.client_suites.suites import Suite
from tests.support import processes
from tools import bootstrap

Outcome = Literal["passed", "skipped", "failed"]
ENVIRONMENT: Final = BUILD / "venv"
TEST_TIMEOUT_S: Final = 60
SUITE_TIMEOUT_S: Final = 1800
TESTS_FAILED: Final = 1
TELLS_LIBPQ: Final = ("PG", "PSYCOPG")  # what would lead the tests elsewhere, were it set outside
MOST_NAMED: Final = 200  # beyond it the whole suite runs again: a command line has an end
_RANK: Final[Mapping[str, int]] = {"passed": 0, "skipped": 1, "failed": 2}


@dataclass(frozen=True, slots=True)
class End:
    """How a test ended, over all its phases and subtests the worst; `reason` is the suite's own word."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Way:
    """A place to connect to, the data directory behind it, and a copy of the suite that belongs to it alone."""

    name: str
    port: int
    data: Path
    folder: Path


def make_environment() -> None:
    """Raises SuiteError when what uv.lock pins can't be installed."""
    command = [sys.executable, "-m", "uv", "sync", "--quiet", "--frozen", "--only-group", "client-suites", "--no-install-project"]
    settings = bootstrap.uv_environment(bootstrap.mirror_setting())
    environment = {**settings, "UV_PROJECT_ENVIRONMENT": str(ENVIRONMENT), "UV_PYTHON": sys.executable}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SuiteError(f"the suites' environment can't be made: {done.stderr.strip()}", "see that the package index is reached")


class Run:
    """One run of a suite, begun at once so that several go side by side. `tests`: these alone."""

    def __init__(self, suite: Suite, way: Way, tests: Sequence[str] = ()) -> None:
        self._name = f"{suite.name}, {way.name}"
        self._notes = way.folder / "outcomes.jsonl"
        self._notes.unlink(missing_ok=True)
        self._log = way.folder / "pytest.log"
        self._log.unlink(missing_ok=True)
        chosen = (
            tests
            if 0 < len(tests) <= MOST_NAMED
            else ["tests", *(f"--{'deselect' if '::' in path else 'ignore'}={path}" for path in suite.left_out)]
        )
        command = [
            *(str(ENVIRONMENT / "bin" / "python"), "-m", "pytest", *chosen, "-p", "outcomes", "-q", "--rootdir", str(way.folder)),
            *(part for plugin in suite.plugins for part in ("-p", plugin)),
            *("--timeout", str(TEST_TIMEOUT_S), "-o", f"cache_dir={way.folder / 'cache'}"),
            *(part for mark in suite.left_out_marks for part in ("-m", f"not {mark}")),
            *suite.arguments(way.port),
        ]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(TELLS_LIBPQ)}
        environment = {
            **kept,
            **suite.environment(way.port, way.data),
            "PYTHONPATH": str(Path(__file__).parent),
            "PYTHONHASHSEED": "0",
            "SIDEGATE_OUTCOMES": str(self._notes),
        }
        self._process = processes.start(command, self._log, environment=environment, directory=way.folder)

    def ends(self) -> dict[str, End]:
        """Wait, and bring each test's end.

        Raises:
            SuiteError: the suite itself didn't run to its end, so nothing can be said of it.
        """
        try:
            code = self._process.wait(SUITE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.stop()
            raise SuiteError(f"{self._name}: not over after {SUITE_TIMEOUT_S} s: {self._tail()}", "see what hangs") from None
        if code not in (0, TESTS_FAILED) or not self._notes.exists():
            raise SuiteError(f"{self._name}: pytest ended with {code}: {self._tail()}", "see what pytest says")
        return read_ends(self._notes.read_text().splitlines())

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-25:])


def read_ends(lines: Sequence[str]) -> dict[str, End]:
    """What the plugin noted, a line each."""
    ends: dict[str, End] = {}
    for line in lines:
        note = json.loads(line)
        known = ends.get(note["test"])
        if known is None or _RANK[note["outcome"]] > _RANK[known.outcome]:
            ends[note["test"]] = End(note["outcome"], note["reason"])
    return ends
