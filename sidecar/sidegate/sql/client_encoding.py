"""A plain `SET client_encoding` at the beginning of a text: what it asks for, and the same text with UTF8 in its place.

Rules it keeps:
- Plain is `SET [SESSION] client_encoding {TO | =} value` and `SET NAMES value` with a constant. LOCAL, DEFAULT, RESET, set_config and
  settings of functions and roles are something else.
- The other text is as long as the first wherever the value leaves room, so that positions in errors stay what they were.
- It is a text like any other: whoever takes it has it parsed and decided anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pglast.parser import ParseError, scan

from sidegate.sql.parse import Limits, Node, ParseProblem, parse
from sidegate.sql.settings import constant

NAME: Final = "client_encoding"
_UTF8: Final = "UTF8"


@dataclass(frozen=True, slots=True)
class EncodingSet:
    """`value` is what the client asks for, `text` what the target may get."""

    value: str
    text: str


def encoding_set(text: str) -> EncodingSet | None:
    """None: the text doesn't begin with a plain SET of client_encoding."""
    parsed = parse(text, Limits())
    if isinstance(parsed, ParseProblem) or not parsed:
        return None
    fields: Node = parsed[0].tree.get("VariableSetStmt", {})
    arguments = fields.get("args", [])
    is_plain = fields.get("kind") == "VAR_SET_VALUE" and not fields.get("is_local") and len(arguments) == 1
    if not is_plain or str(fields.get("name", "")).lower() != NAME:
        return None
    value = constant(arguments[0])
    start = len(text.encode()[: arguments[0].get("A_Const", {}).get("location", 0)].decode("utf-8", "ignore"))
    if value is None or not start:
        return None
    try:
        token = next((token for token in scan(text) if token.start == start), None)
    except (ParseError, ValueError):
        return None
    if token is None:
        return None
    stop = token.end + 1
    utf8 = f"'{_UTF8}'" if token.name.endswith("SCONST") else _UTF8  # NAMES takes strings alone
    return EncodingSet(value, text[:start] + utf8.ljust(stop - start) + text[stop:])


def names_copy_encoding(text: str) -> bool:
    """Whether each COPY from or to the client in the text says which encoding its data has."""
    parsed = parse(text, Limits())
    if isinstance(parsed, ParseProblem):
        return False
    copies = [raw.tree["CopyStmt"] for raw in parsed if "CopyStmt" in raw.tree]
    return bool(copies) and all(
        any(option["DefElem"].get("defname") == "encoding" for option in copy.get("options", [])) for copy in copies
    )
