"""Patterns of a gate config against names as PostgreSQL resolved them.

Rules it keeps:
- Patterns in a config are folded already (`sidegate.api.names`), so nothing is folded here. `*` stands for any run of characters.
- A pattern that **gives** (a grant) compares exactly. A pattern that **takes away** (a rule) ignores case, because who writes
  `Users` and owns a table `"Users"` expects the rule to hold: too much is refused rather than too little.
- Matching is linear in the name's length whatever the pattern.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


def _glob_matches(parts: tuple[str, ...], name: str) -> bool:
    """`parts` is the pattern split at `*`: the first is a prefix, the last a suffix, the others occur in this order."""
    first, last = parts[0], parts[-1]
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in parts[1:-1]:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


@dataclass(frozen=True, slots=True)
class NamePatterns:
    """A set of patterns; `matches` is true when any of them does. An empty set matches nothing."""

    exact: frozenset[str]
    globs: tuple[tuple[str, ...], ...]
    ignores_case: bool

    @classmethod
    def of(cls, patterns: Iterable[str], *, ignores_case: bool) -> NamePatterns:
        exact: set[str] = set()
        globs: set[tuple[str, ...]] = set()
        for pattern in patterns:
            name = pattern.lower() if ignores_case else pattern
            if "*" in name:
                globs.add(tuple(name.split("*")))
            else:
                exact.add(name)
        return cls(frozenset(exact), tuple(sorted(globs)), ignores_case)

    def matches(self, name: str) -> bool:
        if self.ignores_case:
            name = name.lower()
        if name in self.exact:
            return True
        return any(_glob_matches(parts, name) for parts in self.globs)

    def matches_any(self, names: Iterable[str] | None) -> bool:
        """For what takes away: does any candidate match? None, any name at all, always may."""
        return names is None or any(self.matches(name) for name in names)

    def matches_all(self, names: Iterable[str] | None) -> bool:
        """For what gives: do all candidates match? None is matched by `*` alone."""
        if names is None:
            return ("", "") in self.globs
        return all(self.matches(name) for name in names)


@dataclass(frozen=True, slots=True)
class QualifiedPattern:
    """`name` or `schema.name`, either part a pattern. Without a schema it is every schema, and only a rule may be that vague."""

    schema: NamePatterns | None
    name: NamePatterns

    @classmethod
    def of(cls, text: str, *, ignores_case: bool) -> QualifiedPattern:
        schema, dot, name = text.rpartition(".")
        return cls(
            NamePatterns.of((schema,), ignores_case=ignores_case) if dot else None,
            NamePatterns.of((name,), ignores_case=ignores_case),
        )

    def may_match(self, name: str, schemas: frozenset[str] | None) -> bool:
        """For what takes away. A name without any candidate schema could be in every one."""
        return self.name.matches(name) and (self.schema is None or self.schema.matches_any(schemas or None))

    def must_match(self, name: str, schemas: frozenset[str] | None) -> bool:
        """For what gives. A name without any candidate schema is one that nothing is known of."""
        if not self.name.matches(name) or self.schema is None:
            return False
        return self.schema.matches_all(schemas or None)
