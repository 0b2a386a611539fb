"""What a detector is: a value that the registry, the scanner and the docs read.

Rules that every detector keeps, and tests/unit/mask proves for each:
- `find` gets a *reading* of a value (sidegate.mask.reading): separators, digits and letters are already ASCII where Unicode has a twin.
- Whatever `find` finds, at least one of `prefilter` matches inside any bytes that contain the reading.
- `find` is linear in the length of the reading.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from sidegate.mask.patterns import Span

ALPHANUMERIC: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
DIGITS: Final = frozenset(b"0123456789")


class Detector(NamedTuple):
    """`finds` and `proof` are sentences for docs/coverage/detectors.md."""

    name: str
    finds: str
    proof: str
    leaves_out: str
    prefilter: tuple[bytes, ...]
    find: Callable[[bytes], list[Span]]


_BACKSLASH: Final = frozenset(b"\\")
_ESCAPE_LETTERS: Final = frozenset(b"bfnrtv")


def is_escape_letter(text: bytes, at: int) -> bool:
    """The byte at `at` belongs to an escape like `\\n`: it is no letter that the next one continues."""
    return is_at(text, at, _ESCAPE_LETTERS) and is_at(text, at - 1, _BACKSLASH)


def continues_word(text: bytes, start: int) -> bool:
    """A letter or digit stands right before `start`."""
    return is_at(text, start - 1, ALPHANUMERIC) and not is_escape_letter(text, start - 1)


def is_at(text: bytes, at: int, characters: frozenset[int]) -> bool:
    """A byte of `characters` stands at `at`; false beyond either end."""
    return 0 <= at < len(text) and text[at] in characters
