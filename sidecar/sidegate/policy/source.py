"""Where an answer comes from: every decision names the rule, grant or built-in that made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Builtin:
    """A rule that Sidegate itself brings and no policy can take away, or the default deny."""

    name: str

    def __str__(self) -> str:
        return f"builtin/{self.name}"


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule of one `AccessPolicy`."""

    namespace: str
    policy: str
    rule: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.policy}#{self.rule}"


@dataclass(frozen=True, slots=True)
class PolicyGrant:
    """One grant of one `AccessPolicy`, by its position in the list."""

    namespace: str
    policy: str
    index: int

    def __str__(self) -> str:
        return f"{self.namespace}/{self.policy}#grants[{self.index}]"


Source: TypeAlias = Builtin | PolicyRule | PolicyGrant
