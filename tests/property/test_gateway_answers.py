"""What comes from the gateway's side of a connection: read alike however it is cut, refused without another error, never more than the limits."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.gateway.http import MAX_ANSWER_BYTES, AnswerError, AnswerHead, parse_head

PIECES = st.sampled_from(
    [b"HTTP/1.1 ", b"200 OK", b"304 x", b"500 ", b"\r\n", b"\n", b"\r", b": ", b":", b" ", b"\t", b"Content-Length", b"content-length: 3",
     b"Content-Type: application/json", b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", b"Retry-After: 5", b"0", b"1048577", b"\x00", b"\xff"]
)  # fmt: skip


@given(st.one_of(st.binary(max_size=300), st.lists(PIECES, max_size=24).map(b"".join)).map(lambda head: head + b"\r\n\r\n"))
@settings(max_examples=500)
def test_any_head_is_read_within_limits_or_refused(head: bytes) -> None:
    try:
        read = parse_head(head)
    except AnswerError:
        return
    assert 0 <= read.length <= MAX_ANSWER_BYTES
    assert read.status == 304 or 200 <= read.status < 300 or 400 <= read.status < 600
    assert b"transfer-encoding" not in head.lower()
    assert head.lower().count(b"content-length") == (read.status != 304) or read.status == 304


@given(st.integers(0, 40).map(lambda size: b"x" * size), st.data())
@settings(max_examples=100)
def test_how_an_answer_is_cut_changes_nothing(body: bytes, data: st.DataObject) -> None:
    whole = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    async def read() -> tuple[AnswerHead, bytes]:
        reader = asyncio.StreamReader(limit=1024)
        for part in parts:
            if part:
                reader.feed_data(part)
        reader.feed_eof()
        head = parse_head(await reader.readuntil(b"\r\n\r\n"))
        return head, await reader.readexactly(head.length)

    assert asyncio.run(read()) == (AnswerHead(200, len(body)), body)
