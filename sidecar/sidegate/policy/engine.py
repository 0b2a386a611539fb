"""The engine: what the gate, the command line, admission and the tests all ask. Pure: facts and time in, decision out.

`decide` answers one statement, `decide_all` one string of several, `decide_session` a login, `decide_passthrough` a login without OIDC.
`Engine` gives the same answers faster, by remembering what doesn't change between statements. docs/policy.md says how rules combine.
"""

from __future__ import annotations

from collections.abc import Sequence

from sidegate.policy.budgets import within_budgets
from sidegate.policy.config import GateConfig
from sidegate.policy.decision import Decision
from sidegate.policy.facts import Facts, facts_for, gather
from sidegate.policy.prepared import prepare
from sidegate.policy.principal import Principal
from sidegate.policy.session import SessionGrant, decide_passthrough, decide_session
from sidegate.policy.statement import Impact, SqlStatement, StatementContext
from sidegate.policy.trace import Trace
from sidegate.policy.view import Engine, PrincipalView, static_key
from sidegate.policy.walk import walk, walk_all

__all__ = [
    "Engine",
    "PrincipalView",
    "SessionGrant",
    "decide",
    "decide_all",
    "decide_passthrough",
    "decide_session",
    "static_key",
]


def decide(
    config: GateConfig,
    principal: Principal,
    statement: SqlStatement,
    context: StatementContext,
    now: float,
    impact: Impact | None = None,
    *,
    trace: Trace | None = None,
) -> Decision:
    """What the policies say to this statement at `now` (seconds since the epoch, UTC)."""
    facts = _facts(config, principal, context, now, trace)
    return within_budgets(facts, (statement,), context, walk(facts, statement, context, impact, trace=trace), trace)


def decide_all(
    config: GateConfig,
    principal: Principal,
    statements: Sequence[SqlStatement],
    context: StatementContext,
    now: float,
    impact: Impact | None = None,
    *,
    trace: Trace | None = None,
) -> Decision:
    """One answer for the statements of one simple-query string, which the target runs as a whole: the strictest of all."""
    facts = _facts(config, principal, context, now, trace)
    return within_budgets(facts, statements, context, walk_all(facts, statements, context, impact, trace), trace)


def _facts(config: GateConfig, principal: Principal, context: StatementContext, now: float, trace: Trace | None) -> Facts:
    prepared = prepare(config)
    if trace is None:
        return facts_for(prepared, principal, context.database, context.role, now)
    return gather(prepared, principal, context.database, context.role, now, trace=trace)
