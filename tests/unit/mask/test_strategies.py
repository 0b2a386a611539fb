"""Masked forms in text, and which strategy wins."""

from __future__ import annotations

import hashlib
import hmac
import re
from itertools import permutations

import pytest

from sidegate.mask.strategies import FIXED, REDACTED, masked_value, strategy_of, strictest
from sidegate.policy.decision import KEYED, MaskStrategy

KEY = b"k" * 32


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        (b"4242 4242 4242 4242", b"**** **** **** 4242"),
        (b"583-68-2629", b"***-**-2629"),
        (b"john@example.com", b"****@******e.com"),
        (b"1234567", REDACTED),  # seven would show more than half
        (b"12345678", b"****5678"),
        ("ＡＢＣＤ５６７８".encode(), "****５６７８".encode()),
        (b"", REDACTED),
        (b"\xff\xfe12345678", REDACTED),
        (b'12"34(56{78', b"**" + b"*" + b"**" + b"*" + b"56" + b"*" + b"78"),
    ],
)
def test_partial_keeps_the_last_four_and_the_separators(value: bytes, masked: bytes) -> None:
    assert masked_value(value, MaskStrategy.PARTIAL) == masked


def test_hash_is_keyed_and_equal_for_equal_values() -> None:
    first, again, other = (masked_value(value, MaskStrategy.HASH, KEY) for value in (b"a", b"a", b"b"))
    assert first == again != other
    assert first == b"masked:" + hmac.new(KEY, b"a", hashlib.sha256).hexdigest()[:16].encode()
    assert masked_value(b"a", MaskStrategy.HASH, b"z" * 32) != first


def test_hash_without_a_key_redacts() -> None:
    assert masked_value(b"a", MaskStrategy.HASH) == REDACTED
    assert masked_value(b"a", MaskStrategy.HASH, b"") == REDACTED


def test_other_strategies() -> None:
    assert masked_value(b"abc", MaskStrategy.REDACT) == REDACTED
    assert masked_value(b"abc", MaskStrategy.FIXED_LENGTH) == FIXED
    assert masked_value(b"abc", MaskStrategy.NULL) is None


def test_the_strictest_strategy_wins_in_any_order() -> None:
    order = [
        MaskStrategy.NULL,
        MaskStrategy.REDACT,
        MaskStrategy.FIXED_LENGTH,
        MaskStrategy.HASH,
        MaskStrategy.PSEUDONYM,
        MaskStrategy.PARTIAL,
    ]
    assert set(order) == set(MaskStrategy)
    for size in range(1, 7):
        for chosen in permutations(order, size):
            assert strictest(chosen) is min(chosen, key=order.index)


def test_a_pseudonym_has_the_form_of_its_value_and_needs_a_key() -> None:
    shown = masked_value(b"583-68-2629", MaskStrategy.PSEUDONYM, KEY)
    assert shown is not None
    assert re.fullmatch(rb"\d{3}-\d{2}-\d{4}", shown)
    assert shown == masked_value(b"583-68-2629", MaskStrategy.PSEUDONYM, KEY)
    assert shown != masked_value(b"583-68-2629", MaskStrategy.PSEUDONYM, b"z" * 32)
    assert masked_value(b"583-68-2629", MaskStrategy.PSEUDONYM) == REDACTED
    assert masked_value(b"x" * 5000, MaskStrategy.PSEUDONYM, KEY) == REDACTED


@pytest.mark.parametrize("strategy", sorted(KEYED))
def test_what_a_client_may_have_chosen_is_redacted_where_a_keyed_strategy_would_tell(strategy: MaskStrategy) -> None:
    assert strategy_of([strategy], is_own=True) is strategy
    assert strategy_of([strategy], is_own=False) is MaskStrategy.REDACT
    assert strategy_of([strategy, MaskStrategy.NULL], is_own=False) is MaskStrategy.NULL
    assert strategy_of([MaskStrategy.PARTIAL], is_own=False) is MaskStrategy.PARTIAL
