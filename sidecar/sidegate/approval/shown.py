"""What an approval request shows of the client's statement, as fields of the resource and within its limits.

Rules: what doesn't fit isn't cut but refused; what can't be seen in a text is its escape, and named. Pure.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from sidegate.approval.backend import HoldRequest, ShownParameter, ShownStatement
from sidegate.mask.plain import hidden, plain

# The resource's limits of what a person can be shown, in characters and entries.
MAX_STATEMENT: Final = 16_384
MAX_VALUE: Final = 4096
MAX_PARAMETERS: Final = 256
MAX_BESIDE: Final = 16
MAX_BESIDE_PARAMETERS: Final = 64
MAX_SHOWN: Final = 65_536
MAX_SCHEMAS: Final = 64
MAX_HIDDEN: Final = 64
MAX_NAME: Final = 512


class TooMuchError(ValueError):
    """More than a person can be shown."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel", forbid_unknown_fields=True):
    pass


class ParameterFields(_Part, frozen=True, kw_only=True):
    name: str
    type: str | None = None
    format: Literal["Text", "Binary"] = "Text"
    text: str | None = None
    hexadecimal: str | None = None
    is_null: bool = False
    is_masked: bool = False


class StatementFields(_Part, frozen=True, kw_only=True):
    statement: str
    parameters: tuple[ParameterFields, ...] = ()


class Shown:
    """All that a request shows of the client's statement, within the resource's limits.

    Raises:
        TooMuchError: it can't be shown whole.
    """

    def __init__(self, request: HoldRequest) -> None:
        self._characters = 0
        self._hidden: set[str] = set()
        self.statement = self._text(request.statement, "its", MAX_STATEMENT)
        self.parameters = self._values(request.parameters, "its", MAX_PARAMETERS)
        self.runs = self._beside(request.runs, "what it runs")
        self.alternatives = self._beside(request.alternatives, "what may run instead")
        path = request.search_path or ()
        _at_most(len(path), MAX_SCHEMAS, "the search path's", "schemas")
        self.search_path = tuple(self._text(name, "a schema's", MAX_NAME) for name in path)
        _at_most(self._characters, MAX_SHOWN, "all its texts'", "characters")
        self.hidden_characters = tuple(sorted(self._hidden, key=lambda name: int(name[2:], 16))[:MAX_HIDDEN])

    def _text(self, text: str, whose: str, limit: int) -> str:
        self._hidden |= hidden(text, keeps_lines=True)
        shown = plain(text, keeps_lines=True)
        _at_most(len(shown), limit, whose, "characters")
        self._characters += len(shown)
        return shown

    def _beside(self, statements: tuple[ShownStatement, ...], what: str) -> tuple[StatementFields, ...]:
        _at_most(len(statements), MAX_BESIDE, what, "statements")
        return tuple(
            StatementFields(
                statement=self._text(each.statement, f"{what}:", MAX_STATEMENT),
                parameters=self._values(each.parameters, f"{what}:", MAX_BESIDE_PARAMETERS),
            )
            for each in statements
        )

    def _values(self, values: tuple[ShownParameter, ...], whose: str, limit: int) -> tuple[ParameterFields, ...]:
        _at_most(len(values), limit, whose, "parameters")
        return tuple(
            ParameterFields(
                name=f"${number}",
                type=each.type or None,
                format="Binary" if each.is_binary else "Text",
                text=None if each.text is None else self._text(each.text, f"parameter ${number}:", MAX_VALUE),
                hexadecimal=None
                if each.hexadecimal is None
                else self._text(each.hexadecimal, f"parameter ${number}:", MAX_VALUE),
                is_null=each.text is None and each.hexadecimal is None,
                is_masked=each.is_masked,
            )
            for number, each in enumerate(values, 1)
        )


def _at_most(count: int, limit: int, whose: str, what: str) -> None:
    if count > limit:
        raise TooMuchError(f"{whose} {count} {what} are over the {limit}")


def parameters_of(values: tuple[ParameterFields, ...]) -> tuple[ShownParameter, ...]:
    return tuple(
        ShownParameter(each.type or "", each.format == "Binary", each.text, each.hexadecimal, each.is_masked) for each in values
    )
