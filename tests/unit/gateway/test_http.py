"""HTTP as a gate speaks it to the gateway: what it sends has the lines it should, what it reads is an answer or is refused."""

from __future__ import annotations

import pytest

from sidegate.gateway.http import (
    MAX_ANSWER_BYTES,
    MAX_HEAD_BYTES,
    AnswerError,
    AnswerHead,
    Place,
    PlaceError,
    checked_token,
    encode_request,
    parse_head,
    parse_place,
    path_of,
)

GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 12\r\nServer: x\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "parsed"),
    [
        (GOOD, AnswerHead(200, 12, "application/json")),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", AnswerHead(304, 0)),
        (b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n", AnswerHead(304, 0, is_last=True)),
        (b"HTTP/1.1 304 Not Modified\r\nconnection: x-y ,\tClose\r\n\r\n", AnswerHead(304, 0, is_last=True)),
        (b"HTTP/1.1 304 Not Modified\r\nConnection: closed\r\n\r\n", AnswerHead(304, 0)),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", AnswerHead(304, 0)),
        (b"HTTP/1.1 429 \r\ncontent-length:0\r\nRETRY-AFTER: \t7 \r\n\r\n", AnswerHead(429, 0, "", 7.0)),
        (b"HTTP/1.1 503 x\r\nContent-Length: 0\r\nRetry-After: Wed, 25 Nov 2026 09:00:00 GMT\r\n\r\n", AnswerHead(503, 0)),
    ],
)
def test_reads_an_answer(head: bytes, parsed: AnswerHead) -> None:
    assert parse_head(head) == parsed


@pytest.mark.parametrize(
    "head",
    [
        b"",
        GOOD[:-2],
        GOOD.replace(b"\r\n", b"\n"),
        GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"),
        GOOD.replace(b"HTTP/1.1", b"http/1.1"),
        GOOD.replace(b"200 OK", b"200OK"),
        GOOD.replace(b"200", b"099"),
        GOOD.replace(b"200", b"100"),
        GOOD.replace(b"200 OK", b"302 Found\r\nLocation: https://elsewhere"),
        GOOD.replace(b"200 OK", b"2\xb200 OK"),
        GOOD.replace(b"12", b""),
        GOOD.replace(b"12", b"+12"),
        GOOD.replace(b"12", b"-1"),
        GOOD.replace(b"12", b"0x12"),
        GOOD.replace(b"12", b"12, 12"),
        GOOD.replace(b"12", b"1 2"),
        GOOD.replace(b"12", str(MAX_ANSWER_BYTES + 1).encode()),
        GOOD.replace(b"12", b"9" * 30),
        GOOD.replace(b"Content-Length: 12\r\n", b""),
        GOOD.replace(b"Server: x", b"Content-Length: 12"),
        GOOD.replace(b"Server: x", b"Transfer-Encoding: chunked"),
        GOOD.replace(b"Server: x", b"transfer-encoding: identity"),
        GOOD.replace(b"Server: x", b"Content-Encoding: gzip"),
        GOOD.replace(b"Server: x", b"Server : x"),
        GOOD.replace(b"Server: x", b" folded"),
        GOOD.replace(b"Server: x", b"Server"),
        GOOD.replace(b"Server: x", b": x"),
        GOOD.replace(b"Server: x", b"Server: \x00"),
        GOOD.replace(b"Server: x", b"Server: a\rb"),
        GOOD.replace(b"Server: x", b"Server: " + b"x" * MAX_HEAD_BYTES),
    ],
)
def test_refuses_what_the_gateway_does_not_send(head: bytes) -> None:
    with pytest.raises(AnswerError):
        parse_head(head)


def test_a_request_has_these_lines_and_no_others() -> None:
    sent = encode_request("POST", "/v1/x", Place("gw.example", 8443), "a.b-c", b'{"a":1}')
    head, _, body = sent.partition(b"\r\n\r\n")
    assert body == b'{"a":1}'
    assert head.split(b"\r\n") == [
        b"POST /v1/x HTTP/1.1",
        b"Host: gw.example:8443",
        b"Authorization: Bearer a.b-c",
        b"Accept: application/json, application/problem+json",
        b"Connection: close",
        b"Content-Type: application/json",
        b"Content-Length: 7",
    ]
    assert b"Content-" not in encode_request("GET", "/", Place("gw.example", 443), "t", None)


def test_a_path_is_made_of_names_and_the_query_is_escaped() -> None:
    assert path_of("v1", "shop", "ar-1") == "/v1/shop/ar-1"
    assert (
        path_of("v1", wait=30, issuer="https://id/?a=b&c#d\r\n") == "/v1?wait=30&issuer=https%3A%2F%2Fid%2F%3Fa%3Db%26c%23d%0D%0A"
    )
    for bad in ("", "..", ".", "a/b", "a b", "a\r\nb", "ä", "%2e", "-a"):
        with pytest.raises(PlaceError):
            path_of("v1", bad)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://gw.example", Place("gw.example", 443)),
        ("https://gw.example:8443/", Place("gw.example", 8443)),
        ("https://127.0.0.1:1", Place("127.0.0.1", 1)),
        ("https://[::1]:8443", Place("::1", 8443)),
    ],
)
def test_a_place_is_an_https_url(url: str, place: Place) -> None:
    assert parse_place(url) == place
    assert str(parse_place(str(place))) == str(place)


@pytest.mark.parametrize(
    "url",
    ["", "http://gw.example", "gw.example", "https://", "https://u:p@gw", "https://gw/x", "https://gw?x", "https://gw#x",
     "https://gw\r\nX: y", "https://g w", "https://gw:0", "https://gw:99999", "https://gw:x", "https://-gw", "https://" + "a" * 600],
)  # fmt: skip
def test_anything_else_is_no_place(url: str) -> None:
    with pytest.raises(PlaceError) as caught:
        parse_place(url)
    assert caught.value.way_forward


def test_a_token_is_one_word() -> None:
    assert checked_token(b"abc.DEF-_~+/==\n") == "abc.DEF-_~+/=="
    for bad in (b"", b"\n", b"a b", b"a\r\nX: y", b"\xff", b"a\x00", b"a" * 20_000):
        with pytest.raises(PlaceError):
            checked_token(bad)
