"""Text to parse tree under limits, through PostgreSQL's own parser. The tree is libpg_query's JSON: `{"NodeName": {field: value}}`.

Rules it keeps:
- What can't be parsed is a `ParseProblem`, whatever the text: no exception leaves this module.
- The limits hold before anything is built that they are meant to prevent, as far as that can be told from the text.
- Positions are characters, 1-based, as PostgreSQL's ErrorResponse has them.

Measured with pglast 8.8 (PostgreSQL 18.6's grammar): the parser gives up without harm, at 10,000 open parentheses ("memory exhausted") or
at 2 MiB of stack ("stack depth limit exceeded"). What has to be kept small is the tree: `SELECT 1 IN (1,1,...)` of 8 MB makes 203 MB of
JSON, takes 1 s to parse and 7 s to decode, while one literal of 8 MB takes 50 ms. Hence a limit on the text and another on the tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
from pglast.parser import ParseError, parse_sql_json

Node: TypeAlias = dict[str, Any]

# All that PostgreSQL's lexer takes for blank (scan.l, `space`): any other blank of Unicode is part of a name, at a statement's end too.
SPACE: Final = " \t\n\r\f\v"

# Characters that end a token: one node of the tree needs at least one of them, whatever the statement says.
_SEPARATORS: Final = b" \t\n\r\f\v,;()[]+-*/<>=~!@#%^&|`?.:"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a statement is read. 8 MiB of JSON are some 150,000 constants: the most of the gate's time that one text may take."""

    max_text_bytes: int = 16 * 1024 * 1024
    max_tokens: int = (
        400_000  # counted roughly: characters that end a token, inside literals too; asked of texts over `max_dense_bytes`
    )
    max_dense_bytes: int = 1024 * 1024
    max_tree_bytes: int = 8 * 1024 * 1024  # beside the text itself, which the tree repeats
    max_query_depth: int = 48  # queries inside queries; expressions are bounded by the decoder's own depth
    max_join_depth: int = 200
    max_statements: int = 1000


@dataclass(frozen=True, slots=True)
class ParseProblem:
    """Why a text has no analysis. `cursor_position` is 1-based, in characters; `is_limit`: it may be good SQL, but is too much."""

    message: str
    cursor_position: int | None
    is_limit: bool = False


@dataclass(frozen=True, slots=True)
class RawStatement:
    """One statement of the text: its tree, and its own part of the text."""

    tree: Node
    text: str


_decoder: Final = msgspec.json.Decoder(dict[str, Any])


def parse(text: str, limits: Limits) -> tuple[RawStatement, ...] | ParseProblem:
    """The statements of the text, in order; none for a text without any."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        return ParseProblem("the text isn't valid unicode", error.start + 1)
    if "\0" in text:
        return ParseProblem("the text has a NUL character", text.index("\0") + 1)
    if len(data) > limits.max_text_bytes:
        return ParseProblem(f"the text is longer than {limits.max_text_bytes} bytes", None, is_limit=True)
    if len(data) > limits.max_dense_bytes and len(data) - len(data.translate(None, _SEPARATORS)) > limits.max_tokens:
        return ParseProblem(f"the text has more than {limits.max_tokens} parts", None, is_limit=True)
    try:
        encoded: str = parse_sql_json(text)
    except ParseError as error:
        return _problem(error)
    except (RecursionError, MemoryError):
        return ParseProblem("the statement is nested too deeply", None, is_limit=True)
    except Exception as error:  # INVARIANT: whatever the parser raises, the text is refused
        return ParseProblem(f"the text can't be parsed: {type(error).__name__}", None)
    if len(encoded) > limits.max_tree_bytes + len(data):
        return ParseProblem("the statement has too many parts", None, is_limit=True)
    try:
        decoded = _decoder.decode(encoded)
    except RecursionError:
        return ParseProblem("the statement is nested too deeply", None, is_limit=True)
    except (msgspec.DecodeError, UnicodeError) as error:
        return ParseProblem(f"the parse tree can't be read: {error}", None)
    found = decoded.get("stmts", [])
    if len(found) > limits.max_statements:
        return ParseProblem(f"the text has more than {limits.max_statements} statements", None, is_limit=True)
    return tuple(RawStatement(raw["stmt"], _slice(data, raw.get("stmt_location", 0), raw.get("stmt_len", 0))) for raw in found)


def _slice(data: bytes, location: int, length: int) -> str:
    """A length of 0 is "to the end of the text" (RawStmt, nodes/parsenodes.h)."""
    part = data[location : location + length] if length else data[location:]
    return part.decode("utf-8").strip(SPACE).removesuffix(";").rstrip(SPACE)


def _problem(error: ParseError) -> ParseProblem:
    message = str(error.args[0]) if error.args else "syntax error"
    location = error.args[1] if len(error.args) > 1 else None
    is_limit = message.startswith(("memory exhausted", "stack depth limit exceeded", "out of memory"))
    return ParseProblem(message, location + 1 if isinstance(location, int) and location >= 0 else None, is_limit)
