"""The target's definitions as one session's masking needs them: which column an origin names, and which columns derive from
masked ones. Pure.

Read over a connection of the gate's own by `QUERIES`, kept a short while, and read again after definitions changed or when a
result names a relation that isn't known. The target's column origins stop at a view. A view (or materialized view) that only passes
masked columns on is tainted in the columns that show them; one that computes or filters with them is tainted whole. A generated column,
and a column of a composite type, is tainted when a masked column is in it.

A value that is written can be compared with values that aren't shown: a unique index or a foreign key tells whether it exists. `tells` are
those pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sidegate.mask.compounds import DEEPEST, FieldMask, RowFields
from sidegate.mask.strategies import strategy_of
from sidegate.policy.decision import ColumnMask, Masks, MaskStrategy
from sidegate.policy.statement import ColumnRef, RelationRef, SqlStatement, StatementKind, columns_reaching
from sidegate.postgres.own_types import ENUMS_QUERY, without_casts
from sidegate.postgres.results import ColumnOrigin
from sidegate.sql import Analysis, OutputColumns, analyse, query_outputs, quote

# With an empty search_path the target writes every name in a definition with its schema.
QUERIES: Final = (
    "SET search_path = ''",
    "SELECT c.oid, n.nspname, c.relname, c.relkind, a.attnum, a.attname,"
    " pg_catalog.format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL)"
    " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid JOIN pg_catalog.pg_type t ON t.oid = a.atttypid"
    " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c', 'S') AND a.attnum > 0 AND NOT a.attisdropped",
    "SELECT c.oid, pg_catalog.pg_get_viewdef(c.oid) FROM pg_catalog.pg_class c WHERE c.relkind IN ('v', 'm') AND c.oid >= 16384",
    "SELECT a.attrelid, a.attnum, pg_catalog.pg_get_expr(d.adbin, d.adrelid)"
    " FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
    " WHERE a.attgenerated <> ''",
    # Columns of a composite type: itself, or arrays, domains and ranges of it in any depth; and the relation that has the type's fields.
    "WITH RECURSIVE wrapped (oid, inner_oid) AS (SELECT oid, typbasetype FROM pg_catalog.pg_type WHERE typbasetype <> 0"
    " UNION ALL SELECT oid, typelem FROM pg_catalog.pg_type WHERE typelem <> 0"
    " UNION ALL SELECT rngtypid, rngsubtype FROM pg_catalog.pg_range UNION ALL SELECT rngmultitypid, rngsubtype FROM pg_catalog.pg_range),"
    " made (oid, fields) AS (SELECT t.oid, t.typrelid FROM pg_catalog.pg_type t WHERE t.typrelid <> 0"
    " UNION SELECT w.oid, m.fields FROM made m JOIN wrapped w ON w.inner_oid = m.oid)"
    " SELECT a.attrelid, a.attnum, m.fields FROM pg_catalog.pg_attribute a JOIN made m ON m.oid = a.atttypid"
    " WHERE a.attnum > 0 AND NOT a.attisdropped",
    # Which column's values a write to which column is compared with.
    "SELECT a.attrelid, a.attnum, a.attrelid, a.attnum FROM pg_catalog.pg_index i"
    " JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum > 0 AND (a.attnum = ANY (i.indkey) OR EXISTS"
    " (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = i.indexrelid"
    " AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum))"
    " WHERE (i.indisunique OR i.indisexclusion) AND i.indrelid >= 16384"
    " UNION SELECT c.conrelid, w.attnum, c.confrelid, t.attnum FROM pg_catalog.pg_constraint c,"
    " ROWS FROM (pg_catalog.unnest(c.conkey), pg_catalog.unnest(c.confkey)) k (own, other),"
    " pg_catalog.pg_attribute w, pg_catalog.pg_attribute t"
    " WHERE c.contype = 'f' AND w.attrelid = c.conrelid AND w.attnum = k.own AND t.attrelid = c.confrelid AND t.attnum = k.other",
    # Which changes run somebody's triggers and rules, those of partitions and children too, or move rows: bits as in pg_trigger.tgtype.
    "WITH RECURSIVE own (oid, events) AS (SELECT t.tgrelid, t.tgtype::int FROM pg_catalog.pg_trigger t"
    " WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'"
    " UNION SELECT r.ev_class, CASE r.ev_type WHEN '2' THEN 16 WHEN '3' THEN 4 WHEN '4' THEN 8 ELSE 0 END FROM pg_catalog.pg_rewrite r"
    " WHERE r.rulename <> '_RETURN' AND r.ev_enabled <> 'D'"
    " UNION SELECT c.oid, 16 FROM pg_catalog.pg_class c WHERE c.relkind = 'p'"
    " UNION SELECT i.inhparent, o.events FROM own o JOIN pg_catalog.pg_inherits i ON i.inhrelid = o.oid)"
    " SELECT oid, events FROM own",
    ENUMS_QUERY,
)
# In place of `DEFINITIONS`, where it waits for somebody's lock: definitions of what is locked, and of what reads from it, are left out.
UNLOCKED_DEFINITIONS: Final = (
    "WITH RECURSIVE locked (oid) AS (SELECT l.relation FROM pg_catalog.pg_locks l"
    " WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'"
    " AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"
    " UNION SELECT r.ev_class FROM locked k JOIN pg_catalog.pg_depend d"
    " ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = k.oid"
    " AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid)"
    " SELECT c.oid, CASE WHEN k.oid IS NULL THEN pg_catalog.pg_get_viewdef(c.oid) END"
    " FROM pg_catalog.pg_class c LEFT JOIN locked k ON k.oid = c.oid WHERE c.relkind IN ('v', 'm') AND c.oid >= 16384"
)
NO_DEFINITIONS: Final = "SELECT c.oid, NULL FROM pg_catalog.pg_class c WHERE c.relkind IN ('v', 'm') AND c.oid >= 16384"
DEFINITIONS: Final = QUERIES[2]
_EVENTS: Final[dict[StatementKind, int]] = {
    StatementKind.INSERT: 4,
    StatementKind.DELETE: 8,
    StatementKind.UPDATE: 16,
    StatementKind.TRUNCATE: 32,
    StatementKind.MERGE: 4 | 8 | 16,
}

SYSTEM_COLUMNS: Final = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})

_CATALOGS: Final = frozenset({"pg_catalog", "information_schema"})

DEFINITION_PATH: Final = ("pg_catalog",)

Rows = Sequence[tuple[bytes | None, ...]]


@dataclass(slots=True)
class Relation:
    oid: int
    schema: str
    name: str
    columns: dict[int, str] = field(default_factory=dict)
    types: dict[int, str] = field(default_factory=dict)  # by column, as SQL writes it; of a domain the type below it
    definition: SqlStatement | None = None  # of a view
    is_opaque: bool = False  # a view whose definition can't be read
    outputs: OutputColumns | None = None  # of a view, by column
    generated: dict[int, SqlStatement | None] = field(default_factory=dict)
    composites: dict[int, int] = field(default_factory=dict)  # column to the relation that has its type's fields
    tells: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # column to those whose values it is compared with
    events: int = 0  # changes that run a trigger or a rule, or move rows


class Catalog:
    """One snapshot of one database. `version` grows with each snapshot of the process; `content` is the same while what was read is.
    `is_partial`: somebody's lock hid definitions.
    """

    __slots__ = ("_by_name", "_enums", "_relations", "_views", "content", "is_partial", "version")

    def __init__(
        self, relations: dict[int, Relation], version: int, enums: frozenset[str] = frozenset(), *, is_partial: bool = False,
        content: int = 0,
    ) -> None:  # fmt: skip
        self.version = version
        self.content = content
        self.is_partial = is_partial
        self._enums = enums
        self._relations = relations
        self._by_name: dict[str, list[Relation]] = defaultdict(list)
        for relation in relations.values():
            self._by_name[relation.name].append(relation)
        self._views: dict[tuple[ColumnMask, ...], MaskedView] = {}

    @classmethod
    def decode(
        cls,
        columns: Rows,
        views: Rows,
        generated: Rows,
        version: int,
        composites: Rows = (),
        tells: Rows = (),
        events: Rows = (),
        enums: Rows = (),
    ) -> Catalog:
        """From the rows that `QUERIES` bring."""
        own = frozenset(_text(name) for (name,) in enums)
        relations: dict[int, Relation] = {}
        for oid, schema, name, _kind, number, column, *kind in columns:
            key = int(_text(oid))
            relation = relations.get(key)
            if relation is None:
                relation = relations[key] = Relation(key, _text(schema), _text(name))
            relation.columns[int(_text(number))] = _text(column)
            relation.types[int(_text(number))] = _text(kind[0]) if kind else ""
        for oid, definition in views:
            relation = relations.get(int(_text(oid)))
            if relation is not None and definition is None:
                relation.is_opaque = True
            elif relation is not None:
                relation.definition = _only_statement(_text(definition), own)
                relation.is_opaque = relation.definition is None
                relation.outputs = query_outputs(_text(definition), DEFINITION_PATH)
        for oid, number, expression in generated:
            relation = relations.get(int(_text(oid)))
            if relation is not None:
                source = f"SELECT ({_text(expression)}) FROM {quote(relation.schema)}.{quote(relation.name)}"  # noqa: S608 - read by the parser, never run
                relation.generated[int(_text(number))] = _only_statement(source, own)
        for oid, number, fields in composites:
            relation = relations.get(int(_text(oid)))
            if relation is not None:
                relation.composites[int(_text(number))] = int(_text(fields))
        for oid, number, other, column in tells:
            relation = relations.get(int(_text(oid)))
            if relation is not None:
                relation.tells.setdefault(int(_text(number)), []).append((int(_text(other)), int(_text(column))))
        for oid, bits in events:
            relation = relations.get(int(_text(oid)))
            if relation is not None:
                relation.events |= int(_text(bits))
        read = (columns, views, generated, composites, tells, events, enums)
        return cls(
            relations,
            version,
            own,
            is_partial=any(definition is None for _, definition in views),
            content=hash(tuple(map(tuple, read))),
        )

    @property
    def is_own(self) -> bool:
        """A transaction read it itself: it shows what nobody else sees, and what it may yet take back."""
        return self.version < 0

    def settled(self, statements: tuple[SqlStatement, ...]) -> tuple[SqlStatement, ...]:
        """The statements without what only the target's catalog shows to be harmless."""
        if not self._enums or not any(StatementKind.CALL in statement.kinds for statement in statements):
            return statements
        return tuple(without_casts(statement, self._enums) for statement in statements)

    def masked_view(self, masks: Masks) -> MaskedView:
        """The catalog as seen under these masks."""
        view = self._views.get(masks.columns)
        if view is None:
            if len(self._views) > 64:
                self._views.clear()
            view = self._views[masks.columns] = MaskedView(self, masks.columns)
        return view

    def find(self, oid: int) -> Relation | None:
        return self._relations.get(oid)

    def named(self, reference: RelationRef) -> list[Relation]:
        return [
            relation
            for relation in self._by_name.get(reference.name, ())
            if reference.schemas is None or relation.schema in reference.schemas
        ]

    def may_delete(self, statement: SqlStatement) -> bool:
        """Triggers or rules of what it changes run with it, or an update may move rows to another partition, which counts as a deletion."""
        events = 0
        for kind in statement.kinds:
            events |= _EVENTS.get(kind, 0)
        return any(self._fires(relation, events, set()) for ref in statement.writes for relation in self.named(ref))

    def _fires(self, relation: Relation, events: int, seen: set[int]) -> bool:
        if relation.events & events:
            return True
        if relation.definition is None or relation.oid in seen:
            return False
        seen.add(relation.oid)  # a view: what is changed through it is one of its tables
        return any(self._fires(base, events, seen) for ref in relation.definition.reads for base in self.named(ref))

    def changes_catalog(self, statement: SqlStatement) -> str | None:
        """The view through which system catalogs may be changed."""
        if statement.kinds.isdisjoint(_EVENTS):
            return None
        for ref in statement.writes:
            if any(self._shows_catalog(relation, set()) for relation in self.named(ref)):
                return ref.name
        return None

    def _shows_catalog(self, relation: Relation, seen: set[int]) -> bool:
        if relation.schema in _CATALOGS:
            return True
        if relation.definition is None or relation.oid in seen:
            return False
        seen.add(relation.oid)
        return any(self._shows_catalog(base, seen) for ref in relation.definition.reads for base in self.named(ref))

    def all(self) -> Iterable[Relation]:
        return self._relations.values()


class MaskedView:
    """Which columns are masked, and which derive from masked ones. Implements `results.OriginLookup`."""

    __slots__ = ("_catalog", "_masks", "_tainted_columns", "_tainted_relations")

    def __init__(self, catalog: Catalog, masks: tuple[ColumnMask, ...]) -> None:
        self._catalog = catalog
        self._masks = masks
        self._tainted_relations: set[int] = set()
        self._tainted_columns: set[tuple[int, int]] = set()
        self._taint()

    def _taint(self) -> None:
        changed = True
        while changed:  # views of views, columns of columns: until nothing new is tainted
            found = len(self._tainted_columns) + len(self._tainted_relations)
            for relation in self._catalog.all():
                if relation.oid not in self._tainted_relations:
                    self._taint_relation(relation)
            changed = len(self._tainted_columns) + len(self._tainted_relations) > found

    def _taint_relation(self, relation: Relation) -> None:
        for number, expression in relation.generated.items():
            if expression is None or self._computes_with_masked(expression) or self._any(columns_reaching(expression)):
                self._tainted_columns.add((relation.oid, number))
        for number, fields in relation.composites.items():
            kind = self._catalog.find(fields)
            if kind is None or self._holds(kind, "*"):
                self._tainted_columns.add((relation.oid, number))
        definition, outputs = relation.definition, relation.outputs
        if definition is None:
            if relation.is_opaque:
                self._tainted_relations.add(relation.oid)
            return
        if self._computes_with_masked(definition):
            self._tainted_relations.add(relation.oid)
        elif outputs is None or len(outputs) != len(relation.columns):
            if self._any(columns_reaching(definition)):
                self._tainted_relations.add(relation.oid)
        else:
            numbers = sorted(relation.columns)
            self._tainted_columns.update(
                (relation.oid, number)
                for number, columns in zip(numbers, outputs, strict=True)
                if columns is not None and self._any(columns)
            )

    def _computes_with_masked(self, statement: SqlStatement) -> bool:
        return any(not function.is_known_safe for function in statement.functions) or self._any(statement.columns_steering)

    def _any(self, columns: Iterable[ColumnRef]) -> bool:
        return any(self.may_be_masked(column) for column in columns)

    def origin(self, table_oid: int, attnum: int) -> ColumnOrigin | None:
        relation = self._catalog.find(table_oid)
        if relation is None or attnum not in relation.columns:
            return None
        return ColumnOrigin(relation.schema, relation.name, relation.columns[attnum])

    def is_tainted(self, table_oid: int, attnum: int) -> bool:
        return table_oid in self._tainted_relations or (table_oid, attnum) in self._tainted_columns

    def is_own(self, table_oid: int, attnum: int) -> bool:
        relation = self._catalog.find(table_oid)
        return relation is not None and attnum in relation.columns and self._is_own(relation, attnum, 0)

    def _is_own(self, relation: Relation, number: int, depth: int) -> bool:
        if depth > DEEPEST or relation.oid in self._tainted_relations or relation.is_opaque:
            return False
        if relation.definition is None:
            is_made = (relation.oid, number) in self._tainted_columns or number in relation.generated
            return not is_made and any(_applies(mask, relation, relation.columns[number]) for mask in self._masks)
        lineage = relation.definition.lineage
        if len(lineage) != len(relation.columns) or any(output.is_run for output in lineage):
            return False
        output = lineage[sorted(relation.columns).index(number)]
        if output.is_computed or output.is_of_row or not output.columns:
            return False
        for column in output.columns:
            bases = self._catalog.named(column.relation) if column.relation is not None else []
            own = [(base, at) for base in bases for at, name in base.columns.items() if name == column.name]
            if not own or not all(self._is_own(base, at, depth + 1) for base, at in own):
                return False
        return True

    def shows_pseudonyms(self, columns: Iterable[ColumnRef]) -> bool:
        """A name that may be any of these columns is one that is shown as pseudonyms, whichever it is. In doubt: no."""
        is_found = False
        for column in columns:
            relations = self._catalog.named(column.relation) if column.relation is not None else list(self._catalog.all())
            if not relations:
                return False
            for relation in relations:
                for number, name in relation.columns.items():
                    if name == column.name:
                        if self._strategy(relation, number) is not MaskStrategy.PSEUDONYM:
                            return False
                        is_found = True
        return is_found

    def _strategy(self, relation: Relation, number: int) -> MaskStrategy | None:
        masks = tuple(mask for mask in self._masks if _applies(mask, relation, relation.columns[number]))
        if self.is_tainted(relation.oid, number):
            masks = self._masks
        if not masks:
            return None
        return strategy_of((mask.strategy for mask in masks), is_own=self._is_own(relation, number, 0))

    def row_fields(self, table_oid: int, attnum: int) -> RowFields | None:
        relation = self._catalog.find(table_oid)
        if relation is None or table_oid in self._tainted_relations:
            return None
        if attnum == 0:
            return self._fields_of(relation, 0)
        field = self._field(relation, attnum, 0) if attnum in relation.columns else None
        return field.inner if field is not None else None

    def _fields_of(self, relation: Relation, depth: int) -> RowFields | None:
        if depth > DEEPEST or relation.oid in self._tainted_relations:
            return None
        return RowFields(tuple(self._field(relation, number, depth) for number in sorted(relation.columns)))

    def _field(self, relation: Relation, number: int, depth: int) -> FieldMask:
        """A column that is a row, and masked for its fields alone, has `inner`. Views' columns aren't told apart: they are masked whole."""
        masks = tuple(mask for mask in self._masks if _applies(mask, relation, relation.columns[number]))
        if not masks and (relation.oid, number) in self._tainted_columns:
            kind = self._catalog.find(relation.composites.get(number, 0))
            if kind is not None and relation.definition is None and number not in relation.generated:
                inner = self._fields_of(kind, depth + 1)
                if inner is not None:
                    return FieldMask(inner=inner)
            masks = self._masks
        if not masks:
            return FieldMask()
        strategy = strategy_of((mask.strategy for mask in masks), is_own=self.is_own(relation.oid, number))
        return FieldMask(strategy, tuple(dict.fromkeys(mask.source for mask in masks)))

    def may_be_masked(self, column: ColumnRef) -> bool:
        """A name in a statement could be a masked column, or one that derives from it. In doubt: yes."""
        if column.relation is None:
            return column.name == "*" or any(column.name in mask.names for mask in self._masks)
        relations = self._catalog.named(column.relation)
        if not relations:
            return column.name == "*" or any(column.name in mask.names for mask in self._masks)
        return any(self._holds(relation, column.name) for relation in relations)

    def _holds(self, relation: Relation, name: str) -> bool:
        if relation.oid in self._tainted_relations:
            return True
        for number, column in relation.columns.items():
            if name in ("*", column) and (
                (relation.oid, number) in self._tainted_columns or any(_applies(mask, relation, column) for mask in self._masks)
            ):
                return True
        return False

    def masked_columns(self, relation: Relation) -> frozenset[int]:
        """Those that are masked, or derive from masked ones."""
        return frozenset(number for number, name in relation.columns.items() if self._holds(relation, name))

    def masked_names(self, column: ColumnRef) -> frozenset[str] | None:
        """Names that masked columns of a relation go by in its row type, in lower case. None: the relation isn't known."""
        relations = self._catalog.named(column.relation) if column.relation is not None else []
        if not relations:
            return None
        return frozenset(
            name.lower() for relation in relations for name in relation.columns.values() if self._holds(relation, name)
        )

    def is_no_column(self, column: ColumnRef) -> bool:
        """A plain name that no relation here has as a column: `u.f` may be a call of function `f` on the whole row of `u`."""
        if column.name == "*" or column.name in SYSTEM_COLUMNS:
            return False
        if column.relation is None:
            return not any(column.name in relation.columns.values() for relation in self._catalog.all())
        relations = self._catalog.named(column.relation)
        return not relations or not all(column.name in relation.columns.values() for relation in relations)

    def is_unknown(self, relation: RelationRef) -> bool:
        return not self._catalog.named(relation)

    def tells(self, column: ColumnRef) -> str | None:
        """The masked column whose values a write to `column` is compared with, for a message."""
        if column.relation is None:
            return None
        for relation in self._catalog.named(column.relation):
            found = self._told_by(relation, column.name)
            if found is not None:
                return found
            if relation.definition is None or not self._holds(relation, column.name):
                continue
            for reference in relation.definition.reads:  # a write through a view; which of its tables' columns it is isn't told
                for table in self._catalog.named(reference):
                    found = self._told_by(table, "*")
                    if found is not None:
                        return found
        return None

    def _told_by(self, relation: Relation, name: str) -> str | None:
        for number, pairs in relation.tells.items():
            if name not in ("*", relation.columns.get(number)):
                continue
            for oid, other in pairs:
                told = self._catalog.find(oid)
                if told is not None and other in told.columns and self._holds(told, told.columns[other]):
                    return f"{told.name}.{told.columns[other]}"
        return None

    def derives(self, column: ColumnRef) -> bool:
        """`column` isn't masked by its name, but derives from a masked one."""
        if column.relation is None:
            return False
        for relation in self._catalog.named(column.relation):
            if relation.oid in self._tainted_relations:
                return True
            if any(
                column.name in ("*", name) and (relation.oid, number) in self._tainted_columns
                for number, name in relation.columns.items()
            ):
                return True
        return False


def _applies(mask: ColumnMask, relation: Relation, column: str) -> bool:
    return (
        column.lower() in mask.names
        and (mask.schemas is None or relation.schema in mask.schemas)
        and (mask.tables is None or relation.name in mask.tables)
    )


def _only_statement(text: str, enums: frozenset[str]) -> SqlStatement | None:
    analysis = analyse(text, DEFINITION_PATH)
    if not isinstance(analysis, Analysis) or len(analysis.statements) != 1:
        return None
    return without_casts(analysis.statements[0], enums)


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
