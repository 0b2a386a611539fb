"""What happens to each column of a result: passed, masked whole, or looked into. Pure.

Three proofs meet here: where the target says a column comes from (table OID and attribute number in RowDescription), what
the session knows about that column (its names, whether it depends on masked ones), and what the detectors find in values.
Where the origin is an expression the session must have shown from the parse tree that no masked column flows in; otherwise
the column is masked, and what is computed gets one replacement for all, NULL too: neither equal values nor NULL tell anything.

Left out: making the rows (sidegate.postgres.rows, copy_out) and proving expressions (sidegate.sql).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from sidegate.mask.cells import column_replacement, masked_cell, masked_row, scan_cell
from sidegate.mask.compounds import RowFields
from sidegate.mask.kinds import BINARY, OPAQUE_KINDS, CellKind, kind_of
from sidegate.mask.scanner import Scanner
from sidegate.mask.strategies import is_constant, strategy_of
from sidegate.mask.tally import Tally
from sidegate.policy.decision import ColumnMask, Masks, MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule
from sidegate.postgres.messages import Reader, TargetProtocolError


class FieldDescription(NamedTuple):
    """One column as RowDescription describes it. `table_oid` 0: an expression; `format` 0 is text, 1 binary."""

    name: str
    table_oid: int
    column_attnum: int
    type_oid: int
    type_size: int
    type_modifier: int
    format: int


def decode_row_description(body: bytes) -> tuple[FieldDescription, ...]:
    """Raises TargetProtocolError for a cut message, leftover bytes, or a format that is neither text nor binary."""
    reader = Reader(body, TargetProtocolError)
    fields = tuple(
        FieldDescription(
            name=reader.string(),
            table_oid=reader.int32() & 0xFFFFFFFF,
            column_attnum=_signed16(reader.int16()),
            type_oid=reader.int32() & 0xFFFFFFFF,
            type_size=_signed16(reader.int16()),
            type_modifier=reader.int32(),
            format=reader.int16(),
        )
        for _ in range(reader.int16())
    )
    reader.end()
    if any(field.format > 1 for field in fields):
        raise TargetProtocolError("row description with a format code that is neither 0 (text) nor 1 (binary)")
    return fields


def _signed16(value: int) -> int:
    return value - 0x10000 if value >= 0x8000 else value


class ColumnOrigin(NamedTuple):
    """Names as the catalog has them."""

    schema: str
    table: str
    column: str


class OriginLookup(Protocol):
    """The session's view of the target's catalog."""

    def origin(self, table_oid: int, attnum: int) -> ColumnOrigin | None:
        """None: the OID isn't in the catalog as read last."""
        ...

    def is_tainted(self, table_oid: int, attnum: int) -> bool:
        """The column may carry values of masked columns under other names: of a view, a composite type, a generated column."""
        ...

    def is_own(self, table_oid: int, attnum: int) -> bool:
        """A masked column that holds its values itself, in a table, or a view's column that is such a one and nothing else."""
        ...

    def row_fields(self, table_oid: int, attnum: int) -> RowFields | None:
        """How the fields of the column's rows are masked, where it is masked for nothing but them. `attnum` 0: the table's whole row."""
        ...


class Reach(enum.IntEnum):
    """How masked columns get into a column that has no origin."""

    NONE = 0
    PASSED = 1  # as they are
    COMPUTED = 2  # as part of what is made of them


class PlanProblem(enum.Enum):
    """Why there is no plan. NEED_ORIGINS: refresh the catalog and ask again; the second time mask what is still unknown."""

    NEED_ORIGINS = "a column's table isn't in the catalog as read last"
    FORMATS_MISMATCH = "the number of result formats is neither 0, 1 nor the number of columns"


class Action(enum.IntEnum):
    PASS = 0
    MASK = 1  # every cell gets the same replacement, or one made from the cell
    SCAN = 2


class ResultPlan:
    """What is done with each column. One plan serves every row of a result; `tally` counts masked cells by rule.

    `actions` has a byte (an Action) a column. `replacements` are wire forms: length and value, ready to stand in a DataRow. `opaque` marks
    SCAN columns whose bytes say nothing to the prefilter: each of their cells has to be looked at.
    `hides_null` marks MASK columns whose NULL is replaced as well.
    """

    __slots__ = (
        "_columns",
        "_hash_key",
        "actions",
        "has_masks",
        "has_opaque",
        "has_scans",
        "hides_null",
        "is_passthrough",
        "kinds",
        "opaque",
        "replacements",
        "scanner",
        "tally",
    )

    def __init__(
        self,
        columns: Sequence[_Column],
        scanner: Scanner,
        hash_key: bytes | None,
        tally: Tally | None = None,
    ) -> None:
        self.actions = bytes(column.action for column in columns)
        self.kinds: tuple[CellKind, ...] = tuple(column.kind for column in columns)
        self.replacements: tuple[bytes | None, ...] = tuple(_wire_replacement(column, hash_key) for column in columns)
        self.scanner = scanner
        self.tally = tally or Tally()
        self.has_masks = Action.MASK in self.actions
        self.has_scans = Action.SCAN in self.actions
        self.opaque = bytes(column.action is Action.SCAN and column.kind in OPAQUE_KINDS for column in columns)
        self.has_opaque = any(self.opaque)
        self.hides_null = bytes(column.hides_null for column in columns)
        self.is_passthrough = not (self.has_masks or self.has_scans)
        self._hash_key = hash_key
        self._columns = tuple(columns)

    @property
    def columns(self) -> int:
        return len(self.actions)

    def is_like(self, other: ResultPlan) -> bool:
        """The same is done with each column."""
        return self._columns == other._columns

    @property
    def sources(self) -> frozenset[PolicyRule]:
        """The rules that mask whole columns of this result. Those of detectors show in `tally` once they found something."""
        return frozenset(source for column in self._columns for source in column.sources)

    def in_format(self, format_code: int) -> ResultPlan:
        """The same plan for cells that all come in one format (COPY). It counts in this plan's tally."""
        columns = [
            column._replace(
                format=format_code,
                kind=kind_of(column.type_oid, format_code),
                row=column.row if format_code == column.format else None,
            )
            for column in self._columns
        ]
        return ResultPlan(columns, self.scanner, self._hash_key, self.tally)

    def mask(self, column: int, cell: bytes) -> bytes | None:
        """What stands instead of a cell of a MASK column that isn't NULL; None is NULL."""
        _, type_oid, format_code, kind, strategy, _, row, _ = self._columns[column]
        if row is not None:
            shown = masked_row(cell, row, self._hash_key, self.tally)
            return None if shown is None else scan_cell(kind, shown, self.scanner, self.tally)
        return masked_cell(cell, type_oid, format_code, strategy, self._hash_key)

    def scan(self, column: int, cell: bytes) -> bytes | None:
        """`cell` itself, or what stands instead; None is NULL. For SCAN columns."""
        return scan_cell(self.kinds[column], cell, self.scanner, self.tally)

    def count_masked(self, column: int, cells: int) -> None:
        self.tally.values += cells
        for source in self._columns[column].sources:
            self.tally.add(source, cells)


class _Column(NamedTuple):
    action: Action
    type_oid: int
    format: int
    kind: CellKind
    strategy: MaskStrategy
    sources: tuple[PolicyRule, ...]
    row: RowFields | None = None  # of a MASK column that is masked by its fields
    hides_null: bool = False


def _wire_replacement(column: _Column, hash_key: bytes | None) -> bytes | None:
    """Length and value; None where each cell needs its own."""
    if column.action is not Action.MASK or column.row is not None:
        return None
    is_constant, value = column_replacement(column.type_oid, column.format, column.strategy, hash_key)
    if not is_constant:
        return None
    return wire_cell(value)


def wire_cell(value: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if value is None else len(value).to_bytes(4, "big") + value


def plan_result(
    fields: Sequence[FieldDescription],
    formats: Sequence[int] | None,
    masks: Masks,
    origins: OriginLookup,
    reaches: Sequence[Reach] | None,
    *,
    hash_key: bytes | None = None,
    masks_unknown: bool = False,
    disguised: Sequence[bool] | None = None,
    masked_fields: frozenset[str] = frozenset(),
) -> ResultPlan | PlanProblem:
    """The plan for one result.

    `formats` are those of Bind (none, one for all, or one a column); None: as in `fields`. `reaches`: one a column, for those that have no
    origin; None: whatever is computed may hold masked values. `masks_unknown`: a column whose table isn't in the catalog is masked instead
    of answered with NEED_ORIGINS. `disguised`: which columns may hold values in a form that no detector knows, so that, without an origin,
    they are masked as if each had been found. `masked_fields`: names (lower case) of expressions that are masked fields of rows, or rows
    with one.
    """
    codes = _formats(fields, formats)
    if codes is None:
        return PlanProblem.FORMATS_MISMATCH
    scanner = Scanner.of(masks.values, hash_key)
    columns: list[_Column] = []
    for number, (field, code) in enumerate(zip(fields, codes, strict=True)):
        matching: tuple[ColumnMask, ...] | None = ()
        reach = reaches[number] if reaches is not None else Reach.COMPUTED
        if masks.columns:
            is_clean = reach is Reach.NONE and field.name.lower() not in masked_fields
            matching = _matching(field, masks.columns, origins, is_clean)
        if matching is None:
            if not masks_unknown:
                return PlanProblem.NEED_ORIGINS
            matching = masks.columns
        kind = kind_of(field.type_oid, code)
        strategy = MaskStrategy.REDACT
        action = Action.SCAN if masks.values and kind is not CellKind.PLAIN else Action.PASS
        applied: tuple[ColumnMask | ValueMask, ...] = matching
        row: RowFields | None = None
        hides_null = False
        if matching:
            is_called_so = any(field.name.lower() in mask.names for mask in masks.columns)
            if code == BINARY and kind is CellKind.COMPOUND_BINARY and field.table_oid and not is_called_so:
                row = origins.row_fields(field.table_oid, field.column_attnum)
                if (row is not None or field.column_attnum == 0) and not masks_unknown:
                    return PlanProblem.NEED_ORIGINS  # fields go by position, which only a catalog that is read now tells for sure
            action = Action.MASK
            is_own = field.table_oid != 0 and field.column_attnum > 0 and origins.is_own(field.table_oid, field.column_attnum)
            strategy = strategy_of((mask.strategy for mask in matching), is_own=is_own)
            hides_null = field.table_oid == 0 and reach is Reach.COMPUTED
            if (hides_null or (field.table_oid and not is_own)) and not is_constant(strategy, None):
                strategy = MaskStrategy.REDACT  # of what is made of a value no part is shown: it may be the part that is hidden
        elif disguised is not None and disguised[number] and field.table_oid == 0:
            action, applied = Action.MASK, masks.values  # no strategy but Redact: the others know the value's form
        sources = tuple(dict.fromkeys(mask.source for mask in applied))
        columns.append(_Column(action, field.type_oid, code, kind, strategy, sources, row, hides_null))
    return ResultPlan(columns, scanner, hash_key)


def _formats(fields: Sequence[FieldDescription], formats: Sequence[int] | None) -> tuple[int, ...] | None:
    if formats is None:
        return tuple(field.format for field in fields)
    if len(formats) <= 1:
        return tuple(formats or (0,)) * len(fields)
    return tuple(formats) if len(formats) == len(fields) else None


def _matching(
    field: FieldDescription, masks: tuple[ColumnMask, ...], origins: OriginLookup, is_expression_clean: bool
) -> tuple[ColumnMask, ...] | None:
    """The masks that apply to a column; None: the catalog doesn't know its table."""
    name = field.name.lower()
    by_name = tuple(mask for mask in masks if name in mask.names)
    # A whole row (attribute 0 of a table) is as good as a star.
    if field.table_oid == 0 or field.column_attnum == 0:
        if not is_expression_clean or field.table_oid != 0:
            return masks
        return by_name
    if field.column_attnum < 0:
        return ()  # system columns (ctid, xmin, tableoid, ...) hold no data of the table's
    origin = origins.origin(field.table_oid, field.column_attnum)
    if origin is None:
        return None
    if origins.is_tainted(field.table_oid, field.column_attnum):
        return masks
    return tuple(
        mask for mask in masks if _covers(mask, origin) or (mask in by_name and mask.tables is None and mask.schemas is None)
    )


def _covers(mask: ColumnMask, origin: ColumnOrigin) -> bool:
    """Names compare in lower case: a quoted name in another case is masked as well."""
    return (
        origin.column.lower() in mask.names
        and (mask.tables is None or origin.table in mask.tables or origin.table.lower() in mask.tables)
        and (mask.schemas is None or origin.schema in mask.schemas or origin.schema.lower() in mask.schemas)
    )
