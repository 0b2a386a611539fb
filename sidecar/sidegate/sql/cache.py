"""Analyses kept: by exact text, then by normal form, so that one statement with other constants is walked once.

Rules it keeps:
- A normal form is used only where constants can't change the answer: one SELECT, INSERT, UPDATE, DELETE or MERGE, without positions in
  ORDER BY, GROUP BY or DISTINCT ON, without functions whose arguments are looked at. Everything else is kept by its exact text alone, and
  so is a text with parameters: in a normal form they can't be told from constants.
- A statement found by its normal form carries that form as its text: what was decided for it holds for every text of the form.
- The size is bounded: two generations of half the entries each, the older is dropped when the younger is full. Long texts aren't kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Generic, TypeAlias, TypeVar

from pglast.parser import ParseError, normalize

from sidegate.sql.analyse import DEFAULT_LIMITS, Analysis, Judged, judge
from sidegate.sql.names import Names
from sidegate.sql.parse import SPACE, Limits, ParseProblem

MAX_KEPT_TEXT: Final = 16 * 1024
MAX_PATHS: Final = 64
Key: TypeAlias = "tuple[str, tuple[str, ...] | None]"
V = TypeVar("V")


class _Generations(Generic[V]):
    """A bounded dict. What is asked for stays longer than what isn't."""

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, max_entries: int) -> None:
        self._half = max(1, max_entries // 2)
        self._young: dict[Key, V] = {}
        self._old: dict[Key, V] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: Key) -> V | None:
        found = self._young.get(key)
        if found is None:
            found = self._old.pop(key, None)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: Key, value: V) -> None:
        if len(self._young) >= self._half and key not in self._young:
            self._old, self._young = self._young, {}
        self._young[key] = value


class StatementCache:
    """Analyses of a process, shared by its sessions. Not for several threads at once."""

    def __init__(self, max_entries: int, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._exact: _Generations[Analysis | ParseProblem] = _Generations(max_entries)
        self._normal: _Generations[Analysis] = _Generations(max_entries)
        self._names: dict[tuple[str, ...] | None, Names] = {}
        self.exact_hits = 0
        self.normal_hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._exact) + len(self._normal)

    def analyse(self, text: str, search_path: tuple[str, ...] | None) -> Analysis | ParseProblem:
        """As `sidegate.sql.analyse`, and the same answer, but for the statement's text where it was found by its normal form."""
        found = self._exact.get((text, search_path))
        if found is not None:
            self.exact_hits += 1
            return found
        if len(text) > MAX_KEPT_TEXT:
            self.misses += 1
            answer = judge(text, self._names_of(search_path), self._limits)
            return answer.analysis if isinstance(answer, Judged) else answer
        own = _own_text(text)
        normal = _normal_form(own) if own is not None else None
        if normal is not None:
            known = self._normal.get((normal, search_path))
            if known is not None:
                self.normal_hits += 1
                return known
        self.misses += 1
        judged = judge(text, self._names_of(search_path), self._limits)
        if isinstance(judged, ParseProblem):
            self._exact.put((text, search_path), judged)
            return judged
        self._exact.put((text, search_path), judged.analysis)
        if normal is not None and not judged.depends_on_constants:
            self._normal.put(
                (normal, search_path), Analysis((replace(judged.analysis.statements[0], text=normal, normalised=normal),))
            )
        return judged.analysis

    def _names_of(self, search_path: tuple[str, ...] | None) -> Names:
        found = self._names.get(search_path)
        if found is None:
            if len(self._names) >= MAX_PATHS:
                self._names.clear()
            found = self._names[search_path] = Names(search_path)
        return found


def _own_text(text: str) -> str | None:
    """The text of the one statement, as `parse` cuts it; None where that takes more than a look."""
    semicolons = text.count(";")
    own = text.strip(SPACE)
    if "$" in own:
        return None
    if own.startswith(("--", "/*")):  # PostgreSQL counts a statement from its first token
        return None
    if semicolons == 0:
        return own
    if semicolons == 1 and own.endswith(";"):
        return own[:-1].rstrip(SPACE)
    return None


def _normal_form(text: str) -> str | None:
    if "\0" in text:
        return None
    try:
        return str(normalize(text))
    except (ParseError, UnicodeError, RecursionError, MemoryError):
        return None
