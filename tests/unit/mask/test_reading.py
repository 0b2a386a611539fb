"""Readings: what they undo, how they map back, and that no Unicode twin of an ASCII character is forgotten."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from sidegate.mask.patterns import compile_pattern
from sidegate.mask.reading import FOLD_TRIGGER, TWINS, UNSEEN, fold, folded, narrow, unescape, whole_escapes

trigger = compile_pattern(FOLD_TRIGGER)


def test_every_character_with_an_ascii_twin_that_can_stand_in_a_secret_triggers_folding() -> None:
    meaningful = set("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ@._+-/%")
    missed = []
    for code in range(0x80, sys.maxunicode + 1):
        if 0xD800 <= code < 0xE000:
            continue
        character = chr(code)
        twin = unicodedata.normalize("NFKC", character)
        digit = unicodedata.digit(character, None)
        if code in (0x2025, 0x2026):
            continue  # two and three dots: no secret has two in a row
        if digit is None and not (twin.isascii() and set(twin.strip()) & meaningful):
            continue
        if trigger.search(b"4" + character.encode() + b"4") is None or not folded(character).isascii():
            missed.append(f"{code:X}")
    assert missed == []


def test_every_format_character_that_text_may_hold_is_dropped() -> None:
    visible = {0x600, 0x601, 0x602, 0x603, 0x604, 0x605, 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}  # shown as signs
    for code in range(0x80, 0x110000):
        is_format = unicodedata.category(chr(code)) == "Cf" and code not in visible and not 0x13430 <= code <= 0x1345F
        if is_format and not 0x1BCA0 <= code <= 0x1D17A and code not in (0xFFF9, 0xFFFA, 0xFFFB):
            assert folded(chr(code)) == "", f"{code:X}"
            assert trigger.search(chr(code).encode()) is not None


def test_classes_hold_no_ascii_character() -> None:
    for characters in (TWINS, UNSEEN):
        pattern = compile_pattern(f"[{characters}]".encode())
        assert [code for code in range(0x80) if pattern.search(bytes([code]))] == []


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (rb"\u0041", b"A"),
        (rb"\\u0041", b"A"),
        (rb"\\\\\\u0041", b"A"),
        (rb"\U0001F600", "\U0001f600".encode()),
        (rb"\ud83d\ude00", "\U0001f600".encode()),
        (rb"\ud83d", b"?"),
        (rb"\x4142", b"AB"),
        (rb"\x41\x42", b"AB"),
        (rb"\101\102", b"AB"),
        (rb"\n\t\/", b"\n\t/"),
        (rb"\q", rb"\q"),
        (rb"a\\", rb"a\\"),
        (rb"\u00zz", rb"\u00zz"),
        (rb"\u{41}\u{1F600}", "A\U0001f600".encode()),
        (b"%41%2542%252543", b"ABC"),
        (b"100%zz 5%", b"100%zz 5%"),
        (b"&#65;&#x42;&amp;#67;&#68 &commat;&nbsp;&unknown;&", "ABCD @\xa0&unknown;&".encode()),
        (b"&#1114112;&#xD800;", b"??"),
        (rb"\xe2\x80\x8b", "\u200b".encode()),
    ],
)
def test_unescapes(raw: bytes, read: bytes) -> None:
    assert unescape(raw).data == read


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (rb"4\xa04", "4\xa04".encode()),  # Python
        (rb"4\xc2\xa04", "4\xa04".encode()),  # C
        (rb"4\x204242", b"4 4242"),
        (rb"\x41\n\u0042", b"A\nB"),
    ],
)
def test_reads_hexadecimal_escapes_of_two_digits(raw: bytes, read: bytes) -> None:
    assert unescape(raw, is_short=True).data == read


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
def test_narrows_utf_16(order: str) -> None:
    assert narrow("4242 4242".encode(order)).data == b"4242 4242"


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        ("4\u03322\ufe0f\u20e3", "42"),
        ("\u56db\u4e8c\u3007\u96f6", "4200"),
        ("4\u00b72\u30fb4\u20442", "4.2.4/2"),
        ("\U0001ccf4\U00010d42\u3283", "424"),
        ("4\u20282\u28004", "4 2 4"),
    ],
)
def test_folds_marks_points_and_numerals(raw: str, read: str) -> None:
    assert fold(raw.encode()).data == read.encode()


def test_every_digit_of_every_script_is_read_as_one() -> None:
    """Whatever Unicode calls a digit, decimal or not, and whatever the matcher's younger tables call one."""
    decimal = compile_pattern(rb"\p{Nd}")
    missed = []
    for code in range(0x80, sys.maxunicode + 1):
        if 0xD800 <= code < 0xE000:
            continue
        character = chr(code)
        if decimal.search(character.encode()) is None and unicodedata.digit(character, None) is None:
            continue
        read = fold(character.encode() * 3).data
        if not (read.isdigit() and len(read) == 3) or trigger.search(character.encode()) is None:
            missed.append(f"{code:X}")
    assert missed == []


def test_maps_places_back() -> None:
    reading = unescape(rb"ab\u0034cd\x3536gh")
    assert reading.data == b"ab4cd56gh"
    assert reading.source_span((0, 2)) == (0, 2)
    assert reading.source_span((2, 3)) == (2, 8)
    assert reading.source_span((1, 4)) == (1, 9)
    assert reading.source_span((5, 6)) == (10, 16)  # inside a run of hexadecimal: the whole run
    assert reading.source_span((7, 9)) == (16, 18)
    assert reading.source_span((0, 9)) == (0, 18)


def test_maps_places_back_over_dropped_characters() -> None:
    reading = fold("a\u200bb\u200b\u200bｃd".encode())
    assert reading.data == b"abcd"
    assert reading.source_span((0, 1)) == (0, 1)
    assert reading.source_span((1, 2)) == (4, 5)
    assert reading.source_span((2, 3)) == (11, 14)
    assert reading.source_span((0, 4)) == (0, 15)


def test_widens_a_span_to_whole_escapes() -> None:
    text = rb"x\njohn"
    assert whole_escapes(text, [(2, 7), (3, 7), (0, 2)]) == [(1, 7), (3, 7), (0, 3)]
    assert whole_escapes(rb"%B4242", [(2, 6)]) == [(2, 6)]  # a percent escape that is cut is only another text


def test_folds_around_bytes_that_are_not_utf8() -> None:
    assert fold(b"\xff\xe2" + "４".encode() + b"\x80").data == b"\xff\xe24\x80"
