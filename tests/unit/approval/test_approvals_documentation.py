"""docs/approvals.md says what the code does, where it gives numbers and names."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from sidegate.approval import document, shown
from sidegate.approval.files import KEPT_S, MAX_ENDED
from sidegate.approval.hold import TRANSITIONS
from sidegate.approval.local import MAX_OPEN_PER_REQUESTER
from sidegate.cli.request_view import MAX_LINES
from sidegate.gateway.pace import COUNTED_S, NEW_PER_PRINCIPAL, NEW_PER_TARGET

PAGE = (Path(__file__).parents[3] / "docs" / "approvals.md").read_text("utf-8")


def test_the_table_of_phases_is_the_table_of_transitions() -> None:
    rows = re.findall(r"^\| ([A-Z][\w, ]+) \| ([\w, ]+) \|$", PAGE, re.MULTILINE)
    found = {
        phase: set() if then == "nothing" else set(then.split(", ")) for phases, then in rows for phase in phases.split(", ")
    }
    assert found == {phase.value: {after.value for after in then} for phase, then in TRANSITIONS.items()}


def test_every_part_that_an_approver_sees_is_a_field_of_the_request() -> None:
    rows = re.findall(r"^\| .* \| (`\w+`(?:, `\w+`)*) \|$", PAGE.partition("## The rules")[0], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"\w+", row)}
    fields = {field.encode_name for field in msgspec.structs.fields(document.SpecFields)}
    assert {"statement", "parameters", "runs", "alternatives", "searchPath", "currentRole"} <= named <= fields


def test_limits_and_annotations_are_those_of_the_code() -> None:
    assert f"One person may have {MAX_OPEN_PER_REQUESTER} open requests" in PAGE
    assert f"longer than {shown.MAX_STATEMENT} characters" in PAGE
    limits = (shown.MAX_VALUE, shown.MAX_PARAMETERS, shown.MAX_SHOWN)
    assert "a value of more than {}, with more than {} values, or with more than {} characters in all".format(*limits) in PAGE
    assert f"the first {MAX_LINES} lines of each text" in PAGE
    assert f"removed {KEPT_S / 86400:.0f} days after" in PAGE
    assert f"of more than {MAX_ENDED} that ended" in PAGE
    assert (NEW_PER_PRINCIPAL.within_s, NEW_PER_TARGET.within_s, COUNTED_S) == (600.0, 600.0, 660.0)  # ten minutes, and eleven
    assert f"{NEW_PER_PRINCIPAL.most} new requests of one person, {NEW_PER_TARGET.most} of all together" in PAGE
    named = set(re.findall(r"^\| `(sidegate\.dev/[\w-]+)` \|", PAGE, re.MULTILINE))
    assert named == {document.DECIDERS, document.HOLD_UNTIL, document.WITHDRAWN}
