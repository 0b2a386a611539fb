"""Binary compounds: for any record, array or nest of them with secrets planted, none comes through, and what isn't masked keeps its bytes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidegate.mask.cells import masked_row, scan_cell
from sidegate.mask.compounds import FieldMask, RowFields, record_parts, rewrite_compound
from sidegate.mask.kinds import CellKind
from sidegate.mask.scanner import Scanner
from sidegate.mask.tally import Tally
from sidegate.policy.decision import MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule

RULE = PolicyRule("default", "mask", "values")
SCANNER = Scanner.of(
    (ValueMask(frozenset({"email"}), MaskStrategy.REDACT, RULE), ValueMask(frozenset({"us-ssn"}), MaskStrategy.NULL, RULE)), None
)
MAIL, SSN = b"planted.person@example.com", b"583-68-2629"
TEXT, INT4, INT8, RECORD = 25, 23, 20, 2249
NULL = b"\xff\xff\xff\xff"


def sized(value: bytes | None) -> bytes:
    return NULL if value is None else len(value).to_bytes(4, "big") + value


def record(fields: list[tuple[int, bytes | None]]) -> bytes:
    return len(fields).to_bytes(4, "big") + b"".join(oid.to_bytes(4, "big") + sized(value) for oid, value in fields)


def array(oid: int, values: list[bytes | None]) -> bytes:
    head = (1, int(None in values), oid, len(values), 1)
    return b"".join(number.to_bytes(4, "big") for number in head) + b"".join(map(sized, values))


harmless = st.one_of(
    st.tuples(st.just(TEXT), st.text("abc xyz", max_size=9).map(str.encode)),
    st.tuples(st.just(INT4), st.integers(0, 2**16).map(lambda number: number.to_bytes(4, "big"))),
    st.tuples(st.just(INT8), st.integers(0, 2**16).map(lambda number: number.to_bytes(8, "big"))),
    st.tuples(st.just(TEXT), st.none()),
)
secret = st.sampled_from(
    [(TEXT, b"mail " + MAIL + b" now"), (TEXT, SSN), (17, MAIL), (114, b'{"a": "' + MAIL + b'"}'), (99999, MAIL)]
)
field: st.SearchStrategy[tuple[int, bytes | None]] = st.recursive(
    st.one_of(harmless, secret),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5).map(lambda fields: (RECORD, record(fields))),
        st.lists(st.sampled_from([MAIL, SSN, b"plain", None]), min_size=1, max_size=4).map(
            lambda texts: (1009, array(TEXT, texts))
        ),
        st.lists(st.lists(inner, max_size=3).map(record), min_size=1, max_size=3).map(
            lambda rows: (2287, array(RECORD, list(rows)))
        ),
    ),
    max_leaves=12,
)


def scanned(cell: bytes) -> bytes | None:
    return scan_cell(CellKind.COMPOUND_BINARY, cell, SCANNER, Tally())


@given(st.lists(field, max_size=6))
def test_no_planted_value_comes_through(fields: list[tuple[int, bytes | None]]) -> None:
    shown = scanned(record(fields))
    assert shown is None or (MAIL not in shown and SSN not in shown)


@given(st.lists(harmless, max_size=4), st.lists(harmless, max_size=4), secret)
def test_the_fields_beside_a_find_keep_their_bytes(before: Any, after: Any, planted: tuple[int, bytes]) -> None:
    shown = scanned(record([*before, planted, *after]))
    assert shown is not None
    parts = record_parts(shown)
    assert parts is not None
    assert [*parts[: len(before)], *parts[len(before) + 1 :]] == [*before, *after]


@given(st.lists(harmless, max_size=5))
def test_what_holds_nothing_is_the_same_cell(fields: Any) -> None:
    cell = record(fields)
    assert scanned(cell) is cell
    assert rewrite_compound(cell, lambda _place, _type, value: value) == cell


@given(st.lists(harmless, min_size=1, max_size=5), st.data())
def test_masked_fields_go_and_the_others_keep_their_bytes(fields: Any, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(fields)))
    planted = [*fields[:place], (TEXT, b"hunter2"), *fields[place:]]
    row = RowFields(tuple(FieldMask(MaskStrategy.REDACT, (RULE,)) if at == place else FieldMask() for at in range(len(planted))))
    shown = masked_row(record(planted), row, None, Tally())
    assert shown == record([*fields[:place], (TEXT, b"[masked]"), *fields[place:]])
    several = masked_row(array(RECORD, [record(planted), None]), row, None, Tally())
    assert several == array(RECORD, [shown, None])
    outer = RowFields((FieldMask(inner=row), FieldMask()))
    assert masked_row(record([(RECORD, record(planted)), (TEXT, b"x")]), outer, None, Tally()) == record(
        [(RECORD, shown), (TEXT, b"x")]
    )


@given(st.binary(max_size=80), st.integers(0, 3))
def test_what_is_no_row_of_that_type_is_null(cell: bytes, width: int) -> None:
    row = RowFields((FieldMask(MaskStrategy.REDACT, (RULE,)),) * (width + 100))
    shown = masked_row(cell, row, None, Tally())
    assert shown is None or rewrite_compound(shown, lambda _place, _type, value: value) == shown


@given(st.lists(field, min_size=1, max_size=4), st.integers(0, 400), st.integers(0, 255))
def test_a_broken_cell_lets_nothing_through(fields: list[tuple[int, bytes | None]], at: int, byte: int) -> None:
    cell = bytearray(record(fields))
    cell[at % len(cell)] = byte
    shown = scanned(bytes(cell))
    whole = MAIL in cell or SSN in cell
    assert not whole or shown is None or (MAIL not in shown and SSN not in shown)
