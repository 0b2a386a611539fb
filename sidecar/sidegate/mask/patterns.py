"""The one place where google-re2 is configured. Every pattern of the mask package is compiled here.

Rules: RE2 reads patterns as UTF-8 and texts as bytes. Texts may be anything (wire bytes, bytea): RE2 tries a match at every byte, so a
valid sequence is found wherever it stands, but a negated class never matches an invalid byte. So patterns name what they accept.

A `Prefilter` answers "could any of these be in here" for a whole chunk at hundreds of megabytes a second. Its patterns carry no anchor and
no boundary: what stands around a value in the chunk (length bytes, delimiters) must never hide it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import re2

Span = tuple[int, int]

# RE2::Set keeps its automaton within this budget by dropping states; 8 MiB, the default, is enough, more drops less.
MAX_MEMORY_BYTES: Final = 32 * 1024 * 1024


class Match(Protocol):
    def span(self) -> Span: ...

    def group(self) -> bytes: ...

    def groups(self) -> tuple[bytes | None, ...]: ...


class Pattern(Protocol):
    def search(self, text: bytes, pos: int = ...) -> Match | None: ...

    def finditer(self, text: bytes) -> Iterator[Match]: ...


def _options() -> re2.Options:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.UTF8
    options.log_errors = False
    options.max_mem = MAX_MEMORY_BYTES
    return options


OPTIONS: Final = _options()


def compile_pattern(pattern: bytes) -> Pattern:
    """Raises re2.error for what RE2 can't do (look-around, back references): at import, never while serving."""
    compiled: Pattern = re2.compile(pattern, OPTIONS)
    return compiled


def spans_of(pattern: Pattern, text: bytes) -> Iterator[Span]:
    """Matches from left to right that don't overlap."""
    for match in pattern.finditer(text):
        yield match.span()


class Prefilter:
    """A set of patterns over one text. `matches` lists the positions of those that occur."""

    __slots__ = ("_set",)

    def __init__(self, patterns: tuple[bytes, ...]) -> None:
        self._set = re2.Set.SearchSet(OPTIONS)
        for pattern in patterns:
            self._set.Add(pattern)
        self._set.Compile()

    def matches(self, data: bytes | memoryview) -> list[int]:
        found: list[int] | None = self._set.Match(data)
        return found or []
