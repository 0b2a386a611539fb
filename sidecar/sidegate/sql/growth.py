"""How much longer quiet expressions may make a value. Nothing that is hidden may become so long that PostgreSQL refuses it (a gigabyte), or
that its time tells: `replace(left(ssn, 1), '5', '...')`, the answer of which is one mask, would fail for a 5 alone where it is nested.

Rules it keeps:
- An expression grows by what stands on the way to each of its columns, and columns add up. Queries inside queries multiply: a name may
  stand for all that the inner one made. Arms of a union don't.
- An aggregate of texts grows with rows, which aren't known: it is let through by itself, not over another one, and not in a statement with
  functions that turn what a value holds into how long it is.
- What is over the limit isn't quiet: every column in the statement's expressions steers.
"""

# ruff: noqa: SIM905 - lists of names read better as words

from __future__ import annotations

from typing import Final

from sidegate.sql import settings
from sidegate.sql.names import strings
from sidegate.sql.parse import Node

MOST: Final = 1024
_OF_ROWS: Final = 64
_CONSTANT_UNIT: Final = 64  # characters of a constant that count as one column
_AGGREGATES: Final = frozenset({"string_agg", "json_agg", "jsonb_agg"})
_PADDING: Final = frozenset({"lpad", "rpad"})
_ESCAPING: Final = frozenset(
    """quote_literal quote_nullable quote_ident to_json to_jsonb row_to_json json_agg jsonb_agg json_build_array jsonb_build_array
    json_build_object jsonb_build_object""".split()
)
# What a value holds decides how long their result is, or which of several results it is.
_TELLING: Final = frozenset(
    """replace translate btrim ltrim rtrim split_part strpos position quote_literal quote_nullable quote_ident length char_length
    character_length octet_length bit_length pg_column_size min max""".split()
)


class Growth:
    """Of one statement. `product` is the query's that is walked now: its longest expression, by what the queries inside make."""

    __slots__ = ("_aggregates", "_is_over", "_longest", "_tells", "inner")

    def __init__(self) -> None:
        self._longest = 1
        self.inner = 1
        self._is_over = self._aggregates = self._tells = False

    @property
    def is_over(self) -> bool:
        return self._is_over or (self._aggregates and self._tells)

    def begin(self) -> tuple[int, int]:
        """Of a query: what `end` needs."""
        outer = self._longest, self.inner
        self._longest = self.inner = 1
        return outer

    def end(self, outer: tuple[int, int]) -> None:
        made = self._longest * self.inner
        self._longest, self.inner = outer
        self.inner = self.bounded(made * self.inner)

    def expression(self, size: int) -> None:
        self._longest = max(self._longest, self.bounded(size))
        self.bounded(self._longest * self.inner)

    def bounded(self, size: int) -> int:
        """What is over the limit is noted."""
        if size <= MOST:
            return size
        self._is_over = True
        return MOST

    def factor(self, tag: str, fields: Node) -> int:
        """What a quiet node makes of what is below it."""
        if tag == "MinMaxExpr":
            self._tells = True
            return MOST + 1 if any("ParamRef" in argument for argument in fields.get("args", [])) else 1
        if tag == "TypeCast":  # varchar(n) cuts alone
            kind = fields["typeName"]
            pads = strings(kind["names"])[-1] == "bpchar"
            return max([1, *map(_number, kind.get("typmods", []))]) if pads else 1
        if tag != "FuncCall":
            return 1
        name = strings(fields["funcname"])[-1]
        self._tells = self._tells or name in _TELLING
        self._aggregates = self._aggregates or name in _AGGREGATES
        factor = 2 if name in _ESCAPING else 1
        if name in _AGGREGATES:
            factor *= _OF_ROWS
        arguments = fields.get("args", [])
        if name in _PADDING and len(arguments) > 1:
            factor = max(1, _number(arguments[1]))
        elif name == "replace" and len(arguments) == 3:
            factor = max(1, -(-_length(arguments[2]) // max(1, _length(arguments[1]))))
        return min(factor, MOST + 1)

    @staticmethod
    def of_leaf(tag: str, fields: Node) -> int:
        return 1 + _length({tag: fields}) // _CONSTANT_UNIT if tag == "A_Const" else 1


def _number(node: Node) -> int:
    value = settings.integer(node)
    return MOST + 1 if value is None else value


def _length(node: Node) -> int:
    return len((settings.constant(node) or "").encode())
