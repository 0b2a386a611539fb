"""The verified identity behind a session, as the engine sees it. `sidegate.identity` makes it from a token's claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: the person (or workload) of the token, and the agent that acts for them.

    `issuer` and `subject` are the token's `iss` and `sub` (OpenID Connect Core, section 2); `username`, `groups` and `agent` come
    from the claims that the target's identity section names. `environment` is the caller's own environment, from a claim or
    from the network the connection came from; None when neither said. `source_address` is the client's IP address, or
    `unix` for a Unix socket. `expires_at` is the token's `exp` in seconds since the epoch: the session ends with it.
    """

    issuer: str
    subject: str
    username: str
    groups: frozenset[str] = frozenset()
    agent: str | None = None
    environment: str | None = None
    source_address: str = "unix"
    expires_at: float | None = None
    claims: Mapping[str, Json] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The one string that names this person for approvals: issuer and subject, which never change hands (OIDC Core 5.7)."""
        return f"{self.issuer}#{self.subject}"
