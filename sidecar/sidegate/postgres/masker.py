"""Masking for one session: plans for results and COPY OUT, and the texts that reach the client by other ways. Pure.

What can't be shown to be clean is masked: an expression over anything that may hold a masked value, a column whose table the
catalog doesn't know even after it was read again, a result of a function that isn't known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sidegate.mask.compounds import RowFields
from sidegate.mask.scanner import Scanner
from sidegate.mask.text import mask_channel, mask_fields, mask_parameter, mask_payload
from sidegate.policy.decision import Masks
from sidegate.policy.statement import SqlStatement
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.copy_out import CopyFormat, CopyOutRewriter
from sidegate.postgres.frames import HEADER_BYTES, frame_length
from sidegate.postgres.judge import Judge
from sidegate.postgres.messages import Bind, Reader, TargetProtocolError, encode_fields, encode_parameter_status, frame
from sidegate.postgres.proofs import MAX_KEPT_PLANS, Proof
from sidegate.postgres.results import ColumnOrigin, PlanProblem, ResultPlan, decode_row_description, plan_result
from sidegate.postgres.statements import Prepared, Translation, Work
from sidegate.postgres.translation import Bound, Translator
from sidegate.sql import copy_out_options, copy_out_query, copy_out_relation

MAX_KEPT_PROOFS: Final = 256
MAX_KEPT_TEXT: Final = 16 * 1024  # characters of a proof's statements


class _NoCatalog:
    """Nothing is known of any column."""

    def origin(self, table_oid: int, attnum: int) -> ColumnOrigin | None:
        return None

    def is_tainted(self, table_oid: int, attnum: int) -> bool:
        return True

    def is_own(self, table_oid: int, attnum: int) -> bool:
        return False

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
        self._proofs: dict[tuple[int, ...], Proof] = {}  # by the ids of their statements
        self._translator = Translator(masks, hash_key)
        self._has_translated = False

    def adopt(self, masks: Masks) -> None:
        self._masks = masks
        self._translator.adopt(masks)
        self._scanner = Scanner.of(masks.values, self._hash_key) if masks.values else None
        self._proofs.clear()

    # ---- pseudonyms ---------------------------------------------------------------------------------------------------------------

    def translation(self, text: str, statements: tuple[SqlStatement, ...]) -> Translation | None:
        """What is sent to the target in place of a text with pseudonyms."""
        made = self._translator.of(text, statements, self._judge.search_path, self._judge.catalog)
        self._has_translated = self._has_translated or made is not None
        return made

    def bound(self, candidates: tuple[Prepared, ...], bind: Bind, frame: bytes) -> Bound:
        """What a Bind of these runs and is sent as."""
        if all(candidate.translation is None for candidate in candidates):
            return Bound(tuple(statement for each in candidates for statement in self._judge.current(each)), frame)
        return self._translator.bound(candidates, bind, frame, self._judge.search_path, self._judge.catalog)

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
        shown = fields
        if self._has_translated:  # it doesn't speak of the text that the client sent, and may quote what was sent instead
            shown = {name: value for name, value in fields.items() if name != "P"}
        masked = mask_fields(shown, self._masks, self._hash_key) if self._masks else shown
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

    def _proof(self, statements: tuple[SqlStatement, ...], masks: Masks) -> Proof:
        key = tuple(map(id, statements))
        catalog = self._judge.catalog
        proof = self._proofs.get(key)
        if proof is None or not proof.holds_for(masks, catalog):
            proof = Proof(statements, masks, catalog)
            if len(self._proofs) >= MAX_KEPT_PROOFS:
                self._proofs.clear()
            if sum(len(statement.text) for statement in statements) <= MAX_KEPT_TEXT:
                self._proofs[key] = proof
        return proof

    def _is_moved(self, statements: tuple[SqlStatement, ...], masks: Masks) -> bool:
        """An open transaction has given names anew, and a masked column may be behind one of them."""
        catalog = self._judge.catalog
        if catalog is None:
            return False  # then nothing is shown anyway
        view = catalog.masked_view(masks)
        return any(self._judge.moved.hides(statement, view.may_be_masked) for statement in statements)

    def plan(self, work: Work, description: bytes, *, is_fresh: bool) -> ResultPlan | None:
        """The plan for a result that `description` (a RowDescription's body) describes. None: the catalog has to be
        read again first.
        """
        masks = work.masks
        former = self._judge.former_catalogs(work) if masks.columns else []
        if former:
            return self._plan_of_opened(work, description, former)
        proof = self._proof(work.statements, masks)
        is_moved = bool(masks.columns) and self._is_moved(work.statements, masks)
        cached = proof.plans.get(description) if not is_moved else None
        if cached is not None:
            return cached
        if proof.has_unknown and not proof.is_confirmed:
            if not is_fresh:
                return None
            proof.is_confirmed = True
        plan = self._plan_by(proof, description, is_fresh=is_fresh, is_moved=is_moved)
        if plan is not None and not is_fresh and not is_moved:
            if len(proof.plans) >= MAX_KEPT_PLANS:
                proof.plans.clear()
            proof.plans[description] = plan
        return plan

    def _plan_by(self, proof: Proof, description: bytes, *, is_fresh: bool, is_moved: bool) -> ResultPlan | None:
        fields, catalog, masks = decode_row_description(description), proof.catalog, proof.masks
        plan = plan_result(
            fields, None, masks, catalog.masked_view(masks) if catalog is not None else _NoCatalog(),
            proof.reaches(len(fields)) if not is_moved else None,
            hash_key=self._hash_key, masks_unknown=is_fresh, disguised=proof.disguises(len(fields)),
            masked_fields=proof.masked_fields or frozenset(),
        )  # fmt: skip
        if plan is PlanProblem.NEED_ORIGINS:
            return None
        if isinstance(plan, PlanProblem):
            raise TargetProtocolError(plan.value)
        return plan

    def _plan_of_opened(self, work: Work, description: bytes, former: Sequence[Catalog | None]) -> ResultPlan | None:
        """Rows of a cursor or portal that was opened under other definitions: shown as both have it, and masked whole if they differ."""
        is_moved = self._is_moved(work.statements, work.masks)
        plans: list[ResultPlan | None] = []
        # A relation that an older catalog doesn't have was made since, past the gate: that catalog tells nothing of it
        tables = [field.table_oid for field in decode_row_description(description) if field.table_oid]
        former = [each for each in former if each is None or all(each.find(oid) is not None for oid in tables)]
        for catalog in (self._judge.catalog, *former):
            if catalog is None:
                plans.append(None)
                continue
            proof = Proof(work.statements, work.masks, catalog)
            plans.append(self._plan_by(proof, description, is_fresh=True, is_moved=is_moved))
        first = plans[0]
        if first is not None and all(plan is not None and plan.is_like(first) for plan in plans):
            return first
        return self._plan_by(Proof(work.statements, work.masks, None), description, is_fresh=True, is_moved=True)

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
