"""The codec decodes what PostgreSQL's documentation says, and nothing that has a byte too many or too few."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.postgres.messages import (
    Bind,
    ClientProtocolError,
    Execute,
    Named,
    Parse,
    TargetProtocolError,
    decode_bind,
    decode_data_row,
    decode_execute,
    decode_fields,
    decode_named,
    decode_parse,
    decode_query,
    encode_bind,
    encode_close,
    encode_describe,
    encode_execute,
    encode_fields,
    encode_negotiate_protocol_version,
    encode_parse,
    encode_query,
    encode_rows,
    rows_of_tag,
)

FIELDS: dict[type, tuple[str, ...]] = {
    Parse: ("name", "text", "parameter_oids"),
    Bind: ("portal", "statement", "parameter_formats", "parameters", "result_formats"),
    Execute: ("portal", "max_rows"),
    Named: ("kind", "name"),
}


def told(value: object) -> object:
    """A decoded message by its fields; anything else is what it is."""
    return type(value), [getattr(value, name) for name in FIELDS[type(value)]] if type(value) in FIELDS else value


GOOD: list[tuple[Callable[[bytes], object], bytes, object]] = [
    (decode_query, b"select 1\0", "select 1"),
    (decode_parse, b"s\0select $1\0\0\x01\0\0\0\x17", Parse("s", "select $1", (23,))),
    (decode_bind, b"p\0s\0\0\0\0\x01\0\0\0\x02hi\0\0", Bind("p", "s", (), (b"hi",), ())),
    (decode_bind, b"\0\0\0\x01\0\x01\0\x01\xff\xff\xff\xff\0\x01\0\x01", Bind("", "", (1,), (None,), (1,))),
    (decode_execute, b"p\0\0\0\0\x05", Execute("p", 5)),
    (decode_named, b"Sname\0", Named("S", "name")),
    (decode_data_row, b"\0\x02\0\0\0\x01a\xff\xff\xff\xff", (b"a", None)),
    (decode_fields, b"SERROR\0C42501\0\0", {"S": "ERROR", "C": "42501"}),
]


@pytest.mark.parametrize(("decode", "body", "value"), GOOD)
def test_decodes_each_message(decode: Callable[[bytes], object], body: bytes, value: object) -> None:
    assert told(value) == told(decode(body))


@pytest.mark.parametrize(("decode", "body", "value"), GOOD)
def test_refuses_a_trailing_byte(decode: Callable[[bytes], object], body: bytes, value: object) -> None:
    with pytest.raises((ClientProtocolError, TargetProtocolError)):
        decode(body + b"x")


@pytest.mark.parametrize(("decode", "body", "value"), GOOD)
def test_refuses_a_message_cut_at_any_offset(decode: Callable[[bytes], object], body: bytes, value: object) -> None:
    for length in range(len(body)):
        with pytest.raises((ClientProtocolError, TargetProtocolError)):
            decode(body[:length])


@pytest.mark.parametrize(
    "body",
    [
        b"p\0s\0\0\x01\0\x02\0\x00\0\0",  # parameter format 2
        b"p\0s\0\0\0\0\0\0\x01\0\x02",  # result format 2
        b"p\0s\0\0\x02\0\0\0\0\0\x01\0\0\0\0\0\0",  # two formats, one parameter
        b"p\0s\0\0\0\0\x01\xff\xff\xff\xfe\0\0",  # a length of -2
        b"p\0s\0\0\0\0\x01\x7f\xff\xff\xffx\0\0",  # a length past the end
    ],
)
def test_refuses_a_malformed_bind(body: bytes) -> None:
    with pytest.raises(ClientProtocolError):
        decode_bind(body)


def test_refuses_text_that_is_not_utf8() -> None:
    with pytest.raises(ClientProtocolError, match="UTF-8"):
        decode_query(b"select '\xff'\0")


def test_refuses_a_describe_of_neither_statement_nor_portal() -> None:
    with pytest.raises(ClientProtocolError):
        decode_named(b"Xname\0")


@pytest.mark.parametrize(
    ("tag", "rows"),
    [("DELETE 5", 5), ("INSERT 0 12", 12), ("SELECT 0", 0), ("BEGIN", 0), ("CREATE TABLE", 0), ("", 0), ("COPY ²", 0)],
)
def test_reads_the_row_count_of_a_command_tag(tag: str, rows: int) -> None:
    assert rows == rows_of_tag(tag)


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))),
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))),
)
def test_what_the_gate_encodes_is_what_it_decodes(name: str, text: str) -> None:
    assert text == decode_query(encode_query(text)[5:])
    assert told(Parse(name, text, ())) == told(decode_parse(encode_parse(name, text)[5:]))
    assert told(Bind(name, text, (), (), ())) == told(decode_bind(encode_bind(name, text)[5:]))
    assert told(Execute(name, 0)) == told(decode_execute(encode_execute(name)[5:]))
    assert told(Named("S", name)) == told(decode_named(encode_describe("S", name)[5:]))
    assert told(Named("P", name)) == told(decode_named(encode_close("P", name)[5:]))


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(body: bytes) -> None:
    for decode in (decode_query, decode_parse, decode_bind, decode_execute, decode_named, decode_data_row, decode_fields):
        try:
            decode(body)
        except (ClientProtocolError, TargetProtocolError) as error:
            assert str(error)


def test_a_zero_byte_in_an_error_text_cannot_end_its_field() -> None:
    message = encode_fields(b"E", {"M": "a\0Cinjected", "C": "42501"})
    assert decode_fields(message[5:]) == {"M": "aCinjected", "C": "42501"}


def test_negotiation_names_the_newest_version_and_the_unknown_options() -> None:
    message = encode_negotiate_protocol_version(2, ["_pq_.x"])
    assert b"v" + struct.pack(">III", 4 + 8 + 7, 0x00030002, 1) + b"_pq_.x\0" == message


@given(st.lists(st.lists(st.none() | st.binary(max_size=20), min_size=2, max_size=2), max_size=5))
def test_rows_decode_as_encoded(rows: list[list[bytes | None]]) -> None:
    data = encode_rows(rows)
    for row in rows:
        length = 1 + int.from_bytes(data[1:5], "big")
        assert tuple(row) == decode_data_row(data[5:length])
        data = data[length:]
    assert not data
