"""The frame walk stops where it has to, whatever the buffer holds."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from sidegate.postgres.frames import count_run, frame_length, skip_run

ROW = ord("D")


def frame(code: bytes, body: bytes) -> bytes:
    return code + struct.pack(">I", len(body) + 4) + body


@given(st.lists(st.binary(max_size=40), max_size=20), st.binary(max_size=40), st.integers(0, 44))
def test_a_run_ends_at_the_last_whole_frame(bodies: list[bytes], last: bytes, cut: int) -> None:
    whole = b"".join(frame(b"D", body) for body in bodies)
    partial = frame(b"D", last)[: min(cut, len(last) + 4)]
    buffer = whole + partial
    assert len(whole) == skip_run(buffer, 0, len(buffer), ROW)
    assert len(bodies) == count_run(buffer, 0, len(whole))


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_a_run_ends_at_another_type(bodies: list[bytes]) -> None:
    whole = b"".join(frame(b"D", body) for body in bodies)
    buffer = whole + frame(b"C", b"SELECT 1\0") + frame(b"D", b"x")
    assert len(whole) == skip_run(buffer, 0, len(buffer), ROW)


@given(st.sampled_from([0, 1, 2, 3, 0x40000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
def test_a_run_ends_before_a_length_that_cannot_be(length: int) -> None:
    buffer = frame(b"D", b"ok") + b"D" + struct.pack(">I", length) + b"\0" * 100
    assert skip_run(buffer, 0, len(buffer), ROW) == 7


@given(st.binary(max_size=300), st.integers(0, 50))
def test_the_walk_never_leaves_the_buffer(buffer: bytes, start: int) -> None:
    start = min(start, len(buffer))
    assert start <= skip_run(buffer, start, len(buffer), ROW) <= len(buffer)
    assert count_run(buffer, start, len(buffer)) >= 0


def test_a_frame_knows_its_length() -> None:
    assert frame_length(b"xx" + frame(b"Q", b"abc"), 2) == 8
