from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.sql import canonical_tokens, fingerprint

PARTS = st.recursive(
    st.one_of(st.text(max_size=4), st.binary(max_size=4), st.none(), st.integers()),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
)


def test_parts_can_not_run_into_each_other() -> None:
    pairs = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        ("ab", "c", ""),
        ("ab", None, "c"),
        (b"ab", "c"),
        ("ab", ("c",)),
        ("ab", "c", None),
        (1, 2),
        (12,),
    ]
    assert len({fingerprint(*pair) for pair in pairs}) == len(pairs)


@given(st.lists(PARTS, max_size=4), st.lists(PARTS, max_size=4))
def test_fingerprints_are_equal_only_for_equal_parts(first: list[object], second: list[object]) -> None:
    same = repr(first) == repr(second)
    assert (fingerprint(*first) == fingerprint(*second)) is same  # type: ignore[arg-type]


def test_fingerprint_is_a_sha256_in_hexadecimal() -> None:
    assert len(fingerprint("x")) == 64
    assert int(fingerprint("\ud800"), 16) >= 0


SAME = [
    "DELETE FROM users WHERE id = 1",
    "delete  from USERS\nwhere ID=1;",
    "\tDELETE\n\nFROM users WHERE id=1 ;;",
]
OTHER = [
    "DELETE FROM users WHERE id = 2",
    'DELETE FROM "Users" WHERE id = 1',
    "DELETE FROM users WHERE id = '1'",
    "DELETE FROM users WHERE id = $1",
    "DELETE FROM users WHERE id = 1 -- as agreed",
    "DELETE FROM users -- as agreed\nWHERE id = 1",
    "DELETE FROM users -- as agreed WHERE id = 1",
    "DELETE FROM users /* As agreed */ WHERE id = 1",
    "DELETE FROM users /* as agreed */ WHERE id = 1",
    "DELETE FROM users WHERE name = 'A'",
    "DELETE FROM users WHERE name = 'a'",
    "DELETE FROM users WHERE name = 'a '",
    "DELETE FROM users WHERE name = '-- a'",
    'DELETE FROM users WHERE name = U&"a"',
    'DELETE FROM users WHERE name = U&"A"',
]


def test_canonical_tokens_are_the_same_however_they_are_laid_out() -> None:
    assert len({canonical_tokens(text) for text in SAME}) == 1


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations([SAME[0], *OTHER], 2)))
def test_canonical_tokens_keep_constants_quoted_names_and_comments(first: str, second: str) -> None:
    assert canonical_tokens(first) != canonical_tokens(second)


def test_canonical_tokens_of_what_has_no_tokens_are_the_text() -> None:
    assert canonical_tokens("SELECT 'unfinished") == ("SELECT 'unfinished",)
    assert canonical_tokens("SELECT 'é', Ä FROM T -- Z") == ("select", "'é'", ",", "Ä", "from", "t", "-- Z")
