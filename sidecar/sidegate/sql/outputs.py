"""What each output column of one query is: for views, whose column origins PostgreSQL doesn't tell.

Rules it keeps:
- A column is told with all that reaches it. None: nothing does.
- Where the columns can't be counted (a star, a text that isn't one query) there is no answer.
"""

from __future__ import annotations

from typing import TypeAlias

from sidegate.policy.statement import ColumnRef
from sidegate.sql.facts import Facts
from sidegate.sql.names import Names
from sidegate.sql.parse import Limits, ParseProblem, parse
from sidegate.sql.scope import Scope
from sidegate.sql.utility import Statements

OutputColumns: TypeAlias = tuple[frozenset[ColumnRef] | None, ...]


def query_outputs(text: str, search_path: tuple[str, ...] | None) -> OutputColumns | None:
    """For each output column what it may be or is made of, or None. None for all: it can't be told."""
    limits = Limits()
    parsed = parse(text, limits)
    if isinstance(parsed, ParseProblem) or len(parsed) != 1 or "SelectStmt" not in parsed[0].tree:
        return None
    facts = Facts()
    try:
        outputs = Statements(facts, Names(search_path), limits).outputs_of(parsed[0].tree, Scope())
    except Exception:  # INVARIANT: a tree of a shape that isn't foreseen tells nothing
        return None
    if facts.unknown or any(output.is_star for output in outputs):
        return None
    return tuple(output.columns or None for output in outputs)
