"""docs/approvals.md says what the code does, where it gives numbers and names."""

from __future__ import annotations

import re
from pathlib import Path

from sidegate.approval import document
from sidegate.approval.files import KEPT_S
from sidegate.approval.hold import TRANSITIONS
from sidegate.approval.local import MAX_OPEN_PER_REQUESTER

PAGE = (Path(__file__).parents[3] / "docs" / "approvals.md").read_text("utf-8")


def test_the_table_of_phases_is_the_table_of_transitions() -> None:
    rows = re.findall(r"^\| ([A-Z][\w, ]+) \| ([\w, ]+) \|$", PAGE, re.MULTILINE)
    found = {
        phase: set() if then == "nothing" else set(then.split(", ")) for phases, then in rows for phase in phases.split(", ")
    }
    assert found == {phase.value: {after.value for after in then} for phase, then in TRANSITIONS.items()}


def test_limits_and_annotations_are_those_of_the_code() -> None:
    assert f"One person may have {MAX_OPEN_PER_REQUESTER} open requests" in PAGE
    assert f"longer than {document.MAX_STATEMENT} characters" in PAGE
    assert f"removed {KEPT_S / 86400:.0f} days after" in PAGE
    named = set(re.findall(r"^\| `(sidegate\.dev/[\w-]+)` \|", PAGE, re.MULTILINE))
    assert named == {document.DECIDERS, document.HOLD_UNTIL, document.WITHDRAWN}
