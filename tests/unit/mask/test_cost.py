"""What looking for secrets costs: adversarial values make no detector, reading or compound walk more than linear.

Counted are the lines that the mask package runs and the bytes that detectors slice, not seconds: for a value that is four times as long
they may be five times as many. RE2 itself is linear in what it is given, and whatever searches again begins behind the last find.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from sidegate.mask.cells import scan_cell
from sidegate.mask.detectors import DETECTOR_NAMES, DETECTORS
from sidegate.mask.kinds import CellKind
from sidegate.mask.scanner import Scanner
from sidegate.mask.tally import Tally
from sidegate.mask.text import mask_fields
from sidegate.policy.decision import ColumnMask, ColumnUse, Masks, MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule

RULE = PolicyRule("ns", "policy", "rule")
SCANNER = Scanner.of((ValueMask(DETECTOR_NAMES, MaskStrategy.REDACT, RULE),))
SECRET = b"rv4j3j7q8M3ywp9yM26QjKvxSRn2yP9WmrVN69RS"
SHORT, TIMES, MORE = 200, 4, 5

UNITS: dict[str, bytes] = {
    "key ids and secrets": b"AKIA3JMGPT7QX3W6NQXQ " + SECRET + b" ",
    "secrets in prose": b"x: " + SECRET + b" ",
    "numbers": b"4242 ",
    "long numbers": b"4242424242424242",
    "single digits": b"4 2 ",
    "pairs of digits": b"42 42 4 ",
    "numbers by line": b"4242\n",
    "thousands": b",424",
    "exponents": b"4.24242424242424e+15",
    "hexadecimal": b"4242424242424242ab",
    "uuids": b"42424242-4242-4242-4242-424242424242-",
    "social security numbers": b"583-68-",
    "labels": b"ssn ssn: 583682629",
    "addresses": b"a@b.",
    "at signs": b"a [at] b [dot] ",
    "account numbers": b"DE89 3704 0044 ",
    "countries": b"de12",
    "web tokens": b"eyJ",
    "web tokens with points": b"eyJhbGciOiJI.eyJ.",
    "wrapped web tokens": b"eyJhbGciOiJI\n",
    "begun keys": b"-----BEGIN PRIVATE KEY-----\n",
    "keys": b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
    "dashes": b"-",
    "backslashes": b"\\",
    "escapes": b"\\u0034",
    "hexadecimal escapes": b"\\x34",
    "bytes in hexadecimal": b"\\x343234323432",
    "percent escapes": b"%2534",
    "references": b"&amp;#52;",
    "nested escapes": b"%5C%5Cu0025&#51;4",
    "wide letters": "\uff14".encode(),
    "marks": "4\u0332".encode(),
    "spaces": "4\u00a0".encode(),
    "UTF-16": "4242".encode("utf-16-le"),
    "NUL bytes": b"\0",
    "quotes": b'"4242424242424242"',
    "json": b'{"a":"4242424242424242"},',
    "integers": b"\0\1\2\3\0\1\2\3",
    "lengths": b"\0\0\0\x0d",
}


def lines_run(work: Callable[[], object]) -> int:
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if "/sidegate/mask/" not in frame.f_code.co_filename:
            return None
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


class Sliced(bytes):
    """Counts the bytes of all its slices: `copied`."""

    copied: int

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        if isinstance(part, bytes):
            self.copied += len(part)
        return part


def is_linear(few: int, many: int) -> bool:
    return many <= MORE * few + 2000


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS.keys())
@pytest.mark.parametrize(
    "kind", [CellKind.TEXT_VALUE, CellKind.JSON_TEXT, CellKind.BYTEA_TEXT, CellKind.COMPOUND_BINARY], ids=str
)
def test_a_value_that_is_longer_costs_as_much_more(unit: bytes, kind: CellKind) -> None:
    def scanned(size: int) -> int:
        return lines_run(lambda: scan_cell(kind, unit * size, SCANNER, Tally()))

    assert is_linear(scanned(SHORT), scanned(SHORT * TIMES))


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS.keys())
@pytest.mark.parametrize("name", sorted(DETECTOR_NAMES))
def test_no_detector_copies_the_value_for_each_find(name: str, unit: bytes) -> None:
    copied = []
    for size in (SHORT, SHORT * TIMES):
        value = Sliced(unit * size)
        value.copied = 0
        DETECTORS[name].find(value)
        copied.append(value.copied)
    assert is_linear(*copied), copied


def test_compounds_in_compounds_cost_no_more_than_their_depth() -> None:
    def nested(value: bytes) -> bytes:
        for _ in range(20):
            value = struct.pack(">iIi", 1, 2249, len(value)) + value
        return value

    def scanned(size: int) -> int:
        cell = nested(b"4242424242424242 x" * size)
        return lines_run(lambda: scan_cell(CellKind.COMPOUND_BINARY, cell, SCANNER, Tally()))

    assert is_linear(scanned(SHORT), scanned(SHORT * TIMES))


@pytest.mark.parametrize("mark", ['"', "\u201c", "\u00ab", "\u00ab\u00bb", "`"])
def test_an_error_with_many_quotes_is_cut_in_a_fixed_number_of_steps(mark: str) -> None:
    masks = Masks(columns=(ColumnMask(frozenset({"ssn"}), None, None, MaskStrategy.REDACT, ColumnUse.REFUSED, RULE),))
    shown: list[str] = []

    def cut(size: int) -> None:
        fields = {"S": "ERROR", "V": "ERROR", "C": "22P02", "M": "value " + mark * size + " x: secret", "R": "x"}
        shown.append(mask_fields(fields, masks)["M"])

    few, many = lines_run(lambda: cut(2_000)), lines_run(lambda: cut(200_000))
    assert few == many
    assert all("secret" not in text and "[masked]" in text for text in shown)
