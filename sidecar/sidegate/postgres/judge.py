"""From text to decision for one session: analysis, names, the engine, and what only this session knows (search path, catalog). Pure.

The engine judges what a statement says. Here is added what the target's definitions say: a column that derives from a masked one (through a
view, a generated column) steers as little as the masked one itself.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Final

from sidegate.policy.decision import Allow, ColumnUse, Decision, Deny, Masks, Measure, RequireApproval
from sidegate.policy.engine import Engine, PrincipalView, SessionGrant
from sidegate.policy.principal import Principal
from sidegate.policy.reason import Reason
from sidegate.policy.source import Builtin
from sidegate.policy.statement import Impact, SqlStatement, StatementContext, StatementKind, TableImpact
from sidegate.postgres import cascades
from sidegate.postgres.awaiting import Awaiting
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.derived import Derived
from sidegate.postgres.moved import CHANGES_DEFINITIONS, FIRING, Moved, moves_triggers
from sidegate.postgres.pseudonyms import written_refusal
from sidegate.postgres.refusal import unknown_name_message
from sidegate.postgres.restrictions import Restrictions
from sidegate.postgres.rewriting import Rewritten, rewritten
from sidegate.postgres.spending import Meter, Spending
from sidegate.postgres.statements import Binding, BoundText, Cursor, Names, Portal, Prepared, Shared, Work
from sidegate.postgres.translation import kept_in_session, unusable
from sidegate.sql import Analysis, ParseProblem, Part, StatementCache, canonical_tokens, copy_out_options, fingerprint

CATALOG_FRESH_S: Final = 30.0  # definitions changed past the gate are seen after this long
MAX_FORMER_CATALOGS: Final = 4  # kept for cursors that are still open
PARTLY_FRESH_S: Final = 3.0  # the same where a lock kept some from being read

PATH_SETTINGS: Final = frozenset({"search_path", "all", "role", "session_authorization"})

# Statements after which the search_path may be another than the gate knows.
MAY_CHANGE_SEARCH_PATH: Final = frozenset({StatementKind.CALL, StatementKind.DO, StatementKind.SETTINGS, StatementKind.ROLES})


@dataclass(frozen=True, slots=True)
class Problem:
    """A text that couldn't be read: the refusal, and the character (1-based) where reading stopped."""

    deny: Deny
    position: int | None


class Judge:
    def __init__(self, engine: Engine, principal: Principal, database: str, role: str, cache: StatementCache) -> None:
        self._engine = engine
        self._principal = principal
        self._database = database
        self._role = role
        self._cache = cache
        self._view: PrincipalView = engine.for_principal(principal, database, role)
        self.spending = Spending()
        self._context = StatementContext(database, role, spent=self.spending.spent)
        self.revision = engine.config.revision
        self.search_path: tuple[str, ...] | None = None
        self.current_role: str | None = None  # None: not known
        self.search_path_is_stale = True
        self._path_may_roll_back = False
        self.rows_so_far = 0
        self.restrictions = Restrictions()
        self._derived = Derived()
        self.awaiting = Awaiting()
        self.catalog: Catalog | None = None
        self.catalog_is_stale = False
        self.has_changed_definitions = False  # in a transaction that hasn't ended
        self.own_catalogs = 0  # that its transactions have read themselves
        self._catalog_learned_at = 0.0
        self._former_catalogs: dict[int, Catalog] = {}  # by content, the oldest first
        self.moved = Moved()

    def adopt(self, engine: Engine) -> None:
        """A new revision is in force."""
        self._engine = engine
        self._view = engine.for_principal(self._principal, self._database, self._role)
        self.revision = engine.config.revision

    # ---- reading ------------------------------------------------------------------------------------------------------------------

    def read(self, text: str) -> tuple[tuple[SqlStatement, ...], Problem | None]:
        analysis = self._cache.analyse(text, self.search_path)
        if isinstance(analysis, Analysis) and any(map(may_change_path, analysis.statements[:-1])):
            # The target resolves the names of each statement when it gets to it: the later ones could be anywhere
            analysis = self._cache.analyse(text, None)
        if isinstance(analysis, Analysis):
            return analysis.statements, None
        return (), self._problem(analysis)

    def rewritten(self, text: str, statements: tuple[SqlStatement, ...], masks: Masks) -> Rewritten | None:
        """What is sent instead, so that it can be answered."""
        if not masks.columns:
            return None
        return rewritten(text, statements, masks, self.catalog, self.search_path, lambda new: self.read(new)[0])

    def current(self, prepared: Prepared) -> tuple[SqlStatement, ...]:
        """What it is by now: the target analyses it again when the search path is another than before (its plan cache does)."""
        if prepared.translation is not None:
            return (unusable(prepared.translation.statement),)  # by its Bind alone, which is translated for itself
        if prepared.search_path == self.search_path:
            return prepared.statements
        statements, problem = self.read(prepared.text)
        if problem is not None:
            return prepared.statements
        if prepared.sql_name is None:
            return statements
        return tuple(executed(statement) for statement in statements if statement.prepares == prepared.sql_name)

    def _problem(self, problem: ParseProblem) -> Problem:
        reason = Reason.STATEMENT_TOO_LARGE if problem.is_limit else Reason.STATEMENT_UNPARSABLE
        return Problem(Deny(reason, Builtin("parser"), self.revision, problem.message), problem.cursor_position)

    def resolve_names(self, work: Work, prepared: Names[Prepared], cursors: Names[Cursor], portals: Names[Portal]) -> Deny | None:
        """Put what EXECUTE and FETCH refer to beside the statement itself, so that both are decided. A name nobody set is refused, and
        so is one that leads to a statement which uses or sets names itself: what that does is known only when it runs.
        """
        found: list[SqlStatement] = list(work.own)
        texts: list[BoundText] = []
        here: dict[str, SqlStatement] = {}  # set earlier in the same string
        opened: set[int | None] = set()
        for statement in work.own:
            if statement.prepares:
                here[statement.prepares] = statement
            if statement.declares:
                here[statement.declares] = statement
            for name, is_cursor in ((statement.executes, False), (statement.fetches, True)):
                if name is None:
                    continue
                behind: list[SqlStatement] = []
                if is_cursor:
                    for portal in portals.find(name):
                        opened.add(portal.opened_under)
                        behind += portal.statements
                        texts += portal.bound()
                else:
                    for candidate in prepared.find(name):
                        behind += self.current(candidate)
                        texts.append(BoundText(candidate.text, oids=candidate.parameter_oids))
                if any(map(_uses_names, behind)):
                    detail = f"`{name}` is itself a statement that uses or sets names"
                    return Deny(Reason.STATEMENT_UNKNOWN, Builtin("names"), self.revision, detail)
                if name in here:
                    behind.append(here[name])
                if is_cursor:
                    for cursor in cursors.find(name):
                        opened.add(cursor.opened_under)
                        behind += cursor.statements
                        texts.append(cursor.bound())
                if not behind:
                    noun = "cursor" if is_cursor else "prepared statement"
                    work.own_error = unknown_name_message(noun, name)
                    return Deny(
                        Reason.STATEMENT_UNKNOWN, Builtin("names"), self.revision, f"no {noun} `{name}` was seen in this session"
                    )
                found += behind
        work.statements, work.referred = tuple(found), tuple(dict.fromkeys(texts))
        work.opened_under |= opened
        return None

    def bindings(self, work: Work, prepared: Names[Prepared], cursors: Names[Cursor]) -> Binding | None:
        """The names that `work` sets or frees at the target, to be settled with its answer."""
        changes: list[Binding] = []
        text: Shared | None = None
        source: Shared | None = None
        for statement in work.own:
            if statement.prepares:
                text = text or Shared(BoundText(work.text))
                changes.append(prepared.offer(statement.prepares, self._prepared(text, statement)))
            if statement.deallocates:
                is_all = statement.deallocates == "*"
                changes.append(prepared.removal_of_all() if is_all else prepared.removal(statement.deallocates))
            if statement.declares:
                source = source or Shared(work.bound(), work.statements)
                changes.append(cursors.offer(statement.declares, self._cursor(source, statement)))
            if statement.closes:
                changes.append(cursors.removal_of_all() if statement.closes == "*" else cursors.removal(statement.closes))
        if not changes:
            return None
        return _Bindings(changes, may_confirm=len(work.own) == 1)

    def _cursor(self, source: Shared, statement: SqlStatement) -> Cursor:
        return Cursor(source, statement.outlives_transaction, self.present_content)

    def _prepared(self, text: Shared, statement: SqlStatement) -> Prepared:
        prepared = Prepared(text.bound.text, (executed(statement),), (), self.search_path, sql_name=statement.prepares)
        prepared.holds = (text,)
        return prepared

    # ---- deciding -----------------------------------------------------------------------------------------------------------------

    def decide(self, work: Work, now: float, *, approved: bool = False) -> Decision:
        if self.catalog is not None:
            work.statements = self.catalog.settled(work.statements)
        loosened = self.restrictions.loosened(work.statements)
        if loosened is not None:
            detail = f"the session began with `{loosened.setting}` at `{loosened.limit}`, which it may tighten and not lift"
            return Deny(Reason.SETTING_REFUSED, Builtin("session-limits"), self.revision, detail)
        statements = self._with_consequences(work, now)
        if statements is not work.statements and work.impact is not None:
            work.impact = deletions_of(work.impact)
        statements = self._with_dangers(statements)
        decision = self._view.decide_all(
            cascades.reaching(statements, work.reach), self._context_of(work, approved=approved), now, work.impact
        )
        if cascades.cascades(statements):
            decision = self._with_reach(work, statements, decision, now)
        if work.is_translated:
            decision = kept_in_session(decision, self.revision)
        if isinstance(decision, Deny):
            return decision
        ending = self._at_end(work, now) if self.awaiting.held is not None else None
        if ending is not None or not decision.masks.columns:
            return ending or decision
        refused = self._steering_problem(work, decision)
        return refused or written_refusal(decision.masks, work.statements, self.catalog, self.revision) or decision

    def _with_reach(self, work: Work, statements: tuple[SqlStatement, ...], decision: Decision, now: float) -> Decision:
        """What goes with a CASCADE is asked for if it matters: another answer, and no denial, if nothing went with it; or rows to count."""
        if work.reach is not None:
            words = cascades.words_for(statements, work.reach)
            if words and isinstance(decision, (Deny, RequireApproval)):
                return replace(decision, detail=f"{decision.detail}: {words}")
            return decision
        context = self._context_of(work, approved=False)
        alone = self._view.decide_all(cascades.by_itself(statements), context, now, work.impact)
        if isinstance(alone, Deny):
            return decision
        counts = isinstance(alone, Measure) and any(StatementKind.TRUNCATE in statement.kinds for statement in statements)
        if not counts and alone == self._view.decide_all(statements, context, now, work.impact):
            return decision
        return Measure(0, alone.permit, alone.masks, alone.permit.source, self.revision, asks_reach=True)

    def _at_end(self, work: Work, now: float) -> RequireApproval | Deny | None:
        awaiting = self.awaiting
        if awaiting.revision != self.revision:
            context = StatementContext(self._database, self._role, search_path=self.search_path, waits_for_commit=True)
            answers = (self._view.decide_all(each, context, now) for each in awaiting.waiting())
            awaiting.asked_again(self.revision, is_denied=any(isinstance(answer, Deny) for answer in answers))
        return awaiting.at_end(work.own, self.revision)

    def meter(self, work: Work, now: float, *, is_rest: bool = False) -> None:
        """It is sent now. `is_rest`: of rows that it returned a part of, so no statement more."""
        found = self._view.metered(work.statements, self._context, now)
        if not found or self.only_prepares(work):
            return
        if work.renews_budgets:
            self.spending.renew(found)
        if not is_rest:
            self.spending.ran(found)
        options = copy_out_options(work.text) if self.copies_out(work) and len(work.own) == 1 else None
        if not any(rule.budget is not None and (rule.budget.rows or rule.budget.masked_values) for rule, _ in found):
            return
        work.meter = Meter(self.spending, found, has_copy_header=options is not None and bool(options.header))

    def _with_dangers(self, statements: tuple[SqlStatement, ...]) -> tuple[SqlStatement, ...]:
        """Those that change system catalogs through a view as `Server` too, as they are without it."""
        if self.catalog is None or not any(statement.writes for statement in statements):
            return statements
        found: list[SqlStatement] = []
        for statement in statements:
            view = self.catalog.changes_catalog(statement) if statement.writes else None
            if view is None:
                found.append(statement)
                continue
            dangers = (*statement.dangers, f"`{view}`, a view of system catalogs")
            found.append(replace(statement, kinds=statement.kinds | {StatementKind.SERVER}, dangers=dangers))
        return tuple(found)

    def _with_consequences(self, work: Work, now: float) -> tuple[SqlStatement, ...]:
        """The statements, those as `Delete` too that may delete by triggers, rules or moved rows where a limit on deleted rows holds. They
        are measured like any, and of their impact the deleted rows count. A change that is limited itself is left as it is.
        """
        if self.catalog is None or not any(statement.writes for statement in work.statements):
            return work.statements
        # Whatever was used up: a budget that an approver gave anew must not hide what is limited
        context = StatementContext(self._database, self._role, search_path=self.search_path, rows_so_far=self.rows_so_far)
        found: list[SqlStatement] = []
        is_unseen = self.moved.may_fire_unseen
        for statement in work.statements:
            may_delete = self.catalog.may_delete(statement) or (is_unseen and not statement.kinds.isdisjoint(FIRING))
            is_unseen = is_unseen or moves_triggers(statement)
            if StatementKind.DELETE not in statement.kinds and may_delete:
                wider = replace(statement, kinds=statement.kinds | {StatementKind.DELETE})
                is_limited = isinstance(self._view.decide(wider, context, now), Measure)
                if is_limited and isinstance(self._view.decide(statement, context, now), Allow):
                    statement = wider  # noqa: PLW2901
            found.append(statement)
        return work.statements if all(map(operator.is_, found, work.statements)) else tuple(found)

    def _context_of(self, work: Work, *, approved: bool) -> StatementContext:
        context = self._context
        if context.search_path != self.search_path or context.rows_so_far != self.rows_so_far:
            context = self._context = StatementContext(
                self._database, self._role, search_path=self.search_path, rows_so_far=self.rows_so_far, spent=self.spending.spent
            )
        if not (approved or work.waits_for_commit):
            return context
        return StatementContext(
            self._database, self._role, search_path=self.search_path, rows_so_far=self.rows_so_far,
            approved_fingerprint=work.fingerprint if approved else None, approved_rows=work.approved_rows if approved else None,
            spent=self.spending.spent, renews_budgets=work.renews_budgets and approved, waits_for_commit=work.waits_for_commit,
        )  # fmt: skip

    def _steering_problem(self, work: Work, decision: Allow | RequireApproval | Measure) -> Deny | None:
        """A column that derives from a masked one stands where it would reveal values. `use: Allowed` opens this too."""
        if self.catalog is None or all(mask.use is ColumnUse.ALLOWED for mask in decision.masks.columns):
            return None
        moved = Moved(self.moved)
        for statement in work.statements:
            problem = self._derived.problem(statement, decision.masks, self.catalog, moved)
            if problem is not None:
                return Deny(problem.reason, decision.masks.columns[0].source, self.revision, problem.detail)
            moved.note((statement,))
        return None

    def fingerprint(self, work: Work, decision: RequireApproval) -> str:
        """What an approval is bound to: all that an approver is shown of what would run, as whom and where, and the rule's terms. Left out:
        where the client is and when it asked. The measured rows aren't part of it either: they are a bound of their own.
        """
        target, terms = self._engine.config.target, decision.terms
        return fingerprint(
            (self._principal.key, self._principal.username, self._principal.agent, self._principal.environment),
            (target.namespace, target.name, self._database, self._role, self.current_role),
            self.search_path,
            _parts(work.bound()),
            tuple(map(_parts, work.referred)),
            tuple(map(_parts, work.alternatives)),
            (str(decision.source), decision.reason.value),
            *cascades.parts_of(work.reach),
            (tuple(sorted(terms.approver_groups)), tuple(sorted(terms.approver_users)), terms.required),
            str(terms.expires_after_s),
        )

    @staticmethod
    def only_prepares(work: Work) -> bool:
        return bool(work.own) and all(statement.prepares for statement in work.own)

    @staticmethod
    def copies_out(work: Work) -> bool:
        return any(StatementKind.COPY_OUT in statement.kinds for statement in work.statements)

    def needs_catalog(self, grant: SessionGrant, now: float) -> bool:
        """Column masks or a limit on deleted rows are in force, and what is known of the target's definitions is missing, outdated,
        or old.
        """
        if not (grant.masks.columns or grant.limits_deletions):
            return False
        return self.catalog is None or self.catalog_is_stale or not 0 <= now - self._catalog_learned_at < CATALOG_FRESH_S

    def learn_catalog(self, catalog: Catalog, now: float) -> None:
        if self.catalog is not None and self.catalog.content != catalog.content:
            self._former_catalogs.pop(self.catalog.content, None)
            self._former_catalogs[self.catalog.content] = self.catalog
            if len(self._former_catalogs) > MAX_FORMER_CATALOGS:
                del self._former_catalogs[next(iter(self._former_catalogs))]
        self.catalog, self.catalog_is_stale = catalog, False
        self._catalog_learned_at = now - (CATALOG_FRESH_S - PARTLY_FRESH_S if catalog.is_partial else 0)

    @property
    def present_content(self) -> int | None:
        return self.catalog.content if self.catalog is not None else None

    def former_catalogs(self, work: Work) -> list[Catalog | None]:
        """Those that its cursors and portals were opened under, but for the present one. None: one that isn't known any more."""
        return [
            self._former_catalogs.get(content) if content is not None else None
            for content in work.opened_under
            if content != self.present_content
        ]

    def settles_definitions(self, statements: tuple[SqlStatement, ...]) -> bool:
        """Behind these, definitions may be others than the catalog has: nothing that was sent with them is read before they ended."""
        if self.catalog is None:
            return False
        is_open = self.has_changed_definitions or self.moved.is_unsettled
        return any(each.kinds & CHANGES_DEFINITIONS or (is_open and each.controls_transaction) for each in statements)

    def changed_definitions(self, work: Work) -> bool:
        """It has ended: definitions may be others now, and so may those that a transaction changed after a ROLLBACK TO in it."""
        changes = any(statement.kinds & CHANGES_DEFINITIONS for statement in work.statements)
        takes_back = self.has_changed_definitions and any(statement.controls_transaction for statement in work.statements)
        if not (changes and (not work.sqlstate or work.was_cut)) and not takes_back:
            return False
        if changes:
            self.moved.note(work.statements)
        self.has_changed_definitions = self.catalog_is_stale = True
        return True

    def transaction_ended(self) -> bool:
        """Whether definitions that only this session could see are everybody's now, or nobody's."""
        had_changed, self.has_changed_definitions = self.has_changed_definitions, False
        self.catalog_is_stale = self.catalog_is_stale or had_changed
        return had_changed

    def transaction_over(self) -> None:
        """Whatever was defined in it is there now, or isn't."""
        self.catalog_is_stale = self.moved.settled() or self.catalog_is_stale

    # ---- search path --------------------------------------------------------------------------------------------------------------

    def learn_search_path(self, array: bytes | None, role: bytes | None = None) -> None:
        """From `current_schemas(false)` in text form; None: unknown, so unqualified names could be anywhere. `role`: `current_user`."""
        self.search_path = parse_name_array(array.decode()) if array is not None else None
        self.current_role = role.decode() if role is not None else None

    def statement_sent(self, work: Work) -> None:
        """From here on the search path may be another: until it is read again, unqualified names could be anywhere."""
        self.awaiting.sent(work.own)
        self.moved.note(work.statements)
        for statement in work.statements:
            if may_change_path(statement):
                self._path_may_roll_back = True
            elif not (statement.controls_transaction and self._path_may_roll_back):
                continue
            self.search_path, self.search_path_is_stale, self.current_role = None, True, None

    def rolled_back(self) -> None:
        """The gate took back the client's transaction, and with it what was set there."""
        self.search_path, self.search_path_is_stale, self.current_role = None, True, None

    def path_settled(self, status: str) -> None:
        """It was read with this transaction status: outside of a transaction nothing of it rolls back any more."""
        if status == "I":
            self._path_may_roll_back = False


def _uses_names(statement: SqlStatement) -> bool:
    names = (
        statement.executes,
        statement.fetches,
        statement.prepares,
        statement.deallocates,
        statement.declares,
        statement.closes,
    )
    return any(name is not None for name in names)


def _parts(bound: BoundText) -> tuple[Part, ...]:
    return canonical_tokens(bound.text), bound.parameters, bound.formats, bound.oids


def executed(prepare: SqlStatement) -> SqlStatement:
    """What a PREPARE carries, when it runs: by EXECUTE, or by a Bind of its name. It prepares nothing then."""
    return replace(prepare, prepares=None)


def may_change_path(statement: SqlStatement) -> bool:
    return (
        statement.changes_schemas
        or any(name in PATH_SETTINGS for name, _ in statement.settings)
        or not statement.kinds.isdisjoint(MAY_CHANGE_SEARCH_PATH)
    )


def parse_name_array(text: str) -> tuple[str, ...] | None:
    """PostgreSQL's text form of a name array: `{public,"odd ""name"}`. None when it isn't one."""
    if not (text.startswith("{") and text.endswith("}")):
        return None
    names: list[str] = []
    current: list[str] = []
    is_quoted = was_quoted = False
    body = text[1:-1]
    at = 0
    while at < len(body):
        character = body[at]
        if character == "\\" and is_quoted and at + 1 < len(body):
            at += 1
            current.append(body[at])
        elif character == '"':
            is_quoted = not is_quoted
            was_quoted = True
        elif character == "," and not is_quoted:
            names.append("".join(current))
            current, was_quoted = [], False
        else:
            current.append(character)
        at += 1
    if is_quoted:
        return None
    if current or was_quoted or names:
        names.append("".join(current))
    return tuple(names)


def deletions_of(impact: Impact) -> Impact:
    """Only what it deletes, by table."""
    tables = tuple(TableImpact(table.relation, 0, 0, table.deleted) for table in impact.tables if table.deleted)
    return Impact(sum(table.deleted for table in tables), tables, impact.is_truncation)


class _Bindings:
    """Several changes of one message. Of a string with several statements it can't be told which succeeded: nothing is ever confirmed
    or taken back.
    """

    __slots__ = ("_changes", "_may_confirm")

    def __init__(self, changes: list[Binding], *, may_confirm: bool) -> None:
        self._changes = changes
        self._may_confirm = may_confirm

    def confirm(self) -> None:
        for change in self._changes:
            if self._may_confirm:
                change.confirm()
            else:
                change.leave_open()

    def take_back(self) -> None:
        for change in self._changes:
            if self._may_confirm:
                change.take_back()
            else:
                change.leave_open()

    def leave_open(self) -> None:
        for change in self._changes:
            change.leave_open()
