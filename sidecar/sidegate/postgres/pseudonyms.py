"""Pseudonyms in one session: what the target's catalog says of columns that are shown so, and values in place of pseudonyms in what a
client binds. Pure.

Rules it keeps:
- A write that the statement alone doesn't settle (`INSERT INTO t VALUES (...)`, through a view, to a row that holds such a column) is
  refused where such a column may be among what it writes, as `sidegate.policy.pseudonyms` refuses it by name.
- A parameter that stands for a pseudonym is never passed as it is. What is nobody's pseudonym, or of a type that has none, becomes NULL,
  which nothing equals; what can't be read because its type isn't known refuses the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sidegate.mask.compounds import rewrite_array
from sidegate.mask.kinds import BINARY, TEXT
from sidegate.mask.pseudonym import Pseudonyms
from sidegate.mask.pseudonym_cells import SHOWN_OIDS, original_cell
from sidegate.policy.decision import ColumnMask, Deny, Masks, MaskStrategy
from sidegate.policy.pseudonyms import written
from sidegate.policy.statement import SqlStatement
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.statements import BoundText, Translated

UNTOLD_OID: Final = 0
# Types of array parameters to their elements' (pg_type.dat); of others the elements are read as what they look like.
_ELEMENTS: Final[Mapping[int, int]] = {
    1009: 25, 1015: 1043, 1014: 1042, 1003: 19, 1005: 21, 1007: 23, 1016: 20, 1231: 1700, 2951: 2950,
}  # fmt: skip


def pseudonym_masks(masks: Masks) -> tuple[ColumnMask, ...]:
    return tuple(mask for mask in masks.columns if mask.strategy is MaskStrategy.PSEUDONYM)


def written_refusal(masks: Masks, statements: Iterable[SqlStatement], catalog: Catalog | None, revision: str) -> Deny | None:
    """Why they may not write what they write; None when no column with pseudonyms is among it. Without a catalog any may be."""
    chosen = pseudonym_masks(masks)
    if not chosen:
        return None
    view = catalog.masked_view(Masks(columns=chosen)) if catalog is not None else None
    for statement in statements:
        for column in statement.columns_written:
            if view is None or view.may_be_masked(column):
                refusal = written(chosen[0], column.name)
                return Deny(refusal.reason, refusal.source, revision, refusal.detail)
    return None


# ---- values that are bound ------------------------------------------------------------------------------------------------------------


def original_parameters(
    bound: BoundText, parameters: Sequence[Translated], pseudonyms: Pseudonyms
) -> tuple[bytes | None, ...] | None:
    """The bound values, with those of `parameters` in place of their pseudonyms. None: one can't be read."""
    values = list(bound.parameters)
    for number, is_array, known in parameters:
        if number > len(values):
            return None
        value = values[number - 1]
        if value is None:
            continue
        oid = (bound.oids[number - 1] if number <= len(bound.oids) else UNTOLD_OID) or known
        if is_array:
            found = _original_array(value, _ELEMENTS.get(oid, UNTOLD_OID), pseudonyms, is_binary=bound.is_binary(number - 1))
        elif bound.is_binary(number - 1):
            if oid == UNTOLD_OID:
                return None
            found = original_cell(value, oid, BINARY, pseudonyms) if oid in SHOWN_OIDS else None
        else:
            found = _original_text(value, oid, pseudonyms)
        values[number - 1] = found if found is None or bound.is_binary(number - 1) or _is_text(found) else None
    return tuple(values)


def _is_text(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in value


def _original_array(value: bytes, element_oid: int, pseudonyms: Pseudonyms, *, is_binary: bool) -> bytes | None:
    if is_binary:
        return rewrite_array(value, lambda _place, oid, element: _original_element(element, oid, pseudonyms))
    elements = array_elements(value)
    if elements is None:
        return None
    return array_of([None if element is None else _original_text(element, element_oid, pseudonyms) for element in elements])


def _original_text(value: bytes, oid: int, pseudonyms: Pseudonyms) -> bytes | None:
    if oid == UNTOLD_OID:
        return pseudonyms.original(value)
    return original_cell(value, oid, TEXT, pseudonyms) if oid in SHOWN_OIDS else None


def _original_element(element: bytes, oid: int, pseudonyms: Pseudonyms) -> bytes | None:
    return original_cell(element, oid, BINARY, pseudonyms) if oid in SHOWN_OIDS else None


def array_elements(value: bytes) -> list[bytes | None] | None:
    """The elements of an array of one dimension in text form (array_in, utils/adt/arrayfuncs.c). None: it isn't surely one."""
    if not (value.startswith(b"{") and value.endswith(b"}")):
        return None
    body = value[1:-1]
    if not body.strip():
        return []
    elements: list[bytes | None] = []
    at = 0
    while True:
        found = _element(body, at)
        if found is None:
            return None
        element, at = found
        elements.append(element)
        if at == len(body):
            return elements
        if body[at : at + 1] != b",":
            return None
        at += 1


_BLANKS: Final = b" \t\n\r\v\f"
_SPECIAL: Final = b'",{}\\'


def _element(body: bytes, at: int) -> tuple[bytes | None, int] | None:
    """One element from `at`, quoted or plain, with where it ends."""
    while body[at : at + 1] and body[at] in _BLANKS:
        at += 1
    if body[at : at + 1] != b'"':
        end = at
        while end < len(body) and body[end] not in _SPECIAL:
            end += 1
        plain = body[at:end].rstrip(_BLANKS)
        if not plain:
            return None
        return (None if plain.upper() == b"NULL" else plain), end
    out = bytearray()
    at += 1
    while at < len(body) and body[at] != ord('"'):
        if body[at] == ord("\\"):
            at += 1
        if at == len(body):
            return None
        out.append(body[at])
        at += 1
    at += 1
    while body[at : at + 1] and body[at] in _BLANKS:
        at += 1
    return (bytes(out), at) if at <= len(body) else None


def array_of(elements: list[bytes | None]) -> bytes:
    quoted = (
        b"NULL" if element is None else b'"' + element.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
        for element in elements
    )
    return b"{" + b",".join(quoted) + b"}"
