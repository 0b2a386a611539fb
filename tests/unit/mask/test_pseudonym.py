"""Pseudonyms: one to one, of the value's own form, there and back, and never the value of a guess."""

from __future__ import annotations

import re
import struct
import uuid

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidegate.mask.kinds import BINARY, NUMERIC_OID, TEXT
from sidegate.mask.pseudonym import MOST_TOKENED, TOKEN_PREFIX, Pseudonyms
from sidegate.mask.pseudonym_cells import SHOWN_OIDS, UUID_OID, original_cell, pseudonym_cell

PSEUDONYMS = Pseudonyms(b"k" * 32)
INT2, INT4, INT8, VARCHAR, BPCHAR = 21, 23, 20, 1043, 1042


def shown(text: str) -> str:
    found = PSEUDONYMS.shown(text.encode())
    assert found is not None
    return found.decode()


def classes(text: str) -> str:
    return re.sub("[A-Z]", "A", re.sub("[a-z]", "a", re.sub("[0-9]", "0", text)))


@pytest.mark.parametrize(
    "value",
    [
        "583-68-2629",
        "4242 4242 4242 4242",
        "Ada.Lovelace@example.org",
        "+44 20 7946 0018",
        "Ada Lovelace",
        "hunter2!{}",
        "O'Brien, Pat",
    ],
)
def test_a_text_keeps_its_form_and_nothing_else(value: str) -> None:
    pseudonym = shown(value)
    assert pseudonym != value
    assert classes(re.sub(r"[!{}]", "!", value)) == classes(re.sub(r"[!#$%&*;<=>?\[\]^{|}~]", "!", pseudonym))


def test_the_same_value_has_the_same_pseudonym_and_others_with_another_key() -> None:
    assert shown("583-68-2629") == shown("583-68-2629")
    assert Pseudonyms(b"z" * 32).shown(b"583-68-2629") != PSEUDONYMS.shown(b"583-68-2629")
    assert Pseudonyms.of(b"k" * 32) is Pseudonyms.of(b"k" * 32)


@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(max_size=40).map(str.encode),
        st.from_regex(r"\A-?[0-9]{1,25}\Z").map(str.encode),
        st.from_regex(r"\A[0-9a-z]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z").map(str.encode),
        st.from_regex(r"\A[0-9A-Za-z .@!-]{1,300}\Z").map(str.encode),
        st.from_regex(r"\Amasked:[a-z2-7]{0,60}\Z").map(str.encode),
    )
)
@example(b"0000000000")
@example(b"-0123456789")
@example(b"1" + b"0" * 254)
@example(b"0" * 256)
@example(b"9" * 256)
@example(b"")
@example(b"   ")
@example(b"2147483647")
@example(b"2147483648")
@example(b"9223372036854775807")
@example(b"-9223372036854775808")
@example(b"g2345678-1234-1234-1234-123456789012")
@example(b"masked:")
def test_there_and_back_for_every_value(value: bytes) -> None:
    pseudonym = PSEUDONYMS.shown(value)
    assert pseudonym is not None
    assert PSEUDONYMS.original(pseudonym) == value


@given(st.one_of(st.text(max_size=30).map(str.encode), st.from_regex(r"\A[0-9a-f-]{1,36}\Z").map(str.encode)))
@example(b"masked:aaaa")
@example(b"583-68-2629")
def test_whatever_is_taken_for_a_pseudonym_is_one_or_has_no_value(guess: bytes) -> None:
    """INVARIANT: a guess isn't passed as it is: what comes of it is the value that has the guess as its pseudonym."""
    value = PSEUDONYMS.original(guess)
    if value is not None:
        assert PSEUDONYMS.shown(value) == guess


def test_a_whole_small_form_is_mapped_onto_itself_one_to_one() -> None:
    """The least domain that is encrypted, all of it: numbers of seven digits would be nine times as many."""
    values = [f"0{number:06d}" for number in range(0, 1_000_000, 97)]
    pseudonyms = {shown(value) for value in values}
    assert len(pseudonyms) == len(values)
    assert all(re.fullmatch("0[0-9]{6}", pseudonym) for pseudonym in pseudonyms)


@pytest.mark.parametrize(
    "value", ["", "F", "12345", "Ada", "123456", "-", "2024-1", 'say "x" to them', "Ærøskøbing", "a\nb\nc\nd\ne\nf", "----------"]
)
def test_what_has_few_others_of_its_form_or_foreign_letters_becomes_a_token(value: str) -> None:
    assert shown(value).encode().startswith(TOKEN_PREFIX)


def test_a_token_of_another_key_and_another_spelling_of_one_have_no_value() -> None:
    token = PSEUDONYMS.shown(b"Ada")
    assert token is not None
    assert PSEUDONYMS.original(token) == b"Ada"
    other = Pseudonyms(b"z" * 32).shown(b"Ada")
    assert other is not None
    for changed in (other, token[:-1] + (b"b" if token.endswith(b"a") else b"a"), TOKEN_PREFIX + token[7:].upper(), token[:-4]):
        assert PSEUDONYMS.original(changed) != b"Ada"


def test_a_token_tells_the_length_by_sixteens() -> None:
    assert {len(shown("é" * count)) for count in range(8)} == {len(shown("F"))}


def test_what_is_too_long_has_no_pseudonym() -> None:
    assert PSEUDONYMS.shown(b"x" * MOST_TOKENED) is not None
    assert PSEUDONYMS.shown(b"x" * (MOST_TOKENED + 1)) is None


def test_padding_of_char_columns_counts_for_nothing() -> None:
    assert PSEUDONYMS.shown(b"583-68-2629   ") == (PSEUDONYMS.shown(b"583-68-2629") or b"") + b"   "
    assert PSEUDONYMS.shown(b"F ") == (PSEUDONYMS.shown(b"F") or b"") + b" "


@given(st.integers(-(2**63), 2**63 - 1))
@example(-(2**31))
@example(2**31 - 1)
@example(2**31)
def test_a_number_stays_in_its_type_or_is_null_and_is_the_same_in_both_formats(number: int) -> None:
    for oid, size in ((INT2, 2), (INT4, 4), (INT8, 8)):
        if not -(1 << (8 * size - 1)) <= number < 1 << (8 * size - 1):
            continue
        text = pseudonym_cell(str(number).encode(), oid, TEXT, PSEUDONYMS)
        binary = pseudonym_cell(number.to_bytes(size, "big", signed=True), oid, BINARY, PSEUDONYMS)
        if abs(number) < 10**6 or number == -(1 << (8 * size - 1)):  # the least has no positive twin
            assert text is binary is None
            continue
        assert text is not None
        assert binary is not None
        assert int.from_bytes(binary, "big", signed=True) == int(text)
        assert len(text) == len(str(number))
        assert text == PSEUDONYMS.shown(str(number).encode())  # a text column with the same digits joins
        assert original_cell(binary, oid, BINARY, PSEUDONYMS) == number.to_bytes(size, "big", signed=True)
        assert original_cell(text, oid, TEXT, PSEUDONYMS) == str(number).encode()


@given(st.integers(-(10**40), 10**40))
@example(10**16)
@example(-12_340_000)
def test_numerics_are_the_same_in_both_formats(number: int) -> None:
    groups = []
    rest = abs(number)
    while rest:
        rest, group = divmod(rest, 10_000)
        groups.insert(0, group)
    weight = len(groups) - 1
    while groups and not groups[-1]:
        groups.pop()
    cell = struct.pack(f">HhHH{len(groups)}H", len(groups), weight, 0x4000 if number < 0 else 0, 0, *groups)
    text = pseudonym_cell(str(number).encode(), NUMERIC_OID, TEXT, PSEUDONYMS)
    binary = pseudonym_cell(cell, NUMERIC_OID, BINARY, PSEUDONYMS)
    assert (text is None) == (binary is None) == (abs(number) < 10**6)
    if binary is not None:
        assert original_cell(binary, NUMERIC_OID, BINARY, PSEUDONYMS) == cell


@pytest.mark.parametrize(
    "cell",
    [b"", b"\0" * 8, struct.pack(">HhHHHH", 2, 0, 0, 2, 1, 50), struct.pack(">HhHH", 0, 0, 0xC000, 0), b"\0\1\0\2\0\0\0\0\0\1\0"],
)
def test_numerics_that_are_no_whole_number_are_null(cell: bytes) -> None:
    assert pseudonym_cell(cell, NUMERIC_OID, BINARY, PSEUDONYMS) is None


@pytest.mark.parametrize("text", [b"12345678.5", b"NaN", b"0", b"1e10", b" 12345678"])
def test_numbers_in_other_forms_are_null(text: bytes) -> None:
    assert pseudonym_cell(text, NUMERIC_OID, TEXT, PSEUDONYMS) is None


@given(st.uuids())
def test_a_uuid_becomes_another(value: uuid.UUID) -> None:
    text = pseudonym_cell(str(value).encode(), UUID_OID, TEXT, PSEUDONYMS)
    binary = pseudonym_cell(value.bytes, UUID_OID, BINARY, PSEUDONYMS)
    assert text is not None
    assert uuid.UUID(text.decode()).bytes == binary
    assert text == PSEUDONYMS.shown(str(value).encode())
    for spelling in (text, text.replace(b"-", b""), text.replace(b"-", b"").upper()):
        assert original_cell(spelling, UUID_OID, TEXT, PSEUDONYMS) == str(value).encode()


def test_other_types_have_no_pseudonyms() -> None:
    for oid in (16, 17, 114, 3802, 1082, 1184, 700, 701, 790, 1009, 0):
        assert oid not in SHOWN_OIDS
        assert pseudonym_cell(b"12345678", oid, TEXT, PSEUDONYMS) is None
        assert pseudonym_cell(b"12345678", oid, BINARY, PSEUDONYMS) is None
    assert {VARCHAR, BPCHAR} <= SHOWN_OIDS
