"""Columns that are shown as pseudonyms by the catalog, and values in place of pseudonyms in what a client binds."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.mask.pseudonym import Pseudonyms
from sidegate.policy.decision import ColumnMask, ColumnUse, Masks, MaskStrategy
from sidegate.policy.source import PolicyRule
from sidegate.policy.statement import ColumnRef, RelationRef
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.pseudonyms import array_elements, array_of, original_parameters
from sidegate.postgres.statements import BoundText, Translated

PSEUDONYMS = Pseudonyms(b"k" * 32)
TEXT, INT4, UNKNOWN = 25, 23, 705


def shown(value: bytes) -> bytes:
    found = PSEUDONYMS.shown(value)
    assert found is not None
    return found


def originals(
    *values: bytes | None, parameters: dict[int, bool], formats: tuple[int, ...] = (), oids: tuple[int, ...] = ()
) -> tuple[bytes | None, ...] | None:
    translated = [Translated(number, is_array) for number, is_array in parameters.items()]
    return original_parameters(BoundText("", values, formats, oids), translated, PSEUDONYMS)


def test_only_the_parameters_that_stand_for_pseudonyms_change() -> None:
    pseudonym = shown(b"583-68-2629")
    assert originals(pseudonym, pseudonym, None, parameters={2: False, 3: False}) == (pseudonym, b"583-68-2629", None)


def test_a_guess_is_never_passed_as_it_is() -> None:
    answer = originals(b"583-68-2629", b"F", parameters={1: False, 2: False})
    assert answer is not None
    assert answer[0] not in (b"583-68-2629", None)
    assert answer[1] is None


def test_binary_values_go_by_the_type_that_the_client_gave_and_are_refused_without() -> None:
    number = struct.pack(">i", int(shown(b"1234567")))
    assert originals(number, parameters={1: False}, formats=(1,), oids=(INT4,)) == (struct.pack(">i", 1234567),)
    assert originals(shown(b"Ada Lovelace"), parameters={1: False}, formats=(1,), oids=(TEXT,)) == (b"Ada Lovelace",)
    assert originals(number, parameters={1: False}, formats=(1,)) is None
    assert originals(number, parameters={1: False}, formats=(1,), oids=(0,)) is None
    assert originals(b"\x01", parameters={1: False}, formats=(1,), oids=(16,)) == (None,)  # a bool has no pseudonym


def test_the_type_that_the_target_gives_counts_where_the_client_gives_none() -> None:
    number = struct.pack(">i", int(shown(b"1234567")))
    bound = BoundText("", (number,), (1,), (0,))
    assert original_parameters(bound, [Translated(1, False, INT4)], PSEUDONYMS) == (struct.pack(">i", 1234567),)
    assert original_parameters(bound, [Translated(1, False, 20)], PSEUDONYMS) == (None,)  # eight bytes, were it one
    text = original_parameters(bound, [Translated(1, False, TEXT)], PSEUDONYMS)
    assert text not in ((number,), (struct.pack(">i", 1234567),))


def test_text_values_of_a_type_without_pseudonyms_or_that_leave_their_type_are_null() -> None:
    assert originals(b"2024-01-01", parameters={1: False}, oids=(1082,)) == (None,)
    assert originals(b"Ada Lovelace", parameters={1: False}, oids=(INT4,)) == (None,)


def test_a_value_that_is_no_text_is_null() -> None:
    token = shown(b"\xff\xfe")
    assert originals(token, parameters={1: False}) == (None,)
    assert originals(shown(b"a\0b"), parameters={1: False}, oids=(TEXT,)) == (None,)


def test_a_parameter_that_was_not_bound_refuses_the_whole() -> None:
    assert originals(b"a", parameters={2: False}) is None


def test_arrays_are_translated_element_by_element() -> None:
    text = b'{%s,NULL,"%s",F}' % (shown(b"583-68-2629"), shown(b"Ada Lovelace"))
    assert originals(text, parameters={1: True}) == (b'{"583-68-2629",NULL,"Ada Lovelace",NULL}',)
    pseudonym = shown(b"583-68-2629")
    binary = struct.pack(">iiIII", 1, 0, TEXT, 2, 1) + struct.pack(">i", 11) + pseudonym + struct.pack(">i", 1) + b"F"
    expected = struct.pack(">iiIII", 1, 1, TEXT, 2, 1) + struct.pack(">i", 11) + b"583-68-2629" + struct.pack(">i", -1)
    assert originals(binary, parameters={1: True}, formats=(1,)) == (expected,)


def test_elements_go_by_the_type_of_the_array_where_it_is_given() -> None:
    key = b"8f14e45f-ceea-467f-a6c5-0d1b1f1a2b3c"
    bare = shown(key).replace(b"-", b"")
    assert originals(b"{%s}" % bare, parameters={1: True}, oids=(2951,)) == (b'{"%s"}' % key,)
    assert originals(b"{583-68-2629}", parameters={1: True}, oids=(1007,)) == (b"{NULL}",)


@pytest.mark.parametrize(
    "text",
    [b"583-68-2629", b"{a", b"{{a},{b}}", b"[0:1]={a,b}", b'{"a"b}', b'{a"b"}', b"{a,}", b"{,}", b'{"a}', b'{"a\\}', b"{a\\b}"],
)
def test_an_array_that_is_not_surely_read_is_null(text: bytes) -> None:
    assert originals(text, parameters={1: True}) == (None,)


@given(st.lists(st.one_of(st.none(), st.binary(max_size=8).filter(lambda value: b"\0" not in value))))
def test_an_array_reads_as_it_was_written(elements: list[bytes | None]) -> None:
    assert array_elements(array_of(elements)) == elements


USERS, OTHERS, VIEW, COMPUTED = range(20000, 20004)


def mask(name: str, strategy: MaskStrategy, tables: frozenset[str] | None = None) -> ColumnMask:
    return ColumnMask(frozenset({name}), None, tables, strategy, ColumnUse.REFUSED, PolicyRule("ns", "p", name))


def rows(*relations: tuple[int, str, str, tuple[str, ...]]) -> list[tuple[bytes, ...]]:
    return [
        tuple(str(value).encode() for value in (oid, "public", name, kind, number, column))
        for oid, name, kind, columns in relations
        for number, column in enumerate(columns, 1)
    ]


CATALOG = Catalog.decode(
    rows(
        (USERS, "users", "r", ("id", "ssn", "email")),
        (OTHERS, "others", "r", ("id", "ssn")),
        (VIEW, "passed", "v", ("id", "tax_id")),
        (COMPUTED, "computed", "v", ("id", "ssn")),
    ),
    [
        (b"%d" % VIEW, b"SELECT users.id, users.ssn AS tax_id FROM public.users;"),
        (b"%d" % COMPUTED, b"SELECT users.id, \"left\"(users.ssn, 1) AS ssn FROM public.users;"),
    ],
    [],
    1,
)  # fmt: skip


def column(relation: str | None, name: str) -> ColumnRef:
    return ColumnRef(name, RelationRef(relation, frozenset({"public"})) if relation else None)


def test_a_column_is_compared_by_pseudonyms_where_it_is_shown_so_whichever_it_is() -> None:
    everywhere = CATALOG.masked_view(Masks(columns=(mask("ssn", MaskStrategy.PSEUDONYM),)))
    assert everywhere.shows_pseudonyms([column("users", "ssn"), column("others", "ssn")])
    assert everywhere.shows_pseudonyms([column("passed", "tax_id")])
    assert everywhere.shows_pseudonyms([column("users", "ssn"), column("passed", "ssn")])  # `passed` has no column of that name
    for columns in (
        [column("computed", "ssn")],
        [column("users", "email")],
        [column("users", "ssn"), column("users", "email")],
        [column("nowhere", "ssn")],
        [column("users", "*")],
        [column(None, "ssn")],  # among them the view that computes
        [],
    ):
        assert not everywhere.shows_pseudonyms(columns), columns


def test_a_column_that_some_rule_shows_stricter_or_that_one_table_alone_masks_is_not() -> None:
    stricter = CATALOG.masked_view(
        Masks(columns=(mask("ssn", MaskStrategy.PSEUDONYM), mask("ssn", MaskStrategy.REDACT, frozenset({"users"}))))
    )
    assert not stricter.shows_pseudonyms([column("users", "ssn")])
    assert stricter.shows_pseudonyms([column("others", "ssn")])
    narrow = CATALOG.masked_view(Masks(columns=(mask("ssn", MaskStrategy.PSEUDONYM, frozenset({"users"})),)))
    assert narrow.shows_pseudonyms([column("users", "ssn")])
    assert not narrow.shows_pseudonyms([column("users", "ssn"), column("others", "ssn")])
