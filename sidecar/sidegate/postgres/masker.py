"""Masking for one session: plans for results and COPY OUT, and the texts that reach the client by other ways. Pure.

What can't be shown to be clean is masked: an expression over anything that may hold a masked value, a column whose table the
catalog doesn't know even after it was read again, a result of a function that isn't known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidegate.mask.compounds import RowFields
from sidegate.mask.scanner import Scanner
from sidegate.mask.text import mask_channel, mask_fields, mask_parameter, mask_payload
from sidegate.policy.decision import Masks
from sidegate.policy.statement import SqlStatement
from sidegate.postgres.catalog import MaskedView
from sidegate.postgres.copy_out import CopyFormat, CopyOutRewriter
from sidegate.postgres.frames import HEADER_BYTES, frame_length
from sidegate.postgres.judge import Judge
from sidegate.postgres.messages import Reader, TargetProtocolError, encode_fields, encode_parameter_status, frame
from sidegate.postgres.results import ColumnOrigin, PlanProblem, ResultPlan, decode_row_description, plan_result
from sidegate.postgres.statements import Work
from sidegate.sql import copy_out_options, copy_out_query, copy_out_relation, may_disguise, shows_values

MAX_CACHED_PLANS: Final = 256


class _NoCatalog:
    """Nothing is known of any column."""

    def origin(self, table_oid: int, attnum: int) -> ColumnOrigin | None:
        return None

    def is_tainted(self, table_oid: int, attnum: int) -> bool:
        return True

    def row_fields(self, table_oid: int, attnum: int) -> RowFields | None:
        return None


class Masker:
    """`masks` are the session's: they hold for what belongs to no statement. `hash_key` makes Hash masks of this
    session comparable.
    """

    def __init__(self, judge: Judge, masks: Masks, hash_key: bytes, max_row_bytes: int = 128 * 1024 * 1024) -> None:
        self._judge = judge
        self._masks = masks
        self._hash_key = hash_key
        self._max_row_bytes = max_row_bytes
        self._scanner = Scanner.of(masks.values, hash_key) if masks.values else None
        self._plans: dict[tuple[object, ...], ResultPlan] = {}

    def adopt(self, masks: Masks) -> None:
        self._masks = masks
        self._scanner = Scanner.of(masks.values, self._hash_key) if masks.values else None
        self._plans.clear()

    # ---- texts --------------------------------------------------------------------------------------------------------------------

    def text(self, text: str) -> str:
        """A statement's text for recordings, audit events and approvers."""
        if self._scanner is None:
            return text
        masked = self._scanner.mask(text.encode("utf-8", "surrogateescape"))
        return text if masked is None else masked.decode("utf-8", "replace")

    def error(self, fields: Mapping[str, str], original: bytes | None = None) -> bytes:
        """An ErrorResponse; `original` is passed on when nothing in it has to go."""
        return self._fields(b"E", fields, original)

    def notice(self, fields: Mapping[str, str], original: bytes) -> bytes:
        return self._fields(b"N", fields, original)

    def _fields(self, code: bytes, fields: Mapping[str, str], original: bytes | None) -> bytes:
        masked = mask_fields(fields, self._masks, self._hash_key) if self._masks else fields
        if original is not None and masked == fields:
            return original
        return encode_fields(code, masked)

    def values_in(self, fields: Mapping[str, str]) -> int:
        """How many masked values an error or a notice has, at least: one field may hold many."""
        if not self._masks:
            return 0
        masked = mask_fields(fields, self._masks, self._hash_key)
        changed = [value for name, value in fields.items() if masked.get(name) != value]
        if self._scanner is None:
            return len(changed)
        return sum(max(1, len(self._scanner.find(value.encode("utf-8", "surrogateescape")))) for value in changed)

    def notification(self, message: bytes) -> bytes:
        """NotificationResponse: process id, channel, payload."""
        if not self._masks:
            return message
        reader = Reader(message[HEADER_BYTES:], TargetProtocolError)
        process_id, channel, payload = reader.int32(), reader.string(), reader.string()
        reader.end()
        masked_channel = mask_channel(channel, self._masks, self._hash_key)
        masked = mask_payload(payload, self._masks, self._hash_key)
        if (masked_channel, masked) == (channel, payload):
            return message
        body = (process_id & 0xFFFFFFFF).to_bytes(4, "big") + masked_channel.encode() + b"\0" + masked.encode() + b"\0"
        return frame(b"A", body)

    def parameter_status(self, name: str, value: str, original: bytes) -> bytes:
        masked = mask_parameter(name, value, self._masks, self._hash_key) if self._masks else value
        return original if masked == value else encode_parameter_status(name, masked)

    # ---- results ------------------------------------------------------------------------------------------------------------------

    def _view(self, masks: Masks) -> MaskedView | _NoCatalog:
        catalog = self._judge.catalog
        return catalog.masked_view(masks) if catalog is not None else _NoCatalog()

    def is_clean(self, statements: tuple[SqlStatement, ...], masks: Masks) -> bool:
        """No masked value can flow into an expression of these statements."""
        if not masks.columns:
            return True
        view = self._view(masks)
        if isinstance(view, _NoCatalog):
            return False
        return all(
            not any(shows_values(function) for function in statement.functions)
            and not self._judge.moved.hides(statement, view.may_be_masked)
            and not any(view.may_be_masked(column) for column in statement.columns_steering)
            and not any(view.is_no_column(column) for column in statement.columns_output)
            for statement in statements
        )

    def masked_fields(self, statements: tuple[SqlStatement, ...], masks: Masks) -> frozenset[str] | None:
        """Names of the output's columns that are masked fields of rows, or rows with such a field. None: they can't be told."""
        found: set[str] = set()
        view = self._view(masks)
        for statement in statements:
            for name, column in statement.fields_output:
                if isinstance(view, _NoCatalog):
                    return None
                if name is None:
                    names = view.masked_names(column)
                    if names is None:
                        return None
                    found |= names
                elif view.may_be_masked(column):
                    found.add(name.lower())
        return frozenset(found)

    def plan(self, work: Work, description: bytes, *, is_fresh: bool) -> ResultPlan | None:
        """The plan for a result that `description` (a RowDescription's body) describes. None: the catalog has to be
        read again first.
        """
        masks = work.masks
        masked_fields = self.masked_fields(work.statements, masks) if masks.columns else frozenset()
        is_clean = masked_fields is not None and self.is_clean(work.statements, masks)
        catalog = self._judge.catalog
        is_disguised = bool(masks.values) and any(may_disguise(statement) for statement in work.statements)
        key = (description, masks, is_clean, masked_fields, is_disguised, catalog.version if catalog is not None else 0)
        cached = self._plans.get(key)
        if cached is not None:
            return cached
        fields = decode_row_description(description)
        plan = plan_result(
            fields, None, masks, self._view(masks), is_clean,
            hash_key=self._hash_key, masks_unknown=is_fresh, is_disguised=is_disguised,
            masked_fields=masked_fields or frozenset(),
        )  # fmt: skip
        if plan is PlanProblem.NEED_ORIGINS:
            return None
        if isinstance(plan, PlanProblem):
            raise TargetProtocolError(plan.value)
        if len(self._plans) >= MAX_CACHED_PLANS:
            self._plans.clear()
        if not is_fresh:
            self._plans[key] = plan
        return plan

    # ---- COPY OUT -----------------------------------------------------------------------------------------------------------------

    def copy_out_query(self, work: Work) -> str | None:
        """What to have described instead of the COPY; None: it can't be told, so the COPY is refused."""
        if len(work.own) != 1 or copy_out_options(work.text) is None:
            return None
        return copy_out_query(work.text)

    @staticmethod
    def copy_out_columns_query(work: Work) -> str | None:
        """For a table that is copied whole: what brings the names of the columns that COPY takes. None: it isn't one."""
        relation = copy_out_relation(work.text)
        if relation is None:
            return None
        literal = relation.replace("'", "''")
        return (
            "SELECT pg_catalog.quote_ident(attname) FROM pg_catalog.pg_attribute"  # noqa: S608 - every name is quoted
            f" WHERE attrelid OPERATOR(pg_catalog.=) '{literal}'::pg_catalog.regclass AND attnum OPERATOR(pg_catalog.>) 0"
            " AND NOT attisdropped AND attgenerated OPERATOR(pg_catalog.=) '' ORDER BY attnum"
        )

    @staticmethod
    def copy_out_table_query(work: Work, columns: list[bytes]) -> str | None:
        """The same table by these columns; None when it has none, or isn't one."""
        relation = copy_out_relation(work.text)
        if relation is None or not columns:
            return None
        return f"SELECT {b', '.join(columns).decode()} FROM {relation}"  # noqa: S608 - every name is quoted

    def plan_copy_out(self, work: Work, masks: Masks, description: bytes, *, is_fresh: bool = False) -> str | None:
        """Make the rewriter of `work`'s rows. "" when it is made, None: the catalog has to be read again first."""
        work.masks = masks
        plan = self.plan(work, description, is_fresh=is_fresh)
        if plan is None:
            return None
        options = copy_out_options(work.text)
        assert options is not None
        try:
            layout = CopyFormat.of(options)
        except TargetProtocolError as error:
            return str(error)
        work.plan = plan
        work.copy_rewriter = CopyOutRewriter(plan, layout, self._max_row_bytes)
        return ""

    def rewrite_copy(self, work: Work, buffer: bytes, start: int, end: int) -> bytes:
        """A run of whole CopyData frames, masked, as CopyData frames."""
        assert work.copy_rewriter is not None
        out: list[bytes] = []
        at = start
        while at < end:
            length = frame_length(buffer, at)
            rows = work.copy_rewriter.feed(buffer[at + HEADER_BYTES : at + length])
            if rows:
                out.append(frame(b"d", rows))
            at += length
        count_masked(work)
        return b"".join(out)

    def finish_copy(self, work: Work) -> bytes:
        """What is left at CopyDone."""
        if work.copy_rewriter is None:
            return b""
        rows = work.copy_rewriter.finish()
        work.copy_rewriter = None
        count_masked(work)
        return frame(b"d", rows) if rows else b""


def count_masked(work: Work) -> None:
    """Move the plan's counts to the statement."""
    if work.plan is None:
        return
    work.masked_values += work.plan.tally.take_values()
    for source, count in work.plan.tally.take().items():
        name = str(source)
        work.masked_cells[name] = work.masked_cells.get(name, 0) + count
