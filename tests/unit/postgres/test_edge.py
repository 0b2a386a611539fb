"""The client's edge: whatever bytes come, what gets behind it is whole messages in UTF-8 or nothing."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.postgres.edge import ClientEdge
from sidegate.postgres.encodings import ENCODINGS, Encoding, Untranslatable, find_encoding, is_utf8
from sidegate.postgres.messages import ClientProtocolError, decode_bind, decode_named, decode_parse, decode_query, frame
from tests.support.session import Bench

some_encoding = st.sampled_from(sorted(ENCODINGS.values(), key=lambda encoding: encoding.name))
client_code = st.sampled_from(b"QPBDCE")
SJIS = ENCODINGS["SJIS"]


def query(text: bytes) -> bytes:
    return frame(b"Q", text + b"\0")


@given(some_encoding, client_code, st.binary(max_size=60))
def test_whatever_comes_is_a_message_in_utf8_or_refused(encoding: Encoding, code: int, body: bytes) -> None:
    try:
        read = ClientEdge(encoding).from_client(code, frame(bytes([code]), body))
    except (Untranslatable, ClientProtocolError):
        return
    assert read[0] == code
    assert struct.unpack(">I", read[1:5])[0] == len(read) - 1
    if code in b"QDC":
        read[5 + (code in b"DC") :].decode("utf-8")  # the kind of a Describe or Close is judged by its decoder


@given(some_encoding, st.text(max_size=20).filter(lambda text: "\0" not in text), st.integers(0, 3))
def test_what_can_be_written_reads_back_as_it_was(encoding: Encoding, text: str, oids: int) -> None:
    try:
        written = encoding.from_utf8(text.encode())
        assert encoding.to_utf8(written) == text.encode() or encoding.name == "SJIS"  # its yen sign is a backslash
    except Untranslatable:
        return
    edge, expected = ClientEdge(encoding), encoding.to_utf8(written).decode()
    assert decode_query(edge.from_client(ord("Q"), query(written))[5:]) == expected
    tail = struct.pack(f">H{oids}I", oids, *([0xFFFFFFFE] * oids))
    parse = decode_parse(edge.from_client(ord("P"), frame(b"P", written + b"\0" + written + b"\0" + tail))[5:])
    assert (parse.name, parse.text, parse.parameter_oids) == (expected, expected, (0xFFFFFFFE,) * oids)
    assert decode_named(edge.from_client(ord("D"), frame(b"D", b"P" + written + b"\0"))[5:]).name == expected
    value = struct.pack(">I", len(written)) + written
    body = (
        written
        + b"\0"
        + written
        + b"\0"
        + struct.pack(">HHH", 1, 0, 3)
        + value
        + b"\xff\xff\xff\xff"
        + value
        + struct.pack(">HH", 1, 0)
    )
    bind = decode_bind(edge.from_client(ord("B"), frame(b"B", body))[5:])
    assert (bind.portal, bind.statement, bind.result_formats) == (expected, expected, (0,))
    assert bind.parameters == (expected.encode(), None, expected.encode())


@pytest.mark.parametrize(
    ("name", "found"), [("ISO 8859-1", "LATIN1"), ("Shift_JIS", None), ("shiftjis", "SJIS"), ("windows-1252", "WIN1252")]
)
def test_names_are_read_as_the_target_reads_them(name: str, found: str | None) -> None:
    encoding = find_encoding(name)
    assert (encoding.name if encoding else None) == (found or "SJIS")
    assert is_utf8("Utf-8")
    assert find_encoding("UTF8") is None
    assert find_encoding("EUC_JP") is None
    assert not is_utf8("EUC_JP")


def test_the_target_gets_the_very_statement_that_was_decided() -> None:
    bench = Bench()
    bench.session.edge = ClientEdge(SJIS)
    text = "SELECT '表' || 'x'"  # in SJIS there is a backslash's byte before the first closing quote
    assert b"\x95\\'" in text.encode("cp932")
    assert bench.client(query(text.encode("cp932"))) == [("Q", text.encode() + b"\0")]
    decided = [record for record in bench.records if "表".encode() in record.payload]
    assert decided


def test_the_target_is_never_told_another_encoding() -> None:
    bench = Bench()
    for name in ENCODINGS:
        [(kind, body)] = bench.client(query(f"SET client_encoding = '{name}'".encode()))
        assert kind == "Q"
        assert body.rstrip(b" \0") == b"SET client_encoding = 'UTF8'"
        said = bench.target(frame(b"C", b"SET\0"), frame(b"Z", b"I"))
        assert said[0] == ("S", f"client_encoding\0{name}\0".encode())
        assert bench.session.edge.name == name


def test_what_comes_behind_a_change_waits_until_it_is_known_how_to_read_it() -> None:
    bench = Bench()
    assert len(bench.client(query(b"SET client_encoding = 'SJIS'"), query(b"SELECT '\x95\\'"))) == 1
    bench.target(frame(b"C", b"SET\0"), frame(b"Z", b"I"))
    assert bench.sent() == [("Q", "SELECT '表'".encode() + b"\0")]
