"""Cells of PostgreSQL results: what may legally stand instead of a masked one, and masking what is found inside one.

A masked cell must still decode in every driver. Types that hold text get the strategy's output, json and jsonb a JSON string, bytea the
output's bytes, integers, numerics and UUIDs their pseudonyms; everything else gets NULL. Scanning never changes a cell in which nothing is
found.
"""

from __future__ import annotations

from sidegate.mask.compounds import DEEPEST, FieldMask, RowFields, mask_rows, rewrite_compound
from sidegate.mask.json import mask_json
from sidegate.mask.kinds import BINARY, BYTEA_OID, JSON_OID, JSONB_OID, OPAQUE_KINDS, TEXT_OIDS, CellKind, kind_of
from sidegate.mask.numbers import integral_texts, loose_texts, number_texts
from sidegate.mask.pseudonym import Pseudonyms
from sidegate.mask.pseudonym_cells import SHOWN_OIDS, pseudonym_cell
from sidegate.mask.scanner import Scanner
from sidegate.mask.strategies import is_constant, masked_value
from sidegate.mask.tally import Tally
from sidegate.policy.decision import MaskStrategy


def column_replacement(type_oid: int, format_code: int, strategy: MaskStrategy, key: bytes | None) -> tuple[bool, bytes | None]:
    """For a masked column: whether every value gets the same cell, and that cell (None is NULL). If not, `masked_cell` makes each."""
    if not is_constant(strategy, key):
        has_own = type_oid in SHOWN_OIDS if strategy is MaskStrategy.PSEUDONYM else type_oid in TEXT_OIDS
        if has_own or type_oid in (JSON_OID, JSONB_OID):
            return False, None
    return True, masked_cell(b"", type_oid, format_code, strategy, key)


def masked_cell(cell: bytes, type_oid: int, format_code: int, strategy: MaskStrategy, key: bytes | None) -> bytes | None:
    """What stands instead of the whole of `cell`; None is NULL."""
    if type_oid in TEXT_OIDS:
        return masked_value(cell, strategy, key)
    if strategy is MaskStrategy.PSEUDONYM and key and type_oid in SHOWN_OIDS:
        return pseudonym_cell(cell, type_oid, format_code, Pseudonyms.of(key))
    if type_oid in (JSON_OID, JSONB_OID):
        # A partly shown document isn't one any more, and one with other letters neither.
        is_of_form = strategy in (MaskStrategy.PARTIAL, MaskStrategy.PSEUDONYM)
        shown = masked_value(cell, MaskStrategy.REDACT if is_of_form else strategy, key)
        if shown is None:
            return None
        version = b"\x01" if type_oid == JSONB_OID and format_code == BINARY else b""
        return version + b'"' + shown + b'"'
    if type_oid == BYTEA_OID and is_constant(strategy, key):
        shown = masked_value(b"", strategy, key)
        if shown is None:
            return None
        return shown if format_code == BINARY else b"\\x" + shown.hex().encode()
    return None


def masked_row(cell: bytes, row: RowFields, key: bytes | None, tally: Tally) -> bytes | None:
    """A binary row, or an array of rows, with its masked fields replaced; None (NULL) where it isn't what `row` says."""

    def mask(field: FieldMask, type_oid: int, value: bytes) -> bytes | None:
        tally.add_all(field.sources)
        return masked_cell(value, type_oid, BINARY, field.strategy or MaskStrategy.NULL, key)

    return mask_rows(cell, row, mask)


def scan_cell(kind: CellKind, cell: bytes, scanner: Scanner, tally: Tally, depth: int = 0) -> bytes | None:
    """`cell` itself when nothing in it is to be masked; else what stands instead (None is NULL). Masked cells are counted in `tally`."""
    if kind is CellKind.TEXT_VALUE:
        return _scan_text(cell, scanner, tally)
    if kind is CellKind.PLAIN:
        return cell
    if kind is CellKind.JSON_TEXT:
        return mask_json(cell, scanner, tally)
    if kind is CellKind.JSONB_BINARY:
        document = cell[1:]
        masked = mask_json(document, scanner, tally)
        if masked is document:
            return cell
        return None if masked is None else cell[:1] + masked
    if kind is CellKind.BYTEA_TEXT:
        return _scan_bytea_text(cell, scanner, tally)
    if kind is CellKind.BYTEA_BINARY:
        return _scan_text(cell, scanner, tally)
    if kind is CellKind.COMPOUND_BINARY:
        return _scan_compound(cell, scanner, tally, depth)
    for text in _decimal_texts(kind, cell):
        if _is_hit(text, scanner, tally):
            return None
    return cell


def _scan_compound(cell: bytes, scanner: Scanner, tally: Tally, depth: int) -> bytes | None:
    """A record's or an array's values are looked at one by one: the bytes of a length in front of one may read like a letter or a digit
    that belongs to it.

    INVARIANT: what comes out is looked at as a whole too: finds across fields, or where no field is, make it NULL.
    """
    if depth >= DEEPEST:
        return None
    may_show = scanner.may_contain(cell)

    def scanned(_: int, type_oid: int, value: bytes) -> bytes | None:
        kind = kind_of(type_oid, BINARY)
        return scan_cell(kind, value, scanner, tally, depth + 1) if may_show or kind in OPAQUE_KINDS else value

    rewritten = rewrite_compound(cell, scanned)
    if rewritten is None:
        return None if any(_is_hit(text, scanner, tally) for text in loose_texts(cell)) else cell
    if depth == 0 and may_show and _is_hit(rewritten, scanner, tally):
        return None
    return cell if rewritten == cell else rewritten


def _scan_text(cell: bytes, scanner: Scanner, tally: Tally) -> bytes | None:
    spans = scanner.find(cell)
    if not spans:
        return cell
    tally.add_all({span.source for span in spans})
    tally.values += len(spans)
    if any(span.strategy is MaskStrategy.NULL for span in spans):
        return None
    return scanner.replace(cell, spans)


def _scan_bytea_text(cell: bytes, scanner: Scanner, tally: Tally) -> bytes | None:
    """The hexadecimal form (`\\x...`) is scanned as the bytes it stands for; the escape form as it is, where a replacement stays legal."""
    if not cell.startswith(b"\\x"):
        return _scan_text(cell, scanner, tally)
    try:
        value = bytes.fromhex(cell[2:].decode("ascii"))
    except ValueError:
        return None
    masked = _scan_text(value, scanner, tally)
    if masked is value:
        return cell
    return None if masked is None else b"\\x" + masked.hex().encode()


def _is_hit(text: bytes, scanner: Scanner, tally: Tally) -> bool:
    spans = scanner.find(text)
    tally.add_all({span.source for span in spans})
    tally.values += len(spans)
    return bool(spans)


def _decimal_texts(kind: CellKind, cell: bytes) -> list[bytes]:
    """The texts to look at for a cell that is masked whole or not at all. A cell of a wrong length for its type is looked at raw."""
    if kind is CellKind.NUMBER_TEXT:
        return [cell]
    if kind is CellKind.FLOAT8_TEXT:
        return [cell, *integral_texts(cell)] if b"e" in cell else [cell]
    if kind is CellKind.MONEY_TEXT:
        # Locales group and mark fractions as they like: all digits, and all but two and three fraction digits.
        digits = bytes(byte for byte in cell if 48 <= byte <= 57)
        return [cell, digits, digits[:-2], digits[:-3]]
    return [cell, *number_texts(kind, cell)]
