"""What a client asks for, classified: the engine's input. `sidegate.sql` makes an `SqlStatement` from text.

Names are as PostgreSQL resolves them (folded to lower case unless quoted). A name whose schema could not be settled carries every
schema it could be in, or None for "any": a rule that takes away matches when any candidate matches, a grant only when all do.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sidegate.policy.source import PolicyRule


class StatementKind(enum.StrEnum):
    """What a statement does, by its parse tree. One statement may be several (EXPLAIN ANALYZE DELETE is Explain and Delete)."""

    READ = "Read"  # SELECT, TABLE, VALUES without side effects
    EXPLAIN = "Explain"  # EXPLAIN; with ANALYZE it is what it explains as well
    INSERT = "Insert"
    UPDATE = "Update"
    DELETE = "Delete"
    MERGE = "Merge"  # with the kinds of its WHEN actions beside it
    TRUNCATE = "Truncate"
    COPY_IN = "CopyIn"  # COPY ... FROM STDIN; also Insert
    COPY_OUT = "CopyOut"  # COPY ... TO STDOUT; also Read
    CALL = "Call"  # CALL, and functions that aren't known to be free of side effects
    DO = "Do"  # anonymous code blocks
    DDL = "DDL"  # CREATE, ALTER, DROP, COMMENT, SECURITY LABEL, SELECT INTO, CREATE TABLE AS
    ROLES = "Roles"  # roles, GRANT, REVOKE, ownership, default privileges, SET ROLE, row security policies
    MAINTENANCE = "Maintenance"  # VACUUM, ANALYZE, REINDEX, CLUSTER, CHECKPOINT, REFRESH MATERIALIZED VIEW
    LOCK = "Lock"  # LOCK TABLE, advisory locks
    SELECT_FOR_UPDATE = "SelectForUpdate"  # row locking clauses; also Read
    LISTEN = "Listen"  # LISTEN, UNLISTEN
    NOTIFY = "Notify"
    SETTINGS = "Settings"  # SET and set_config of a setting outside the harmless list
    SERVER = "Server"  # files, programs, configuration, extensions, languages, backends, large objects, other servers
    REPLICATION = "Replication"  # publications, subscriptions, slots, logical decoding
    TRANSACTION = "Transaction"  # BEGIN, COMMIT, SAVEPOINT ...; PREPARE TRANSACTION is Server
    SESSION = "Session"  # SHOW, SET of a harmless setting, DISCARD, DEALLOCATE
    CURSOR = "Cursor"  # DECLARE (with its query's kinds), FETCH, MOVE, CLOSE
    UNKNOWN = "Unknown"  # could not be classified: always denied


class TransactionEnd(enum.StrEnum):
    """How a statement ends a transaction."""

    COMMIT = "Commit"
    ROLLBACK = "Rollback"
    OTHER = "Other"  # by beginning the next one (AND CHAIN), or in two phases


class RelationRef(NamedTuple):
    """A table, view or other named relation. `schemas` None: could be in any schema."""

    name: str
    schemas: frozenset[str] | None = None


class ColumnRef(NamedTuple):
    """A column. `relation` None: could belong to any relation read. `name` "*": every column (star or whole row)."""

    name: str
    relation: RelationRef | None = None


class OutputColumn(NamedTuple):
    """A column of a statement's result by its lineage. `columns`: all that can reach it, through whatever makes it. `is_run`: any number of
    columns (a star), told together. `is_computed`: made of them, not one of them passed on. `is_of_row`: a whole row, or taken out of one,
    which `fields_output` tells more of. `group_floor`: a sum, average or count of one column of one table, over groups that the statement
    itself lets have no fewer values than this; 0: of any size, or nothing of that kind.
    """

    name: str | None
    columns: frozenset[ColumnRef]
    is_computed: bool = False
    is_run: bool = False
    is_of_row: bool = False
    group_floor: int = 0


class FunctionRef(NamedTuple):
    """A function that is called. `is_known_safe` only for built-ins that neither write, nor reach out, nor read tables."""

    name: str
    schemas: frozenset[str] | None = None
    is_known_safe: bool = False


class Root(enum.StrEnum):
    """What a CASCADE starts from."""

    RELATION = "relation"
    COLUMN = "column"  # a part of a relation, and of those that inherit from it; an attribute of a composite type too
    CONSTRAINT = "constraint"  # the same
    TYPE = "type"
    ROUTINE = "routine"  # of any arguments
    SCHEMA = "schema"
    EMPTIED = "emptied"  # a table that is truncated


class CascadeRoot(NamedTuple):
    """One thing that is dropped or emptied with CASCADE, in each of `schemas` that has one of its name. `part`: its column, constraint."""

    kind: Root
    name: str
    schemas: frozenset[str] | None
    part: str = ""


class Cascade(NamedTuple):
    """What goes with it only the target knows. `roots` None: where it starts can't be told. `schemas`: the statement's own, without it."""

    roots: frozenset[CascadeRoot] | None
    schemas: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class SqlStatement:
    """One top-level SQL statement as the engine judges it.

    `columns_output` are the columns that stand plainly in the top-level output (masked there by their origin);
    `columns_steering` are those named where they decide what is returned, or in an expression that may fail or linger by their values:
    predicates, joins, ordering, grouping, functions. `columns_keys`: those of them that are only sorted, grouped or joined by;
    `columns_compared`: that are only compared for equality with a bound parameter. `columns_qualified`: those in expressions that are named
    as `u.f`, which calls a function `f` on the row where `u` has no such column.
    `lineage`: the columns of its result in order, for what returns rows by a query; what an expression that can't tell anything but by its
    value is made of stands there alone.
    `columns_written` are targets of INSERT, UPDATE, COPY FROM. `affects_rows`: the statement changes rows, so its impact can be
    measured. `controls_transaction`: it can't run inside a savepoint of the gate's; `ends_transaction`: it is the end of one.
    `unknown` says, for a person, what couldn't be classified (then UNKNOWN is among the kinds). `normalised` is the text with its
    constants replaced (for fingerprints and records). `settings`: names of settings it changes, lower case, with the new value
    where it is a plain constant.
    `prepares`, `executes`, `deallocates`, `declares`, `fetches`, `closes`: names of SQL-level prepared statements and cursors.
    `outlives_transaction`: the cursor that it declares does (WITH HOLD).
    `stores_code`: code that it stores to run later, for a message (`a function`, `a trigger`, `a rule`).
    `kinds_of_code`: those of its kinds that only what it stores has (a default calls a function, a rule acts with its owner's rights):
    where a person approves the statement, they need no grant.
    `fields_output`: whole rows and fields taken out of them in the top-level output, by the output's name (None: `(row).*`, whose columns
    go by their own names); they are among `columns_output`, and the target may tell no origin for them.
    `drops_tables`: tables whose rows go with what it drops (name "*": every table of the schemas; others may go too, by CASCADE): a
    deletion to row limits, and to nothing else. None: it drops none.
    `cascade`: it takes with it whatever depends on what it drops (or refers to what it empties); until the target was asked what that is,
    `schemas` is None. None: it has no CASCADE, or it is known by now.
    `secrets_output`: columns of the target's catalogs that hold secrets, and stand plainly in its output.
    `columns_changed`: columns that it renames, retypes or moves to another name ("*" for a whole table that is renamed or moved), so
    that a mask by name would no longer find them.
    `names_defined`: of a definition (DDL) every name in it, whatever it names, lower case; "*" for columns whose names it doesn't say.
    """

    text: str = field(compare=False)  # nothing is decided by it, and a kept analysis has its normal form here
    kinds: frozenset[StatementKind]
    reads: frozenset[RelationRef] = frozenset()
    writes: frozenset[RelationRef] = frozenset()
    creates: frozenset[RelationRef] = frozenset()
    schemas: frozenset[str] | None = frozenset()  # every schema it could touch; None: any
    columns_output: frozenset[ColumnRef] = frozenset()
    columns_steering: frozenset[ColumnRef] = frozenset()
    columns_keys: frozenset[ColumnRef] = frozenset()
    columns_compared: frozenset[ColumnRef] = frozenset()
    columns_qualified: frozenset[ColumnRef] = frozenset()
    columns_written: frozenset[ColumnRef] = frozenset()
    functions: frozenset[FunctionRef] = frozenset()
    settings: tuple[tuple[str, str | None], ...] = ()
    affects_rows: bool = False
    controls_transaction: bool = False
    ends_transaction: TransactionEnd | None = None
    unknown: tuple[str, ...] = ()
    dangers: tuple[str, ...] = ()  # why it is Server, Settings or Replication, for the message
    normalised: str = ""
    prepares: str | None = None
    executes: str | None = None
    deallocates: str | None = None  # "*" for ALL
    declares: str | None = None
    fetches: str | None = None
    closes: str | None = None  # "*" for ALL
    outlives_transaction: bool = False
    stores_code: str | None = None
    kinds_of_code: frozenset[StatementKind] = frozenset()
    columns_changed: frozenset[ColumnRef] = frozenset()
    drops_tables: frozenset[RelationRef] | None = None
    cascade: Cascade | None = None
    secrets_output: frozenset[ColumnRef] = frozenset()
    fields_output: frozenset[tuple[str | None, ColumnRef]] = frozenset()
    names_defined: frozenset[str] = frozenset()
    lineage: tuple[OutputColumn, ...] = ()
    changes_schemas: bool = (
        False  # it makes, drops or renames a schema, or an extension that may have its own: the search path may change
    )


def columns_reaching(statement: SqlStatement) -> frozenset[ColumnRef]:
    """Every column that can reach the client in the statement's result, passed on or as part of what is made of it."""
    found = set(statement.columns_output)
    for output in statement.lineage:
        found |= output.columns
    return frozenset(found)


class TableImpact(NamedTuple):
    """Rows of one table, as the target counted them inside the measuring savepoint."""

    relation: str  # schema.name
    inserted: int
    updated: int
    deleted: int


UNCOUNTED_ROWS: Final = 2**62  # of what can't be counted: over every limit


@dataclass(frozen=True, slots=True)
class Impact:
    """What a statement would do, measured: `rows` by the command tag, `tables` with cascades and triggers counted."""

    rows: int
    tables: tuple[TableImpact, ...] = ()
    is_truncation: bool = False

    @property
    def rows_affected(self) -> int:
        """The larger of the two counts: a cascade can't hide behind a small command tag."""
        return max(self.rows, sum(t.inserted + t.updated + t.deleted for t in self.tables))

    @property
    def is_counted(self) -> bool:
        return self.rows < UNCOUNTED_ROWS


class Spent(NamedTuple):
    """What a session has used up of one budget."""

    statements: int = 0
    rows: int = 0
    masked_values: int = 0


NOTHING_SPENT: Final = Spent()


@dataclass(frozen=True, slots=True)
class StatementContext:
    """Where a statement is asked: facts of the session that rules may match."""

    database: str
    role: str
    search_path: tuple[str, ...] | None = None  # None: not known
    approved_fingerprint: str | None = None
    approved_rows: int | None = None
    rows_so_far: int = field(default=0)  # affected by earlier statements of this session that the same rules limit
    spent: Mapping[PolicyRule, Spent] = field(default_factory=dict)  # by the rules with budgets; one that isn't there: nothing
    waits_for_commit: bool = False  # what rules hold at its COMMIT is noted: its transaction won't be committed without them
    renews_budgets: bool = False  # an approver was told which budgets are used up, and gives them anew
