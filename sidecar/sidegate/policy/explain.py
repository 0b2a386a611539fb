"""A decision with every step that led to it. The same walk as the engine's, with a trace; a test holds the two together.

It leaves out parsing: whoever asks brings classified statements, or says why there are none.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sidegate.policy.config import GateConfig
from sidegate.policy.decision import Allow, Decision, Deny, Masks, Measure, RequireApproval
from sidegate.policy.engine import SessionGrant, decide_all, decide_session
from sidegate.policy.principal import Json, Principal
from sidegate.policy.reason import Reason
from sidegate.policy.source import Builtin, PolicyRule, Source
from sidegate.policy.statement import NOTHING_SPENT, Impact, Spent, SqlStatement, StatementContext
from sidegate.policy.trace import Step, Trace

UNPARSABLE: Final = Builtin("unparsable-statement")


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that a decision depends on but the config. `role` None: the one that a session would get."""

    principal: Principal
    database: str
    now: float
    role: str | None = None
    statements: Sequence[SqlStatement] | None = None  # None: may the session be opened at all?
    unparsable: str | None = None  # why there are no statements
    impact: Impact | None = None
    approved_fingerprint: str | None = None
    approved_rows: int | None = None
    rows_so_far: int = 0
    spent: Spent = NOTHING_SPENT  # of every budget


@dataclass(frozen=True, slots=True)
class Explanation:
    question: Question
    config: GateConfig
    role: str | None
    steps: tuple[Step, ...]
    answer: Decision | SessionGrant


def explain(config: GateConfig, question: Question) -> Explanation:
    """Answer the question and keep the steps."""
    trace = Trace()
    if question.role is None or question.statements is None:
        session = decide_session(config, question.principal, question.database, question.now, question.role, trace=trace)
        if isinstance(session, Deny):
            trace.add("session", f"refused: {session.detail}", session.source)
            return Explanation(question, config, question.role, tuple(trace.steps), session)
        role = session.role
        if question.statements is None and question.unparsable is None:
            return Explanation(question, config, role, tuple(trace.steps), session)
    else:
        role = question.role
    trace = Trace()
    if question.statements is None:
        denied = Deny(Reason.STATEMENT_UNPARSABLE, UNPARSABLE, config.revision, question.unparsable or "")
        trace.add("statement", f"can't be parsed: {denied.detail}", UNPARSABLE)
        return Explanation(question, config, role, tuple(trace.steps), denied)
    for statement in question.statements:
        trace.add("statement", _described(statement))
    context = StatementContext(
        question.database,
        role,
        approved_fingerprint=question.approved_fingerprint,
        approved_rows=question.approved_rows,
        rows_so_far=question.rows_so_far,
        spent=spent_of_all(config, question.spent),
        renews_budgets=question.approved_fingerprint is not None,
    )
    answer = decide_all(config, question.principal, question.statements, context, question.now, question.impact, trace=trace)
    return Explanation(question, config, role, tuple(trace.steps), answer)


def spent_of_all(config: GateConfig, spent: Spent) -> dict[PolicyRule, Spent]:
    """As if the session had used up as much of every budget."""
    return {
        PolicyRule(policy.namespace, policy.name, rule.name): spent
        for policy in config.policies
        for rule in policy.rules
        if rule.budget is not None
    }


def _described(statement: SqlStatement) -> str:
    parts = [f"is {', '.join(sorted(kind.value for kind in statement.kinds)) or 'nothing known'}"]
    for label, relations in (("reads", statement.reads), ("writes", statement.writes), ("creates", statement.creates)):
        if relations:
            parts.append(f"{label} {', '.join(sorted(_qualified(each.name, each.schemas) for each in relations))}")
    unsafe = sorted(_qualified(each.name, each.schemas) for each in statement.functions if not each.is_known_safe)
    if unsafe:
        parts.append(f"calls {', '.join(unsafe)}")
    if statement.columns_steering:
        parts.append(f"is steered by {', '.join(sorted({column.name for column in statement.columns_steering}))}")
    for verb, name in (("executes", statement.executes), ("fetches from", statement.fetches)):
        if name is not None:
            parts.append(f"{verb} `{name}`, which only the session knows: a gate decides on what was prepared as well")
    return "; ".join(parts)


def _qualified(name: str, schemas: frozenset[str] | None) -> str:
    if not schemas:
        return f"`{name}` in any schema"
    return f"`{next(iter(schemas))}.{name}`" if len(schemas) == 1 else f"`{name}` in {' or '.join(sorted(schemas))}"


def decision_name(answer: Decision | SessionGrant) -> str:
    return "Session" if isinstance(answer, SessionGrant) else type(answer).__name__


def as_text(explanation: Explanation) -> str:
    """For a person at a terminal."""
    question, target = explanation.question, explanation.config.target
    principal = question.principal
    who = principal.username + (f" with agent {principal.agent}" if principal.agent else "")
    groups = f" in {', '.join(sorted(principal.groups))}" if principal.groups else " in no group"
    where = f", from {principal.environment}" if principal.environment else ""
    moment = dt.datetime.fromtimestamp(question.now, tz=dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    role = explanation.role or "none"
    lines = [
        f"principal  {who}{groups}{where}",
        f"target     {target.namespace}/{target.name}, database {question.database}, role {role}",
        f"at         {moment}, revision {explanation.config.revision}",
        "",
    ]
    for number, step in enumerate(explanation.steps, 1):
        source = f"  [{step.source}]" if step.source is not None else ""
        lines.append(f"{number:3}. {step.what}: {step.outcome}{source}")
    return "\n".join([*lines, "", *_answer_lines(explanation.answer)]) + "\n"


def _answer_lines(answer: Decision | SessionGrant) -> list[str]:
    lines: list[str] = []
    if isinstance(answer, SessionGrant):
        lines.append(f"Session as role {answer.role}, by {answer.permit.source}")
    elif isinstance(answer, Measure):
        lines.append(
            f"Measure: runs where it can be taken back; more than {answer.more_than} rows are decided again (--rows N says how)"
        )
    else:
        lines.append(f"{decision_name(answer)} ({answer.reason.value}) by {answer.source}")
    if isinstance(answer, Deny):
        lines.append(f"  why: {answer.detail or answer.reason.meaning}")
        if answer.hint:
            lines.append(f"  way forward: {answer.hint}")
        return lines
    if isinstance(answer, RequireApproval):
        approvers = [f"group {group}" for group in sorted(answer.terms.approver_groups)] + sorted(answer.terms.approver_users)
        lines.append(f"  why: {answer.detail}")
        if answer.at_commit:
            lines.append("  held: at the COMMIT of its transaction, which its approvers see with the rows that it changed")
        lines.append(f"  approvers: {', '.join(approvers) or 'nobody'}; {answer.terms.required} must approve")
    if isinstance(answer, Allow) and answer.observed is not None:
        observed = answer.observed
        lines.append(
            f"  observed: would be {decision_name(observed)} ({observed.reason.value}) by {observed.source}: {observed.detail}"
        )
    lines += [
        f"  masks columns {', '.join(sorted(each.names))} ({each.strategy.value}) by {each.source}"
        for each in answer.masks.columns
    ]
    lines += [
        f"  masks values {', '.join(sorted(each.detectors))} ({each.strategy.value}) by {each.source}"
        for each in answer.masks.values
    ]
    return lines


def as_json(explanation: Explanation) -> dict[str, Json]:
    """For a program: the same facts under stable names."""
    answer = explanation.answer
    document: dict[str, Json] = {
        "target": f"{explanation.config.target.namespace}/{explanation.config.target.name}",
        "revision": explanation.config.revision,
        "database": explanation.question.database,
        "role": explanation.role,
        "steps": [
            {"what": step.what, "outcome": step.outcome, "source": str(step.source) if step.source is not None else None}
            for step in explanation.steps
        ],
        **summary(answer),
    }
    return document


def summary(answer: Decision | SessionGrant) -> dict[str, Json]:
    """What an answer says, as plain values: the form in which cases expect it too."""
    found: dict[str, Json] = {"decision": decision_name(answer), "source": str(_source(answer))}
    if isinstance(answer, Allow | Deny | RequireApproval):
        found["reason"] = answer.reason.value
    if isinstance(answer, Deny | RequireApproval):
        found["detail"] = answer.detail
    if isinstance(answer, Deny):
        found["wayForward"] = answer.hint
        return found
    if isinstance(answer, SessionGrant):
        found["role"] = answer.role
    if isinstance(answer, Measure):
        found["moreThan"] = answer.more_than
    if isinstance(answer, RequireApproval):
        found["approvers"] = [*sorted(answer.terms.approver_groups), *sorted(answer.terms.approver_users)]
        found["required"] = answer.terms.required
        found["expiresAfter"] = answer.terms.expires_after_s
        found["holdAt"] = "Commit" if answer.at_commit else "Statement"
    if isinstance(answer, Allow) and answer.observed is not None:
        found["observed"] = answer.observed.reason.value
        found["observedSource"] = str(answer.observed.source)
    found["masks"] = _masks(answer.masks)
    return found


def _masks(masks: Masks) -> Json:
    columns: list[Json] = [*sorted({name for mask in masks.columns for name in mask.names})]
    detectors: list[Json] = [*sorted({name for mask in masks.values for name in mask.detectors})]
    return {"columns": columns, "detectors": detectors}


def _source(answer: Decision | SessionGrant) -> Source:
    return answer.permit.source if isinstance(answer, SessionGrant) else answer.source
