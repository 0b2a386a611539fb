"""Stripe secret and restricted keys, live and test, and webhook signing secrets. Publishable keys (pk_) are made to be public."""

from __future__ import annotations

from typing import Final

from sidegate.mask.detect.detector import Detector, continues_word
from sidegate.mask.patterns import Span, compile_pattern, spans_of

PREFILTER: Final = (rb"[rs]k_(?:live|test)_[0-9A-Za-z]{10}|whsec_[0-9A-Za-z+/]{16}",)

_key: Final = compile_pattern(rb"[rs]k_(?:live|test)_[0-9A-Za-z]{10,}|whsec_[0-9A-Za-z+/]{16,}={0,2}")


def find(text: bytes) -> list[Span]:
    return [span for span in spans_of(_key, text) if not continues_word(text, span[0])]


DETECTOR: Final = Detector(
    name="stripe-key",
    finds="Stripe secret keys (sk_), restricted keys (rk_) and webhook secrets (whsec_)",
    proof="none: the prefix",
    leaves_out="publishable keys (pk_), which are public",
    prefilter=PREFILTER,
    find=find,
)
