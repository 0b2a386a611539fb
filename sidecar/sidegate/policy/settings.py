"""Settings (GUCs) that no policy may let a client change: they alter how statements are read, or how their effect is counted.

A setting outside this table is `Settings` or `Session` by `sidegate.sql` and needs a grant or none. Here stand the ones that would make the
gate and the target understand one statement differently, or make the target's counters lie: those are refused for everyone.
"""

from __future__ import annotations

from typing import Final

_TRUE: Final = frozenset({"on", "true", "t", "yes", "y", "1"})

# name -> (values that are let through, why anything else is refused). Values are compared in lower case.
GUARDED_SETTINGS: Final[dict[str, tuple[frozenset[str], str]]] = {
    "standard_conforming_strings": (_TRUE, "the target would read backslashes in strings otherwise than the gate"),
    "backslash_quote": (frozenset({"safe_encoding"}), "the target would read quotes in strings otherwise than the gate"),
    "client_encoding": (
        frozenset({"utf8", "utf-8", "unicode"}),
        "only a plain SET by a simple query outside of a transaction changes it, and only to an encoding that the gate converts",
    ),
    "track_counts": (_TRUE, "the rows that a statement changes couldn't be counted"),
    "stats_fetch_consistency": (frozenset({"none", "cache"}), "the rows that a statement changes couldn't be counted"),
    "debug_discard_caches": (frozenset({"0"}), "it serves to slow the target down"),
    "allow_in_place_tablespaces": (frozenset(), "it serves the target's own tests"),
    "ignore_system_indexes": (frozenset(), "the target would answer from damaged catalogs"),
}
# Who the session is, for the target. A grant of `Roles` lets them through.
IDENTITY_SETTINGS: Final = frozenset({"role", "session_authorization"})


def setting_refusal(name: str, value: str | None) -> str | None:
    """Why `name` may not be set to `value` (None: to something that isn't a plain constant); None when it may."""
    guard = GUARDED_SETTINGS.get(name.lower())
    if guard is None:
        return None
    allowed, why = guard
    if value is not None and value.strip().lower() in allowed:
        return None
    return why
