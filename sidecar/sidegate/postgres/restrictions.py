"""Limits that a session begins with and no statement may lift: read-only transactions, and how long a statement, a lock or
an idle transaction may last. Pure.

Whoever starts a client says by its startup parameters, or by settings of the target's role, what its statements may do. A
statement could undo that with a plain SET, which needs no grant. So: where such a limit was in force at login, it can be
tightened and never loosened.

Left out: limits of a role or database that the target doesn't report (all but read-only since PostgreSQL 14), and limits set
during the session.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from sidegate.policy.statement import SqlStatement

READ_ONLY: Final = "default_transaction_read_only"
_READ_ONLY_SETTINGS: Final = frozenset({READ_ONLY, "transaction_read_only"})
TIME_LIMITS: Final = frozenset(
    {"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"}
)
_TRUE: Final = frozenset({"on", "true", "yes", "1"})
# convert_to_base_unit (utils/misc/guc.c); a bare number is milliseconds.
_TIME: Final = re.compile(r"\s*([0-9]+)\s*(us|ms|s|min|h|d)?\s*\Z")
_MILLISECONDS: Final = {"us": 0.001, None: 1.0, "ms": 1.0, "s": 1000.0, "min": 60_000.0, "h": 3_600_000.0, "d": 86_400_000.0}


class Loosened:
    __slots__ = ("limit", "setting")

    def __init__(self, setting: str, limit: str) -> None:
        self.setting = setting
        self.limit = limit


class Restrictions:
    """`asked` are the client's startup parameters that went to the target, `reported` the target's own ParameterStatus
    at login.
    """

    __slots__ = ("_is_read_only", "_limits")

    def __init__(self, asked: Mapping[str, str] | None = None, reported: Mapping[str, str] | None = None) -> None:
        limits = {name.lower(): value for name, value in (asked or {}).items()}
        told = {name.lower(): value for name, value in (reported or {}).items()}
        read_only = told.get(READ_ONLY, limits.get(READ_ONLY))
        self._is_read_only = read_only is not None and read_only.strip().lower() not in ("off", "false", "no", "0")
        self._limits = {
            name: value for name, value in limits.items() if name in TIME_LIMITS and milliseconds(value) not in (0.0,)
        }

    def loosened(self, statements: Iterable[SqlStatement]) -> Loosened | None:
        """The first limit that these statements would lift."""
        if not self._is_read_only and not self._limits:
            return None
        for statement in statements:
            for name, value in statement.settings:
                if self._is_read_only and name in _READ_ONLY_SETTINGS:
                    if value is None or value.strip().lower() not in _TRUE:
                        return Loosened(name, "on")
                elif name in self._limits and not self._keeps(name, value):
                    return Loosened(name, self._limits[name])
        return None

    def _keeps(self, name: str, value: str | None) -> bool:
        new = milliseconds(value) if value is not None else None
        limit = milliseconds(self._limits[name])
        return new is not None and limit is not None and 0 < new <= limit


def milliseconds(text: str) -> float | None:
    """None: not a number with a unit that PostgreSQL takes for a time."""
    found = _TIME.match(text)
    return int(found[1]) * _MILLISECONDS[found[2]] if found is not None else None
