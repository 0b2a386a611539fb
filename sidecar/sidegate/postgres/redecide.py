"""Decides recorded statements anew: the gate's own judge, asked what it would say under other policies at the time of the statement. Pure.

Rules it keeps:
- What a recording doesn't say is never guessed: where it could change the answer, the answer is that it can't be told, and why.
- What the gate refused by itself, or for what happened at run time, stays refused: policies weren't what stood in the way.
- Impact is the recorded one. Without one, the rows of the command tag are a lower bound: enough to say that a limit is passed, never
  that it isn't.
- The catalog of the target isn't in a recording. A refusal that came from it stands as long as every column mask of then stands, is gone
  when no column is masked any more, and can't be told in between. `catalog_may_refuse` marks what a view or a trigger could still change.

Left out: claims of the token, which aren't recorded. Policies whose subjects read them are tried as matching, as not matching and as
failing: only an answer that is the same each time is told.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from sidegate.audit.events import SessionFields
from sidegate.policy.compared import Answer, Comparison, Effects, Fate, compare, effects_of, uncovered
from sidegate.policy.config import GateConfig, PolicyConfig, SubjectConfig
from sidegate.policy.decision import Allow, ColumnUse, Decision, Deny, Masks, Measure, RequireApproval
from sidegate.policy.engine import Engine, SessionGrant, decide_passthrough, decide_session
from sidegate.policy.expression import Outcome, evaluate
from sidegate.policy.principal import Principal
from sidegate.policy.reason import Reason
from sidegate.policy.statement import UNCOUNTED_ROWS, Impact, SqlStatement, StatementKind, TableImpact
from sidegate.postgres import drops, truncation
from sidegate.postgres.derived import DERIVES, WOULD_TELL
from sidegate.postgres.judge import Judge, executed
from sidegate.postgres.statements import NO_MASKS, Work
from sidegate.postgres.stories import not_measurable
from sidegate.record.asked import AskedStatement
from sidegate.record.entries import DecisionRecord, ImpactFields
from sidegate.sql import StatementCache, fingerprint

MAX_UNSETTLED_POLICIES: Final = 3  # each is tried in three ways
# Refusals of built-ins that are part of the engine's answer. Those of any other built-in are the gate's own.
_ENGINE_BUILTINS: Final = frozenset(
    f"builtin/{name}" for name in ("default-deny", "unknown-statement", "guarded-settings", "approved-impact")
)
_COPY_OUT: Final = "builtin/copy-out"
_HELD_REASONS: Final = frozenset(
    {
        Reason.APPROVAL_REQUIRED,
        Reason.APPROVAL_DENIED,
        Reason.APPROVAL_EXPIRED,
        Reason.APPROVAL_WITHDRAWN,
        Reason.APPROVAL_UNAVAILABLE,
        Reason.TOO_MANY_APPROVALS,
        Reason.IMPACT_EXCEEDS_APPROVAL,
    }
)
_NO_PATH: Final = ("",)  # a path of a schema that can't be: what is read alike in it and without one needs none


@dataclass(frozen=True, slots=True)
class Untold:
    """Why it can't be told what the policies would say."""

    why: str


@dataclass(frozen=True, slots=True)
class Redecided:
    """`statement` is the normal form, without constants. `masks_unknown`: the recording doesn't say what was masked."""

    was: Answer
    now: Answer
    comparison: Comparison
    statement: str
    fingerprint: str
    masks_unknown: bool = False
    catalog_may_refuse: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    """What one reading of the policies says. `masks` are the session's, `normalised` is the statement without its constants."""

    answer: Answer
    masks: Masks = NO_MASKS
    statements: tuple[SqlStatement, ...] = ()
    normalised: str = ""
    catalog_may_refuse: bool = False


class Resession:
    """One recorded session under one config. Statements are asked for in the order in which they ended: row limits add up."""

    def __init__(self, engine: Engine, session: SessionFields, cache: StatementCache) -> None:
        self._session = session
        self._principal = _principal_of(session)
        self._readings: list[_Reading] = []
        self._unsettled: tuple[str, ...] = ()
        if self._principal is not None:
            config = engine.config
            unsettled = [policy for policy in config.policies if _reads_claims(policy, self._principal)]
            self._unsettled = tuple(f"{policy.namespace}/{policy.name}" for policy in unsettled)
            if not unsettled:
                self._readings = [_Reading(engine, self._principal, session, cache)]
            elif len(unsettled) <= MAX_UNSETTLED_POLICIES:
                variants = _variants(config, unsettled, self._principal)
                self._readings = [_Reading(Engine(variant), self._principal, session, cache) for variant in variants]
        self._passes = decide_passthrough(engine.config, session.role, session.source_address)

    def decide(self, asked: AskedStatement) -> Redecided | Untold:
        if self._principal is None:
            return self._decide_passthrough(asked)
        was = recorded_answer(asked.decisions)
        if was is None:
            return Untold("no decision is recorded: the target refused the statement when it was prepared, or the gate died")
        if was.fate is Fate.DENY and was.source.startswith("builtin/") and was.source not in _ENGINE_BUILTINS | {_COPY_OUT}:
            return self._unchanged(asked, was)
        if not self._readings:
            return Untold(f"{self._subjects()}, and the token's claims aren't recorded")
        found = [reading.decide(asked, was) for reading in self._readings]
        first = found[0]
        if isinstance(first, Untold):
            return first
        results = [each if isinstance(each, Untold) else self._compared(asked, was, each) for each in found]
        if any(each != results[0] for each in results[1:]):
            return Untold(f"{self._subjects()}, the token's claims aren't recorded, and the answer depends on them")
        return results[0]

    def _subjects(self) -> str:
        names = ", ".join(f"`{name}`" for name in self._unsettled[:MAX_UNSETTLED_POLICIES])
        return f"the subjects of {names} are named by claims"

    def _compared(self, asked: AskedStatement, was: Answer, found: _Found) -> Redecided:
        then = asked.masks.masks() if asked.masks is not None else None
        was_masked = effects_of(then, found.statements) if then is not None else None
        now_masked = effects_of(found.masks, found.statements)
        comparison = compare(was, found.answer, was_masked, now_masked, _lost(asked, then, found, now_masked))
        return Redecided(
            was=was,
            now=found.answer,
            comparison=comparison,
            statement=found.normalised,
            fingerprint=fingerprint(found.normalised),
            masks_unknown=then is None and Fate.DENY not in (was.fate, found.answer.fate),
            catalog_may_refuse=found.catalog_may_refuse
            or (
                found.answer.fate is not Fate.DENY
                and was.fate is not Fate.DENY
                and then is not None
                and any(mask.use is ColumnUse.REFUSED for mask in uncovered(found.masks, then).columns)
                and any(each.columns_steering or each.columns_written for each in found.statements)
            ),
        )

    def _unchanged(self, asked: AskedStatement, was: Answer) -> Redecided:
        return Redecided(was, was, Comparison(frozenset()), "", fingerprint(asked.text))

    def _decide_passthrough(self, asked: AskedStatement) -> Redecided:
        """No policy is asked about its statements: they pass when the session does."""
        was = Answer(Fate.ALLOW, "", f"passthrough/{self._session.passthrough or ''}")
        if self._passes is not None:
            now = Answer(Fate.ALLOW, "", f"passthrough/{self._passes.name}")
        else:
            detail = f"no passthrough lets role `{self._session.role}` in from `{self._session.source_address}`"
            now = Answer(Fate.DENY, Reason.IDENTITY_REFUSED.value, "builtin/passthrough", detail)
        statement = "(any statement of a passthrough session)"
        return Redecided(was, now, compare(was, now, {}, {}), statement, fingerprint(statement))


class _Reading:
    """One way to read the policies for one session."""

    def __init__(self, engine: Engine, principal: Principal, session: SessionFields, cache: StatementCache) -> None:
        self._config = engine.config
        self._principal = principal
        self._session = session
        self._judge = Judge(engine, principal, session.database, session.role, cache)
        self._rows_are_sure = True

    def decide(self, asked: AskedStatement, was: Answer) -> _Found | Untold:
        judge, session = self._judge, self._session
        judge.search_path = asked.search_path
        own, problem = judge.read(asked.text)
        grant = decide_session(self._config, self._principal, session.database, asked.time, session.role)
        if problem is not None:
            if was.fate is Fate.DENY and was.reason in (Reason.STATEMENT_UNPARSABLE, Reason.STATEMENT_TOO_LARGE):
                return _Found(was)
            return Untold("the text isn't SQL as it is recorded: a value in it was masked, perhaps")
        work = Work(asked.number, asked.text, own, is_simple=asked.via == "simple")
        behind = self._behind(asked, own)
        if behind is None:
            return Untold("a text that it runs isn't SQL as it is recorded: a value in it was masked, perhaps")
        work.statements = own + behind
        kinds = tuple(asked.decisions[-1].kinds)
        if kinds and kinds != work.kind_names():
            return Untold(f"it is {', '.join(work.kind_names())} as it is recorded, and was {', '.join(kinds)} for the gate")
        if not asked.has_search_path and self._depends_on_path(asked.text, own):
            return Untold("the search path isn't recorded, and the names in it depend on that")
        if isinstance(grant, Deny):
            detail = f"the session would be refused: {grant.detail}"
            denied = Answer(Fate.DENY, grant.reason.value, str(grant.source), detail)
            return _Found(denied, statements=work.statements, normalised=work.normalised())
        return self._judged(work, asked, was, grant)

    def _behind(self, asked: AskedStatement, own: Sequence[SqlStatement]) -> tuple[SqlStatement, ...] | None:
        """What EXECUTE and FETCH run, and what else the statement may be. None: it can't be read."""
        executes = {each.executes for each in own if each.executes is not None}
        found: list[SqlStatement] = []
        for text in (*asked.runs, *asked.alternatives):
            statements, problem = self._judge.read(text)
            if problem is not None:
                return None
            named = [executed(each) for each in statements if each.prepares is not None and each.prepares in executes]
            found += named or statements
        return tuple(found)

    def _depends_on_path(self, text: str, own: tuple[SqlStatement, ...]) -> bool:
        path, self._judge.search_path = self._judge.search_path, _NO_PATH
        other, _ = self._judge.read(text)
        self._judge.search_path = path
        return other != own

    def _judged(self, work: Work, asked: AskedStatement, was: Answer, grant: SessionGrant) -> _Found | Untold:
        judge = self._judge
        decision = judge.decide(work, asked.time)
        may_delete = False
        if isinstance(decision, Allow) and grant.limits_deletions:
            wider = _with_deletions(work.statements)
            if wider is not None:
                plain, work.statements = work.statements, wider
                may_delete = isinstance(judge.decide(work, asked.time), Measure)
                work.statements = plain
        if may_delete and _impact_of(asked) is not None:
            # It was measured: with the impact of then the answer is that of a gate whose catalog says that it may delete.
            wider = _with_deletions(work.statements)
            assert wider is not None
            work.statements, work.impact = wider, _impact_of(asked)
            measured = judge.decide(work, asked.time)
            if not isinstance(measured, Allow):
                return Untold("a limit on deleted rows applies if triggers or rules delete, and only the target's catalog tells")
            may_delete = False
        if isinstance(decision, (Measure, RequireApproval)) and judge.only_prepares(work):
            if not work.is_simple:
                return Untold("it is a PREPARE or an execution of what was prepared: the recording doesn't say which")
            decision = Allow(decision.permit, decision.masks, decision.source, decision.revision)
        answered = self._measured(work, asked, was, decision) if isinstance(decision, Measure) else _answer(decision)
        if isinstance(answered, Untold):
            return answered
        masks = Masks() if isinstance(decision, Deny) else decision.masks
        return self._with_catalog(asked, was, _Found(answered, masks, work.statements, work.normalised(), may_delete))

    def _measured(self, work: Work, asked: AskedStatement, was: Answer, measure: Measure) -> Answer | Untold:
        """The answer behind the measurement, with the rows that are recorded."""
        judge = self._judge
        impact, is_exact = _impact_of(asked), True
        empties = any(map(truncation.is_truncation, work.statements)) or drops.is_drop(work.statements)
        if empties and (impact is None or impact.is_truncation):
            return self._truncated(work, asked, was, measure, was_never_counted=impact is None)
        if (refused := not_measurable(work, measure)) is not None:
            return _answer(refused)
        if was.fate is Fate.DENY and was.reason == Reason.IMPACT_NOT_MEASURABLE:
            return replace(was, source=str(measure.source))  # what stood in its way then does so now
        if impact is None or not _is_whole(impact, work.statements):
            is_exact = False
            outcome = asked.outcome
            if impact is None and (outcome is None or outcome.sqlstate or not outcome.tag):
                detail = f"rows are measured against a limit of {measure.more_than}"
                if was.fate is Fate.ALLOW:
                    return Untold("its rows would be measured, and it failed before any were counted")
                return Answer(Fate.MEASURE, "", str(measure.source), detail)
            tagged = outcome.rows or 0 if outcome is not None else 0
            impact = Impact(max(tagged, impact.rows_affected if impact is not None else 0))
        work.impact = impact
        decision = judge.decide(work, asked.time)
        if isinstance(decision, Measure):
            return Answer(Fate.DENY, Reason.IMPACT_NOT_MEASURABLE.value, str(decision.source))
        if not isinstance(decision, Allow):
            return _answer(decision)
        if was.fate in (Fate.ALLOW, Fate.MEASURE):
            judge.rows_so_far += impact.rows_affected
        self._rows_are_sure = self._rows_are_sure and is_exact
        if is_exact and self._rows_are_sure:
            return _answer(decision)
        return Untold(
            f"its rows would be measured: {impact.rows_affected} by the command's tag are within the limit of {measure.more_than},"
            " and what cascades and triggers changed wasn't counted, of it or of a statement before it"
        )

    def _truncated(
        self, work: Work, asked: AskedStatement, was: Answer, measure: Measure, *, was_never_counted: bool
    ) -> Answer | Untold:
        """Rows are counted before they are truncated or dropped, up to the limit and no further. What can't be counted is over every limit.
        Unless it `was_never_counted`, they were over the limit of then, and by how much isn't known.
        """
        is_alone = len(work.own) == 1 and len(work.statements) == 1
        may_be_counted = (is_alone and truncation.may_be_counted(work.statements[0])) or (
            drops.is_drop(work.statements) and drops.may_be_counted(work.statements)
        )
        work.impact = Impact(UNCOUNTED_ROWS, is_truncation=True)
        answer = _answer(self._judge.decide(work, asked.time))
        if not may_be_counted:
            return answer
        if was_never_counted:
            if was.fate in (Fate.DENY, Fate.HOLD):
                return Answer(Fate.MEASURE, "", str(measure.source), f"rows are counted against a limit of {measure.more_than}")
            return Untold(f"its rows would be counted against a limit of {measure.more_than}, and weren't counted then")
        if (answer.fate, answer.source, answer.detail) == (was.fate, was.source, was.detail):
            return answer
        return Untold("rows that it truncates were counted up to the limit of then, and another limit applies now")

    def _with_catalog(self, asked: AskedStatement, was: Answer, found: _Found) -> _Found | Untold:
        """A refusal that came of the target's catalog: the engine alone would have let the statement through."""
        if found.answer.fate is Fate.DENY or was.fate is not Fate.DENY or not _is_by_catalog(was):
            return found
        is_copy = was.source == _COPY_OUT
        if not found.masks or (not is_copy and all(mask.use is ColumnUse.ALLOWED for mask in found.masks.columns)):
            return found
        if asked.masks is not None:
            gone = uncovered(asked.masks.masks(), found.masks)
            if not (gone if is_copy else gone.columns):
                return replace(found, answer=was)
        return Untold("what was masked was found by the target's catalog, which isn't recorded, and other columns are masked now")


def recorded_answer(decisions: Sequence[DecisionRecord]) -> Answer | None:
    """What the policies said then: a hold stays one whatever people made of it, and of several answers the last counts."""
    for decision in decisions:
        if decision.decision == "RequireApproval" or (decision.decision == "Deny" and decision.reason in _HELD_REASONS):
            return Answer(Fate.HOLD, Reason.APPROVAL_REQUIRED.value, decision.source, decision.detail)
    if not decisions:
        return None
    last = decisions[-1]
    try:
        fate = Fate(last.decision)
    except ValueError:
        return None
    return Answer(fate, last.reason, last.source, last.detail)


def _answer(decision: Decision) -> Answer:
    match decision:
        case Deny():
            return Answer(Fate.DENY, decision.reason.value, str(decision.source), decision.detail)
        case RequireApproval():
            return Answer(Fate.HOLD, decision.reason.value, str(decision.source), decision.detail)
        case Measure():
            return Answer(Fate.MEASURE, "", str(decision.source))
        case Allow():
            return Answer(Fate.ALLOW, decision.reason.value, str(decision.source))


def _is_by_catalog(was: Answer) -> bool:
    if was.source == _COPY_OUT:
        return True
    return was.reason == Reason.MASKED_COLUMN_STEERS and (was.detail.endswith(DERIVES) or was.detail.endswith(WOULD_TELL))


def _lost(asked: AskedStatement, then: Masks | None, found: _Found, now_masked: Effects) -> tuple[str, ...]:
    """Rules that masked values of this result, as its outcome has it, and that nothing stands for any more: seen there, and not in the
    statement's text, where a view or a function showed the column.
    """
    masked = asked.outcome.masked if asked.outcome is not None else {}
    if not masked:
        return ()
    if then is None:
        return tuple(sorted(masked)) if not now_masked else ()
    gone = uncovered(then, found.masks)
    names = {str(mask.source) for mask in gone.columns} | {str(mask.source) for mask in gone.values}
    seen = set()
    for name in names & set(masked):
        its = Masks(
            tuple(mask for mask in then.columns if str(mask.source) == name),
            tuple(mask for mask in then.values if str(mask.source) == name),
        )
        if effects_of(its, found.statements):
            seen.add(name)  # the statement's own columns say what became of it
    return tuple(sorted((names & set(masked)) - seen))


def _with_deletions(statements: Sequence[SqlStatement]) -> tuple[SqlStatement, ...] | None:
    """As the judge takes them when the catalog says that they may delete. None: none may."""
    wider = tuple(
        replace(each, kinds=each.kinds | {StatementKind.DELETE})
        if each.writes and StatementKind.DELETE not in each.kinds
        else each
        for each in statements
    )
    return None if all(map(operator.is_, wider, statements)) else wider


def _impact_of(asked: AskedStatement) -> Impact | None:
    """The newest that is recorded."""
    recorded: ImpactFields | None = None
    for decision in asked.decisions:
        recorded = decision.impact or recorded
    if recorded is None:
        return None
    tables = tuple(TableImpact(each.relation, each.inserted, each.updated, each.deleted) for each in recorded.tables)
    return Impact(recorded.rows, tables, recorded.is_truncation)


def _is_whole(impact: Impact, statements: Sequence[SqlStatement]) -> bool:
    """Of a statement that deletes by triggers or moved rows only the deleted rows are recorded."""
    if any(not each.kinds.isdisjoint((StatementKind.DELETE, StatementKind.TRUNCATE)) for each in statements):
        return True
    return any(table.inserted or table.updated for table in impact.tables)


def _principal_of(session: SessionFields) -> Principal | None:
    who = session.principal
    if who is None:
        return None
    return Principal(
        issuer=who.issuer,
        subject=who.subject,
        username=who.username,
        groups=frozenset(who.groups),
        agent=who.agent,
        environment=who.environment,
        source_address=session.source_address,
    )


def _reads_claims(policy: PolicyConfig, principal: Principal) -> bool:
    """Whether it depends on claims if the policy names the principal. In CEL a name is always written as it is."""
    may_match = False
    for subject in policy.subjects:
        if not (subject.groups or subject.users or subject.agents or subject.expression is not None):
            continue
        if (
            (subject.groups and principal.groups.isdisjoint(subject.groups))
            or (subject.users and principal.username not in subject.users)
            or (subject.agents and principal.agent not in subject.agents)
        ):
            continue
        if subject.expression is None:
            return False
        if "claims" in subject.expression:
            may_match = True
        elif evaluate(subject.expression, principal)[0] is Outcome.TRUE:
            return False
    return may_match


def _variants(config: GateConfig, unsettled: Sequence[PolicyConfig], principal: Principal) -> Iterator[GateConfig]:
    """The config with each of these policies naming the principal, not naming it, and failing to say."""
    named = (SubjectConfig(users=(principal.username,)),)
    names = [(policy.namespace, policy.name) for policy in unsettled]
    for choice in itertools.product((named, None, ()), repeat=len(unsettled)):
        chosen = dict(zip(names, choice, strict=True))
        policies: list[PolicyConfig] = []
        for policy in config.policies:
            if (policy.namespace, policy.name) not in chosen:
                policies.append(policy)
                continue
            subjects = chosen[policy.namespace, policy.name]
            if subjects is not None:
                policies.append(msgspec.structs.replace(policy, subjects=subjects))
        yield msgspec.structs.replace(config, policies=tuple(policies))
