"""Detectors find all that is planted, and take ordinary data for secrets no more often than the document says they do."""

from __future__ import annotations

import pytest

from sidegate.mask.detectors import DETECTOR_NAMES
from tools.detector_precision import PER_KIND, Measured, measure, ordinary, planted
from tools.ordinary_data import KINDS
from tools.planted_data import PLANTED

# False positives at most, in 100,000 ordinary values. Not among these detectors: none.
AT_MOST = {"payment-card": 160, "email": 200, "aws-access-key": 10}
# Of 100,000 values of one kind. Not among these: none.
OF_A_KIND = {
    (
        "payment-card",
        "16-digit numbers",
    ): 3_000,  # three in ten lie in an issuer's range, one in ten of them has a right check digit
    ("payment-card", "account numbers"): 1_000,
    ("payment-card", "identifiers"): 250,
    ("payment-card", "parcel numbers"): 150,
    ("payment-card", "order numbers"): 150,
    ("payment-card", "source code"): 100,
    ("payment-card", "amounts"): 50,
    ("email", "source code"): 5_500,  # matrix products, which one line in twenty of that code is
    ("aws-access-key", "base64 and base32"): 250,  # 30 random bytes
}


@pytest.fixture(scope="module")
def measured() -> dict[str, Measured]:
    return measure()


def test_every_detector_has_planted_values() -> None:
    assert frozenset(PLANTED) == DETECTOR_NAMES


@pytest.mark.parametrize("name", sorted(DETECTOR_NAMES))
def test_all_that_is_planted_is_found(measured: dict[str, Measured], name: str) -> None:
    assert measured[name].found == measured[name].planted


@pytest.mark.parametrize("name", sorted(DETECTOR_NAMES))
def test_ordinary_data_is_hardly_taken_for_secrets(measured: dict[str, Measured], name: str) -> None:
    each = measured[name]
    assert each.values >= 100_000
    assert each.per_100_000 <= AT_MOST.get(name, 0)
    for kind, count in each.by_kind.items():
        assert count * 100_000 / PER_KIND <= OF_A_KIND.get((name, kind), 0), kind


def test_the_data_are_the_same_each_time() -> None:
    assert ordinary("order numbers") == ordinary("order numbers")
    assert planted("iban") == planted("iban")
    assert len({tuple(ordinary(kind)[:50]) for kind in KINDS}) == len(KINDS)
