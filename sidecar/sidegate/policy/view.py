"""The engine's answers, remembered. INVARIANT: `PrincipalView.decide` answers what `engine.decide` would; a test holds it to that.

Rules it keeps:
- Only answers that depend on nothing but the view and the statement are remembered: none with an impact or an approval, and all of
  them before budgets.
- They are forgotten when the time leaves the span for which the facts stand, in either direction.
- Memory is bounded in entries and, because a remembered statement keeps its text alive, in the length of that text.

`Engine` belongs to one config: at a new revision make a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from sidegate.policy.budgets import Metered, metered, within_budgets
from sidegate.policy.config import GateConfig
from sidegate.policy.decision import Decision
from sidegate.policy.facts import Facts, gather
from sidegate.policy.prepared import Prepared, prepare
from sidegate.policy.principal import Principal
from sidegate.policy.statement import Impact, SqlStatement, StatementContext
from sidegate.policy.walk import walk, walk_all

MAX_REMEMBERED: Final = 512  # answers of one view, by identity and by key each
MAX_TEXT_CHARACTERS: Final = 8192  # a longer statement is found by its key only, which has no text
MAX_KEY_PARTS: Final = 512  # relations, columns and functions together; a wider statement is decided each time

StatementKey: TypeAlias = "tuple[object, ...]"


def static_key(statement: SqlStatement) -> StatementKey | None:
    """Everything of a statement that a decision without impact may depend on, without its text. None: too much to remember."""
    parts = (
        len(statement.reads)
        + len(statement.writes)
        + len(statement.creates)
        + len(statement.columns_output)
        + len(statement.columns_steering)
        + len(statement.functions)
        + sum(len(output.columns) for output in statement.lineage)
        + len(statement.settings)
    )
    if parts > MAX_KEY_PARTS:
        return None
    return (
        statement.kinds,
        statement.reads,
        statement.writes,
        statement.creates,
        statement.schemas,
        statement.columns_output,
        statement.columns_steering,
        statement.columns_keys,
        statement.columns_compared,
        statement.columns_qualified,
        statement.columns_written,
        statement.functions,
        statement.settings,
        statement.affects_rows,
        statement.controls_transaction,
        statement.ends_transaction,
        statement.unknown,
        statement.dangers,
        statement.prepares,
        statement.executes,
        statement.deallocates,
        statement.declares,
        statement.fetches,
        statement.closes,
        statement.outlives_transaction,
        statement.stores_code,
        statement.kinds_of_code,
        statement.columns_changed,
        statement.drops_tables,
        statement.cascade,
        statement.secrets_output,
        statement.fields_output,
        statement.lineage,
        statement.changes_schemas,
        statement.names_defined,
    )


class Engine:
    """One gate config, ready to be asked."""

    __slots__ = ("_prepared", "config")

    def __init__(self, config: GateConfig) -> None:
        self.config = config
        self._prepared = prepare(config)

    def for_principal(self, principal: Principal, database: str, role: str) -> PrincipalView:
        """The view of one session; make it once and keep it as long as the session and the config."""
        return PrincipalView(self._prepared, principal, database, role)


class PrincipalView:
    """What the config means to one principal on one database as one role."""

    __slots__ = ("_by_identity", "_by_key", "_facts", "_prepared", "_since", "_until", "database", "principal", "role")

    def __init__(self, prepared: Prepared, principal: Principal, database: str, role: str) -> None:
        self._prepared = prepared
        self.principal = principal
        self.database = database
        self.role = role
        self._facts: Facts | None = None
        self._since = self._until = 0.0
        self._by_identity: dict[int, tuple[SqlStatement, Decision]] = {}
        self._by_key: dict[StatementKey, Decision] = {}

    @property
    def valid_until(self) -> float:
        """Until when the present answers stand unless the config changes; a session should be asked again then."""
        return self._until

    def decide(self, statement: SqlStatement, context: StatementContext, now: float, impact: Impact | None = None) -> Decision:
        """As `engine.decide`. A context of another database or role is answered too, only slower."""
        if (
            self._since <= now < self._until
            and impact is None
            and context.approved_fingerprint is None
            and not context.waits_for_commit
            and context.database == self.database
            and context.role == self.role
        ):
            # INVARIANT: an entry keeps its statement alive, so an id in use never names another statement.
            remembered = self._by_identity.get(id(statement))
            if remembered is not None and remembered[0] is statement:
                decision = remembered[1]
            else:
                decision = self._decide_and_remember(statement, context, now)
            facts = self._facts
            if facts is None or not facts.budgets:
                return decision
            return within_budgets(facts, (statement,), context, decision)
        facts = self._facts_for(context, now)
        return within_budgets(facts, (statement,), context, walk(facts, statement, context, impact))

    def decide_all(
        self, statements: Sequence[SqlStatement], context: StatementContext, now: float, impact: Impact | None = None
    ) -> Decision:
        """As `engine.decide_all`; a string of one statement is remembered as that statement."""
        if len(statements) == 1:
            return self.decide(statements[0], context, now, impact)
        facts = self._facts_for(context, now)
        return within_budgets(facts, statements, context, walk_all(facts, statements, context, impact))

    def metered(self, statements: Sequence[SqlStatement], context: StatementContext, now: float) -> tuple[Metered, ...]:
        """Whose budgets these statements use up."""
        facts = self._facts_for(context, now)
        return metered(facts, statements) if facts.budgets else ()

    def _decide_and_remember(self, statement: SqlStatement, context: StatementContext, now: float) -> Decision:
        key = static_key(statement)
        decision = self._by_key.get(key) if key is not None else None
        if decision is None:
            decision = walk(self._facts_for(context, now), statement, context, None)
        if key is not None:
            if len(self._by_key) >= MAX_REMEMBERED:
                self._by_key.clear()
            self._by_key[key] = decision
            if len(statement.text) <= MAX_TEXT_CHARACTERS:
                if len(self._by_identity) >= MAX_REMEMBERED:
                    self._by_identity.clear()
                self._by_identity[id(statement)] = (statement, decision)
        return decision

    def _facts_for(self, context: StatementContext, now: float) -> Facts:
        if context.database != self.database or context.role != self.role:
            return gather(self._prepared, self.principal, context.database, context.role, now)
        facts = self._facts
        if facts is None or not facts.holds_at(now):
            facts = self._facts = gather(self._prepared, self.principal, self.database, self.role, now)
            self._since, self._until = facts.since, facts.until
            self._by_identity.clear()
            self._by_key.clear()
        return facts
