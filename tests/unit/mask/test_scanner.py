"""The scanner: strategies and sources of what is found, overlaps, sharing, and that it stays linear."""

from __future__ import annotations

import pytest

from sidegate.mask.detectors import DETECTOR_NAMES
from sidegate.mask.scanner import Scanner, UnknownDetectorError
from sidegate.mask.strategies import REDACTED
from sidegate.policy.decision import MaskStrategy, ValueMask
from sidegate.policy.source import PolicyRule

CARD = b"4242424242424242"


def mask(*names: str, strategy: MaskStrategy = MaskStrategy.REDACT, rule: str = "rule") -> ValueMask:
    return ValueMask(frozenset(names), strategy, PolicyRule("ns", "policy", rule))


def test_equal_masks_share_one_scanner() -> None:
    assert Scanner.of((mask("email"),)) is Scanner.of((mask("email"),))
    hashing = (mask("email", strategy=MaskStrategy.HASH),)
    assert Scanner.of((mask("email"),), b"key") is Scanner.of((mask("email"),), b"other")  # no use is made of the key
    assert Scanner.of(hashing, b"key") is not Scanner.of(hashing, b"other")
    assert Scanner.of(hashing, b"key").mask(b"a@example.com") != Scanner.of(hashing, b"other").mask(b"a@example.com")


def test_no_masks_find_nothing() -> None:
    scanner = Scanner.of(())
    assert not scanner.may_contain(CARD)
    assert not scanner.may_contain("４".encode())
    assert scanner.mask(CARD) is None


def test_an_unknown_detector_is_an_error_never_ignored() -> None:
    with pytest.raises(UnknownDetectorError, match="`creditcard` in ns/policy#rule") as caught:
        Scanner((mask("email", "creditcard"),))
    assert "detectors.md" in caught.value.way_forward


def test_the_strictest_of_several_masks_wins_with_its_source() -> None:
    lenient = mask("payment-card", strategy=MaskStrategy.PARTIAL, rule="lenient")
    strict = mask("payment-card", strategy=MaskStrategy.FIXED_LENGTH, rule="strict")
    for masks in ((lenient, strict), (strict, lenient)):
        scanner = Scanner(masks)
        assert scanner.mask(b"x " + CARD) == b"x ********"
        assert [span.source.rule for span in scanner.find(CARD)] == ["strict"]


def test_overlapping_finds_become_one_span_with_the_strictest_strategy() -> None:
    token = b"ghp_66m4xR95mJ6wXMyXV4rh75V7KXPqn6Vsmh9S@github.com"
    scanner = Scanner((mask("email", strategy=MaskStrategy.PARTIAL, rule="a"), mask("github-token", rule="b")))
    spans = scanner.find(b"https://" + token + b"/x")
    assert [(span.start, span.end, span.strategy, span.source.rule) for span in spans] == [
        (8, 8 + len(token), MaskStrategy.REDACT, "b")
    ]


def test_null_inside_a_text_is_redacted() -> None:
    assert Scanner((mask("payment-card", strategy=MaskStrategy.NULL),)).mask(b"<" + CARD + b">") == b"<" + REDACTED + b">"


def test_partial_keeps_separators_and_last_four() -> None:
    scanner = Scanner((mask("payment-card", strategy=MaskStrategy.PARTIAL),))
    assert scanner.mask(b"paid 4242-4242-4242-4242") == b"paid ****-****-****-4242"


def test_partial_of_an_escaped_value_is_redacted() -> None:
    scanner = Scanner((mask("payment-card", strategy=MaskStrategy.PARTIAL),))
    assert scanner.mask(rb'{"a":"\u0034242424242424242"}') == b'{"a":"[masked]"}'


def test_hash_tells_equal_values() -> None:
    scanner = Scanner((mask("email", strategy=MaskStrategy.HASH),), b"key")
    masked = scanner.mask(b"a@example.com b@example.com a@example.com")
    assert masked is not None
    first, second, third = masked.split()
    assert first == third != second
    assert first.startswith(b"masked:")


def test_never_cuts_an_escape_in_half() -> None:
    scanner = Scanner((mask(*DETECTOR_NAMES),))
    assert scanner.mask(rb'"a\njohn@example.com"') == b'"a[masked]"'
    assert scanner.mask(rb'"john@example.com\n"') == rb'"[masked]\n"'


def test_finds_all_of_many_values_in_one_text() -> None:
    scanner = Scanner((mask(*DETECTOR_NAMES),))
    masked = scanner.mask(b"4242 4242 4242 4242, 583-68-2629; DE89370400440532013000 a@example.com " + CARD)
    assert masked == b"[masked], [masked]; [masked] [masked] [masked]"


@pytest.mark.parametrize(
    "piece",
    [
        b"4",
        b"4 ",
        b"42 ",
        b"123-45-",
        b"\\",
        b"\\u003",
        b"eyey",
        b"a.",
        b"a@",
        b"a@b.",
        b"DE89",
        b"-----BEGIN ",
        b'"',
        b"\xef\xbc\x94",
        b"ssn ",
    ],
    ids=repr,
)
def test_hostile_values_of_a_megabyte_are_looked_at_in_linear_time(piece: bytes) -> None:
    """Quadratic work on a megabyte would take minutes and meet the test's time limit."""
    scanner = Scanner.of((mask(*DETECTOR_NAMES),))
    data = piece * (1_000_000 // len(piece))
    assert len(scanner.find(data)) <= 1
