"""Stripe secret and restricted keys, live and test, and webhook signing secrets. Publishable keys (pk_) are made to be public."""

from __future__ import annotations

from typing import Final

from sidegate.mask.detect.detector import Detector, continues_word
from sidegate.mask.patterns import Span, compile_pattern, spans_of

PREFILTER: Final = (rb"[rs]k_(?:org_)?(?:live|test)_[0-9A-Za-z]{10}|whsec_[0-9A-Za-z+/]{16}",)

_key: Final = compile_pattern(rb"[rs]k_(?:org_)?(?:live|test)_[0-9A-Za-z]{10,}|whsec_[0-9A-Za-z+/]{16,}={0,2}")
_SHORTEST_GLUED: Final = 16


def _is_glued(key: bytes) -> bool:
    """What stands right before it is no part of a word that ends like a prefix (`task_live_`): what follows is no word either."""
    body = key.rpartition(b"_")[2]
    has_all = any(48 <= b <= 57 for b in body) and any(65 <= b <= 90 for b in body) and any(97 <= b <= 122 for b in body)
    return has_all and len(body) >= _SHORTEST_GLUED


def find(text: bytes) -> list[Span]:
    return [span for span in spans_of(_key, text) if not continues_word(text, span[0]) or _is_glued(text[span[0] : span[1]])]


DETECTOR: Final = Detector(
    name="stripe-key",
    finds="Stripe secret keys (sk_), restricted keys (rk_) and webhook secrets (whsec_)",
    proof="none: the prefix",
    leaves_out="publishable keys (pk_), which are public",
    prefilter=PREFILTER,
    find=find,
)
