"""`analyse`: a text to the statements that the engine judges.

Rules it keeps:
- It never raises. What can't be parsed is a `ParseProblem`; a tree that the walk can't follow is a statement of kind Unknown.
- The answer depends on the text, the search_path and the limits alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pglast.parser import ParseError, normalize

from sidegate.policy.statement import SqlStatement, StatementKind
from sidegate.sql.expressions import TooDeepError
from sidegate.sql.facts import Facts
from sidegate.sql.names import Names, names_in
from sidegate.sql.parse import Limits, ParseProblem, RawStatement, parse
from sidegate.sql.utility import Statements

DEFAULT_LIMITS: Final = Limits()
_TOO_DEEP: Final = ParseProblem("the statement is nested too deeply", None, is_limit=True)


@dataclass(frozen=True, slots=True)
class Analysis:
    """The statements of one text, in order; none for an empty one."""

    statements: tuple[SqlStatement, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """An analysis, and whether another text with other constants in the same places would have the same one."""

    analysis: Analysis
    depends_on_constants: bool


def analyse(text: str, search_path: tuple[str, ...] | None = None, limits: Limits = DEFAULT_LIMITS) -> Analysis | ParseProblem:
    """What the text asks for. `search_path`: the schemas that exist, in order, as `current_schemas(false)` lists them; None: unknown."""
    judged = judge(text, Names(search_path), limits)
    return judged.analysis if isinstance(judged, Judged) else judged


def judge(text: str, names: Names, limits: Limits) -> Judged | ParseProblem:
    parsed = parse(text, limits)
    if isinstance(parsed, ParseProblem):
        return parsed
    statements: list[SqlStatement] = []
    depends_on_constants = len(parsed) != 1
    for raw in parsed:
        facts = Facts()
        try:
            Statements(facts, names, limits).statement(raw.tree)
        except (TooDeepError, RecursionError):
            return _TOO_DEEP
        except Exception as error:  # INVARIANT: a tree of a shape that isn't foreseen is refused, not waved through
            facts.not_known(f"a part of the statement ({type(error).__name__})")
            facts.touch_schemas(None)
        if StatementKind.DDL in facts.kinds:
            facts.defined = names_in(raw.tree)
        depends_on_constants = depends_on_constants or facts.depends_on_constants
        statements.append(facts.statement(raw.text, _normalised(raw)))
    return Judged(Analysis(tuple(statements)), depends_on_constants)


def _normalised(raw: RawStatement) -> str:
    try:
        return str(normalize(raw.text))
    except (ParseError, RecursionError, MemoryError):
        return ""
