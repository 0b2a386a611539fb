"""The hash chain: equal to its written definition, and broken by every change between its ends."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.audit.chain import GENESIS, ChainBreak, link, verify


def _chain(pieces: list[bytes]) -> list[tuple[bytes, bytes]]:
    previous, out = GENESIS, []
    for piece in pieces:
        previous = link(previous, piece)
        out.append((piece, previous))
    return out


def test_link_is_sha256_of_previous_length_and_bytes() -> None:
    assert hashlib.sha256(b"\x07" * 32 + (3).to_bytes(8, "big") + b"abc").digest() == link(b"\x07" * 32, b"abc")


def test_known_answer_of_the_documentation() -> None:
    assert link(GENESIS, b"").hex() == "2c34ce1df23b838c5abf2a7f6437cca3d3067ed509ff25f11df6b11b582b51eb"


def test_whole_chain_gives_its_last_link() -> None:
    pieces = _chain([b"a", b"", b"ccc"])
    assert pieces[-1][1] == verify(pieces)


def test_bytes_moved_between_neighbours_break_the_chain() -> None:
    pieces = _chain([b"ab", b"c"])
    found = verify([(b"a", pieces[0][1]), (b"bc", pieces[1][1])])
    assert isinstance(found, ChainBreak)
    assert found.index == 0


@given(st.lists(st.binary(max_size=20), min_size=2, max_size=8), st.data())
def test_removed_or_swapped_pieces_are_found(pieces: list[bytes], data: st.DataObject) -> None:
    chain = _chain(pieces)
    at = data.draw(st.integers(0, len(chain) - 2))
    assert verify(chain[:at] + chain[at + 1 :]) != chain[-1][1]
    assert isinstance(verify([*chain[:at], chain[at + 1], chain[at], *chain[at + 2 :]]), ChainBreak)


@pytest.mark.parametrize("which", ["data", "link"])
def test_a_flipped_bit_names_its_piece(which: str) -> None:
    chain = _chain([b"one", b"two", b"three"])
    data, tag = chain[1]
    chain[1] = (bytes([data[0] ^ 1]) + data[1:], tag) if which == "data" else (data, bytes([tag[0] ^ 1]) + tag[1:])
    found = verify(chain)
    assert isinstance(found, ChainBreak)
    assert found.index == 1
