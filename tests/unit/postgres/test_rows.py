"""The row rewriter: what it changes, what it leaves, and that nothing malformed passes."""

from __future__ import annotations

import struct

import pytest

from sidegate.mask.kinds import CellKind
from sidegate.policy.decision import ColumnMask, ColumnUse, Masks, MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule
from sidegate.postgres import rows as rows_module
from sidegate.postgres.messages import TargetProtocolError, decode_data_row, encode_rows
from sidegate.postgres.results import Action, ColumnOrigin, FieldDescription, Reach, ResultPlan, plan_result
from sidegate.postgres.rows import rewrite_rows

RULE = PolicyRule("ns", "policy", "columns")
FINDS = PolicyRule("ns", "policy", "finds")


class NoCatalog:
    def origin(self, table_oid: int, attnum: int) -> ColumnOrigin | None:
        return None

    def is_own(self, table_oid: int, attnum: int) -> bool:
        return not self.is_tainted(table_oid, attnum)

    def is_tainted(self, table_oid: int, attnum: int) -> bool:
        return False


def plan(
    *names: str,
    strategy: MaskStrategy = MaskStrategy.REDACT,
    detect: bool = False,
    types: dict[str, tuple[int, int]] | None = None,
) -> ResultPlan:
    """Columns named `masked...` are masked."""
    masks = Masks(
        (
            ColumnMask(
                frozenset(name for name in names if name.startswith("masked")), None, None, strategy, ColumnUse.REFUSED, RULE
            ),
        ),
        (ValueMask(frozenset({"payment-card", "email"}), MaskStrategy.REDACT, FINDS),) if detect else (),
    )
    fields = [
        FieldDescription(name, 0, 0, *(types or {}).get(name, (25, 0))[:1], -1, -1, (types or {}).get(name, (25, 0))[1])
        for name in names
    ]
    made = plan_result(fields, None, masks, NoCatalog(), (Reach.NONE,) * len(fields))
    assert isinstance(made, ResultPlan)
    return made


def rewrite(rows: bytes, made: ResultPlan) -> bytes:
    """In the midst of other bytes, as the session calls it."""
    return rewrite_rows(b"before" + rows + b"after", 6, 6 + len(rows), made)


def decoded(data: bytes) -> list[tuple[bytes | None, ...]]:
    rows, at = [], 0
    while at < len(data):
        assert data[at : at + 1] == b"D"
        length = int.from_bytes(data[at + 1 : at + 5], "big")
        rows.append(decode_data_row(data[at + 5 : at + 1 + length]))
        at += 1 + length
    assert at == len(data)
    return rows


ROWS = encode_rows([(b"1", b"583-68-2629", b"x"), (b"2", None, b""), (b"3", b"", None), (None, b"y" * 5000, b"z")])


def test_the_compiled_constants_are_those_of_the_plan() -> None:
    assert (rows_module._MASK, rows_module._SCAN) == (Action.MASK, Action.SCAN)
    assert rows_module._INT8_BINARY == CellKind.INT8_BINARY


def test_masks_its_column_and_nothing_else() -> None:
    made = plan("id", "masked", "rest")
    assert decoded(rewrite(ROWS, made)) == [
        (b"1", b"[masked]", b"x"),
        (b"2", None, b""),
        (b"3", b"[masked]", None),
        (None, b"[masked]", b"z"),
    ]
    assert made.tally.take() == {RULE: 3}


def test_masks_first_last_and_neighbouring_columns() -> None:
    for names in (
        ("masked", "b", "c"),
        ("a", "b", "masked"),
        ("masked1", "masked2", "c"),
        ("masked1", "b", "masked3"),
        ("masked1", "masked2", "masked3"),
    ):
        expected = [
            tuple(
                b"[masked]" if name.startswith("masked") and value is not None else value
                for name, value in zip(names, row, strict=True)
            )
            for row in decoded(ROWS)
        ]
        assert decoded(rewrite(ROWS, plan(*names))) == expected


def test_null_strategy_and_types_without_a_legal_value_give_null() -> None:
    assert decoded(rewrite(ROWS, plan("id", "masked", "rest", strategy=MaskStrategy.NULL)))[0] == (b"1", None, b"x")
    made = plan("id", "masked", "rest", types={"masked": (23, 0)})
    assert decoded(rewrite(encode_rows([(b"1", b"77", b"x")]), made)) == [(b"1", None, b"x")]


def test_partial_is_made_from_each_cell() -> None:
    made = plan("id", "masked", strategy=MaskStrategy.PARTIAL)
    rows = encode_rows([(b"1", b"583-68-2629"), (b"2", b"583-68-2630"), (b"3", None)])
    assert decoded(rewrite(rows, made)) == [(b"1", b"***-**-2629"), (b"2", b"***-**-2630"), (b"3", None)]


def test_without_finds_the_same_bytes_come_back_uncopied() -> None:
    rows = encode_rows([(b"1", b"nothing")] * 50)
    assert rewrite_rows(rows, 0, len(rows), plan("a", "b", detect=True)) is rows
    assert rewrite(rows, plan("a", "b", detect=True)) == rows


def test_finds_are_masked_in_their_cells_alone() -> None:
    made = plan("a", "b", detect=True)
    rows = encode_rows([(b"1", b"nothing"), (b"pay 4242424242424242", b"a@example.com"), (None, b"x")])
    assert decoded(rewrite(rows, made)) == [(b"1", b"nothing"), (b"pay [masked]", b"[masked]"), (None, b"x")]
    assert made.tally.take() == {FINDS: 2}


def test_a_masked_column_full_of_finds_is_counted_for_its_own_rule_only() -> None:
    made = plan("masked", "b", detect=True)
    rows = encode_rows([(b"4242424242424242", b"x"), (b"a@example.com", b"b@example.com")])
    assert decoded(rewrite(rows, made)) == [(b"[masked]", b"x"), (b"[masked]", b"[masked]")]
    assert made.tally.take() == {RULE: 2, FINDS: 1}


def test_binary_numbers_are_looked_at_though_the_prefilter_can_not_see_them() -> None:
    made = plan("n", "b", detect=True, types={"n": (20, 1)})
    numbers = [4242424242424242, 7, -4242424242424242, 1234567890123456]
    rows = encode_rows([(struct.pack(">q", number), b"x") for number in numbers])
    assert [row[0] for row in decoded(rewrite(rows, made))] == [
        None,
        struct.pack(">q", 7),
        None,
        struct.pack(">q", 1234567890123456),
    ]


def test_a_length_byte_that_is_a_digit_hides_nothing() -> None:
    """0x31 and 0x38 are digits: the value's own length stands right before it."""
    for length in (0x31, 0x38):
        cell = b"4242424242424242".ljust(length, b".")
        assert decoded(rewrite(encode_rows([(b"1", cell)]), plan("a", "b", detect=True)))[0][1] == cell.replace(
            b"4242424242424242", b"[masked]"
        )


def test_a_length_that_grows_past_the_ready_headers_is_right() -> None:
    for size in (2030, 2040, 2047, 2048, 70000):
        rows = encode_rows([(b"x" * size, b"s"), (b"y", b"t")])
        assert decoded(rewrite(rows, plan("a", "masked"))) == [(b"x" * size, b"[masked]"), (b"y", b"[masked]")]


def test_rows_without_columns_pass() -> None:
    rows = encode_rows([(), ()])
    made = plan_result((), None, Masks((), (ValueMask(frozenset({"email"}), MaskStrategy.REDACT, FINDS),)), NoCatalog(), ())
    assert isinstance(made, ResultPlan)
    assert rewrite(rows, made) == rows


def test_a_row_of_forty_megabytes_is_rewritten_in_seconds() -> None:
    for cells in ((b"x" * 40_000_000 + b" a@example.com", b"s"), (b"s", b"x" * 40_000_000)):
        rows = encode_rows([cells])
        result = decoded(rewrite(rows, plan("a", "masked", detect=True)))
        assert result[0][1] == b"[masked]"
        assert b"a@example" not in result[0][0]


MALFORMED = {
    "another message": b"C" + ROWS[1:],
    "too many columns": encode_rows([(b"1", b"2", b"3", b"4")]),
    "too few columns": encode_rows([(b"1", b"2")]),
    "no columns": encode_rows([()]),
    "negative length": b"D" + struct.pack(">IH", 18, 3) + struct.pack(">i", -2) * 3,
    "length over the row": b"D" + struct.pack(">IH", 18, 3) + struct.pack(">i", 99) + struct.pack(">i", -1) * 2,
    "huge length": b"D" + struct.pack(">IH", 18, 3) + struct.pack(">I", 0x7FFFFFFF) + struct.pack(">i", -1) * 2,
    "frame length of three": b"D" + struct.pack(">I", 3),
    "frame length of five": b"D" + struct.pack(">I", 5) + b"\0",
    "leftover in the row": b"D" + struct.pack(">IH", 19, 3) + struct.pack(">i", -1) * 3 + b"\0",
    "second row is another message": ROWS[:40] + b"Z\0\0\0\5I",
}


@pytest.mark.parametrize("rows", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("names", [("a", "masked", "c"), ("masked1", "masked2", "masked3")])
def test_refuses_malformed_rows(rows: bytes, names: tuple[str, ...]) -> None:
    with pytest.raises(TargetProtocolError):
        rewrite(rows, plan(*names))


def test_refuses_rows_cut_anywhere() -> None:
    made = plan("id", "masked", "rest")
    boundaries = {0}
    at = 0
    while at < len(ROWS):
        at += 1 + int.from_bytes(ROWS[at + 1 : at + 5], "big")
        boundaries.add(at)
    for length in [*range(120), len(ROWS) - 1]:
        if length in boundaries:
            rewrite(ROWS[:length], made)
            continue
        with pytest.raises(TargetProtocolError):
            rewrite(ROWS[:length], made)


def test_never_reads_past_the_end_it_was_given() -> None:
    """The frame would be whole if the bytes behind `end` were taken along."""
    with pytest.raises(TargetProtocolError):
        rewrite_rows(ROWS, 0, len(ROWS) - 1, plan("id", "masked", "rest"))
