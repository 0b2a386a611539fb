"""Plans: what is done with each column, by origin, name, taint, proof and type."""

from __future__ import annotations

import struct
from typing import ClassVar

import pytest

from sidegate.mask.kinds import CellKind
from sidegate.policy.decision import KEYED, ColumnMask, ColumnUse, Masks, MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule
from sidegate.postgres.messages import TargetProtocolError
from sidegate.postgres.results import (
    Action,
    ColumnOrigin,
    FieldDescription,
    PlanProblem,
    Reach,
    ResultPlan,
    decode_row_description,
    plan_result,
)


def rule(name: str) -> PolicyRule:
    return PolicyRule("ns", "policy", name)


def column_mask(
    *names: str,
    tables: frozenset[str] | None = None,
    schemas: frozenset[str] | None = None,
    strategy: MaskStrategy = MaskStrategy.REDACT,
    name: str = "columns",
) -> ColumnMask:
    return ColumnMask(frozenset(names), schemas, tables, strategy, ColumnUse.REFUSED, rule(name))


SSN = Masks(columns=(column_mask("ssn"),))
DETECT = Masks(values=(ValueMask(frozenset({"payment-card"}), MaskStrategy.REDACT, rule("values")),))

PEOPLE, VIEW, NEW = 100, 200, 300


class Catalog:
    """People (id, ssn, name), and a view whose second column derives from a masked one."""

    columns: ClassVar = {(PEOPLE, 1): "id", (PEOPLE, 2): "ssn", (PEOPLE, 3): "name", (VIEW, 1): "id", (VIEW, 2): "label"}

    def origin(self, table_oid: int, attnum: int) -> ColumnOrigin | None:
        column = self.columns.get((table_oid, attnum))
        return column and ColumnOrigin("public", "people" if table_oid == PEOPLE else "people_view", column)

    def is_own(self, table_oid: int, attnum: int) -> bool:
        return not self.is_tainted(table_oid, attnum)

    def is_tainted(self, table_oid: int, attnum: int) -> bool:
        return (table_oid, attnum) == (VIEW, 2)


def field(name: str, table_oid: int = 0, attnum: int = 0, type_oid: int = 25, format_code: int = 0) -> FieldDescription:
    return FieldDescription(name, table_oid, attnum, type_oid, -1, -1, format_code)


def plan(masks: Masks, *fields: FieldDescription, clean: bool = False, formats: tuple[int, ...] | None = None) -> ResultPlan:
    made = plan_result(fields, formats, masks, Catalog(), (Reach.NONE,) * len(fields) if clean else None)
    assert isinstance(made, ResultPlan)
    return made


def actions(masks: Masks, *fields: FieldDescription, clean: bool = False) -> list[Action]:
    return [Action(action) for action in plan(masks, *fields, clean=clean).actions]


def test_masks_by_origin_whatever_the_output_name_is() -> None:
    made = plan(SSN, field("order_no", PEOPLE, 2), field("name", PEOPLE, 3))
    assert list(made.actions) == [Action.MASK, Action.PASS]
    assert made.sources == {rule("columns")}


def test_masks_by_output_name_without_a_table_filter() -> None:
    assert actions(SSN, field("SSN", PEOPLE, 3)) == [Action.MASK]
    assert actions(Masks(columns=(column_mask("ssn", tables=frozenset({"people"})),)), field("ssn", PEOPLE, 3)) == [Action.PASS]


def test_masks_an_expression_named_like_a_masked_column_even_when_clean() -> None:
    assert actions(SSN, field("ssn"), field("n"), clean=True) == [Action.MASK, Action.PASS]


@pytest.mark.parametrize("strategy", sorted(KEYED))
def test_a_keyed_strategy_shows_nothing_of_what_the_statement_itself_may_have_made(strategy: MaskStrategy) -> None:
    """`SELECT '583-68-2629' AS ssn`, a union, a field, a view that computes: its pseudonym is the answer to a guess."""
    masks = Masks(columns=(column_mask("ssn", strategy=strategy),))
    made = plan_result(
        [field("ssn", PEOPLE, 2), field("ssn"), field("label", VIEW, 2), field("ssn", PEOPLE, 3)], None, masks, Catalog(), (Reach.PASSED,) * 4,
        hash_key=b"k" * 32,
    )  # fmt: skip
    assert isinstance(made, ResultPlan)
    own, *others = (made.mask(number, b"583-68-2629") for number in range(4))
    assert own not in (None, b"[masked]", b"583-68-2629")
    assert others[:2] == [b"[masked]", b"[masked]"]


def test_masks_every_expression_that_is_not_proven_clean() -> None:
    assert actions(SSN, field("x"), field("id", PEOPLE, 1)) == [Action.MASK, Action.PASS]


def test_masks_a_whole_row_even_when_the_expressions_are_clean() -> None:
    assert actions(SSN, field("people", PEOPLE, 0), clean=True) == [Action.MASK]


def test_passes_system_columns() -> None:
    assert actions(SSN, field("ctid", PEOPLE, -1)) == [Action.PASS]


def test_masks_what_derives_from_masked_columns() -> None:
    assert actions(SSN, field("label", VIEW, 2), field("id", VIEW, 1)) == [Action.MASK, Action.PASS]


def test_a_filter_on_tables_or_schemas_limits_the_mask_to_them() -> None:
    for mask, expected in (
        (column_mask("ssn", tables=frozenset({"people"})), Action.MASK),
        (column_mask("ssn", tables=frozenset({"others"})), Action.PASS),
        (column_mask("ssn", schemas=frozenset({"public"})), Action.MASK),
        (column_mask("ssn", schemas=frozenset({"prod"})), Action.PASS),
        (column_mask("ssn", tables=frozenset({"people"}), schemas=frozenset({"prod"})), Action.PASS),
    ):
        assert actions(Masks(columns=(mask,)), field("x", PEOPLE, 2)) == [expected]


def test_an_unknown_table_needs_origins_and_is_masked_when_it_stays_unknown() -> None:
    fields = (field("a", NEW, 1), field("id", PEOPLE, 1))
    assert plan_result(fields, None, SSN, Catalog(), (Reach.NONE,) * len(fields)) is PlanProblem.NEED_ORIGINS
    made = plan_result(fields, None, SSN, Catalog(), (Reach.NONE,) * len(fields), masks_unknown=True)
    assert isinstance(made, ResultPlan)
    assert list(made.actions) == [Action.MASK, Action.PASS]


def test_an_unknown_table_does_not_matter_to_detectors() -> None:
    assert actions(DETECT, field("a", NEW, 1)) == [Action.SCAN]


def test_an_expression_that_may_hide_a_value_from_detectors_is_masked_whole() -> None:
    partial = Masks(values=(ValueMask(frozenset({"payment-card"}), MaskStrategy.PARTIAL, rule("values")),))
    made = plan_result(
        (field("x"), field("n", type_oid=20), field("id", PEOPLE, 1)),
        None,
        partial,
        Catalog(),
        (Reach.NONE,) * 3,
        disguised=(True, True, True),
    )
    assert isinstance(made, ResultPlan)
    assert list(made.actions) == [Action.MASK, Action.MASK, Action.SCAN]
    assert made.mask(0, b"41111111") == b"[masked]"
    assert made.sources == {rule("values")}


def test_no_masks_pass_everything() -> None:
    made = plan(Masks(), field("ssn", PEOPLE, 2), field("x"))
    assert made.is_passthrough
    assert not made.has_scans
    assert not made.has_masks


def test_detectors_look_into_what_can_hold_their_values() -> None:
    fields = [field("x", PEOPLE, 1, oid) for oid in (25, 23, 20, 1700, 16, 114, 3802, 17, 2950, 701, 1184, 99999)]
    expected = [Action.SCAN, Action.PASS, Action.SCAN, Action.SCAN, Action.PASS, Action.SCAN, Action.SCAN, Action.SCAN]
    assert actions(DETECT, *fields) == [*expected, Action.PASS, Action.SCAN, Action.PASS, Action.SCAN]


def test_a_masked_column_is_not_scanned() -> None:
    both = Masks(SSN.columns, DETECT.values)
    assert actions(both, field("ssn", PEOPLE, 2), field("name", PEOPLE, 3)) == [Action.MASK, Action.SCAN]


def test_the_strictest_strategy_of_several_masks_wins_and_all_are_counted() -> None:
    lenient = column_mask("ssn", strategy=MaskStrategy.PARTIAL, name="lenient")
    strict = column_mask("ssn", strategy=MaskStrategy.NULL, name="strict")
    for masks in ((lenient, strict), (strict, lenient)):
        made = plan(Masks(columns=masks), field("ssn", PEOPLE, 2))
        assert made.replacements == (b"\xff\xff\xff\xff",)
        made.count_masked(0, 3)
        assert made.tally.take() == {rule("lenient"): 3, rule("strict"): 3}
        assert made.tally.take() == {}


def test_no_end_is_shown_of_what_a_view_makes_of_a_value() -> None:
    """It was another part of the value, should the view turn it around."""
    made = plan(Masks(columns=(column_mask("ssn", strategy=MaskStrategy.PARTIAL),)), field("x", PEOPLE, 2), field("y", VIEW, 2))
    assert [made.mask(number, b"583-68-2629") for number in (0, 1)] == [b"***-**-2629", b"[masked]"]


@pytest.mark.parametrize(
    ("formats", "expected"),
    [((), [0, 0, 0]), ((1,), [1, 1, 1]), ((0, 1, 0), [0, 1, 0]), (None, [0, 0, 1])],
)
def test_formats_come_from_bind_or_from_the_description(formats: tuple[int, ...] | None, expected: list[int]) -> None:
    fields = (field("a", PEOPLE, 1, 20), field("b", PEOPLE, 1, 20), field("c", PEOPLE, 1, 20, format_code=1))
    kinds = [CellKind.INT8_BINARY if code else CellKind.NUMBER_TEXT for code in expected]
    assert list(plan(DETECT, *fields, formats=formats).kinds) == kinds


def test_a_wrong_number_of_formats_is_a_problem() -> None:
    assert plan_result((field("a"),) * 3, (0, 1), SSN, Catalog(), (Reach.NONE,) * 3) is PlanProblem.FORMATS_MISMATCH


def test_a_plan_for_copy_has_one_format_and_the_same_tally() -> None:
    made = plan(Masks(SSN.columns, DETECT.values), field("ssn", PEOPLE, 2, 3802), field("n", PEOPLE, 3, 20))
    binary = made.in_format(1)
    assert binary.actions == made.actions
    assert binary.kinds[1] is CellKind.INT8_BINARY
    assert binary.replacements[0] == b'\x00\x00\x00\x0b\x01"[masked]"'
    binary.count_masked(0, 2)
    assert made.tally.take() == {rule("columns"): 2}


# ---- RowDescription -----------------------------------------------------------------------------------------------------------------------

FIELDS = (FieldDescription("ssn", 16400, 2, 25, -1, -1, 0), FieldDescription("", 0, -1, 4294967295, 8, 12, 1))


def description(fields: tuple[FieldDescription, ...] = FIELDS) -> bytes:
    return struct.pack(">H", len(fields)) + b"".join(
        item.name.encode() + b"\0" + struct.pack(">IhIhih", *item[1:]) for item in fields
    )


def test_decodes_a_row_description() -> None:
    assert decode_row_description(description()) == FIELDS
    assert decode_row_description(b"\0\0") == ()


def test_refuses_a_row_description_cut_anywhere() -> None:
    body = description()
    for length in range(len(body)):
        with pytest.raises(TargetProtocolError):
            decode_row_description(body[:length])


def test_refuses_leftover_bytes_and_unknown_formats() -> None:
    with pytest.raises(TargetProtocolError, match="left over"):
        decode_row_description(description() + b"\0")
    with pytest.raises(TargetProtocolError, match="format"):
        decode_row_description(description((FieldDescription("a", 0, 0, 25, -1, -1, 2),)))
