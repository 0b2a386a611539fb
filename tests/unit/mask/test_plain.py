"""Text for a terminal: what can't be seen, or steers, is escaped and named."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.mask.plain import cells, hidden, plain
from sidegate.mask.reading import UNSEEN


@pytest.mark.parametrize(
    ("text", "shown", "named"),
    [
        ("SELECT 'ü漢'", "SELECT 'ü漢'", set()),
        ("\x1b[2J", "\\x1b[2J", {"U+001B"}),
        ("a\rb", "a\\rb", {"U+000D"}),
        ("\x9b31m", "\\x9b31m", {"U+009B"}),
        ("a\u202eb\u2066", "a\\u202eb\\u2066", {"U+202E", "U+2066"}),
        ("id\u200b\u00ad\ufeff", "id\\u200b\\xad\\ufeff", {"U+200B", "U+00AD", "U+FEFF"}),
        ("a\u00a0b\u3000c\u2028d", "a\\xa0b\\u3000c\\u2028d", {"U+00A0", "U+3000", "U+2028"}),
        ("\u3164\uffa0\ufe0f\u2800", "\\u3164\\uffa0\\ufe0f\\u2800", {"U+3164", "U+FFA0", "U+FE0F", "U+2800"}),
        ("\U000e0041\U000e0100", "\\U000e0041\\U000e0100", {"U+E0041", "U+E0100"}),
        ("\ud800", "\\ud800", {"U+D800"}),
    ],
)
def test_what_cant_be_seen_is_escaped_and_named(text: str, shown: str, named: set[str]) -> None:
    assert plain(text) == plain(text, keeps_lines=True) == shown
    assert hidden(text) == hidden(text, keeps_lines=True) == named


def test_every_character_that_masks_take_for_unseen_is_escaped() -> None:
    spans = re.findall(r"\\x\{([0-9A-F]+)\}(?:-\\x\{([0-9A-F]+)\})?", UNSEEN)
    assert spans
    for first, last in spans:
        for code in range(int(first, 16), int(last or first, 16) + 1):
            assert chr(code) not in plain(chr(code)), hex(code)


def test_line_ends_and_tabs_stay_only_where_lines_are_laid_out() -> None:
    assert plain("a\tb\nc") == "a\\tb\\nc"
    assert plain("a\tb\nc", keeps_lines=True) == "a\tb\nc"
    assert (hidden("a\tb\nc"), hidden("a\tb\nc", keeps_lines=True)) == ({"U+0009", "U+000A"}, set())


@given(st.text())
def test_plain_text_can_be_seen_and_what_isnt_named_stays(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert (shown == text) == (not hidden(text))
    assert plain(shown) == shown
    assert not hidden(shown)


@given(st.text())
def test_no_text_is_counted_narrower_than_its_letters(text: str) -> None:
    marks = sum(bool(unicodedata.combining(character)) for character in text)
    assert len(text) - marks <= cells(text) <= 2 * len(text)
