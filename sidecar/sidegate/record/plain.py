"""Recorded text for a terminal. What was recorded was typed by clients and sent by targets: nothing of it may steer the reader's terminal,
hide behind other text, or look like lines of the replay's own.

Every character that isn't printable (control, format, bidirectional override, line and paragraph separator, private use) becomes its
escape; line ends and tabs stay where the caller lays out lines itself.
"""

from __future__ import annotations

import re
from typing import Final

_KEPT: Final = frozenset("\n\t")
_PLAIN: Final = re.compile(r"[ -~]*")


def plain(text: str, keeps_lines: bool = False) -> str:
    """`text` with everything that isn't printable as its escape."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(c if c.isprintable() or (keeps_lines and c in _KEPT) else _escape(c) for c in text)


def _escape(character: str) -> str:
    return (
        character.encode("unicode_escape").decode("ascii")
        if not "\ud800" <= character <= "\udfff"
        else f"\\u{ord(character):04x}"
    )
