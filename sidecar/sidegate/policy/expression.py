"""Subject expressions in CEL: the only importer of the CEL runtime, so that it can be replaced in one place.

Rules it keeps:
- An expression is compiled against typed variables (`claims`, `username`, `groups`, `agent`, `environment`) and must answer a bool.
- An evaluation has three outcomes: true, false, error. What an error means is the caller's to say, and the engine says: no grant
  matches and every restriction does.
- Cost is bounded: the length of the expression, the number and size of claims handed in. The runtime adds its own bounds (32 levels of
  nesting, an iteration budget for macros, RE2 for `matches`).

It leaves out functions of our own: an expression sees the principal and nothing else, neither clock nor network.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Protocol

from cel_expr_python import cel

from sidegate.policy.principal import Json, Principal

MAX_EXPRESSION_CHARACTERS: Final = 2048
MAX_CLAIM_VALUES: Final = 4096  # scalars and containers of all claims together; a token of 64 KiB has fewer
MAX_CLAIM_DEPTH: Final = 16


class ExpressionError(Exception):
    """The expression can't be compiled. Raised when policies are compiled; never while a statement is decided."""

    def __init__(self, problem: str, way_forward: str = "correct the CEL expression: https://cel.dev has the language") -> None:
        super().__init__(problem)
        self.way_forward = way_forward


class Outcome(enum.Enum):
    TRUE = "true"
    FALSE = "false"
    ERROR = "error"


class _Program(Protocol):
    def eval(self, *, data: Mapping[str, Any]) -> Any: ...


@lru_cache(maxsize=1)
def _environment() -> Any:
    return cel.NewEnv(
        variables={
            "claims": cel.Type.Map(cel.Type.STRING, cel.Type.DYN),
            "username": cel.Type.STRING,
            "groups": cel.Type.List(cel.Type.STRING),
            "agent": cel.Type.STRING,
            "environment": cel.Type.STRING,
        }
    )


@lru_cache(maxsize=512)
def _compiled(expression: str) -> _Program | str:
    """The program, or the problem as text; both are worth remembering, because a broken expression stays broken."""
    if len(expression) > MAX_EXPRESSION_CHARACTERS:
        return f"expression has {len(expression)} characters, at most {MAX_EXPRESSION_CHARACTERS} are read"
    try:
        program = _environment().compile(expression)
        answers_bool = program.return_type() == cel.Type.BOOL
    except Exception as error:  # the runtime is C++ and says only RuntimeError; any failure is a broken expression
        return " ".join(str(error).split())
    if not answers_bool:
        return "expression doesn't answer a bool"
    compiled: _Program = program
    return compiled


def check_expression(expression: str) -> None:
    """Compile for the error alone.

    Raises:
        ExpressionError: it is too long, doesn't parse, names something unknown, or doesn't answer a bool.
    """
    compiled = _compiled(expression)
    if isinstance(compiled, str):
        raise ExpressionError(f"expression `{expression[:200]}` can't be compiled: {compiled}")


def evaluate(expression: str, principal: Principal) -> tuple[Outcome, str]:
    """The outcome for this principal, and the cause when it is an error. Never raises."""
    compiled = _compiled(expression)
    if isinstance(compiled, str):
        return Outcome.ERROR, compiled
    if not _is_bounded(principal.claims):
        return Outcome.ERROR, "the token's claims are too large or too deep to be evaluated"
    try:
        answer = compiled.eval(
            data={
                "claims": dict(principal.claims),
                "username": principal.username,
                "groups": sorted(principal.groups),
                "agent": principal.agent or "",
                "environment": principal.environment or "",
            }
        )
        value = answer.value()
    except Exception as error:  # values out of range raise, and whatever else fails must not widen access
        return Outcome.ERROR, " ".join(str(error).split())
    if value is True:
        return Outcome.TRUE, ""
    if value is False:
        return Outcome.FALSE, ""
    return Outcome.ERROR, f"{value}"


def _is_bounded(claims: Mapping[str, Json]) -> bool:
    left = MAX_CLAIM_VALUES
    pending: list[tuple[Json, int]] = [(value, 1) for value in claims.values()]
    while pending:
        left -= 1
        value, depth = pending.pop()
        if left < 0 or depth > MAX_CLAIM_DEPTH:
            return False
        if isinstance(value, dict):
            pending.extend((child, depth + 1) for child in value.values())
        elif isinstance(value, list):
            pending.extend((child, depth + 1) for child in value)
    return True
