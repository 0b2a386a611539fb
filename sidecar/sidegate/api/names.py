"""Names and patterns of PostgreSQL objects as policies write them. `folded` is the form that the compiled config carries.

A part without quotes folds to lower case as PostgreSQL folds it: ASCII letters only (src/backend/parser/scansup.c). A part in double quotes
stays as it is and has no wildcards. `*` stands for any run of characters inside one part. Dots divide parts, so a name that itself has
a dot can't be written: cover it with `*`. No part may be longer than the 63 bytes at which PostgreSQL cuts names, for a rule that is
never met must not look like a guard. Names of roles and databases arrive in the startup message, unfolded, so those fold nothing.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from sidegate.api.text import Text, refusal, shown

NAME_BYTES: Final = 63  # NAMEDATALEN - 1
_PLAIN: Final = r"""[^\x00-\x20\x7f"'`.*?%\[\](){},;:\\]"""
_QUOTED: Final = r'"[^"\x00-\x1f\x7f.*]+"'
_NAME: Final = rf"({_PLAIN}+|{_QUOTED})"
_GLOB: Final = rf"(({_PLAIN}|\*)+|{_QUOTED})"
_SPLIT: Final = re.compile(r'"[^"]*"|[^.]+')
_TO_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


class SqlName(Text):
    """A name or pattern of one or more parts."""

    __slots__ = ()
    max_length = 200
    folds: ClassVar[bool] = True

    def _check(self) -> None:
        for part in self.parts:
            if len(part.encode()) > NAME_BYTES:
                raise refusal(
                    f"{shown(part)} is longer than {NAME_BYTES} bytes, and PostgreSQL cuts names there, so it would never match",
                    f"write the first {NAME_BYTES} bytes, as the catalog has them",
                )

    @property
    def parts(self) -> tuple[str, ...]:
        """Each part as PostgreSQL resolves it: folded unless quoted, the quotes taken away."""
        return tuple(self._resolved(part) for part in _SPLIT.findall(self))

    @property
    def folded(self) -> str:
        """The parts with dots between them, for matching against resolved names without regard to how they were written."""
        return ".".join(self.parts)

    def _resolved(self, part: str) -> str:
        if part.startswith('"'):
            return part[1:-1]
        return part.translate(_TO_LOWER) if self.folds else part


class RoleName(SqlName):
    """A role of the target, exactly: no wildcards, no folding."""

    __slots__ = ()
    pattern = rf"{_PLAIN}+"
    meaning = "the name of a role"
    way_forward = "write the role's own name without quotes of SQL, as in `readonly`; wildcards and blanks aren't possible here"
    folds = False


class DatabasePattern(SqlName):
    """The name of a database, or a pattern (`shop`, `shop-*`, `*`). Not folded."""

    __slots__ = ()
    pattern = _GLOB
    meaning = "the name of a database or a pattern"
    way_forward = "write a name as in `shop`, or a pattern with `*` as in `shop-*`"
    folds = False


class SchemaPattern(SqlName):
    """The name of a schema, or a pattern."""

    __slots__ = ()
    pattern = _GLOB
    meaning = "the name of a schema or a pattern"
    way_forward = 'write a name as in `prod`, a pattern with `*` as in `prod_*`, or a name that keeps its case as in `"Prod"`'


class TablePattern(SqlName):
    """`table` (in any schema) or `schema.table`; each part may be a pattern."""

    __slots__ = ()
    pattern = rf"({_GLOB}\.)?{_GLOB}"
    meaning = "the name of a table or a pattern"
    way_forward = "write `table` or `schema.table`, with `*` as the only wildcard, as in `public.order_*`"


class FunctionPattern(SqlName):
    """`function` (in any schema) or `schema.function`; each part may be a pattern."""

    __slots__ = ()
    pattern = rf"({_GLOB}\.)?{_GLOB}"
    meaning = "the name of a function or a pattern"
    way_forward = "write `function` or `schema.function` without parentheses, as in `shop.place_order`"


class OwnFunctionPattern(SqlName):
    """`schema.function`: a function that a grant calls safe must say whose it is. Not in the system's own schemas."""

    __slots__ = ()
    pattern = rf"{_NAME}\.{_GLOB}"
    meaning = "a function with its schema"
    way_forward = "write `schema.function`, as in `shop.order_total`; the schema can't be a pattern"

    def _check(self) -> None:
        super()._check()
        if self.parts[0].startswith("pg_") or self.parts[0] == "information_schema":
            raise refusal(
                f"{shown(self)} is the system's own, and only Sidegate's own table says which of those are safe",
                "leave it out; name only functions of your own schemas",
            )


class ColumnName(SqlName):
    """`column`, `table.column` or `schema.table.column`; each part a name, for a mask must know its columns."""

    __slots__ = ()
    pattern = rf"({_NAME}\.){{0,2}}{_NAME}"
    meaning = "the name of a column"
    way_forward = "write `column`, `table.column` or `schema.table.column`, each column by name; `*` isn't possible here"
