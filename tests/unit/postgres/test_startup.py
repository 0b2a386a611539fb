"""Start-up packets: PostgreSQL's own strictness, and an allow-list of parameters."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.postgres.messages import ClientProtocolError
from sidegate.postgres.startup import (
    CANCEL_CODE,
    GSSENC_CODE,
    SSL_CODE,
    CancelRequest,
    GssEncRequest,
    SslRequest,
    StartupMessage,
    allowed_parameters,
    decode_startup_packet,
    encode_startup_message,
    encoding_of,
    packet_length,
)


def packet(code: int, body: bytes = b"") -> bytes:
    return struct.pack(">II", len(body) + 8, code) + body


def startup(*pairs: str, minor: int = 0, end: bytes = b"\0") -> StartupMessage:
    message = decode_startup_packet(packet(0x30000 | minor, b"".join(p.encode() + b"\0" for p in pairs) + end))
    assert isinstance(message, StartupMessage)
    return message


def test_reads_user_and_database() -> None:
    message = startup("user", "ada", "database", "shop")
    assert (message.user, message.database, message.minor) == ("ada", "shop", 0)
    assert not message.must_negotiate


def test_the_database_is_the_user_when_none_is_named() -> None:
    assert startup("user", "ada").database == "ada"


@pytest.mark.parametrize(("asked", "spoken"), [(0, 0), (1, 1), (2, 2), (3, 2), (9999, 2)])
def test_negotiates_down_to_the_newest_minor(asked: int, spoken: int) -> None:
    message = startup("user", "ada", minor=asked)
    assert spoken == message.minor
    assert (asked > 2) == message.must_negotiate


def test_unknown_protocol_options_are_negotiated_away_and_never_passed_on() -> None:
    message = startup("user", "ada", "_pq_.test", "1")
    assert message.unknown_options == ("_pq_.test",)
    assert allowed_parameters(message.parameters) == {}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"user\0ada\0",  # no terminator
        b"user\0ada\0\0x",  # bytes after it
        b"user\0ada\0database\0\0",  # a name without a value
        b"\0ada\0\0",  # a value without a name
        b"database\0shop\0\0",  # no user
        b"user\0ada\0user\0eve\0\0",  # twice
        b"user\0\xff\0\0",  # not UTF-8
    ],
)
def test_refuses_a_malformed_startup_message(body: bytes) -> None:
    with pytest.raises(ClientProtocolError):
        decode_startup_packet(packet(0x30000, body))


@pytest.mark.parametrize("code", [0x20000, 0x40000, 0, 0xFFFFFFFF, 80877105])
def test_refuses_another_protocol(code: int) -> None:
    with pytest.raises(ClientProtocolError):
        decode_startup_packet(packet(code, b"user\0ada\0\0"))


def test_encryption_requests_have_no_body() -> None:
    assert isinstance(decode_startup_packet(packet(SSL_CODE)), SslRequest)
    assert isinstance(decode_startup_packet(packet(GSSENC_CODE)), GssEncRequest)
    for code in (SSL_CODE, GSSENC_CODE):
        with pytest.raises(ClientProtocolError):
            decode_startup_packet(packet(code, b"x"))


@pytest.mark.parametrize("size", [4, 32, 256])
def test_reads_cancel_keys_of_every_length(size: int) -> None:
    key = bytes(range(size % 256)) + b"\0" * (size - size % 256)
    assert CancelRequest(7, key) == decode_startup_packet(packet(CANCEL_CODE, struct.pack(">I", 7) + key))


@pytest.mark.parametrize("body", [b"", b"\0\0\0\7", b"\0\0\0\7abc", b"x" * 261])
def test_refuses_a_cancel_without_a_whole_key(body: bytes) -> None:
    with pytest.raises(ClientProtocolError):
        decode_startup_packet(packet(CANCEL_CODE, body))


@pytest.mark.parametrize("length", [0, 7, 10_001, 0x7FFFFFFF, 0xFFFFFFFF])
def test_refuses_a_length_no_startup_packet_has(length: int) -> None:
    with pytest.raises(ClientProtocolError):
        packet_length(struct.pack(">I", length))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("role", "pg_monitor"),
        ("session_authorization", "postgres"),
        ("session_preload_libraries", "evil"),
        ("local_preload_libraries", "evil"),
        ("standard_conforming_strings", "off"),
        ("row_security", "off"),
        ("search_path", "evil, pg_catalog"),
        ("client_encoding", "EUC_JP"),
        ("client_encoding", "no_such"),
        ("options", "-c client_encoding=LATIN1"),
        ("options", "-c role=pg_monitor"),
        ("options", "-crole=pg_monitor"),
        ("options", "--role=pg_monitor"),
        ("options", "-c statement_timeout=5 -c role=x"),
        ("options", "-c statement\\_timeout=5"),
        ("options", "-f s"),
        ("options", "-c"),
        ("options", "-c statement_timeout"),
        ("Role", "pg_monitor"),
    ],
)
def test_refuses_parameters_outside_the_allow_list(name: str, value: str) -> None:
    with pytest.raises(ClientProtocolError) as refused:
        allowed_parameters({name: value})
    assert refused.value.way_forward


def test_passes_harmless_parameters_on() -> None:
    given_ = {
        "application_name": "psql",
        "DateStyle": "ISO",
        "client_encoding": "utf-8",
        "options": "-c statement_timeout=5s --lock-timeout=1s",
    }
    assert allowed_parameters(given_) == {
        "application_name": "psql",
        "DateStyle": "ISO",
        "statement_timeout": "5s",
        "lock_timeout": "1s",
    }


@pytest.mark.parametrize("value", ["LATIN1", "latin-1", "ISO-8859-1", "iso_8859_1"])
def test_an_encoding_that_the_gate_converts_is_the_gates_to_keep(value: str) -> None:
    assert allowed_parameters({"Client_Encoding": value}) == {}
    encoding = encoding_of({"application_name": "x", "Client_Encoding": value})
    assert encoding is not None
    assert encoding.name == "LATIN1"
    assert encoding_of({"client_encoding": "utf-8"}) is None


@pytest.mark.parametrize(
    ("value", "is_replication"),
    [("true", True), ("database", True), ("1", True), ("off", False), ("false", False), ("no", False)],
)
def test_tells_replication_from_its_words(value: str, is_replication: bool) -> None:
    assert is_replication == (startup("user", "a", "replication", value).replication is not None)


def test_long_names_are_cut_as_the_target_cuts_them() -> None:
    assert startup("user", "x" * 70).user == "x" * 63
    assert startup("user", "ä" * 40).user == "ä" * 31


@given(st.binary(max_size=120))
def test_any_packet_decodes_or_is_refused(body: bytes) -> None:
    for code in (0x30000, 0x30002, SSL_CODE, GSSENC_CODE, CANCEL_CODE):
        try:
            decode_startup_packet(packet(code, body))
        except ClientProtocolError as error:
            assert str(error)


def test_the_gates_own_startup_message_is_one_it_would_read() -> None:
    message = decode_startup_packet(encode_startup_message("gate", "shop", {"application_name": "x"}))
    assert isinstance(message, StartupMessage)
    assert (message.user, message.database, message.parameters) == (
        "gate",
        "shop",
        {"client_encoding": "UTF8", "application_name": "x"},
    )
