"""Rows and COPY OUT: lengths stay consistent, masked columns never come through, everything else comes out byte by byte."""

from __future__ import annotations

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from sidegate.mask.detectors import DETECTOR_NAMES
from sidegate.policy.decision import ColumnMask, ColumnUse, Masks, MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule
from sidegate.postgres.copy_out import CopyFormat, CopyKind, CopyOutRewriter
from sidegate.postgres.messages import TargetProtocolError, decode_data_row, encode_rows
from sidegate.postgres.results import ColumnOrigin, FieldDescription, Reach, ResultPlan, plan_result
from sidegate.postgres.rows import rewrite_rows

RULE = PolicyRule("ns", "policy", "rule")
MARKER = b"Qz7xMarkerQz7x"


class NoCatalog:
    def origin(self, table_oid: int, attnum: int) -> ColumnOrigin | None:
        return None

    def is_own(self, table_oid: int, attnum: int) -> bool:
        return not self.is_tainted(table_oid, attnum)

    def is_tainted(self, table_oid: int, attnum: int) -> bool:
        return False


def plan(masked: tuple[bool, ...], strategy: MaskStrategy, *, detect: bool) -> ResultPlan:
    masks = Masks(
        (ColumnMask(frozenset({"masked"}), None, None, strategy, ColumnUse.REFUSED, RULE),),
        (ValueMask(DETECTOR_NAMES, MaskStrategy.REDACT, RULE),) if detect else (),
    )
    fields = [FieldDescription("masked" if flag else "other", 0, 0, 25, -1, -1, 0) for flag in masked]
    made = plan_result(fields, None, masks, NoCatalog(), (Reach.NONE,) * len(fields), hash_key=b"key")
    assert isinstance(made, ResultPlan)
    return made


shapes = st.lists(st.booleans(), min_size=1, max_size=5).map(tuple)
cells = st.one_of(
    st.none(),
    st.just(MARKER),
    st.just(b"pay 4242 4242 4242 4242"),
    st.binary(max_size=40).filter(lambda cell: b"4242" not in cell),
)
strategies = st.sampled_from(list(MaskStrategy))


@st.composite
def tables(draw: st.DrawFn) -> tuple[tuple[bool, ...], list[tuple[bytes | None, ...]]]:
    masked = draw(shapes)
    rows = draw(
        st.lists(st.tuples(*[cells if not flag else st.one_of(st.none(), st.just(MARKER)) for flag in masked]), max_size=6)
    )
    # The marker stands in masked columns alone, so that finding it anywhere is a leak.
    return masked, [
        tuple(b"x" if cell == MARKER and not flag else cell for cell, flag in zip(row, masked, strict=True)) for row in rows
    ]


def decoded(data: bytes) -> list[tuple[bytes | None, ...]]:
    rows, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at + 1 : at + 5], "big")
        rows.append(decode_data_row(data[at + 5 : at + 1 + length]))
        at += 1 + length
    assert at == len(data)
    return rows


@given(tables(), strategies, st.booleans(), st.integers(0, 6))
def test_rows_lose_their_masked_cells_and_nothing_else(
    table: tuple[tuple[bool, ...], list[tuple[bytes | None, ...]]], strategy: MaskStrategy, detect: bool, split: int
) -> None:
    masked, rows = table
    made = plan(masked, strategy, detect=detect)
    at = len(encode_rows(rows[:split]))
    data = encode_rows(rows)
    out = rewrite_rows(data, 0, at, made) + rewrite_rows(data, at, len(data), made)
    assert MARKER not in out
    for before, after in zip(rows, decoded(out), strict=True):
        for cell, shown, flag in zip(before, after, masked, strict=True):
            if flag:
                assert (shown is None) == (cell is None or strategy is MaskStrategy.NULL)
            elif detect and cell == b"pay 4242 4242 4242 4242":
                assert shown == b"pay [masked]"
            elif not detect:
                assert shown == cell


@given(st.binary(max_size=120), shapes)
def test_any_bytes_are_rewritten_or_refused_and_nothing_else(data: bytes, masked: tuple[bool, ...]) -> None:
    made = plan((*masked, True), MaskStrategy.REDACT, detect=True)
    for rows in (data, b"D" + data, b"D" + (len(data) + 4).to_bytes(4, "big") + data):
        try:
            out = rewrite_rows(rows, 0, len(rows), made)
        except TargetProtocolError:
            continue
        assert all(len(row) == len(masked) + 1 for row in decoded(out))


@given(tables(), st.data())
def test_damaged_rows_never_give_rows_that_do_not_add_up(
    table: tuple[tuple[bool, ...], list[tuple[bytes | None, ...]]], data: st.DataObject
) -> None:
    masked, rows = table
    whole = bytearray(encode_rows(rows) or b"D")
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    try:
        out = rewrite_rows(bytes(whole), 0, len(whole), plan((*masked[:-1], True), MaskStrategy.REDACT, detect=False))
    except TargetProtocolError:
        return
    assert all(len(row) == len(masked) for row in decoded(out))


delimiters = st.sampled_from([b"\t", b",", b"|", b";", b"*", b"-", b"@", b"["])
chunks = st.lists(st.integers(1, 40), max_size=20)
texts = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=20).map(str.encode)


def text_written(row: tuple[bytes | None, ...], delimiter: bytes) -> bytes:
    """As CopyAttributeOutText does."""
    letters = {b"\\": b"\\\\", b"\b": b"\\b", b"\f": b"\\f", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t", b"\v": b"\\v"}
    parts = []
    for cell in row:
        if cell is None:
            parts.append(b"\\N")
            continue
        parts.append(
            b"".join(letters.get(bytes([byte]), (b"\\" if bytes([byte]) == delimiter else b"") + bytes([byte])) for byte in cell)
        )
    return delimiter.join(parts) + b"\n"


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    out, at = [], 0
    for size in sizes:
        out.append(data[at : at + size])
        at += size
    return [*out, data[at:]]


copy_rows = st.lists(st.tuples(texts, st.one_of(st.none(), st.just(MARKER)), texts), max_size=5)


@given(copy_rows, delimiters, chunks)
def test_copy_in_text_format_loses_its_masked_cells_and_nothing_else(
    rows: list[tuple[bytes, bytes | None, bytes]], delimiter: bytes, sizes: list[int]
) -> None:
    data = b"".join(text_written(row, delimiter) for row in rows)
    rewriter = CopyOutRewriter(
        plan((False, True, False), MaskStrategy.REDACT, detect=False), CopyFormat(CopyKind.TEXT, delimiter)
    )
    out = b"".join(rewriter.feed(piece) for piece in cut(data, sizes)) + rewriter.finish()
    expected = b"".join(text_written((a, None if b is None else b"[masked]", c), delimiter) for a, b, c in rows)
    assert out == expected


@given(copy_rows, chunks)
def test_copy_in_csv_format_loses_its_masked_cells_and_nothing_else(
    rows: list[tuple[bytes, bytes | None, bytes]], sizes: list[int]
) -> None:
    def written(value: str) -> str:
        return '"' + value.replace('"', '""') + '"'

    lines = [f"{written(a.decode())},{'' if b is None else b.decode()},{written(c.decode())}\n" for a, b, c in rows]
    data = "".join(lines).encode()
    rewriter = CopyOutRewriter(plan((False, True, False), MaskStrategy.REDACT, detect=False), CopyFormat(CopyKind.CSV, b",", b""))
    out = b"".join(rewriter.feed(piece) for piece in cut(data, sizes)) + rewriter.finish()
    assert MARKER not in out
    read = list(csv.reader(io.StringIO(out.decode(), newline=""), strict=True))
    assert read == [[a.decode(), "" if b is None else "[masked]", c.decode()] for a, b, c in rows]


@given(copy_rows, chunks)
def test_copy_in_binary_format_loses_its_masked_cells_and_nothing_else(
    rows: list[tuple[bytes, bytes | None, bytes]], sizes: list[int]
) -> None:
    def file(some: list[tuple[bytes | None, ...]]) -> bytes:
        return b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + b"".join(encode_rows([row])[5:] for row in some) + b"\xff\xff"

    rewriter = CopyOutRewriter(plan((False, True, False), MaskStrategy.REDACT, detect=False), CopyFormat(CopyKind.BINARY))
    out = b"".join(rewriter.feed(piece) for piece in cut(file(list(rows)), sizes)) + rewriter.finish()
    assert out == file([(a, None if b is None else b"[masked]", c) for a, b, c in rows])


@given(st.sampled_from(list(CopyKind)), st.binary(max_size=80), chunks)
def test_copy_of_any_bytes_is_rewritten_or_refused_alike_in_any_chunking(kind: CopyKind, data: bytes, sizes: list[int]) -> None:
    copy_format = CopyFormat(kind, b",", b"")
    head = b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 if kind is CopyKind.BINARY else b""

    def run(pieces: list[bytes]) -> bytes | None:
        rewriter = CopyOutRewriter(plan((False, True), MaskStrategy.REDACT, detect=False), copy_format)
        try:
            return b"".join(rewriter.feed(piece) for piece in pieces) + rewriter.finish()
        except TargetProtocolError:
            return None

    assert run([head + data]) == run(cut(head + data, sizes))
