"""Text of others for a terminal. What clients typed and targets sent may not steer the reader's terminal, hide behind other text, or look
like lines of the command's own.

Every character that isn't printable (control, format, bidirectional override, zero width, line and paragraph separator, blanks but the
space, private use), or is and shows nothing, becomes its escape; line ends and tabs stay where the caller lays out lines itself.
`hidden` names what was escaped, for a note beside the text: in the text alone an escape looks like one that was typed.

Left out: letters that look alike, and the order in which terminals put letters that are written from right to left.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_KEPT: Final = frozenset("\n\t")
_PLAIN: Final = re.compile(r"[ -~]*")

# Letters and marks by their category, which show nothing: joiners, fillers, variation selectors, the empty braille pattern.
_SHOWS_NOTHING: Final = frozenset(
    chr(code)
    for first, last in (
        (0x34F, 0x34F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2800, 0x2800), (0x3164, 0x3164), (0xFE00, 0xFE0F),
        (0xFFA0, 0xFFA0), (0xE0100, 0xE01EF),
    )
    for code in range(first, last + 1)
)  # fmt: skip


def plain(text: str, keeps_lines: bool = False) -> str:
    """`text` with everything that can't be seen as its escape."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(_escape(c) if _is_hidden(c, keeps_lines) else c for c in text)


def hidden(text: str, keeps_lines: bool = False) -> frozenset[str]:
    """The code points that `plain` escapes, as in `U+202E`."""
    if _PLAIN.fullmatch(text):
        return frozenset()
    return frozenset(f"U+{ord(c):04X}" for c in set(text) if _is_hidden(c, keeps_lines))


def cells(text: str) -> int:
    """Columns of a terminal that a text takes (Unicode Standard Annex 11): wide ones two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _is_hidden(character: str, keeps_lines: bool) -> bool:
    if character in _SHOWS_NOTHING:
        return True
    return not (character.isprintable() or (keeps_lines and character in _KEPT))


def _escape(character: str) -> str:
    code = ord(character)
    if code >= 0x10000:
        return f"\\U{code:08x}"
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character)
    return named or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
