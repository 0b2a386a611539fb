"""What is settled before a session begins and holds to its end: whose it is, what it may keep in memory, how its text is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sidegate.policy.principal import Principal

# Reported by the target whenever they change; with any other value gate and target would read a statement differently.
READING_SETTINGS: Final = {"client_encoding": "utf8", "standard_conforming_strings": "on"}


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Bounds on what one session may keep in memory, in bytes."""

    max_statement_bytes: int = 16 * 1024 * 1024  # Query and Parse; sql has a lower limit of its own for what it parses
    max_message_bytes: int = 64 * 1024 * 1024  # Bind: parameters may be large
    max_target_message_bytes: int = 16 * 1024 * 1024  # descriptions, errors, notices
    max_row_bytes: int = 128 * 1024 * 1024  # one row that has to be rewritten; rows that needn't stream
    max_captured_bytes: int = 8 * 1024 * 1024  # the answer of a measured statement
    max_waiting_bytes: int = 1024 * 1024  # client bytes that queue behind a hold before reading stops
    max_name_bytes: int = 64 * 1024 * 1024  # what prepared statements, portals and cursors keep; a quarter of it may be in flight


DEFAULT_LIMITS: Final = SessionLimits()


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What login settled. `nonce` is random and makes names that no client can guess."""

    session_id: str
    nonce: str
    principal: Principal
    target: str
    namespace: str
    database: str
    role: str
