"""What an approver sees of a statement's values: type, format, text or bytes, masked."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from sidegate.approval.backend import ShownParameter, ShownStatement
from sidegate.mask.scanner import Scanner
from sidegate.policy.decision import MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule
from sidegate.postgres.shown import shown_statement
from sidegate.postgres.statements import BoundText

CARD = "4111 1111 1111 1111"


def unmasked(text: str) -> str:
    return text


def one(value: bytes | None, oid: int = 0, format_code: int = 0, mask: Callable[[str], str] = unmasked) -> ShownParameter:
    oids = (oid,) if oid else ()
    (shown,) = shown_statement(BoundText("select $1", (value,), (format_code,), oids), mask).parameters
    return shown


@pytest.mark.parametrize(
    ("value", "oid", "format_code", "shown"),
    [
        (b"10", 23, 0, ShownParameter("int4", text="10")),
        (b"10", 0, 0, ShownParameter(text="10")),
        (b"", 25, 0, ShownParameter("text", text="")),
        (None, 25, 0, ShownParameter("text")),
        (None, 0, 1, ShownParameter(is_binary=True)),
        (b"\xff", 25, 0, ShownParameter("text", hexadecimal="ff")),
        (struct.pack(">i", 10), 23, 1, ShownParameter("int4", True, "10")),
        (b"1234", 0, 1, ShownParameter("", True, hexadecimal="31323334")),
        (b"1234", 25, 1, ShownParameter("text", True, "1234")),
        (b"123", 23, 1, ShownParameter("int4", True, hexadecimal="313233")),
        (b"\\x41", 17, 0, ShownParameter("bytea", text="\\x41")),
        (b"A", 17, 1, ShownParameter("bytea", True, hexadecimal="41")),
        (b"x", 99999, 0, ShownParameter("oid 99999", text="x")),
    ],
)
def test_a_value_is_shown_as_the_target_reads_it(value: bytes | None, oid: int, format_code: int, shown: ShownParameter) -> None:
    assert one(value, oid, format_code) == shown


def test_formats_are_for_all_or_for_each() -> None:
    def formats(*codes: int) -> list[bool]:
        return [each.is_binary for each in shown_statement(BoundText("", (b"a", b"b"), codes), unmasked).parameters]

    assert (formats(), formats(1), formats(0, 1)) == ([False, False], [True, True], [False, True])


@pytest.mark.parametrize("format_code", [0, 1])
@pytest.mark.parametrize("oid", [0, 17, 25, 1009])
@pytest.mark.parametrize("around", [(b"", b""), (b"\xff\x00", b"\xfe"), (b"pay ", b" now")])
def test_no_value_shows_what_a_detector_finds(format_code: int, oid: int, around: tuple[bytes, bytes]) -> None:
    mask = ValueMask(frozenset({"payment-card"}), MaskStrategy.REDACT, PolicyRule("shop", "p", "cards"))
    scanner = Scanner.of((mask,), b"k" * 32)

    def masked(text: str) -> str:
        found = scanner.mask(text.encode("utf-8", "surrogateescape"))
        return text if found is None else found.decode("utf-8", "replace")

    shown = one(around[0] + CARD.encode() + around[1], oid, format_code, masked)
    assert shown.is_masked
    assert shown.hexadecimal is None
    assert "4111" not in str(shown)
    statement = shown_statement(BoundText(f"select '{CARD}'"), masked)
    assert statement == ShownStatement("select '[masked]'")
