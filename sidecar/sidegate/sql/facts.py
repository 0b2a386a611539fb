"""What one statement's walk finds, collected. The walk adds, never takes away; `analyse` makes an `SqlStatement` of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from sidegate.policy.statement import (
    Cascade,
    CascadeRoot,
    ColumnRef,
    FunctionRef,
    OutputColumn,
    RelationRef,
    SqlStatement,
    StatementKind,
    TransactionEnd,
)
from sidegate.sql import settings
from sidegate.sql.builtins import CATALOG_RELATIONS
from sidegate.sql.functions import LEAKY_RELATIONS, SECRET_COLUMNS, SecretColumns
from sidegate.sql.growth import Growth
from sidegate.sql.names import INFORMATION_SCHEMA, PG_CATALOG

_EVERY_COLUMN = "*"
_CATALOGS = frozenset({PG_CATALOG, INFORMATION_SCHEMA})
_TOAST = "pg_toast"


@dataclass(slots=True)
class Facts:
    kinds: set[StatementKind] = field(default_factory=set)
    reads: set[RelationRef] = field(default_factory=set)
    writes: set[RelationRef] = field(default_factory=set)
    creates: set[RelationRef] = field(default_factory=set)
    schemas: set[str] = field(default_factory=set)
    could_be_any_schema: bool = False
    output: set[ColumnRef] = field(default_factory=set)
    fields: set[tuple[str | None, ColumnRef]] = field(default_factory=set)
    steering: set[ColumnRef] = field(default_factory=set)
    keys: set[ColumnRef] = field(default_factory=set)
    compared: set[ColumnRef] = field(default_factory=set)
    qualified: set[ColumnRef] = field(default_factory=set)  # named as `u.f`, in expressions
    compared_with: dict[ColumnRef, int] = field(default_factory=dict)  # the parameter of each
    is_key: bool = False  # what steers now is only sorted, grouped or joined by
    reached: set[ColumnRef] | None = None  # what the output that is walked now is made of
    expressed: set[ColumnRef] = field(default_factory=set)  # what any expression that is answered is made of
    growth: Growth = field(default_factory=Growth)
    lineage: list[OutputColumn] = field(default_factory=list)
    written: set[ColumnRef] = field(default_factory=set)
    functions: set[FunctionRef] = field(default_factory=set)
    settings: list[tuple[str, str | None]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    dangers: list[str] = field(default_factory=list)
    affects_rows: bool = False
    controls_transaction: bool = False
    ends: TransactionEnd | None = None
    depends_on_constants: bool = False  # another constant in its place could classify otherwise
    prepares: str | None = None
    executes: str | None = None
    deallocates: str | None = None
    declares: str | None = None
    fetches: str | None = None
    closes: str | None = None
    outlives_transaction: bool = False
    stores_code: str | None = None
    of_code: set[StatementKind] = field(default_factory=set)
    changed: set[ColumnRef] = field(default_factory=set)
    defined: frozenset[str] = frozenset()
    drops: set[RelationRef] | None = None
    cascades: bool = False
    guarded: set[str] = field(default_factory=set)  # catalogs that are read, with columns that hold secrets
    roots: set[CascadeRoot] | None = field(default_factory=set)  # None: not to be told
    changes_schemas: bool = False

    def touch_schemas(self, schemas: frozenset[str] | None) -> None:
        if schemas is None:
            self.could_be_any_schema = True
        else:
            self.schemas |= schemas

    def read(self, relation: RelationRef) -> None:
        if relation not in self.reads:
            self.reads.add(relation)
            self._touch(relation)

    def write(self, relation: RelationRef) -> None:
        if relation not in self.writes:
            self.writes.add(relation)
            self._touch(relation)

    def create(self, relation: RelationRef) -> None:
        self.creates.add(relation)
        self.touch_schemas(relation.schemas)

    def _touch(self, relation: RelationRef) -> None:
        self.touch_schemas(relation.schemas)
        if relation.schemas is not None and _TOAST in relation.schemas and relation.name.startswith("pg_toast_"):
            self.danger(StatementKind.SERVER, f"`{relation.name}` (long values of some table, around every rule on it)")
        why = LEAKY_RELATIONS.get(relation.name)
        if why is None:
            return
        # Extensions' relations may be in any schema; the catalogs' own names elsewhere are somebody's tables.
        if relation.schemas is None or relation.schemas & _CATALOGS or relation.name not in CATALOG_RELATIONS:
            if relation.name in SECRET_COLUMNS:
                self.guarded.add(relation.name)
            else:
                self.danger(StatementKind.SERVER, f"`{relation.name}` ({why})")

    def _guard_secrets(self) -> frozenset[ColumnRef]:
        """Columns that hold secrets may stand plainly in the output of a SELECT if they can be masked there; else it is `Server`."""
        shown: set[ColumnRef] = set()
        for name in sorted(self.guarded):
            secret = SECRET_COLUMNS[name]
            plain = {column for column in self.output if _may_be(column, name, secret)}
            others = (
                self.steering | self.keys | self.compared | self.written | self.changed | {column for _, column in self.fields}
            )
            others = others.union(*(output.columns for output in self.lineage if output.is_computed))
            is_reached = any(_may_be(column, name, secret) for column in others)
            if is_reached or (plain and not secret.may_be_shown) or self.kinds != {StatementKind.READ}:
                self.danger(StatementKind.SERVER, f"`{name}` ({LEAKY_RELATIONS[name]})")
            elif plain:
                shown |= {ColumnRef(each, RelationRef(name, frozenset({PG_CATALOG}))) for each in secret.names}
        return frozenset(shown)

    def drop(self, relations: Iterable[RelationRef] = ()) -> None:
        self.drops = (self.drops or set()) | set(relations)

    def cascade(self, roots: Iterable[CascadeRoot] | None) -> None:
        """What depends on these goes too; None: on something that can't be told."""
        self.cascades = True
        self.roots = self.roots | set(roots) if self.roots is not None and roots is not None else None

    def danger(self, kind: StatementKind, why: str) -> None:
        self.kinds.add(kind)
        if why not in self.dangers:
            self.dangers.append(why)

    def not_known(self, what: str) -> None:
        self.kinds.add(StatementKind.UNKNOWN)
        if what not in self.unknown:
            self.unknown.append(what)

    def set(self, changes: Iterable[tuple[str, str | None]]) -> None:
        for name, value in changes:
            self.settings.append((name, value))
            kind = settings.kind_of(name, value)
            self.kinds.add(kind)
            if kind in (StatementKind.SETTINGS, StatementKind.ROLES):
                self.danger(kind, f"setting `{name}`")

    def steer(self, columns: Collection[ColumnRef]) -> None:
        (self.keys if self.is_key else self.steering).update(columns)
        self.reach(columns)

    def compare(self, columns: Collection[ColumnRef], parameter: int) -> None:
        """With a bound parameter, for equality. A column that is compared with several steers: one statement could try thousands."""
        if any(self.compared_with.setdefault(column, parameter) != parameter for column in columns):
            self.steer(columns)
        self.compared.update(columns)
        self.reach(columns)

    def reach(self, columns: Collection[ColumnRef]) -> None:
        if self.reached is not None:
            self.reached.update(columns)

    def statement(self, text: str, normalised: str) -> SqlStatement:
        if not self.kinds:
            self.not_known("a statement that does nothing known")
        if self.growth.is_over:
            self.steering |= self.expressed
        secrets = self._guard_secrets() if self.guarded else frozenset[ColumnRef]()
        named = None if self.could_be_any_schema else frozenset(self.schemas)
        cascade = Cascade(frozenset(self.roots) if self.roots is not None else None, named) if self.cascades else None
        return SqlStatement(
            text=text,
            kinds=frozenset(self.kinds),
            reads=frozenset(self.reads),
            writes=frozenset(self.writes),
            creates=frozenset(self.creates),
            schemas=None if self.cascades else named,
            columns_output=frozenset(self.output),
            fields_output=frozenset(self.fields),
            columns_steering=frozenset(self.steering | self.keys | self.compared),
            columns_keys=frozenset(self.keys - self.steering - self.compared),
            columns_qualified=frozenset(self.qualified),
            columns_compared=frozenset(self.compared - self.steering - self.keys),
            lineage=tuple(self.lineage),
            columns_written=frozenset(self.written),
            functions=frozenset(self.functions),
            settings=tuple(self.settings),
            affects_rows=self.affects_rows,
            controls_transaction=self.controls_transaction,
            ends_transaction=self.ends,
            unknown=tuple(self.unknown),
            dangers=tuple(self.dangers),
            normalised=normalised,
            prepares=self.prepares,
            executes=self.executes,
            deallocates=self.deallocates,
            declares=self.declares,
            fetches=self.fetches,
            closes=self.closes,
            outlives_transaction=self.outlives_transaction,
            stores_code=self.stores_code,
            kinds_of_code=frozenset(self.of_code & self.kinds),
            columns_changed=frozenset(self.changed),
            drops_tables=frozenset(self.drops) if self.drops is not None else None,
            cascade=cascade,
            secrets_output=secrets,
            changes_schemas=self.changes_schemas,
            names_defined=self.defined,
        )


def _may_be(column: ColumnRef, relation: str, secret: SecretColumns) -> bool:
    """Whether it is such a column of the relation, or could be."""
    is_there = column.relation is None or column.relation.name == relation
    return is_there and (column.name in secret.names or column.name == _EVERY_COLUMN)
