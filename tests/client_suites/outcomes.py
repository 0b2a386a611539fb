"""A pytest plugin for a suite that isn't ours: notes how each test ended, and makes its random data the same in each run.

Loaded by `-p outcomes` in the suite's own environment, so it imports pytest alone and none of the project. Writes one JSON line for each
phase of a test that says something (`SIDEGATE_OUTCOMES` names the file), at once: what a crash leaves is still there. A subtest counts for
the test it is part of.
"""

from __future__ import annotations

import json
import os
import random
import zlib
from pathlib import Path

import pytest

_LONGEST_REASON = 600
_FILE = Path(os.environ["SIDEGATE_OUTCOMES"])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    random.seed(zlib.crc32(item.nodeid.encode()))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.passed and report.when != "call":
        return
    if report.skipped:
        expected = getattr(report, "wasxfail", "")
        reason = (
            f"expected to fail: {expected}" if expected else report.longrepr[-1] if isinstance(report.longrepr, tuple) else ""
        )
    else:
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = "" if report.passed else crash.message if crash else str(report.longrepr)
    line = {"test": report.nodeid, "outcome": report.outcome, "reason": reason[:_LONGEST_REASON], "seconds": report.duration}
    with _FILE.open("a") as file:
        file.write(json.dumps(line) + "\n")
